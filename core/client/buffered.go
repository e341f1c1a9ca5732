// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/conclave-mls/conclave/core/mls"
)

// What cannot be processed yet is kept, up to these bounds for a conversation: the
// sender decides what it is, so it must not cost more.
const (
	maxBuffered      = 1000
	maxBufferedBytes = 8 << 20
)

// bufferedKey sorts by content type and then by arrival: application messages
// come first, because a commit ends the epoch that they are of.
func bufferedKey(t mls.ContentType, sequence uint32) []byte {
	return append([]byte{byte(t)}, be32(sequence)...)
}

// buffer keeps a message for later.
func (t *Transaction) buffer(h *held, in *incoming, reason BufferReason) (Received, error) {
	w := &h.head.waiting
	size := uint32(len(in.message))
	if w.count >= maxBuffered || w.bytes+size > maxBufferedBytes {
		return nil, fmt.Errorf("%d messages, %d bytes: %w", w.count, w.bytes, ErrBufferFull)
	}
	t.segment.put(ofConversation(tableBuffered, h.id), bufferedKey(in.content(), w.next), in.message)
	t.waits(h)
	w.count++
	w.next++
	w.bytes += size
	h.dirty = true
	t.noteBuffered(h, "message buffered", in.content(), slog.String("reason", reason.String()), slog.Uint64("epoch", in.epoch))
	return &Buffered{Reason: reason, Epoch: in.epoch}, nil
}

// bufferCommit keeps the commit that lacks proposals; a later one replaces it.
func (t *Transaction) bufferCommit(h *held, in *incoming) (Received, error) {
	if len(in.message) > maxBufferedBytes {
		return nil, ErrBufferFull
	}
	t.segment.put(ofConversation(tableBufferedCommit, h.id), theOnly, in.message)
	t.waits(h)
	h.head.waiting.commit = true
	h.dirty = true
	t.noteBuffered(h, "message buffered", in.content(), slog.String("reason", MissingProposals.String()), slog.Uint64("epoch", in.epoch))
	return &Buffered{Reason: MissingProposals, Epoch: in.epoch}, nil
}

// waits notes since when something waits; before it is counted.
func (t *Transaction) waits(h *held) {
	if !h.head.waiting.some() {
		h.head.waiting.since = unix(t.client.now())
	}
}

// emptyBuffer drops all that waits.
func (t *Transaction) emptyBuffer(h *held) {
	t.segment.del(ofConversation(tableBuffered, h.id), nil)
	t.segment.del(ofConversation(tableBufferedCommit, h.id), nil)
	if h.head.waiting.some() {
		t.note(slog.LevelDebug, h, "buffered messages dropped", slog.Int("messages", int(h.head.waiting.count)), slog.Bool("commit", h.head.waiting.commit))
	}
	h.head.waiting = buffered{}
	h.dirty = true
}

// Replay tries what was buffered for this epoch and was not tried yet: after a
// Welcome, or if the transaction that began the epoch was aborted after its
// boundary. Who does not ask gets it with the next message.
func (c *Conversation) Replay(ctx context.Context) (out []Decrypted, err error) {
	err = c.with(ctx, func(h *held) error {
		out, err = c.tx.replay(ctx, h)
		return err
	})
	return out, err
}

// replay tries what was buffered, after the epoch changed: as long as that changes
// the epoch again, and with no recursion. A message that fails is dropped with its
// error and holds up nothing; one of a later epoch stays.
func (t *Transaction) replay(ctx context.Context, h *held) (out []Decrypted, err error) {
	p := ofConversation(tableBuffered, h.id)
	for h.group != nil && h.head.waiting.ready {
		h.head.waiting.ready, h.dirty = false, true
		answers, err := t.segment.read(ctx, query{place: p})
		if err != nil {
			return nil, err
		}
		for _, r := range answers[0] {
			in, err := parseIncoming(r.Value)
			if err == nil && in.epoch > h.group.Epoch() {
				continue
			}
			var result Received
			if err == nil {
				result, err = t.process(ctx, h, in)
			}
			if err != nil && !Blames(err) {
				return nil, err
			}
			out = append(out, Decrypted{result, err})
			t.noteReplayed(h, mls.ContentType(r.Key[0]), err)
			if h.group == nil { // everything is gone
				break
			}
			t.segment.del(p, r.Key)
			h.head.waiting.count--
			h.head.waiting.bytes -= uint32(len(r.Value))
		}
	}
	return out, nil
}

// retryCommit tries the commit that lacked proposals, now that one more came. If
// it goes through, its result stands for the proposal's.
func (t *Transaction) retryCommit(ctx context.Context, h *held, proposal Received) (Received, error) {
	if !h.head.waiting.commit {
		return proposal, nil
	}
	p := ofConversation(tableBufferedCommit, h.id)
	r, found, err := t.segment.get(ctx, p, theOnly)
	if err != nil {
		return nil, err
	}
	drop := func() {
		t.segment.del(p, theOnly)
		h.head.waiting.commit, h.dirty = false, true
	}
	if !found {
		drop()
		return proposal, nil
	}
	in, err := parseIncoming(r.Value)
	if err == nil {
		var result Received
		if result, err = t.process(ctx, h, in); err == nil {
			if _, still := result.(*Buffered); still {
				return proposal, nil
			}
			t.noteReplayed(h, mls.ContentCommit, nil)
			return result, nil // entering the epoch has dropped it
		}
	}
	if !Blames(err) {
		return nil, err
	}
	drop()
	t.noteReplayed(h, mls.ContentCommit, err)
	return attach(proposal, []Decrypted{{Err: err}}), nil
}
