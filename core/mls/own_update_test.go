// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// PRP-3, LEAF-7: what another member proposes cannot keep us from committing
// because of an Update that we have proposed before: it is left out.
func TestOwnUpdateThatDoesNotFit(t *testing.T) {
	t.Parallel()
	alice, bob, _, _ := threesome(t, mls.DefaultConfig, nil)
	plain := mls.DefaultCapabilities(provider.Suites())
	plain.Credentials = []core.CredentialType{core.CredentialBasic}
	if _, err := alice.proposeUpdate(mls.LeafParams{Capabilities: &plain}); err != nil {
		t.Fatal(err)
	}
	required := mls.RequiredCapabilities{Credentials: []core.CredentialType{core.CredentialX509}}.Extension()
	message, err := bob.propose(&mls.GroupContextExtensions{Extensions: mls.Extensions{required}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alice.process(message); err != nil {
		t.Fatal(err)
	}
	b, err := alice.commit(mls.CommitParams{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bob.process(b.Commit); err != nil {
		t.Fatal(err)
	}
	alice.merge()
	party{alice, bob}.agree(t)
	if len(bob.g().Extensions()) != 1 {
		t.Error("the proposal of bob was not committed")
	}
}
