// SPDX-License-Identifier: Apache-2.0

package messenger

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// Read gives show what is unread in a conversation, oldest first. What show took
// counts as read, and is not kept, from then on: it comes again only if the program
// ends in between.
func (m *Messenger) Read(ctx context.Context, name string, show func(core.ConversationID, Item) error) error {
	if err := m.welcomes(ctx); err != nil && !errors.Is(err, ErrFull) { // reading makes room
		return err
	}
	id, err := m.Find(ctx, name)
	if err != nil {
		return err
	}
	_, err = m.read(ctx, id, show)
	return err
}

// read takes what waits and shows what is unread, in turns where there is more
// than there is room for. It is over when we are out of the conversation.
func (m *Messenger) read(ctx context.Context, id core.ConversationID, show func(core.ConversationID, Item) error) (over bool, err error) {
	for {
		err := m.catchUp(ctx, id)
		if err != nil && !errors.Is(err, ErrFull) {
			return false, err
		}
		shown, over, showErr := m.show(ctx, id, show)
		if showErr != nil || err == nil || shown == 0 {
			return over, errors.Join(showErr, err)
		}
	}
}

// show shows what is unread and forgets it.
func (m *Messenger) show(ctx context.Context, id core.ConversationID, show func(core.ConversationID, Item) error) (count int, over bool, err error) {
	n, err := parseNote(m.client.Data(ctx))
	if err != nil {
		return 0, false, err
	}
	var shown []unread
	for _, u := range n.Unread {
		if string(u.Conversation) != string(id) {
			continue
		}
		if err = show(id, u.Item); err != nil {
			break
		}
		over = u.Item.Kind == Left && !u.Item.Past
		shown = append(shown, u)
	}
	if len(shown) == 0 {
		return 0, over, err
	}
	forget := m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		return edit(ctx, tx, func(n *note) {
			left := len(shown) // those of the conversation that come first
			n.Unread = slices.DeleteFunc(n.Unread, func(u unread) bool {
				if left == 0 || string(u.Conversation) != string(id) {
					return false
				}
				left--
				return true
			})
		})
	})
	return len(shown), over, errors.Join(err, forget)
}

const (
	pollTime  = 30 * time.Second
	retryTime = 2 * time.Second
)

// Follow is Read again and again, as messages come, until the context ends or we
// are removed from the conversation. It begins with the service in reach; when that
// cannot be reached later, it tries again.
func (m *Messenger) Follow(ctx context.Context, name string, show func(core.ConversationID, Item) error) error {
	if err := m.welcomes(ctx); err != nil && !errors.Is(err, ErrFull) { // reading makes room
		return err
	}
	id, err := m.Find(ctx, name)
	if err != nil {
		return err
	}
	for {
		over, err := m.read(ctx, id, show)
		if err == nil && !over {
			_, err = m.service.Log(ctx, id, pollTime)
		}
		switch {
		case ctx.Err() != nil || over && err == nil:
			return nil
		case errors.Is(err, core.ErrUnavailable) && !errors.Is(err, ErrFull), errors.Is(err, core.ErrNotFound):
			// Out of reach; or nobody has written to the conversation yet.
			select {
			case <-time.After(retryTime):
			case <-ctx.Done():
			}
		case err != nil:
			return err
		}
	}
}
