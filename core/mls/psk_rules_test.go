// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// externalWith joins from outside with PSKs.
func (m *member) externalWith(info *mls.GroupInfo, psks ...mls.PreSharedKeyID) (*mls.Group, []byte, *record.WriteSet, error) {
	return mls.JoinExternal(m.t.Context(), m.env(), mls.ExternalParams{
		GroupInfo: info, Signer: m.signer(), Credential: core.BasicCredential(core.ClientID(m.name)),
		Capabilities: m.capabilities(), PSKs: psks, Config: m.config,
	})
}

// forgedPSKs are all ways in which PSKs come from somebody who keeps no rules: by
// value, by reference, from outside, and in a Welcome. Each must be refused for the rule.
func forgedPSKs(t *testing.T, suite core.SuiteID, what, rule string, ids ...mls.PreSharedKeyID) {
	t.Helper()
	ctx := t.Context()
	alice, mallory := newMember(t, suite, "alice", mls.DefaultConfig), newMember(t, suite, "mallory", mls.DefaultConfig)
	zoe, yves := newMember(t, suite, "zoe", mls.DefaultConfig), newMember(t, suite, "yves", mls.DefaultConfig)
	for _, m := range []*member{alice, mallory, zoe, yves} {
		m.psks["psk"] = []byte("key")
	}
	mallory.create("group", nil)
	all := party{mallory}.commitAll(t, mallory, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: alice.keyPackage()}}}, alice)
	var list []mls.Proposal
	commit := &mls.Commit{}
	for _, id := range ids {
		list = append(list, &mls.PreSharedKey{PSK: id})
		commit.Proposals = append(commit.Proposals, mls.ProposalOrRef{Proposal: list[len(list)-1]})
	}
	wantRule := func(how string, err error) {
		t.Helper()
		var breached *mls.RuleError
		if !errors.As(err, &breached) || breached.Rule != rule {
			t.Errorf("%s %s: %v, not %s", what, how, err, rule)
		}
	}
	me := mls.Sender{Type: mls.SenderMember, Leaf: mallory.g().OwnLeaf()}
	message, err := mls.ForgeMessage(ctx, mallory.env(), mallory.g(), mls.WirePublicMessage, me, mallory.signer(), nil, commit, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, what+" by value", alice, message, rule, nil)
	_, err = alice.commit(mls.CommitParams{Proposals: list})
	wantRule("in our own commit", err)
	if len(ids) == 1 {
		message, err := mls.ForgeMessage(ctx, mallory.env(), mallory.g(), mls.WirePublicMessage, me, mallory.signer(), list[0], nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, what+" in a proposal", alice, message, rule, nil)
		_, err = alice.propose(list[0])
		wantRule("in our own proposal", err)
	}
	good, err := yves.joinExternal(mustInfo(t, alice))
	if err != nil {
		t.Fatal(err)
	}
	message, err = mls.ForgeExternalCommit(ctx, alice.g(), yves.signer(), good, func(c *mls.Commit) { c.Proposals = append(c.Proposals, commit.Proposals...) })
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, what+" from outside", alice, message, rule, nil)
	_, _, _, err = zoe.externalWith(groupInfo(t, alice), ids...)
	wantRule("in our own external commit", err)
	if rule == "PSK-3" {
		return // in a Welcome it is not a matter of form
	}
	if _, err := mallory.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: zoe.keyPackage()}}}); err != nil {
		t.Fatal(err)
	}
	welcome, err := mls.ForgeWelcome(ctx, mallory.env(), mallory.g(), mallory.pending, mallory.signer(), func(*mls.GroupInfo) {}, func(b []byte) []byte {
		s, err := mls.UnmarshalGroupSecrets(b)
		if err != nil {
			t.Fatal(err)
		}
		s.PSKs = ids
		return s.Marshal()
	})
	if err != nil {
		t.Fatal(err)
	}
	wantRule("in a Welcome", zoe.join(welcome))
	all.agree(t)
}

// PSK-1: the nonce of a PSK has Nh bytes of the group's suite, however the PSK comes.
func TestPSKNonce(t *testing.T) {
	t.Parallel()
	sizes := map[core.SuiteID]int{1: 32, 7: 48}
	if testing.Short() {
		delete(sizes, 7)
	}
	for suite, nh := range sizes {
		for _, length := range []int{0, nh - 1, nh + 1, 80 - nh} {
			id := mls.PreSharedKeyID{Type: mls.PSKExternal, ID: []byte("psk"), Nonce: make([]byte, length)}
			forgedPSKs(t, suite, fmt.Sprintf("nonce of %d bytes", length), "PSK-1", id)
		}
	}
	alice := newMember(t, 1, "alice", mls.DefaultConfig)
	alice.create("group", nil)
	one, two := alice.g().NewExternalPSK([]byte("psk")).PSK.Nonce, alice.g().NewExternalPSK([]byte("psk")).PSK.Nonce
	if len(one) != 32 || bytes.Equal(one, two) {
		t.Errorf("nonces %x and %x", one, two)
	}
}

// PSK-2, openmls#1928: one injection of a PSK cannot come twice.
func TestPSKTwice(t *testing.T) {
	t.Parallel()
	id := mls.PreSharedKeyID{Type: mls.PSKExternal, ID: []byte("psk"), Nonce: make([]byte, 32)}
	other := mls.PreSharedKeyID{Type: mls.PSKExternal, ID: []byte("psk"), Nonce: bytes.Repeat([]byte{1}, 32)}
	forgedPSKs(t, 1, "twice", "PSK-2", id, id)
	forgedPSKs(t, 1, "twice, another between", "PSK-2", id, other, id)
}

// PSK-2: the same key with two nonces is two PSKs.
func TestPSKWithTwoNonces(t *testing.T) {
	t.Parallel()
	alice, bob, carol, all := threesome(t, mls.DefaultConfig, nil)
	for _, m := range all {
		m.psks["psk"] = []byte("key")
	}
	all = all.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{alice.g().NewExternalPSK([]byte("psk")), alice.g().NewExternalPSK([]byte("psk"))}})
	for _, m := range []*member{bob, carol} {
		message, err := m.propose(m.g().NewExternalPSK([]byte("psk")))
		if err != nil {
			t.Fatal(err)
		}
		all.deliver(t, m, message)
	}
	b, err := alice.commit(mls.CommitParams{})
	if err != nil {
		t.Fatal(err)
	}
	all.deliver(t, alice, b.Commit)
	if r := alice.merge(); len(r.Proposals) != 2 {
		t.Errorf("%d PSKs were committed", len(r.Proposals))
	}
	all.agree(t)
}

// PSK-3: the usages reinit and branch are for the first commit of another group.
func TestPSKUsageInProposals(t *testing.T) {
	t.Parallel()
	for _, usage := range []mls.ResumptionUsage{mls.ResumptionReInit, mls.ResumptionBranch} {
		id := mls.PreSharedKeyID{Type: mls.PSKResumption, Usage: usage, GroupID: []byte("group"), Epoch: 1, Nonce: make([]byte, 32)}
		forgedPSKs(t, 1, fmt.Sprintf("usage %d", usage), "PSK-3", id)
	}
}

// PSK-4: without the PSK nothing is proposed or committed; a commit that needs it
// changes nothing, and is processed once the PSK is there.
func TestPSKNotAtHand(t *testing.T) {
	t.Parallel()
	for _, handshake := range []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate} {
		config := mls.DefaultConfig
		config.Handshake = handshake
		alice, bob, carol, all := threesome(t, config, nil)
		before := alice.stored.dump()
		psk := alice.g().NewExternalPSK([]byte("psk"))
		if _, err := alice.propose(psk); !errors.Is(err, mls.ErrMissingPSK) {
			t.Errorf("proposing: %v", err)
		}
		if _, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{psk}}); !errors.Is(err, mls.ErrMissingPSK) {
			t.Errorf("committing: %v", err)
		}
		if _, _, _, err := newMember(t, 1, "zoe", config).externalWith(groupInfo(t, alice), psk.PSK); !errors.Is(err, mls.ErrMissingPSK) {
			t.Errorf("joining: %v", err)
		}
		if alice.stored.dump() != before {
			t.Error("something has changed")
		}
		alice.psks["psk"], carol.psks["psk"] = []byte("key"), []byte("key")
		b, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{psk}, ForcePath: true})
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, "without the PSK", bob, b.Commit, "", mls.ErrMissingPSK)
		bob.psks["psk"] = []byte("yek")
		wantRefusal(t, "with another PSK", bob, b.Commit, "", mls.ErrAuthentication)
		bob.psks["psk"] = []byte("key")
		all.deliver(t, alice, b.Commit)
		alice.merge()
		all.agree(t)
		all.talk(t)
	}
}

// PSK-5: PSKs count in the order in which the commit lists them, by value and by
// reference mixed, and a Welcome lists them for each joiner in that order.
func TestPSKOrder(t *testing.T) {
	t.Parallel()
	alice, bob, carol, all := threesome(t, mls.DefaultConfig, nil)
	zoe, yves := newMember(t, 1, "zoe", mls.DefaultConfig), newMember(t, 1, "yves", mls.DefaultConfig)
	for _, m := range append(slices.Clone(all), zoe, yves) {
		for _, id := range []string{"a", "b", "c", "d"} {
			m.psks[id] = []byte("key of " + id)
		}
	}
	byRef := map[string]mls.ProposalRef{}
	for id, m := range map[string]*member{"b": bob, "d": carol} {
		message, err := m.propose(m.g().NewExternalPSK([]byte(id)))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			if o == m {
				continue
			}
			got, err := o.process(message)
			if err != nil {
				t.Fatal(err)
			}
			byRef[id] = got.(*mls.ReceivedProposal).Ref
		}
	}
	value := func(id string) mls.ProposalOrRef {
		return mls.ProposalOrRef{Proposal: alice.g().NewExternalPSK([]byte(id))}
	}
	list := []mls.ProposalOrRef{
		{Reference: byRef["d"]}, {Proposal: &mls.Add{KeyPackage: zoe.keyPackage()}}, value("c"),
		{Reference: byRef["b"]}, value("a"), {Proposal: &mls.Add{KeyPackage: yves.keyPackage()}},
	}
	g, pending, ws, err := mls.ForgeList(t.Context(), alice.env(), alice.g(), list)
	if err != nil {
		t.Fatal(err)
	}
	alice.set(g, ws)
	alice.pending = pending
	b, err := pending.Bundle(t.Context(), alice.env(), alice.g())
	if err != nil {
		t.Fatal(err)
	}
	m, err := mls.UnmarshalMLSMessage(b.Welcome)
	if err != nil {
		t.Fatal(err)
	}
	for _, joiner := range []*member{zoe, yves} {
		secrets, err := mls.OpenWelcome(t.Context(), joiner.suite, joiner.bundle, m.Welcome)
		if err != nil {
			t.Fatal(err)
		}
		order := ""
		for _, id := range secrets.PSKs {
			order += string(id.ID)
		}
		if order != "dcba" {
			t.Errorf("%s is told of %s", joiner.name, order)
		}
	}
	all.deliver(t, alice, b.Commit)
	alice.merge()
	for _, m := range []*member{zoe, yves} {
		if err := m.join(b.Welcome); err != nil {
			t.Fatal(err)
		}
	}
	append(all, zoe, yves).agree(t)
}

// PSK-6: the resumption PSKs of the current epoch and of as many before it as are to
// be kept are at hand, whatever is kept of messages; older and future ones are not.
func TestResumptionPSKs(t *testing.T) {
	t.Parallel()
	for _, keep := range []uint32{0, 1, 3} {
		for _, past := range []uint32{0, 2} {
			config := mls.DefaultConfig
			config.ResumptionEpochs, config.MaxPastEpochs = keep, past
			alice, bob := newMember(t, 1, "alice", config), newMember(t, 1, "bob", config)
			alice.create("group", nil)
			all := party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}}, bob)
			var secrets [][]byte // by epoch, from 1
			now := func() uint64 { return alice.g().Epoch() }
			for range 5 {
				secret, ok := bob.g().ResumptionPSK(now())
				if !ok {
					t.Fatal("the current epoch has no resumption PSK")
				}
				secrets = append(secrets, secret.Bytes())
				all.commitAll(t, alice, mls.CommitParams{ForcePath: true})
			}
			for epoch := uint64(1); epoch <= now()+1; epoch++ {
				there := epoch <= now() && now()-epoch <= uint64(keep)
				for _, m := range all {
					secret, ok := m.g().ResumptionPSK(epoch)
					if ok != there || ok && epoch < now() && !bytes.Equal(secret.Bytes(), secrets[epoch-1]) {
						t.Errorf("%d are kept: %s has the PSK of epoch %d in epoch %d: %v", keep, m.name, epoch, now(), ok)
					}
				}
				psk := alice.g().NewResumptionPSK(epoch)
				if _, err := alice.propose(psk); !there && !errors.Is(err, mls.ErrMissingPSK) {
					t.Errorf("%d are kept: epoch %d is proposed in epoch %d: %v", keep, epoch, now(), err)
				}
				commit := &mls.Commit{Proposals: []mls.ProposalOrRef{{Proposal: psk}}}
				message, err := mls.ForgeMessage(t.Context(), alice.env(), alice.g(), mls.WirePublicMessage,
					mls.Sender{Type: mls.SenderMember, Leaf: alice.g().OwnLeaf()}, alice.signer(), nil, commit, make([]byte, 32))
				if err != nil {
					t.Fatal(err)
				}
				want := mls.ErrAuthentication // the tag, after the PSK was found
				if !there {
					want = mls.ErrMissingPSK
				}
				wantRefusal(t, fmt.Sprintf("%d are kept: epoch %d is committed in epoch %d", keep, epoch, now()), bob, message, "", want)
			}
			all.commitAll(t, bob, mls.CommitParams{Proposals: []mls.Proposal{bob.g().NewResumptionPSK(now() - uint64(keep))}})
		}
	}
}

// PSK-6: the resumption PSK of another group is asked for by that group's id.
func TestResumptionPSKOfAnotherGroup(t *testing.T) {
	t.Parallel()
	alice, bob, _, all := threesome(t, mls.DefaultConfig, nil)
	other := newMember(t, 1, "alice", mls.DefaultConfig)
	other.create("another group", nil)
	lend := func(m *member) *mls.Env {
		env := m.env()
		env.PSK = func(_ context.Context, id mls.PreSharedKeyID) (core.Secret, error) {
			if id.Type != mls.PSKResumption || string(id.GroupID) != "another group" {
				return core.Secret{}, core.ErrNotFound
			}
			secret, ok := other.g().ResumptionPSK(id.Epoch)
			if !ok {
				return core.Secret{}, mls.ErrMissingPSK
			}
			return secret, nil
		}
		return env
	}
	psk := alice.g().NewResumptionPSK(0)
	psk.PSK.GroupID = []byte("another group")
	g, pending, ws, err := alice.g().Commit(t.Context(), lend(alice), mls.CommitParams{Proposals: []mls.Proposal{psk}})
	if err != nil {
		t.Fatal(err)
	}
	alice.set(g, ws)
	alice.pending = pending
	wantRefusal(t, "without that group", bob, pending.Message(), "", mls.ErrMissingPSK)
	m, err := mls.UnmarshalMLSMessage(pending.Message())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all[1:] {
		g, _, ws, err := o.g().Process(t.Context(), lend(o), m)
		if err != nil {
			t.Fatal(err)
		}
		o.set(g, ws)
	}
	alice.merge()
	all.agree(t)
	psk.PSK.Epoch = 1
	if _, _, _, err := alice.g().Commit(t.Context(), lend(alice), mls.CommitParams{Proposals: []mls.Proposal{psk}}); !errors.Is(err, mls.ErrMissingPSK) {
		t.Errorf("an epoch that the other group has not reached: %v", err)
	}
}

// PSK-7: a Welcome beside a resumption PSK of an epoch before the joiner's is refused
// as such, and the others go on.
func TestResumptionPSKInWelcome(t *testing.T) {
	t.Parallel()
	alice, _, _, all := threesome(t, mls.DefaultConfig, nil)
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	b, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: zoe.keyPackage()}, alice.g().NewResumptionPSK(alice.g().Epoch())}})
	if err != nil {
		t.Fatal(err)
	}
	all.deliver(t, alice, b.Commit)
	alice.merge()
	all.agree(t)
	if err := zoe.join(b.Welcome); !errors.Is(err, mls.ErrMissingPSK) || len(zoe.stored) != 0 {
		t.Errorf("joining: %v", err)
	}
}
