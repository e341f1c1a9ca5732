// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// watch looks for signs that commits are missing here.
func (t *Transaction) watch(h *held, in *incoming, err error) {
	var wrong *mls.EpochError
	switch {
	case errors.As(err, &wrong) && wrong.Message > wrong.Group+1:
	case errors.Is(err, ErrBufferFull):
	case errors.Is(err, ErrNotAdmitted) && in.content() == mls.ContentCommit: // the others go on
	case errors.Is(err, mls.ErrOwnMessage) && in.content() == mls.ContentCommit && h.group != nil && in.epoch == h.group.Epoch():
		// A commit of ours that nothing is left of: whoever discarded it was wrong.
	default:
		return
	}
	t.client.log.Info("commits seem to be missing", "conversation", h.id, "epoch", h.head.epoch, "seen", in.epoch)
	t.signals = append(t.signals, OutOfSync{Conversation: h.id, Epoch: h.head.epoch, Seen: in.epoch})
}

// Rejoin joins a conversation again by an external commit, with the GroupInfo that
// the delivery service has, after [OutOfSync] or whenever what we have of it is of no
// use: our old leaf is removed by the same commit. What waits in the outbox is
// encrypted again; what was sent to us in the epochs that we missed stays unread. The
// transport must be a [GroupInfoSource], else it is core.ErrUnsupported. Of a
// conversation that is damaged the configuration is lost: it is mls.DefaultConfig then,
// and who needs another says so by [Client.RejoinWith]. ErrNoExternalPub: only a member
// can add us again. ErrKeyGone: make another credential first.
func (c *Client) Rejoin(ctx context.Context, id core.ConversationID) (*CommitResult, error) {
	return c.RejoinWith(ctx, id, JoinConfig{})
}

// RejoinWith is [Client.Rejoin] where something is to be other than it was.
func (c *Client) RejoinWith(ctx context.Context, id core.ConversationID, cfg JoinConfig) (result *CommitResult, err error) {
	if !c.online() {
		return nil, ErrNoTransport
	}
	source, ok := c.transport().(GroupInfoSource)
	if !ok {
		return nil, fmt.Errorf("the transport cannot fetch a GroupInfo: %w", core.ErrUnsupported)
	}
	err = c.view(ctx, id, func(v view) error {
		leaf, err := v.group.OwnLeafNode(ctx, v.env)
		if err != nil {
			return err
		}
		if cfg.Group == (mls.Config{}) {
			cfg.Group = v.group.Config()
		}
		if cfg.Credential == 0 {
			cfg.Credential = leaf.Credential.Type
		}
		return nil
	})
	if err != nil && !errors.Is(err, ErrConversationNotFound) && !errors.Is(err, core.ErrDamaged) {
		return nil, err
	}
	info, err := source.GroupInfo(c.outsideContext(ctx), id)
	if err != nil {
		return nil, err
	}
	m, err := mls.UnmarshalMLSMessage(info)
	if err != nil {
		return nil, err
	}
	if m.GroupInfo == nil || core.ConversationID(m.GroupInfo.GroupContext.GroupID) != id {
		return nil, mls.ErrWrongGroup
	}
	err = c.Transaction(ctx, func(ctx context.Context, tx *Transaction) error {
		_, result, err = tx.JoinByExternalCommit(ctx, info, cfg)
		return err
	})
	return result, err
}
