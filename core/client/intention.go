// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// An intention is what a commit of ours is for, and outlives the commit: where
// another member's commit wins, the next is made from it. It lies in the outbox
// until its turn comes, and beside the pending commit while there is one. Whoever
// waits for the outcome is told by a result, anybody else by an event.
type intention struct {
	key     IdempotencyKey
	changes Changes
	tries   uint32 // commits made for it that others have overtaken
	// The client that waits for the outcome. Others leave its commit, and an intention
	// that came back to the outbox, alone for as long as the owner may be at it.
	owner [16]byte
	until time.Time
}

func (in intention) encode() []byte {
	e := newEncoder().raw(in.key[:]).u32(in.tries).raw(in.owner[:])
	e = e.u64(unixMilli(in.until))
	c := in.changes
	ids := make([][]byte, len(c.Remove))
	for i, id := range c.Remove {
		ids[i] = []byte(id)
	}
	for _, list := range [][][]byte{c.Add, ids, c.PSKs} {
		e = e.u32(uint32(len(list)))
		for _, v := range list {
			e = e.bytes(v)
		}
	}
	e = e.flag(c.Update).bytes(c.AuthenticatedData).u64(uint64(c.Rotate)).u8(uint8(c.History))
	e = e.flag(c.Extensions != nil)
	if c.Extensions != nil {
		e = e.u32(uint32(len(*c.Extensions)))
		for _, x := range *c.Extensions {
			e = e.u16(uint16(x.Type)).bytes(x.Data)
		}
	}
	return e
}

func unixMilli(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) }

func decodeIntention(value []byte) (in intention, err error) {
	err = decodeRecord("an intention", value, func(d *decoder) {
		d.raw(in.key[:])
		in.tries = d.u32()
		d.raw(in.owner[:])
		in.until = time.UnixMilli(int64(d.u64()))
		c := &in.changes
		var ids [][]byte
		for _, list := range []*[][]byte{&c.Add, &ids, &c.PSKs} {
			for n := d.u32(); n > 0 && !d.bad; n-- {
				*list = append(*list, d.bytes())
			}
		}
		for _, id := range ids {
			c.Remove = append(c.Remove, core.ClientID(id))
		}
		c.Update, c.AuthenticatedData, c.Rotate = d.flag(), d.bytes(), CredentialRef(d.u64())
		c.History = HistoryChange(d.u8())
		if d.flag() {
			c.Extensions = new([]mls.Extension)
			for n := d.u32(); n > 0 && !d.bad; n-- {
				*c.Extensions = append(*c.Extensions, mls.Extension{Type: mls.ExtensionType(d.u16()), Data: d.bytes()})
			}
		}
	})
	return in, err
}

// leftTo is how long to leave an intention to the process that has it; not more than 0:
// it is ours, nobody's, or its owner may be dead.
func (c *Client) leftTo(in intention) time.Duration {
	if in.owner == c.process {
		return 0
	}
	return time.Until(in.until)
}

// ended tells of an intention that came to its end: the caller who waits for it, by
// outcome, or else the observers.
func (t *Transaction) ended(id core.ConversationID, key IdempotencyKey, result *CommitResult, err error) {
	switch {
	case t.client.awaited(key):
		t.segment.ends = append(t.segment.ends, end{key, result, err})
	case err != nil:
		t.segment.events = append(t.segment.events, CommitFailed{Conversation: id, Key: key, Err: err})
	default:
		t.segment.events = append(t.segment.events, Committed{Conversation: id, Key: key, Result: result})
	}
}

// intend keeps what the commit that is about to wait is for.
func (t *Transaction) intend(h *held, in intention) {
	t.segment.put(ofConversation(tableIntention, h.id), theOnly, in.encode())
}

// intended takes away what the commit that waits is for.
func (t *Transaction) intended(ctx context.Context, h *held) (intention, error) {
	p := ofConversation(tableIntention, h.id)
	r, found, err := t.segment.get(ctx, p, theOnly)
	if err != nil {
		return intention{}, err
	}
	if !found {
		return intention{}, fmt.Errorf("what a pending commit is for: %w", core.ErrDamaged)
	}
	t.segment.del(p, theOnly)
	return decodeIntention(r.Value)
}

// overtaken is for our pending commit that another has beaten: what it was for goes
// back to the outbox, before all other intentions and behind the proposals that the
// next commit will cover.
func (t *Transaction) overtaken(ctx context.Context, h *held) error {
	in, err := t.intended(ctx, h)
	if err != nil {
		return err
	}
	in.tries++
	if !h.group.Active() {
		t.ended(h.id, in.key, nil, mls.ErrInactive)
		return nil
	}
	if t.client.cfg.NoRenewal || in.tries >= maxTries {
		t.ended(h.id, in.key, nil, ErrCommitLost)
		return nil
	}
	return t.requeue(ctx, h, new(t.client.prolonged(in)))
}

// prolonged gives the owner of an intention, if it has one, the time of a lease.
func (c *Client) prolonged(in intention) intention {
	if in.owner != ([16]byte{}) {
		in.until = time.Now().Add(c.cfg.Lease)
	}
	return in
}

// requeue moves all intentions to the end of the outbox, in their order, behind one
// that comes back.
func (t *Transaction) requeue(ctx context.Context, h *held, first *intention) error {
	list, _, err := t.takeOut(ctx, h, func(o outgoing) bool { return o.kind == outCommit })
	if err != nil {
		return err
	}
	if first != nil {
		list = slices.Insert(list, 0, outgoing{key: first.key, kind: outCommit, data: first.encode()})
	}
	for _, o := range list {
		if err := t.enqueue(ctx, h, o); err != nil {
			return err
		}
	}
	return nil
}

// queued finds an intention in the outbox.
func (t *Transaction) queued(ctx context.Context, id core.ConversationID, key IdempotencyKey) (at []byte, found bool, err error) {
	answers, err := t.segment.read(ctx, query{place: ofConversation(tableOutbox, id)})
	if err != nil {
		return nil, false, err
	}
	for _, r := range answers[0] {
		if outboxKind(r.Key) != outCommit {
			continue
		}
		o, err := decodeOutgoing(r.Value)
		if err != nil {
			return nil, false, err
		}
		if o.key == key {
			return r.Key, true, nil
		}
	}
	return nil, false, nil
}

// StageCommit puts a commit of the changes into the outbox: durable with the
// transaction and undone with it. Its turn comes after the transaction, behind what
// was sent before: then the commit is made, of the changes and of all proposals that
// wait, submitted and merged; again where another member's commit wins. [Committed]
// or [CommitFailed] tells the outcome under the key that is returned. Messages that
// wait for the new epoch are not replayed with it, see [Conversation.Replay].
//
// Proposals are to be made before the commit is staged, or when it is through.
func (c *Conversation) StageCommit(ctx context.Context, changes Changes) (key IdempotencyKey, err error) {
	err = c.with(ctx, func(h *held) error {
		if err := c.tx.client.canCommit(); err != nil {
			return err
		}
		members, err := h.group.Members(ctx, c.tx.own(ctx, h))
		if err != nil {
			return err
		}
		// What is wrong with the changes now is an error now.
		if _, err := c.tx.params(ctx, h, members, changes, false); err != nil {
			return err
		}
		if changes.Rotate != 0 {
			if err := c.tx.use(ctx, h, changes.Rotate); err != nil {
				return err
			}
		}
		key = newIdempotencyKey()
		in := intention{key: key, changes: changes}
		return c.tx.enqueue(ctx, h, outgoing{key: key, kind: outCommit, data: in.encode()})
	})
	return key, err
}

// DiscardStaged takes a staged commit out of the outbox; there is no event. It is
// core.ErrNotFound if it is not there: because it is through, or because a commit was
// made for it and waits for its answer, see [Conversation.DiscardPendingCommit].
func (c *Conversation) DiscardStaged(ctx context.Context, key IdempotencyKey) error {
	return c.with(ctx, func(h *held) error {
		at, found, err := c.tx.queued(ctx, h.id, key)
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("staged commit: %w", core.ErrNotFound)
		}
		c.tx.segment.del(ofConversation(tableOutbox, h.id), at)
		h.dirty = true
		return nil
	})
}

// commitStaged is the turn of an intention in the outbox: one try, after which the
// delivery looks again. unfit: no commit can be made of it, for good.
func (c *Client) commitStaged(ctx context.Context, id core.ConversationID, key []byte, in intention) (unfit bool, err error) {
	t, err := c.begin(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = t.abort(ctx) }() // nothing is left to undo if it went well
	leave, err := t.enter(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	h, err := t.hold(ctx, id)
	if err != nil {
		return false, err
	}
	if h.group == nil || h.head.pending.exists() || h.head.join.exists() {
		return false, nil // the delivery sees that
	}
	if epoch := h.head.epoch; c.farAhead(h) {
		t.release(nil)
		return false, t.away(ctx, func(ctx context.Context) error { return c.readUp(ctx, id, epoch) })
	}
	p := ofConversation(tableOutbox, id)
	if _, found, err := t.segment.getExpected(ctx, p, key); err != nil || !found {
		return false, err
	}
	t.segment.del(p, key)
	h.dirty = true
	in.owner, in.until = [16]byte{}, time.Time{}
	_, err = t.commitHeld(ctx, h, in, true)
	var refused *RefusedError
	if errors.Is(err, ErrCommitLost) || errors.As(err, &refused) {
		return false, nil // it is in the outbox again, or its end is told
	}
	return !t.crossed && (Blames(err) || errors.Is(err, ErrKeyGone)), err
}
