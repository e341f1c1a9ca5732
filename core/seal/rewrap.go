// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"bytes"
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// Rewrap puts the tenant's keys under another wrapping key, by one write: whatever
// happens, the store opens with one of the two. Stores that are open go on, until the
// data key is rotated: this one then too, others are ErrWrongKey and have to be opened
// again. The data keys stay as they are, so that a copy of the store from before still
// opens with the key of before; see [Store.Rotate].
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
	o, r, err := s.root(ctx)
	if err != nil {
		return err
	}
	secret, err := r.unwrap(ctx, from, s.tenant)
	if err != nil {
		return err
	}
	defer secret.Wipe()
	plain, err := r.open(secret)
	if err != nil {
		return err
	}
	defer clear(plain)
	fresh, err := newSealer(ctx, to, s.tenant)
	if err != nil {
		return err
	}
	defer fresh.secret.Wipe()
	value, err := fresh.seal(s.tenant, plain)
	if err != nil {
		return err
	}
	if err := s.opensWith(ctx, value, to, plain); err != nil { // else nobody could open the store any more
		return fmt.Errorf("seal: wrapping key %q does not unwrap what it wrapped (%v): %w", to.ID(), err, core.ErrInvalid)
	}
	if err := s.reloading.enter(ctx); err != nil { // so that who has read the root record of before does not keep that
		return err
	}
	defer s.reloading.leave()
	err = s.applyWithReceipt(ctx, &keyring{generation: o.generation}, core.Batch{
		Expect: []core.Expectation{{Table: ownTable, Key: o.root.Key, Version: o.root.Version}},
		Puts:   []core.Put{putRoot(s.tenant, value)},
	})
	if err != nil {
		return conflictIfOutdated(err)
	}
	ring, err := newKeyring(fresh.secret.Clone(), plain)
	if err != nil {
		return err
	}
	s.keep(ring, o.generation)
	return nil
}

// opensWith says what is wrong with a root record that should hold a keyring.
func (s *Store) opensWith(ctx context.Context, value []byte, w core.KeyWrapper, plain []byte) error {
	r, err := parseRoot(value, s.tenant)
	if err != nil {
		return err
	}
	secret, err := r.unwrap(ctx, w, s.tenant)
	if err != nil {
		return err
	}
	defer secret.Wipe()
	again, err := r.open(secret)
	defer clear(again)
	if err == nil && !bytes.Equal(plain, again) {
		err = errRoot
	}
	return err
}

// root reads the root record. ErrNotFound: the tenant was wiped. ErrMoved.
func (s *Store) root(ctx context.Context) (own, root, error) {
	o, err := readOwn(ctx, s.ks, s.tenant)
	if err != nil {
		return own{}, root{}, err
	}
	if o.root.Key == nil {
		return own{}, root{}, noRoot(s.tenant)
	}
	r, err := parseRoot(o.root.Value, s.tenant)
	if err == nil && r.moved {
		err = ErrMoved
	}
	return o, r, err
}
