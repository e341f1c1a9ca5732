// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// A certified member has an X.509 credential: "name/certificate".
func certified(t *testing.T, name, chain string) *member {
	m := newMember(t, 1, name, mls.DefaultConfig)
	m.chain = chain
	return m
}

func addsOf(ms ...*member) (list []mls.Proposal) {
	for _, m := range ms {
		list = append(list, &mls.Add{KeyPackage: m.keyPackage()})
	}
	return list
}

// PRP-3: two credentials that the Authenticator reads as one client's are one client,
// whatever their bytes and types: it is not added twice, nor if it is there already,
// unless the same commit removes it.
func TestAddOfOneClient(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		first, second *member
	}{
		{"two chains", certified(t, "bob", "bob/1"), certified(t, "bob", "bob/2")},
		{"a chain after a name", newMember(t, 1, "bob", mls.DefaultConfig), certified(t, "bob", "bob/2")},
		{"a name after a chain", certified(t, "bob", "bob/1"), newMember(t, 1, "bob", mls.DefaultConfig)},
		{"two names", newMember(t, 1, "bob", mls.DefaultConfig), newMember(t, 1, "bob", mls.DefaultConfig)},
		{"one chain", certified(t, "bob", "bob/1"), certified(t, "bob", "bob/1")},
	} {
		refused := func(what string, err error) {
			t.Helper()
			var breached *mls.RuleError
			if !errors.As(err, &breached) || breached.Rule != "PRP-3" {
				t.Errorf("%s: %s: %v", c.name, what, err)
			}
		}
		alice, carol := newMember(t, 1, "alice", mls.DefaultConfig), certified(t, "carol", "carol/1")
		alice.create("group", nil)
		p := party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: addsOf(carol)}, carol)
		forged := func(what string, list []mls.Proposal) {
			t.Helper()
			commit := &mls.Commit{}
			for _, p := range list {
				commit.Proposals = append(commit.Proposals, mls.ProposalOrRef{Proposal: p})
			}
			message, err := mls.ForgeMessage(t.Context(), alice.env(), alice.g(), mls.WirePublicMessage,
				mls.Sender{Type: mls.SenderMember}, alice.signer(), nil, commit, make([]byte, 32))
			if err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, c.name+", "+what, carol, message, "PRP-3", nil)
		}

		// both at once
		both := addsOf(c.first, c.second)
		_, err := alice.commit(mls.CommitParams{Proposals: both})
		refused("both at once", err)
		forged("both at once", both)
		for _, add := range both { // of those that wait, one is taken
			propose(t, carol, alice, add)
		}
		if _, err := alice.commit(mls.CommitParams{}); err != nil || len(alice.pending.Added()) != 1 {
			t.Errorf("%s: of two that wait %v, %v", c.name, alice.pending.Added(), err)
		}
		p.commitAll(t, carol, mls.CommitParams{ForcePath: true})
		members, err := carol.g().Members(t.Context(), carol.env())
		if err != nil || len(members) != 3 {
			t.Fatalf("%s: %d members, %v", c.name, len(members), err)
		}

		// one after the other
		alice, carol = newMember(t, 1, "alice", mls.DefaultConfig), certified(t, "carol", "carol/1")
		alice.create("group", nil)
		party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: addsOf(carol, c.first)}, carol, c.first)
		again := addsOf(c.second)
		_, err = alice.commit(mls.CommitParams{Proposals: again})
		refused("again", err)
		forged("again", again)
		propose(t, carol, alice, again[0]) // waits in vain
		if _, err := alice.commit(mls.CommitParams{}); err != nil || len(alice.pending.Added()) != 0 {
			t.Errorf("%s: it waits and is added: %v", c.name, err)
		}
		remove := &mls.Remove{Removed: c.first.g().OwnLeaf()}
		bundle, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{remove}}) // the Add that waits comes along
		if err != nil || len(alice.pending.Added()) != 1 {
			t.Fatalf("%s: in the place of the first: %v", c.name, err)
		}
		if _, err := carol.process(bundle.Commit); err != nil {
			t.Fatalf("%s: in the place of the first: %v", c.name, err)
		}
		alice.merge()
		if err := c.second.join(bundle.Welcome); err != nil {
			t.Fatal(err)
		}
		party{alice, carol, c.second}.agree(t)
	}
}

// PRP-3, EXT-2: nor does a client come in from outside while another leaf is its own; in
// the place of that leaf it does, with any credential that names it.
func TestOneClientFromOutside(t *testing.T) {
	t.Parallel()
	for _, chains := range [][2]string{{"bob/1", "bob/2"}, {"", "bob/2"}, {"bob/1", ""}, {"", ""}} {
		what := fmt.Sprintf("%q, then %q", chains[0], chains[1])
		alice, bob, again := newMember(t, 1, "alice", mls.DefaultConfig), certified(t, "bob", chains[0]), certified(t, "bob", chains[1])
		alice.create("group", nil)
		party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: addsOf(bob)}, bob)
		join := func(m *member, replace bool) ([]byte, *mls.Group, *record.WriteSet, error) {
			t.Helper()
			info, err := alice.g().GroupInfo(t.Context(), alice.env(), mls.GroupInfoParams{})
			if err != nil {
				t.Fatal(err)
			}
			message, err := mls.UnmarshalMLSMessage(info)
			if err != nil {
				t.Fatal(err)
			}
			g, commit, ws, err := mls.JoinExternal(t.Context(), m.env(), mls.ExternalParams{
				GroupInfo: message.GroupInfo, Signer: m.signer(), Credential: m.credential(),
				Capabilities: m.capabilities(), Config: m.config,
				Replace: func(o mls.Member) bool { return replace && o.Leaf == bob.g().OwnLeaf() },
			})
			return commit, g, ws, err
		}
		_, _, _, err := join(again, false)
		var breached *mls.RuleError
		if !errors.As(err, &breached) || breached.Rule != "PRP-3" {
			t.Errorf("%s: the joiner: %v", what, err)
		}
		// a joiner who takes itself for somebody else does not deceive the members
		env := again.env()
		env.Auth = nobody{}
		info, err := alice.g().GroupInfo(t.Context(), alice.env(), mls.GroupInfoParams{})
		if err != nil {
			t.Fatal(err)
		}
		message, err := mls.UnmarshalMLSMessage(info)
		if err != nil {
			t.Fatal(err)
		}
		if _, commit, _, err := mls.JoinExternal(t.Context(), env, mls.ExternalParams{
			GroupInfo: message.GroupInfo, Signer: again.signer(), Credential: again.credential(),
			Capabilities: again.capabilities(), Config: again.config,
		}); err == nil {
			wantRefusal(t, what, alice, commit, "PRP-3", nil)
		} else if chains[0] != chains[1] { // equal bytes need no Authenticator
			t.Errorf("%s: %v", what, err)
		}
		commit, g, ws, err := join(again, true)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		again.set(g, ws)
		if _, err := alice.process(commit); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		party{alice, again}.agree(t)
	}
}

// PRP-3, CRD-1: the Authenticator is asked at most once about each leaf whom it is, in
// one operation, and never if all credentials are basic.
func TestIdentitiesAreReadOnce(t *testing.T) {
	t.Parallel()
	for _, chain := range []string{"", "bob/1"} {
		alice, bob := newMember(t, 1, "alice", mls.DefaultConfig), certified(t, "bob", chain)
		alice.create("group", nil)
		others := []*member{bob}
		for i := range 10 {
			others = append(others, newMember(t, 1, fmt.Sprint("member ", i), mls.DefaultConfig))
		}
		p := party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: addsOf(others...)}, others...)
		count := func(what string, m *member) {
			t.Helper()
			all := 0
			for key, n := range m.auth.identified {
				if all += n; n > 1 {
					t.Errorf("chain %q, %s: asked %d times about %x", chain, what, n, key)
				}
			}
			if chain == "" && all > 0 {
				t.Errorf("%s: asked %d times, and all is basic", what, all)
			}
			if chain != "" && all == 0 {
				t.Errorf("%s: not asked", what)
			}
			m.auth.identified = map[string]int{}
		}
		reset := func() {
			for _, m := range p {
				m.auth.identified = map[string]int{}
			}
		}
		joiner, late, waits, unfit := newMember(t, 1, "joiner", mls.DefaultConfig), newMember(t, 1, "late", mls.DefaultConfig),
			newMember(t, 1, "waits", mls.DefaultConfig), newMember(t, 1, "unfit", mls.DefaultConfig)
		// one that cannot be committed makes alice try many lists
		propose := func(proposal mls.Proposal) {
			t.Helper()
			message, err := others[1].propose(proposal)
			if err != nil {
				t.Fatal(err)
			}
			p.deliver(t, others[1], message)
		}
		propose(addsOf(waits)[0])
		propose(&mls.GroupContextExtensions{Extensions: mls.Extensions{{Type: 0xF123}}})
		propose(addsOf(unfit)[0])
		reset()
		bundle, err := alice.commit(mls.CommitParams{Proposals: addsOf(joiner)})
		if err != nil {
			t.Fatal(err)
		}
		count("commit", alice)
		if _, err := bob.process(bundle.Commit); err != nil {
			t.Fatal(err)
		}
		count("process", bob)
		alice.merge()
		reset()
		info, err := alice.g().GroupInfo(t.Context(), alice.env(), mls.GroupInfoParams{})
		if err != nil {
			t.Fatal(err)
		}
		late.auth.identified = map[string]int{}
		commit, err := late.joinExternal(info)
		if err != nil {
			t.Fatal(err)
		}
		for key, n := range late.auth.identified {
			if key != string(late.signer().Public()) || n > 1 { // all others were judged
				t.Errorf("chain %q: the joiner asks %d times about %x", chain, n, key)
			}
		}
		if _, err := alice.process(commit); err != nil {
			t.Fatal(err)
		}
		count("external commit", alice)
	}
}

// nobody is an Authenticator that tells all leaves apart.
type nobody struct{}

func (nobody) Validate(_ core.Credential, key []byte, _ time.Time, _ core.Purpose) (core.Identity, error) {
	return core.Identity{ClientID: core.ClientID(key)}, nil
}

func (nobody) Successor(core.Identity, core.Identity) error { return nil }
