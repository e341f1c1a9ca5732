// SPDX-License-Identifier: Apache-2.0

package messenger

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
)

// receive takes one message from a conversation's log. It returns nil once what
// came of it is durable; then the message is confirmed to the service.
func (m *Messenger) receive(ctx context.Context, id core.ConversationID, e delivery.Entry) error {
	m.progress("messages read", int(m.received.Add(1)), 0)
	err := m.decrypt(ctx, id, e)
	if errors.Is(err, client.ErrConversationNotFound) {
		joined, joinErr := m.joinAgain(ctx, id, e.Seq)
		if joinErr != nil {
			return joinErr
		}
		if joined {
			err = m.decrypt(ctx, id, e)
		}
	}
	if errors.Is(err, client.ErrConversationNotFound) {
		return nil // what was sent after we left
	}
	return err
}

func (m *Messenger) decrypt(ctx context.Context, id core.ConversationID, e delivery.Entry) error {
	var refused error // what the message is to blame for
	err := m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		refused = nil
		n, err := parseNote(tx.Data(ctx))
		if err != nil || e.Seq <= n.chat(id).Seen {
			return err
		}
		r, err := tx.DecryptMessage(ctx, id, e.Message)
		if err != nil {
			refused = err
			return err
		}
		return took(ctx, tx, id, r, e.Seq)
	})
	switch {
	case err == nil || refused == nil || !client.Blames(err) || errors.Is(err, client.ErrConversationNotFound):
		return err
	case known(err):
		return nil
	}
	return m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		return edit(ctx, tx, func(n *note) {
			if c := n.chat(id); e.Seq > c.Seen {
				c.Seen = e.Seq
				n.keep(id, Item{Kind: Lost, Reason: err.Error()})
			}
		})
	})
}

// known says that a message has nothing new: it was taken before a crash, it is
// our own, or of an epoch that we have left.
func known(err error) bool {
	for _, e := range []error{
		mls.ErrDuplicateMessage, mls.ErrOwnMessage, client.ErrStaleCommit, client.ErrStaleProposal,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// took keeps what a message, and those that had waited for it, have to tell. The
// sequence number is 0 where it did not come from the log.
func took(ctx context.Context, tx *client.Transaction, id core.ConversationID, r client.Received, seq uint64) error {
	items, replayed := itemsOf(r)
	leaver, err := whoLeaves(ctx, tx, id, r)
	if err != nil {
		return err
	}
	own, err := tx.ClientID(ctx)
	if err != nil {
		return err
	}
	for _, x := range replayed {
		if x.Err != nil {
			if !known(x.Err) {
				items = append(items, Item{Kind: Lost, Reason: x.Err.Error()})
			}
			continue
		}
		more, _ := itemsOf(x.Received)
		items = append(items, more...)
	}
	if seq == 0 && len(items) == 0 {
		return nil
	}
	return edit(ctx, tx, func(n *note) {
		c := n.chat(id)
		n.keep(id, c.told(own, items)...)
		c.Leavers = append(c.Leavers, leaver...)
		c.Seen = max(c.Seen, seq)
		c.Leaving = c.Leaving && !slices.ContainsFunc(items, func(i Item) bool { return i.Kind == Left })
	})
}

func itemsOf(r client.Received) (items []Item, replayed []client.Decrypted) {
	switch r := r.(type) {
	case *client.Text:
		item := Item{Kind: Text, Epoch: r.Epoch, From: r.Sender, Text: r.Data}
		if len(r.Data) > MaxText { // it would take the room of all others
			item.Kind, item.Text, item.Reason = Lost, nil, fmt.Sprintf("a text of %d bytes", len(r.Data))
		}
		return []Item{item}, r.Replayed
	case *client.ProposalResult:
		return nil, r.Replayed
	case *client.CommitResult:
		item := Item{Kind: Changed, Epoch: r.Epoch, From: r.Committer, Added: r.Added, Removed: r.Removed}
		if !r.Active && r.ReInit == nil {
			item.Kind = Left
		}
		item.own = r.Own
		return []Item{item}, r.Replayed
	}
	return nil, nil // buffered: it is durable and comes again with another message
}

// whoLeaves is who proposes its own removal with a message; nobody, if what had waited
// for the message has ended the epoch already.
func whoLeaves(ctx context.Context, tx *client.Transaction, id core.ConversationID, r client.Received) ([]core.ClientID, error) {
	p, ok := r.(*client.ProposalResult)
	if !ok || p.Sender.Type != mls.SenderMember || slices.ContainsFunc(p.Replayed, func(x client.Decrypted) bool {
		_, commit := x.Received.(*client.CommitResult)
		return commit
	}) {
		return nil, nil
	}
	if remove, ok := p.Proposal.(*mls.Remove); !ok || remove.Removed != p.Sender.Leaf {
		return nil, nil
	}
	c, err := tx.Conversation(ctx, id)
	if err != nil {
		return nil, err
	}
	members, err := c.Members(ctx)
	for _, m := range members {
		if m.Leaf == p.Sender.Leaf {
			return []core.ClientID{m.ClientID}, err
		}
	}
	return nil, err
}

// told says of commits who left by them, and drops those of ours that have nothing
// else to tell.
func (c *chat) told(own core.ClientID, items []Item) (out []Item) {
	for _, i := range items {
		if i.Kind == Changed || i.Kind == Left {
			for _, r := range i.Removed {
				if slices.Contains(c.Leavers, r) || i.Kind == Left && c.Leaving && r == own {
					i.Left = append(i.Left, r)
				}
			}
			c.Leavers = nil
		}
		if i.own {
			if len(i.Left) == 0 {
				continue
			}
			i.Added, i.Removed = nil, i.Left
		}
		out = append(out, i)
	}
	return out
}
