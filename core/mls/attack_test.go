// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// threesome is a group of alice, bob and mallory.
func threesome(t *testing.T, config mls.Config, extensions mls.Extensions) (alice, bob, mallory *member, all party) {
	t.Helper()
	alice, bob, mallory = newMember(t, 1, "alice", config), newMember(t, 1, "bob", config), newMember(t, 1, "mallory", config)
	alice.create("group", extensions)
	all = party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{
		&mls.Add{KeyPackage: bob.keyPackage()}, &mls.Add{KeyPackage: mallory.keyPackage()},
	}}, bob, mallory)
	return alice, bob, mallory, all
}

// FS-7: a message of the epoch before a commit opens after it, however the commit
// came: what the commit used up of the epoch's secrets must not be missing.
func TestLateMessageAfterCommit(t *testing.T) {
	t.Parallel()
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
				all = all.commitAll(t, bob, mls.CommitParams{ForcePath: true}) // an epoch that begins in memory
				var late [][]byte
				for _, m := range []*member{alice, mallory} {
					message, err := m.send("late")
					if err != nil {
						t.Fatal(err)
					}
					late = append(late, message)
				}
				all.commitAll(t, alice, mls.CommitParams{ForcePath: true})
				for _, message := range late {
					if _, err := bob.process(message); err != nil {
						t.Errorf("late message: %v", err)
					}
					if _, err := bob.process(message); !errors.Is(err, mls.ErrDuplicateMessage) {
						t.Errorf("late message again: %v", err)
					}
				}
			})
		}
	}
}

// FS-7: of the tree, the store holds the versions of pages that a kept epoch can
// ask for and no others, however the tree grows and shrinks.
func TestPageVersions(t *testing.T) {
	t.Parallel()
	for _, window := range []uint32{0, 1, 3} {
		for _, reload := range []bool{true, false} {
			t.Run(fmt.Sprintf("window %d reload %v", window, reload), func(t *testing.T) {
				t.Parallel()
				config := mls.DefaultConfig
				config.MaxPastEpochs, config.TreeOutOfBand = window, true
				alice := newMember(t, 1, "alice", config)
				alice.reload = reload
				alice.create("group", nil)
				seq := 0
				resize := func(size int) {
					var p []mls.Proposal
					members, err := alice.g().Members(t.Context(), alice.env())
					if err != nil {
						t.Fatal(err)
					}
					for _, m := range members[min(size, len(members)):] {
						p = append(p, &mls.Remove{Removed: m.Leaf})
					}
					for range size - len(members) {
						seq++
						p = append(p, &mls.Add{KeyPackage: newMember(t, 1, fmt.Sprint("member ", seq), config).keyPackage()})
					}
					if _, err := alice.commit(mls.CommitParams{Proposals: p}); err != nil {
						t.Fatal(err)
					}
					alice.merge()
					checkPageVersions(t, alice, uint64(window))
				}
				for _, size := range []int{3, 9, 3, 20, 70, 5, 5, 5, 5, 40, 2, 17, 66, 17, 17, 1, 9, 1, 1, 1, 1} {
					resize(size)
				}
				if n := len(alice.stored[mls.RecordPage]); n != int(window)+1 {
					t.Errorf("%d versions of the page of a tree of one leaf", n)
				}
			})
		}
	}
}

// checkPageVersions compares what is stored of the tree with what is needed.
func checkPageVersions(t *testing.T, m *member, window uint64) {
	t.Helper()
	now := m.g().Epoch()
	oldest := now - min(now, window)
	type version struct {
		epoch uint64
		blank bool
	}
	pages := map[string][]version{} // newest first
	for _, rec := range m.stored[mls.RecordPage] {
		page := string(rec.Key[:5])
		pages[page] = append(pages[page], version{^binary.BigEndian.Uint64(rec.Key[5:]), len(rec.Value) == 0})
	}
	for page, versions := range pages {
		for i, v := range versions {
			switch {
			case i > 0 && versions[i-1].epoch <= oldest:
				t.Errorf("epoch %d: page %x: version %d is still stored, behind %d", now, page, v.epoch, versions[i-1].epoch)
			case v.blank && i == len(versions)-1:
				t.Errorf("epoch %d: page %x: the blank version %d hides nothing", now, page, v.epoch)
			}
		}
	}
}

// LEAF-4, PRP-3, LEAF-9: neither an outsider nor a member can keep the others from
// committing by proposing keys that are in the group already, nor have them add a
// key package that has expired meanwhile.
func TestProposalsThatCannotBeCommitted(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	alice, bob, mallory, all := threesome(t, mls.DefaultConfig, nil)
	own, err := bob.g().OwnLeafNode(ctx, bob.env())
	if err != nil {
		t.Fatal(err)
	}
	forge := func(from mls.Sender, signer core.Signer, p mls.Proposal) {
		t.Helper()
		message, err := mls.ForgeMessage(ctx, mallory.env(), mallory.g(), mls.WirePublicMessage, from, signer, p, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		party{alice, bob}.deliver(t, nil, message)
	}
	add := func(name string, signer core.Signer, change func(*mls.KeyPackage)) *mls.Add {
		t.Helper()
		kp := newMember(t, 1, name, mls.DefaultConfig).keyPackage()
		kp.LeafNode.SignatureKey = signer.Public()
		change(kp)
		if err := mls.ForgeKeyPackage(ctx, signer, kp); err != nil {
			t.Fatal(err)
		}
		return &mls.Add{KeyPackage: kp}
	}
	member := mls.Sender{Type: mls.SenderMember, Leaf: mallory.g().OwnLeaf()}
	one, two, three := mallory.newSigner(), mallory.newSigner(), mallory.newSigner()
	forge(mls.Sender{Type: mls.SenderNewMemberProposal}, one, add("zoe", one, func(kp *mls.KeyPackage) { kp.LeafNode.EncryptionKey = own.EncryptionKey }))
	forge(member, mallory.signers[0], add("yves", two, func(*mls.KeyPackage) {}))
	forge(member, mallory.signers[0], add("yvonne", two, func(*mls.KeyPackage) {}))
	forge(member, mallory.signers[0], add("xavier", three, func(kp *mls.KeyPackage) { kp.LeafNode.Lifetime.NotAfter = 1_000_000 }))
	leaf, err := mallory.g().OwnLeafNode(ctx, mallory.env())
	if err != nil {
		t.Fatal(err)
	}
	update := *leaf
	update.Source, update.EncryptionKey = mls.LeafUpdate, own.EncryptionKey
	if err := mls.ForgeLeaf(ctx, mallory.signers[0], mallory.g(), &update); err != nil {
		t.Fatal(err)
	}
	forge(member, mallory.signers[0], &mls.Update{LeafNode: &update})

	env := alice.env()
	env.Now = time.Unix(1_000_001, 0)
	g, pending, ws, err := alice.g().Commit(ctx, env, mls.CommitParams{})
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	alice.set(g, ws)
	alice.pending = pending
	all[:2].deliver(t, alice, pending.Message())
	result := alice.merge()
	all[:2].agree(t)
	if len(result.Added) != 1 || string(result.Added[0].Credential.Identity) != "yves" || len(result.Unused) != 4 {
		t.Errorf("added %v, %d unused", result.Added, len(result.Unused))
	}
}

// PSK-3, RE-2, RE-5: what a Welcome says of another group by a resumption PSK of
// usage reinit or branch is checked or refused, never believed.
func TestWelcomeOfAnotherGroupsSuccessor(t *testing.T) {
	t.Parallel()
	for _, usage := range []mls.ResumptionUsage{mls.ResumptionReInit, mls.ResumptionBranch} {
		alice, zoe := newMember(t, 1, "alice", mls.DefaultConfig), newMember(t, 1, "zoe", mls.DefaultConfig)
		alice.create("successor", nil)
		env := func(m *member) *mls.Env {
			env := m.env()
			env.PSK = func(context.Context, mls.PreSharedKeyID) (core.Secret, error) {
				return core.NewSecret([]byte("resumption")), nil
			}
			return env
		}
		psk := alice.g().NewResumptionPSK(7)
		psk.PSK.Usage, psk.PSK.GroupID = usage, []byte("predecessor")
		g, pending, ws, err := mls.ForgeCommit(t.Context(), env(alice), alice.g(), []mls.Proposal{psk, &mls.Add{KeyPackage: zoe.keyPackage()}})
		if err != nil {
			t.Fatal(err)
		}
		alice.set(g, ws)
		b, err := pending.Bundle(t.Context(), alice.env(), alice.g())
		if err != nil {
			t.Fatal(err)
		}
		m, err := mls.UnmarshalMLSMessage(b.Welcome)
		if err != nil {
			t.Fatal(err)
		}
		_, _, _, err = mls.Join(t.Context(), env(zoe), mls.JoinParams{Welcome: m.Welcome, Config: zoe.config,
			KeyPackage: func(context.Context, []byte) (*mls.KeyPackageBundle, error) { return zoe.bundle, nil }})
		if !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("usage %d: %v", usage, err)
		}
	}
}

// EXT-2: an outsider's commit that names a proposal is invalid, not in want of the
// proposal: nobody waits for it.
func TestExternalCommitWithReference(t *testing.T) {
	t.Parallel()
	alice, bob, _, _ := threesome(t, mls.DefaultConfig, nil)
	info, err := alice.g().GroupInfo(t.Context(), alice.env())
	if err != nil {
		t.Fatal(err)
	}
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	commit, err := zoe.joinExternal(info)
	if err != nil {
		t.Fatal(err)
	}
	commit, err = mls.ForgeExternalCommit(t.Context(), bob.g(), zoe.signer(), commit, func(c *mls.Commit) {
		c.Proposals = append([]mls.ProposalOrRef{{Reference: make([]byte, 32)}}, c.Proposals...)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bob.process(commit); errors.Is(err, mls.ErrMissingProposal) || !errors.Is(err, core.ErrInvalid) {
		t.Errorf("%v", err)
	}
}

// LEAF-5, CRD-4: a commit of ours whose leaf all others would refuse is not made.
func TestOwnPathLeafIsChecked(t *testing.T) {
	t.Parallel()
	alice, _, _, _ := threesome(t, mls.DefaultConfig, nil)
	for name, p := range map[string]mls.LeafParams{
		"extension": {Extensions: &mls.Extensions{{Type: 0xF001}}},
		"twice":     {Extensions: &mls.Extensions{{Type: mls.ExtensionApplicationID}, {Type: mls.ExtensionApplicationID}}},
	} {
		if _, err := alice.commit(mls.CommitParams{Leaf: p}); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Each outcome that an application branches on says as well what to do next.
func TestOutcomesMatchSentinels(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		mls.ErrMalformed, mls.ErrAuthentication, mls.ErrWrongGroup, mls.ErrWrongEpoch, mls.ErrDuplicateMessage, mls.ErrTooOld,
		mls.ErrTooFarAhead, mls.ErrOwnMessage, mls.ErrMissingProposal, mls.ErrMissingPSK, mls.ErrMissingTree, mls.ErrNoKeyPackage,
		mls.ErrPendingProposals, mls.ErrInactive, mls.ErrExhausted,
	} {
		n := 0
		for _, sentinel := range []error{core.ErrInvalid, core.ErrNotFound, core.ErrDenied, core.ErrUnavailable} {
			if errors.Is(err, sentinel) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%v matches %d sentinels", err, n)
		}
	}
}

// A group that claims to be at its last epoch is not entered: the next one would be
// epoch 0, before everything that is stored.
func TestLastEpoch(t *testing.T) {
	t.Parallel()
	alice := newMember(t, 1, "alice", mls.DefaultConfig)
	alice.create("group", nil)
	for epoch, want := range map[uint64]error{0: nil, 1 << 40: nil, math.MaxUint64: core.ErrInvalid} {
		info, err := mls.ForgeGroupInfo(t.Context(), alice.env(), alice.g(), alice.signer(), func(i *mls.GroupInfo) { i.GroupContext.Epoch = epoch })
		if err != nil {
			t.Fatal(err)
		}
		zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
		if _, err = zoe.joinExternal(info); !errors.Is(err, want) {
			t.Errorf("epoch %d: %v", epoch, err)
		}
	}
}

// Garbage that nobody in the group made costs no reading of the tree.
func TestGarbageIsCheap(t *testing.T) {
	t.Parallel()
	config := mls.DefaultConfig
	config.Handshake = mls.HandshakePrivate
	alice, bob, _, _ := threesome(t, config, nil)
	b, err := alice.commit(mls.CommitParams{ForcePath: true})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mls.UnmarshalMLSMessage(b.Commit)
	if err != nil {
		t.Fatal(err)
	}
	m.PrivateMessage.EncryptedSenderData[0] ^= 1
	env := bob.env()
	env.Fetch = func(context.Context, []mls.RecordQuery) ([][]mls.Record, error) {
		t.Error("the store is read")
		return nil, core.ErrUnavailable
	}
	if _, _, _, err := bob.g().Process(t.Context(), env, m); !errors.Is(err, mls.ErrAuthentication) {
		t.Errorf("%v", err)
	}
}

// PRP-13: what waits to be committed is bounded in bytes as well as in number.
func TestProposalFlood(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	total := 0
	for i := range 100 {
		leaf := make([]byte, 1<<17)
		leaf[0] = byte(i)
		message, err := mls.ForgeMessage(t.Context(), mallory.env(), mallory.g(), mls.WirePublicMessage,
			mls.Sender{Type: mls.SenderMember, Leaf: mallory.g().OwnLeaf()}, mallory.signers[0],
			&mls.GroupContextExtensions{Extensions: mls.Extensions{{Type: 0xF001, Data: leaf}}}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		total += len(message)
		if _, err := bob.process(message); errors.Is(err, core.ErrTooLarge) {
			if total < 8<<20 {
				t.Errorf("refused after %d bytes", total)
			}
			if _, err := alice.commit(mls.CommitParams{ForcePath: true}); err != nil {
				t.Error(err)
			}
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Errorf("%d bytes wait", total)
}

// wantRefusal processes a message that must be refused for a rule (or with an
// error, if the rule is empty) and must change nothing.
func wantRefusal(t *testing.T, what string, m *member, message []byte, rule string, want error) {
	t.Helper()
	before := m.stored.dump()
	_, err := m.process(message)
	var breached *mls.RuleError
	switch {
	case rule == "" && !errors.Is(err, want), rule != "" && (!errors.As(err, &breached) || breached.Rule != rule):
		t.Errorf("%s: got %v, want %s %v", what, err, rule, want)
	case m.stored.dump() != before || !m.g().Active():
		t.Errorf("%s: something has changed", what)
	}
}

// PRP-3, PRP-7, PSK-1 to PSK-3, CS-8: commits that no member who keeps the rules
// makes, signed and tagged as a member can.
func TestForgedCommits(t *testing.T) {
	t.Parallel()
	for _, wire := range []mls.WireFormat{mls.WirePublicMessage, mls.WirePrivateMessage} {
		config := mls.DefaultConfig
		config.AcceptAnyWire = true
		alice, bob, mallory, _ := threesome(t, config, nil)
		me := mallory.g().OwnLeaf()
		forge := func(commit *mls.Commit, tag []byte) []byte {
			t.Helper()
			message, err := mls.ForgeMessage(t.Context(), mallory.env(), mallory.g(), wire,
				mls.Sender{Type: mls.SenderMember, Leaf: me}, mallory.signers[0], nil, commit, tag)
			if err != nil {
				t.Fatal(err)
			}
			return message
		}
		psk := func(change func(*mls.PreSharedKeyID)) *mls.PreSharedKey {
			p := mallory.g().NewExternalPSK([]byte("psk"))
			change(&p.PSK)
			return p
		}
		gce := func(l ...mls.Extension) *mls.GroupContextExtensions {
			return &mls.GroupContextExtensions{Extensions: l}
		}
		leaf, err := mallory.g().OwnLeafNode(t.Context(), mallory.env())
		if err != nil {
			t.Fatal(err)
		}
		zoe, yves := newMember(t, 1, "zoe", config), newMember(t, 1, "yves", config)
		add := func(m *member, change func(*mls.KeyPackage)) *mls.Add {
			kp := m.keyPackage()
			change(kp)
			if err := mls.ForgeKeyPackage(t.Context(), m.signer(), kp); err != nil {
				t.Fatal(err)
			}
			return &mls.Add{KeyPackage: kp}
		}
		same := func(*mls.KeyPackage) {}
		broken := zoe.keyPackage()
		broken.Signature[0] ^= 1
		one := psk(func(*mls.PreSharedKeyID) {})
		for _, c := range []struct {
			what string
			list []mls.Proposal
			rule string
			want error
		}{
			{"nothing, without a path", nil, "PRP-7", nil},
			{"a Remove without a path", []mls.Proposal{&mls.Remove{Removed: 0}}, "PRP-7", nil},
			{"new extensions without a path", []mls.Proposal{gce()}, "PRP-7", nil},
			{"a Remove of the committer", []mls.Proposal{&mls.Remove{Removed: me}}, "PRP-3", nil},
			{"a Remove twice", []mls.Proposal{&mls.Remove{Removed: 0}, &mls.Remove{Removed: 0}}, "PRP-3", nil},
			{"a Remove of a blank leaf", []mls.Proposal{&mls.Remove{Removed: 3}}, "PRP-4", nil},
			{"a Remove beyond the tree", []mls.Proposal{&mls.Remove{Removed: 4}}, "PRP-4", nil},
			{"a Remove of leaf 2^31", []mls.Proposal{&mls.Remove{Removed: 1 << 31}}, "PRP-4", nil},
			{"a Remove of the last index", []mls.Proposal{&mls.Remove{Removed: math.MaxUint32}}, "PRP-4", nil},
			{"an Update by value", []mls.Proposal{&mls.Update{LeafNode: leaf}}, "PRP-2", nil},
			{"an ExternalInit", []mls.Proposal{&mls.ExternalInit{KEMOutput: make([]byte, 32)}}, "FR-4", nil},
			{"a short nonce", []mls.Proposal{psk(func(p *mls.PreSharedKeyID) { p.Nonce = p.Nonce[1:] })}, "PSK-1", nil},
			{"no nonce", []mls.Proposal{psk(func(p *mls.PreSharedKeyID) { p.Nonce = nil })}, "PSK-1", nil},
			{"a PSK twice", []mls.Proposal{one, one}, "PSK-2", nil},
			{"a branch", []mls.Proposal{psk(func(p *mls.PreSharedKeyID) { p.Type, p.Usage = mls.PSKResumption, mls.ResumptionBranch })}, "PSK-3", nil},
			{"a reinit", []mls.Proposal{psk(func(p *mls.PreSharedKeyID) { p.Type, p.Usage = mls.PSKResumption, mls.ResumptionReInit })}, "PSK-3", nil},
			{"an unknown PSK", []mls.Proposal{one}, "", mls.ErrMissingPSK},
			{"the PSK of a future epoch", []mls.Proposal{mallory.g().NewResumptionPSK(99)}, "", mls.ErrMissingPSK},
			{"new extensions twice", []mls.Proposal{gce(), gce()}, "PRP-3", nil},
			{"a ratchet tree for a group extension", []mls.Proposal{gce(mls.Extension{Type: mls.ExtensionRatchetTree})}, "PRP-8", nil},
			{"an extension twice", []mls.Proposal{gce(mls.Extension{Type: 0xF001}, mls.Extension{Type: 0xF001})}, "GRE-4", nil},
			{"required capabilities that are none", []mls.Proposal{gce(mls.Extension{Type: mls.ExtensionRequiredCapabilities, Data: []byte{1}})}, "", mls.ErrMalformed},
			{"a ReInit and more", []mls.Proposal{&mls.ReInit{GroupID: []byte("g"), Version: 1, Suite: 1}, add(zoe, same)}, "PRP-3", nil},
			{"a ReInit to an older version", []mls.Proposal{&mls.ReInit{GroupID: []byte("g"), Suite: 1}}, "RE-4", nil},
			{"an Add of a member", []mls.Proposal{add(bob, same)}, "PRP-3", nil},
			{"a client twice", []mls.Proposal{add(zoe, same), add(zoe, same)}, "PRP-3", nil},
			{"a key package whose signature is broken", []mls.Proposal{&mls.Add{KeyPackage: broken}}, "", mls.ErrAuthentication},
			{"a key package of another suite", []mls.Proposal{add(yves, func(k *mls.KeyPackage) { k.Suite = 2 })}, "KP-1", nil},
			{"an init key that is the leaf's", []mls.Proposal{add(yves, func(k *mls.KeyPackage) { k.InitKey = k.LeafNode.EncryptionKey })}, "KP-1", nil},
			{"an init key of small order", []mls.Proposal{add(yves, func(k *mls.KeyPackage) { k.InitKey = make([]byte, 32) })}, "CS-2", nil},
			{"a leaf key of small order", []mls.Proposal{add(yves, func(k *mls.KeyPackage) { k.LeafNode.EncryptionKey = make([]byte, 32) })}, "CS-2", nil},
			{"the key of a parent or a member", []mls.Proposal{add(yves, func(k *mls.KeyPackage) { k.LeafNode.EncryptionKey = leaf.EncryptionKey })}, "LEAF-4", nil},
			{"a leaf that does not know its credential", []mls.Proposal{add(yves, func(k *mls.KeyPackage) { k.LeafNode.Capabilities.Credentials = nil })}, "CRD-4", nil},
			{"a leaf with an extension that is not listed", []mls.Proposal{add(yves, func(k *mls.KeyPackage) { k.LeafNode.Extensions = mls.Extensions{{Type: 0xF001}} })}, "LEAF-5", nil},
			{"a good Add, but the tag", []mls.Proposal{add(yves, same)}, "", mls.ErrAuthentication},
		} {
			commit := &mls.Commit{}
			for _, p := range c.list {
				commit.Proposals = append(commit.Proposals, mls.ProposalOrRef{Proposal: p})
			}
			for _, tag := range [][]byte{make([]byte, 32), nil, {0}} {
				wantRefusal(t, fmt.Sprintf("wire format %d: %s", wire, c.what), alice, forge(commit, tag), c.rule, c.want)
			}
		}
		unknown := &mls.Commit{Proposals: []mls.ProposalOrRef{{Reference: []byte("unknown")}}}
		wantRefusal(t, "an unknown reference", alice, forge(unknown, nil), "", mls.ErrMissingProposal)
	}
}

// EXT-2, CRD-2, LEAF-3: external commits that break the rules, signed as whoever
// knows the GroupInfo can.
func TestForgedExternalCommits(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	info, err := alice.g().GroupInfo(t.Context(), alice.env())
	if err != nil {
		t.Fatal(err)
	}
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	good, err := zoe.joinExternal(info)
	if err != nil {
		t.Fatal(err)
	}
	remove := func(i mls.LeafIndex) mls.ProposalOrRef { return mls.ProposalOrRef{Proposal: &mls.Remove{Removed: i}} }
	for _, c := range []struct {
		what   string
		rule   string
		want   error
		change func(*mls.Commit)
	}{
		{"no ExternalInit", "EXT-2", nil, func(c *mls.Commit) { c.Proposals = nil }},
		{"two", "EXT-2", nil, func(c *mls.Commit) { c.Proposals = append(c.Proposals, c.Proposals[0]) }},
		{"two Removes", "EXT-2", nil, func(c *mls.Commit) { c.Proposals = append(c.Proposals, remove(0), remove(1)) }},
		{"an Add", "FR-4", nil, func(c *mls.Commit) {
			c.Proposals = append(c.Proposals, mls.ProposalOrRef{Proposal: &mls.Add{KeyPackage: mallory.keyPackage()}})
		}},
		{"new extensions", "FR-4", nil, func(c *mls.Commit) {
			c.Proposals = append(c.Proposals, mls.ProposalOrRef{Proposal: &mls.GroupContextExtensions{}})
		}},
		{"a Remove of a blank leaf", "PRP-4", nil, func(c *mls.Commit) { c.Proposals = append(c.Proposals, remove(3)) }},
		{"a kem_output that is none", "", core.ErrInvalid, func(c *mls.Commit) {
			c.Proposals = []mls.ProposalOrRef{{Proposal: &mls.ExternalInit{KEMOutput: make([]byte, 32)}}}
		}},
		{"an empty kem_output", "", core.ErrInvalid, func(c *mls.Commit) {
			c.Proposals = []mls.ProposalOrRef{{Proposal: &mls.ExternalInit{}}}
		}},
		{"a node too few", "PATH-2", nil, func(c *mls.Commit) { c.Path.Nodes = c.Path.Nodes[1:] }},
		{"a leaf signed for another place", "", mls.ErrAuthentication, func(c *mls.Commit) { c.Path.LeafNode.Signature[9] ^= 1 }},
		{"nothing but the tag", "", mls.ErrAuthentication, func(*mls.Commit) {}},
	} {
		message, err := mls.ForgeExternalCommit(t.Context(), bob.g(), zoe.signer(), good, c.change)
		if err != nil {
			t.Fatal(err)
		}
		if c.what == "nothing but the tag" {
			message[len(message)-1] ^= 1
		}
		wantRefusal(t, c.what, bob, message, c.rule, c.want)
	}
	if _, err := bob.process(good); err != nil {
		t.Error(err)
	}
}

// damages gives a copy of data for every byte, with one bit of it flipped, and
// some that are cut.
func damages(data []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for i := range data {
			for _, bit := range []byte{0x01, 0x80} {
				damaged := bytes.Clone(data)
				damaged[i] ^= bit
				if !yield(i, damaged) {
					return
				}
			}
		}
	}
}

// COM-13: whatever is damaged inside a handshake that a member signed and tagged is
// refused; what decodes gets as far as it can.
func TestDamagedInside(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	me := mls.Sender{Type: mls.SenderMember, Leaf: mallory.g().OwnLeaf()}
	alice.reload, bob.reload = false, false
	mallory.psks["psk"], bob.psks["psk"] = []byte("key"), []byte("key")
	b, err := mallory.commit(mls.CommitParams{Proposals: []mls.Proposal{
		&mls.Add{KeyPackage: newMember(t, 1, "zoe", mls.DefaultConfig).keyPackage()}, &mls.Remove{Removed: alice.g().OwnLeaf()},
		mallory.g().NewExternalPSK([]byte("psk")), &mls.GroupContextExtensions{},
	}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mls.UnmarshalMLSMessage(b.Commit)
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	before := bob.stored.dump()
	for i, damaged := range damages(m.PublicMessage.Content.Commit.Marshal()) {
		commit, err := mls.UnmarshalCommit(damaged)
		if err != nil {
			continue
		}
		tried++
		message, err := mls.ForgeMessage(ctx, mallory.env(), mallory.g(), mls.WirePublicMessage, me, mallory.signers[0], nil, commit, m.PublicMessage.Auth.ConfirmationTag)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bob.process(message); !errors.Is(err, core.ErrInvalid) && !errors.Is(err, core.ErrNotFound) && !errors.Is(err, core.ErrDenied) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	if bob.stored.dump() != before || tried < 500 {
		t.Errorf("something has changed, or only %d were tried", tried)
	}

	// Proposals: what is refused changes nothing, and what is taken keeps nobody
	// from committing.
	tried = 0
	leaf, err := mallory.g().OwnLeafNode(ctx, mallory.env())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []mls.Proposal{
		&mls.Add{KeyPackage: newMember(t, 1, "yves", mls.DefaultConfig).keyPackage()}, &mls.Update{LeafNode: leaf}, &mls.Remove{Removed: 1},
		mallory.g().NewResumptionPSK(1), &mls.ReInit{GroupID: []byte("g"), Version: 1, Suite: 1},
		&mls.GroupContextExtensions{Extensions: mls.Extensions{mls.RequiredCapabilities{Credentials: []core.CredentialType{1}}.Extension()}},
	} {
		for i, damaged := range damages(mls.MarshalProposal(p)) {
			body, err := mls.UnmarshalProposal(damaged)
			if err != nil {
				continue
			}
			tried++
			message, err := mls.ForgeMessage(ctx, mallory.env(), mallory.g(), mls.WirePublicMessage, me, mallory.signers[0], body, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := bob.process(message); err != nil && !errors.Is(err, core.ErrInvalid) && !errors.Is(err, core.ErrDenied) {
				t.Fatalf("%T, byte %d: %v", p, i, err)
			}
		}
	}
	if _, err := bob.commit(mls.CommitParams{}); err != nil || tried < 200 {
		t.Errorf("%d were tried: %v", tried, err)
	}
}

// WEL-2 to WEL-7, WEL-12: whatever is wrong inside a Welcome that a member signed
// and encrypted is refused.
func TestDamagedInsideWelcome(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	alice, _, _, _ := threesome(t, mls.DefaultConfig, nil)
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	if _, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: zoe.keyPackage()}}}); err != nil {
		t.Fatal(err)
	}
	welcome := func(info func(*mls.GroupInfo), secrets func([]byte) []byte) []byte {
		t.Helper()
		message, err := mls.ForgeWelcome(ctx, alice.env(), alice.g(), alice.pending, alice.signer(), info, secrets)
		if err != nil {
			t.Fatal(err)
		}
		return message
	}
	sameInfo, same := func(*mls.GroupInfo) {}, func(b []byte) []byte { return b }
	refused := func(what string, message []byte) {
		t.Helper()
		if err := zoe.join(message); !errors.Is(err, core.ErrInvalid) && !errors.Is(err, core.ErrNotFound) && !errors.Is(err, core.ErrUnsupported) || len(zoe.stored) != 0 {
			t.Errorf("%s: %v", what, err)
		}
	}
	var secrets []byte
	welcome(sameInfo, func(b []byte) []byte { secrets = bytes.Clone(b); return b })
	for i, damaged := range damages(secrets) {
		refused(fmt.Sprintf("group secrets, byte %d", i), welcome(sameInfo, func([]byte) []byte { return damaged }))
	}
	var info []byte
	welcome(func(i *mls.GroupInfo) {
		i.Extensions = i.Extensions[:1] // the ratchet tree: who is welcomed needs no external_pub
		info = i.Marshal()
	}, same)
	tried := 0
	for i, damaged := range damages(info[:len(info)-64]) { // not its signature, which is made anew
		changed, err := mls.UnmarshalGroupInfo(append(damaged, info[len(info)-64:]...))
		if err != nil {
			continue
		}
		tried++
		refused(fmt.Sprintf("GroupInfo, byte %d", i), welcome(func(i *mls.GroupInfo) { *i = *changed }, same))
	}
	if tried < 500 {
		t.Errorf("only %d were tried", tried)
	}
	if err := zoe.join(welcome(sameInfo, same)); err != nil {
		t.Error(err)
	}
}

// COD-5 (OpenMLS #2134): extensions of a known type are decoded to their last byte.
func TestTrailingBytesInExtensions(t *testing.T) {
	t.Parallel()
	alice, _, _, _ := threesome(t, mls.DefaultConfig, nil)
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	for what, data := range map[string][]byte{"whole": {1, 'x'}, "longer": {1, 'x', 0}, "cut": {2, 'x'}, "empty": nil} {
		kp := zoe.keyPackage()
		kp.LeafNode.Extensions = mls.Extensions{{Type: mls.ExtensionApplicationID, Data: data}}
		if err := mls.ForgeKeyPackage(t.Context(), zoe.signer(), kp); err != nil {
			t.Fatal(err)
		}
		if err := kp.Validate(zoe.suite, time.Time{}); (err == nil) != (what == "whole") {
			t.Errorf("application_id, %s: %v", what, err)
		}
	}
	senders := mls.ExternalSendersExtension(nil)
	senders.Data = append(senders.Data, 0)
	if _, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.ReInit{Version: 1, Suite: 1, Extensions: mls.Extensions{senders}}}}); !errors.Is(err, mls.ErrMalformed) {
		t.Errorf("external_senders of a ReInit: %v", err)
	}
	zoe.keyPackage()
	if _, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: zoe.bundle.KeyPackage}}}); err != nil {
		t.Fatal(err)
	}
	welcome, err := mls.ForgeWelcome(t.Context(), alice.env(), alice.g(), alice.pending, alice.signer(), func(i *mls.GroupInfo) {
		i.Extensions[1].Data = append(i.Extensions[1].Data, 0)
	}, func(b []byte) []byte { return b })
	if err != nil {
		t.Fatal(err)
	}
	if err := zoe.join(welcome); !errors.Is(err, mls.ErrMalformed) {
		t.Errorf("external_pub: %v", err)
	}
}
