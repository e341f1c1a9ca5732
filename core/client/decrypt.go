// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// DecryptMessage processes a message of a conversation as the delivery service
// handed it out (an MLSMessage), and says what it was.
//
// A message that cannot be processed yet is *Buffered, which is no error. After an
// error nothing has changed; the errors that an application meets in the ordinary
// course are mls.ErrDuplicateMessage and mls.ErrOwnMessage (it was processed, or
// is ours), [ErrRecovering] (it can never be read), [ErrStaleCommit], [ErrStaleProposal] and mls.ErrTooOld (too late),
// mls.ErrWrongEpoch (commits were missed: drain, or join again) and
// [ErrConversationNotFound]: we are out of the conversation, or not in it yet. Nothing
// is kept then. Process Welcomes before messages, and upon this error see whether a
// Welcome came meanwhile and try once more, before [Blames] has the message dropped.
func (t *Transaction) DecryptMessage(ctx context.Context, id core.ConversationID, message []byte) (Received, error) {
	return in(ctx, t, func() (Received, error) { return t.decryptMessage(ctx, id, message) })
}

func (t *Transaction) decryptMessage(ctx context.Context, id core.ConversationID, message []byte) (result Received, err error) {
	defer t.whole(&err)()
	in, err := parseIncoming(message)
	if err != nil {
		return nil, err
	}
	if in.group != id {
		return nil, mls.ErrWrongGroup
	}
	h, err := t.salvage(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := h.refuses(in); err != nil {
		return nil, err
	}
	result, err = t.decrypt(ctx, h, in)
	t.watch(h, in, err)
	if err != nil {
		return nil, t.explain(ctx, h, err)
	}
	return result, nil
}

// DecryptMessages is DecryptMessage for many messages of a conversation, in their
// order, as for a client that was away for long: they become durable by one write. A
// message that is to blame for an error itself (see [Blames]) has it in its place, has
// changed nothing and does not stop the others. Any other error, such as that of a
// store, ends the call, and the transaction can only be aborted.
func (t *Transaction) DecryptMessages(ctx context.Context, id core.ConversationID, messages [][]byte) ([]Decrypted, error) {
	return in(ctx, t, func() ([]Decrypted, error) {
		out := make([]Decrypted, 0, len(messages))
		for _, message := range messages {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			result, err := t.decryptMessage(ctx, id, message)
			if t.broken != nil || err != nil && !Blames(err) {
				return nil, err
			}
			out = append(out, Decrypted{result, err})
		}
		return out, nil
	})
}

// DecryptMessage is [Transaction.DecryptMessage] for this conversation.
func (c *Conversation) DecryptMessage(ctx context.Context, message []byte) (Received, error) {
	return c.tx.DecryptMessage(ctx, c.id, message)
}

// incoming is a message on its way in.
type incoming struct {
	message []byte
	digest  digest
	parsed  *mls.MLSMessage
	group   core.ConversationID
	epoch   uint64
}

func parseIncoming(message []byte) (*incoming, error) {
	m, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		return nil, err
	}
	group, epoch, ok := m.GroupEpoch()
	if !ok {
		return nil, fmt.Errorf("wire format %d in a conversation: %w", m.WireFormat(), mls.ErrMalformed)
	}
	return &incoming{message: message, digest: digestOf(message), parsed: m, group: core.ConversationID(group), epoch: epoch}, nil
}

// content tells what the header says; PrivateMessages have it in clear.
func (in *incoming) content() mls.ContentType {
	if in.parsed.PublicMessage != nil {
		return in.parsed.PublicMessage.Content.ContentType
	}
	return in.parsed.PrivateMessage.ContentType
}

// refuses is for a conversation whose keys may have been used since: it takes nothing
// but our way back, and what comes behind that.
func (h *held) refuses(in *incoming) error {
	join := h.head.join
	if !h.head.lost || join.exists() && (in.digest == join.message || in.epoch > join.epoch) {
		return nil
	}
	switch in.content() {
	case mls.ContentCommit:
		return fmt.Errorf("%w: %w", ErrRecovering, ErrStaleCommit)
	case mls.ContentProposal:
		return fmt.Errorf("%w: %w", ErrRecovering, ErrStaleProposal)
	}
	return ErrRecovering
}

// decrypt is DecryptMessage for a conversation that is held. Our own commits are
// known by their bytes, before anything is asked of the engine.
func (t *Transaction) decrypt(ctx context.Context, h *held, in *incoming) (Received, error) {
	var result Received
	var err error
	switch {
	case h.head.join.exists() && in.digest == h.head.join.message:
		result, err = t.mergeJoin(ctx, h)
	case (h.group == nil || h.head.lost) && h.head.join.exists():
		return t.buffer(h, in, JoinPending)
	case h.damaged != nil:
		return nil, h.damaged
	case h.group == nil:
		return nil, ErrConversationNotFound
	case h.head.pending.exists() && in.digest == h.head.pending.message:
		result, err = t.mergePending(ctx, h)
	case in.digest == h.head.merged || in.digest == h.head.began:
		t.client.haveMessage(h, in)
		return nil, mls.ErrDuplicateMessage
	default:
		result, err = t.process(ctx, h, in)
		var wrong *mls.EpochError
		if errors.As(err, &wrong) && wrong.Message == wrong.Group+1 {
			return t.buffer(h, in, FutureEpoch)
		}
	}
	if err != nil {
		return nil, err
	}
	if _, ok := result.(*ProposalResult); ok {
		if result, err = t.retryCommit(ctx, h, result); err != nil {
			return nil, err
		}
	}
	t.client.haveMessage(h, in)
	replayed, err := t.replay(ctx, h)
	if err != nil {
		return nil, err
	}
	return attach(result, replayed), nil
}

// process gives a message to the engine. Nothing is buffered here but a commit
// that lacks proposals.
func (t *Transaction) process(ctx context.Context, h *held, in *incoming) (Received, error) {
	if in.epoch < h.group.Epoch() {
		switch in.content() {
		case mls.ContentCommit:
			return nil, ErrStaleCommit
		case mls.ContentProposal:
			return nil, ErrStaleProposal
		}
	}
	env := t.own(ctx, h)
	before := h.group
	g, result, ws, err := before.Process(ctx, env, in.parsed)
	if errors.Is(err, mls.ErrMissingProposal) {
		return t.bufferCommit(h, in)
	}
	if err != nil {
		return nil, err
	}
	switch r := result.(type) {
	case *mls.ApplicationMessage:
		sender, err := identify(env, r.Sender.Credential, r.Sender.SignatureKey)
		if err != nil {
			return nil, err
		}
		t.advance(h, g, ws)
		return &Text{Sender: sender, Epoch: r.Epoch, AuthenticatedData: r.AuthenticatedData, Data: r.Data}, nil
	case *mls.ReceivedProposal:
		if err := t.admitProposal(ctx, h, *r); err != nil {
			return nil, err
		}
		delay, err := t.delay(ctx, g, env)
		if err != nil {
			return nil, err
		}
		t.advance(h, g, ws)
		t.note(slog.LevelDebug, h, "proposal received", slog.String("kind", kindOf(r.Proposal)),
			slog.Int("sender_type", int(r.Sender.Type)), slog.Int("sender", int(r.Sender.Leaf)))
		return &ProposalResult{Ref: r.Ref, Proposal: r.Proposal, Sender: r.Sender, Delay: delay}, nil
	case *mls.ReceivedCommit:
		if err := t.admitCommit(ctx, h, r); err != nil {
			return nil, err
		}
		c, err := commitResult(before, env, r)
		if err != nil {
			return nil, err
		}
		left, err := leftover(ctx, before, env, r)
		if err != nil {
			return nil, err
		}
		t.advance(h, g, ws)
		if err := t.noteEra(ctx, h, r); err != nil {
			return nil, err
		}
		t.noteCommit(h, c, r.Proposals)
		return c, t.entered(ctx, h, c, r.SelfRemoved, left, in.digest)
	}
	return nil, fmt.Errorf("unexpected result %T: %w", result, core.ErrUnsupported)
}

// commitResult tells in names what a commit does to the epoch that it ends.
func commitResult(before *mls.Group, env *mls.Env, r *mls.ReceivedCommit) (*CommitResult, error) {
	c := &CommitResult{
		Epoch: before.Epoch() + 1, Own: !r.External && r.Committer.Leaf == before.OwnLeaf(),
		Active: !r.SelfRemoved && r.ReInit == nil, ReInit: r.ReInit,
	}
	names := func(members []mls.Member) (ids []core.ClientID, err error) {
		for _, m := range members {
			id, err := identify(env, m.Credential, m.SignatureKey)
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
		return ids, nil
	}
	var err error
	if c.Added, err = names(r.Added); err != nil {
		return nil, err
	}
	if c.Removed, err = names(r.Removed); err != nil {
		return nil, err
	}
	if c.Committer, err = identify(env, r.Committer.Credential, r.Committer.SignatureKey); err != nil {
		return nil, err
	}
	if r.External {
		c.Added = append(c.Added, c.Committer)
	}
	return c, nil
}

// entered is what a new epoch means beyond the engine: our commit for the old one
// has lost unless it is this one, what we proposed is void or proposed again, and
// what waited may be tried.
func (t *Transaction) entered(ctx context.Context, h *held, c *CommitResult, removed bool, left []ownProposal, began digest) error {
	h.dirty = true
	if removed {
		return t.forget(ctx, h, "we were removed from the conversation")
	}
	if h.group.Active() {
		if err := t.renew(ctx, h, c, left); err != nil {
			return err
		}
	} else if err := t.reInitialised(ctx, h); err != nil {
		return err
	}
	if h.head.pending.exists() && h.head.pending.message != began {
		if err := t.overtaken(ctx, h); err != nil {
			return err
		}
	}
	t.noPending(h)
	h.head.began = began
	if h.head.waiting.commit {
		h.head.waiting.commit = false
		t.segment.del(ofConversation(tableBufferedCommit, h.id), theOnly)
	}
	h.head.waiting.ready = h.head.waiting.count > 0
	t.segment.events = append(t.segment.events, EpochChanged{h.id, h.group.Epoch()})
	return nil
}

// mergePending begins the epoch of our own commit, which the service has accepted.
func (t *Transaction) mergePending(ctx context.Context, h *held) (*CommitResult, error) {
	env := t.own(ctx, h)
	fresh, err := t.freshCommit(ctx, h)
	if err != nil {
		return nil, err
	}
	key := fresh.intention
	before := h.group
	g, r, ws, err := before.Merge(ctx, env, fresh.pending)
	if err != nil {
		return nil, err
	}
	c, err := commitResult(before, env, r)
	if err != nil {
		return nil, err
	}
	if key == (IdempotencyKey{}) {
		in, err := t.intended(ctx, h)
		if err != nil {
			return nil, err
		}
		key = in.key
	} else {
		t.segment.del(ofConversation(tableIntention, h.id), theOnly)
	}
	left, err := leftover(ctx, before, env, r)
	if err != nil {
		return nil, err
	}
	for _, p := range left {
		if _, ok := p.proposal.(*mls.Update); !ok { // our path has done that
			c.Dropped = append(c.Dropped, p.proposal)
		}
	}
	own := h.head.pending.message
	begun, err := t.pendingEra(ctx, h, c.Added)
	if err != nil {
		return nil, err
	}
	h.head.merged = own
	t.advance(h, g, ws)
	if err := t.noteEra(ctx, h, r); err != nil {
		return nil, err
	}
	t.noteCommit(h, c, r.Proposals)
	if err := t.entered(ctx, h, c, r.SelfRemoved, nil, own); err != nil {
		return nil, err
	}
	t.ended(h.id, key, c, nil)
	if begun != nil {
		t.segment.events = append(t.segment.events, HistoryClientCreated{h.id, g.Epoch(), begun.secret})
	}
	return c, nil
}

// A freshCommit is a commit of ours that is being submitted: whoever merges it need not
// read it, or make its tree, again. Nothing is lost with it.
type freshCommit struct {
	pending   *mls.PendingCommit
	intention IdempotencyKey
}

// freshCommit gives the commit that waits; what it is for only if that is known.
func (t *Transaction) freshCommit(ctx context.Context, h *held) (freshCommit, error) {
	if fresh, ok := t.client.fresh.LoadAndDelete(h.head.pending.message); ok {
		return fresh.(freshCommit), nil
	}
	p, err := t.loadPending(ctx, h)
	return freshCommit{pending: p}, err
}

func (t *Transaction) loadPending(ctx context.Context, h *held) (*mls.PendingCommit, error) {
	r, found, err := t.segment.get(ctx, ofGroup(h.id, h.head.active), []byte{byte(mls.RecordPending)})
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("pending commit: %w", core.ErrDamaged)
	}
	p, err := mls.LoadPending(r.Value)
	if err != nil {
		return nil, err
	}
	if digestOf(p.Message()) != h.head.pending.message {
		return nil, fmt.Errorf("pending commit of another epoch: %w", core.ErrDamaged)
	}
	return p, nil
}

// delay tells how long to leave the pending proposals to others: nil if there are
// none, or if one of them removes us.
func (t *Transaction) delay(ctx context.Context, g *mls.Group, env *mls.Env) (*time.Duration, error) {
	removed := map[mls.LeafIndex]bool{}
	waiting := 0
	for p, err := range g.PendingProposals(ctx, env) {
		if err != nil {
			return nil, err
		}
		waiting++
		if r, ok := p.Proposal.(*mls.Remove); ok {
			if r.Removed == g.OwnLeaf() {
				return nil, nil
			}
			removed[r.Removed] = true
		}
	}
	if waiting == 0 {
		return nil, nil
	}
	members, err := g.Members(ctx, env)
	if err != nil {
		return nil, err
	}
	d := commitDelay(g.Epoch(), g.OwnLeaf(), members, removed)
	return &d, nil
}
