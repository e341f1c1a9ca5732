// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A commit of ours that waits for the service's answer is in the head of its
// conversation, known by the hash of its bytes. It leaves the head by one write:
// the merge, when the service accepted it or its echo came; the processing of
// another commit; or the drop, when it was refused the first time it was ever
// submitted. Of two processes that resolve it, one writes and the other finds it
// written.

// pendingKind tells a commit of a member from a commit to join.
type pendingKind uint8

const (
	commitKind pendingKind = iota + 1
	joinKind
)

func (h *head) waits(kind pendingKind) *pendingHead {
	if kind == joinKind {
		return &h.join
	}
	return &h.pending
}

// key is the idempotency key of a commit: it names the bytes.
func (d digest) key() string { return hex.EncodeToString(d[:]) }

// standing is what became of a pending commit.
type standing uint8

const (
	waiting standing = iota + 1
	merged
	lost
)

func (h *head) standing(kind pendingKind, message digest) standing {
	switch message {
	case h.waits(kind).message:
		return waiting
	case h.merged:
		return merged
	}
	return lost
}

// standing reads what became of a pending commit.
func (c *Client) standing(ctx context.Context, id core.ConversationID, kind pendingKind, message digest) (standing, error) {
	h, err := c.readHead(ctx, id)
	if err != nil {
		return 0, err
	}
	return h.standing(kind, message), nil
}

// readHead reads the head of a conversation; an absent one is empty.
func (c *Client) readHead(ctx context.Context, id core.ConversationID) (h head, err error) {
	r, found, err := newSegment(c.store).get(ctx, ofConversation(tableConversation, id), theOnly)
	if err != nil || !found {
		return head{id: id}, err
	}
	return c.decodeHead(r.Value)
}

// maxRounds bounds how often a commit is submitted in one go.
const maxRounds = 5

// submit sends a pending commit whose submission is on record, and sees it through:
// nil and a result if we merged it, nil and none if somebody else did. Nothing is
// held. ErrCommitLost: another commit was accepted, nothing is pending.
func (c *Client) submit(ctx context.Context, id core.ConversationID, kind pendingKind, message digest, b CommitBundle) (result *CommitResult, err error) {
	defer func() { err = stillWaits(err) }()
	for round := 1; ; round++ {
		outcome, err := c.transport().SubmitCommit(ctx, id, message.key(), b)
		if err != nil {
			return nil, unknown(err)
		}
		switch outcome.Kind {
		case Accepted:
			return c.merge(ctx, id, kind, message)
		case Refused:
			refused := &RefusedError{Reason: outcome.Reason}
			dropped, err := c.drop(ctx, id, kind, message, 1, refused)
			if err != nil {
				return nil, err
			}
			if dropped {
				return nil, refused
			}
		case Competing, Stale:
			if kind == joinKind { // there is nobody yet who would see it overtaken
				dropped, err := c.drop(ctx, id, kind, message, 1, ErrCommitLost)
				if err != nil {
					return nil, err
				}
				if dropped {
					return nil, ErrCommitLost
				}
			}
		default:
			return nil, unknown(fmt.Errorf("outcome %d", outcome.Kind))
		}
		state, err := c.drain(ctx, id, kind, message)
		switch {
		case err != nil:
			return nil, err
		case state == merged:
			return nil, nil
		case state == lost:
			return nil, ErrCommitLost
		case kind == joinKind && outcome.Kind != Refused:
			return nil, c.discardJoin(ctx, id, message, ErrCommitLost)
		case outcome.Kind == Refused:
			return nil, fmt.Errorf("%w: %s", ErrPendingUnresolved, outcome.Reason)
		case round == maxRounds:
			return nil, fmt.Errorf("the service knows of a competing commit and does not hand it out: %w", core.ErrUnavailable)
		}
		if err := c.pause(ctx, 4+round); err != nil {
			return nil, unknown(err)
		}
		if err := c.resubmit(ctx, id, kind, message, nil); err != nil {
			return nil, err
		}
	}
}

// stillWaits says of an error that leaves the commit waiting that it does, whether the
// service or our own store has failed.
func stillWaits(err error) error {
	var refused *RefusedError
	if err == nil || errors.As(err, &refused) || errors.Is(err, ErrCommitLost) || errors.Is(err, ErrPendingUnresolved) || errors.Is(err, core.ErrUnknownOutcome) {
		return err
	}
	return unknown(err)
}

func unknown(err error) error {
	return fmt.Errorf("the commit waits for its answer: %w: %w", core.ErrUnknownOutcome, err)
}

// drain has everything processed that waits for us, then looks. Who is not a
// member has nothing waiting.
func (c *Client) drain(ctx context.Context, id core.ConversationID, kind pendingKind, message digest) (standing, error) {
	err := c.transport().Drain(ctx, id)
	// What our own provider or store says does not tell, of whatever kind it is.
	outsider := !isKeyTrouble(err) && !isStoreTrouble(err) && (errors.Is(err, core.ErrDenied) || errors.Is(err, core.ErrNotFound))
	if err != nil && (kind != joinKind || !outsider) {
		return 0, unknown(err)
	}
	return c.standing(ctx, id, kind, message)
}

// submitAfterOutbox puts what the transaction has sent before the commit, and then
// its first submission on record. If that cannot be sent, the commit goes, unless
// somebody else has submitted it meanwhile: no byte of it has left.
func (c *Client) submitAfterOutbox(ctx context.Context, id core.ConversationID, message digest) error {
	err := c.deliver(ctx, id, true)
	if err == nil {
		return stillWaits(c.resubmit(ctx, id, commitKind, message, nil))
	}
	if _, dropErr := c.drop(ctx, id, commitKind, message, 0, err); dropErr != nil {
		return errors.Join(unknown(err), dropErr)
	}
	return err
}

// change runs a short transaction on a conversation with a pending commit. It does
// nothing if the commit waits no longer.
func (c *Client) change(ctx context.Context, id core.ConversationID, kind pendingKind, message digest, f func(context.Context, *Transaction, *held) error) (state standing, err error) {
	err = c.transaction(ctx, func(ctx context.Context, t *Transaction) error {
		hold := t.hold
		if kind == joinKind {
			hold = t.salvage
		}
		h, err := hold(ctx, id)
		if err != nil {
			return err
		}
		if state = h.head.standing(kind, message); state != waiting {
			return nil
		}
		return t.explain(ctx, h, f(ctx, t, h))
	})
	return state, err
}

// merge begins the new epoch, by a write of its own.
func (c *Client) merge(ctx context.Context, id core.ConversationID, kind pendingKind, message digest) (result *CommitResult, err error) {
	state, err := c.change(ctx, id, kind, message, func(ctx context.Context, t *Transaction, h *held) (err error) {
		if kind == joinKind {
			result, err = t.mergeJoin(ctx, h)
		} else {
			result, err = t.mergePending(ctx, h)
		}
		return err
	})
	if err == nil && state == lost {
		err = ErrCommitLost
	}
	if err != nil || state != waiting {
		return nil, err
	}
	return result, nil
}

// drop forgets a commit that was refused, or never sent, if no more submissions than
// ours are on record: then nobody else has submitted it.
func (c *Client) drop(ctx context.Context, id core.ConversationID, kind pendingKind, message digest, ours uint32, cause error) (dropped bool, err error) {
	_, err = c.change(ctx, id, kind, message, func(ctx context.Context, t *Transaction, h *held) error {
		dropped = h.head.waits(kind).submissions <= ours
		if !dropped {
			return nil
		}
		return t.discardPending(ctx, h, kind, cause)
	})
	return dropped && err == nil, err
}

// discardJoin drops an external join that another commit has overtaken.
func (c *Client) discardJoin(ctx context.Context, id core.ConversationID, message digest, result error) error {
	_, err := c.change(ctx, id, joinKind, message, func(ctx context.Context, t *Transaction, h *held) error {
		return t.discardPending(ctx, h, joinKind, result)
	})
	return errors.Join(result, err)
}

// discardPending forgets a commit that waits; the cause is told to whoever may be
// waiting for what it was for, unless it is nil.
func (t *Transaction) discardPending(ctx context.Context, h *held, kind pendingKind, cause error) error {
	h.dirty = true
	if kind == joinKind {
		return t.dropJoin(ctx, h)
	}
	in, err := t.intended(ctx, h)
	if err != nil {
		return err
	}
	if cause != nil {
		t.ended(h.id, in.key, nil, cause)
	}
	t.noPending(h)
	t.write(h, h.head.active, h.group.DropPending())
	return nil
}

// resubmit puts one more submission on record; f may read what is to be sent.
func (c *Client) resubmit(ctx context.Context, id core.ConversationID, kind pendingKind, message digest, f func(context.Context, *Transaction, *held) error) error {
	state, err := c.change(ctx, id, kind, message, func(ctx context.Context, t *Transaction, h *held) error {
		h.head.waits(kind).submissions++
		h.dirty = true
		if f == nil {
			return nil
		}
		return f(ctx, t, h)
	})
	if err == nil && state == lost {
		err = ErrCommitLost
	}
	return err
}

// resolve finds out what became of a pending commit: it drains first, and then
// sends the same bytes again.
func (c *Client) resolve(ctx context.Context, id core.ConversationID, kind pendingKind, message digest) error {
	state, err := c.drain(ctx, id, kind, message)
	if err != nil || state != waiting {
		return err
	}
	var b CommitBundle
	err = c.resubmit(ctx, id, kind, message, func(ctx context.Context, t *Transaction, h *held) (err error) {
		b, err = t.rebuild(ctx, h, kind)
		return err
	})
	if err == nil {
		if b.Commit == nil { // merged meanwhile
			return nil
		}
		_, err = c.submit(ctx, id, kind, message, b)
	}
	if errors.Is(err, ErrCommitLost) {
		return nil // that is resolved as well
	}
	return err
}

// rebuild makes the bundle of a pending commit again from what is stored.
func (t *Transaction) rebuild(ctx context.Context, h *held, kind pendingKind) (CommitBundle, error) {
	if kind == joinKind {
		return t.rebuildJoin(ctx, h)
	}
	p, err := t.loadPending(ctx, h)
	if err != nil {
		return CommitBundle{}, err
	}
	env := t.own(ctx, h)
	members, err := h.group.Members(ctx, env)
	if err != nil {
		return CommitBundle{}, err
	}
	b, err := bundleOf(ctx, env, h.group, p, members)
	if err != nil {
		return CommitBundle{}, err
	}
	began, err := t.pendingEra(ctx, h, b.Added)
	if began != nil {
		b.EncryptedMessage = began.message
	}
	return b, err
}

// Settle delivers what waits in a conversation's outbox and resolves a commit of
// ours whose outcome is unknown. For callers of this client that are about to commit
// there it waits; a commit of a caller of another process it leaves alone for the time of
// a lease. Nothing to do is no error; what cannot be done now is
// core.ErrUnavailable or core.ErrUnknownOutcome.
func (c *Client) Settle(ctx context.Context, id core.ConversationID) error {
	if err := c.open(); err != nil {
		return err
	}
	defer c.done()
	if !c.online() {
		return ErrNoTransport
	}
	ctx = c.outsideContext(ctx)
	if err := c.waitForOthers(ctx, id, false); err != nil {
		return err
	}
	sent := c.deliver(ctx, id, true)
	if sent != nil && !errors.Is(sent, mls.ErrPendingProposals) {
		return sent
	}
	if err := c.waitForOthers(ctx, id, true); err != nil {
		return err
	}
	h, err := c.readHead(ctx, id)
	if err != nil {
		return err
	}
	resolved := false
	for _, kind := range []pendingKind{joinKind, commitKind} {
		if w := h.waits(kind); w.exists() {
			if err := c.resolve(ctx, id, kind, w.message); err != nil {
				return err
			}
			resolved = true
		}
	}
	if resolved { // what a commit was for that has lost is in the outbox again
		return c.deliver(ctx, id, true)
	}
	return sent
}

// Resume settles every conversation, as after a start or when the network is back.
// One that fails does not stop the others.
func (c *Client) Resume(ctx context.Context) error {
	ids, err := c.Conversations(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		if err := c.Settle(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("conversation %v: %w", id.LogValue(), err))
		}
	}
	return errors.Join(errs...)
}

// DiscardPendingCommit forgets our commit that waits for an answer. If the service
// has accepted it after all, only joining again helps, unless it is a PublicMessage
// that does not refresh our keys: this is for a person to decide. core.ErrNotFound
// if none waits.
func (c *Conversation) DiscardPendingCommit(ctx context.Context) error {
	return c.with(ctx, func(h *held) error {
		if !h.head.pending.exists() {
			return fmt.Errorf("pending commit: %w", core.ErrNotFound)
		}
		return c.tx.discardPending(ctx, h, commitKind, nil)
	})
}
