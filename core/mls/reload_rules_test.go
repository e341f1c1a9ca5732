// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core/mls"
)

// stateOf is what can be asked of a group.
func stateOf(t *testing.T, m *member, g *mls.Group) string {
	t.Helper()
	exported, err := g.Export("label", []byte("context"), 32)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := g.RatchetTree(t.Context(), m.env())
	if err != nil {
		t.Fatal(err)
	}
	updates, err := mls.WaitingUpdates(t.Context(), m.env(), g)
	if err != nil {
		t.Fatal(err)
	}
	s := fmt.Sprintf("%d %d %x %x %x %x %d updates", g.Epoch(), g.OwnLeaf(), g.EpochAuthenticator(), g.ConfirmationTag(), exported.Bytes(), tree, updates)
	for epoch := range g.Epoch() + 1 {
		psk, ok := g.ResumptionPSK(epoch)
		s += fmt.Sprintf(" %v %x", ok, psk.Bytes())
	}
	for p, err := range g.PendingProposals(t.Context(), m.env()) {
		if err != nil {
			t.Fatal(err)
		}
		s += fmt.Sprintf(" %x %+v %x", []byte(p.Ref), p.Sender, mls.MarshalProposal(p.Proposal))
	}
	return s
}

// openmls#1646, openmls#1871, openmls#1641: after each operation, the group that is
// loaded from the store is the one that the operation returned: it says the same, takes
// the same messages and refuses the same.
func TestLoadedIsWhatWasReturned(t *testing.T) {
	t.Parallel()
	for _, handshake := range []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate} {
		config := mls.DefaultConfig
		config.Handshake, config.SendWithProposals = handshake, true
		alice, bob, mallory, all := threesome(t, config, nil)
		zoe, yves := newMember(t, 1, "zoe", config), newMember(t, 1, "yves", config)
		for _, m := range append(all, zoe, yves) {
			m.g()
			m.reload = false
		}
		var seen [][]byte
		check := func(what string) {
			t.Helper()
			text, err := mallory.send(what)
			if err != nil {
				t.Fatal(err)
			}
			seen = append(seen, text)
			for _, m := range all {
				loaded, err := mls.Load(provider, m.stored[mls.RecordHeader][0].Value)
				if err != nil {
					t.Fatal(err)
				}
				if want, got := stateOf(t, m, m.group), stateOf(t, m, loaded); got != want {
					t.Fatalf("%s, %s: loaded:\n%s\nreturned:\n%s", what, m.name, got, want)
				}
				for _, message := range seen[max(0, len(seen)-6):] {
					parsed, err := mls.UnmarshalMLSMessage(message)
					if err != nil {
						t.Fatal(err)
					}
					_, _, _, want := m.group.Process(t.Context(), m.env(), parsed)
					if _, _, _, err := loaded.Process(t.Context(), m.env(), parsed); fmt.Sprint(err) != fmt.Sprint(want) {
						t.Errorf("%s, %s: loaded: %v, returned: %v", what, m.name, err, want)
					}
				}
			}
		}
		send := func(m *member) {
			t.Helper()
			message, err := m.send("text")
			if err != nil {
				t.Fatal(err)
			}
			all.deliver(t, m, message)
			seen = append(seen, message)
		}
		for range 2 {
			check("at the beginning")
			send(alice)
			check("after a text")
			send(bob)
			message, err := bob.proposeUpdate(mls.LeafParams{SignatureKey: bob.newSigner()})
			if err != nil {
				t.Fatal(err)
			}
			check("after an own proposal")
			all.deliver(t, bob, message)
			seen = append(seen, message)
			check("after a proposal")
			psk := alice.g().NewResumptionPSK(alice.g().Epoch())
			if _, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{psk}}); err != nil {
				t.Fatal(err)
			}
			check("after a commit that waits")
			alice.discard()
			check("after one that was dropped")
			b, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{psk}})
			if err != nil {
				t.Fatal(err)
			}
			all.deliver(t, alice, b.Commit)
			check("after a commit")
			alice.merge()
			seen = append(seen, b.Commit)
			check("after a merge")
			all.agree(t)
			send(bob)
		}
		all.deliver(t, nil, externally(t, zoe, alice))
		all = append(all, zoe)
		check("after an external commit")
		all = all.commitAll(t, zoe, mls.CommitParams{Proposals: []mls.Proposal{adding(yves), &mls.Remove{Removed: alice.g().OwnLeaf()}}}, yves)
		check("after a join and a removal")
	}
}
