// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"context"
	"errors"

	"github.com/conclave-mls/conclave/core"
)

// Progress hears how many records of how many are done. The total is what there was at
// the beginning.
type Progress func(done, total int)

// A Report is what was found among the records of a tenant.
type Report struct {
	Records int
	Bytes   int64 // keys and sealed values
	Damaged int   // of the Records: they do not authenticate
	Last    error // what is wrong with the last of them
}

// pageOfScan is how many records are read at a time, or fewer if they are long.
const (
	pageOfScan = 256
	pageOfKeys = 64 * pageOfScan
)

// Each calls f with every record of the tenant in a table, whatever its scope. It is
// for what is done once. Records that do not authenticate are passed over. f must not
// use the Store; its error ends the call.
func (s *Store) Each(ctx context.Context, table core.Table, f func(Record) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return core.ErrClosed
	}
	if table == ownTable {
		return errOwnTable
	}
	return s.pages(ctx, s, table, func(ring *keyring, page []core.Record) error {
		for _, r := range page {
			value, err := s.open(ring, table, r)
			if err != nil {
				continue
			}
			if err := f(Record{Key: r.Key[blindLen:], Value: value, Version: r.Version}); err != nil {
				return err
			}
		}
		return nil
	})
}

// Verify reads every record of the tenant and reports those that do not authenticate.
// What is missing it cannot know. progress may be nil.
func (s *Store) Verify(ctx context.Context, progress Progress) (Report, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return Report{}, core.ErrClosed
	}
	var report Report
	err := s.all(ctx, s, progress, func(ring *keyring, table core.Table, page []core.Record) error {
		s.report(&report, ring, table, page)
		return nil
	})
	return report, err
}

func (s *Store) report(report *Report, ring *keyring, table core.Table, page []core.Record) {
	for _, r := range page {
		report.Records++
		report.Bytes += int64(len(r.Key) + len(r.Value))
		if _, err := s.open(ring, table, r); err != nil {
			report.Damaged++
			report.Last = err
		}
	}
}

// A source gives records and the keys that open them: the Store, or a snapshot of it.
type source interface {
	read(ctx context.Context, queries []core.Query) ([][]core.Record, *keyring, error)
}

// all calls f with pages of all that the tenant has in its tables, but the own one.
func (s *Store) all(ctx context.Context, from source, progress Progress, f func(*keyring, core.Table, []core.Record) error) error {
	if progress == nil {
		progress = func(int, int) {}
	}
	tables, total, err := s.count(ctx, from)
	if err != nil {
		return err
	}
	done := 0
	progress(done, total)
	for _, table := range tables {
		err := s.pages(ctx, from, table, func(ring *keyring, page []core.Record) error {
			if err := f(ring, table, page); err != nil {
				return err
			}
			done += len(page)
			progress(done, max(total, done))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// count tells which tables have records of the tenant, and how many there are.
func (s *Store) count(ctx context.Context, from source) (tables []core.Table, total int, err error) {
	var queries []core.Query
	for table := ownTable + 1; table != ownTable; table++ { // all of them
		queries = append(queries, core.Query{Table: table, Prefix: s.ring.Load().prefix[:], Limit: 1, KeysOnly: true})
	}
	found, _, err := from.read(ctx, queries)
	if err != nil {
		return nil, 0, err
	}
	for i, q := range queries {
		if len(found[i]) == 0 {
			continue
		}
		tables = append(tables, q.Table)
		q.Limit = pageOfKeys
		err := paged(ctx, from, q, func(_ *keyring, page []core.Record) error {
			total += len(page)
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
	}
	return tables, total, nil
}

// pages calls f with what the tenant has in a table, a page at a time.
func (s *Store) pages(ctx context.Context, from source, table core.Table, f func(*keyring, []core.Record) error) error {
	return paged(ctx, from, core.Query{Table: table, Prefix: s.ring.Load().prefix[:], Limit: pageOfScan}, f)
}

func paged(ctx context.Context, from source, q core.Query, f func(*keyring, []core.Record) error) error {
	for {
		found, ring, err := from.read(ctx, []core.Query{q})
		if errors.Is(err, core.ErrTooLarge) && q.Limit > 1 {
			q.Limit /= 2
			continue
		}
		if err != nil {
			return err
		}
		page := found[0]
		if len(page) > 0 {
			if err := f(ring, page); err != nil {
				return err
			}
			q.After = page[len(page)-1].Key
		}
		if len(page) < q.Limit {
			return nil
		}
	}
}

// Info is what a tenant's root record says.
type Info struct {
	Wrapper  string // id of the wrapping key
	DataKey  uint32 // generation of the data key that seals now
	Rotating bool   // there is an older one yet: a rotation is under way, or was interrupted
}

// Info reads the root record.
func (s *Store) Info(ctx context.Context) (Info, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return Info{}, core.ErrClosed
	}
	_, r, err := s.root(ctx)
	if err != nil {
		return Info{}, err
	}
	if err := s.reload(ctx); err != nil {
		return Info{}, err
	}
	ring := s.ring.Load()
	return Info{Wrapper: r.wrapper, DataKey: ring.newest, Rotating: len(ring.keys) > 1}, nil
}
