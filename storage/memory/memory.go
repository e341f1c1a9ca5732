// SPDX-License-Identifier: Apache-2.0

// Package memory is a [core.Keystore] that keeps everything in memory: for
// tests, demonstrations and services that may forget. Start with [New].
//
// It passes the whole conformance suite but for durability: what it holds is
// gone with the process. Do not keep keys in it that anybody needs tomorrow.
// Reads copy, so they cost as much as the records they return; a put of a new
// key costs time in proportion to the records of its table.
package memory

import (
	"bytes"
	"context"
	"slices"
	"sort"
	"sync"

	"github.com/conclave-mls/conclave/core"
)

// A Store is an in-memory keystore.
type Store struct {
	mu     sync.RWMutex
	closed bool
	tables map[core.Table][]core.Record // ascending by key
}

var _ core.Snapshotter = (*Store)(nil)

// New returns an empty store.
func New() *Store {
	return &Store{tables: make(map[core.Table][]core.Record)}
}

// Read implements [core.Keystore].
func (s *Store) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	for i := range queries {
		if err := queries[i].Check(); err != nil {
			return nil, fail("read", err)
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(ctx); err != nil {
		return nil, fail("read", err)
	}
	answers := make([][]core.Record, len(queries))
	size := 0
	for i := range queries {
		q := &queries[i]
		for _, r := range s.scan(q) {
			size += len(r.Key)
			out := core.Record{Key: bytes.Clone(r.Key), Version: r.Version}
			if !q.KeysOnly {
				size += len(r.Value)
				out.Value = bytes.Clone(r.Value)
			}
			if size > core.MaxBatch {
				return nil, fail("read", core.ErrTooLarge)
			}
			answers[i] = append(answers[i], out)
		}
	}
	return answers, nil
}

// scan returns the part of a table that a query asks for.
func (s *Store) scan(q *core.Query) []core.Record {
	from, to := s.find(q.Table, q.Prefix)
	found := s.tables[q.Table][from:to]
	if len(q.After) > 0 {
		found = found[sort.Search(len(found), func(i int) bool { return bytes.Compare(found[i].Key, q.After) > 0 }):]
	}
	if q.Limit > 0 && len(found) > q.Limit {
		found = found[:q.Limit]
	}
	return found
}

// find returns where the records with a prefix begin and end.
func (s *Store) find(table core.Table, prefix []byte) (from, to int) {
	records := s.tables[table]
	from = sort.Search(len(records), func(i int) bool { return bytes.Compare(records[i].Key, prefix) >= 0 })
	to = from + sort.Search(len(records)-from, func(i int) bool { return !bytes.HasPrefix(records[from+i].Key, prefix) })
	return from, to
}

// at returns where a key is, or where it belongs.
func (s *Store) at(table core.Table, key []byte) (int, bool) {
	records := s.tables[table]
	return sort.Find(len(records), func(i int) int { return bytes.Compare(key, records[i].Key) })
}

// Apply implements [core.Keystore].
func (s *Store) Apply(ctx context.Context, b core.Batch) error {
	if err := b.Check(); err != nil {
		return fail("apply", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return fail("apply", err)
	}
	for i := range b.Expect {
		e := &b.Expect[i]
		var have core.Version
		if at, found := s.at(e.Table, e.Key); found {
			have = s.tables[e.Table][at].Version
		}
		if have != e.Version {
			return fail("apply", core.ErrConflict)
		}
	}
	// From here on nothing can fail.
	for _, d := range b.Dels {
		from, to := s.find(d.Table, d.Prefix)
		for _, r := range s.tables[d.Table][from:to] {
			clear(r.Value)
		}
		s.tables[d.Table] = slices.Delete(s.tables[d.Table], from, to)
	}
	for _, p := range b.Puts {
		r := core.Record{Key: bytes.Clone(p.Key), Value: bytes.Clone(p.Value), Version: p.Version}
		at, found := s.at(p.Table, p.Key)
		if found {
			clear(s.tables[p.Table][at].Value)
			s.tables[p.Table][at] = r
		} else {
			s.tables[p.Table] = slices.Insert(s.tables[p.Table], at, r)
		}
	}
	return nil
}

// Snapshot implements [core.Snapshotter]. It is a copy, which takes as much memory
// as the store and is not closed with it.
func (s *Store) Snapshot(ctx context.Context) (core.Snapshot, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(ctx); err != nil {
		return nil, fail("snapshot", err)
	}
	out := New()
	for table, records := range s.tables {
		out.tables[table] = slices.Clone(records)
		for i, r := range records {
			out.tables[table][i].Value = bytes.Clone(r.Value) // the store's own is zeroed when it goes
		}
	}
	return out, nil
}

// Close implements [core.Keystore]. What the store held is zeroed.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, records := range s.tables {
		for _, r := range records {
			clear(r.Value)
		}
	}
	s.closed, s.tables = true, nil
	return nil
}

func (s *Store) usable(ctx context.Context) error {
	if s.closed {
		return core.ErrClosed
	}
	return ctx.Err()
}

func fail(op string, err error) error {
	return &core.ProviderError{Provider: "memory", Op: op, Err: err}
}
