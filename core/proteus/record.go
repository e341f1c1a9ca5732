// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// The engine has no store. A session is stored as records that change apart: saving it after a
// message writes some hundred bytes, however many keys it keeps for messages that were
// passed over. [Session.Changes] compares two values of a session, part by part, by what
// they share.

// The kinds of records of a session, with their keys. Integers are big-endian.
const (
	RecordHead  record.Kind = iota + 1 // no key: identities, pending prekey, tags and numbers of the states
	RecordState                        // state u32: a state without the keys that it keeps
	RecordKept                         // state u32, chain u32, page u32: kept message keys
)

// recordFormat is the format version that every stored record begins with.
const recordFormat = 1

// newRecord begins a record, with room for most.
func newRecord() []byte { return append(make([]byte, 0, 512), recordFormat) }

func key(numbers ...uint32) (k []byte) {
	for _, n := range numbers {
		k = binary.BigEndian.AppendUint32(k, n)
	}
	return k
}

// LoadSession makes a session of its records. The keys that it keeps are read by
// operations that need them.
func LoadSession(ctx context.Context, fetch record.Fetch) (*Session, error) {
	answers, err := fetch(ctx, []record.Query{{Kind: RecordHead}, {Kind: RecordState}})
	if err != nil {
		return nil, err
	}
	return DecodeSession(answers)
}

// DecodeSession is LoadSession for whoever reads many sessions at once: the answers are all
// records of [RecordHead] and all of [RecordState], core.ErrNotFound if there are none.
func DecodeSession(answers [][]record.Record) (*Session, error) {
	if len(answers) != 2 || len(answers[0]) == 0 {
		return nil, failed(CodeSessionNotFound, "nothing is stored")
	}
	s, err := decodeHead(answers[0][0].Value)
	if err != nil {
		return nil, err
	}
	for n, t := range s.states {
		i := slices.IndexFunc(answers[1], func(r record.Record) bool { return bytes.Equal(r.Key, key(t.number)) })
		if i < 0 {
			return nil, damaged("session", fmt.Errorf("no state %v", t.tag))
		}
		value := answers[1][i].Value
		if len(value) == 0 || value[0] != recordFormat {
			return nil, damaged("session state", fmt.Errorf("unknown format"))
		}
		r := &reader{rest: value[1:]}
		s.states[n].state = r.state(true)
		if err := r.end("state"); err != nil {
			return nil, damaged("session state", err)
		}
	}
	return s, nil
}

func (s *Session) head() []byte {
	b := appendMap(newRecord(), 5)
	b = appendBytes(append(b, 1), s.current[:])
	b = s.local.appendIdentity(append(b, 2))
	b = s.remote.appendIdentity(append(b, 3))
	b = s.pending.append(append(b, 4))
	b = appendMap(append(b, 5), len(s.states))
	for _, t := range s.states {
		b = appendUint(appendBytes(b, t.tag[:]), uint64(t.number))
	}
	return b
}

// sameHead says that head would be the same.
func (s *Session) sameHead(before *Session) bool {
	pending := s.pending == before.pending || s.pending != nil && before.pending != nil && *s.pending == *before.pending
	return pending && s.current == before.current && s.local == before.local && s.remote == before.remote &&
		slices.EqualFunc(s.states, before.states, func(t, u taggedState) bool { return t.tag == u.tag && t.number == u.number })
}

func decodeHead(value []byte) (*Session, error) {
	if len(value) == 0 || value[0] != recordFormat {
		return nil, damaged("session", fmt.Errorf("unknown format"))
	}
	r, s := &reader{rest: value[1:]}, new(Session)
	r.fields([]uint64{1, 2, 3, 4, 5}, func(key uint64) bool {
		switch key {
		case 1:
			r.fixed(s.current[:])
		case 2:
			s.local = r.identity()
		case 3:
			s.remote = r.identity()
		case 4:
			s.pending = r.pending()
		case 5:
			s.states = make([]taggedState, r.entries(majorMap))
			for i := range s.states {
				r.fixed(s.states[i].tag[:])
				s.states[i].number = uint32(r.uint(4))
			}
		default:
			return false
		}
		return true
	})
	if err := r.end("head"); err != nil {
		return nil, damaged("session", err)
	}
	return s, nil
}

// pages reads the kept keys of a state.
func (e *Env) pages(ctx context.Context, state uint32) func(chain uint32) loadPage {
	return func(chain uint32) loadPage {
		return func(number uint32) (core.Secret, error) {
			if e == nil || e.Fetch == nil {
				return core.Secret{}, damaged("kept keys", fmt.Errorf("there is no store"))
			}
			value, err := e.Fetch.One(ctx, RecordKept, key(state, chain, number))
			if err != nil {
				return core.Secret{}, err
			}
			if value == nil {
				return core.Secret{}, damaged("kept keys", fmt.Errorf("page %d is missing", number))
			}
			if len(value) == 0 || value[0] != recordFormat {
				return core.Secret{}, damaged("kept keys", fmt.Errorf("unknown format"))
			}
			return core.NewSecret(value[1:]), nil
		}
	}
}

// Changes says what is to be written where before is stored and s is to be, and which
// secrets retire with before. before is nil if nothing of the session is stored.
func (s *Session) Changes(before *Session) *record.WriteSet {
	w := new(record.WriteSet)
	if before == nil {
		before = new(Session)
	}
	if len(before.states) == 0 || !s.sameHead(before) {
		w.Put(RecordHead, nil, s.head())
	}
	for _, t := range before.states {
		// One that was opened again has the same tag, and other records.
		if i := s.find(t.tag); i < 0 || s.states[i].number != t.number {
			w.Del(RecordState, key(t.number))
			w.Del(RecordKept, key(t.number))
		}
	}
	for _, t := range s.states {
		was := new(state)
		if i := before.find(t.tag); i >= 0 {
			was = before.states[i].state
		}
		if t.state == was {
			continue
		}
		value, err := t.state.append(newRecord(), nil)
		if err != nil {
			panic(err) // only an encoding for others can fail
		}
		w.Put(RecordState, key(t.number), value)
		t.state.changedKept(w, t.number, was)
	}
	w.Retire(before.secrets(s)...)
	return w
}

// changedKept adds what differs in the kept keys of two values of a state.
func (s *state) changedKept(w *record.WriteSet, number uint32, was *state) {
	chain := func(chains []receiveChain, wanted uint32) receiveChain {
		if i := slices.IndexFunc(chains, func(c receiveChain) bool { return c.number == wanted }); i >= 0 {
			return chains[i]
		}
		return receiveChain{}
	}
	for _, c := range was.receive {
		stay := chain(s.receive, c.number).kept
		if len(stay) == 0 && len(c.kept) > 0 {
			w.Del(RecordKept, key(number, c.number))
			continue
		}
		for _, p := range c.kept {
			if !slices.ContainsFunc(stay, func(q page) bool { return q.number == p.number }) {
				w.Del(RecordKept, key(number, c.number, p.number))
			}
		}
	}
	for _, c := range s.receive {
		had := chain(was.receive, c.number).kept
		for _, p := range c.kept {
			if !p.keys.IsZero() && !slices.ContainsFunc(had, func(q page) bool { return q.number == p.number && same(q.keys, p.keys) }) {
				w.Put(RecordKept, key(number, c.number, p.number), append([]byte{recordFormat}, p.keys.Bytes()...))
			}
		}
	}
}

// same says whether both are one secret.
func same(a, b core.Secret) bool {
	return !a.IsZero() && !b.IsZero() && &a.Bytes()[0] == &b.Bytes()[0]
}
