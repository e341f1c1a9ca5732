// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// A Floor says from which counter on a send chain may be used. What was encrypted in a
// value of a session that was then dropped may have left the process: its keys are burnt,
// for a key and a counter must never encrypt twice.
type Floor struct {
	Ratchet PublicKey // of the turn
	Index   uint64    // the next counter; 2^32: none is left
}

// Burnt gives the floors of the send chains of s that were used in dropped, a later value of it. A
// chain that s does not have needs none: its ratchet key is random and never comes again.
func (s *Session) Burnt(dropped *Session) (floors []Floor) {
	used := slices.Clone(dropped.left)
	for _, t := range dropped.states {
		used = append(used, t.state.send.floor())
	}
	for _, f := range used {
		if slices.ContainsFunc(s.states, func(t taggedState) bool {
			is := t.state.send.floor()
			return is.Ratchet == f.Ratchet && is.Index < f.Index
		}) {
			floors = append(floors, f)
		}
	}
	return floors
}

func (s sendChain) floor() Floor { return Floor{s.pair.public, s.chain.index} }

// leave notes how far a send chain was used that the session no longer has, for Burnt: 40
// bytes for each turn since the session was read from its records.
func (s *Session) leave(was, is *state) {
	if was.send.chain.index > 0 && (is == nil || is.send.pair.public != was.send.pair.public) {
		s.left = append(slices.Clip(s.left), was.send.floor())
	}
}

// Above is the session with its send chains at or above the floors: s itself if they are,
// or are of chains that it does not have any more.
func (s *Session) Above(floors []Floor) *Session {
	if len(floors) == 0 {
		return s
	}
	next := *s
	next.states = slices.Clone(s.states)
	raised := false
	for _, f := range floors {
		for i, t := range next.states {
			if t.state.send.pair.public != f.Ratchet || t.state.send.chain.index >= f.Index || f.Index > maxIndex+1 {
				continue
			}
			state := *t.state
			state.send.chain.key = core.NewSecret(slices.Clone(state.send.chain.key.Bytes()))
			for state.send.chain.index < f.Index {
				state.send.chain.step()
			}
			next.states[i].state = &state
			raised = true
		}
	}
	if !raised {
		return s
	}
	return &next
}
