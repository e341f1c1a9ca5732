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
	RecordHead  record.Kind = iota + 1 // no key: identities, pending prekey, the tags of the states
	RecordState                        // tag [16]: a state without the keys that it keeps
	RecordKept                         // tag [16], chain u32, page u32: kept message keys
)

// recordFormat is the format version that every stored record begins with.
const recordFormat = 1

func stateKey(tag Tag) []byte { return slices.Clone(tag[:]) }

func chainRecords(tag Tag, chain uint32) []byte {
	return binary.BigEndian.AppendUint32(stateKey(tag), chain)
}

func pageRecord(tag Tag, chain, number uint32) []byte {
	return binary.BigEndian.AppendUint32(chainRecords(tag, chain), number)
}

// LoadSession makes a session of its records. The keys that it keeps are read by
// operations that need them.
func LoadSession(ctx context.Context, fetch record.Fetch) (*Session, error) {
	answers, err := fetch(ctx, SessionQueries())
	if err != nil {
		return nil, err
	}
	return DecodeSession(answers)
}

// SessionQueries are what DecodeSession wants the answers of: for whoever reads many
// sessions at once.
func SessionQueries() []record.Query { return []record.Query{{Kind: RecordHead}, {Kind: RecordState}} }

// DecodeSession makes a session of the answers to [SessionQueries]: core.ErrNotFound if
// there are no records.
func DecodeSession(answers [][]record.Record) (*Session, error) {
	if len(answers) != 2 || len(answers[0]) == 0 {
		return nil, failed(CodeSessionNotFound, "nothing is stored")
	}
	s, tags, err := decodeHead(answers[0][0].Value)
	if err != nil {
		return nil, err
	}
	for _, tag := range tags {
		i := slices.IndexFunc(answers[1], func(r record.Record) bool { return bytes.Equal(r.Key, tag[:]) })
		if i < 0 {
			return nil, damaged("session", fmt.Errorf("no state %v", tag))
		}
		value := answers[1][i].Value
		if len(value) == 0 || value[0] != recordFormat {
			return nil, damaged("session state", fmt.Errorf("unknown format"))
		}
		r := &reader{rest: value[1:]}
		state := r.state(true)
		if err := r.end("state"); err != nil {
			return nil, damaged("session state", err)
		}
		s.states = append(s.states, taggedState{tag, state})
	}
	return s, nil
}

func (s *Session) head() []byte {
	b := appendMap([]byte{recordFormat}, 5)
	b = appendBytes(append(b, 1), s.current[:])
	b = s.local.appendIdentity(append(b, 2))
	b = s.remote.appendIdentity(append(b, 3))
	b = s.pending.append(append(b, 4))
	b = appendArray(append(b, 5), len(s.states))
	for _, t := range s.states {
		b = appendBytes(b, t.tag[:])
	}
	return b
}

func decodeHead(value []byte) (s *Session, tags []Tag, err error) {
	if len(value) == 0 || value[0] != recordFormat {
		return nil, nil, damaged("session", fmt.Errorf("unknown format"))
	}
	r := &reader{rest: value[1:]}
	s = new(Session)
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
			tags = make([]Tag, r.entries(majorArray))
			for i := range tags {
				r.fixed(tags[i][:])
			}
		default:
			return false
		}
		return true
	})
	if err := r.end("head"); err != nil {
		return nil, nil, damaged("session", err)
	}
	return s, tags, nil
}

// pages reads the kept keys of a state.
func (e *Env) pages(ctx context.Context, tag Tag) func(chain uint32) loadPage {
	return func(chain uint32) loadPage {
		return func(number uint32) (core.Secret, error) {
			if e == nil || e.Fetch == nil {
				return core.Secret{}, damaged("kept keys", fmt.Errorf("there is no store"))
			}
			value, err := e.Fetch.One(ctx, RecordKept, pageRecord(tag, chain, number))
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
	head := s.head()
	if len(before.states) == 0 || !bytes.Equal(head, before.head()) {
		w.Put(RecordHead, nil, head)
	}
	for _, t := range before.states {
		if s.find(t.tag) < 0 {
			w.Del(RecordState, stateKey(t.tag))
			w.Del(RecordKept, stateKey(t.tag))
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
		value, err := t.state.append([]byte{recordFormat}, nil)
		if err != nil {
			panic(err) // only an encoding for others can fail
		}
		w.Put(RecordState, stateKey(t.tag), value)
		t.state.changedKept(w, t.tag, was)
	}
	w.Retire(unshared(before.secrets(), s.secrets())...)
	return w
}

// changedKept adds what differs in the kept keys of two values of a state.
func (s *state) changedKept(w *record.WriteSet, tag Tag, was *state) {
	chain := func(chains []receiveChain, number uint32) receiveChain {
		if i := slices.IndexFunc(chains, func(c receiveChain) bool { return c.number == number }); i >= 0 {
			return chains[i]
		}
		return receiveChain{}
	}
	for _, c := range was.receive {
		stay := chain(s.receive, c.number).kept
		if len(stay) == 0 && len(c.kept) > 0 {
			w.Del(RecordKept, chainRecords(tag, c.number))
			continue
		}
		for _, p := range c.kept {
			if !slices.ContainsFunc(stay, func(q page) bool { return q.number == p.number }) {
				w.Del(RecordKept, pageRecord(tag, c.number, p.number))
			}
		}
	}
	for _, c := range s.receive {
		had := chain(was.receive, c.number).kept
		for _, p := range c.kept {
			if !p.keys.IsZero() && !slices.ContainsFunc(had, func(q page) bool { return q.number == p.number && same(q.keys, p.keys) }) {
				w.Put(RecordKept, pageRecord(tag, c.number, p.number), append([]byte{recordFormat}, p.keys.Bytes()...))
			}
		}
	}
}

// same says whether both are one secret.
func same(a, b core.Secret) bool {
	return !a.IsZero() && !b.IsZero() && &a.Bytes()[0] == &b.Bytes()[0]
}
