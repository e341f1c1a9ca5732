// SPDX-License-Identifier: Apache-2.0

package messenger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// A Kind tells what an Item is.
type Kind string

// The kinds.
const (
	Text    Kind = "text"    // From wrote Text
	Changed Kind = "changed" // From added Added, removed Removed, or renewed keys
	Joined  Kind = "joined"  // we are in the conversation now
	Left    Kind = "left"    // From removed us; nothing of the conversation is kept
	Lost    Kind = "lost"    // a message could not be opened, for Reason
)

// An Item is something that happened in a conversation and that nobody has read yet.
type Item struct {
	Kind    Kind            `json:"kind"`
	Time    time.Time       `json:"time"` // when it came here, by the clock of this machine
	Epoch   uint64          `json:"epoch"`
	From    core.ClientID   `json:"from,omitempty"`
	Text    []byte          `json:"text,omitempty"`
	Added   []core.ClientID `json:"added,omitempty"`
	Removed []core.ClientID `json:"removed,omitempty"`
	Left    []core.ClientID `json:"left,omitempty"` // those of Removed who had proposed it themselves
	Past    bool            `json:"past,omitempty"` // of Left: we are in the conversation again since
	Reason  string          `json:"reason,omitempty"`

	own bool // a commit of ours: who made it knows, but for those who left by it
}

// MaxText is the longest text in bytes that is sent and taken.
const MaxText = 64 << 10

// ErrFull: so much is unread that nothing more is taken from the service. Read it.
var ErrFull = fmt.Errorf("the unread messages fill the room that there is for them: %w", core.ErrUnavailable)

// A note is what the messenger keeps in the client's store, sealed, beside the
// conversations: changes of both are durable together.
type note struct {
	Format int    `json:"format"`
	Key    []byte `json:"key,omitempty"`   // registration at the delivery service
	Token  []byte `json:"token,omitempty"` // what it gave for the key
	// LastResort is the reference of the key package that survives its use.
	LastResort []byte   `json:"last_resort,omitempty"`
	Renew      bool     `json:"renew,omitempty"` // the key packages at the service are of no use
	Chats      []chat   `json:"chats,omitempty"`
	Unread     []unread `json:"unread,omitempty"` // oldest first
}

// A chat is what the note says of a conversation that we are in or were in.
type chat struct {
	Conversation []byte `json:"conversation"`
	// Seen is the last sequence number that was taken from the log. Of two
	// processes that read it at once, the slower one sees that it has nothing new.
	Seen    uint64 `json:"seen,omitempty"`
	Leaving bool   `json:"leaving,omitempty"`
	// Leavers have proposed to leave, in this epoch.
	Leavers []core.ClientID `json:"leavers,omitempty"`
	// Reused says that our keys there are those of the key package of last resort,
	// which others may use as well: they are to be renewed.
	Reused bool `json:"reused,omitempty"`
}

type unread struct {
	Conversation []byte `json:"conversation"`
	Item         Item   `json:"item"`
}

const noteFormat = 1

func parseNote(data []byte, found bool, err error) (*note, error) {
	n := &note{Format: noteFormat}
	if err != nil || !found {
		return n, err
	}
	defer clear(data)
	if err := json.Unmarshal(data, n); err != nil {
		return nil, fmt.Errorf("the messenger's note: %w", core.ErrDamaged)
	}
	if n.Format != noteFormat {
		return nil, fmt.Errorf("the messenger's note has format %d: %w", n.Format, core.ErrUnsupported)
	}
	return n, nil
}

// edit changes the note within a transaction.
func edit(ctx context.Context, tx *client.Transaction, f func(*note)) error {
	n, err := parseNote(tx.Data(ctx))
	if err != nil {
		return err
	}
	f(n)
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err = tx.SetData(ctx, data); errors.Is(err, core.ErrTooLarge) {
		return ErrFull
	}
	return err
}

// keep adds what happened to what is unread.
func keep(ctx context.Context, tx *client.Transaction, id core.ConversationID, items ...Item) error {
	if len(items) == 0 {
		return nil
	}
	return edit(ctx, tx, func(n *note) { n.keep(id, items...) })
}

func (n *note) keep(id core.ConversationID, items ...Item) {
	for _, i := range items {
		i.Time = time.Now().UTC().Truncate(time.Second)
		n.Unread = append(n.Unread, unread{[]byte(id), i})
	}
}

// inside is for when we have come into a conversation: that we were out of it is past.
func (n *note) inside(id core.ConversationID) {
	n.chat(id).Leaving, n.chat(id).Leavers = false, nil
	for i := range n.Unread {
		if u := &n.Unread[i]; string(u.Conversation) == string(id) && u.Item.Kind == Left {
			u.Item.Past = true
		}
	}
}

// chat finds what there is of a conversation, to be read or changed.
func (n *note) chat(id core.ConversationID) *chat {
	for i := range n.Chats {
		if string(n.Chats[i].Conversation) == string(id) {
			return &n.Chats[i]
		}
	}
	n.Chats = append(n.Chats, chat{Conversation: []byte(id)})
	return &n.Chats[len(n.Chats)-1]
}
