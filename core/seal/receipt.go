// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"context"
	"encoding/binary"
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
//
// The key of a receipt begins with the day on which it was made, so that those which a
// killed process has left are found: nobody's batch is under way for receiptLife.

// receipts is the scope of all receipts of a tenant.
var receipts = []byte("receipts")

const (
	receiptLife = 60 // days
	slotLife    = 7  // days after which a slot gets a new receipt
)

// today is the number of the day.
func today() uint32 { return uint32(time.Now().Unix() / (24 * 60 * 60)) }

// A slot is one receipt: one batch at a time goes with it.
type slot struct {
	key     []byte
	day     uint32       // on which it was made
	version core.Version // of the receipt; zero while there is none
}

// A lost batch is one whose outcome nobody has waited for.
type lostBatch struct {
	slot    *slot
	version core.Version // of the receipt that it brings
}

// slots are the receipts of a Store, as many as it had batches under way at once.
type slots struct {
	mu    sync.Mutex
	free  []*slot
	stray [][]byte // keys of receipts that are given up, for removal

	lost     []lostBatch
	settling gate // of who finds out about the lost ones
}

func (s *Store) takeSlot() *slot {
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	day := today()
	for n := len(s.slots.free); n > 0; n = len(s.slots.free) {
		x := s.slots.free[n-1]
		s.slots.free = s.slots.free[:n-1]
		if day-x.day < slotLife {
			return x
		}
		s.slots.stray = append(s.slots.stray, x.key)
	}
	scope := s.ring.Load().blind(ownTable, receipts)
	key := binary.BigEndian.AppendUint32(scope[:], day)
	return &slot{key: append(key, random(8)...), day: day}
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

// errOutdated: the data keys are others than the batch was sealed with.
var errOutdated = errors.New("the data keys have changed")

// applyWithReceipt applies a batch that was sealed with ring and, if its outcome is
// unknown, finds it out.
func (s *Store) applyWithReceipt(ctx context.Context, ring *keyring, b core.Batch) error {
	if err := s.settle(ctx); err != nil {
		return err
	}
	b.Expect = append(b.Expect, core.Expectation{Table: ownTable, Key: ownKey(s.tenant, generationRecord), Version: ring.generation})
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
		// Somebody's expectation failed: the caller's, unless the receipt is gone or
		// the data keys are others.
		receipt, generation, readErr := s.receipt(ctx, x)
		if readErr != nil {
			s.giveUpSlot(x)
			return fmt.Errorf("seal: after a conflict: %w", readErr)
		}
		if receipt != x.version {
			s.giveUpSlot(x)
			continue
		}
		s.giveSlot(x)
		if generation != ring.generation {
			return errOutdated
		}
		return err
	}
	return fmt.Errorf("seal: receipts disappear: %w", core.ErrUnavailable)
}

// settle finds out about the batches whose callers have gone: none may land after
// what is written now.
func (s *Store) settle(ctx context.Context) error {
	if err := s.slots.settling.enter(ctx); err != nil {
		return err
	}
	defer s.slots.settling.leave()
	for {
		s.slots.mu.Lock()
		n := len(s.slots.lost)
		if n == 0 {
			s.slots.mu.Unlock()
			return nil
		}
		l := s.slots.lost[n-1]
		s.slots.lost = s.slots.lost[:n-1]
		s.slots.mu.Unlock()
		err := s.resolve(ctx, l.slot, l.version, core.ErrUnknownOutcome)
		switch {
		case !errors.Is(err, core.ErrUnknownOutcome):
		case ctx.Err() != nil:
			return fmt.Errorf("seal: an earlier batch is lost: %w (%w)", core.ErrUnavailable, ctx.Err())
		case errors.Is(err, core.ErrRolledBack):
			return fmt.Errorf("seal: an earlier batch is lost: %w", core.ErrRolledBack)
		case errors.Is(err, core.ErrDenied):
			return fmt.Errorf("seal: an earlier batch is lost: %w", core.ErrDenied)
		case s.isClosing():
			return core.ErrClosed
		}
	}
}

func (s *Store) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// resolve finds out what became of the batch that was to bring a receipt from
// x.version to lost. nil: it was applied. ErrRolledBack or ErrDenied, besides: nobody can
// say here.
func (s *Store) resolve(ctx context.Context, x *slot, lost core.Version, cause error) error {
	instead := core.NewVersion() // the same for each try: one of them may be lost too
	for delay := time.Millisecond; ; delay = min(2*delay, time.Second) {
		err := s.apply(ctx, x.replace(core.Batch{}, instead))
		have := instead
		if errors.Is(err, core.ErrConflict) {
			have, _, err = s.receipt(ctx, x)
		} else if errors.Is(err, core.ErrUnknownOutcome) { // a store that loses its answers may still do what it is asked
			if now, _, readErr := s.receipt(ctx, x); readErr == nil && now != x.version {
				have, err = now, nil
			}
		}
		switch {
		case errors.Is(err, core.ErrClosed):
			s.giveUpSlot(x)
			return cause
		case errors.Is(err, core.ErrRolledBack), errors.Is(err, core.ErrDenied): // and will be, as a plugin whose executable was replaced
			s.lose(x, lost)
			return fmt.Errorf("%w (%w)", cause, err)
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
		case <-s.closing: // later batches wait for it as long as this takes: see EndSearch
			s.lose(x, lost)
			return cause
		case <-ctx.Done():
			s.lose(x, lost)
			return fmt.Errorf("%w (%w)", cause, ctx.Err())
		}
	}
}

// lose keeps a batch for settle.
func (s *Store) lose(x *slot, lost core.Version) {
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	s.slots.lost = append(s.slots.lost, lostBatch{x, lost})
}

// receipt reads the version of a receipt, zero if there is none, and that of the
// generation record.
func (s *Store) receipt(ctx context.Context, x *slot) (receipt, generation core.Version, err error) {
	found, err := s.ks.Read(ctx, []core.Query{
		{Table: ownTable, Prefix: x.key, KeysOnly: true},
		{Table: ownTable, Prefix: ownKey(s.tenant, generationRecord), KeysOnly: true},
	})
	if err != nil {
		return core.Version{}, core.Version{}, err
	}
	if len(found) == 2 && len(found[0]) == 1 {
		receipt = found[0][0].Version
	}
	if len(found) == 2 && len(found[1]) == 1 {
		generation = found[1][0].Version
	}
	return receipt, generation, nil
}

// sweepReceipts removes what killed processes have left. That it fails is no matter:
// the next one tries again.
func (s *Store) sweepReceipts(ctx context.Context) {
	scope := s.ring.Load().blind(ownTable, receipts)
	found, err := s.ks.Read(ctx, []core.Query{{Table: ownTable, Prefix: scope[:], Limit: 1000, KeysOnly: true}})
	if err != nil || len(found) != 1 {
		return
	}
	var b core.Batch
	for _, r := range found[0] { // the oldest first
		// A clock that is ahead of this one makes a day to come.
		if len(r.Key) < blindLen+4 || int32(today()-binary.BigEndian.Uint32(r.Key[blindLen:])) < receiptLife {
			break
		}
		b.Dels = append(b.Dels, core.Range{Table: ownTable, Prefix: r.Key})
	}
	if len(b.Dels) > 0 {
		_ = s.apply(ctx, b)
	}
}

// removeReceipts is for Close, which has no context of its own.
func (s *Store) removeReceipts() error {
	var b core.Batch
	for _, x := range s.slots.free {
		if x.version != (core.Version{}) {
			b.Dels = append(b.Dels, core.Range{Table: ownTable, Prefix: x.key})
		}
	}
	for _, l := range s.slots.lost { // so it cannot happen any more, unless there was none before it
		b.Dels = append(b.Dels, core.Range{Table: ownTable, Prefix: l.slot.key})
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
