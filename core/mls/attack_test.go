// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
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
func checkPageVersions(t testing.TB, m *member, window uint64) {
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
	info, err := alice.g().GroupInfo(t.Context(), alice.env(), mls.GroupInfoParams{})
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
	env.Fetch = func(context.Context, []record.Query) ([][]record.Record, error) {
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

// COD-5, openmls#2134: extensions of a known type are decoded to their last byte.
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
