// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// discard forgets a pending commit, as after a restart.
func (m *member) discard() {
	m.stored.apply(m.g().DropPending())
	m.pending = nil
}

// bothPolicies runs a test with public and with private handshakes, with the groups
// in memory and loaded for every step.
func bothPolicies(t *testing.T, run func(t *testing.T, alice, bob, mallory *member, all party)) {
	for _, handshake := range []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate} {
		for _, reload := range []bool{true, false} {
			t.Run(fmt.Sprintf("handshake %d reload %v", handshake, reload), func(t *testing.T) {
				t.Parallel()
				config := mls.DefaultConfig
				config.Handshake = handshake
				alice, bob, mallory, all := threesome(t, config, nil)
				for _, m := range all {
					m.reload = reload
				}
				run(t, alice, bob, mallory, all)
			})
		}
	}
}

// COM-1, core-crypto/pending: a commit that is made changes nothing of the epoch. It can be
// given up, after a restart as well, and another made in its place.
func TestCommitIsStaged(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, alice, _, mallory *member, all party) {
		state := func() string {
			g := alice.g()
			members, err := g.Members(t.Context(), alice.env())
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("%d %x %x %x %d", g.Epoch(), g.TreeHash(), g.EpochAuthenticator(), g.ConfirmationTag(), len(members))
		}
		before := state()
		for range 2 {
			first, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: mallory.g().OwnLeaf()}}})
			if err != nil {
				t.Fatal(err)
			}
			if got := state(); got != before || len(first.Commit) == 0 {
				t.Errorf("%s has become %s", before, got)
			}
			all.talk(t)
			alice.discard()
			if len(alice.stored[mls.RecordPending]) != 0 || state() != before {
				t.Errorf("%d commits are pending in %s", len(alice.stored[mls.RecordPending]), state())
			}
		}
		// the one in the store is the one that was made last
		if _, err := alice.commit(mls.CommitParams{ForcePath: true}); err != nil {
			t.Fatal(err)
		}
		last, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{alice.g().NewResumptionPSK(1)}})
		if err != nil || len(alice.stored[mls.RecordPending]) != 1 {
			t.Fatalf("%d commits are pending, %v", len(alice.stored[mls.RecordPending]), err)
		}
		all.deliver(t, alice, last.Commit)
		alice.merge()
		all.agree(t)
		all.talk(t)
	})
}

// COM-2, mls-rs#308, mls-rs#151, mls-rs#201: while a commit waits, the epoch goes on,
// and the commit of another wins, be it a member's, a joiner's or one that removes us.
func TestCompetingCommits(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, alice, bob, mallory *member, all party) {
		stage := func() *mls.PendingCommit {
			t.Helper()
			if _, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{adding(newMember(t, 1, "zoe", alice.config))}, ForcePath: true}); err != nil {
				t.Fatal(err)
			}
			all.talk(t)
			return alice.pending
		}
		overtaken := func(lost *mls.PendingCommit) {
			t.Helper()
			if len(alice.stored[mls.RecordPending]) != 0 {
				t.Error("a commit is still pending")
			}
			before := alice.stored.dump()
			if _, _, _, err := alice.g().Merge(t.Context(), alice.env(), lost); !errors.Is(err, mls.ErrWrongEpoch) && !errors.Is(err, mls.ErrInactive) {
				t.Errorf("the commit that lost: %v", err)
			}
			if _, err := lost.Bundle(t.Context(), alice.env(), alice.g()); alice.g().Active() && !errors.Is(err, mls.ErrWrongEpoch) || alice.stored.dump() != before {
				t.Errorf("its bundle: %v", err)
			}
		}
		lost := stage()
		all = all.commitAll(t, bob, mls.CommitParams{ForcePath: true})
		overtaken(lost)
		all.talk(t)

		lost = stage()
		yves := newMember(t, 1, "yves", bob.config)
		all.deliver(t, nil, externally(t, yves, bob))
		all = append(all, yves)
		all.agree(t)
		overtaken(lost)
		all.talk(t)

		lost = stage()
		b, err := mallory.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: alice.g().OwnLeaf()}}})
		if err != nil {
			t.Fatal(err)
		}
		if result, err := alice.process(b.Commit); err != nil || !result.(*mls.ReceivedCommit).SelfRemoved {
			t.Errorf("%+v, %v", result, err)
		}
		overtaken(lost)
	})
}

// COM-3, core-crypto/own-commit, amethyst/own-commit: our own commit is not applied twice. One with a path
// that is not the pending one is refused, for nothing in it is encrypted to us; one
// without is like anybody's.
func TestOwnCommitComesBack(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, alice, bob, mallory *member, all party) {
		b, err := alice.commit(mls.CommitParams{ForcePath: true})
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, "the echo of one that waits", alice, b.Commit, "", mls.ErrOwnMessage)
		pending := alice.pending
		all.deliver(t, alice, b.Commit)
		alice.merge()
		all.agree(t)
		wantRefusal(t, "the echo of one that is merged", alice, b.Commit, "", mls.ErrWrongEpoch)
		before := alice.stored.dump()
		if _, _, _, err := alice.g().Merge(t.Context(), alice.env(), pending); !errors.Is(err, mls.ErrWrongEpoch) || alice.stored.dump() != before {
			t.Errorf("merged again: %v", err)
		}
		for _, path := range []bool{true, false} {
			b, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{alice.g().NewResumptionPSK(alice.g().Epoch())}, ForcePath: path})
			if err != nil {
				t.Fatal(err)
			}
			alice.discard()
			if path || alice.config.Handshake == mls.HandshakePrivate {
				wantRefusal(t, fmt.Sprintf("one that was given up, path %v", path), alice, b.Commit, "", mls.ErrOwnMessage)
				continue
			}
			result, err := alice.process(b.Commit)
			if err != nil {
				t.Fatal(err)
			}
			if c := result.(*mls.ReceivedCommit); c.Committer.Leaf != alice.g().OwnLeaf() || c.External {
				t.Errorf("the committer is %+v", c.Committer)
			}
			all.deliver(t, alice, b.Commit)
			all.agree(t)
			all.talk(t)
		}
		if alice.config.Handshake == mls.HandshakePublic {
			forged := mallory.forge(mls.Forgery{Wire: mls.WirePublicMessage, Content: func(c *mls.FramedContent) {
				committing(&mls.Commit{Proposals: []mls.ProposalOrRef{{Proposal: bob.g().NewResumptionPSK(2)}}})(c)
				c.Sender.Leaf = alice.g().OwnLeaf()
			}})
			wantRefusal(t, "one that another made in our name", alice, forged, "", mls.ErrAuthentication)
		}
	})
}

// COM-4: who is removed is told by whom, keeps no proposal and no commit, sends
// nothing and takes nothing any more.
func TestBeingRemoved(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, alice, bob, mallory *member, all party) {
		if _, err := alice.commit(mls.CommitParams{ForcePath: true}); err != nil {
			t.Fatal(err)
		}
		late, err := mallory.send("late")
		if err != nil {
			t.Fatal(err)
		}
		all.commitAll(t, mallory, mls.CommitParams{ForcePath: true})
		if _, err := alice.commit(mls.CommitParams{ForcePath: true}); err != nil {
			t.Fatal(err)
		}
		b, err := bob.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: alice.g().OwnLeaf()}}})
		if err != nil {
			t.Fatal(err)
		}
		now, err := mallory.send("now")
		if err != nil {
			t.Fatal(err)
		}
		result, err := alice.process(b.Commit)
		if err != nil {
			t.Fatal(err)
		}
		c := result.(*mls.ReceivedCommit)
		if !c.SelfRemoved || c.Committer.Leaf != bob.g().OwnLeaf() || len(c.Removed) != 1 || c.Removed[0].Leaf != alice.g().OwnLeaf() {
			t.Errorf("%+v", c)
		}
		if alice.g().Active() || len(alice.stored[mls.RecordPending])+len(alice.stored[mls.RecordProposal]) != 0 {
			t.Error("something of the epoch goes on")
		}
		g, env, ctx := alice.g(), alice.env(), t.Context()
		refused := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, mls.ErrInactive) {
				t.Errorf("%s: %v", what, err)
			}
		}
		before := alice.stored.dump()
		_, _, _, err = g.Protect(ctx, env, []byte("x"), nil)
		refused("text", err)
		_, _, _, err = g.Propose(ctx, env, &mls.Remove{Removed: 1}, nil)
		refused("proposal", err)
		_, _, _, err = g.ProposeUpdate(ctx, env, mls.LeafParams{}, nil)
		refused("update", err)
		_, _, _, err = g.Commit(ctx, env, mls.CommitParams{ForcePath: true})
		refused("commit", err)
		_, _, _, err = g.Merge(ctx, env, alice.pending)
		refused("merge", err)
		_, err = g.GroupInfo(ctx, env, mls.GroupInfoParams{})
		refused("GroupInfo", err)
		_, err = g.Export("label", nil, 16)
		refused("exporter", err)
		_, err = alice.process(b.Commit)
		refused("the commit again", err)
		_, err = alice.process(now)
		refused("what is said in the last epoch", err)
		if alice.stored.dump() != before {
			t.Error("something has changed")
		}
		if got, err := alice.process(late); err != nil || string(got.(*mls.ApplicationMessage).Data) != "late" {
			t.Errorf("what was said in an epoch that is kept: %v", err)
		}
		party{mallory}.deliver(t, bob, b.Commit)
		bob.merge()
		party{bob, mallory}.agree(t)
	})
}

// COM-6, openmls#2143, openmls#2149: a new signature key comes with a path, whatever
// else the commit is for; the commit is signed with the old key, the leaf and the
// GroupInfo with the new one, so that those can join whom it adds.
func TestCommitWithNewSignatureKey(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, alice, _, _ *member, all party) {
		for i, change := range []func(*mls.LeafParams){
			func(p *mls.LeafParams) { p.SignatureKey = alice.newSigner() },
			func(p *mls.LeafParams) {
				p.SignatureKey = alice.newSigner()
				c := core.BasicCredential("alice")
				p.Credential = &c
			},
		} {
			zoe, yves := newMember(t, 1, fmt.Sprint("zoe ", i), alice.config), newMember(t, 1, fmt.Sprint("yves ", i), alice.config)
			var params mls.LeafParams
			change(&params)
			b, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{adding(zoe)}, Leaf: params}) // an Add needs no path
			if err != nil {
				t.Fatal(err)
			}
			if leaf := alice.pending.PathLeaf(); leaf == nil || !bytes.Equal(leaf.SignatureKey, params.SignatureKey.Public()) {
				t.Fatalf("the path's leaf is %+v", leaf)
			}
			result := make([]*mls.ReceivedCommit, 0, 2)
			for _, m := range all[1:] { // they know the old key alone
				r, err := m.process(b.Commit)
				if err != nil {
					t.Fatal(err)
				}
				result = append(result, r.(*mls.ReceivedCommit))
			}
			result = append(result, alice.merge())
			for _, r := range result {
				if !slices.ContainsFunc(r.Updated, func(m mls.Member) bool { return bytes.Equal(m.SignatureKey, params.SignatureKey.Public()) }) {
					t.Errorf("updated: %+v", r.Updated)
				}
			}
			if err := zoe.join(b.Welcome); err != nil {
				t.Fatal(err)
			}
			all = append(all, zoe)
			all.agree(t)
			all.deliver(t, nil, func() []byte { // by the commit's own GroupInfo
				commit, err := yves.joinExternal(b.GroupInfo)
				if err != nil {
					t.Fatal(err)
				}
				return commit
			}())
			all = append(all, yves)
			all.agree(t)
			all.talk(t)
		}
	})
}

// COM-7, core-crypto/halves, mls-go#99: of several Updates that wait, the one that somebody commits is
// known by its key; the keys are in use from that epoch on, and if none is committed
// the old ones stay.
func TestOutstandingUpdates(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, alice, bob, mallory *member, all party) {
		own := func() *mls.LeafNode {
			t.Helper()
			leaf, err := bob.g().OwnLeafNode(t.Context(), bob.env())
			if err != nil {
				t.Fatal(err)
			}
			return leaf
		}
		for committed := range 3 { // the third time, neither
			var refs []mls.ProposalRef
			var keys [][]byte
			var messages [][]byte
			for range 2 {
				signer := bob.newSigner()
				g, sent, ws, err := bob.g().ProposeUpdate(t.Context(), bob.env(), mls.LeafParams{SignatureKey: signer}, nil)
				if err != nil {
					t.Fatal(err)
				}
				bob.set(g, ws)
				refs, keys, messages = append(refs, sent.Ref), append(keys, signer.Public()), append(messages, sent.Message)
			}
			before := own()
			for _, message := range messages {
				all.deliver(t, bob, message)
			}
			for i, ref := range refs { // alice, who commits, knows but one
				if i == committed {
					continue
				}
				g, ws, err := alice.g().DropProposal(t.Context(), alice.env(), ref)
				if err != nil {
					t.Fatal(err)
				}
				alice.set(g, ws)
			}
			if key := own().SignatureKey; !bytes.Equal(key, before.SignatureKey) {
				t.Error("the key was changed before the epoch")
			}
			all = all.commitAll(t, alice, mls.CommitParams{ForcePath: true})
			want := before.SignatureKey
			if committed < 2 {
				want = keys[committed]
			}
			after := own()
			if !bytes.Equal(after.SignatureKey, want) || bytes.Equal(after.EncryptionKey, before.EncryptionKey) != (committed == 2) {
				t.Errorf("update %d: signature key %x, want %x", committed, after.SignatureKey, want)
			}
			if n, err := mls.WaitingUpdates(t.Context(), bob.env(), bob.g()); err != nil || n != 0 {
				t.Errorf("%d updates wait, %v", n, err)
			}
			all = all.commitAll(t, mallory, mls.CommitParams{ForcePath: true}) // to the new key
			all.talk(t)
			all = all.commitAll(t, bob, mls.CommitParams{ForcePath: true})
		}
	})
}

// COM-9: one commit and one state give one next state, to the byte, however often.
func TestProcessingIsDeterministic(t *testing.T) {
	t.Parallel()
	config := mls.DefaultConfig
	alice, bob, mallory, all := threesome(t, config, nil)
	var joiners []*member
	var list []mls.Proposal
	for i := range 6 {
		m := newMember(t, 1, fmt.Sprint("joiner ", i), config)
		joiners, list = append(joiners, m), append(list, adding(m))
	}
	all = all.commitAll(t, alice, mls.CommitParams{Proposals: list, ForcePath: true}, joiners...)
	for range 4 {
		message, err := mallory.propose(mallory.g().NewResumptionPSK(mallory.g().Epoch()))
		if err != nil {
			t.Fatal(err)
		}
		all.deliver(t, mallory, message)
	}
	b, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: 4}, &mls.Remove{Removed: 6}, adding(newMember(t, 1, "zoe", config))}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mls.UnmarshalMLSMessage(b.Commit)
	if err != nil {
		t.Fatal(err)
	}
	var want string
	for i := range 8 {
		_, result, ws, err := bob.g().Process(t.Context(), bob.env(), m)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("%+v\n", result.(*mls.ReceivedCommit).Removed)
		for _, d := range ws.Dels {
			got += fmt.Sprintf("- %d %x\n", d.Kind, d.Prefix)
		}
		for _, p := range ws.Puts {
			got += fmt.Sprintf("+ %d %x %x\n", p.Kind, p.Key, p.Value)
		}
		if i == 0 {
			want = got
		}
		if got != want {
			t.Fatalf("another time:\n%s\nand:\n%s", want, got)
		}
	}
	for range 3 { // as to what is made: the bundle of a commit
		again, err := alice.pending.Bundle(t.Context(), alice.env(), alice.g())
		if err != nil || !bytes.Equal(again.Commit, b.Commit) || !bytes.Equal(again.Welcome, b.Welcome) || !bytes.Equal(again.GroupInfo, b.GroupInfo) {
			t.Errorf("another bundle, %v", err)
		}
	}
}

// COM-10: a Group is a value that many may use at once, for reading and as the
// beginning of different ends; the race detector watches.
func TestOneValueManyUses(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, _, bob, mallory *member, all party) {
		text, err := mallory.send("hello")
		if err != nil {
			t.Fatal(err)
		}
		b, err := mallory.commit(mls.CommitParams{ForcePath: true})
		if err != nil {
			t.Fatal(err)
		}
		parse := func(data []byte) *mls.MLSMessage {
			m, err := mls.UnmarshalMLSMessage(data)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		messages := []*mls.MLSMessage{parse(text), parse(b.Commit)}
		g, ctx := bob.g(), t.Context()
		var wg sync.WaitGroup
		for i := range 8 {
			env := bob.env()
			env.Auth = &anyone{}
			wg.Go(func() {
				next, _, _, err := g.Process(ctx, env, messages[i%2])
				if err != nil || next.Epoch() != g.Epoch()+uint64(i%2) {
					t.Errorf("process: %v", err)
				}
				if _, _, _, err := g.Protect(ctx, env, []byte("x"), nil); err != nil {
					t.Errorf("send: %v", err)
				}
				if _, _, _, err := g.Commit(ctx, env, mls.CommitParams{ForcePath: true}); err != nil {
					t.Errorf("commit: %v", err)
				}
				if _, err := g.Members(ctx, env); err != nil {
					t.Error(err)
				}
				if _, err := g.Export("label", nil, 16); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		all.deliver(t, mallory, b.Commit)
		mallory.merge()
		all.agree(t)
	})
}

// COM-12: who was away works its queue off with one decryption for each commit, and two
// signatures: of the message and of the path's leaf.
func TestQueueOfCommits(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, all := threesome(t, mls.DefaultConfig, nil)
	var queue [][]byte
	for i := range 30 {
		by := []*member{alice, mallory}[i%2]
		b, err := by.commit(mls.CommitParams{ForcePath: true})
		if err != nil {
			t.Fatal(err)
		}
		party{alice, mallory}.deliver(t, by, b.Commit)
		by.merge()
		queue = append(queue, b.Commit)
	}
	p := newProbe()
	g, err := mls.Load(p, bob.stored[mls.RecordHeader][0].Value)
	if err != nil {
		t.Fatal(err)
	}
	env := bob.env()
	env.Suites = p
	for i, message := range queue {
		m, err := mls.UnmarshalMLSMessage(message)
		if err != nil {
			t.Fatal(err)
		}
		p.reset()
		next, _, ws, err := g.Process(t.Context(), env, m)
		if err != nil {
			t.Fatalf("commit %d: %v", i, err)
		}
		g = next
		bob.set(next, ws)
		if p.opened.Load() != 1 || p.verified.Load() != 2 || p.sealed.Load() != 0 {
			t.Errorf("commit %d: %d decryptions, %d signatures", i, p.opened.Load(), p.verified.Load())
		}
	}
	all.agree(t)
}
