// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"testing"

	"github.com/conclave-mls/conclave/core/mls"
)

// COM-4: a member learns that it is removed though it has missed other proposals of
// the commit, which change the tree that the path is for.
func TestRemovedWithoutTheOtherProposals(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	update, err := bob.proposeUpdate(mls.LeafParams{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alice.process(update); err != nil {
		t.Fatal(err)
	}
	b, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: mallory.g().OwnLeaf()}}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := mallory.process(b.Commit)
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := got.(*mls.ReceivedCommit); !ok || !r.SelfRemoved || mallory.g().Active() {
		t.Errorf("got %+v", got)
	}
}
