// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// naive is a small keystore that is right, or wrong in one named way.
type naive struct {
	wrong string

	mu     sync.Mutex
	closed bool
	tables map[core.Table][]core.Record // in order of insertion

	open   atomic.Int32   // snapshots
	shared *naiveSnapshot // if there is only one
}

func newNaive(wrong string) *naive {
	return &naive{wrong: wrong, tables: map[core.Table][]core.Record{}}
}

func TestKeystoreAcceptsRight(t *testing.T) {
	TestKeystore(t, func(*testing.T) core.Keystore { return newNaive("") })
}

func TestKeystoreCatchesWrong(t *testing.T) {
	for _, c := range []struct{ wrong, check string }{
		{"applies up to the failed expectation", "a failed batch changes nothing"},
		{"deletes before it checks", "a failed batch changes nothing"},
		{"forgets the last expectation", "expectations"},
		{"forgets expectations of absence", "one of many creates"},
		{"compares values, not versions", "a deleted and recreated record is another"},
		{"compares half a version", "expectations"},
		{"expectations see the batch", "expectations"},
		{"expectations outside the lock", "no update is lost"},
		{"delete after put", "ranges are deleted before puts"},
		{"delete one record", "ranges are deleted before puts"},
		{"order of insertion", "order"},
		{"descending", "order"},
		{"signed bytes", "order"},
		{"After is inclusive", "pages"},
		{"ignores Limit", "pages"},
		{"Limit before After", "pages"},
		{"no successor of ff", "order"},
		{"values with keys", "keys only"},
		{"one table", "tables are apart"},
		{"keeps the batch", "slices are neither kept nor changed"},
		{"gives its own slices", "slices are neither kept nor changed"},
		{"wipes its inputs", "slices are neither kept nor changed"},
		{"each query its own state", "readers see whole batches"},
		{"batches in pieces", "readers see whole batches"},
		{"batches in pieces", "batches of many megabytes are whole"},
		{"errors as text", "expectations"},
		{"everything unknown", "expectations"},
		{"small values only", "limits of a record"},
		{"short keys only", "limits of a record"},
		{"small batches only", "limits of a batch"},
		{"no limits", "limits of a batch"},
		{"takes anything", "malformed batches"},
		{"last put wins", "malformed batches"},
		{"keeps the first value", "round trip"},
		{"drops empty values", "round trip"},
		{"ignores contexts", "cancellation"},
		{"applies and says cancelled", "cancelled on the way"},
		{"works when closed", "close"},
		{"fails to close twice", "close"},
		{"close does not wait", "close waits"},
		{"skips a version that it has", "a sealed value is sealed anew"},
		{"the last of several expectations counts", "expectations twice"},
		{"the first of several expectations counts", "expectations twice"},
		{"an expectation twice is a conflict", "expectations twice"},
		{"expectations outside the lock", "two batches that expect the other's absence"},
		{"absence outside the lock", "two batches that expect the other's absence"},
		{"ranges outside the lock", "ranges beside puts"},
		{"goes to After whatever the prefix", "pages"},
		{"adds one to Limit", "pages"},
		{"few records only", "many records at once"},
		{"appends to After", "slices are neither kept nor changed"},
		{"appends to keys", "slices are neither kept nor changed"},
		{"gives half when cancelled", "cancelled on the way"},
		{"snapshots follow the store", "snapshots"},
		{"one snapshot for all", "snapshots"},
		{"snapshots end with the call", "snapshots"},
		{"snapshots stop the store", "snapshots"},
		{"snapshots work when closed", "snapshots"},
		{"snapshots fail to close twice", "snapshots"},
		{"snapshots of a closed store", "snapshots"},
		{"snapshots take any query", "snapshots"},
		{"snapshots are few", "snapshots"},
		{"close waits for snapshots", "snapshots"},
		{"snapshots are empty after close", "snapshots"},
	} {
		t.Run(c.wrong+", "+c.check, func(t *testing.T) {
			t.Parallel()
			// The others would only take time: many wrong stores fail most of them.
			only := slices.DeleteFunc(slices.Clone(keystoreChecks), func(k keystoreCheck) bool { return k.name != c.check })
			catchesWrong(t, only, func(testing.TB) core.Keystore { return newNaive(c.wrong) }, c.check)
		})
	}
}

type keystoreCheck = check[core.Keystore]

func (s *naive) is(wrong string) bool { return s.wrong == wrong }

func (s *naive) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	for _, q := range queries {
		if err := q.Check(); err != nil && !s.is("no limits") {
			return nil, err
		}
	}
	if s.is("snapshots stop the store") && s.open.Load() > 0 {
		return nil, core.ErrUnavailable
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed && !s.is("works when closed") {
		if s.is("close does not wait") {
			return nil, errors.New("bad file descriptor")
		}
		return nil, core.ErrClosed
	}
	if ctx.Err() != nil && !s.is("ignores contexts") {
		return nil, ctx.Err()
	}
	size := 0
	answers := make([][]core.Record, len(queries))
	for i, q := range queries {
		if s.is("each query its own state") {
			s.mu.Unlock()
			time.Sleep(50 * time.Microsecond)
			s.mu.Lock()
		}
		if s.is("gives half when cancelled") {
			if time.Sleep(20 * time.Microsecond); ctx.Err() != nil {
				return answers[:i], nil
			}
		}
		if s.is("adds one to Limit") && q.Limit > 0 && q.Limit+1 < 0 {
			continue
		}
		if s.is("goes to After whatever the prefix") && len(q.After) > 0 && bytes.Compare(q.After, q.Prefix) < 0 {
			continue
		}
		if s.is("appends to After") {
			_ = append(q.After, 0)
		}
		var records []core.Record
		for _, r := range s.tables[s.table(q.Table)] {
			if bytes.HasPrefix(r.Key, q.Prefix) {
				records = append(records, r)
			}
		}
		if !s.is("order of insertion") {
			slices.SortFunc(records, s.compare)
		}
		for n, r := range records {
			switch {
			case s.is("no successor of ff") && len(q.Prefix) > 0 && q.Prefix[len(q.Prefix)-1] == 0xff && !bytes.Equal(r.Key, q.Prefix),
				len(q.After) > 0 && (bytes.Compare(r.Key, q.After) < 0 || bytes.Equal(r.Key, q.After) && !s.is("After is inclusive")),
				q.Limit > 0 && s.is("Limit before After") && n >= q.Limit,
				q.Limit > 0 && len(answers[i]) == q.Limit && !s.is("ignores Limit"):
				continue
			}
			if q.KeysOnly && !s.is("values with keys") {
				r.Value = nil
			}
			if !s.is("gives its own slices") {
				r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
			}
			size += len(r.Key) + len(r.Value)
			answers[i] = append(answers[i], r)
		}
	}
	if size > core.MaxBatch && !s.is("no limits") {
		return nil, core.ErrTooLarge
	}
	return answers, nil
}

func (s *naive) compare(a, b core.Record) int {
	switch s.wrong {
	case "descending":
		return bytes.Compare(b.Key, a.Key)
	case "signed bytes":
		return slices.CompareFunc(a.Key, b.Key, func(x, y byte) int { return cmp.Compare(int8(x), int8(y)) })
	}
	return bytes.Compare(a.Key, b.Key)
}

func (s *naive) table(t core.Table) core.Table {
	if s.is("one table") {
		return 1
	}
	return t
}

func (s *naive) Apply(ctx context.Context, b core.Batch) error {
	if err := s.accepts(b); err != nil {
		return err
	}
	switch s.wrong {
	case "expectations outside the lock", "absence outside the lock":
		if err := s.check(b); err != nil {
			return err
		}
		time.Sleep(50 * time.Microsecond)
		b.Expect = slices.DeleteFunc(slices.Clone(b.Expect), func(e core.Expectation) bool {
			return s.is("expectations outside the lock") || e.Version == core.Version{}
		})
	case "the last of several expectations counts":
		b.Expect = slices.Clone(b.Expect)
		slices.Reverse(b.Expect)
		fallthrough
	case "the first of several expectations counts":
		var first []core.Expectation
		for _, e := range b.Expect {
			if !slices.ContainsFunc(first, func(f core.Expectation) bool { return bytes.Equal(e.Key, f.Key) }) {
				first = append(first, e)
			}
		}
		b.Expect = first
	case "an expectation twice is a conflict":
		for i, e := range b.Expect {
			for _, f := range b.Expect[:i] {
				if bytes.Equal(e.Key, f.Key) {
					return core.ErrConflict
				}
			}
		}
	case "ranges outside the lock":
		b.Dels = s.early(b.Dels)
		time.Sleep(50 * time.Microsecond)
	case "appends to keys":
		for _, p := range b.Puts {
			_ = append(p.Key, 0)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed && !s.is("works when closed") {
		if s.is("close does not wait") {
			return errors.New("bad file descriptor")
		}
		return core.ErrClosed
	}
	if ctx.Err() != nil && !s.is("ignores contexts") {
		return ctx.Err()
	}
	switch s.wrong {
	case "applies up to the failed expectation":
		for _, p := range b.Puts[:len(b.Puts)/2] {
			s.put(p)
		}
	case "deletes before it checks", "expectations see the batch":
		s.deleteAll(b.Dels)
	}
	for i, e := range b.Expect {
		if s.is("forgets the last expectation") && i > 0 && i == len(b.Expect)-1 {
			continue
		}
		if !s.holds(e) {
			switch s.wrong {
			case "errors as text":
				return errors.New(core.ErrConflict.Error())
			case "everything unknown":
				return errors.Join(core.ErrConflict, core.ErrUnknownOutcome)
			}
			return core.ErrConflict
		}
	}
	if !s.is("delete after put") {
		s.deleteAll(b.Dels)
	}
	for i, p := range b.Puts {
		if s.is("batches in pieces") && i == len(b.Puts)/2 {
			s.mu.Unlock()
			time.Sleep(50 * time.Microsecond)
			s.mu.Lock()
		}
		s.put(p)
		if s.is("wipes its inputs") {
			clear(p.Value)
		}
	}
	if s.is("delete after put") {
		s.deleteAll(b.Dels)
	}
	if s.is("applies and says cancelled") {
		time.Sleep(time.Millisecond)
		return ctx.Err()
	}
	return nil
}

func (s *naive) accepts(b core.Batch) error {
	err := b.Check()
	for _, p := range b.Puts {
		if s.is("few records only") && len(b.Puts) > 200 {
			return core.ErrTooLarge
		}
		if s.is("small values only") && len(p.Value) >= core.MaxValue || s.is("short keys only") && len(p.Key) > 32 {
			return core.ErrTooLarge
		}
	}
	switch {
	case s.is("small batches only") && len(b.Puts) > 60,
		errors.Is(err, core.ErrTooLarge) && s.is("no limits"),
		errors.Is(err, core.ErrInvalid) && s.is("takes anything"):
		return nil
	case errors.Is(err, core.ErrInvalid) && s.is("last put wins"):
		for i, p := range b.Puts {
			if len(p.Key) == 0 || i > 0 && p.Version == (core.Version{}) {
				return err
			}
		}
		return nil
	}
	return err
}

// early names each record of the ranges.
func (s *naive) early(ranges []core.Range) (named []core.Range) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range ranges {
		for _, r := range s.tables[d.Table] {
			if bytes.HasPrefix(r.Key, d.Prefix) {
				named = append(named, core.Range{Table: d.Table, Prefix: r.Key})
			}
		}
	}
	return named
}

func (s *naive) check(b core.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range b.Expect {
		if !s.holds(e) {
			return core.ErrConflict
		}
	}
	return nil
}

func (s *naive) holds(e core.Expectation) bool {
	var have core.Version
	for _, r := range s.tables[s.table(e.Table)] {
		if bytes.Equal(r.Key, e.Key) {
			have = r.Version
		}
	}
	switch {
	case s.is("forgets expectations of absence") && e.Version == core.Version{}:
		return true
	case s.is("compares half a version"):
		return bytes.Equal(have[:8], e.Version[:8])
	}
	return have == e.Version
}

func (s *naive) deleteAll(ranges []core.Range) {
	for _, d := range ranges {
		deleted := 0
		s.tables[s.table(d.Table)] = slices.DeleteFunc(s.tables[s.table(d.Table)], func(r core.Record) bool {
			if !bytes.HasPrefix(r.Key, d.Prefix) || s.is("delete one record") && deleted > 0 {
				return false
			}
			deleted++
			return true
		})
	}
}

func (s *naive) put(p core.Put) {
	r := core.Record{Key: bytes.Clone(p.Key), Value: bytes.Clone(p.Value), Version: p.Version}
	switch {
	case s.is("keeps the batch"):
		r.Key, r.Value = p.Key, p.Value
	case s.is("compares values, not versions"):
		sum := sha256.Sum256(p.Value)
		copy(r.Version[:], sum[:])
	case s.is("drops empty values") && len(p.Value) == 0:
		return
	}
	table := s.table(p.Table)
	for i, old := range s.tables[table] {
		if bytes.Equal(old.Key, p.Key) {
			if s.is("skips a version that it has") && old.Version == p.Version {
				return
			}
			if s.is("keeps the first value") {
				r.Value = old.Value
			}
			s.tables[table][i] = r
			return
		}
	}
	s.tables[table] = append(s.tables[table], r)
}

func (s *naive) Close() error {
	for i := 0; s.is("close waits for snapshots") && s.open.Load() > 0 && i < 25; i++ {
		time.Sleep(hangs / 10)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed && s.is("fails to close twice") {
		return core.ErrClosed
	}
	s.closed = true
	return nil
}

// A naiveSnapshot is a copy of the store's tables.
type naiveSnapshot struct {
	core.Keystore
	of     *naive
	ctx    context.Context // of the call that made it
	closed bool
}

func (s *naive) Snapshot(ctx context.Context) (core.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed && !s.is("snapshots of a closed store"):
		return nil, core.ErrClosed
	case s.is("snapshots are few") && s.open.Load() > 0:
		return nil, core.ErrUnavailable
	case s.is("one snapshot for all") && s.shared != nil:
		return s.shared, nil
	}
	s.open.Add(1)
	s.shared = &naiveSnapshot{Keystore: s, of: s, ctx: ctx}
	if !s.is("snapshots follow the store") {
		frozen := newNaive("")
		for table, records := range s.tables {
			frozen.tables[table] = slices.Clone(records)
		}
		if s.is("snapshots take any query") {
			frozen.wrong = "no limits"
		}
		s.shared.Keystore = frozen
	}
	return s.shared, nil
}

func (p *naiveSnapshot) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	switch {
	case p.closed && !p.of.is("snapshots work when closed"):
		return nil, core.ErrClosed
	case p.of.is("snapshots end with the call") && p.ctx.Err() != nil:
		return nil, core.ErrClosed
	case p.of.is("snapshots are empty after close") && p.of.closed:
		return make([][]core.Record, len(queries)), nil
	}
	return p.Keystore.Read(ctx, queries)
}

func (p *naiveSnapshot) Close() error {
	if p.closed {
		if p.of.is("snapshots fail to close twice") {
			return core.ErrClosed
		}
		return nil
	}
	p.closed = true
	p.of.open.Add(-1)
	return nil
}

// The naive store looks at each record for each, and takes no time otherwise.
func TestMain(m *testing.M) {
	lots, hangs = 500, time.Second
	os.Exit(m.Run())
}
