// SPDX-License-Identifier: Apache-2.0

package client

import "github.com/conclave-mls/conclave/core"

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
