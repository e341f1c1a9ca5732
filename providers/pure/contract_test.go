// SPDX-License-Identifier: Apache-2.0

package pure_test

import (
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/providers/pure"
)

func TestCryptoProvider(t *testing.T) {
	coretest.TestCryptoProvider(t, func(*testing.T) core.CryptoProvider { return pure.New() })
}

func TestSuiteSource(t *testing.T) {
	coretest.TestSuiteSource(t, func(*testing.T) core.SuiteSource { return pure.New() })
}
