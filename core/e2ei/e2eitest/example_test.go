// SPDX-License-Identifier: Apache-2.0

package e2eitest_test

import (
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei/e2eitest"
	"github.com/conclave-mls/conclave/providers/pure"
)

// Somebody enrols.
func Example() {
	test := func(t *testing.T) {
		peer := e2eitest.Start(t)
		alice := peer.Person(t)
		key, err := pure.New().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{1}, Algorithm: core.Ed25519, Use: core.UseSign})
		if err != nil {
			t.Fatal(err)
		}
		session, err := peer.Enroll(alice, key.(core.Signer), time.Hour, peer.Environment(t, time.Now()).VerifyIssued)
		if err == nil {
			err = session.Run(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("a chain of %d certificates", len(session.Issued.Credential.Certificates))
	}
	_ = test // go test runs it as TestEnrol(t *testing.T)
}
