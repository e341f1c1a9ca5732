// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// pageOfScan is how many records are read at a time, or fewer if they are long.
const pageOfScan = 256

// Each calls f with every record of the tenant in a table, whatever its scope. It
// reads the whole table of the keystore, other tenants' records too: it is for what is
// done once. Records that do not authenticate are passed over. f must not use the
// Store; its error ends the call.
func (s *Store) Each(ctx context.Context, table core.Table, f func(Record) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return core.ErrClosed
	}
	if table == ownTable {
		return errOwnTable
	}
	return s.scan(ctx, table, func(r core.Record) error {
		value, err := s.open(table, r)
		if err != nil {
			return nil
		}
		return f(Record{Key: r.Key[blindLen:], Value: value, Version: r.Version})
	})
}

// scan reads a table of the keystore.
func (s *Store) scan(ctx context.Context, table core.Table, f func(core.Record) error) error {
	q := core.Query{Table: table, Limit: pageOfScan}
	for {
		found, err := s.ks.Read(ctx, []core.Query{q})
		if errors.Is(err, core.ErrTooLarge) && q.Limit > 1 {
			q.Limit /= 2
			continue
		}
		if err != nil {
			return err
		}
		if len(found) != 1 {
			return damaged(table, "no answer")
		}
		for _, r := range found[0] {
			if len(r.Key) < blindLen {
				continue
			}
			if err := f(r); err != nil {
				return err
			}
			q.After = r.Key
		}
		if len(found[0]) < q.Limit {
			return nil
		}
	}
}

// Wipe deletes everything that the tenant has in the keystore, its keys too, by one
// write, and closes the Store: what copies of the keystore still hold nobody can read
// without them. No other Store of the tenant may be open: what it writes meanwhile may
// stay, unreadable. So does a scope in which no record authenticates. A tenant that is
// gone already is no error.
func (s *Store) Wipe(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return core.ErrClosed
	}
	var err error
	for range 8 {
		if err = s.wipe(ctx); err == nil {
			s.close.Do(func() { close(s.closing) })
			s.closed = true
			s.ring.wipe()
			return nil
		}
		if !errors.Is(err, core.ErrUnknownOutcome) && !errors.Is(err, core.ErrConflict) {
			break
		}
	}
	return fmt.Errorf("seal: wipe: %w", err)
}

// wipe deletes what there is as long as the root record is the one that it sees: so a
// batch that lands late does nothing to whoever opens the tenant anew.
func (s *Store) wipe(ctx context.Context) error {
	root, err := s.root(ctx)
	if errors.Is(err, core.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	b := core.Batch{
		Expect: []core.Expectation{{Table: ownTable, Key: root.Key, Version: root.Version}},
		Dels:   []core.Range{{Table: ownTable, Prefix: root.Key}, {Table: ownTable, Prefix: s.blind(ownTable, receipts)}},
	}
	for table := ownTable + 1; table != ownTable; table++ { // all of them
		var last string // the records of a scope lie together
		err := s.scan(ctx, table, func(r core.Record) error {
			if scope := string(r.Key[:blindLen]); scope != last {
				if _, err := s.open(table, r); err == nil {
					last = scope
					b.Dels = append(b.Dels, core.Range{Table: table, Prefix: []byte(scope)})
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return s.apply(ctx, b)
}
