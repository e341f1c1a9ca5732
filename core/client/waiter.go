// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// A waiter is a caller that waits for the outcome of its commit. Others of this process
// leave the commit to it, and may be the ones who find out what becomes of it.
type waiter struct {
	done chan struct{} // closed when it waits no longer
	end  *end          // written with the conversation held; nil: not known
	more atomic.Bool   // a delivery has left something to whoever waits
}

// An end is what has become of an intention, once that is durable.
type end struct {
	key    IdempotencyKey
	result *CommitResult
	err    error
}

// waiterKey marks the context of whoever waits for a commit.
type waiterKey struct{ key IdempotencyKey }

// await is for a caller that is about to commit.
func (c *Client) await(ctx context.Context, key IdempotencyKey) (_ context.Context, w *waiter, stop func()) {
	w = &waiter{done: make(chan struct{})}
	c.committing.Store(key, w)
	return context.WithValue(ctx, waiterKey{key}, true), w, func() {
		c.committing.Delete(key)
		close(w.done)
	}
}

// awaited says that a caller in this process gets the outcome.
func (c *Client) awaited(key IdempotencyKey) bool {
	_, ok := c.committing.Load(key)
	return ok
}

// reach tells those who wait what a durable segment has done for them.
func (c *Client) reach(ends []end) {
	for _, e := range ends {
		if w, ok := c.committing.Load(e.key); ok {
			w.(*waiter).end = &e
		}
	}
}

// outcome is what others have made of the commit that is waited for, if they have. The
// open segment has done nothing yet, and holds nothing after.
func (t *Transaction) outcome(ctx context.Context, id core.ConversationID, w *waiter) (*end, error) {
	if _, err := t.hold(ctx, id); err != nil { // whoever made it durable has let go
		return nil, err
	}
	defer t.release(nil)
	return w.end, nil
}

// committer finds the commit that another caller of this process is about to see
// through: it waits for its answer, or is first in the outbox between two tries. What
// that caller's own transport does is not another. Or else it tells how long to leave the
// commit that waits for its answer to a caller of another process.
func (c *Client) committer(ctx context.Context, id core.ConversationID) (w *waiter, elsewhere time.Duration, err error) {
	answers, err := newSegment(c.store).read(ctx,
		one(ofConversation(tableIntention, id), theOnly),
		query{place: ofConversation(tableOutbox, id), limit: 1})
	if err != nil {
		return nil, 0, err
	}
	var keys []IdempotencyKey
	for _, r := range answers[0] {
		in, err := decodeIntention(r.Value)
		if err != nil {
			return nil, 0, err
		}
		keys = append(keys, in.key)
		elsewhere = c.leftTo(in)
	}
	for _, r := range answers[1] {
		o, err := decodeOutgoing(r.Value)
		if err != nil {
			return nil, 0, err
		}
		keys = append(keys, o.key)
	}
	for _, key := range keys {
		if w, ok := c.committing.Load(key); ok && ctx.Value(waiterKey{key}) == nil {
			return w.(*waiter), 0, nil
		}
	}
	return nil, elsewhere, nil
}

// waitForOthers returns when no commit of another caller is under way. It does not wait
// where that caller may be waiting in turn: for an outbox that is being sent, for an
// observer. For those of other processes it waits only if it is to, and not for ever: they
// may be dead.
func (c *Client) waitForOthers(ctx context.Context, id core.ConversationID, everywhere bool) error {
	if ctx.Value(sendingKey{c, id}) != nil || c.observers.busy() {
		return nil
	}
	for {
		w, elsewhere, err := c.committer(ctx, id)
		if err != nil || w == nil && (elsewhere <= 0 || !everywhere) {
			return err
		}
		if w == nil {
			if err := wait(ctx, min(elsewhere, 20*time.Millisecond)); err != nil {
				return err
			}
			continue
		}
		select {
		case <-w.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
