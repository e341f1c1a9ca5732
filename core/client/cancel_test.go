// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A countdown is a context that is cancelled when it is asked for the n-th time
// whether it is.
type countdown struct {
	context.Context
	mu    sync.Mutex
	n     int
	asked int
	done  chan struct{}
	err   error
}

func newCountdown(ctx context.Context, n int) *countdown {
	return &countdown{Context: ctx, n: n, done: make(chan struct{})}
}

func (c *countdown) Done() <-chan struct{} { _ = c.Err(); return c.done }

func (c *countdown) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked++; c.asked == c.n {
		close(c.done)
		c.err = context.Canceled
	}
	return c.err
}

// hasty is a keystore that also asks the context when it has applied a batch, as one
// does that waits for an answer: then nobody knows.
type hasty struct{ core.Keystore }

func (h hasty) Apply(ctx context.Context, b core.Batch) error {
	if err := h.Keystore.Apply(ctx, b); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", core.ErrUnknownOutcome, err)
	}
	return nil
}

// playCancelled plays an operation with a context that ends when it is asked for the
// n-th time, by the store and by the transport too, before and after each call.
func (s *stage) playCancelled(n int) (gist string, asked int, err error) {
	ctx := newCountdown(s.Context(), n)
	s.alice.Link.Before = func(string) error { s.calls++; return ctx.Err() }
	s.alice.Link.After = func(string) error { return ctx.Err() }
	gist, err = s.play(ctx)
	s.count()
	return gist, ctx.asked, err
}

// Cancels every operation whenever it asks the context. It ends with that, no goroutine
// and no lock is left, and it has happened or has not. Not beside other tests, whose
// goroutines would be taken for what it leaves.
func TestCancelledAtEveryPoint(t *testing.T) {
	others := goleak.IgnoreCurrent()
	for i, op := range operations {
		set := func() setting { return setting{store: hasty{memory.New()}, lease: 100 * time.Millisecond} }
		o := outcomesOf(t, op, set)
		s := newStage(t, op, set())
		_, asked, err := s.playCancelled(0)
		s.must(err)
		for n := 1; n <= asked; n++ {
			if testing.Short() && n != 1+i%asked {
				continue
			}
			t.Run(fmt.Sprintf("%s/%d", op.name, n), func(t *testing.T) {
				s := newStage(t, op, set())
				gist, _, err := s.playCancelled(n)
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				if err := goleak.Find(others); err != nil {
					t.Fatal(err)
				}
				s.nothingHeld()
				s.check(o, gist, err)
			})
		}
	}
}

// nothingHeld checks that alice's next transaction and delivery need not wait.
func (s *stage) nothingHeld() {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 5*time.Second)
	defer cancel()
	before := s.mine()
	err := s.alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		if _, err := tx.Conversation(ctx, chat); !errors.Is(err, client.ErrConversationNotFound) {
			return err
		}
		return nil
	})
	if err != nil {
		s.Fatalf("the next transaction: %v", err)
	}
	if now := s.mine(); now != before {
		s.Fatalf("a look has changed something:\nbefore %s\nnow    %s", before, now)
	}
}
