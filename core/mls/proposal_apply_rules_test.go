// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// PRP-6: whatever the order in the list, the new extensions come first and rule the
// rest, who is removed makes room for who is added, and Adds keep their order.
func TestOrderOfApplication(t *testing.T) {
	t.Parallel()
	zoe, yves, xenia := newMember(t, 1, "zoe", mls.DefaultConfig), newMember(t, 1, "yves", mls.DefaultConfig), newMember(t, 1, "xenia", mls.DefaultConfig)
	joiners := []*member{zoe, yves, xenia}
	for i, order := range [][]int{{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, {2, 0, 4, 1, 3}} {
		alice, bob, mallory, all := threesome(t, mls.DefaultConfig, mls.Extensions{requireX509()})
		update, err := mallory.proposeUpdate(mls.LeafParams{})
		if err != nil {
			t.Fatal(err)
		}
		all.deliver(t, mallory, update)
		list := []mls.Proposal{
			addingPoor(t, zoe), &mls.Remove{Removed: bob.g().OwnLeaf()}, adding(yves), &mls.GroupContextExtensions{}, addingPoor(t, xenia),
		}
		var params mls.CommitParams
		var want []string
		for _, i := range order {
			params.Proposals = append(params.Proposals, list[i])
			if i%2 == 0 {
				want = append(want, joiners[i/2].name)
			}
		}
		for _, m := range joiners {
			m.stored = records{}
		}
		all = all.commitAll(t, alice, params, joiners...)
		members, err := alice.g().Members(t.Context(), alice.env())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range members {
			got = append(got, string(m.Credential.Identity))
		}
		if want := []string{"alice", want[0], "mallory", want[1], want[2]}; !slices.Equal(got, want) {
			t.Errorf("order %d: the members are %q, want %q", i, got, want)
		}
		all.talk(t)
	}
	// The other way: what the new extensions require is required of who comes with them.
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	poor := addingPoor(t, zoe)
	requiring := &mls.GroupContextExtensions{Extensions: mls.Extensions{requireX509()}}
	for _, list := range [][]mls.Proposal{{poor, requiring}, {requiring, poor}} {
		if _, err := alice.commit(mls.CommitParams{Proposals: list}); !isRule(err, "LEAF-7") {
			t.Errorf("made: %v", err)
		}
		forged := mallory.forgeCommit(pathOf(t, mallory, poor), mls.ProposalOrRef{Proposal: list[0]}, mls.ProposalOrRef{Proposal: list[1]})
		wantRefusal(t, "received", bob, forged, "LEAF-7", nil)
	}
}

// PRP-7, ts-mls#436: which proposals ask for a path, alone and beside one that does
// not; who commits makes it, who receives insists.
func TestPathRequired(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	value := func(p mls.Proposal) func() mls.ProposalOrRef {
		return func() mls.ProposalOrRef { return mls.ProposalOrRef{Proposal: p} }
	}
	psk := value(alice.g().NewResumptionPSK(1))
	for what, c := range map[string]struct {
		list     []func() mls.ProposalOrRef
		required bool
	}{
		"nothing":        {nil, true},
		"add":            {[]func() mls.ProposalOrRef{value(adding(newMember(t, 1, "zoe", mls.DefaultConfig)))}, false},
		"update":         {[]func() mls.ProposalOrRef{func() mls.ProposalOrRef { return offer(t, bob, bob.newUpdate(), alice, mallory) }}, true},
		"remove":         {[]func() mls.ProposalOrRef{value(&mls.Remove{Removed: 1})}, true},
		"psk":            {[]func() mls.ProposalOrRef{psk}, false},
		"reinit":         {[]func() mls.ProposalOrRef{value(&mls.ReInit{GroupID: []byte("g"), Version: 1, Suite: 1})}, false},
		"extensions":     {[]func() mls.ProposalOrRef{value(&mls.GroupContextExtensions{})}, true},
		"psk and add":    {[]func() mls.ProposalOrRef{psk, value(adding(newMember(t, 1, "yves", mls.DefaultConfig)))}, false},
		"psk and remove": {[]func() mls.ProposalOrRef{psk, value(&mls.Remove{Removed: 1})}, true},
	} {
		var list []mls.ProposalOrRef
		var params mls.CommitParams
		for _, p := range c.list {
			list = append(list, p())
			if v := list[len(list)-1].Proposal; v != nil {
				params.Proposals = append(params.Proposals, v)
			}
		}
		rule, want := "PRP-7", error(nil)
		if !c.required {
			rule, want = "", mls.ErrAuthentication // but for the tag
		}
		wantRefusal(t, what, alice, mallory.forgeCommit(nil, list...), rule, want)
		_, p, _, err := mallory.g().Commit(t.Context(), mallory.env(), params)
		if err != nil || p.HasPath() != c.required {
			t.Errorf("%s: made with a path: %v, %v", what, p.HasPath(), err)
		}
		for _, m := range []*member{alice, bob, mallory} { // the update waits for nobody else
			for _, ref := range m.pendingRefs() {
				g, ws, err := m.g().DropProposal(t.Context(), m.env(), mls.ProposalRef(ref))
				if err != nil {
					t.Fatal(err)
				}
				m.set(g, ws)
			}
		}
	}
	commit := externally(t, newMember(t, 1, "zoe", mls.DefaultConfig), alice)
	m, err := mls.UnmarshalMLSMessage(commit)
	if err != nil {
		t.Fatal(err)
	}
	init := m.PublicMessage.Content.Commit.Proposals
	external := mallory.forge(mls.Forgery{Wire: mls.WirePublicMessage, Content: func(c *mls.FramedContent) {
		committing(&mls.Commit{Proposals: init})(c)
		c.Sender = mls.Sender{Type: mls.SenderNewMemberCommit}
	}})
	wantRefusal(t, "ExternalInit", alice, external, "FR-4", nil)
}

// strict is an Authenticator that denies some clients.
type strict struct {
	anyone
	denied string
}

func (a *strict) Validate(c core.Credential, key []byte, now time.Time, p core.Purpose) (core.Identity, error) {
	if string(c.Identity) == a.denied {
		return core.Identity{}, core.ErrDenied
	}
	return a.anyone.Validate(c, key, now, p)
}

// PRP-8: new extensions replace all that there were. Each must be unique, belong in a
// GroupContext, be known to every member and be what its type says; external senders
// are shown to the authentication service, once.
func TestNewExtensions(t *testing.T) {
	t.Parallel()
	sender := func(name string, key []byte) mls.Extension {
		return mls.ExternalSendersExtension([]mls.ExternalSender{{SignatureKey: key, Credential: core.BasicCredential(core.ClientID(name))}})
	}
	key := newMember(t, 1, "server", mls.DefaultConfig).signer().Public()
	alice, bob, mallory, all := threesome(t, mls.DefaultConfig, mls.Extensions{requireX509(), sender("server", key)})
	broken := sender("server", key)
	broken.Data = append(bytes.Clone(broken.Data), 0)
	poor := addingPoor(t, newMember(t, 1, "zoe", mls.DefaultConfig))
	for what, c := range map[string]struct {
		list mls.Extensions
		rule string
		want error
	}{
		"one twice":                {mls.Extensions{requireX509(), requireX509()}, "GRE-4", nil},
		"application_id":           {mls.Extensions{{Type: mls.ExtensionApplicationID, Data: []byte{0}}}, "PRP-8", nil},
		"ratchet_tree":             {mls.Extensions{{Type: mls.ExtensionRatchetTree}}, "PRP-8", nil},
		"external_pub":             {mls.Extensions{{Type: mls.ExtensionExternalPub, Data: []byte{0}}}, "PRP-8", nil},
		"last_resort":              {mls.Extensions{{Type: mls.ExtensionLastResort}}, "PRP-8", nil},
		"one that nobody knows":    {mls.Extensions{unknownExtension}, "LEAF-8", nil},
		"a requirement unmet":      {mls.Extensions{mls.RequiredCapabilities{Extensions: []mls.ExtensionType{0xF123}}.Extension()}, "LEAF-7", nil},
		"a sender without a key":   {mls.Extensions{sender("server", nil)}, "CS-2", nil},
		"senders that are none":    {mls.Extensions{broken}, "", mls.ErrMalformed},
		"a sender who is denied":   {mls.Extensions{sender("mallory", key)}, "", core.ErrDenied},
		"requirements that are no": {mls.Extensions{{Type: mls.ExtensionRequiredCapabilities, Data: []byte{1}}}, "", mls.ErrMalformed},
	} {
		gce := &mls.GroupContextExtensions{Extensions: c.list}
		env := alice.env()
		env.Auth = &strict{denied: "mallory"}
		m, err := mls.UnmarshalMLSMessage(mallory.forgeCommit(pathOf(t, mallory), mls.ProposalOrRef{Proposal: gce}))
		if err != nil {
			t.Fatal(err)
		}
		_, _, _, err = alice.g().Process(t.Context(), env, m)
		if c.rule != "" && !isRule(err, c.rule) || c.rule == "" && !errors.Is(err, c.want) {
			t.Errorf("%s: received: %v", what, err)
		}
		_, _, _, err = alice.g().Commit(t.Context(), env, mls.CommitParams{Proposals: []mls.Proposal{gce}})
		if c.rule != "" && !isRule(err, c.rule) || c.rule == "" && !errors.Is(err, c.want) {
			t.Errorf("%s: made: %v", what, err)
		}
	}
	// Who is asked about what: the sender that stays is known.
	for _, c := range []struct {
		senders mls.Extension
		asked   int
	}{{sender("server", key), 0}, {sender("another", key), 1}} {
		asked := bob.auth.asked
		all = all.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.GroupContextExtensions{Extensions: mls.Extensions{requireX509(), c.senders}}}})
		if got := bob.auth.asked - asked; got != c.asked {
			t.Errorf("asked %d times about external senders, want %d", got, c.asked)
		}
	}
	if _, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{poor}}); !isRule(err, "LEAF-7") {
		t.Errorf("a requirement that holds: %v", err)
	}
	// All is dropped by an empty list.
	all = all.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.GroupContextExtensions{}}})
	for _, m := range all {
		if l := m.g().Extensions(); len(l) != 0 {
			t.Errorf("%s: %v are left", m.name, l)
		}
	}
	if _, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{poor}}); err != nil {
		t.Error(err)
	}
}

// PRP-9, mls-rs#69: what a commit leaves out is dropped by all with its epoch, and each
// is told what it was: no more and no less.
func TestUnusedProposals(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, all := threesome(t, mls.DefaultConfig, nil)
	var messages [][]byte
	for range 3 {
		message, err := bob.propose(bob.g().NewResumptionPSK(1))
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, message)
	}
	for _, message := range messages {
		party{mallory}.deliver(t, bob, message)
	}
	party{alice}.deliver(t, bob, messages[1]) // two are lost on the way to alice
	b, err := alice.commit(mls.CommitParams{})
	if err != nil {
		t.Fatal(err)
	}
	refs := mallory.pendingRefs()
	refsOf := func(list []mls.ReceivedProposal) (refs []string) {
		for _, p := range list {
			refs = append(refs, string(p.Ref))
		}
		return refs
	}
	for _, m := range []*member{bob, mallory} {
		result, err := m.process(b.Commit)
		if err != nil {
			t.Fatal(err)
		}
		c := result.(*mls.ReceivedCommit)
		if unused := refsOf(c.Unused); !slices.Equal(unused, []string{refs[0], refs[2]}) || !slices.Equal(refsOf(c.Proposals), refs[1:2]) {
			t.Errorf("%s: %x were used, %x not", m.name, refsOf(c.Proposals), unused)
		}
	}
	if c := alice.merge(); len(c.Unused) != 0 || !slices.Equal(refsOf(c.Proposals), refs[1:2]) {
		t.Errorf("alice: %x were used, %x not", refsOf(c.Proposals), refsOf(c.Unused))
	}
	all.agree(t)
	for _, m := range all {
		if left := m.pendingRefs(); len(left) != 0 || len(m.stored[mls.RecordProposal]) != 0 {
			t.Errorf("%s: %x still wait", m.name, left)
		}
	}
	all.talk(t)
}

// PRP-10: nothing is said while proposals wait, one's own or another's, unless the
// group is configured for it; what others say arrives.
func TestSendingWhileProposalsWait(t *testing.T) {
	t.Parallel()
	for _, allowed := range []bool{false, true} {
		config := mls.DefaultConfig
		config.SendWithProposals = allowed
		alice, bob, mallory, all := threesome(t, config, nil)
		early, err := mallory.send("before")
		if err != nil {
			t.Fatal(err)
		}
		message, err := alice.propose(alice.g().NewResumptionPSK(1))
		if err != nil {
			t.Fatal(err)
		}
		party{bob}.deliver(t, alice, message)
		for _, m := range []*member{alice, bob} {
			before := m.stored.dump()
			if _, err := m.send("x"); allowed != (err == nil) || !allowed && (!errors.Is(err, mls.ErrPendingProposals) || m.stored.dump() != before) {
				t.Errorf("%s: allowed %v: %v", m.name, allowed, err)
			}
			if _, err := m.process(early); err != nil {
				t.Errorf("%s: %v", m.name, err)
			}
		}
		party{mallory}.deliver(t, alice, message)
		all.commitAll(t, bob, mls.CommitParams{}).talk(t)
	}
}

// PRP-12: a proposal that is wrong by itself is not made, and not kept when it comes.
func TestProposalsAreCheckedAtOnce(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	kp := newMember(t, 1, "zoe", mls.DefaultConfig)
	broken := adding(kp)
	broken.KeyPackage.Signature[0] ^= 1
	stale := bob.newUpdate()
	leaf, err := mallory.g().OwnLeafNode(t.Context(), mallory.env())
	if err != nil {
		t.Fatal(err)
	}
	same := *leaf
	same.Source = mls.LeafUpdate
	if err := mls.ForgeLeaf(t.Context(), mallory.signer(), mallory.g(), &same); err != nil {
		t.Fatal(err)
	}
	short := alice.g().NewExternalPSK([]byte("psk"))
	short.PSK.Nonce = short.PSK.Nonce[1:]
	branch := alice.g().NewResumptionPSK(1)
	branch.PSK.Usage = mls.ResumptionBranch
	for what, c := range map[string]struct {
		p    mls.Proposal
		rule string
		want error
	}{
		"add":                  {broken, "", mls.ErrAuthentication},
		"another's update":     {stale, "", mls.ErrAuthentication},
		"update of nothing":    {&mls.Update{LeafNode: &same}, "LEAF-3", nil},
		"update with a path":   {&mls.Update{LeafNode: pathOf(t, mallory).LeafNode}, "LEAF-2", nil},
		"remove":               {&mls.Remove{Removed: 7}, "PRP-4", nil},
		"psk":                  {short, "PSK-1", nil},
		"psk of a branch":      {branch, "PSK-3", nil},
		"reinit":               {&mls.ReInit{GroupID: []byte("g"), Version: 0, Suite: 1}, "RE-4", nil},
		"reinit to extensions": {&mls.ReInit{GroupID: []byte("g"), Version: 1, Suite: 1, Extensions: mls.Extensions{{Type: mls.ExtensionRatchetTree}}}, "PRP-8", nil},
		"external init":        {&mls.ExternalInit{KEMOutput: make([]byte, 32)}, "FR-4", nil},
		"extensions":           {&mls.GroupContextExtensions{Extensions: mls.Extensions{{Type: mls.ExtensionRatchetTree}}}, "PRP-8", nil},
	} {
		wantRefusal(t, what, bob, mallory.forge(mls.Forgery{Wire: mls.WirePublicMessage, Content: proposing(c.p)}), c.rule, c.want)
		if c.p.Type() == mls.ProposalUpdate {
			continue // ProposeUpdate makes its own
		}
		before := mallory.stored.dump()
		if _, err := mallory.propose(c.p); c.rule != "" && !isRule(err, c.rule) || c.rule == "" && !errors.Is(err, c.want) || mallory.stored.dump() != before {
			t.Errorf("%s: made: %v", what, err)
		}
	}
	if _, err := mallory.propose(mallory.g().NewExternalPSK([]byte("not there"))); !errors.Is(err, mls.ErrMissingPSK) {
		t.Errorf("a PSK that the proposer lacks: %v", err)
	}
	if n := len(bob.pendingRefs()) + len(mallory.pendingRefs()); n != 0 {
		t.Errorf("%d wait", n)
	}
}

// PRP-13: no more proposals are kept than a thousand, and one that comes again is
// told to be a duplicate.
func TestNumberOfProposals(t *testing.T) {
	t.Parallel()
	_, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	bob.reload = false
	var message []byte
	for i := range 1001 {
		message = mallory.forge(mls.Forgery{Wire: mls.WirePublicMessage, Content: func(c *mls.FramedContent) {
			proposing(&mls.Remove{Removed: 0})(c)
			c.AuthenticatedData = fmt.Append(nil, i)
		}})
		if i == 1000 {
			break
		}
		if _, err := bob.process(message); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			for range 3 {
				wantRefusal(t, "the same again", bob, message, "", mls.ErrDuplicateMessage)
			}
			if n := len(bob.pendingRefs()); n != 1 {
				t.Fatalf("%d wait", n)
			}
		}
	}
	wantRefusal(t, "one too many", bob, message, "", core.ErrTooLarge)
	if n := len(bob.pendingRefs()); n != 1000 {
		t.Errorf("%d wait", n)
	}
}
