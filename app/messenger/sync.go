// SPDX-License-Identifier: Apache-2.0

package messenger

import (
	"context"
	"errors"

	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
)

// Sync takes everything that waits at the service: Welcomes, then what was sent to
// the conversations.
func (m *Messenger) Sync(ctx context.Context) error {
	if err := m.welcomes(ctx); err != nil {
		return err
	}
	ids, err := m.client.Conversations(ctx)
	if err != nil {
		return err
	}
	for i, id := range ids {
		m.progress("conversations read", i, len(ids))
		if err := m.catchUp(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// welcomes joins the conversations that others have added us to.
func (m *Messenger) welcomes(ctx context.Context) error {
	if err := m.SignIn(ctx); err != nil {
		return err
	}
	joined := false
	for {
		waiting, err := m.service.Welcomes(ctx, 0)
		if err != nil {
			return err
		}
		if len(waiting) == 0 {
			break
		}
		for _, w := range waiting {
			if err := m.welcome(ctx, w); err != nil {
				return err
			}
			if err := m.service.AckWelcome(ctx, w); err != nil {
				return err
			}
			joined = true
		}
	}
	if joined {
		return m.publish(ctx, false)
	}
	return nil
}

// welcome joins one conversation. A Welcome that cannot be used is reported once;
// one that was used before a crash has nothing new.
func (m *Messenger) welcome(ctx context.Context, w delivery.Welcome) error {
	id := core.ConversationID(w.Group)
	err := m.accept(ctx, id, w.Welcome)
	if errors.Is(err, client.ErrConversationExists) {
		// We were removed and added again, and have seen neither.
		if err := m.readTo(ctx, id, w.Seq); err != nil {
			return err
		}
		err = m.accept(ctx, id, w.Welcome)
	}
	switch {
	case err == nil || !client.Blames(err):
		return err
	case errors.Is(err, mls.ErrDuplicateMessage):
		return nil
	}
	if _, infoErr := m.client.Info(ctx, id); infoErr == nil {
		return nil // it is what made us a member
	}
	return m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		return keep(ctx, tx, id, Item{Kind: Lost, Reason: err.Error()})
	})
}

func (m *Messenger) accept(ctx context.Context, id core.ConversationID, welcome []byte) error {
	return m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.ProcessWelcome(ctx, welcome, client.JoinConfig{})
		if err != nil {
			return err
		}
		if c.ID() != id {
			return mls.ErrWrongGroup
		}
		return edit(ctx, tx, func(n *note) {
			n.inside(id)
			n.chat(id).Reused = c.LastResort()
			n.keep(id, Item{Kind: Joined})
		})
	})
}

// readTo takes what a conversation's log has up to a sequence number.
func (m *Messenger) readTo(ctx context.Context, id core.ConversationID, last uint64) error {
	for {
		entries, err := m.service.Log(ctx, id, 0)
		if err != nil || len(entries) == 0 || entries[0].Seq > last {
			return err
		}
		for _, e := range entries {
			if e.Seq > last {
				return nil
			}
			if err := m.receive(ctx, id, e); err != nil {
				return err
			}
			if err := m.service.Ack(ctx, id, e.Seq); err != nil {
				return err
			}
		}
	}
}

// joinAgain uses a Welcome that stands before a message of a conversation that we
// are not in: we have just read how we were removed, and were added again since.
func (m *Messenger) joinAgain(ctx context.Context, id core.ConversationID, before uint64) (joined bool, err error) {
	waiting, err := m.service.Welcomes(ctx, 0)
	if err != nil {
		return false, err
	}
	for _, w := range waiting {
		if string(w.Group) != string(id) || w.Seq >= before {
			continue
		}
		if err := m.welcome(ctx, w); err != nil {
			return false, err
		}
		if err := m.service.AckWelcome(ctx, w); err != nil {
			return false, err
		}
		joined = true
	}
	return joined, nil
}

// catchUp resolves what is open in a conversation, takes what waits for it, commits
// what others have proposed, and renews keys that others may have.
func (m *Messenger) catchUp(ctx context.Context, id core.ConversationID) error {
	if err := m.SignIn(ctx); err != nil {
		return err
	}
	if err := m.client.Settle(ctx, id); err != nil {
		return err
	}
	if err := m.transport.Drain(ctx, id); err != nil {
		return err
	}
	info, err := m.client.Info(ctx, id)
	if errors.Is(err, core.ErrNotFound) {
		return nil // left meanwhile
	}
	if err != nil {
		return err
	}
	n, err := parseNote(m.client.Data(ctx))
	if err != nil {
		return err
	}
	switch c := n.chat(id); {
	case info.Recovering: // see Recover
		return nil
	case info.ReInit != nil: // a member has ended it: nothing in it can change
		return nil
	case c.Leaving && info.PendingProposals == 0:
		return m.proposeLeaving(ctx, id)
	case c.Reused && !c.Leaving:
		return m.commit(ctx, id, client.Changes{Update: true})
	case !c.Leaving && info.PendingProposals > 0:
		return m.commit(ctx, id, client.Changes{})
	}
	return nil
}
