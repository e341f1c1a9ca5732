// SPDX-License-Identifier: Apache-2.0

package pure_test

import (
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/providers/pure"
)

// CS-1, CS-5, libcrux/x25519: keys and signatures have the encodings of RFC 9420,
// and material of another form is refused.
func TestCryptoProvider(t *testing.T) {
	coretest.TestCryptoProvider(t, func(*testing.T) core.CryptoProvider { return pure.New() })
}

// CS-1, CS-2, CS-3, CS-4, CS-5, hpke-rs/zero-secret, hpke-rs/export-length, libcrux/x25519:
// public keys, signatures and private keys that are none are refused, as are outputs that are too long.
func TestSuiteSource(t *testing.T) {
	coretest.TestSuiteSource(t, func(*testing.T) core.SuiteSource { return pure.New() })
}
