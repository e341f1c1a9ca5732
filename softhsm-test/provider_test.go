// SPDX-License-Identifier: Apache-2.0

package softhsmtest_test

import (
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/hsm"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

func open(t testing.TB, uri string) *hsm.Token {
	t.Helper()
	token, err := hsm.Open(t.Context(), hsm.Config{URI: uri, Latch: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	return token
}

// TestProvider: the conformance suite of crypto providers on each token.
func TestProvider(t *testing.T) {
	for name, bringUp := range map[string]func(testing.TB) *softhsmtest.Token{
		"SoftHSM": softhsmtest.New, "NSS": softhsmtest.NSS, "p11-kit": softhsmtest.P11Kit,
	} {
		t.Run(name, func(t *testing.T) {
			k := bringUp(t)
			algs, err := open(t, k.URI()).Provider().Algorithms(t.Context())
			t.Log(algs, err)
			coretest.TestCryptoProvider(t, func(t *testing.T) core.CryptoProvider { return open(t, k.URI()).Provider() })
		})
	}
}
