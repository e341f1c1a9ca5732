// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

var noon = time.Unix(1_000_000_000, 0)

// lasting is a lifetime in seconds from noon.
func lasting(from, to int64) mls.Lifetime {
	return mls.Lifetime{NotBefore: uint64(noon.Unix() + from), NotAfter: uint64(noon.Unix() + to)}
}

// keyPackageFor is a key package of a lifetime.
func keyPackageFor(t *testing.T, m *member, l mls.Lifetime) *mls.KeyPackage {
	t.Helper()
	b, err := mls.NewKeyPackage(t.Context(), mls.KeyPackageParams{
		Suite: m.suite, Signer: m.signer(), Credential: core.BasicCredential(core.ClientID(m.name)),
		Capabilities: m.capabilities(), Lifetime: l, Grease: m.grease,
	})
	if err != nil {
		t.Fatal(err)
	}
	m.bundle = b
	return b.KeyPackage
}

// lifetimes are all cases at noon under a maximum of 60 seconds.
var lifetimes = []struct {
	name string
	mls.Lifetime
	valid, short bool
}{
	{"now", lasting(0, 0), true, true},
	{"a minute", lasting(-60, 0), true, true},
	{"a minute to come", lasting(0, 60), true, true},
	{"too long", lasting(0, 61), true, false},
	{"for ever", mls.NoLifetime, true, false},
	{"since ever", mls.Lifetime{NotBefore: 0, NotAfter: uint64(noon.Unix())}, true, false},
	{"without end", mls.Lifetime{NotBefore: uint64(noon.Unix()), NotAfter: math.MaxUint64}, true, false},
	{"expired", lasting(-60, -1), false, true},
	{"not yet", lasting(1, 60), false, true},
	{"zero", mls.Lifetime{}, false, true},
	{"the wrong way round", lasting(60, -60), false, true},
	{"the wrong way round, widely", mls.Lifetime{NotBefore: math.MaxUint64}, false, true},
}

// LEAF-9: the clock and the maximum bind who makes a leaf, and who proposes or commits
// an Add. Zero turns either off.
func TestLifetimesOfOurOwn(t *testing.T) {
	t.Parallel()
	for _, c := range lifetimes {
		for _, env := range []struct {
			now     time.Time
			longest time.Duration
			want    bool
		}{
			{noon, time.Minute, c.valid && c.short},
			{noon, 0, c.valid},
			{time.Time{}, time.Minute, c.short},
			{time.Time{}, 0, true},
		} {
			check := func(what string, err error) {
				t.Helper()
				var breached *mls.RuleError
				if env.want && err != nil || !env.want && (!errors.As(err, &breached) || breached.Rule != "LEAF-9") {
					t.Errorf("%s, %s, at %v, at most %v: %v", c.name, what, env.now, env.longest, err)
				}
			}
			alice, bob := newMember(t, 1, "alice", mls.DefaultConfig), newMember(t, 1, "bob", mls.DefaultConfig)
			_, err := mls.NewKeyPackage(t.Context(), mls.KeyPackageParams{
				Suite: alice.suite, Signer: alice.signer(), Credential: core.BasicCredential("alice"),
				Capabilities: alice.capabilities(), Lifetime: c.Lifetime, Now: env.now, MaxLifetime: env.longest,
			})
			check("key package", err)
			strict := alice.env()
			strict.Now, strict.MaxLifetime = env.now, env.longest
			_, _, err = mls.Create(t.Context(), strict, mls.CreateParams{
				Suite: alice.suite, GroupID: []byte("group"), Signer: alice.signer(), Credential: core.BasicCredential("alice"),
				Capabilities: alice.capabilities(), Lifetime: c.Lifetime, Config: alice.config,
			})
			check("create", err)
			alice.create("group", nil)
			add := &mls.Add{KeyPackage: keyPackageFor(t, bob, c.Lifetime)}
			_, _, _, err = alice.g().Commit(t.Context(), strict, mls.CommitParams{Proposals: []mls.Proposal{add}})
			check("commit", err)
			_, _, _, err = alice.g().Propose(t.Context(), strict, add, nil)
			check("propose", err)
			_, err = mls.ProposeExternal(t.Context(), strict, mls.ExternalProposalParams{
				Suite: 1, GroupID: []byte("group"), Sender: mls.Sender{Type: mls.SenderNewMemberProposal},
				Signer: bob.signer(), Proposal: add,
			})
			check("propose from outside", err)
		}
	}
}

// LEAF-9: what others add is judged by the strict only, in a proposal, a commit and the
// tree of a group that is joined; a strict committer leaves out what waits.
func TestLifetimesOfOthers(t *testing.T) {
	t.Parallel()
	for _, c := range lifetimes {
		for _, strict := range []bool{false, true} {
			check := func(what string, err error) {
				t.Helper()
				var breached *mls.RuleError
				refused := strict && !(c.valid && c.short)
				if !refused && err != nil || refused && (!errors.As(err, &breached) || breached.Rule != "LEAF-9") {
					t.Errorf("%s, %s, strict %v: %v", c.name, what, strict, err)
				}
			}
			alice, bob := aliceAndBob(t)
			carol, dave := newMember(t, 1, "carol", mls.DefaultConfig), newMember(t, 1, "dave", mls.DefaultConfig)
			add := &mls.Add{KeyPackage: keyPackageFor(t, carol, c.Lifetime)}
			env := bob.env()
			env.Now, env.MaxLifetime, env.StrictLifetimes = noon, time.Minute, strict
			process := func(message []byte) (*mls.Group, *record.WriteSet, error) {
				m, err := mls.UnmarshalMLSMessage(message)
				if err != nil {
					t.Fatal(err)
				}
				g, _, ws, err := bob.g().Process(t.Context(), env, m)
				return g, ws, err
			}
			// by value
			bundle, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{add}})
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = process(bundle.Commit)
			check("commit", err)
			// by reference
			g, sent, ws, err := alice.g().Propose(t.Context(), alice.env(), add, nil)
			if err != nil {
				t.Fatal(err)
			}
			alice.set(g, ws)
			g, ws, err = process(sent.Message)
			check("proposal", err)
			if err == nil { // whoever received it leniently need not commit it
				bob.set(g, ws)
				_, pending, _, err := bob.g().Commit(t.Context(), env, mls.CommitParams{})
				if err != nil {
					t.Fatal(err)
				}
				if taken := len(pending.Added()) == 1; taken != (c.valid && c.short) {
					t.Errorf("%s: a commit adds %d", c.name, len(pending.Added()))
				}
			}
			// in a tree; alice and bob have leaves of source commit
			alice, bob = aliceAndBob(t)
			p := party{alice, bob}
			p = p.commitAll(t, alice, mls.CommitParams{ForcePath: true})
			p = p.commitAll(t, bob, mls.CommitParams{ForcePath: true})
			p.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{add}}, carol)
			info, err := alice.g().GroupInfo(t.Context(), alice.env(), mls.GroupInfoParams{})
			if err != nil {
				t.Fatal(err)
			}
			m, err := mls.UnmarshalMLSMessage(info)
			if err != nil {
				t.Fatal(err)
			}
			env = dave.env()
			env.Now, env.MaxLifetime, env.StrictLifetimes = noon, time.Minute, strict
			_, _, _, err = mls.JoinExternal(t.Context(), env, mls.ExternalParams{
				GroupInfo: m.GroupInfo, Signer: dave.signer(), Credential: core.BasicCredential("dave"),
				Capabilities: dave.capabilities(), Config: dave.config,
			})
			check("tree", err)
		}
	}
}
