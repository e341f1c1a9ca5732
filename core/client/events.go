// SPDX-License-Identifier: Apache-2.0

package client

import "github.com/conclave-mls/conclave/core"

// An Event tells what became durable. It is one of EpochChanged, Left,
// HistoryClientCreated, Undelivered, Lapsed, Committed, CommitFailed, OutOfSync and
// RolledBack; see [Client.Observe].
//
// What it tells of is durable, the event is not: a process that ends between the two
// loses it, it does not come again, and other processes of the store do not hear of it.
type Event interface{ event() }

// EpochChanged: the conversation is in a new epoch, or was joined.
type EpochChanged struct {
	Conversation core.ConversationID
	Epoch        uint64
}

// Left: we are no longer in the conversation and nothing of it is kept.
type Left struct{ Conversation core.ConversationID }

// HistoryClientCreated: a commit of ours has added a history client to a conversation,
// which reads along from this epoch on. The secret went to the other members in a
// message; see Config.PrepareHistory: who must not lose the secret keeps it there.
type HistoryClientCreated struct {
	Conversation core.ConversationID
	Epoch        uint64
	Secret       HistorySecret
}

// Undelivered: what Send accepted will never arrive.
type Undelivered struct {
	Conversation core.ConversationID
	Key          IdempotencyKey
	Data         []byte
	Reason       string
}

// Lapsed: a proposal of ours was dropped unsent or refused.
type Lapsed struct {
	Conversation core.ConversationID
	Key          IdempotencyKey
	Reason       string
}

// Committed: a commit of ours that nobody waited for has begun a new epoch: one that
// was staged, or one whose outcome was unknown. Nothing was left to do if Own is false.
type Committed struct {
	Conversation core.ConversationID
	Key          IdempotencyKey // of StageCommit
	Result       *CommitResult
}

// CommitFailed: a commit of ours that nobody waited for will not be made: the service
// has refused it, others won every time, or what it was for cannot be done.
type CommitFailed struct {
	Conversation core.ConversationID
	Key          IdempotencyKey // of StageCommit
	Err          error
}

// OutOfSync: commits of the conversation seem to be missing here: a message is of an
// epoch beyond the next, or more waits for the next one than is kept. Drain the queue;
// if that does not help, see [Client.Rejoin]. The epoch of a message is not
// authenticated, so this is a hint.
type OutOfSync struct {
	Conversation core.ConversationID
	Epoch        uint64 // ours
	Seen         uint64 // of the message
}

// RolledBack: the store was put back to an older state, and the client has entered
// recovery: see AfterRollback. It is told once, by [Open].
type RolledBack struct{}

func (RolledBack) event()           {}
func (Committed) event()            {}
func (CommitFailed) event()         {}
func (OutOfSync) event()            {}
func (EpochChanged) event()         {}
func (Left) event()                 {}
func (HistoryClientCreated) event() {}
func (Undelivered) event()          {}
func (Lapsed) event()               {}
