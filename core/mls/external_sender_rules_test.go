// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A gate is a group of three with one external sender, and an observer of it.
type gate struct {
	t                   *testing.T
	alice, bob, mallory *member
	server              *member
	all                 party
	observer            *mls.Observer
}

func newGate(t *testing.T) *gate {
	t.Helper()
	g := &gate{t: t, server: newMember(t, 1, "server", mls.DefaultConfig)}
	g.alice, g.bob, g.mallory, g.all = threesome(t, mls.DefaultConfig, mls.Extensions{mls.ExternalSendersExtension([]mls.ExternalSender{
		{SignatureKey: g.server.signer().Public(), Credential: core.BasicCredential("server")},
	})})
	g.observe()
	return g
}

func (g *gate) observe() {
	g.t.Helper()
	o, err := mls.Observe(g.server.env(), parseInfo(g.t, g.alice.groupInfo()), nil)
	if err != nil {
		g.t.Fatal(err)
	}
	g.observer = o
}

var fromServer = mls.Sender{Type: mls.SenderExternal}

// forge makes a message from outside that nobody has checked: without the GroupContext
// under its signature.
func (g *gate) forge(from mls.Sender, signer core.Signer, p mls.Proposal) []byte {
	g.t.Helper()
	return g.alice.forge(mls.Forgery{Wire: mls.WirePublicMessage, Signer: signer, Content: func(c *mls.FramedContent) {
		proposing(p)(c)
		c.Sender = from
	}})
}

// refused checks that members and observers refuse a message.
func (g *gate) refused(what string, message []byte, rule string, want error) {
	g.t.Helper()
	wantRefusal(g.t, what, g.bob, message, rule, want)
	m, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		return
	}
	o, result, err := g.observer.Process(g.t.Context(), g.server.env(), m)
	if rule != "" && !isRule(err, rule) || rule == "" && !errors.Is(err, want) || o != nil || result != nil {
		g.t.Errorf("%s, for an observer: %v, want %s %v", what, err, rule, want)
	}
}

// XS-1: an external sender is known by its place in external_senders and by its key, and
// signs without the GroupContext, which it need not know.
func TestExternalSenderIsListed(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	remove := &mls.Remove{Removed: g.mallory.g().OwnLeaf()}
	for _, index := range []uint32{1, 1 << 31, math.MaxUint32} {
		g.refused(fmt.Sprint("sender ", index), g.forge(mls.Sender{Type: mls.SenderExternal, Index: index}, g.server.signer(), remove), "XS-1", nil)
	}
	g.refused("another key", g.forge(fromServer, g.mallory.signer(), remove), "", mls.ErrAuthentication)
	member := g.alice.forge(mls.Forgery{Wire: mls.WirePublicMessage, Signer: g.server.signer(), Content: func(c *mls.FramedContent) {
		proposing(remove)(c)
		c.Sender.Leaf = g.alice.g().OwnLeaf()
	}})
	wantRefusal(t, "as a member", g.bob, member, "", mls.ErrAuthentication)
	// Whatever context is under a member's signature is under no outsider's.
	good := mls.Forgery{Wire: mls.WirePublicMessage, Signer: g.server.signer(), Context: []byte("unknown"), Content: func(c *mls.FramedContent) {
		proposing(remove)(c)
		c.Sender = fromServer
	}}
	if r, err := g.bob.process(g.alice.forge(good)); err != nil || r.(*mls.ReceivedProposal).Sender != fromServer {
		t.Errorf("%+v, %v", r, err)
	}
	// Without the extension nobody is listed.
	b, err := g.alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.GroupContextExtensions{}}})
	if err != nil {
		t.Fatal(err)
	}
	g.all.deliver(t, g.alice, b.Commit)
	g.alice.merge()
	g.observe()
	g.refused("no extension", g.forge(fromServer, g.server.signer(), &mls.Remove{Removed: 2}), "XS-1", nil)
}

// XS-2, mlspp#429: an external sender proposes to add, to remove, a PSK, a ReInit and
// new extensions, and nothing else; what it proposes is checked like a member's.
func TestWhatExternalSendersPropose(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	senders := g.alice.g().Extensions()
	for what, p := range map[string]mls.Proposal{
		"add": adding(zoe), "remove": &mls.Remove{Removed: g.mallory.g().OwnLeaf()}, "psk": g.alice.g().NewResumptionPSK(1),
		"reinit": &mls.ReInit{GroupID: []byte("next"), Version: mls.MLS10, Suite: 1}, "extensions": &mls.GroupContextExtensions{Extensions: senders},
	} {
		message, err := mls.ProposeExternal(t.Context(), g.server.env(), mls.ExternalProposalParams{
			Suite: 1, GroupID: []byte("group"), Epoch: g.alice.g().Epoch(), Sender: fromServer, Signer: g.server.signer(), Proposal: p,
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newProbe().processWith(g.bob, message); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		m, err := mls.UnmarshalMLSMessage(message)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := g.observer.Process(t.Context(), g.server.env(), m); err != nil {
			t.Errorf("%s, for an observer: %v", what, err)
		}
	}
	broken := adding(zoe)
	broken.KeyPackage.Signature[0] ^= 1
	for what, c := range map[string]struct {
		p    mls.Proposal
		rule string
		want error
	}{
		"update":             {g.mallory.newUpdate(), "XS-2", nil},
		"external init":      {&mls.ExternalInit{KEMOutput: make([]byte, 32)}, "XS-2", nil},
		"remove of a blank":  {&mls.Remove{Removed: 3}, "PRP-4", nil},
		"a broken package":   {broken, "", mls.ErrAuthentication},
		"a tree in a GCE":    {&mls.GroupContextExtensions{Extensions: mls.Extensions{{Type: mls.ExtensionRatchetTree}}}, "PRP-8", nil},
		"an earlier version": {&mls.ReInit{GroupID: []byte("next"), Suite: 1}, "RE-4", nil},
	} {
		g.refused(what, g.forge(fromServer, g.server.signer(), c.p), c.rule, c.want)
		if c.rule == "XS-2" {
			if _, err := mls.ProposeExternal(t.Context(), g.server.env(), mls.ExternalProposalParams{
				Suite: 1, GroupID: []byte("group"), Epoch: 1, Sender: fromServer, Signer: g.server.signer(), Proposal: c.p,
			}); !isRule(err, "XS-2") {
				t.Errorf("%s, made: %v", what, err)
			}
		}
	}
	commit := g.alice.forge(mls.Forgery{Wire: mls.WirePublicMessage, Signer: g.server.signer(), Content: func(c *mls.FramedContent) {
		committing(&mls.Commit{Path: pathOf(t, g.alice)})(c)
		c.Sender = fromServer
	}})
	g.refused("a commit", commit, "FR-4", nil)
}

// XS-3: a client that is not in the group proposes to add itself, signed with the key of
// its key package, and nothing else; whether it may is for the application to decide.
func TestNewMemberProposes(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	self := mls.Sender{Type: mls.SenderNewMemberProposal}
	add := adding(zoe)
	params := mls.ExternalProposalParams{Suite: 1, GroupID: []byte("group"), Epoch: g.alice.g().Epoch(), Sender: self, Signer: zoe.signer(), Proposal: add}
	for what, p := range map[string]mls.Proposal{
		"remove": &mls.Remove{Removed: 1}, "psk": g.alice.g().NewResumptionPSK(1), "extensions": &mls.GroupContextExtensions{},
		"reinit": &mls.ReInit{GroupID: []byte("next"), Version: mls.MLS10, Suite: 1}, "update": g.mallory.newUpdate(), "external init": &mls.ExternalInit{},
	} {
		g.refused(what, g.forge(self, zoe.signer(), p), "XS-3", nil)
		other := params
		other.Proposal = p
		if _, err := mls.ProposeExternal(t.Context(), zoe.env(), other); !isRule(err, "XS-3") {
			t.Errorf("%s, made: %v", what, err)
		}
	}
	g.refused("somebody else's key package", g.forge(self, g.mallory.signer(), add), "", mls.ErrAuthentication)
	other := params
	other.Signer = g.mallory.signer()
	if _, err := mls.ProposeExternal(t.Context(), zoe.env(), other); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("somebody else's key package, made: %v", err)
	}
	message, err := mls.ProposeExternal(t.Context(), zoe.env(), params)
	if err != nil {
		t.Fatal(err)
	}
	m, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		t.Fatal(err)
	}
	env := g.bob.env()
	env.Auth = &strict{denied: "zoe"}
	if _, _, _, err := g.bob.g().Process(t.Context(), env, m); !errors.Is(err, core.ErrDenied) {
		t.Errorf("one whom the application does not want: %v", err)
	}
	g.all.deliver(t, nil, message)
	g.all.commitAll(t, g.bob, mls.CommitParams{}, zoe).talk(t)
}

// XS-4, FR-4: what comes from outside is a PublicMessage without a membership tag, also into
// groups whose members encrypt.
func TestOutsidersSendInClear(t *testing.T) {
	t.Parallel()
	config := mls.DefaultConfig
	config.Handshake = mls.HandshakePrivate
	server := newMember(t, 1, "server", config)
	alice, bob, mallory, all := threesome(t, config, mls.Extensions{mls.ExternalSendersExtension([]mls.ExternalSender{
		{SignatureKey: server.signer().Public(), Credential: core.BasicCredential("server")},
	})})
	zoe := newMember(t, 1, "zoe", config)
	for _, p := range []mls.ExternalProposalParams{
		{Sender: fromServer, Signer: server.signer(), Proposal: &mls.Remove{Removed: mallory.g().OwnLeaf()}},
		{Sender: mls.Sender{Type: mls.SenderNewMemberProposal}, Signer: zoe.signer(), Proposal: adding(zoe)},
	} {
		p.Suite, p.GroupID, p.Epoch, p.AuthenticatedData = 1, []byte("group"), alice.g().Epoch(), []byte("aad")
		message, err := mls.ProposeExternal(t.Context(), server.env(), p)
		if err != nil {
			t.Fatal(err)
		}
		m, err := mls.UnmarshalMLSMessage(message)
		if err != nil || m.PublicMessage == nil || m.PublicMessage.MembershipTag != nil {
			t.Fatalf("%+v, %v", m, err)
		}
		tagged := append(bytes.Clone(message), append([]byte{32}, make([]byte, 32)...)...)
		wantRefusal(t, "with a tag", bob, tagged, "", mls.ErrMalformed)
		for _, m := range all {
			r, err := m.process(message)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.(*mls.ReceivedProposal); got.Sender != p.Sender || string(got.AuthenticatedData) != "aad" {
				t.Errorf("%+v", got)
			}
		}
	}
	all.commitAll(t, bob, mls.CommitParams{}, zoe).talk(t)
	if _, err := mls.ProposeExternal(t.Context(), server.env(), mls.ExternalProposalParams{
		Suite: 1, GroupID: []byte("group"), Sender: mls.Sender{Type: mls.SenderMember}, Signer: server.signer(), Proposal: &mls.Remove{},
	}); !isRule(err, "FR-4") {
		t.Errorf("as a member: %v", err)
	}
}

// XS-5: who follows a group from outside refuses what can be seen to be wrong, and is
// where it was.
func TestObserverRefuses(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	before := g.observer
	hash := before.TreeHash()
	b, err := g.alice.commit(mls.CommitParams{ForcePath: true})
	if err != nil {
		t.Fatal(err)
	}
	good, err := mls.UnmarshalMLSMessage(b.Commit)
	if err != nil {
		t.Fatal(err)
	}
	change := func(change func(*mls.PublicMessage)) []byte {
		m, err := mls.UnmarshalMLSMessage(b.Commit)
		if err != nil {
			t.Fatal(err)
		}
		change(m.PublicMessage)
		return m.Marshal()
	}
	resigned := func(change func(*mls.Commit)) []byte {
		commit, err := mls.UnmarshalCommit(good.PublicMessage.Content.Commit.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		change(commit)
		return g.alice.forge(mls.Forgery{Wire: mls.WirePublicMessage, Content: committing(commit),
			Signed: func(a *mls.AuthenticatedContent) { a.Auth.ConfirmationTag = good.PublicMessage.Auth.ConfirmationTag }})
	}
	for what, c := range map[string]struct {
		message []byte
		rule    string
		want    error
	}{
		"another group":      {change(func(m *mls.PublicMessage) { m.Content.GroupID = []byte("other") }), "", mls.ErrWrongGroup},
		"another epoch":      {change(func(m *mls.PublicMessage) { m.Content.Epoch++ }), "", mls.ErrWrongEpoch},
		"another sender":     {change(func(m *mls.PublicMessage) { m.Content.Sender.Leaf = 1 }), "", mls.ErrAuthentication},
		"a sender not there": {change(func(m *mls.PublicMessage) { m.Content.Sender.Leaf = 7 }), "", core.ErrInvalid},
		"a signature":        {change(func(m *mls.PublicMessage) { m.Auth.Signature[0] ^= 1 }), "", mls.ErrAuthentication},
		"no path":            {resigned(func(c *mls.Commit) { c.Path = nil }), "PRP-7", nil},
		"a leaf":             {resigned(func(c *mls.Commit) { c.Path.LeafNode.Signature[0] ^= 1 }), "", mls.ErrAuthentication},
		"a path too short":   {resigned(func(c *mls.Commit) { c.Path.Nodes = c.Path.Nodes[1:] }), "PATH-2", nil},
		"a proposal":         {resigned(func(c *mls.Commit) { c.Proposals = []mls.ProposalOrRef{{Proposal: &mls.Remove{Removed: 3}}} }), "PRP-4", nil},
		"the list":           {resigned(func(c *mls.Commit) { c.Proposals = []mls.ProposalOrRef{{Proposal: &mls.Remove{Removed: 0}}} }), "PRP-3", nil},
		"a reference":        {resigned(func(c *mls.Commit) { c.Proposals = []mls.ProposalOrRef{{Reference: []byte("x")}} }), "", mls.ErrMissingProposal},
	} {
		m, err := mls.UnmarshalMLSMessage(c.message)
		if err != nil {
			t.Fatal(err)
		}
		o, result, err := g.observer.Process(t.Context(), g.server.env(), m)
		if c.rule != "" && !isRule(err, c.rule) || c.rule == "" && !errors.Is(err, c.want) || o != nil || result != nil {
			t.Errorf("%s: %v, want %s %v", what, err, c.rule, c.want)
		}
	}
	if before.Epoch() != 1 || !bytes.Equal(before.TreeHash(), hash) {
		t.Error("the observer has moved")
	}
	o, result, err := before.Process(t.Context(), g.server.env(), good)
	if err != nil {
		t.Fatal(err)
	}
	g.alice.merge()
	if c := result.(*mls.ReceivedCommit); o.Epoch() != 2 || !bytes.Equal(o.TreeHash(), g.alice.g().TreeHash()) || c.Committer.Leaf != 0 {
		t.Errorf("epoch %d, %+v", o.Epoch(), c)
	}
}
