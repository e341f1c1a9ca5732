// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/seal"
)

// A delivery sends what an outbox holds. Nothing else is held meanwhile: removing
// an item expects the item and the lease, no more.
type delivery struct {
	c       *Client
	id      core.ConversationID
	full    bool   // wait for another sender, and drain if we are behind
	upTo    uint64 // the sequence number of what is not to be sent
	drained bool
	lease   leaseRecord
}

// sendingKey marks the context of a delivery: its Drain may lead to an application
// that wants a full one.
type sendingKey struct {
	client *Client
	id     core.ConversationID
}

// anyConversation stands for some conversation's outbox.
const anyConversation core.ConversationID = ""

// maxPasses bounds how often one delivery starts over.
const maxPasses = 1000

// pageOfOutbox is how many items are read at a time.
const pageOfOutbox = 16

// deliver sends what waits in an outbox, in order, until it is empty: then nil.
// What cannot be sent now is core.ErrUnavailable and stays. Unless it is to be
// full, it leaves the work to whoever is at it already, and never waits: it may be
// called, through a Drain, by that very one.
func (c *Client) deliver(ctx context.Context, id core.ConversationID, full bool) error {
	return c.deliverUpTo(ctx, id, full, math.MaxUint64)
}

// deliverUpTo is deliver for what came before a sequence number. Others may have left to
// us what came behind it: the caller looks at the outbox again.
func (c *Client) deliverUpTo(ctx context.Context, id core.ConversationID, full bool, upTo uint64) error {
	if !c.online() {
		return ErrNoTransport
	}
	if full && ctx.Value(sendingKey{c, id}) != nil {
		return fmt.Errorf("the outbox is being sent by whoever asks: %w", core.ErrUnavailable)
	}
	for {
		c.moreToSend.Store(id, true) // before the try: who has the lock looks after giving it back
		var release func()
		if full {
			var err error
			if release, err = c.locks.acquire(ctx, ofConversation(tableOutbox, id)); err != nil {
				return err
			}
		} else if release = c.locks.try(ofConversation(tableOutbox, id)); release == nil {
			return nil
		}
		c.moreToSend.Delete(id)
		err := c.deliverLocked(ctx, id, full, upTo, release)
		c.tell(ctx)
		if _, more := c.moreToSend.Load(id); err != nil || !more || upTo != math.MaxUint64 {
			return err
		}
	}
}

func (c *Client) deliverLocked(ctx context.Context, id core.ConversationID, full bool, upTo uint64, release func()) error {
	defer release() // a transport or an observer may panic
	d := &delivery{c: c, id: id, full: full, upTo: upTo}
	ctx = context.WithValue(c.outsideContext(ctx), sendingKey{c, id}, true)
	ctx = context.WithValue(ctx, sendingKey{c, anyConversation}, true)
	for range maxPasses {
		done, err := d.pass(ctx)
		if errors.Is(err, core.ErrConflict) {
			if err = d.c.pause(ctx, 1); err == nil {
				continue
			}
		}
		if done || err != nil {
			return err
		}
	}
	return fmt.Errorf("the outbox does not become empty: %w", core.ErrUnavailable)
}

// pass sends a page of items. It is done when it finds none.
func (d *delivery) pass(ctx context.Context) (done bool, err error) {
	answers, err := newSegment(d.c.store).read(ctx,
		one(ofConversation(tableConversation, d.id), theOnly),
		one(ofConversation(tableLease, d.id), theOnly),
		query{place: ofConversation(tableOutbox, d.id), limit: pageOfOutbox})
	if err != nil {
		return false, err
	}
	if d.lease, err = decodeLease(answers[1]); err != nil {
		return false, err
	}
	var h head
	if len(answers[0]) > 0 {
		if h, err = d.c.decodeHead(answers[0][0].Value); err != nil {
			return false, err
		}
	}
	if h.lost { // what lies there must not leave
		return true, nil
	}
	items := answers[2]
	if i := slices.IndexFunc(items, func(r seal.Record) bool { return sequenceOf(r.Key) >= d.upTo }); i >= 0 {
		items = items[:i]
	}
	if len(items) == 0 {
		if d.mine() {
			return true, d.giveBack(ctx)
		}
		return true, nil
	}
	if !d.mine() && !d.lease.free() {
		if !d.full {
			return true, nil // the other one sends it
		}
		return false, wait(ctx, min(time.Until(d.lease.expires), 50*time.Millisecond))
	}
	if err := d.renew(ctx); err != nil {
		return false, err
	}
	for i, r := range items {
		o, err := decodeOutgoing(r.Value)
		if err != nil {
			return false, err
		}
		last := i == len(items)-1 && len(answers[2]) < pageOfOutbox
		again, done, err := d.item(ctx, h, r, o, last)
		if errors.Is(err, mls.ErrPendingProposals) {
			again, done, err = d.overtake(ctx, h, err)
		}
		if done || err != nil || again {
			return done, err
		}
		if !last { // else the lease is given back
			if err := d.renew(ctx); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *delivery) mine() bool { return d.lease.owner == d.c.process && !d.lease.free() }

// renew takes the lease, or makes it longer when half of it is over.
func (d *delivery) renew(ctx context.Context) error {
	if d.mine() && time.Until(d.lease.expires) > d.c.cfg.Lease/2 {
		return nil
	}
	p := ofConversation(tableLease, d.id)
	l := d.c.newLease()
	s := newSegment(d.c.store)
	s.expect(p, theOnly, d.lease.version)
	s.put(p, theOnly, l.encode())
	versions, err := s.apply(ctx)
	if err != nil {
		return err
	}
	l.version = versions.head(p)
	d.lease = l
	return nil
}

func (d *delivery) giveBack(ctx context.Context) error {
	p := ofConversation(tableLease, d.id)
	s := newSegment(d.c.store)
	s.expect(p, theOnly, d.lease.version)
	s.del(p, theOnly)
	_, err := s.apply(ctx)
	return err
}

// send sends one item. again: the item is another now, or has to wait for what a
// drain has changed.
func (d *delivery) send(ctx context.Context, h head, r seal.Record, o outgoing, last bool) (again bool, err error) {
	switch {
	case h.active == 0:
		return false, d.lose(ctx, r, o, last, "we are not in the conversation")
	case o.outOfDate(&h, d.c.cfg.MaxOutboxLag):
		return true, d.c.encryptAgain(ctx, d.id, r.Key)
	}
	outcome, err := d.c.transport().SendMessage(ctx, d.id, o.key.String(), o.message)
	if err != nil {
		return false, fmt.Errorf("message %v waits: %w: %w", o.key, core.ErrUnavailable, err)
	}
	switch outcome.Kind {
	case Accepted:
		return false, d.remove(ctx, newSegment(d.c.store), r, last, nil)
	case Refused:
		if o.kind == outProposal {
			return true, d.c.withdraw(ctx, d.id, r, o, outcome.Reason)
		}
		return false, d.lose(ctx, r, o, last, outcome.Reason)
	case Stale, Competing:
		return true, d.stale(ctx, r, o)
	}
	return false, fmt.Errorf("message %v: outcome %d: %w", o.key, outcome.Kind, core.ErrUnavailable)
}

// item is the turn of one item. again: look at the outbox anew. done: somebody else is
// at it.
func (d *delivery) item(ctx context.Context, h head, r seal.Record, o outgoing, last bool) (again, done bool, err error) {
	if o.kind == outCommit {
		return d.commit(ctx, h, r, o, last)
	}
	again, err = d.send(ctx, h, r, o, last)
	return again, false, err
}

// overtake is for a text that cannot be encrypted while proposals wait: a proposal
// or a commit behind it, which can end that, goes first.
func (d *delivery) overtake(ctx context.Context, h head, blocked error) (again, done bool, err error) {
	answers, err := newSegment(d.c.store).read(ctx, query{place: ofConversation(tableOutbox, d.id)})
	if err != nil {
		return false, false, err
	}
	for _, r := range answers[0] {
		if outboxKind(r.Key) == outText {
			continue
		}
		o, err := decodeOutgoing(r.Value)
		if err != nil {
			return false, false, err
		}
		_, done, err = d.item(ctx, h, r, o, false)
		return true, done, err
	}
	return false, false, blocked
}

// commit is the turn of a staged commit, or of one that comes back. See item.
func (d *delivery) commit(ctx context.Context, h head, r seal.Record, o outgoing, last bool) (again, done bool, err error) {
	in, err := decodeIntention(o.data)
	if err != nil {
		return false, false, err
	}
	if d.c.awaited(in.key) {
		return false, true, d.giveBack(ctx)
	}
	if left := d.c.leftTo(in); left > 0 {
		if !d.full {
			return false, true, d.giveBack(ctx)
		}
		return true, false, wait(ctx, min(left, 50*time.Millisecond))
	}
	switch {
	case h.active == 0:
		return false, false, d.lose(ctx, r, o, last, "we are not in the conversation")
	case h.join.exists():
		return true, false, d.c.resolve(ctx, d.id, joinKind, h.join.message)
	case h.pending.exists():
		if w, _, err := d.c.committer(ctx, d.id); w != nil || err != nil {
			if w != nil {
				w.more.Store(true)
			}
			return false, true, errors.Join(err, d.giveBack(ctx))
		}
		return true, false, d.c.resolve(ctx, d.id, commitKind, h.pending.message)
	}
	unfit, err := d.c.commitStaged(ctx, d.id, r.Key, in)
	if unfit {
		return false, false, d.remove(ctx, newSegment(d.c.store), r, last, CommitFailed{Conversation: d.id, Key: in.key, Err: err})
	}
	return true, false, err
}

// withdraw is for a proposal that the service refused: no member but us has it, so no
// commit of ours may cover it. One that does was never submitted, because it goes behind
// the proposal; it is made again.
func (c *Client) withdraw(ctx context.Context, id core.ConversationID, item seal.Record, o outgoing, reason string) error {
	return c.transaction(ctx, func(ctx context.Context, t *Transaction) error {
		h, err := t.hold(ctx, id)
		if err != nil {
			return err
		}
		p := ofConversation(tableOutbox, id)
		if r, _, err := t.segment.getExpected(ctx, p, item.Key); err != nil || r.Version != item.Version {
			return err // the epoch ended
		}
		t.segment.del(p, item.Key)
		t.segment.events = append(t.segment.events, o.lost(id, reason))
		if h.group == nil {
			return nil
		}
		if h.head.pending.exists() && h.head.pending.submissions == 0 {
			if err := t.overtaken(ctx, h); err != nil {
				return err
			}
			t.noPending(h)
			t.write(h, h.head.active, h.group.DropPending())
		}
		g, ws, err := h.group.DropProposal(ctx, t.own(ctx, h), o.ref)
		if errors.Is(err, core.ErrNotFound) { // the application was faster
			return nil
		}
		if err != nil {
			return t.explain(ctx, h, err)
		}
		t.advance(h, g, ws)
		return nil
	})
}

// stale is for a message whose epoch is over for the service: we may not know yet. The
// commit that ended it takes a proposal out of the outbox.
func (d *delivery) stale(ctx context.Context, r seal.Record, o outgoing) error {
	h, err := d.c.readHead(ctx, d.id)
	if err != nil {
		return err
	}
	switch {
	case h.active == 0:
		return nil // the next pass sees that
	case h.epoch > o.epoch:
		return d.c.encryptAgain(ctx, d.id, r.Key)
	case !d.full || d.drained:
		return fmt.Errorf("message %v waits for the commit that ended its epoch: %w", o.key, core.ErrUnavailable)
	}
	d.drained = true
	if err := d.c.transport().Drain(ctx, d.id); err != nil {
		return fmt.Errorf("message %v waits: %w: %w", o.key, core.ErrUnavailable, err)
	}
	return nil
}

// lose takes an item out that is never to be sent.
func (d *delivery) lose(ctx context.Context, r seal.Record, o outgoing, last bool, reason string) error {
	s := newSegment(d.c.store)
	event := s.lost(d.id, o, reason)
	return d.remove(ctx, s, r, last, event)
}

// remove takes a finished item out with a segment, and gives the lease back with the last
// one.
func (d *delivery) remove(ctx context.Context, s *segment, r seal.Record, last bool, event Event) error {
	outbox, lease := ofConversation(tableOutbox, d.id), ofConversation(tableLease, d.id)
	s.expect(outbox, r.Key, r.Version)
	s.expect(lease, theOnly, d.lease.version)
	s.del(outbox, r.Key)
	if last {
		s.del(lease, theOnly)
	}
	if _, err := s.apply(ctx); err != nil {
		return err
	}
	if event != nil {
		d.c.observe(event)
	}
	return nil
}
