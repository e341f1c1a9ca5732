// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"

	"github.com/conclave-mls/conclave/core"
)

// A Transport speaks to the delivery service. The application provides it. None
// of its methods is called while a conversation is held, so it may start
// transactions, with the context it is given.
//
// An error means that the outcome is unknown: the service may have accepted. What
// it surely did not accept is an outcome.
type Transport interface {
	// SubmitCommit publishes a commit with what belongs to it. The key names the
	// bytes of the commit: the same is submitted again after an unknown outcome.
	SubmitCommit(ctx context.Context, id core.ConversationID, key string, b CommitBundle) (Outcome, error)
	// SendMessage publishes an application message or a proposal. The key names
	// the message, which may have been encrypted again since the last try.
	SendMessage(ctx context.Context, id core.ConversationID, key string, message []byte) (Outcome, error)
	// Drain returns when everything that waits for us in the conversation has been
	// given to DecryptMessage and is durable. Nothing waiting is no error.
	Drain(ctx context.Context, id core.ConversationID) error
}

// A GroupInfoSource is a Transport that can fetch the GroupInfo (an MLSMessage) of
// a conversation that we are not in.
type GroupInfoSource interface {
	GroupInfo(ctx context.Context, id core.ConversationID) ([]byte, error)
}

// A CommitBundle is published whole or not at all. All messages are MLSMessages.
type CommitBundle struct {
	Commit    []byte
	Welcome   []byte // empty if nobody is added
	GroupInfo []byte // of the epoch that the commit begins
	Added     []core.ClientID
	Removed   []core.ClientID
	// EncryptedMessage is an application message of the epoch that the commit begins,
	// to be handed out behind it: the secret of the history client that it adds. Empty
	// if it adds none. The Welcome is for that client, too (see [IsHistoryClient]), and
	// is to be kept for who will read this era.
	EncryptedMessage []byte
}

// An Outcome is what became of a commit or a message.
type Outcome struct {
	Kind   OutcomeKind
	Reason string // Refused: for a person
}

// OutcomeKind is the service's answer.
type OutcomeKind uint8

// The answers.
const (
	Accepted  OutcomeKind = iota + 1 // now or at an earlier try
	Competing                        // another commit was accepted for the epoch, or this one at an earlier try
	Stale                            // the conversation has left the epoch of the message
	Refused                          // it will never be accepted
)

// SetTransport replaces the transport from the next call on; nil: there is none, and
// what needs one is ErrNoTransport. What waits to be sent stays: see [Client.Resume].
func (c *Client) SetTransport(t Transport) {
	if t == nil {
		c.link.Store(nil)
		return
	}
	c.link.Store(&t)
}

func (c *Client) online() bool { return c.link.Load() != nil }

// transport is never nil: it can be taken away at any time.
func (c *Client) transport() Transport {
	if t := c.link.Load(); t != nil {
		return *t
	}
	return offline{}
}

// offline is the transport that there is not.
type offline struct{}

func (offline) SubmitCommit(context.Context, core.ConversationID, string, CommitBundle) (Outcome, error) {
	return Outcome{}, ErrNoTransport
}

func (offline) SendMessage(context.Context, core.ConversationID, string, []byte) (Outcome, error) {
	return Outcome{}, ErrNoTransport
}

func (offline) Drain(context.Context, core.ConversationID) error { return ErrNoTransport }
