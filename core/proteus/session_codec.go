// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// Marshal encodes the session as both implementations store it, secrets included, its
// states ordered by their tags. Keys that are in the store are read by env. ErrExhausted if
// a chain is at its end, which the encoding has no number for.
func (s *Session) Marshal(ctx context.Context, env *Env) ([]byte, error) {
	return s.marshal(ctx, env, slices.SortedFunc(slices.Values(s.states), func(t, u taggedState) int {
		return bytes.Compare(t.tag[:], u.tag[:])
	}))
}

func (s *Session) marshal(ctx context.Context, env *Env, states []taggedState) ([]byte, error) {
	b := appendUint(append(appendMap(nil, 6), 0), version)
	b = appendBytes(append(b, 1), s.current[:])
	b = s.local.appendIdentity(append(b, 2))
	b = s.remote.appendIdentity(append(b, 3))
	b = s.pending.append(append(b, 4))
	b = appendMap(append(b, 5), len(states))
	for _, t := range states {
		b = appendBytes(b, t.tag[:])
		var err error
		if b, err = t.state.append(b, env.pages(ctx, t.number)); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (p *pendingPreKey) append(b []byte) []byte {
	if p == nil {
		return append(b, null)
	}
	b = appendUint(append(appendMap(b, 2), 0), uint64(p.id))
	return appendWrapped(append(b, 1), p.base[:])
}

// append writes a SessionState; with load nil one for a record, whose pages are elsewhere.
func (s *state) append(b []byte, load func(chain uint32) loadPage) ([]byte, error) {
	b = appendArray(append(appendMap(b, 4), 0), len(s.receive))
	for _, c := range s.receive {
		var err error
		if b, err = c.append(b, load); err != nil {
			return nil, err
		}
	}
	if load != nil && s.send.chain.index > maxIndex {
		return nil, failed(CodeExhausted, "sending")
	}
	b = s.send.chain.append(append(appendMap(append(b, 1), 2), 0))
	if b = append(b, 1); load == nil {
		b = s.send.pair.appendSeed(b)
	} else {
		b = s.send.pair.append(b)
	}
	b = appendWrapped(append(appendMap(append(b, 2), 1), 0), s.root.Bytes())
	return appendUint(append(b, 3), uint64(s.previous)), nil
}

func (c chainKey) append(b []byte) []byte {
	b = appendWrapped(append(appendMap(b, 2), 0), c.key.Bytes())
	return appendUint(append(b, 1), c.index)
}

// The fields of a receive chain that only our records have.
const (
	fieldNumber = 3 // of the chain
	fieldKept   = 4 // for each page its number and which keys it has, 4 bytes each
)

func (c receiveChain) append(b []byte, load func(chain uint32) loadPage) ([]byte, error) {
	fields := 3
	if load == nil {
		fields = 5
	}
	b = c.chain.append(append(appendMap(b, fields), 0))
	b = appendWrapped(append(b, 1), c.ratchet[:])
	b = append(b, 2)
	if load == nil {
		b = appendUint(append(appendArray(b, 0), fieldNumber), uint64(c.number))
		pages := make([]byte, 0, 8*len(c.kept))
		for _, p := range c.kept {
			pages = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(pages, p.number), p.has)
		}
		return appendBytes(append(b, fieldKept), pages), nil
	}
	if c.chain.index > maxIndex {
		return nil, failed(CodeExhausted, "receiving")
	}
	b = appendArray(b, c.kept.count())
	for _, p := range c.kept {
		keys, err := p.load(load(c.number))
		if err != nil {
			return nil, err
		}
		k := keys.Bytes()
		for has := p.has; has != 0; has &= has - 1 {
			b = appendWrapped(append(appendMap(b, 3), 0), k[:32])
			b = appendWrapped(append(b, 1), k[32:64])
			b = appendUint(append(b, 2), uint64(p.number)<<5+uint64(bits.TrailingZeros32(has)))
			k = k[pageKeySize:]
		}
		p.done(keys)
	}
	return b, nil
}

// UnmarshalSession reads what Marshal and both implementations write. identity is ours:
// ErrLocalIdentityChanged if the session is of another. That public keys are points of the
// curve is not checked, as none of a stored session is ever agreed with.
func UnmarshalSession(identity PublicKey, data []byte) (*Session, error) {
	r, s := &reader{rest: data}, &Session{local: identity}
	r.fields([]uint64{0, 1, 3, 5}, func(key uint64) bool {
		switch key {
		case 0:
			r.uint(1)
		case 1:
			r.fixed(s.current[:])
		case 2:
			s.local = r.identity()
		case 3:
			s.remote = r.identity()
		case 4:
			s.pending = r.pending()
		case 5:
			s.states = r.states()
		default:
			return false
		}
		return true
	})
	if err := r.end("session"); err != nil {
		s.Wipe(nil)
		return nil, err
	}
	if s.local != identity {
		s.Wipe(nil)
		return nil, failed(CodeLocalIdentityChanged, "the session is of %s, we are %s", s.local.Fingerprint(), identity.Fingerprint())
	}
	return s, nil
}

func (r *reader) pending() *pendingPreKey {
	if r.absent() {
		return nil
	}
	p := new(pendingPreKey)
	r.fields([]uint64{0, 1}, func(key uint64) bool {
		switch key {
		case 0:
			p.id = uint16(r.uint(2))
		case 1:
			p.base = r.public()
		default:
			return false
		}
		return true
	})
	return p
}

// states reads the states of a session. Whoever wrote it may have had more than we keep.
func (r *reader) states() (states []taggedState) {
	for range r.entries(majorMap) {
		var t taggedState
		r.fixed(t.tag[:])
		t.state = r.state(false)
		if slices.ContainsFunc(states, func(u taggedState) bool { return u.tag == t.tag }) {
			r.fail(CodeMalformed, "state %v twice", t.tag)
		}
		t.number = uint32(len(states))
		states = append(states, t)
		if r.err != nil {
			break
		}
	}
	return states
}

// state reads a SessionState; of a record, if stored.
func (r *reader) state(stored bool) *state {
	s := new(state)
	r.fields([]uint64{0, 1, 2, 3}, func(key uint64) bool {
		switch key {
		case 0:
			s.receive = r.receiveChains(stored)
		case 1:
			s.send = r.sendChain(stored)
		case 2:
			s.root = r.rootKey()
		case 3:
			s.previous = uint32(r.uint(4))
		default:
			return false
		}
		return true
	})
	for i := range s.receive {
		if !stored { // they get their records when they are first stored
			s.receive[i].number = uint32(len(s.receive) - 1 - i)
		}
		s.numbers = max(s.numbers, s.receive[i].number+1)
	}
	return s
}

func (r *reader) receiveChains(stored bool) (chains []receiveChain) {
	n := r.entries(majorArray)
	if n > maxReceiveChains {
		r.fail(CodeMalformed, "%d receive chains", n)
	}
	for range n {
		var c receiveChain
		r.fields([]uint64{0, 1}, func(key uint64) bool {
			switch {
			case key == 0:
				c.chain = r.chainKey(stored)
			case key == 1:
				c.ratchet = r.public()
			case key == 2 && !stored:
				c.kept = r.kept()
			case key == fieldNumber && stored:
				c.number = uint32(r.uint(4))
			case key == fieldKept && stored:
				c.kept = r.keptPages()
			default:
				return false
			}
			return true
		})
		if !stored && c.kept.end() > c.chain.index {
			r.fail(CodeMalformed, "message keys that the chain has yet to give")
		}
		chains = append(chains, c)
		if r.err != nil {
			break
		}
	}
	return chains
}

func (r *reader) sendChain(stored bool) (s sendChain) {
	r.fields([]uint64{0, 1}, func(key uint64) bool {
		switch key {
		case 0:
			s.chain = r.chainKey(stored)
		case 1:
			if stored {
				s.pair = r.seedAndPublic()
			} else {
				s.pair = r.keyPair()
			}
		default:
			return false
		}
		return true
	})
	return s
}

// secretOf32 reads 32 bytes in a map.
func (r *reader) secretOf32() core.Secret {
	b := make([]byte, 32)
	r.wrapped(b)
	return core.NewSecret(b)
}

func (r *reader) rootKey() (k core.Secret) {
	r.fields([]uint64{0}, func(key uint64) bool {
		if key == 0 {
			k = r.secretOf32()
		}
		return key == 0
	})
	return k
}

// chainKey reads a ChainKey; of a record, if stored: only that has an index for a chain that
// is at its end.
func (r *reader) chainKey(stored bool) (c chainKey) {
	width := 4
	if stored {
		width = 8
	}
	r.fields([]uint64{0, 1}, func(key uint64) bool {
		switch key {
		case 0:
			c.key = r.secretOf32()
		case 1:
			if c.index = r.uint(width); c.index > maxIndex+1 {
				r.fail(CodeMalformed, "chain index %d", c.index)
			}
		default:
			return false
		}
		return true
	})
	return c
}

// kept reads the keys of messages that were passed over, which are in ascending order.
func (r *reader) kept() (k kept) {
	var keys []messageKeys
	for range r.entries(majorArray) {
		var m messageKeys
		r.fields([]uint64{0, 1, 2}, func(key uint64) bool {
			switch key {
			case 0:
				m.cipher = r.secretOf32()
			case 1:
				m.mac = r.secretOf32()
			case 2:
				m.counter = uint32(r.uint(4))
			default:
				return false
			}
			return true
		})
		if n := len(keys); n > 0 && keys[n-1].counter >= m.counter {
			r.fail(CodeMalformed, "message keys out of order")
		}
		keys = append(keys, m)
		if r.err != nil {
			wipeKeys(keys)
			return nil
		}
	}
	k, err := k.with(keys, nil) // nothing is to be read
	if err != nil {
		r.fail(CodeMalformed, "message keys: %v", err)
	}
	return k
}

// keptPages reads which pages of them a record has.
func (r *reader) keptPages() (k kept) {
	b := r.bytes()
	if len(b)%8 != 0 || len(b) > 8*maxKept {
		r.fail(CodeMalformed, "%d bytes of pages", len(b))
	}
	for ; len(b) >= 8 && r.err == nil; b = b[8:] {
		p := page{number: binary.BigEndian.Uint32(b), has: binary.BigEndian.Uint32(b[4:])}
		if n := len(k); p.has == 0 || n > 0 && k[n-1].number >= p.number {
			r.fail(CodeMalformed, "pages out of order")
		}
		k = append(k, p)
	}
	return k
}

// damaged is for a record that the store has authenticated: it is not a peer's doing.
func damaged(what string, err error) error {
	return fmt.Errorf("proteus: %s: %w: %v", what, core.ErrDamaged, err)
}
