// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"context"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// RE-1: in the epoch that a ReInit has begun nothing is taken, though a member who does
// not keep the rules could make it; what was said before it still opens.
func TestAfterReInit(t *testing.T) {
	t.Parallel()
	for _, wire := range bothWires {
		config := anyWire
		config.Handshake = mls.HandshakePolicy(wire)
		alice, bob, mallory, all := threesome(t, config, nil)
		text, err := mallory.send("before the end")
		if err != nil {
			t.Fatal(err)
		}
		b, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.ReInit{GroupID: []byte("next"), Version: mls.MLS10, Suite: 1}}})
		if err != nil {
			t.Fatal(err)
		}
		all.deliver(t, alice, b.Commit)
		result := alice.merge()
		if r := bob.g().ReInit(); r == nil || string(r.GroupID) != "next" || result.ReInit == nil || bob.g().Active() {
			t.Errorf("%+v", r)
		}
		before := bob.stored.dump()
		for what, content := range map[string]func(*mls.FramedContent){
			"a commit": committing(&mls.Commit{Proposals: []mls.ProposalOrRef{{Proposal: mallory.g().NewResumptionPSK(1)}}}),
			"proposal": proposing(&mls.Remove{Removed: 0}),
			"a text":   saying("after the end"),
		} {
			if what == "a text" && wire == mls.WirePublicMessage {
				continue
			}
			if _, err := bob.process(mallory.forge(mls.Forgery{Wire: wire, Content: content})); !errors.Is(err, mls.ErrInactive) || bob.stored.dump() != before {
				t.Errorf("wire %d, %s: %v", wire, what, err)
			}
		}
		if r, err := bob.process(text); err != nil || string(r.(*mls.ApplicationMessage).Data) != "before the end" {
			t.Errorf("wire %d, %+v, %v", wire, r, err)
		}
	}
}

// RE-2, RE-5: what ties a successor to its group is the resumption PSK of the usage, of
// the group's id and of its last epoch, for a branch of the current one, with a fresh
// nonce of the new suite's length.
func TestPSKOfSuccessor(t *testing.T) {
	t.Parallel()
	_, bob, mallory := reinitialized(t, mls.DefaultConfig, mls.ReInit{GroupID: []byte("next"), Version: mls.MLS10, Suite: 7})
	_, active, other, _ := threesome(t, mls.DefaultConfig, nil)
	nonces := map[string]bool{}
	for range 2 {
		for _, c := range []struct {
			usage  mls.ResumptionUsage
			before *member
			epoch  uint64
			nh     int
			make   func() (*mls.PendingCommit, error)
		}{
			{mls.ResumptionReInit, mallory, 2, 48, func() (*mls.PendingCommit, error) {
				m := mallory.next(7)
				_, p, _, err := mallory.g().Reinitialize(t.Context(), mallory.env(), m.successorParams(bob.next(7), newMember(t, 7, "alice", mls.DefaultConfig)))
				return p, err
			}},
			{mls.ResumptionBranch, active, 1, 32, func() (*mls.PendingCommit, error) {
				p := active.next(1).successorParams(other.next(1))
				p.GroupID = []byte("branch")
				_, pending, _, err := active.g().Branch(t.Context(), active.env(), p)
				return pending, err
			}},
		} {
			p, err := c.make()
			if err != nil {
				t.Fatal(err)
			}
			for _, proposal := range p.Proposals() {
				psk, ok := proposal.Proposal.(*mls.PreSharedKey)
				if !ok {
					continue
				}
				id := psk.PSK
				if id.Type != mls.PSKResumption || id.Usage != c.usage || string(id.GroupID) != "group" || id.Epoch != c.epoch || len(id.Nonce) != c.nh {
					t.Errorf("%+v", id)
				}
				nonces[string(id.Nonce)] = true
			}
			if p.Epoch() != 0 {
				t.Errorf("the commit ends epoch %d", p.Epoch())
			}
		}
	}
	if len(nonces) != 4 {
		t.Errorf("%d nonces of four", len(nonces))
	}
}

// RE-2: a Welcome to a re-initialised group that refers to another epoch than the one
// that the ReInit has begun is refused.
func TestReInitOfAnotherEpoch(t *testing.T) {
	t.Parallel()
	config := mls.DefaultConfig
	config.ResumptionEpochs = 3
	_, bob, mallory := reinitialized(t, config, mls.ReInit{GroupID: []byte("next"), Version: mls.MLS10, Suite: 1})
	for epoch, want := range map[uint64]error{0: core.ErrNotFound, 1: nil, 2: nil, 3: core.ErrNotFound} {
		m, b := mallory.next(1), bob.next(1)
		m.create("next", nil)
		env := m.env()
		env.PSK = func(context.Context, mls.PreSharedKeyID) (core.Secret, error) {
			if secret, ok := mallory.g().ResumptionPSK(epoch); ok {
				return secret, nil
			}
			return core.NewSecret([]byte("a guess")), nil
		}
		id := mls.PreSharedKeyID{Type: mls.PSKResumption, Usage: mls.ResumptionReInit, GroupID: []byte("group"), Epoch: epoch, Nonce: make([]byte, 32)}
		_, pending, _, err := mls.ForgeCommit(t.Context(), env, m.g(), []mls.Proposal{
			&mls.PreSharedKey{PSK: id}, adding(b), adding(newMember(t, 1, "alice", config)),
		})
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := pending.Bundle(t.Context(), env, m.g())
		if err != nil {
			t.Fatal(err)
		}
		err = b.join(bundle.Welcome)
		switch {
		case epoch == 2 && err != nil:
			t.Errorf("the epoch after the ReInit: %v", err)
		case want != nil && !errors.Is(err, want), epoch == 1 && !isRule(err, "RE-2"):
			t.Errorf("epoch %d: %v", epoch, err)
		}
	}
}

// RE-4: a ReInit to a lower version is not made, and refused by value, by reference and
// from outside; one to a version that is not known yet ends the group all the same.
func TestVersionOfReInit(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	lower := &mls.ReInit{GroupID: []byte("next"), Version: 0, Suite: 1}
	before := alice.stored.dump()
	if _, err := alice.propose(lower); !isRule(err, "RE-4") {
		t.Errorf("proposed: %v", err)
	}
	if _, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{lower}}); !isRule(err, "RE-4") || alice.stored.dump() != before {
		t.Errorf("committed: %v", err)
	}
	wantRefusal(t, "a proposal", bob, mallory.forge(mls.Forgery{Wire: mls.WirePublicMessage, Content: proposing(lower)}), "RE-4", nil)
	wantRefusal(t, "a commit", bob, mallory.forgeCommit(nil, mls.ProposalOrRef{Proposal: lower}), "RE-4", nil)
	future := &mls.ReInit{GroupID: []byte("next"), Version: 2, Suite: 1}
	_, pending, _, err := mls.ForgeCommit(t.Context(), mallory.env(), mallory.g(), []mls.Proposal{future})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*member{alice, bob} {
		if _, err := m.process(pending.Message()); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
	if _, _, _, err := bob.g().Reinitialize(t.Context(), bob.env(), bob.next(1).successorParams()); !errors.Is(err, core.ErrUnsupported) || bob.g().Active() {
		t.Errorf("a version that we do not have: %v", err)
	}
}

// RE-5: who joins a branch sees that all its members are in the group before, as clients,
// whatever keys they have now.
func TestOutsiderInBranch(t *testing.T) {
	t.Parallel()
	_, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	for name, rule := range map[string]string{"alice": "", "zoe": "RE-5"} {
		m, b := mallory.next(1), bob.next(1)
		m.create("branch", nil)
		env := m.env()
		env.PSK = func(_ context.Context, id mls.PreSharedKeyID) (core.Secret, error) {
			secret, _ := mallory.g().ResumptionPSK(id.Epoch)
			return secret, nil
		}
		id := mls.PreSharedKeyID{Type: mls.PSKResumption, Usage: mls.ResumptionBranch, GroupID: []byte("group"), Epoch: 1, Nonce: make([]byte, 32)}
		_, pending, _, err := mls.ForgeCommit(t.Context(), env, m.g(), []mls.Proposal{
			&mls.PreSharedKey{PSK: id}, adding(b), adding(newMember(t, 1, name, mls.DefaultConfig)),
		})
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := pending.Bundle(t.Context(), env, m.g())
		if err != nil {
			t.Fatal(err)
		}
		if err := b.join(bundle.Welcome); rule == "" && err != nil || rule != "" && !isRule(err, rule) {
			t.Errorf("with %s: %v", name, err)
		}
	}
}

// PRP-3, RE-4: a ReInit to a group in which we cannot go on is not made. One that
// somebody else proposes, an external sender too, is left out of our commits: else the
// next of them ends the group for good.
func TestReInitThatNobodyCanFollow(t *testing.T) {
	t.Parallel()
	for _, reinit := range []*mls.ReInit{
		{GroupID: []byte("next"), Version: 2, Suite: 1},
		{GroupID: []byte("next"), Version: mls.MLS10, Suite: 0xF0F0},
	} {
		g := newGate(t)
		if _, err := g.alice.propose(reinit); !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("proposed: %v", err)
		}
		if _, err := g.alice.commit(mls.CommitParams{Proposals: []mls.Proposal{reinit}}); !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("committed: %v", err)
		}
		message := g.forge(fromServer, g.server.signer(), reinit)
		g.all.deliver(t, nil, message)
		b, err := g.alice.commit(mls.CommitParams{})
		if err != nil {
			t.Fatal(err)
		}
		g.all.deliver(t, g.alice, b.Commit)
		if r := g.alice.merge(); len(r.Unused) != 1 || r.ReInit != nil {
			t.Errorf("covered: %+v", r.Proposals)
		}
		g.all.agree(t)
		g.all.talk(t)
	}
}
