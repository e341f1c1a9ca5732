// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// Wipe deletes everything that the tenant has in the keystore, its keys too, by one
// write, and closes the Store: what copies of the keystore still hold nobody can read
// without them. Other Stores of the tenant can write no more. A tenant that is gone
// already is no error.
func (s *Store) Wipe(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return core.ErrClosed
	}
	var err error
	for range maxTries {
		if err = s.wipe(ctx); err == nil {
			s.close.Do(func() { close(s.closing) })
			s.closed = true
			s.ring.Load().wipe()
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
	o, err := readOwn(ctx, s.ks, s.tenant)
	if err != nil || o.root.Key == nil {
		return err
	}
	return s.apply(ctx, core.Batch{Expect: o.expect(s.tenant), Dels: append(s.ring.Load().everything(), ownRecords(s.tenant)...)})
}

// ownRecords names what a tenant has under its name.
func ownRecords(tenant string) []core.Range {
	var all []core.Range
	for _, record := range []string{rootRecord, generationRecord, ancestryRecord} {
		all = append(all, core.Range{Table: ownTable, Prefix: ownKey(tenant, record)})
	}
	return all
}
