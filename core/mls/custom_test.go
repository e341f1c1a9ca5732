// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

const (
	poll  mls.ProposalType = 0xF100 // without a path
	purge mls.ProposalType = 0xF200 // with a path
)

var errTooLong = errors.New("a body of more than 100 bytes")

// customTypes are what the tests' application knows.
func customTypes() map[mls.ProposalType]mls.CustomProposal {
	return map[mls.ProposalType]mls.CustomProposal{
		poll: {Validate: func(p *mls.Custom, _ mls.Sender) error {
			if len(p.Body) > 100 {
				return errTooLong
			}
			return nil
		}},
		purge:           {PathRequired: true},
		mls.ProposalAdd: {}, // which is no business of an application
		0x0A0A:          {},
	}
}

func listing(types ...mls.ProposalType) *mls.Capabilities {
	c := mls.DefaultCapabilities(provider.Suites())
	c.Proposals = types
	return &c
}

// pollers are members who know the custom types, and mute, who does not.
func pollers(t *testing.T, extensions mls.Extensions) (alice, bob, mute *member, p party) {
	t.Helper()
	alice, bob, mute = newMember(t, 1, "alice", mls.DefaultConfig), newMember(t, 1, "bob", mls.DefaultConfig), newMember(t, 1, "mute", mls.DefaultConfig)
	for _, m := range []*member{alice, bob} {
		m.able, m.custom = listing(poll, purge), customTypes()
	}
	alice.create("group", extensions)
	return alice, bob, mute, party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}}, bob)
}

func customOf(list []mls.ReceivedProposal) (bodies []string) {
	for _, p := range list {
		if c, ok := p.Proposal.(*mls.Custom); ok {
			bodies = append(bodies, fmt.Sprintf("%x %s", uint16(c.ProposalType), c.Body))
		}
	}
	return bodies
}

// PRP-11, PRP-7: proposals that the application brings go through a group by value and
// by reference, and force a path if they say so.
func TestCustomProposals(t *testing.T) {
	t.Parallel()
	alice, bob, _, p := pollers(t, nil)
	for _, c := range []struct {
		custom *mls.Custom
		path   bool
	}{
		{&mls.Custom{ProposalType: poll, Body: []byte("tea?")}, false},
		{&mls.Custom{ProposalType: purge, Body: []byte("all")}, true},
		{&mls.Custom{ProposalType: poll}, false},
	} {
		for _, byReference := range []bool{false, true} {
			params := mls.CommitParams{Proposals: []mls.Proposal{c.custom}}
			if byReference {
				propose(t, bob, alice, c.custom)
				params.Proposals = nil
			}
			bundle, err := alice.commit(params)
			if err != nil {
				t.Fatal(err)
			}
			if alice.pending.HasPath() != c.path {
				t.Errorf("type 0x%04X: path %v", c.custom.ProposalType, !c.path)
			}
			result, err := bob.process(bundle.Commit)
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("[%x %s]", uint16(c.custom.ProposalType), c.custom.Body)
			for _, r := range []*mls.ReceivedCommit{alice.merge(), result.(*mls.ReceivedCommit)} {
				if got := fmt.Sprint(customOf(r.Proposals)); got != want {
					t.Errorf("the application gets %s, want %s", got, want)
				}
			}
			p.agree(t)
		}
	}
	p.talk(t)

	// a commit without the path that its proposal asks for
	message, err := mls.ForgeMessage(t.Context(), alice.env(), alice.g(), mls.WirePublicMessage,
		mls.Sender{Type: mls.SenderMember}, alice.signer(), nil,
		&mls.Commit{Proposals: []mls.ProposalOrRef{{Proposal: &mls.Custom{ProposalType: purge}}}}, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "no path", bob, message, "PRP-7", nil)
}

// PRP-11, COD-6, XS-2: a type that the application did not bring is not supported; one
// that it brought is refused if the application says so, if our leaf does not list it,
// or if somebody sends it who is no member.
func TestCustomProposalsRefused(t *testing.T) {
	t.Parallel()
	keys := newMember(t, 1, "outsider", mls.DefaultConfig)
	senders := mls.ExternalSendersExtension([]mls.ExternalSender{{SignatureKey: keys.signer().Public(), Credential: core.BasicCredential("outsider")}})
	alice, bob, mute, p := pollers(t, mls.Extensions{senders})
	bob.able = listing(poll, purge, 0x0A0A)
	p = p.commitAll(t, bob, mls.CommitParams{Leaf: mls.LeafParams{Capabilities: bob.able}})
	p = p.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: mute.keyPackage()}}}, mute)
	me := mls.Sender{Type: mls.SenderMember, Leaf: bob.g().OwnLeaf()}
	for _, c := range []struct {
		what   string
		custom *mls.Custom
		rule   string
		want   error
	}{
		{"a type that nobody knows", &mls.Custom{ProposalType: 0xF300}, "", core.ErrUnsupported},
		{"a draft's", &mls.Custom{ProposalType: 8}, "", core.ErrUnsupported},
		{"one that the application refuses", &mls.Custom{ProposalType: poll, Body: make([]byte, 101)}, "", errTooLong},
		{"GREASE", &mls.Custom{ProposalType: 0x0A0A}, "PRP-11", nil},
	} {
		check := func(what string, err error) {
			t.Helper()
			var breached *mls.RuleError
			if c.rule == "" && !errors.Is(err, c.want) || c.rule != "" && (!errors.As(err, &breached) || breached.Rule != c.rule) {
				t.Errorf("%s, %s: %v", c.what, what, err)
			}
		}
		_, _, _, err := bob.g().Propose(t.Context(), bob.env(), c.custom, nil)
		check("propose", err)
		_, err = bob.commit(mls.CommitParams{Proposals: []mls.Proposal{c.custom}})
		check("commit", err)
		for what, commit := range map[string]*mls.Commit{"proposal": nil, "commit": {Proposals: []mls.ProposalOrRef{{Proposal: c.custom}}}} {
			message, err := mls.ForgeMessage(t.Context(), bob.env(), bob.g(), mls.WirePublicMessage, me, bob.signer(), c.custom, commit, make([]byte, 32))
			if err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, what+": "+c.what, alice, message, c.rule, c.want)
		}
	}
	// what follows an unknown type must be one vector
	for _, body := range []string{"", "\x05abcd", "\x03abcd", "\xc0"} {
		if _, err := mls.UnmarshalProposal([]byte("\xf1\x00" + body)); !errors.Is(err, mls.ErrMalformed) {
			t.Errorf("a body of %q: %v", body, err)
		}
	}
	// a disguise is refused before it is taken for what it is not
	for _, disguise := range []mls.ProposalType{0, mls.ProposalAdd, mls.ProposalUpdate, mls.ProposalGroupContextExtensions} {
		_, _, _, err := bob.g().Propose(t.Context(), bob.env(), &mls.Custom{ProposalType: disguise}, nil)
		if !errors.Is(err, core.ErrInvalid) {
			t.Errorf("disguise as %d: %v", disguise, err)
		}
		if _, err = bob.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Custom{ProposalType: disguise}}}); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("disguise as %d by value: %v", disguise, err)
		}
	}
	// mute's application knows it, and its leaf does not say so
	mute.custom = customTypes()
	_, _, _, err := mute.g().Propose(t.Context(), mute.env(), &mls.Custom{ProposalType: poll}, nil)
	var breached *mls.RuleError
	if !errors.As(err, &breached) || breached.Rule != "PRP-11" {
		t.Errorf("not listed: %v", err)
	}
	// from outside
	for _, from := range []mls.Sender{{Type: mls.SenderExternal}, {Type: mls.SenderNewMemberProposal}} {
		message, err := mls.ForgeFromOutside(t.Context(), bob.g(), from, keys.signer(), &mls.Custom{ProposalType: poll})
		if err != nil {
			t.Fatal(err)
		}
		rule := map[mls.SenderType]string{mls.SenderExternal: "XS-2", mls.SenderNewMemberProposal: "XS-3"}[from.Type]
		wantRefusal(t, fmt.Sprintf("sender type %d", from.Type), alice, message, rule, nil)
	}
	p.agree(t)
}

// PRP-11: nor is one in an external commit, even if everybody supports it.
func TestCustomProposalInExternalCommit(t *testing.T) {
	t.Parallel()
	alice, bob, _, p := pollers(t, nil)
	info, err := alice.g().GroupInfo(t.Context(), alice.env(), mls.GroupInfoParams{})
	if err != nil {
		t.Fatal(err)
	}
	carol := newMember(t, 1, "carol", mls.DefaultConfig)
	carol.able = listing(poll, purge)
	commit, err := carol.joinExternal(info)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := mls.ForgeExternalCommit(t.Context(), alice.g(), carol.signer(), commit, func(c *mls.Commit) {
		c.Proposals = append(c.Proposals, mls.ProposalOrRef{Proposal: &mls.Custom{ProposalType: poll}})
	})
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "custom", bob, forged, "FR-4", nil)
	p.deliver(t, nil, commit)
	append(p, carol).agree(t)
}

// LEAF-11, PRP-3, openmls#1943: all who stay must support a custom type; who is removed
// or added by the same commit need not.
func TestCustomProposalSupport(t *testing.T) {
	t.Parallel()
	for _, byReference := range []bool{false, true} {
		alice, bob, mute, p := pollers(t, nil)
		p.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: mute.keyPackage()}}}, mute)
		custom := &mls.Custom{ProposalType: poll, Body: []byte("coffee?")}

		// mute stays
		_, err := bob.commit(mls.CommitParams{Proposals: []mls.Proposal{custom}})
		var breached *mls.RuleError
		if !errors.As(err, &breached) || breached.Rule != "LEAF-11" {
			t.Fatalf("commit: %v", err)
		}
		message, err := mls.ForgeMessage(t.Context(), bob.env(), bob.g(), mls.WirePublicMessage,
			mls.Sender{Type: mls.SenderMember, Leaf: bob.g().OwnLeaf()}, bob.signer(), nil,
			&mls.Commit{Proposals: []mls.ProposalOrRef{{Proposal: custom}}}, make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, "a commit that mute does not support", alice, message, "LEAF-11", nil)
		wantRefusal(t, "by mute itself", mute, message, "", core.ErrUnsupported)

		// mute goes, and another like it comes
		params := mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: mute.g().OwnLeaf()}}}
		deaf := newMember(t, 1, "deaf", mls.DefaultConfig)
		params.Proposals = append(params.Proposals, &mls.Add{KeyPackage: deaf.keyPackage()})
		if byReference {
			g, sent, ws, err := bob.g().Propose(t.Context(), bob.env(), custom, nil)
			if err != nil {
				t.Fatal(err)
			}
			bob.set(g, ws)
			if _, err := alice.process(sent.Message); err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, "proposal", mute, sent.Message, "", core.ErrUnsupported)
			// alone, it waits in vain
			if _, err := alice.commit(mls.CommitParams{}); err != nil || len(alice.pending.Proposals()) != 0 {
				t.Fatalf("alone: %v, %v", alice.pending.Proposals(), err)
			}
		} else {
			params.Proposals = append(params.Proposals, custom)
		}
		bundle, err := alice.commit(params)
		if err != nil {
			t.Fatal(err)
		}
		gone, err := mute.process(bundle.Commit)
		if err != nil || !gone.(*mls.ReceivedCommit).SelfRemoved || mute.g().Active() {
			t.Fatalf("by reference %v: mute: %+v, %v", byReference, gone, err)
		}
		got, err := bob.process(bundle.Commit)
		if err != nil {
			t.Fatal(err)
		}
		alice.merge()
		if len(customOf(got.(*mls.ReceivedCommit).Proposals)) != 1 {
			t.Errorf("bob got %v", got)
		}
		if err := deaf.join(bundle.Welcome); err != nil {
			t.Fatal(err)
		}
		party{alice, bob, deaf}.agree(t)
	}
}
