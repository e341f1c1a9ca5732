// SPDX-License-Identifier: Apache-2.0

package e2ei_test

import (
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei/e2eitest"
	"github.com/conclave-mls/conclave/providers/pure"
)

// Enrolments, refusals and revocations at a real server, with keys in memory. Those in a token
// are in softhsm-test.
func TestPeer(t *testing.T) {
	e2eitest.Checks(t, func(t testing.TB, algorithm core.KeyAlgorithm) core.Signer {
		key, err := pure.New().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{1}, Algorithm: algorithm, Use: core.UseSign})
		if err != nil {
			t.Fatal(err)
		}
		return key.(core.Signer)
	})
}
