// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"maps"
	"slices"
)

// A model of Proteus in which a key is a number, to say what has to come of a history. It
// is as naive as the description: keys are equal if they are derived in the same way.
// Numbers of key pairs are drawn; those of what is derived are found in a table.

type model struct {
	derived map[[4]int]int
	drawn   int
}

// The ways in which a key is derived.
const (
	byAgreement = iota
	byMaster
	byHandshakeRoot
	byHandshakeChain
	byStepRoot
	byStepChain
	byMessage
)

func (m *model) draw() int { m.drawn++; return m.drawn }

func (m *model) derive(way, a, b, c int) int {
	key := [4]int{way, a, b, c}
	if m.derived[key] == 0 {
		m.derived[key] = m.draw()
	}
	return m.derived[key]
}

func (m *model) agree(a, b int) int { return m.derive(byAgreement, min(a, b), max(a, b), 0) }

// handshake gives root key and chain key.
func (m *model) handshake(one, two, three int) (root, chain int) {
	master := m.derive(byMaster, one, two, three)
	return m.derive(byHandshakeRoot, master, 0, 0), m.derive(byHandshakeChain, master, 0, 0)
}

func (m *model) step(root, shared int) (next, chain int) {
	return m.derive(byStepRoot, root, shared, 0), m.derive(byStepChain, root, shared, 0)
}

type modelPreKey struct {
	id   uint16
	base int
}

type modelMessage struct {
	opens             *modelPreKey // nil: a cipher message
	identity          int
	tag               Tag
	counter, previous int
	ratchet           int
	key               int // of its MAC
	text              string
}

type modelChain struct {
	key     int
	index   int
	ratchet int
	kept    []int
}

type modelState struct {
	root     int
	send     modelChain
	previous int
	receive  []modelChain // the newest first
}

type modelSession struct {
	remote  int
	current Tag
	pending *modelPreKey
	states  map[Tag]modelState
}

func (s *modelSession) clone() *modelSession {
	if s == nil {
		return nil
	}
	c := *s
	c.states = maps.Clone(s.states)
	return &c
}

// open is section 3, for who opens a session.
func (m *model) open(identity, theirs, preKey int, id uint16, tag Tag) *modelSession {
	base := m.draw()
	root, chain := m.handshake(m.agree(identity, preKey), m.agree(base, theirs), m.agree(base, preKey))
	s := modelState{receive: []modelChain{{key: chain, ratchet: preKey}}, send: modelChain{ratchet: m.draw()}}
	s.root, s.send.key = m.step(root, m.agree(s.send.ratchet, preKey))
	return &modelSession{theirs, tag, &modelPreKey{id, base}, map[Tag]modelState{tag: s}}
}

// encrypt is section 4.2.
func (m *model) encrypt(s *modelSession, identity int, text string) (*modelSession, modelMessage) {
	s = s.clone()
	state := s.states[s.current]
	message := modelMessage{s.pending, identity, s.current, state.send.index, state.previous, state.send.ratchet,
		m.derive(byMessage, state.send.key, state.send.index, 0), text}
	state.send.index++
	s.states[s.current] = state
	return s, message
}

// receive is section 4.3: the state, or a code.
func (m *model) receive(s modelState, e modelMessage) (modelState, Code) {
	s.receive = slices.Clone(s.receive)
	i := slices.IndexFunc(s.receive, func(c modelChain) bool { return c.ratchet == e.ratchet })
	if i < 0 {
		fresh := m.draw()
		root, receive := m.step(s.root, m.agree(s.send.ratchet, e.ratchet))
		s.previous = s.send.index
		s.send = modelChain{ratchet: fresh}
		s.root, s.send.key = m.step(root, m.agree(fresh, e.ratchet))
		s.receive = slices.Insert(s.receive, 0, modelChain{key: receive, ratchet: e.ratchet})
		if len(s.receive) > 5 {
			s.receive = s.receive[:5]
		}
		i = 0
	}
	c := &s.receive[i]
	good := e.key == m.derive(byMessage, c.key, e.counter, 0)
	if e.counter < c.index {
		at, ok := slices.BinarySearch(c.kept, e.counter)
		switch {
		case len(c.kept) > 0 && c.kept[0] > e.counter:
			return s, CodeOutdated
		case !ok:
			return s, CodeDuplicate
		case !good:
			return s, CodeBadMACBehind
		}
		c.kept = slices.Delete(slices.Clone(c.kept), at, at+1)
		return s, 0
	}
	switch ahead := e.counter > c.index; {
	case e.counter-c.index > 1000 && c.index == 0:
		return s, CodeTooDistantUnused
	case e.counter-c.index > 1000:
		return s, CodeTooDistant
	case !good && ahead:
		return s, CodeBadMACAhead
	case !good:
		return s, CodeBadMACInSync
	}
	c.kept = slices.Clone(c.kept)
	for ; c.index < e.counter; c.index++ {
		c.kept = append(c.kept, c.index)
	}
	c.kept = c.kept[max(0, len(c.kept)-1000):]
	c.index++
	return s, 0
}

// decrypt is section 4.5: the session after the message and the prekey that it used, or a
// code. s is nil if there is no session.
func (m *model) decrypt(s *modelSession, identity int, preKeys map[uint16]int, e modelMessage) (*modelSession, *uint16, Code) {
	if s == nil {
		if e.opens == nil {
			return nil, nil, CodeNoPreKeyMessage
		}
		s = &modelSession{remote: e.identity, states: map[Tag]modelState{}}
	} else {
		if e.opens != nil && e.identity != s.remote {
			return nil, nil, CodeRemoteIdentityChanged
		}
		code := CodeNoState
		if state, ok := s.states[e.tag]; ok {
			if state, code = m.receive(state, e); code == 0 {
				return s.inserted(e.tag, state), nil, 0
			}
		}
		if e.opens == nil || !slices.Contains([]Code{CodeNoState, CodeBadMACInSync, CodeBadMACAhead, CodeBadMACBehind}, code) {
			return nil, nil, code
		}
	}
	preKey, ok := preKeys[e.opens.id]
	if !ok {
		return nil, nil, CodePreKeyNotFound
	}
	root, chain := m.handshake(m.agree(e.identity, preKey), m.agree(e.opens.base, identity), m.agree(e.opens.base, preKey))
	state, code := m.receive(modelState{root: root, send: modelChain{key: chain, ratchet: preKey}}, e)
	if code != 0 {
		return nil, nil, code
	}
	if _, there := s.states[e.tag]; there { // ours alone: both implementations replace it
		return nil, nil, CodeOutdated
	}
	return s.inserted(e.tag, state), &e.opens.id, 0
}

func (s *modelSession) inserted(tag Tag, state modelState) *modelSession {
	s = s.clone()
	s.states[tag], s.current, s.pending = state, tag, nil
	return s
}
