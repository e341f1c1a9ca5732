// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/core/seal"
)

// A segment is the part of a transaction that becomes durable in one Apply. Reads
// see the committed state and what the segment did so far, in order: what was
// deleted and then put is there.
type segment struct {
	store    *guardedStore
	changes  map[place]*change
	order    []place // of changes: what is written together is read together later
	expected versions
	steps    int // puts and dels so far

	// What a transaction has beside that, and is undone with it.
	held    map[place]holding
	taken   []place                 // held, in their order
	notes   []func(context.Context) // lines for the log, once this is durable
	events  []Event
	ends    []end             // of commits for which a caller waits
	keys    []keyID           // made in this segment, journalled
	dropped []droppedKey      // named by nothing when this is durable
	pki     *e2ei.Environment // once it was asked for
}

// A change is what a segment did to one place: the prefixes it deleted, and the
// records it put that no later deletion took away.
type change struct {
	dels [][]byte
	puts map[string][]byte
}

// versions are those of records.
type versions map[recordName]core.Version

type recordName struct {
	place
	key string
}

// head is the version of the record that is alone in its place, or its head.
func (v versions) head(p place) core.Version { return v[recordName{p, string(theOnly)}] }

// A query asks a place for the records whose keys begin with a prefix and are
// greater than after, ascending, at most limit of them (0: all).
type query struct {
	place
	prefix, after []byte
	limit         int
	keysOnly      bool
}

// one asks for one record.
func one(p place, key []byte) query { return query{place: p, prefix: key, limit: 1} }

func newSegment(store *guardedStore) *segment {
	return &segment{store: store, changes: map[place]*change{}, expected: versions{}, held: map[place]holding{}}
}

func (s *segment) empty() bool { return len(s.changes) == 0 }

func (s *segment) change(p place) *change {
	c, ok := s.changes[p]
	if !ok {
		c = &change{puts: map[string][]byte{}}
		s.changes[p] = c
		s.order = append(s.order, p)
	}
	return c
}

// put writes a record; the value is taken over.
func (s *segment) put(p place, key, value []byte) {
	s.steps++
	s.change(p).puts[string(key)] = value
}

// del deletes every record whose key begins with the prefix.
func (s *segment) del(p place, prefix []byte) {
	s.steps++
	c := s.change(p)
	for key := range c.puts {
		if bytes.HasPrefix([]byte(key), prefix) {
			delete(c.puts, key)
		}
	}
	if !slices.ContainsFunc(c.dels, func(d []byte) bool { return bytes.HasPrefix(prefix, d) }) {
		c.dels = append(c.dels, bytes.Clone(prefix))
	}
}

// expect makes the write conditional: the committed record must still have the
// version, or be absent if it is zero. What was expected first counts.
func (s *segment) expect(p place, key []byte, version core.Version) {
	name := recordName{p, string(key)}
	if _, ok := s.expected[name]; !ok {
		s.expected[name] = version
	}
}

// read answers all queries with one read of the store. A record of the segment
// itself has no version.
func (s *segment) read(ctx context.Context, queries ...query) ([][]seal.Record, error) {
	asked := make([]seal.Query, len(queries))
	for i, q := range queries {
		asked[i] = seal.Query{Table: q.table, Scope: []byte(q.scope), Prefix: q.prefix, After: q.after, Limit: q.limit, KeysOnly: q.keysOnly}
		if s.changes[q.place] != nil {
			asked[i].Limit = 0 // some of the first may be deleted here
		}
	}
	answers, err := s.store.Read(ctx, asked)
	if err != nil {
		return nil, err
	}
	if err := s.whole(ctx, queries, answers); err != nil {
		return nil, err
	}
	for i, q := range queries {
		if c := s.changes[q.place]; c != nil {
			answers[i] = c.over(answers[i], q)
		}
	}
	return answers, nil
}

// over puts the change over what is committed.
func (c *change) over(committed []seal.Record, q query) []seal.Record {
	records := slices.DeleteFunc(committed, func(r seal.Record) bool {
		_, replaced := c.puts[string(r.Key)]
		return replaced || slices.ContainsFunc(c.dels, func(d []byte) bool { return bytes.HasPrefix(r.Key, d) })
	})
	for key, value := range c.puts {
		k := []byte(key)
		if bytes.HasPrefix(k, q.prefix) && (len(q.after) == 0 || bytes.Compare(k, q.after) > 0) {
			r := seal.Record{Key: k}
			if !q.keysOnly {
				r.Value = bytes.Clone(value)
			}
			records = append(records, r)
		}
	}
	slices.SortFunc(records, func(a, b seal.Record) int { return bytes.Compare(a.Key, b.Key) })
	if q.limit > 0 && len(records) > q.limit {
		records = records[:q.limit]
	}
	return records
}

// get reads one record; found is false if it is absent.
func (s *segment) get(ctx context.Context, p place, key []byte) (r seal.Record, found bool, err error) {
	if c := s.changes[p]; c != nil {
		if value, put := c.puts[string(key)]; put {
			return seal.Record{Key: bytes.Clone(key), Value: bytes.Clone(value)}, true, nil
		}
	}
	answers, err := s.read(ctx, one(p, key))
	if err != nil || len(answers[0]) == 0 {
		return seal.Record{}, false, err
	}
	return answers[0][0], true, nil
}

// getExpected reads one record and expects that it stays as it is until the
// segment is durable.
func (s *segment) getExpected(ctx context.Context, p place, key []byte) (r seal.Record, found bool, err error) {
	r, found, err = s.get(ctx, p, key)
	if c := s.changes[p]; err == nil && (c == nil || !c.touches(key)) {
		s.expect(p, key, r.Version)
	}
	return r, found, err
}

func (c *change) touches(key []byte) bool {
	_, put := c.puts[string(key)]
	return put || slices.ContainsFunc(c.dels, func(d []byte) bool { return bytes.HasPrefix(key, d) })
}

// apply makes the segment durable. The result tells the versions of what was put.
func (s *segment) apply(ctx context.Context) (versions, error) {
	s.expect(accidentsPlace, theOnly, s.store.accidents)
	b := seal.Batch{Expect: make([]seal.Expectation, 0, len(s.expected))}
	for name, version := range s.expected {
		b.Expect = append(b.Expect, seal.Expectation{Table: name.table, Scope: []byte(name.scope), Key: []byte(name.key), Version: version})
	}
	del := func(p place, prefix []byte) {
		b.Dels = append(b.Dels, seal.Range{Table: p.table, Scope: []byte(p.scope), Prefix: prefix})
	}
	names := make([]recordName, 0, 2*len(s.changes)) // of what is put, about
	b.Puts = make([]seal.Put, 0, cap(names))
	put := func(p place, key, value []byte) {
		b.Puts = append(b.Puts, seal.Put{Table: p.table, Scope: []byte(p.scope), Key: key, Value: value})
		names = append(names, recordName{p, string(key)})
	}
	var keys []string
	for _, p := range s.order {
		c := s.changes[p]
		for _, prefix := range c.dels {
			del(p, prefix)
			if mayBeLong(p, prefix) {
				del(partsOf(p), prefix)
			}
		}
		keys = slices.AppendSeq(keys[:0], maps.Keys(c.puts))
		slices.Sort(keys)
		for _, name := range keys {
			key, value := []byte(name), c.puts[name]
			if !mayBeLong(p, key) {
				put(p, key, value)
				continue
			}
			first, parts := split(value)
			put(p, key, first)
			del(partsOf(p), key)
			for i, part := range parts {
				put(partsOf(p), partKey(key, i), part)
			}
		}
	}
	written, err := s.store.Apply(ctx, b)
	if errors.Is(err, core.ErrConflict) {
		err = s.store.outdated(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	out := make(versions, len(names))
	for i, name := range names {
		out[name] = written[i]
	}
	return out, nil
}
