// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// A rotation makes a new data key and, by the same write, a new version of the
// generation record. Every batch expects that record as it was when its values were
// sealed, so nothing is sealed with the old key from then on: other Stores find out by
// the conflict, read the new key and seal again. What was there is then sealed anew, a
// page at a time. A record keeps its version, which names its value: so nobody who has
// read it notices, and a batch of these that is lost does nothing that another would
// not do. At last the root record is written without the old key.

// pageOfRotation is how many bytes of values are sealed anew by one write, at least.
const pageOfRotation = 256 << 10

// Rotate makes a new data key, seals every record with it while the store is in use, by
// other processes too, and destroys the old one: of what copies of the medium hold from
// before, nobody can read anything who has not also a copy of the root record from
// before and the wrapping key. A rotation that was interrupted is finished instead.
// Records that are damaged stay as they are. progress may be nil.
func (s *Store) Rotate(ctx context.Context, progress Progress) (Report, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return Report{}, core.ErrClosed
	}
	newest, err := s.changeKeys(ctx, func(keys []dataKey) []dataKey {
		if len(keys) > 1 { // interrupted, or under way elsewhere
			return keys
		}
		return append(keys, dataKey{keys[0].generation + 1, random(keyLen)})
	})
	if err != nil {
		return Report{}, fmt.Errorf("seal: rotate: new data key: %w", err)
	}
	var report Report
	err = s.all(ctx, s, progress, func(ring *keyring, table core.Table, page []core.Record) error {
		s.report(&report, ring, table, page)
		return s.sealPage(ctx, ring, newest, table, page)
	})
	if err != nil {
		return report, fmt.Errorf("seal: rotate: it can be continued: %w", err)
	}
	_, err = s.changeKeys(ctx, func(keys []dataKey) []dataKey {
		if last := len(keys) - 1; keys[last].generation == newest {
			return keys[last:]
		}
		return keys // of another rotation, which ends it
	})
	if err != nil {
		return report, fmt.Errorf("seal: rotate: the old data key: %w", err)
	}
	return report, nil
}

// changeKeys replaces the data keys, which are ascending by generation, and returns the
// newest generation.
func (s *Store) changeKeys(ctx context.Context, change func([]dataKey) []dataKey) (newest uint32, err error) {
	for range maxTries {
		newest, err = s.changeKeysOnce(ctx, change)
		if !errors.Is(err, core.ErrConflict) {
			return newest, err
		}
	}
	return 0, fmt.Errorf("somebody else changes them all the time: %w", core.ErrUnavailable)
}

func (s *Store) changeKeysOnce(ctx context.Context, change func([]dataKey) []dataKey) (newest uint32, err error) {
	if err := s.reload(ctx); err != nil { // or the root secret may be another one
		return 0, err
	}
	o, r, err := s.root(ctx)
	if err != nil {
		return 0, err
	}
	secret := s.ring.Load().secret
	plain, err := r.open(secret)
	if err != nil {
		return 0, err
	}
	defer clear(plain)
	blinding, keys, err := decodeKeyring(plain)
	if err != nil {
		return 0, err
	}
	changed := change(keys)
	newest = changed[len(changed)-1].generation
	if len(changed) == len(keys) {
		return newest, nil
	}
	next := encodeKeyring(blinding, changed)
	defer clear(next)
	value, err := sealer{r.wrapper, r.wrapped, secret}.seal(s.tenant, next)
	if err != nil {
		return 0, err
	}
	err = s.applyWithReceipt(ctx, &keyring{generation: o.generation}, core.Batch{
		Expect: []core.Expectation{{Table: ownTable, Key: o.root.Key, Version: o.root.Version}},
		Puts:   []core.Put{putRoot(s.tenant, value), putGeneration(s.tenant, core.NewVersion())},
	})
	if err != nil {
		return 0, conflictIfOutdated(err)
	}
	return newest, s.reload(ctx)
}

// sealPage seals a page with the newest data key. That the keys change meanwhile is no
// reason to pass over a record: it is another rotation, a move, or one taken back.
func (s *Store) sealPage(ctx context.Context, ring *keyring, newest uint32, table core.Table, page []core.Record) error {
	for try := 1; ; try++ {
		if ring.moved {
			return ErrMoved
		}
		if ring.newest != newest {
			return fmt.Errorf("another rotation has begun: %w", core.ErrConflict)
		}
		err := s.sealAnew(ctx, ring, table, page)
		if !errors.Is(err, errOutdated) || try == maxTries {
			return conflictIfOutdated(err)
		}
		if err := s.reload(ctx); err != nil {
			return err
		}
		ring = s.ring.Load()
	}
}

// sealAnew seals the records of a page that are sealed with an older key.
func (s *Store) sealAnew(ctx context.Context, ring *keyring, table core.Table, page []core.Record) error {
	unchanged := []core.Expectation{{Table: ownTable, Key: ownKey(s.tenant, generationRecord), Version: ring.generation}}
	b, size := core.Batch{Expect: unchanged}, 0
	for i, r := range page {
		if value, err := s.open(ring, table, r); err == nil && generationOf(r.Value) != ring.newest {
			b.Expect = append(b.Expect, core.Expectation{Table: table, Key: r.Key, Version: r.Version})
			b.Puts = append(b.Puts, core.Put{Table: table, Key: r.Key, Value: s.seal(ring, table, r.Key, value, r.Version), Version: r.Version})
			size += len(value)
			clear(value)
		}
		if len(b.Puts) > 0 && (size >= pageOfRotation || i == len(page)-1) {
			if err := s.replace(ctx, b); err != nil {
				return err
			}
			b, size = core.Batch{Expect: unchanged}, 0
		}
	}
	return nil
}

// replace applies a batch that does not matter if it happens twice, but not after the
// data keys have changed again: its first expectation (errOutdated). Whoever has changed
// or removed a record since has sealed it with the new key.
func (s *Store) replace(ctx context.Context, b core.Batch) error {
	err := core.ErrUnknownOutcome
	for try := 0; try < maxTries && errors.Is(err, core.ErrUnknownOutcome); try++ {
		err = s.apply(ctx, b)
	}
	if !errors.Is(err, core.ErrConflict) {
		return err
	}
	o, err := readOwn(ctx, s.ks, s.tenant)
	switch {
	case err != nil:
		return err
	case o.generation != b.Expect[0].Version:
		return errOutdated
	case len(b.Puts) == 1:
		return nil
	}
	for i := range b.Puts {
		if err := s.replace(ctx, core.Batch{Expect: []core.Expectation{b.Expect[0], b.Expect[i+1]}, Puts: b.Puts[i : i+1]}); err != nil {
			return err
		}
	}
	return nil
}
