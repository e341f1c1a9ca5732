// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"testing"

	"github.com/conclave-mls/conclave/core/mls"
)

// COM-4: a member learns that it is removed though it has missed another proposal
// of the commit: an Update changes the tree that the path is for, and without a
// Remove an Add seems to be of a client that is there already.
func TestRemovedWithoutTheOtherProposals(t *testing.T) {
	t.Parallel()
	for what, propose := range map[string]func(bob *member) ([]byte, []mls.Proposal, error){
		"update": func(bob *member) ([]byte, []mls.Proposal, error) {
			message, err := bob.proposeUpdate(mls.LeafParams{})
			return message, nil, err
		},
		"remove": func(bob *member) ([]byte, []mls.Proposal, error) {
			message, err := bob.propose(&mls.Remove{Removed: bob.g().OwnLeaf()})
			return message, []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}, err
		},
	} {
		alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
		message, more, err := propose(bob)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := alice.process(message); err != nil {
			t.Fatal(err)
		}
		b, err := alice.commit(mls.CommitParams{Proposals: append(more, &mls.Remove{Removed: mallory.g().OwnLeaf()})})
		if err != nil {
			t.Fatal(err)
		}
		got, err := mallory.process(b.Commit)
		if r, ok := got.(*mls.ReceivedCommit); err != nil || !ok || !r.SelfRemoved || mallory.g().Active() {
			t.Errorf("%s: got %+v, %v", what, got, err)
		}
	}
}
