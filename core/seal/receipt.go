// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// When a connection breaks under Apply, the batch may have happened, or not, or
// be about to. A plain read cannot tell: the batch can land after it. So each
// batch also replaces a record of the caller's own, a receipt, that only one
// batch at a time may replace; and who wants to know what became of a batch
// tries to take its place. If that succeeds, the lost batch can never happen. If
// it is a conflict, the receipt says whether the lost batch was first.

// receipts is the scope of all receipts of a tenant.
var receipts = []byte("receipts")

// A slot is one receipt: one batch at a time goes with it.
type slot struct {
	key     []byte
	version core.Version // of the receipt; zero while there is none
}

// slots are the receipts of a Store, as many as it had batches under way at once.
type slots struct {
	mu    sync.Mutex
	free  []*slot
	stray [][]byte // keys of receipts that are given up, for removal
}

func (s *Store) takeSlot() *slot {
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	if n := len(s.slots.free); n > 0 {
		x := s.slots.free[n-1]
		s.slots.free = s.slots.free[:n-1]
		return x
	}
	return &slot{key: join(s.blind(ownTable, receipts), random(8))}
}

func (s *Store) giveSlot(x *slot) {
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	s.slots.free = append(s.slots.free, x)
}

// giveUpSlot is for a slot whose receipt is not what it should be.
func (s *Store) giveUpSlot(x *slot) {
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	s.slots.stray = append(s.slots.stray, x.key)
}

// replace is the part of a batch that replaces the receipt.
func (x *slot) replace(b core.Batch, with core.Version) core.Batch {
	b.Expect = append(b.Expect[:len(b.Expect):len(b.Expect)], core.Expectation{Table: ownTable, Key: x.key, Version: x.version})
	b.Puts = append(b.Puts[:len(b.Puts):len(b.Puts)], core.Put{Table: ownTable, Key: x.key, Version: with})
	return b
}

// applyWithReceipt applies a batch and, if its outcome is unknown, finds it out.
func (s *Store) applyWithReceipt(ctx context.Context, b core.Batch) error {
	for range 4 {
		x := s.takeSlot()
		fresh := core.NewVersion()
		err := s.apply(ctx, x.replace(b, fresh))
		switch {
		case err == nil:
			x.version = fresh
			s.giveSlot(x)
			return nil
		case errors.Is(err, core.ErrUnknownOutcome):
			return s.resolve(ctx, x, fresh, err)
		case !errors.Is(err, core.ErrConflict):
			s.giveSlot(x)
			return err
		}
		// Somebody's expectation failed: the caller's, unless the receipt is gone.
		have, readErr := s.receipt(ctx, x)
		if readErr != nil {
			s.giveUpSlot(x)
			return fmt.Errorf("seal: after a conflict: %w", readErr)
		}
		if have == x.version {
			s.giveSlot(x)
			return err
		}
		s.giveUpSlot(x)
	}
	return fmt.Errorf("seal: receipts disappear: %w", core.ErrUnavailable)
}

// resolve finds out what became of the batch that was to bring a receipt from
// x.version to lost. nil: it was applied.
func (s *Store) resolve(ctx context.Context, x *slot, lost core.Version, cause error) error {
	instead := core.NewVersion() // the same for each try: one of them may be lost too
	for delay := time.Millisecond; ; delay = min(2*delay, time.Second) {
		err := s.apply(ctx, x.replace(core.Batch{}, instead))
		have := instead
		if errors.Is(err, core.ErrConflict) {
			have, err = s.receipt(ctx, x)
		}
		switch {
		case errors.Is(err, core.ErrClosed):
			s.giveUpSlot(x)
			return cause
		case err != nil: // try again
		case have == lost:
			x.version = lost
			s.giveSlot(x)
			return nil
		case have == instead:
			x.version = instead
			s.giveSlot(x)
			return fmt.Errorf("seal: the batch was lost and did not happen: %w", core.ErrUnavailable)
		default: // somebody removed the receipt, and the answer with it
			s.giveUpSlot(x)
			return cause
		}
		select {
		case <-time.After(delay):
		case <-s.closing:
			s.giveUpSlot(x)
			return cause
		case <-ctx.Done():
			s.giveUpSlot(x)
			return fmt.Errorf("%w (%w)", cause, ctx.Err())
		}
	}
}

// receipt reads the version of a receipt, zero if there is none.
func (s *Store) receipt(ctx context.Context, x *slot) (core.Version, error) {
	found, err := s.ks.Read(ctx, []core.Query{{Table: ownTable, Prefix: x.key, KeysOnly: true}})
	if err != nil || len(found) != 1 || len(found[0]) == 0 {
		return core.Version{}, err
	}
	return found[0][0].Version, nil
}

// removeReceipts is for Close, which has no context of its own.
func (s *Store) removeReceipts() error {
	var b core.Batch
	for _, x := range s.slots.free {
		if x.version != (core.Version{}) {
			b.Dels = append(b.Dels, core.Range{Table: ownTable, Prefix: x.key})
		}
	}
	for _, key := range s.slots.stray {
		b.Dels = append(b.Dels, core.Range{Table: ownTable, Prefix: key})
	}
	if len(b.Dels) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.apply(ctx, b); err != nil {
		return fmt.Errorf("seal: close: %w", err)
	}
	return nil
}
