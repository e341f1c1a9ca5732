// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// next is the same client in the group that follows.
func (m *member) next(suite core.SuiteID) *member {
	n := newMember(m.t, suite, m.name, m.config)
	n.before = m
	return n
}

func (m *member) successorParams(others ...*member) mls.SuccessorParams {
	p := mls.SuccessorParams{
		Signer: m.signer(), Credential: core.BasicCredential(core.ClientID(m.name)), Capabilities: m.capabilities(),
		Lifetime: mls.NoLifetime, Config: m.config,
	}
	for _, o := range others {
		p.KeyPackages = append(p.KeyPackages, o.keyPackage())
	}
	return p
}

// succeed takes what Reinitialize or Branch returned over, and returns the Welcome.
func (m *member) succeed(g *mls.Group, _ *mls.PendingCommit, ws *record.WriteSet, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	m.set(g, ws)
	pending, err := mls.LoadPending(m.stored[mls.RecordPending][0].Value)
	if err != nil {
		m.t.Fatal(err)
	}
	b, err := pending.Bundle(m.t.Context(), m.env(), m.g())
	if err != nil {
		m.t.Fatal(err)
	}
	m.pending = pending
	m.merge()
	return b.Welcome, nil
}

// reinitialized is a group of alice, bob and mallory that has ended with a ReInit,
// which one proposed and another committed.
func reinitialized(t *testing.T, config mls.Config, r mls.ReInit) (alice, bob, mallory *member) {
	t.Helper()
	alice, bob, mallory, p := threesome(t, config, nil)
	message, err := bob.propose(&r)
	if err != nil {
		t.Fatal(err)
	}
	p.deliver(t, bob, message)
	b, err := alice.commit(mls.CommitParams{})
	if err != nil {
		t.Fatal(err)
	}
	late, err := mallory.g().GroupInfo(t.Context(), mallory.env(), mls.GroupInfoParams{})
	if err != nil {
		t.Fatal(err)
	}
	p.deliver(t, alice, b.Commit)
	alice.merge()
	p.agree(t)
	for _, m := range p {
		if _, err := m.send("text"); !errors.Is(err, mls.ErrInactive) {
			t.Errorf("%s sends after a ReInit: %v", m.name, err)
		}
		if _, err := m.commit(mls.CommitParams{}); !errors.Is(err, mls.ErrInactive) {
			t.Errorf("%s commits after a ReInit: %v", m.name, err)
		}
		if _, err := m.propose(&mls.Remove{Removed: 0}); !errors.Is(err, mls.ErrInactive) {
			t.Errorf("%s proposes after a ReInit: %v", m.name, err)
		}
	}
	zoe := newMember(t, 1, "zoe", config)
	if join, err := zoe.joinExternal(late); err != nil {
		t.Fatal(err)
	} else if _, err := bob.process(join); !errors.Is(err, mls.ErrWrongEpoch) {
		t.Errorf("an external commit after a ReInit: %v", err)
	}
	return alice, bob, mallory
}

// RE-1, RE-2, RE-3, RE-4, RE-6, mls-rs#314: a group ends with a ReInit and is made anew, by
// somebody else, in another suite or with the same id.
func TestReinitialize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what string
		to   mls.ReInit
		path bool
	}{
		{"another suite and id", mls.ReInit{GroupID: []byte("group++"), Version: mls.MLS10, Suite: 2}, true},
		{"the same id, other extensions", mls.ReInit{GroupID: []byte("group"), Version: mls.MLS10, Suite: 1,
			Extensions: mls.Extensions{mls.RequiredCapabilities{Credentials: []core.CredentialType{1}}.Extension()}}, false},
	} {
		for _, handshake := range []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate} {
			t.Run(fmt.Sprintf("%s, handshake %d", c.what, handshake), func(t *testing.T) {
				t.Parallel()
				config := mls.DefaultConfig
				config.Handshake = handshake
				alice, bob, mallory := reinitialized(t, config, c.to)
				a, b, m := alice.next(c.to.Suite), bob.next(c.to.Suite), mallory.next(c.to.Suite)
				p := m.successorParams(a, b)
				p.ForcePath = c.path
				welcome, err := m.succeed(mallory.g().Reinitialize(t.Context(), mallory.env(), p))
				if err != nil {
					t.Fatal(err)
				}
				for _, j := range []*member{a, b} {
					if err := j.join(welcome); err != nil {
						t.Fatalf("%s: %v", j.name, err)
					}
				}
				all := party{m, a, b}
				all.agree(t)
				all.talk(t)
				if g := a.g(); g.Epoch() != 1 || string(g.GroupID()) != string(c.to.GroupID) || g.Suite() != c.to.Suite || len(g.Extensions()) != len(c.to.Extensions) {
					t.Errorf("epoch %d of group %q, suite %v", g.Epoch(), g.GroupID(), g.Suite())
				}
				all.commitAll(t, a, mls.CommitParams{ForcePath: true})
			})
		}
	}
}

// RE-5: a group branches, and goes on.
func TestBranch(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, p := threesome(t, mls.DefaultConfig, nil)
	a, b := alice.next(1), bob.next(1)
	params := b.successorParams(a)
	params.GroupID = []byte("branch")
	welcome, err := b.succeed(bob.g().Branch(t.Context(), bob.env(), params))
	if err != nil {
		t.Fatal(err)
	}
	// The members are those of the epoch that it branched from.
	p.commitAll(t, mallory, mls.CommitParams{ForcePath: true})
	if err := a.join(welcome); err != nil {
		t.Fatal(err)
	}
	branch := party{a, b}
	branch.agree(t)
	branch.talk(t)
	p.talk(t)
}

// RE-2, RE-5, PSK-3, mls-rs#314: who joins a successor compares it with the group before.
func TestSuccessorRefused(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	want := mls.ReInit{GroupID: []byte("next"), Version: mls.MLS10, Suite: 1}
	alice, bob, mallory := reinitialized(t, mls.DefaultConfig, want)
	active, _, forger, _ := threesome(t, mls.DefaultConfig, nil)
	refused := func(what string, j *member, welcome []byte, rule string, want error) {
		t.Helper()
		err := j.join(welcome)
		var breached *mls.RuleError
		if rule == "" && !errors.Is(err, want) || rule != "" && (!errors.As(err, &breached) || breached.Rule != rule) || len(j.stored) > 0 {
			t.Errorf("%s: got %v, want %s %v", what, err, rule, want)
		}
	}
	everybody := []mls.LeafIndex{0, 1, 2}
	for _, c := range []struct {
		what    string
		change  func(*mls.ReInit)
		members []mls.LeafIndex
		rule    string
	}{
		{"nothing is wrong", func(*mls.ReInit) {}, everybody, ""},
		{"another id", func(r *mls.ReInit) { r.GroupID = []byte("other") }, everybody, "RE-2"},
		{"another suite", func(r *mls.ReInit) { r.Suite = 3 }, everybody, "RE-2"},
		{"other extensions", func(r *mls.ReInit) {
			r.Extensions = mls.Extensions{mls.RequiredCapabilities{}.Extension()}
		}, everybody, "RE-2"},
		{"a member is missing", func(*mls.ReInit) {}, everybody[1:], "RE-2"},
	} {
		r := want
		c.change(&r)
		b, m := bob.next(r.Suite), mallory.next(r.Suite)
		others := []*member{b}
		if len(c.members) == 3 {
			others = append(others, alice.next(r.Suite))
		}
		welcome, err := m.succeed(mls.ForgeSuccessor(ctx, mallory.env(), mallory.g(), &r, 0, m.successorParams(others...), c.members...))
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if c.rule == "" {
			if err := b.join(welcome); err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
			continue
		}
		refused(c.what, b, welcome, c.rule, nil)
	}

	// The creator keeps the rules as well.
	m := mallory.next(1)
	if _, _, _, err := mallory.g().Reinitialize(ctx, mallory.env(), m.successorParams(bob.next(1))); !breaches(err, "RE-2") {
		t.Errorf("a member is left out: %v", err)
	}
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	if _, _, _, err := mallory.g().Reinitialize(ctx, mallory.env(), m.successorParams(bob.next(1), alice.next(1), zoe)); !breaches(err, "RE-2") {
		t.Errorf("somebody is added: %v", err)
	}
	if _, _, _, err := mallory.g().Branch(ctx, mallory.env(), m.successorParams(bob.next(1))); !errors.Is(err, mls.ErrInactive) {
		t.Errorf("a branch of a group that has ended: %v", err)
	}
	if _, _, _, err := active.g().Reinitialize(ctx, active.env(), active.successorParams()); !errors.Is(err, core.ErrDenied) {
		t.Errorf("nobody has asked for a new group: %v", err)
	}
	f := forger.next(1)
	if _, _, _, err := forger.g().Branch(ctx, forger.env(), f.successorParams(zoe)); !breaches(err, "RE-5") {
		t.Errorf("a branch with an outsider: %v", err)
	}

	// Branches that are none, and a group re-initialised by one member alone.
	a := active.next(2)
	welcome, err := f.next(2).succeed(mls.ForgeSuccessor(ctx, forger.env(), forger.g(), nil, 2, f.next(2).successorParams(a), everybody...))
	if err == nil {
		a.before = active
		refused("a branch of another suite", a, welcome, "RE-5", nil)
	} else {
		t.Error(err)
	}
	a = active.next(1)
	welcome, err = f.succeed(mls.ForgeSuccessor(ctx, forger.env(), forger.g(), &mls.ReInit{GroupID: []byte("coup"), Version: mls.MLS10, Suite: 1}, 0,
		forger.next(1).with(f).successorParams(a, newNamed(t, "bob")), everybody...))
	if err != nil {
		t.Fatal(err)
	}
	refused("nobody has asked for a new group", a, welcome, "RE-2", nil)
	a.before = nil
	refused("the group before is not at hand", a, welcome, "", mls.ErrMissingPSK)

	// PSKs of a group before where they do not belong.
	f = forger.next(1)
	params := f.successorParams(active.next(1))
	params.GroupID = []byte("branch")
	if _, err := f.succeed(forger.g().Branch(ctx, forger.env(), params)); err != nil {
		t.Fatal(err)
	}
	env := f.env()
	env.PSK = func(_ context.Context, id mls.PreSharedKeyID) (core.Secret, error) {
		secret, _ := forger.g().ResumptionPSK(id.Epoch)
		return secret, nil
	}
	id := mls.PreSharedKeyID{Type: mls.PSKResumption, Usage: mls.ResumptionBranch, GroupID: []byte("group"), Epoch: 1, Nonce: make([]byte, 32)}
	other := id
	other.Usage = mls.ResumptionReInit
	for _, c := range []struct {
		what string
		ids  []mls.PreSharedKeyID
		rule string
	}{
		{"a branch in epoch 2", []mls.PreSharedKeyID{id}, "RE-5"},
		{"a new group in epoch 2", []mls.PreSharedKeyID{other}, "RE-2"},
		{"a branch that is a new group", []mls.PreSharedKeyID{id, other}, "PSK-3"},
	} {
		b := newNamed(t, "bob")
		b.before = active
		proposals := []mls.Proposal{&mls.Add{KeyPackage: b.keyPackage()}}
		for _, id := range c.ids {
			proposals = append(proposals, &mls.PreSharedKey{PSK: id})
		}
		_, pending, _, err := mls.ForgeCommit(ctx, env, f.g(), proposals)
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := pending.Bundle(ctx, env, f.g())
		if err != nil {
			t.Fatal(err)
		}
		refused(c.what, b, bundle.Welcome, c.rule, nil)
	}
}

func newNamed(t *testing.T, name string) *member { return newMember(t, 1, name, mls.DefaultConfig) }

// with gives a member the signers of another.
func (m *member) with(o *member) *member {
	m.signers = o.signers
	return m
}

func breaches(err error, rule string) bool {
	var breached *mls.RuleError
	return errors.As(err, &breached) && breached.Rule == rule
}
