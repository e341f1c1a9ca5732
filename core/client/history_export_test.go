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

// ProposeHistory proposes a history client, which a member does who wants to read on.
func ProposeHistory(ctx context.Context, c *Conversation) error {
	_, err := c.propose(ctx, func(h *held) (mls.Proposal, error) {
		suite, err := c.tx.client.suites.Suite(h.group.Suite())
		if err != nil {
			return nil, err
		}
		_, k, err := c.tx.client.historyClient(ctx, suite, newHistoryID(), mls.DefaultCapabilities(c.tx.client.suites.Suites()))
		return &mls.Add{KeyPackage: k}, err
	})
	return err
}
