// SPDX-License-Identifier: Apache-2.0

package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// Whoever delivers a text need not be who waits for it: it may be another goroutine or
// another process. So an item says until when its sender asks what becomes of it, and
// what will never arrive leaves a refusal behind, durable with the end of the item. What
// is neither in the outbox nor refused was accepted.

// asking is for how long a sender asks. Clocks differ: a refusal is there for twice as long.
const asking = 30 * time.Minute

// maxReason bounds what is kept of the service's words.
const maxReason = 1 << 10

// A refusal lies under the key of a text.
type refusal struct {
	until  time.Time // nobody asks after this
	reason string
}

func (r refusal) encode() []byte { return newEncoder().u64(unixMilli(r.until)).bytes([]byte(r.reason)) }

func decodeRefusal(value []byte) (r refusal, err error) {
	err = decodeRecord("a refusal", value, func(d *decoder) {
		r.until, r.reason = time.UnixMilli(int64(d.u64())), string(d.bytes())
	})
	return r, err
}

var refusals = at(tableRefused, "")

// lost is for an item that is never to be sent: it returns what tells of it, and keeps a
// refusal for a sender who asks.
func (s *segment) lost(id core.ConversationID, o outgoing, reason string) Event {
	if time.Now().Before(o.asked) {
		s.put(refusals, o.key[:], refusal{o.asked, reason[:min(len(reason), maxReason)]}.encode())
	}
	return o.lost(id, reason)
}

// Deliver is [Conversation.Send] in a transaction of its own, and tells what becomes of
// the text, whichever goroutine or process delivers it. nil: the service has accepted it.
// [RefusedError]: it will never arrive. After any other error the text is kept if the key
// is not zero: it is sent later, or [Undelivered] tells why not; if the key is zero it was
// not sent, or, with core.ErrUnknownOutcome, nobody knows. Where commits of others keep
// overtaking the text, they are taken and it is tried again, a few times.
func (c *Client) Deliver(ctx context.Context, id core.ConversationID, data, authenticatedData []byte) (IdempotencyKey, error) {
	var o outgoing
	var item []byte
	words := outgoing{data: data, aad: authenticatedData, asked: time.UnixMilli(time.Now().Add(2 * asking).UnixMilli())} // by the clock on the wall: we may sleep
	err := c.Transaction(ctx, func(ctx context.Context, tx *Transaction) error {
		conversation, err := tx.Conversation(ctx, id)
		if err != nil {
			return err
		}
		item, o, err = conversation.send(ctx, words)
		return err
	})
	if err != nil {
		return IdempotencyKey{}, err
	}
	for try := 1; ; try++ {
		settled := c.Settle(ctx, id)
		waits, err := c.waits(ctx, id, item, o)
		switch {
		case !waits && err != nil:
			return IdempotencyKey{}, err
		case !waits:
			return o.key, nil
		}
		err = cmp.Or(err, settled, fmt.Errorf("message %v waits: %w", o.key, core.ErrUnavailable))
		if !errors.Is(err, core.ErrUnavailable) || try == maxTries/2 || c.transport().Drain(c.outsideContext(ctx), id) != nil {
			return o.key, err
		}
	}
}

// waits says whether a text is in the outbox. If it is not, an error says that it was not
// accepted, or that it is too late to tell; its refusal is heard by that.
func (c *Client) waits(ctx context.Context, id core.ConversationID, item []byte, o outgoing) (bool, error) {
	answers, err := newSegment(c.store).read(ctx, one(ofConversation(tableOutbox, id), item), one(refusals, o.key[:]))
	if err != nil {
		return true, err
	}
	if len(answers[0]) > 0 {
		is, err := decodeOutgoing(answers[0][0].Value)
		if err != nil || is.key == o.key { // else the conversation was made again
			return true, err
		}
	}
	if len(answers[1]) == 0 {
		if time.Now().After(o.asked.Add(-asking)) {
			return false, fmt.Errorf("message %v waits no longer, and too late for its refusal: %w", o.key, core.ErrUnknownOutcome)
		}
		return false, nil
	}
	r, err := decodeRefusal(answers[1][0].Value)
	if err != nil {
		return true, err
	}
	if err := c.heard(ctx, o.key); err != nil {
		c.log.Debug("a refusal that was heard stays", "error", err)
	}
	return false, &RefusedError{Reason: r.reason}
}

// heard removes a refusal, and those that nobody has asked for in time.
func (c *Client) heard(ctx context.Context, key IdempotencyKey) error {
	s := newSegment(c.store)
	answers, err := s.read(ctx, query{place: refusals})
	if err != nil {
		return err
	}
	for _, r := range answers[0] {
		old, err := decodeRefusal(r.Value)
		if err != nil {
			return err
		}
		if IdempotencyKey(r.Key) == key || time.Now().After(old.until) {
			s.del(refusals, r.Key)
		}
	}
	_, err = s.apply(ctx)
	return err
}
