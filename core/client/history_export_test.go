// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// HistoryTable is where an era is kept that has not begun.
const HistoryTable = tableHistory

// PackAgain reads a history secret and encodes what it says.
func PackAgain(suites core.SuiteSource, data []byte) ([]byte, error) {
	b, err := openHistory(suites, data)
	if err != nil {
		return nil, err
	}
	suite, err := suites.Suite(b.KeyPackage.Suite)
	if err != nil {
		return nil, err
	}
	return packHistory(suite, b).Bytes(), nil
}

// ForgeHistory makes a history secret for an id that is not ours to give.
func ForgeHistory(ctx context.Context, c *Client, id core.ClientID, suite core.SuiteID) (HistorySecret, error) {
	s, err := c.suites.Suite(suite)
	if err != nil {
		return HistorySecret{}, err
	}
	secret, _, err := c.historyClient(ctx, s, id, mls.DefaultCapabilities([]core.SuiteID{suite}))
	return secret, err
}
