// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/conclave-mls/conclave/core"
)

// Batches that come while another one is being synced are one transaction together, with
// one sync, in the order in which they came. Each is still whole or not there: what it
// expects is looked at before anything of it is written, and one that conflicts writes
// nothing. Whoever gets the connection that writes does it for all who wait.

// A waiting batch is one whose caller waits for what becomes of it.
type waiting struct {
	ctx   context.Context
	batch *core.Batch
	done  chan struct{} // closed when err says it
	err   error
}

// maxTogether is how many batches may be in one transaction.
const maxTogether = 64

// A queue holds the batches that nobody has taken up.
type queue struct {
	mu   sync.Mutex
	list []*waiting
}

func (q *queue) add(w *waiting) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, w)
}

// takeBack says whether the batch was still there.
func (q *queue) takeBack(w *waiting) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := slices.Index(q.list, w)
	if at >= 0 {
		q.list = slices.Delete(q.list, at, at+1)
	}
	return at >= 0
}

// take gives the oldest, as many as there may be in one transaction.
func (q *queue) take() (list []*waiting) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.list), maxTogether)
	list = slices.Clone(q.list[:n])
	q.list = slices.Delete(q.list, 0, n)
	return list
}

// applyQueued applies a batch, or has somebody else do it.
func (s *Store) applyQueued(ctx context.Context, b *core.Batch) error {
	w := &waiting{ctx: ctx, batch: b, done: make(chan struct{})}
	s.queue.add(w)
	for {
		c, err := s.take(ctx, s.writer, w.done)
		if c != nil {
			err = s.lead(ctx, c)
		}
		if err != nil && s.queue.takeBack(w) {
			return err
		}
		if err != nil || c == nil { // it was taken up
			<-w.done
			return w.err
		}
		select {
		case <-w.done:
			return w.err
		default: // many have come before
		}
	}
}

// lead takes the write lock, as long as the context allows, and then applies what waits.
// An error is about the lock, and all still wait.
func (s *Store) lead(ctx context.Context, c *conn) error {
	err := c.mark(ctx)
	if err == nil {
		err = c.lock(ctx)
	}
	if err != nil {
		give(s.writer, c, err)
		return err
	}
	list := s.queue.take()
	errs := make([]error, len(list))
	err = c.toTheEnd(func() error {
		for i, w := range list {
			switch errs[i] = c.change(w.batch); {
			case errs[i] != nil && !errors.Is(errs[i], core.ErrConflict):
				return errs[i]
			case errs[i] == nil:
				c.count(w.batch)
			}
		}
		return nil
	})
	failed := (*commitError)(nil)
	switch {
	case err == nil:
		c.limitLog()
	case len(list) == 1 || errors.As(err, &failed):
		for i := range errs {
			errs[i] = err
		}
	default: // one of them cannot be written: each for itself
		_ = c.close()
		c, err = nil, nil
		for i, w := range list {
			if errs[i] = w.ctx.Err(); errs[i] == nil {
				errs[i] = s.alone(w, &c)
			}
		}
	}
	s.idle.Reset(idleAfter)
	if c != nil {
		give(s.writer, c, err)
	} else {
		s.writer <- nil
	}
	for i, w := range list {
		w.err = errs[i]
		close(w.done)
	}
	return nil
}

// alone applies one batch. The connection is nil after an error that says nothing about its
// state.
func (s *Store) alone(w *waiting, c **conn) error {
	if *c == nil {
		made, err := dial(w.ctx, s.path)
		if err != nil {
			return err
		}
		*c = made
	}
	err := (*c).mark(w.ctx)
	if err == nil {
		err = (*c).apply(w.ctx, w.batch)
	}
	if !fit(*c, err) {
		_ = (*c).close()
		*c = nil
	}
	return err
}
