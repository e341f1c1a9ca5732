// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
	"github.com/conclave-mls/conclave/providers/pure"
)

// anyone is an Authenticator that believes everything; it counts what it is asked.
// A certificate names whose it is before the first slash.
type anyone struct {
	asked      int
	identified map[string]int // by signature key
}

func (a *anyone) Validate(c core.Credential, key []byte, _ time.Time, p core.Purpose) (core.Identity, error) {
	if p != core.PurposeIdentify {
		a.asked++
	} else if a.identified != nil {
		a.identified[string(key)]++
	}
	if c.Type == core.CredentialX509 && len(c.Certificates) > 0 {
		name, _, _ := bytes.Cut(c.Certificates[0], []byte("/"))
		return core.Identity{ClientID: core.ClientID(name)}, nil
	}
	return core.Identity{ClientID: core.ClientID(c.Identity) + core.ClientID(c.Opaque)}, nil
}

func (a *anyone) Successor(old, new core.Identity) error {
	if old != new {
		return core.ErrDenied
	}
	return nil
}

// A records is the store of one group of one member.
type records map[record.Kind][]record.Record

func (r records) fetch(_ context.Context, queries []record.Query) ([][]record.Record, error) {
	answers := make([][]record.Record, len(queries))
	for i, q := range queries {
		for _, rec := range r[q.Kind] {
			if !bytes.HasPrefix(rec.Key, q.Prefix) || (q.After != nil && bytes.Compare(rec.Key, q.After) <= 0) {
				continue
			}
			if answers[i] = append(answers[i], record.Record{Kind: rec.Kind, Key: bytes.Clone(rec.Key), Value: bytes.Clone(rec.Value)}); len(answers[i]) == q.Limit {
				break
			}
		}
	}
	return answers, nil
}

func (r records) apply(ws *record.WriteSet) {
	for _, d := range ws.Dels {
		r[d.Kind] = slices.DeleteFunc(r[d.Kind], func(rec record.Record) bool { return bytes.HasPrefix(rec.Key, d.Prefix) })
	}
	for _, p := range ws.Puts {
		i, found := slices.BinarySearchFunc(r[p.Kind], p.Key, func(rec record.Record, k []byte) int { return bytes.Compare(rec.Key, k) })
		rec := record.Record{Kind: p.Kind, Key: bytes.Clone(p.Key), Value: bytes.Clone(p.Value)}
		if found {
			r[p.Kind][i] = rec
		} else {
			r[p.Kind] = slices.Insert(r[p.Kind], i, rec)
		}
	}
	for _, s := range ws.Retired {
		s.Wipe()
	}
}

// dump is everything that is stored, for comparing.
func (r records) dump() string {
	var b strings.Builder
	for kind := mls.RecordHeader; kind <= mls.RecordProposal; kind++ {
		for _, rec := range r[kind] {
			fmt.Fprintf(&b, "%d %x %x\n", kind, rec.Key, rec.Value)
		}
	}
	return b.String()
}

// A member simulates one client in one group. With reload set, the group is
// loaded from its records before every step.
type member struct {
	t       testing.TB
	name    string
	suites  core.SuiteSource
	suite   core.Suite
	signers []core.Signer
	stored  records
	group   *mls.Group
	pending *mls.PendingCommit
	reload  bool
	psks    map[string][]byte
	config  mls.Config
	auth    anyone
	asks    *judge // instead of auth, if it is there
	bundle  *mls.KeyPackageBundle
	before  *member           // the same client in the group before this one
	grease  bool              // GRE-1: on by default, for those whose name is of odd length
	able    *mls.Capabilities // nil: the default ones
	chain   string            // nonempty: an X.509 credential instead of the basic one
	custom  map[mls.ProposalType]mls.CustomProposal
}

var provider = pure.New()

func newMember(t testing.TB, suite core.SuiteID, name string, config mls.Config) *member {
	s, err := provider.Suite(suite)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{t: t, name: name, suites: provider, suite: s, stored: records{}, psks: map[string][]byte{}, config: config, reload: true, grease: len(name)%2 == 1}
	m.newSigner()
	return m
}

func (m *member) newSigner() core.Signer {
	spec := core.KeySpec{Algorithm: m.suite.Parameters().Signature, Use: core.UseSign}
	_, _ = rand.Read(spec.ID[:])
	key, err := provider.GenerateKey(m.t.Context(), spec)
	if err != nil {
		m.t.Fatal(err)
	}
	m.signers = append(m.signers, key.(core.Signer))
	return key.(core.Signer)
}

func (m *member) env() *mls.Env {
	var auth core.Authenticator = &m.auth
	if m.asks != nil {
		auth = m.asks
	}
	return &mls.Env{
		Suites: m.suites, Auth: auth, Fetch: m.stored.fetch, Grease: m.grease, Custom: m.custom,
		Signer: func(_ context.Context, public []byte) (core.Signer, error) {
			for _, s := range m.signers {
				if bytes.Equal(s.Public(), public) {
					return s, nil
				}
			}
			return nil, core.ErrNotFound
		},
		PSK: func(_ context.Context, id mls.PreSharedKeyID) (core.Secret, error) {
			if k, ok := m.psks[string(id.ID)]; ok && id.Type == mls.PSKExternal {
				return core.NewSecret(bytes.Clone(k)), nil
			}
			return core.Secret{}, core.ErrNotFound
		},
	}
}

func (m *member) credential() core.Credential {
	if m.chain != "" {
		return core.Credential{Type: core.CredentialX509, Certificates: [][]byte{[]byte(m.chain)}}
	}
	return core.BasicCredential(core.ClientID(m.name))
}

func (m *member) signer() core.Signer { return m.signers[len(m.signers)-1] }

// g is the group to go on from.
func (m *member) g() *mls.Group {
	if m.reload && len(m.stored[mls.RecordHeader]) > 0 {
		g, err := mls.Load(m.suites, m.stored[mls.RecordHeader][0].Value)
		if err != nil {
			m.t.Fatalf("%s: load: %v", m.name, err)
		}
		m.group = g
	}
	return m.group
}

func (m *member) set(g *mls.Group, ws *record.WriteSet) {
	m.group = g
	m.stored.apply(ws)
}

func (m *member) capabilities() mls.Capabilities {
	if m.able != nil {
		return *m.able
	}
	return mls.DefaultCapabilities(provider.Suites())
}

func (m *member) create(id string, extensions mls.Extensions) {
	g, ws, err := mls.Create(m.t.Context(), m.env(), mls.CreateParams{
		Suite: m.suite, GroupID: []byte(id), Signer: m.signer(), Credential: m.credential(),
		Capabilities: m.capabilities(), Lifetime: mls.NoLifetime, Extensions: extensions, Config: m.config,
	})
	if err != nil {
		m.t.Fatalf("create: %v", err)
	}
	m.set(g, ws)
}

func (m *member) keyPackage() *mls.KeyPackage {
	b, err := mls.NewKeyPackage(m.t.Context(), mls.KeyPackageParams{
		Suite: m.suite, Signer: m.signer(), Credential: m.credential(),
		Capabilities: m.capabilities(), Lifetime: mls.NoLifetime, Grease: m.grease,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	if b, err = mls.UnmarshalKeyPackageBundle(m.suites, b.Marshal()); err != nil {
		m.t.Fatal(err)
	}
	m.bundle = b
	return b.KeyPackage
}

// commit makes a pending commit; with reload it is loaded from its record.
func (m *member) commit(p mls.CommitParams) (mls.CommitBundle, error) {
	g, pending, ws, err := m.g().Commit(m.t.Context(), m.env(), p)
	if err != nil {
		return mls.CommitBundle{}, err
	}
	m.set(g, ws)
	before, err := pending.Bundle(m.t.Context(), m.env(), m.g())
	if err != nil {
		m.t.Fatal(err)
	}
	if m.reload {
		if pending, err = mls.LoadPending(m.stored[mls.RecordPending][0].Value); err != nil {
			m.t.Fatal(err)
		}
		after, err := pending.Bundle(m.t.Context(), m.env(), m.g())
		if err != nil {
			m.t.Fatalf("%s: bundle after reload: %v", m.name, err)
		}
		if !bytes.Equal(before.Commit, after.Commit) || !bytes.Equal(before.Welcome, after.Welcome) || !bytes.Equal(before.GroupInfo, after.GroupInfo) {
			m.t.Fatalf("%s: the bundle is not the same after a reload", m.name)
		}
	}
	m.pending = pending
	return before, nil
}

func (m *member) merge() *mls.ReceivedCommit {
	g, result, ws, err := m.g().Merge(m.t.Context(), m.env(), m.pending)
	if err != nil {
		m.t.Fatalf("%s: merge: %v", m.name, err)
	}
	m.set(g, ws)
	m.pending = nil
	return result
}

func (m *member) process(message []byte) (mls.Processed, error) {
	msg, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		return nil, err
	}
	g, result, ws, err := m.g().Process(m.t.Context(), m.env(), msg)
	if err != nil {
		return nil, err
	}
	m.set(g, ws)
	return result, nil
}

func (m *member) join(welcome []byte) error {
	msg, err := mls.UnmarshalMLSMessage(welcome)
	if err != nil {
		return err
	}
	g, _, ws, err := mls.Join(m.t.Context(), m.env(), mls.JoinParams{Welcome: msg.Welcome, Config: m.config,
		Predecessor: m.predecessor,
		KeyPackage: func(_ context.Context, ref []byte) (*mls.KeyPackageBundle, error) {
			if m.bundle != nil && bytes.Equal(ref, m.bundle.KeyPackage.Ref(m.suite)) {
				return m.bundle, nil
			}
			return nil, core.ErrNotFound
		}})
	if err != nil {
		return err
	}
	m.set(g, ws)
	return nil
}

func (m *member) predecessor(_ context.Context, groupID []byte) (*mls.Group, *mls.Env, error) {
	if m.before == nil || !bytes.Equal(groupID, m.before.g().GroupID()) {
		return nil, nil, core.ErrNotFound
	}
	return m.before.g(), m.before.env(), nil
}

func (m *member) joinExternal(groupInfo []byte) ([]byte, error) {
	msg, err := mls.UnmarshalMLSMessage(groupInfo)
	if err != nil {
		return nil, err
	}
	g, commit, ws, err := mls.JoinExternal(m.t.Context(), m.env(), mls.ExternalParams{
		GroupInfo: msg.GroupInfo, Signer: m.signer(), Credential: m.credential(),
		Capabilities: m.capabilities(), Config: m.config,
		Replace: func(o mls.Member) bool { return string(o.Credential.Identity) == m.name },
	})
	if err != nil {
		return nil, err
	}
	m.stored = records{}
	m.set(g, ws)
	return commit, nil
}

func (m *member) propose(p mls.Proposal) ([]byte, error) {
	return m.proposed(m.g().Propose(m.t.Context(), m.env(), p, nil))
}

func (m *member) proposeUpdate(p mls.LeafParams) ([]byte, error) {
	return m.proposed(m.g().ProposeUpdate(m.t.Context(), m.env(), p, nil))
}

func (m *member) proposed(g *mls.Group, sent *mls.SentProposal, ws *record.WriteSet, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	m.set(g, ws)
	return sent.Message, nil
}

func (m *member) send(text string) ([]byte, error) {
	g, message, ws, err := m.g().Protect(m.t.Context(), m.env(), []byte(text), []byte("aad"))
	if err != nil {
		return nil, err
	}
	m.set(g, ws)
	return message, nil
}

// A party is a group of simulated members.
type party []*member

func (p party) agree(t testing.TB) {
	t.Helper()
	want := p[0].g()
	for _, m := range p[1:] {
		g := m.g()
		if g.Epoch() != want.Epoch() || !bytes.Equal(g.EpochAuthenticator(), want.EpochAuthenticator()) || !bytes.Equal(g.TreeHash(), want.TreeHash()) {
			t.Fatalf("%s (epoch %d) and %s (epoch %d) do not agree", p[0].name, want.Epoch(), m.name, g.Epoch())
		}
	}
}

// deliver gives a message to everybody but its sender.
func (p party) deliver(t testing.TB, from *member, message []byte) {
	t.Helper()
	for _, m := range p {
		if m != from {
			if _, err := m.process(message); err != nil {
				t.Fatalf("%s: process: %v", m.name, err)
			}
		}
	}
}

func (p party) talk(t testing.TB) {
	t.Helper()
	for _, m := range p {
		text := fmt.Sprintf("%s in epoch %d", m.name, m.g().Epoch())
		message, err := m.send(text)
		if err != nil {
			t.Fatalf("%s: send: %v", m.name, err)
		}
		for _, o := range p {
			if o == m {
				continue
			}
			got, err := o.process(message)
			if err != nil {
				t.Fatalf("%s: read: %v", o.name, err)
			}
			if a, ok := got.(*mls.ApplicationMessage); !ok || string(a.Data) != text || string(a.Sender.Credential.Identity) != m.name {
				t.Fatalf("%s: got %+v", o.name, got)
			}
		}
	}
}

func inSuites(t *testing.T, suites []core.SuiteID, f func(t *testing.T, suite core.SuiteID)) {
	for _, id := range suites {
		t.Run(id.String(), func(t *testing.T) { t.Parallel(); f(t, id) })
	}
}

// commitAll makes a commit, delivers it, merges it and lets those who were added join.
func (p party) commitAll(t testing.TB, by *member, params mls.CommitParams, joining ...*member) party {
	t.Helper()
	b, err := by.commit(params)
	if err != nil {
		t.Fatalf("%s: commit: %v", by.name, err)
	}
	p.deliver(t, by, b.Commit)
	result := by.merge()
	for _, m := range joining {
		if err := m.join(b.Welcome); err != nil {
			t.Fatalf("%s: join: %v", m.name, err)
		}
	}
	gone := func(m *member) bool {
		return slices.ContainsFunc(result.Removed, func(r mls.Member) bool { return string(r.Credential.Identity) == m.name })
	}
	p = append(slices.DeleteFunc(slices.Clone(p), gone), joining...)
	p.agree(t)
	return p
}

func TestLifeOfAGroup(t *testing.T) {
	t.Parallel()
	for _, handshake := range []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate} {
		for _, reload := range []bool{true, false} {
			suites := provider.Suites()
			if !reload || testing.Short() { // no suite takes another way through memory
				suites = suites[:1]
			}
			t.Run(fmt.Sprintf("handshake %d reload %v", handshake, reload), func(t *testing.T) {
				inSuites(t, suites, func(t *testing.T, suite core.SuiteID) {
					config := mls.DefaultConfig
					config.Handshake = handshake
					var all party
					for _, name := range []string{"alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy"} {
						m := newMember(t, suite, name, config)
						m.reload = reload
						all = append(all, m)
					}
					lifeOfAGroup(t, all)
				})
			})
		}
	}
}

func lifeOfAGroup(t *testing.T, all party) {
	alice, bob, carol := all[0], all[1], all[2]
	alice.create("group", nil)
	p := party{alice}
	add := func(ms ...*member) (list []mls.Proposal) {
		for _, m := range ms {
			list = append(list, &mls.Add{KeyPackage: m.keyPackage()})
		}
		return list
	}
	p = p.commitAll(t, alice, mls.CommitParams{Proposals: add(all[1:4]...)}, all[1:4]...)
	p.talk(t)
	// an empty commit, and one that rotates the signature key
	p = p.commitAll(t, bob, mls.CommitParams{ForcePath: true})
	p = p.commitAll(t, carol, mls.CommitParams{Leaf: mls.LeafParams{SignatureKey: carol.newSigner()}})
	p.talk(t)
	// adds with a path, into a tree with filled parents
	p = p.commitAll(t, carol, mls.CommitParams{Proposals: add(all[4:9]...), ForcePath: true}, all[4:9]...)
	p.talk(t)
	for _, m := range p {
		p = p.commitAll(t, m, mls.CommitParams{ForcePath: true})
	}
	// proposals by reference: an update, a removal, an addition
	propose := func(m *member) func([]byte, error) {
		return func(message []byte, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: propose: %v", m.name, err)
			}
			p.deliver(t, m, message)
		}
	}
	propose(bob)(bob.proposeUpdate(mls.LeafParams{SignatureKey: bob.newSigner()}))
	propose(carol)(carol.propose(&mls.Remove{Removed: 3}))
	propose(carol)(carol.propose(add(all[9])[0]))
	if _, err := alice.send("too early"); !errors.Is(err, mls.ErrPendingProposals) {
		t.Fatalf("PRP-10: %v", err)
	}
	p = p.commitAll(t, all[5], mls.CommitParams{}, all[9])
	p.talk(t)
	// a PSK and new group extensions
	for _, m := range p {
		m.psks["psk"] = []byte("a shared secret")
	}
	p = p.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{
		alice.g().NewExternalPSK([]byte("psk")), alice.g().NewResumptionPSK(alice.g().Epoch()),
		&mls.GroupContextExtensions{Extensions: mls.Extensions{mls.RequiredCapabilities{Credentials: []core.CredentialType{1, 2}}.Extension()}},
	}})
	p.talk(t)
	// dave comes back from outside; heidi resyncs
	for _, m := range []*member{all[3], all[7]} {
		info, err := alice.g().GroupInfo(t.Context(), alice.env(), mls.GroupInfoParams{})
		if err != nil {
			t.Fatal(err)
		}
		commit, err := m.joinExternal(info)
		if err != nil {
			t.Fatalf("%s: external join: %v", m.name, err)
		}
		p = slices.DeleteFunc(p, func(o *member) bool { return o == m })
		p.deliver(t, nil, commit)
		p = append(p, m)
		p.agree(t)
		p.talk(t)
	}
	// remove many, down to two
	slices.SortFunc(p, func(a, b *member) int { return cmp.Compare(a.g().OwnLeaf(), b.g().OwnLeaf()) })
	var removes []mls.Proposal
	for _, m := range p[2:] {
		removes = append(removes, &mls.Remove{Removed: m.g().OwnLeaf()})
	}
	p = p.commitAll(t, p[0], mls.CommitParams{Proposals: removes})
	p.talk(t)
	if len(p) != 2 {
		t.Fatalf("%d members are left", len(p))
	}
}
