// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core/mls"
)

// A letter is an application message on its way to one member.
type letter struct {
	from  string
	epoch uint64
	bytes []byte
}

// A crowd does what members do, in random order. Messages arrive late and out of
// order, steps are thrown away and done again, commits compete.
type crowd struct {
	*rand.Rand
	t       *testing.T
	config  mls.Config
	all     []*member // in the group or not
	in      party
	joined  map[*member]uint64 // epoch in which its view begins
	letters map[*member][]letter
	log     []string
}

// TestRandomGroups lets crowds live, with their groups in memory, reloaded from the
// store, or now this and now that; what is retired is wiped at once.
func TestRandomGroups(t *testing.T) {
	t.Parallel()
	steps := 120
	if testing.Short() {
		steps = 40
	}
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			c := &crowd{Rand: rand.New(rand.NewPCG(seed, 0)), t: t, joined: map[*member]uint64{}, letters: map[*member][]letter{}}
			c.config = mls.DefaultConfig
			c.config.MaxPastEpochs = []uint32{0, 1, 3}[seed%3]
			c.config.Handshake = []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate}[seed/3%2]
			c.config.OutOfOrder, c.config.SendWithProposals = 1000, true
			for i := range 12 {
				m := newMember(t, 1, fmt.Sprint("member ", i), c.config)
				m.psks["psk"] = []byte("a shared secret")
				c.all = append(c.all, m)
			}
			c.all[0].create("group", nil)
			c.in = party{c.all[0]}
			for range steps {
				for _, m := range c.all {
					m.reload = c.IntN(3) == 0
				}
				c.step()
				if t.Failed() {
					t.Log(c.log)
					return
				}
			}
		})
	}
}

func (c *crowd) one() *member { return c.in[c.IntN(len(c.in))] }

func (c *crowd) note(format string, args ...any) { c.log = append(c.log, fmt.Sprintf(format, args...)) }

func (c *crowd) step() {
	switch k := c.IntN(20); {
	case k < 5:
		c.send()
	case k < 8:
		c.read()
	case k < 12:
		c.propose()
	case k < 18:
		c.commit()
	default:
		c.enter()
	}
}

// send sends a message that nobody gets at once; now and then the step is thrown
// away after the message has left, and its generation counts as burnt.
func (c *crowd) send() {
	m := c.one()
	message := func() []byte {
		g, message, ws, err := m.g().Protect(c.t.Context(), m.env(), []byte(m.name), nil)
		if err != nil {
			c.t.Fatalf("%s: send: %v", m.name, err)
		}
		if c.IntN(4) > 0 {
			m.set(g, ws)
			return message
		}
		epoch, floors := g.SentGenerations()
		stored, err := mls.RaiseFloors(m.floors(epoch), floors)
		if err != nil {
			c.t.Fatal(err)
		}
		key := make([]byte, 8)
		for i := range key {
			key[i] = byte(epoch >> (56 - 8*i))
		}
		m.stored.apply(&mls.WriteSet{Puts: []mls.Record{{Kind: mls.RecordFloors, Key: key, Value: stored}}})
		m.group = m.group.WithFloors(floors)
		return message
	}()
	c.note("%s sends in %d", m.name, m.g().Epoch())
	for _, o := range c.in {
		if o != m {
			c.letters[o] = append(c.letters[o], letter{m.name, m.g().Epoch(), message})
		}
	}
}

func (m *member) floors(epoch uint64) []byte {
	for _, r := range m.stored[mls.RecordFloors] {
		if key := r.Key; len(key) == 8 && key[7] == byte(epoch) {
			return r.Value
		}
	}
	return nil
}

// read opens what waits for a member, in any order.
func (c *crowd) read() {
	m := c.one()
	c.note("%s reads in %d", m.name, m.g().Epoch())
	list := c.letters[m]
	c.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, l := range list {
		c.open(m, l)
	}
	c.letters[m] = nil
}

func (c *crowd) open(m *member, l letter) {
	c.t.Helper()
	parsed, err := mls.UnmarshalMLSMessage(l.bytes)
	if err != nil {
		c.t.Fatal(err)
	}
	now := m.g().Epoch()
	kept := l.epoch >= c.joined[m] && now-l.epoch <= uint64(c.config.MaxPastEpochs)
	if kept && c.IntN(3) == 0 { // thrown away, and done again below
		if _, _, _, err := m.g().Process(c.t.Context(), m.env(), parsed); err != nil {
			c.t.Errorf("%s in %d: message of %s of %d: %v", m.name, now, l.from, l.epoch, err)
		}
	}
	got, err := m.process(l.bytes)
	switch a, ok := got.(*mls.ApplicationMessage); {
	case !kept:
		if !errors.Is(err, mls.ErrTooOld) {
			c.t.Errorf("%s in %d: message of %d: %v", m.name, now, l.epoch, err)
		}
		return
	case err != nil:
		c.t.Errorf("%s in %d: message of %s of %d: %v", m.name, now, l.from, l.epoch, err)
		return
	case !ok || string(a.Data) != l.from || string(a.Sender.Credential.Identity) != l.from || a.Epoch != l.epoch: // CRD-7
		c.t.Errorf("%s: message of %s: got %+v", m.name, l.from, got)
	}
	before := m.stored.dump()
	if _, err := m.process(l.bytes); !errors.Is(err, mls.ErrDuplicateMessage) || m.stored.dump() != before {
		c.t.Errorf("%s in %d: message of %d again: %v", m.name, now, l.epoch, err)
	}
}

// outside lists who is not in the group.
func (c *crowd) outside() (out []*member) {
	for _, m := range c.all {
		if !slices.Contains(c.in, m) {
			out = append(out, m)
		}
	}
	return out
}

// proposal makes a proposal that m may send, and who joins if it is committed.
func (c *crowd) proposal(m *member) (mls.Proposal, *member) {
	switch out := c.outside(); {
	case len(out) > 0 && c.IntN(2) == 0:
		o := out[c.IntN(len(out))]
		if o.bundle == nil {
			o.keyPackage()
		}
		return &mls.Add{KeyPackage: o.bundle.KeyPackage}, o
	case c.IntN(3) == 0:
		return m.g().NewExternalPSK([]byte("psk")), nil
	case c.IntN(4) == 0:
		return &mls.GroupContextExtensions{Extensions: m.g().Extensions()}, nil
	}
	return &mls.Remove{Removed: c.one().g().OwnLeaf()}, nil
}

func (c *crowd) propose() {
	m := c.one()
	var message []byte
	var err error
	if c.IntN(2) == 0 {
		c.note("%s proposes an update in %d", m.name, m.g().Epoch())
		p := mls.LeafParams{}
		if c.IntN(2) == 0 {
			p.SignatureKey = m.newSigner()
		}
		message, err = m.proposeUpdate(p)
	} else {
		p, _ := c.proposal(m)
		c.note("%s proposes %T in %d", m.name, p, m.g().Epoch())
		message, err = m.propose(p)
	}
	if err != nil {
		c.t.Fatalf("%s: propose: %v", m.name, err)
	}
	for _, o := range c.in {
		if o == m {
			continue
		}
		// The same Remove in the same epoch has the same bytes.
		if _, err := o.process(message); err != nil && !errors.Is(err, mls.ErrDuplicateMessage) {
			c.t.Fatalf("%s: process: %v", o.name, err)
		}
	}
}

// commit lets some members make commits, of which one wins.
func (c *crowd) commit() {
	var rivals []*member
	var bundles []mls.CommitBundle
	for range 1 + c.IntN(2) {
		m := c.one()
		if slices.Contains(rivals, m) {
			continue
		}
		params := mls.CommitParams{ForcePath: c.IntN(2) == 0}
		if p, _ := c.proposal(m); c.IntN(2) == 0 {
			if r, ok := p.(*mls.Remove); !ok || r.Removed != m.g().OwnLeaf() {
				params.Proposals = []mls.Proposal{p}
			}
		}
		if c.IntN(5) == 0 {
			params.Leaf.SignatureKey = m.newSigner()
		}
		b, err := m.commit(params)
		if err != nil {
			c.t.Fatalf("%s: commit: %v", m.name, err)
		}
		rivals, bundles = append(rivals, m), append(bundles, b)
	}
	if c.IntN(3) == 0 { // traffic goes on meanwhile
		c.send()
		c.propose()
	}
	if c.IntN(8) == 0 { // nobody's commit is accepted
		for _, m := range rivals {
			m.stored.apply(m.g().DropPending())
			m.pending = nil
		}
		return
	}
	c.accept(rivals[0], bundles[0])
}

// accept makes a commit the group's.
func (c *crowd) accept(m *member, b mls.CommitBundle) {
	var result *mls.ReceivedCommit
	for _, o := range c.in {
		if o == m {
			continue
		}
		if parsed, err := mls.UnmarshalMLSMessage(b.Commit); err != nil {
			c.t.Fatal(err)
		} else if c.IntN(3) == 0 { // thrown away, and done again
			if _, _, _, err := o.g().Process(c.t.Context(), o.env(), parsed); err != nil {
				c.t.Fatalf("%s: process: %v", o.name, err)
			}
		}
		if _, err := o.process(b.Commit); err != nil {
			c.t.Fatalf("%s: process: %v", o.name, err)
		}
		o.pending = nil
	}
	if c.IntN(3) == 0 {
		if _, _, _, err := m.g().Merge(c.t.Context(), m.env(), m.pending); err != nil {
			c.t.Fatalf("%s: merge: %v", m.name, err)
		}
	}
	result = m.merge()
	c.note("%s has committed %d: %d added, %d removed, %d updated", m.name, m.g().Epoch(), len(result.Added), len(result.Removed), len(result.Updated))
	for _, r := range result.Removed {
		i := slices.IndexFunc(c.in, func(o *member) bool { return string(r.Credential.Identity) == o.name })
		gone := c.in[i]
		if gone.g().Active() {
			c.t.Errorf("%s does not know that it was removed", gone.name)
		}
		c.in = slices.Delete(slices.Clone(c.in), i, i+1)
		gone.stored, gone.group, gone.bundle = records{}, nil, nil
		delete(c.letters, gone)
	}
	for _, a := range result.Added {
		i := slices.IndexFunc(c.all, func(o *member) bool { return string(a.Credential.Identity) == o.name })
		o := c.all[i]
		if err := o.join(b.Welcome); err != nil {
			c.t.Fatalf("%s: join: %v", o.name, err)
		}
		o.bundle = nil
		c.in = append(slices.Clone(c.in), o)
		c.joined[o] = o.g().Epoch()
	}
	c.in.agree(c.t)
	for _, o := range c.in {
		checkPageVersions(c.t, o, uint64(c.config.MaxPastEpochs))
	}
}

// enter lets somebody in by an external commit, or a member come back.
func (c *crowd) enter() {
	m := c.all[c.IntN(len(c.all))]
	if len(c.in) == 1 && c.in[0] == m {
		return
	}
	by := c.one()
	for by == m {
		by = c.one()
	}
	if c.IntN(2) == 0 { // somebody's own commit loses
		if _, err := by.commit(mls.CommitParams{ForcePath: true}); err != nil {
			c.t.Fatal(err)
		}
	}
	info, err := by.g().GroupInfo(c.t.Context(), by.env(), mls.GroupInfoParams{})
	if err != nil {
		c.t.Fatal(err)
	}
	c.note("%s enters %d", m.name, by.g().Epoch()+1)
	commit, err := m.joinExternal(info)
	if err != nil {
		c.t.Fatalf("%s: external commit: %v", m.name, err)
	}
	m.bundle, m.pending = nil, nil
	c.in = slices.DeleteFunc(slices.Clone(c.in), func(o *member) bool { return o == m })
	c.in.deliver(c.t, nil, commit)
	for _, o := range c.in {
		o.pending = nil
	}
	c.in = append(c.in, m)
	c.joined[m] = m.g().Epoch()
	delete(c.letters, m)
	c.in.agree(c.t)
}
