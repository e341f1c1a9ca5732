// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// wipePause is how long Wipe waits before it looks again whether calls are under way.
const wipePause = 5 * time.Millisecond

// Wipe deletes everything that the tenant has in the keystore, its keys too, by one
// write, and closes the Store: what copies of the keystore still hold nobody can read
// without them. It waits for calls under way, or for the end of the context. Other
// Stores of the tenant can write no more. A tenant that is gone already is no error.
// ErrUnknownOutcome: everything may be gone; the Store stays open, wipe again.
func (s *Store) Wipe(ctx context.Context) error {
	// Not Lock: that waits for whoever looks for a lost outcome, and others wait for it.
	for !s.mu.TryLock() {
		select {
		case <-time.After(wipePause):
		case <-ctx.Done():
			return fmt.Errorf("seal: wipe: calls are under way: %w", ctx.Err())
		}
	}
	defer s.mu.Unlock()
	if s.closed {
		return core.ErrClosed
	}
	var err, lost error
	for range maxTries {
		if err = s.wipe(ctx); err == nil {
			s.EndSearch()
			s.closed = true
			s.ring.Load().wipe()
			return nil
		}
		if errors.Is(err, core.ErrUnknownOutcome) {
			lost = err
		} else if !errors.Is(err, core.ErrConflict) {
			break
		}
	}
	if lost != nil { // whatever the last try says
		err = lost
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
