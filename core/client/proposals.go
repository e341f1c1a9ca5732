// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// A Proposed is a proposal of ours. It is in the outbox and is delivered after the
// transaction; somebody has to commit it, and it is void when the epoch ends
// without that.
type Proposed struct {
	Ref     mls.ProposalRef
	Key     IdempotencyKey
	Message []byte // as it is sent
}

// ProposeAdd proposes to add the client of a key package.
func (c *Conversation) ProposeAdd(ctx context.Context, keyPackage []byte) (Proposed, error) {
	return c.propose(ctx, func(h *held) (mls.Proposal, error) {
		k, err := parseKeyPackage(keyPackage)
		if err == nil {
			err = c.tx.admitOwn(ctx, h, k)
		}
		return &mls.Add{KeyPackage: k}, err
	})
}

// ProposeRemove proposes to remove a client; ErrClientNotFound.
func (c *Conversation) ProposeRemove(ctx context.Context, id core.ClientID) (Proposed, error) {
	return c.propose(ctx, func(h *held) (mls.Proposal, error) {
		env := c.tx.own(ctx, h)
		members, err := h.group.Members(ctx, env)
		if err != nil {
			return nil, err
		}
		for _, m := range members {
			who, err := identify(env, m.Credential, m.SignatureKey)
			if err != nil {
				return nil, err
			}
			if who == id {
				return &mls.Remove{Removed: m.Leaf}, nil
			}
		}
		return nil, ErrClientNotFound
	})
}

// Leave proposes our own removal, which another member has to commit: then the
// conversation is wiped here. Nothing can be sent meanwhile, unless the
// conversation's configuration allows it.
func (c *Conversation) Leave(ctx context.Context) (Proposed, error) {
	return c.propose(ctx, func(h *held) (mls.Proposal, error) {
		return &mls.Remove{Removed: h.group.OwnLeaf()}, nil
	})
}

// ProposePSK proposes to mix in a pre-shared key; see SetPSK.
func (c *Conversation) ProposePSK(ctx context.Context, id []byte) (Proposed, error) {
	return c.propose(ctx, func(h *held) (mls.Proposal, error) { return h.group.NewExternalPSK(id), nil })
}

func (c *Conversation) propose(ctx context.Context, make func(h *held) (mls.Proposal, error)) (out Proposed, err error) {
	err = c.with(ctx, func(h *held) error {
		if err := c.tx.noCommitWaits(ctx, h); err != nil {
			return err
		}
		proposal, err := make(h)
		if err != nil {
			return err
		}
		g, sent, ws, err := h.group.Propose(ctx, c.tx.own(ctx, h), proposal, nil)
		if err != nil {
			return err
		}
		out, err = c.tx.proposed(ctx, h, newIdempotencyKey(), g, sent, ws)
		return err
	})
	return out, err
}

// ProposeUpdate proposes a fresh leaf key for ourselves and, if rotate is not 0,
// that credential of ours with its key.
func (c *Conversation) ProposeUpdate(ctx context.Context, rotate CredentialRef) (out Proposed, err error) {
	err = c.with(ctx, func(h *held) error {
		if err := c.tx.noCommitWaits(ctx, h); err != nil {
			return err
		}
		var p mls.LeafParams
		if rotate != 0 {
			if p, err = c.tx.leafParams(ctx, h, rotate); err != nil {
				return err
			}
		}
		g, sent, ws, err := h.group.ProposeUpdate(ctx, c.tx.own(ctx, h), p, nil)
		if err != nil {
			return err
		}
		if rotate != 0 {
			if err := c.tx.use(ctx, h, rotate); err != nil {
				return err
			}
		}
		out, err = c.tx.proposed(ctx, h, newIdempotencyKey(), g, sent, ws)
		return err
	})
	return out, err
}

// noCommitWaits refuses a proposal while a commit of ours waits for its answer: it
// would overtake the commit, of whose generation receivers do not keep the key for
// long. Client.Transaction settles the conversation and starts over.
func (t *Transaction) noCommitWaits(ctx context.Context, h *held) error {
	if !h.group.Active() {
		return mls.ErrInactive
	}
	if t.enqueued(h.id, outCommit) {
		return fmt.Errorf("a proposal behind a commit that is staged: %w", core.ErrInvalid)
	}
	staged, err := t.staged(ctx, h.id)
	if err != nil {
		return err
	}
	if !staged && !h.head.pending.exists() {
		return nil
	}
	t.blocked = append(t.blocked, h.id)
	return fmt.Errorf("a commit waits to be sent first: %w", core.ErrConflict)
}

func (t *Transaction) proposed(ctx context.Context, h *held, key IdempotencyKey, g *mls.Group, sent *mls.SentProposal, ws *record.WriteSet) (Proposed, error) {
	if err := t.enqueue(ctx, h, outgoing{key: key, kind: outProposal, epoch: g.Epoch(), message: sent.Message, ref: sent.Ref}); err != nil {
		return Proposed{}, err
	}
	t.encrypted(h, g, ws)
	t.note(slog.LevelDebug, h, "proposal made", slog.String("key", key.String()))
	return Proposed{Ref: sent.Ref, Key: key, Message: sent.Message}, nil
}

// ClearPendingProposal forgets one that the service refused for good;
// core.ErrNotFound if it does not wait.
func (c *Conversation) ClearPendingProposal(ctx context.Context, ref mls.ProposalRef) error {
	return c.with(ctx, func(h *held) error {
		g, ws, err := h.group.DropProposal(ctx, c.tx.own(ctx, h), ref)
		if err != nil {
			return err
		}
		c.tx.advance(h, g, ws)
		return nil
	})
}
