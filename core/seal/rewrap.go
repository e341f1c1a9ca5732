// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"bytes"
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// Rewrap puts the tenant's keys under another wrapping key, by one write: whatever
// happens, the store opens with one of the two. Stores that are open go on. The data
// keys stay as they are, so that a copy of the store from before still opens with the
// key of before.
//
// ErrWrongKey: from is not the key that the store opens with; nothing is changed.
// ErrConflict: somebody else did the same meanwhile. ErrInvalid: what to has wrapped it
// does not unwrap.
func (s *Store) Rewrap(ctx context.Context, from, to core.KeyWrapper) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return core.ErrClosed
	}
	r, err := s.root(ctx)
	if err != nil {
		return err
	}
	plain, err := unsealRoot(ctx, r.Value, from, s.tenant)
	if err != nil {
		return err
	}
	defer clear(plain)
	value, err := sealRoot(ctx, to, s.tenant, plain)
	if err != nil {
		return err
	}
	again, err := unsealRoot(ctx, value, to, s.tenant)
	defer clear(again)
	if err != nil || !bytes.Equal(plain, again) { // nobody could open the store any more
		return fmt.Errorf("seal: wrapping key %q does not unwrap what it wrapped (%v): %w", to.ID(), err, core.ErrInvalid)
	}
	return s.applyWithReceipt(ctx, core.Batch{
		Expect: []core.Expectation{{Table: ownTable, Key: r.Key, Version: r.Version}},
		Puts:   []core.Put{{Table: ownTable, Key: r.Key, Value: value, Version: core.NewVersion()}},
	})
}

// root reads the root record; ErrNotFound if the tenant was wiped.
func (s *Store) root(ctx context.Context) (core.Record, error) {
	found, err := s.ks.Read(ctx, []core.Query{{Table: ownTable, Prefix: rootKey(s.tenant)}})
	if err != nil {
		return core.Record{}, err
	}
	if len(found) != 1 || len(found[0]) > 1 {
		return core.Record{}, fmt.Errorf("root record: more than one: %w", core.ErrDamaged)
	}
	if len(found[0]) == 0 {
		return core.Record{}, fmt.Errorf("root record: %w", core.ErrNotFound)
	}
	return found[0][0], nil
}
