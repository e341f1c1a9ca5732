// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/proteus"
)

// A Transaction is a sequence of segments, each durable whole or not at all; see
// the package comment. It may be used by several goroutines, one operation at a
// time. After Finish or Abort every method is [ErrInvalidTransaction].
type Transaction struct {
	client   *Client
	gate     chan struct{} // holds whoever is in an operation
	outside  atomic.Bool   // the operation waits for the delivery service
	finished bool
	broken   error // an operation failed half way: nothing may come of the segment

	segment *segment
	proteus *proteus.IdentityKeyPair       // if it was asked for
	signals []Event                        // of what is not durable, told at the end
	deliver []core.ConversationID          // outboxes to look at once this is durable
	crossed bool                           // a boundary: an abort does not undo everything
	owes    []core.ConversationID          // outboxes that others have left to us
	blocked []core.ConversationID          // outboxes to deliver before the next try
	ahead   map[core.ConversationID]uint64 // what to read before the next try: see farAhead
}

// insideKey marks the context of a transaction's callback with its client.
type insideKey struct{ client *Client }

// outsideContext is the context for a Transport, which may start transactions.
func (c *Client) outsideContext(ctx context.Context) context.Context {
	return context.WithValue(ctx, insideKey{c}, false)
}

// Begin starts a transaction; see [Client.Transaction], which is harder to get
// wrong. A context within a transaction of this client is ErrNestedTransaction.
func (c *Client) Begin(ctx context.Context) (*Transaction, error) {
	if inside, _ := ctx.Value(insideKey{c}).(bool); inside {
		return nil, ErrNestedTransaction
	}
	return c.begin(ctx)
}

func (c *Client) begin(ctx context.Context) (*Transaction, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := c.open(); err != nil {
		return nil, err
	}
	t := &Transaction{client: c, gate: make(chan struct{}, 1), ahead: map[core.ConversationID]uint64{}}
	t.segment = newSegment(c.store)
	return t, nil
}

// maxTries bounds how often something is tried again, a commit for example that others
// have overtaken.
const maxTries = 8

// maxRuns bounds how often a callback is run over conflicts. Several processes that want
// the same conversation all the time get it by turns only on average.
const maxRuns = 50

// Transaction runs f and finishes, or aborts if f returns an error, panics or ends
// its goroutine. On a conflict with another transaction it runs f again, unless f
// crossed a boundary; so f must not have effects of its own outside. The context
// that f gets is the one to use within.
//
// Where the store has lost an answer, it waits until the store gives one or the context
// ends. To undo what was begun may take some seconds more.
func (c *Client) Transaction(ctx context.Context, f func(ctx context.Context, tx *Transaction) error) error {
	if inside, _ := ctx.Value(insideKey{c}).(bool); inside {
		return ErrNestedTransaction
	}
	return c.transaction(ctx, f)
}

func (c *Client) transaction(ctx context.Context, f func(context.Context, *Transaction) error) error {
	for try := 1; ; try++ {
		tx, err := c.once(ctx, f)
		if tx == nil || tx.crossed || try == maxRuns || !errors.Is(err, core.ErrConflict) {
			return err
		}
		for _, id := range tx.blocked {
			if err := c.Settle(ctx, id); err != nil {
				return err
			}
		}
		for id, epoch := range tx.ahead {
			if err := c.readUp(c.outsideContext(ctx), id, epoch); err != nil {
				return err
			}
		}
		if err := c.pause(ctx, try); err != nil {
			return err
		}
	}
}

func (c *Client) once(ctx context.Context, f func(context.Context, *Transaction) error) (tx *Transaction, err error) {
	if tx, err = c.begin(ctx); err != nil {
		return nil, err
	}
	returned := false
	defer func() {
		if !returned { // a panic goes on its way, and so does Goexit
			_ = tx.abort(ctx)
		}
	}()
	err = f(context.WithValue(ctx, insideKey{c}, true), tx)
	if err != nil {
		returned = true
		if aborted := tx.abort(ctx); aborted != nil && !errors.Is(aborted, ErrInvalidTransaction) {
			err = errors.Join(err, aborted)
		}
		return tx, err
	}
	err = tx.Finish(ctx)
	returned = true
	if errors.Is(err, ErrInvalidTransaction) {
		err = nil // f has done it
	}
	return tx, err
}

// pause waits before another try.
func (c *Client) pause(ctx context.Context, try int) error { return wait(ctx, c.cfg.Backoff(try)) }

// backoff is a little longer each time; not for long, or those who have waited long would
// stand behind those who have just come.
func backoff(try int) time.Duration {
	limit := time.Millisecond << min(try, 6)
	return limit/2 + rand.N(limit/2)
}

// enter begins an operation; leave ends it.
func (t *Transaction) enter(ctx context.Context) (leave func(), err error) {
	if leave, err = t.lock(ctx); err != nil {
		return nil, err
	}
	if err := errors.Join(ctx.Err(), t.broken); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

// lock waits for the operation under way.
func (t *Transaction) lock(ctx context.Context) (leave func(), err error) {
	select {
	case t.gate <- struct{}{}:
	default:
		if t.outside.Load() {
			return nil, ErrNestedTransaction
		}
		select {
		case t.gate <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	leave = func() { <-t.gate }
	if t.finished {
		leave()
		return nil, ErrInvalidTransaction
	}
	return leave, nil
}

// do runs an operation. If it fails after it wrote something, the segment is of no
// use any more and can only be aborted.
func (t *Transaction) do(ctx context.Context, f func() error) (err error) {
	leave, err := t.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	defer t.whole(&err)()
	return f()
}

// in is do for an operation with a result.
func in[T any](ctx context.Context, t *Transaction, f func() (T, error)) (result T, err error) {
	err = t.do(ctx, func() error { result, err = f(); return err })
	return result, err
}

// whole notes where an operation begins; the result, at its end, breaks the
// transaction if the operation failed after it wrote something.
func (t *Transaction) whole(err *error) func() {
	s, steps := t.segment, t.segment.steps
	return func() {
		if *err != nil && t.segment == s && s.steps != steps {
			t.broken = fmt.Errorf("the transaction failed half way through an operation: %w", *err)
		}
	}
}

// Finish makes the open segment durable and ends the transaction, whatever comes
// of it: after an error the segment is undone. Then it tries once to deliver what
// was sent; [Client.Settle] tries again.
func (t *Transaction) Finish(ctx context.Context) error {
	if err := t.finish(ctx); err != nil {
		t.send(ctx, t.owes)
		return err
	}
	for _, id := range t.owes {
		t.afterwards(id)
	}
	t.send(ctx, t.deliver)
	return nil
}

// send tries once to deliver what is in some outboxes.
func (t *Transaction) send(ctx context.Context, outboxes []core.ConversationID) {
	for _, id := range outboxes {
		if err := t.client.deliver(ctx, id, false); err != nil {
			t.client.log.Debug("outbox waits", "conversation", id, "error", err)
		}
	}
}

func (t *Transaction) finish(ctx context.Context) error {
	leave, err := t.lock(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	defer leave() // an observer or a store may panic: then it is aborted
	if err = errors.Join(ctx.Err(), t.broken); err == nil {
		if t.unchanged() && !t.crossed {
			t.client.log.Debug("a transaction has changed nothing")
		}
		err = t.close(ctx)
	}
	if err != nil {
		err = errors.Join(err, t.discard(ctx))
	}
	t.end(ctx)
	return err
}

// Abort undoes the open segment and ends the transaction. What earlier segments
// made durable stays. An error says that the record of burnt generations could not
// be written: the conversation concerned stays closed until it is.
func (t *Transaction) Abort(ctx context.Context) error { return t.abort(ctx) }

func (t *Transaction) abort(ctx context.Context) error {
	leave, err := t.lock(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	defer leave()
	err = t.discard(ctx)
	t.end(ctx)
	if len(t.owes) > 0 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		t.send(ctx, t.owes)
	}
	return err
}

func (t *Transaction) end(ctx context.Context) {
	t.finished = true
	if t.proteus != nil {
		t.proteus.Wipe()
	}
	t.segment = newSegment(t.client.store)
	t.client.done()
	t.client.observe(t.signals...)
	t.client.tell(ctx)
}

// unchanged says that the open segment did nothing yet.
func (t *Transaction) unchanged() bool {
	for _, h := range t.segment.held {
		if h.changed() {
			return false
		}
	}
	return t.segment.empty()
}

// close makes the open segment durable and lets go of everything; a new one is
// open then. After an error the segment is still there, to be discarded.
func (t *Transaction) close(ctx context.Context) error {
	for _, p := range t.segment.taken {
		h := t.segment.held[p]
		if h.changed() {
			h.write(t.segment)
		}
	}
	if t.segment.empty() {
		t.release(nil)
		return nil
	}
	versions, err := t.segment.apply(ctx)
	if err != nil {
		return err
	}
	s := t.segment
	t.client.reach(s.ends)
	t.client.observe(s.events...) // told in their order, when nothing is held
	t.release(versions)
	for _, log := range s.notes {
		log(ctx)
	}
	t.client.forgetKeys(ctx, s.dropped)
	t.client.tell(ctx)
	return nil
}

// release publishes the values of a durable segment and gives the locks back.
func (t *Transaction) release(versions versions) {
	for _, h := range t.segment.held {
		h.landed(t.client, versions)
		h.release()
	}
	t.segment = newSegment(t.client.store)
}

// undoTime is what an abort may take: it must not depend on a context that is
// cancelled already.
const undoTime = 10 * time.Second

// discard undoes the open segment.
func (t *Transaction) discard(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	var errs []error
	for p, h := range t.segment.held {
		if raises := h.undone(t.client); len(raises) > 0 {
			if err := t.client.burn(ctx, p, raises); err != nil {
				errs = append(errs, fmt.Errorf("burnt generations: %w", err))
			}
		}
		h.release()
	}
	for _, id := range t.segment.keys {
		if err := t.client.sweepKey(ctx, id); err != nil {
			t.client.log.Warn("a key that nothing names stays until the next start", "error", err)
		}
	}
	t.segment = newSegment(t.client.store)
	return errors.Join(errs...)
}
