// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

func (m *member) groupInfo() []byte {
	m.t.Helper()
	info, err := m.g().GroupInfo(m.t.Context(), m.env(), mls.GroupInfoParams{})
	if err != nil {
		m.t.Fatal(err)
	}
	return info
}

// A watcher checks an observer against a member after every message.
type watcher struct {
	t *testing.T
	o *mls.Observer
	m *member
}

func (w *watcher) follow(message []byte) mls.Processed {
	w.t.Helper()
	msg, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		w.t.Fatal(err)
	}
	next, result, err := w.o.Process(w.t.Context(), w.m.env(), msg)
	if err != nil {
		w.t.Fatalf("observer: %v", err)
	}
	w.o = next
	return result
}

func (w *watcher) agree() {
	w.t.Helper()
	g := w.m.g()
	tree, err := g.RatchetTree(w.t.Context(), w.m.env())
	if err != nil {
		w.t.Fatal(err)
	}
	if w.o.Epoch() != g.Epoch() || !bytes.Equal(w.o.TreeHash(), g.TreeHash()) ||
		!bytes.Equal(w.o.ConfirmationTag(), g.ConfirmationTag()) || !bytes.Equal(w.o.RatchetTree(), tree) {
		w.t.Fatalf("observer in epoch %d, member in epoch %d: they do not agree", w.o.Epoch(), g.Epoch())
	}
}

// XS-1, XS-3, XS-4, XS-5: an observer follows a group by its public messages; an
// external sender and a new member propose from outside, members commit it.
func TestObserver(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	config := mls.DefaultConfig
	config.AcceptAnyWire = true
	alice, bob, carol := newMember(t, 1, "alice", config), newMember(t, 1, "bob", config), newMember(t, 1, "carol", config)
	server := newMember(t, 1, "server", config)
	senders := mls.ExternalSendersExtension([]mls.ExternalSender{
		{SignatureKey: carol.newSigner().Public(), Credential: core.BasicCredential("another server")},
		{SignatureKey: server.signer().Public(), Credential: core.BasicCredential("server")},
	})
	alice.create("group", mls.Extensions{senders})
	p := party{alice}
	info, err := mls.UnmarshalMLSMessage(alice.groupInfo())
	if err != nil {
		t.Fatal(err)
	}
	o, err := mls.Observe(server.env(), info.GroupInfo, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{t, o, alice}
	commit := func(by *member, params mls.CommitParams, joining ...*member) {
		t.Helper()
		b, err := by.commit(params)
		if err != nil {
			t.Fatal(err)
		}
		p.deliver(t, by, b.Commit)
		by.merge()
		for _, m := range joining {
			if err := m.join(b.Welcome); err != nil {
				t.Fatal(err)
			}
			p = append(p, m)
		}
		w.follow(b.Commit)
		w.agree()
	}
	commit(alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}}, bob)

	outside := func(sender mls.Sender, signer core.Signer, proposal mls.Proposal) {
		t.Helper()
		message, err := mls.ProposeExternal(ctx, server.env(), mls.ExternalProposalParams{
			Suite: 1, GroupID: w.o.GroupID(), Epoch: w.o.Epoch(), Sender: sender, Signer: signer, Proposal: proposal,
		})
		if err != nil {
			t.Fatal(err)
		}
		p.deliver(t, nil, message)
		if r := w.follow(message).(*mls.ReceivedProposal); r.Sender != sender || r.Proposal.Type() != proposal.Type() {
			t.Errorf("got %+v", r)
		}
	}
	external := mls.Sender{Type: mls.SenderExternal, Index: 1}
	carol.signers = carol.signers[:1]
	outside(mls.Sender{Type: mls.SenderNewMemberProposal}, carol.signer(), &mls.Add{KeyPackage: carol.keyPackage()})
	commit(bob, mls.CommitParams{}, carol)
	if len(w.o.Members()) != 3 {
		t.Fatalf("%d members", len(w.o.Members()))
	}
	outside(external, server.signer(), &mls.Remove{Removed: carol.g().OwnLeaf()})
	outside(external, server.signer(), &mls.GroupContextExtensions{Extensions: mls.Extensions{senders, mls.RequiredCapabilities{Credentials: []core.CredentialType{1}}.Extension()}})
	commit(alice, mls.CommitParams{})
	p = party{alice, bob}
	commit(bob, mls.CommitParams{ForcePath: true})
	// an update that somebody else commits, and an external commit
	message, err := bob.proposeUpdate(mls.LeafParams{})
	if err != nil {
		t.Fatal(err)
	}
	p.deliver(t, bob, message)
	w.follow(message)
	commit(alice, mls.CommitParams{})
	join, err := carol.joinExternal(alice.groupInfo())
	if err != nil {
		t.Fatal(err)
	}
	p.deliver(t, nil, join)
	w.follow(join)
	w.agree()

	text, err := bob.send("not for you")
	if err != nil {
		t.Fatal(err)
	}
	private, _ := mls.UnmarshalMLSMessage(text)
	if _, _, err := w.o.Process(ctx, server.env(), private); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("a PrivateMessage: %v", err)
	}
	outside(external, server.signer(), &mls.ReInit{GroupID: []byte("next"), Version: mls.MLS10, Suite: 2})
	commit(alice, mls.CommitParams{})
	if w.o.ReInit() == nil || alice.g().ReInit() == nil || alice.g().Active() {
		t.Error("the group goes on after a ReInit")
	}
}
