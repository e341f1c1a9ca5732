// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/internal/parallel"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/record"
	"github.com/conclave-mls/conclave/core/seal"
)

// A sessionHead is the record that each change of a session replaces.
type sessionHead struct {
	sequence  uint64 // in the list of all
	accidents uint32 // of the store, when the session was made
	floors    []proteus.Floor
}

func (h sessionHead) encode() []byte {
	e := newEncoder().u64(h.sequence).u32(h.accidents).u32(uint32(len(h.floors)))
	for _, f := range h.floors {
		e = e.raw(f.Ratchet[:]).u64(f.Index)
	}
	return e
}

func decodeSessionHead(value []byte) (h sessionHead, err error) {
	err = decodeRecord("a session", value, func(d *decoder) {
		h.sequence, h.accidents = d.u64(), d.u32()
		for n := d.u32(); n > 0 && !d.bad; n-- {
			var f proteus.Floor
			d.raw(f.Ratchet[:])
			f.Index = d.u64()
			h.floors = append(h.floors, f)
		}
	})
	return h, err
}

// A heldSession is a Proteus session that a segment holds. No value of it stays in memory
// when the segment ends: to read it again costs less than to find out whether somebody else
// has changed it.
type heldSession struct {
	name    string
	version core.Version // of the head; zero: there is none
	head    sessionHead
	exists  bool
	damaged error // why it cannot be read

	stored  *proteus.Session // as it is in the store; nil: it is not, or is replaced
	session *proteus.Session // as the segment has made it
	burnt   []proteus.Floor  // of what the segment has replaced
	dirty   bool
}

// hold takes sessions for the open segment, in one read.
func (p Proteus) hold(ctx context.Context, names ...string) ([]*heldSession, error) {
	held, err := p.salvage(ctx, names...)
	for _, h := range held {
		if h.damaged != nil {
			return nil, h.damaged
		}
	}
	return held, err
}

// salvage is hold for who does without what a session has, if it is damaged: to delete it
// or to open it again.
func (p Proteus) salvage(ctx context.Context, names ...string) ([]*heldSession, error) {
	places := make([]place, len(names))
	for i, name := range names {
		if name == "" {
			return nil, fmt.Errorf("empty session name: %w", core.ErrInvalid)
		}
		places[i] = at(tableSession, name)
	}
	err := p.t.take(ctx, func(missing []place) ([]party, error) { return loadSessions(ctx, p.t.segment, missing) }, places...)
	if err != nil {
		return nil, err
	}
	out := make([]*heldSession, len(names))
	for i, at := range places {
		out[i] = p.t.segment.held[at].party.(*heldSession)
	}
	return out, nil
}

// mostAtOnce is how many records of a session are read by one query: its head, the engine's and a
// state, mostly, and then there is no fourth.
const mostAtOnce = 4

// loadSessions reads the sessions at some places, at once unless an answer of the store is too
// small for all: peers have a say in what a session holds. One that is damaged is for itself.
func loadSessions(ctx context.Context, s *segment, places []place) ([]party, error) {
	out, err := readSessions(ctx, s, places)
	damaged := errors.Is(err, core.ErrDamaged) && !errors.Is(err, core.ErrConflict)
	switch n := len(places); {
	case n > 1 && (damaged || errors.Is(err, core.ErrTooLarge)):
		if out, err = loadSessions(ctx, s, places[:n/2]); err != nil {
			return nil, err
		}
		rest, err := loadSessions(ctx, s, places[n/2:])
		return append(out, rest...), err
	case damaged:
		h := &heldSession{name: places[0].scope, damaged: fmt.Errorf("session %q: %w", places[0].scope, err)}
		return []party{h}, h.search(ctx, s, places[0])
	}
	return out, err
}

// search finds what is needed to delete a damaged session, or to replace it, without its
// head, which may be what is damaged: its place in the list of all.
func (h *heldSession) search(ctx context.Context, s *segment, at place) error {
	answers, err := s.read(ctx, query{place: at, prefix: theOnly, keysOnly: true})
	if err != nil {
		return err
	}
	for _, r := range answers[0] {
		h.version = r.Version
	}
	_, err = items(ctx, s, sessionList, nil, func(key, value []byte) (struct{}, error) {
		err := decodeRecord("a list of names", value, func(d *decoder) {
			if string(d.bytes()) == h.name && len(key) == 8 {
				h.exists, h.head.sequence = true, binary.BigEndian.Uint64(key)
			}
		})
		return struct{}{}, err
	})
	if err == nil && !h.exists {
		err = h.damaged
	}
	return err
}

func readSessions(ctx context.Context, s *segment, places []place) ([]party, error) {
	asked := make([]query, len(places))
	for i, p := range places {
		asked[i] = query{place: p, limit: mostAtOnce}
	}
	answers, err := s.read(ctx, asked...)
	if err != nil {
		return nil, err
	}
	// Where there may be more of what is wanted, all of that is read again, from one state.
	var again []int
	var all []query
	for i, p := range places {
		if a := answers[i]; len(a) == mostAtOnce && a[len(a)-1].Key[0] < byte(proteus.RecordKept) {
			again = append(again, i)
			all = append(all, one(p, theOnly), one(p, []byte{byte(proteus.RecordHead)}), query{place: p, prefix: []byte{byte(proteus.RecordState)}})
		}
	}
	if len(all) > 0 {
		whole, err := s.read(ctx, all...)
		if err != nil {
			return nil, err
		}
		for n, i := range again {
			wipeValues(answers[i])
			answers[i] = slices.Concat(whole[3*n : 3*n+3]...)
		}
	}
	out, errs := make([]party, len(places)), make([]error, len(places))
	parallel.Do(len(places), func(i int) {
		h := &heldSession{name: places[i].scope}
		out[i], errs[i] = h, h.load(answers[i])
	})
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("a Proteus session: %w", err)
		}
	}
	return out, nil
}

func wipeValues(records []seal.Record) {
	for _, r := range records {
		clear(r.Value)
	}
}

func (h *heldSession) load(stored []seal.Record) (err error) {
	defer wipeValues(stored)
	records := make([][]record.Record, 2)
	for _, r := range stored {
		switch kind := record.Kind(r.Key[0]); kind {
		case 0: // theOnly
			h.exists, h.version = true, r.Version
			if h.head, err = decodeSessionHead(r.Value); err != nil {
				return err
			}
		case proteus.RecordHead, proteus.RecordState:
			i := kind - proteus.RecordHead
			records[i] = append(records[i], record.Record{Kind: kind, Key: r.Key[1:], Value: r.Value})
		}
	}
	if !h.exists {
		return nil
	}
	if h.stored, err = proteus.DecodeSession(records); err != nil {
		if errors.Is(err, core.ErrNotFound) {
			err = core.ErrDamaged
		}
		return err
	}
	h.session = h.stored.Above(h.head.floors)
	return nil
}

// step makes next the value of the session.
func (h *heldSession) step(next *proteus.Session) {
	h.session.Wipe(next)
	h.session, h.dirty = next, true
}

// replace makes a session of its own the value.
func (p Proteus) replace(ctx context.Context, h *heldSession, next *proteus.Session) error {
	if !h.exists {
		list, err := p.t.segment.set(ctx, sessionList)
		if err != nil {
			return err
		}
		h.exists, h.head.sequence = true, list.next
		list.put(be64(list.next), newEncoder().bytes([]byte(h.name)))
	}
	h.drop(p.t.segment)
	h.session, h.dirty = next, true
	h.head.accidents = p.t.client.accidents
	return nil
}

// drop deletes what is stored of the session but its head.
func (h *heldSession) drop(s *segment) {
	if h.stored != nil {
		h.burnt = append(h.burnt, h.stored.Burnt(h.session)...)
	}
	if h.stored != nil || h.damaged != nil {
		for _, kind := range []record.Kind{proteus.RecordHead, proteus.RecordState, proteus.RecordKept} {
			s.del(at(tableSession, h.name), []byte{byte(kind)})
		}
	}
	if h.session != nil {
		h.session.Wipe(nil)
	}
	h.stored, h.session, h.damaged = nil, nil, nil
}

func (h *heldSession) changed() bool { return h.dirty }

// write puts the session into the segment that is about to become durable. Its chains stand
// above the floors then.
func (h *heldSession) write(s *segment) {
	at := at(tableSession, h.name)
	s.expect(at, theOnly, h.version)
	if h.session == nil {
		s.del(at, nil)
		return
	}
	h.head.floors = nil
	s.put(at, theOnly, h.head.encode())
	s.take(ofSession(h.name), h.session.Changes(h.stored))
}

func (h *heldSession) landed(*Client, versions) { h.wipe() }

// undone tells which counters are burnt.
func (h *heldSession) undone(*Client) []raise {
	burnt := h.burnt
	if h.stored != nil && h.session != nil {
		burnt = append(burnt, h.stored.Burnt(h.session)...)
	}
	h.wipe()
	if len(burnt) == 0 {
		return nil
	}
	return []raise{{at(tableSession, h.name), theOnly, func(stored []byte) ([]byte, error) {
		if len(stored) == 0 { // it was deleted, and its keys with it
			return nil, nil
		}
		head, err := decodeSessionHead(stored)
		if err != nil {
			return nil, err
		}
		raised := false // a segment that has only read stands above the floors that there were
		for _, f := range burnt {
			i := slices.IndexFunc(head.floors, func(g proteus.Floor) bool { return g.Ratchet == f.Ratchet })
			switch {
			case i < 0:
				head.floors = append(head.floors, f)
			case head.floors[i].Index < f.Index:
				head.floors[i] = f
			default:
				continue
			}
			raised = true
		}
		if !raised {
			return nil, nil
		}
		return head.encode(), nil
	}}}
}

func (h *heldSession) wipe() {
	for _, s := range []*proteus.Session{h.stored, h.session} {
		if s != nil {
			s.Wipe(nil)
		}
	}
}
