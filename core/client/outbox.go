// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/seal"
)

// An IdempotencyKey names what Send accepted, for the delivery service and in events.
// It stays the same when the message is encrypted again.
type IdempotencyKey [16]byte

func newIdempotencyKey() (k IdempotencyKey) {
	_, _ = rand.Read(k[:]) // never fails, see crypto/rand
	return k
}

func (k IdempotencyKey) String() string { return hex.EncodeToString(k[:]) }

// outKind tells what lies in an outbox; it is in the key, too.
type outKind uint8

const (
	outProposal outKind = 1
	outText     outKind = 2
	outCommit   outKind = 3 // an intention, in data
)

// outgoing is an item of an outbox. Of a text the plaintext is kept until it is
// delivered, because it may have to be encrypted again.
type outgoing struct {
	key     IdempotencyKey
	kind    outKind
	epoch   uint64 // that message is of
	message []byte
	ref     mls.ProposalRef
	data    []byte
	aad     []byte

	// stamp counts encryptions. Receivers keep few keys for messages out of order, so
	// generations have to leave in order: when a text was encrypted again, those
	// behind it with a lower stamp are, too.
	stamp uint64
	asked time.Time // a text: its sender asks until then what becomes of it; zero: nobody
}

// outOfDate says that a text must not leave as it is.
func (o outgoing) outOfDate(h *head, maxLag uint64) bool {
	return o.kind == outText && (h.epoch > o.epoch+maxLag || o.stamp < h.barrier)
}

func (o outgoing) encode() []byte {
	e := newEncoder().raw(o.key[:]).u8(uint8(o.kind)).u64(o.epoch)
	e = e.bytes(o.message).bytes(o.ref).bytes(o.data).bytes(o.aad).u64(o.stamp)
	if !o.asked.IsZero() {
		e = e.u64(unixMilli(o.asked))
	}
	return e
}

func decodeOutgoing(value []byte) (o outgoing, err error) {
	err = decodeRecord("an outbox", value, func(d *decoder) {
		d.raw(o.key[:])
		o.kind, o.epoch = outKind(d.u8()), d.u64()
		o.message, o.ref, o.data, o.aad = d.bytes(), d.bytes(), d.bytes(), d.bytes()
		o.stamp = d.u64()
		if !d.s.Empty() {
			o.asked = time.UnixMilli(int64(d.u64()))
		}
	})
	return o, err
}

// outboxKey sorts by the order in which items came.
func outboxKey(sequence uint64, kind outKind) []byte { return append(be64(sequence), byte(kind)) }

func sequenceOf(key []byte) uint64 { return binary.BigEndian.Uint64(key) }

func outboxKind(key []byte) outKind { return outKind(key[len(key)-1]) }

// Send encrypts data for all members and puts it into the outbox: once the
// transaction is durable it is delivered, at least once and in order, or an
// [Undelivered] event tells why not. The authenticated data travels in clear. It is
// mls.ErrPendingProposals while proposals wait, unless the conversation's
// configuration allows it.
func (c *Conversation) Send(ctx context.Context, data, authenticatedData []byte) (IdempotencyKey, error) {
	_, o, err := c.send(ctx, outgoing{data: data, aad: authenticatedData})
	return o.key, err
}

// send is Send for what has only the words of a text, and tells under which key it is in
// the outbox.
func (c *Conversation) send(ctx context.Context, words outgoing) (item []byte, o outgoing, err error) {
	err = c.with(ctx, func(h *held) error {
		g, message, ws, err := h.group.Protect(ctx, c.tx.own(ctx, h), words.data, words.aad)
		if err != nil {
			return err
		}
		o, item = words, outboxKey(h.head.outbox, outText)
		o.key, o.kind, o.epoch, o.message = newIdempotencyKey(), outText, g.Epoch(), message
		if err := c.tx.enqueue(ctx, h, o); err != nil {
			return err
		}
		c.tx.encrypted(h, g, ws)
		return nil
	})
	return item, o, err
}

// Encrypt encrypts data for all members and leaves the delivery to the caller, who
// must not hand the ciphertext out before the transaction is durable. Send does
// all that.
func (c *Conversation) Encrypt(ctx context.Context, data, authenticatedData []byte) (message []byte, err error) {
	err = c.with(ctx, func(h *held) error {
		g, m, ws, err := h.group.Protect(ctx, c.tx.own(ctx, h), data, authenticatedData)
		if err != nil {
			return err
		}
		c.tx.encrypted(h, g, ws)
		message = m
		return nil
	})
	return message, err
}

// enqueue puts an item at the end of the outbox. If nobody is sending from it, the
// same write takes the lease for us.
func (t *Transaction) enqueue(ctx context.Context, h *held, o outgoing) error {
	if err := t.takeLease(ctx, h.id); err != nil {
		return err
	}
	h.head.stamp++
	o.stamp = h.head.stamp
	t.segment.put(ofConversation(tableOutbox, h.id), outboxKey(h.head.outbox, o.kind), o.encode())
	h.head.outbox++
	h.dirty = true
	t.afterwards(h.id)
	return nil
}

// afterwards has the outbox looked at when the transaction is durable.
func (t *Transaction) afterwards(id core.ConversationID) {
	for _, known := range t.deliver {
		if known == id {
			return
		}
	}
	t.deliver = append(t.deliver, id)
}

// outboxWaits says whether something durable waits to be sent before an intention: what
// was there before a sequence number, and everything unless it is texts. Where others send
// all the time an outbox may never be empty.
func (t *Transaction) outboxWaits(ctx context.Context, id core.ConversationID, before IdempotencyKey, sequence uint64) (bool, error) {
	p := ofConversation(tableOutbox, id)
	answers, err := newSegment(t.client.store).read(ctx, query{place: p, limit: 1}, query{place: p, keysOnly: true})
	if err != nil || len(answers[0]) == 0 {
		return false, err
	}
	first, err := decodeOutgoing(answers[0][0].Value)
	if err != nil || first.key == before {
		return false, err
	}
	return slices.ContainsFunc(answers[1], func(r seal.Record) bool {
		return outboxKind(r.Key) != outText || sequenceOf(r.Key) < sequence
	}), nil
}

// staged says whether a commit waits in the outbox for its turn.
func (t *Transaction) staged(ctx context.Context, id core.ConversationID) (bool, error) {
	answers, err := t.segment.read(ctx, query{place: ofConversation(tableOutbox, id), keysOnly: true})
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(answers[0], func(r seal.Record) bool { return outboxKind(r.Key) == outCommit }), nil
}

// enqueued says whether the open segment itself puts something of the kinds into the
// outbox.
func (t *Transaction) enqueued(id core.ConversationID, kinds ...outKind) bool {
	c := t.segment.changes[ofConversation(tableOutbox, id)]
	if c == nil {
		return false
	}
	for key := range c.puts {
		if slices.Contains(kinds, outboxKind([]byte(key))) {
			return true
		}
	}
	return false
}

// takeOut removes items from the outbox; left counts the others.
func (t *Transaction) takeOut(ctx context.Context, h *held, which func(outgoing) bool) (out []outgoing, left int, err error) {
	p := ofConversation(tableOutbox, h.id)
	answers, err := t.segment.read(ctx, query{place: p})
	if err != nil {
		return nil, 0, err
	}
	for _, r := range answers[0] {
		o, err := decodeOutgoing(r.Value)
		if err != nil {
			return nil, 0, err
		}
		if !which(o) {
			left++
			continue
		}
		if o.kind == outCommit {
			t.expectItem(p, r)
		}
		t.segment.del(p, r.Key)
		out = append(out, o)
		h.dirty = true
	}
	return out, left, nil
}

// expectItem has the write fail if somebody else finishes an item meanwhile, that is to
// stay in the outbox. What the segment itself has put has no version.
func (t *Transaction) expectItem(p place, r seal.Record) {
	if r.Version != (core.Version{}) {
		t.segment.expect(p, r.Key, r.Version)
	}
}

func (o outgoing) lost(id core.ConversationID, reason string) Event {
	switch o.kind {
	case outProposal:
		return Lapsed{Conversation: id, Key: o.key, Reason: reason}
	case outCommit:
		return CommitFailed{Conversation: id, Key: o.key, Err: fmt.Errorf("%s: %w", reason, ErrConversationNotFound)}
	}
	return Undelivered{Conversation: id, Key: o.key, Data: o.data, Reason: reason}
}

// unsentProposals is for a new epoch: it takes the proposals of the old one out. Texts
// may have to be encrypted again, which is seen to when this is durable.
func (t *Transaction) unsentProposals(ctx context.Context, h *held) ([]outgoing, error) {
	if h.head.outbox == 0 {
		return nil, nil
	}
	out, left, err := t.takeOut(ctx, h, func(o outgoing) bool { return o.kind == outProposal })
	if left > 0 {
		t.afterwards(h.id)
	}
	return out, err
}

// lapsed reports proposals that were never sent.
func (t *Transaction) lapsed(h *held, unsent []outgoing) {
	for _, o := range unsent {
		t.segment.events = append(t.segment.events, o.lost(h.id, "the epoch ended"))
	}
}

// undeliverable empties the outbox of a conversation that ends.
func (t *Transaction) undeliverable(ctx context.Context, h *held, reason string) error {
	out, _, err := t.takeOut(ctx, h, func(outgoing) bool { return true })
	for _, o := range out {
		if o.kind != outCommit || !t.client.awaited(o.key) {
			t.segment.events = append(t.segment.events, t.segment.lost(h.id, o, reason))
		}
	}
	return err
}

// encryptTexts moves all texts of the outbox to the current epoch, before proposals
// hinder that.
func (t *Transaction) encryptTexts(ctx context.Context, h *held) error {
	p := ofConversation(tableOutbox, h.id)
	answers, err := t.segment.read(ctx, query{place: p})
	if err != nil {
		return err
	}
	for _, r := range answers[0] {
		if outboxKind(r.Key) != outText {
			continue
		}
		t.expectItem(p, r)
		o, err := decodeOutgoing(r.Value)
		if err != nil {
			return err
		}
		if err := t.encryptHeld(ctx, h, r.Key, o); err != nil {
			return err
		}
	}
	return nil
}

func (t *Transaction) encryptHeld(ctx context.Context, h *held, key []byte, o outgoing) error {
	g, message, ws, err := h.group.Protect(ctx, t.own(ctx, h), o.data, o.aad)
	if err != nil {
		return err
	}
	h.head.stamp++
	o.epoch, o.message, o.stamp = g.Epoch(), message, h.head.stamp
	t.segment.put(ofConversation(tableOutbox, h.id), key, o.encode())
	t.encrypted(h, g, ws)
	return nil
}

// encryptAgain moves a text of the outbox to the current epoch, under the same key.
func (c *Client) encryptAgain(ctx context.Context, id core.ConversationID, key []byte) error {
	err := c.transaction(ctx, func(ctx context.Context, t *Transaction) error {
		h, err := t.hold(ctx, id)
		if err != nil || h.group == nil {
			return err
		}
		p := ofConversation(tableOutbox, id)
		r, found, err := t.segment.getExpected(ctx, p, key)
		if err != nil || !found {
			return err
		}
		o, err := decodeOutgoing(r.Value)
		if err != nil || o.epoch >= h.group.Epoch() && o.stamp >= h.head.barrier {
			return err
		}
		if err := t.encryptHeld(ctx, h, key, o); err != nil {
			return t.explain(ctx, h, err)
		}
		h.head.barrier = h.head.stamp
		return nil
	})
	if errors.Is(err, mls.ErrPendingProposals) {
		return errors.Join(core.ErrUnavailable, err)
	}
	return err
}
