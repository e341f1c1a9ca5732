// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"fmt"
	"maps"
	"slices"

	"github.com/conclave-mls/conclave/core/proteus"
)

// The protocol without cryptography, by which the histories of Proteus say beforehand what
// becomes of each message: a name stands for each key, and what is derived from equal names
// has equal names. The rest is what the public description of the protocol says of chains,
// counters and states.

// A name is one of a key, a chain or a state; those of one history are of one registry.
type name int

type names struct {
	last    name
	derived map[string]name
	happens map[string]int // what has happened, how often
}

// fresh names what is random.
func (n *names) fresh() name {
	n.last++
	return n.last
}

// derive names what a function gives.
func (n *names) derive(function string, of ...name) name {
	key := fmt.Sprint(function, of)
	if n.derived[key] == 0 {
		n.derived[key] = n.fresh()
	}
	return n.derived[key]
}

func (n *names) agree(a, b name) name { return n.derive("agree", min(a, b), max(a, b)) }

func (n *names) step(root, shared name) (name, name) {
	return n.derive("root", root, shared), n.derive("chain", root, shared)
}

// The limits.
const (
	gapLimit   = 1000
	keptLimit  = 1000
	chainLimit = 5
)

// A modelDevice is a device that has at most one session.
type modelDevice struct {
	*names
	identity name
	preKeys  map[uint16]name
	used     map[name]int // of our turns, how many keys
	session  *modelSession
	ours     bool // refuses to open a state that is there
}

func newModelDevice(n *names) *modelDevice {
	return &modelDevice{names: n, identity: n.fresh(), preKeys: map[uint16]name{}, used: map[name]int{}}
}

func (d *modelDevice) clone() *modelDevice {
	c := *d
	c.preKeys, c.used = maps.Clone(d.preKeys), maps.Clone(d.used)
	if d.session != nil {
		s := *d.session
		s.states = maps.Clone(s.states)
		c.session = &s
	}
	return &c
}

// undone is the device as it was, but for the keys that it has used since, if it knows of
// them, and the prekey of last resort, which was there already.
func (d *modelDevice) undone(was *modelDevice, burnt bool) *modelDevice {
	if k := d.preKeys[proteus.LastResortPreKeyID]; k != 0 {
		was.preKeys[proteus.LastResortPreKeyID] = k
	}
	if !burnt {
		return was
	}
	was.used = d.used
	if was.session != nil {
		for tag, s := range was.session.states {
			if used := d.used[s.ratchet]; used > s.index {
				s.index = used
				was.session.states[tag] = s
				d.happens["burnt"]++
			}
		}
	}
	return was
}

type modelSession struct {
	remote, current name
	pending         *modelPreKey
	states          map[name]modelState
}

type modelPreKey struct {
	id   uint16
	base name
}

type modelState struct {
	root, ratchet, chain name // the latter two are of our turn
	index, previous      int
	receive              []modelChain
}

type modelChain struct {
	chain, ratchet name
	index          int
	kept           []int
}

// A modelBundle is a published prekey.
type modelBundle struct {
	id            uint16
	key, identity name
}

// A modelMessage is what a message says, and whose keys it has.
type modelMessage struct {
	malformed proteus.Code // it cannot be decoded
	altered   bool         // what the MAC covers, or the MAC

	first        bool // it can open a session, and has these:
	preKey       modelPreKey
	identity     name
	tag, ratchet name
	counter      int
	previous     int // nobody reads it

	chain name // that its keys are of
}

func (d *modelDevice) handshake(state *modelState, shared ...name) {
	state.root, state.chain = d.derive("first root", shared...), d.derive("first chain", shared...)
}

func (d *modelDevice) open(b modelBundle) {
	base, ratchet, tag := d.fresh(), d.fresh(), d.fresh()
	var s modelState
	d.handshake(&s, d.agree(d.identity, b.key), d.agree(base, b.identity), d.agree(base, b.key))
	s.receive = []modelChain{{chain: s.chain, ratchet: b.key}}
	s.ratchet = ratchet
	s.root, s.chain = d.step(s.root, d.agree(ratchet, b.key))
	d.session = &modelSession{b.identity, tag, &modelPreKey{b.id, base}, map[name]modelState{tag: s}}
}

// encrypt uses n keys and gives the message of the last.
func (d *modelDevice) encrypt(n int) (modelMessage, proteus.Code) {
	if d.session == nil {
		return modelMessage{}, proteus.CodeSessionNotFound
	}
	s := d.session.states[d.session.current]
	s.index += n
	d.session.states[d.session.current], d.used[s.ratchet] = s, s.index
	m := modelMessage{tag: d.session.current, ratchet: s.ratchet, counter: s.index - 1, previous: s.previous, chain: s.chain}
	if p := d.session.pending; p != nil {
		m.first, m.preKey, m.identity = true, *p, d.identity
	}
	return m, 0
}

// decrypt says what becomes of a message.
func (d *modelDevice) decrypt(m modelMessage) proteus.Code {
	switch {
	case m.malformed != 0:
		return m.malformed
	case d.session == nil && !m.first:
		return proteus.CodeNoPreKeyMessage
	case d.session == nil:
		return d.answer(m, &modelSession{remote: m.identity, states: map[name]modelState{}})
	case m.first && m.identity != d.session.remote:
		return proteus.CodeRemoteIdentityChanged
	}
	code := proteus.CodeNoState
	if s, ok := d.session.states[m.tag]; ok {
		if s, code = d.read(s, m); code == 0 {
			d.session.readIn(m.tag, s)
		}
	}
	switch code {
	case proteus.CodeNoState, proteus.CodeBadMACInSync, proteus.CodeBadMACAhead, proteus.CodeBadMACBehind:
		if m.first {
			return d.answer(m, d.session)
		}
	}
	return code
}

// answer opens a state by a message of who has one of our prekeys.
func (d *modelDevice) answer(m modelMessage, in *modelSession) proteus.Code {
	preKey, ok := d.preKeys[m.preKey.id]
	if !ok {
		return proteus.CodePreKeyNotFound
	}
	s := modelState{ratchet: preKey}
	d.handshake(&s, d.agree(preKey, m.identity), d.agree(d.identity, m.preKey.base), d.agree(preKey, m.preKey.base))
	s, code := d.read(s, m)
	if code != 0 {
		return code
	}
	if _, there := in.states[m.tag]; there && d.ours {
		return proteus.CodeOutdated
	}
	if m.preKey.id != proteus.LastResortPreKeyID {
		delete(d.preKeys, m.preKey.id)
	}
	in.readIn(m.tag, s)
	d.session = in
	return 0
}

func (s *modelSession) readIn(tag name, state modelState) {
	s.states[tag], s.current, s.pending = state, tag, nil
}

// read gives the state after a message.
func (d *modelDevice) read(s modelState, m modelMessage) (modelState, proteus.Code) {
	s.receive = slices.Clone(s.receive)
	i := slices.IndexFunc(s.receive, func(c modelChain) bool { return c.ratchet == m.ratchet })
	if i < 0 {
		i = 0
		c := modelChain{ratchet: m.ratchet}
		s.root, c.chain = d.step(s.root, d.agree(s.ratchet, m.ratchet))
		s.previous, s.index, s.ratchet = s.index, 0, d.fresh()
		s.root, s.chain = d.step(s.root, d.agree(s.ratchet, m.ratchet))
		s.receive = slices.Insert(s.receive, 0, c)
		if len(s.receive) > chainLimit {
			s.receive = s.receive[:chainLimit]
			d.happens["a turn too many"]++
		}
	}
	c := &s.receive[i]
	good := !m.altered && m.chain == c.chain
	switch gap := m.counter - c.index; {
	case gap < 0 && len(c.kept) > 0 && c.kept[0] > m.counter:
		return s, proteus.CodeOutdated
	case gap < 0:
		at, ok := slices.BinarySearch(c.kept, m.counter)
		switch {
		case !ok:
			return s, proteus.CodeDuplicate
		case !good:
			return s, proteus.CodeBadMACBehind
		}
		c.kept = slices.Delete(slices.Clone(c.kept), at, at+1)
		return s, 0
	case gap > gapLimit && c.index == 0:
		return s, proteus.CodeTooDistantUnused
	case gap > gapLimit:
		return s, proteus.CodeTooDistant
	case !good && gap == 0:
		return s, proteus.CodeBadMACInSync
	case !good:
		return s, proteus.CodeBadMACAhead
	}
	c.kept = slices.Clone(c.kept)
	for ; c.index < m.counter; c.index++ {
		c.kept = append(c.kept, c.index)
	}
	c.index++
	if over := len(c.kept) - keptLimit; over > 0 {
		c.kept = c.kept[over:]
		d.happens["kept keys too many"]++
	}
	return s, 0
}

// ids are those of the prekeys, ascending.
func (d *modelDevice) ids() []uint16 { return slices.Sorted(maps.Keys(d.preKeys)) }
