// SPDX-License-Identifier: Apache-2.0

package clienttest

import (
	"context"
	"fmt"
	"sync"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// A Backend is a delivery service as one sees it: a [Service], or something in
// front of one.
type Backend interface {
	SubmitCommit(by core.ClientID, id core.ConversationID, b client.CommitBundle) client.Outcome
	SendMessage(by core.ClientID, id core.ConversationID, key string, message []byte) client.Outcome
	Next(to core.ClientID, id core.ConversationID) (number int, message []byte, err error)
	Ack(to core.ClientID, id core.ConversationID, number int)
	Welcome(to core.ClientID) (Welcome, bool)
	TakeWelcome(to core.ClientID)
	GroupInfo(id core.ConversationID) ([]byte, error)
}

// The calls that a [Link] can be told to treat badly.
const (
	CallCommit = "commit" // SubmitCommit
	CallSend   = "send"   // SendMessage
)

// A Link is the [client.Transport] of one device. A test has it go offline, refuse
// a commit, lose an answer or hold a message back; what it was told may change at
// any time.
type Link struct {
	Service Backend
	ID      core.ClientID
	// Receive gets each message in Drain; it was taken if there is no error.
	Receive func(ctx context.Context, id core.ConversationID, message []byte) error
	// Before and After, if set, are called around CallCommit and CallSend. An error
	// of Before keeps the call from the service; one of After loses its answer.
	Before, After func(call string) error

	mu      sync.Mutex
	offline bool
	refuse  map[string][]client.Outcome
	lose    map[string]int
	hold    int
	held    []heldBack
}

type heldBack struct {
	id      core.ConversationID
	message []byte
}

var _ client.Transport = (*Link)(nil)
var _ client.GroupInfoSource = (*Link)(nil)

// SetOffline cuts the device off, or connects it again: offline, every call fails
// with core.ErrUnavailable and nothing reaches the service.
func (l *Link) SetOffline(offline bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.offline = offline
}

// Refuse gives the next such call this outcome; the service does not hear of it.
// Several are given in turn.
func (l *Link) Refuse(call string, outcome client.Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse == nil {
		l.refuse = map[string][]client.Outcome{}
	}
	l.refuse[call] = append(l.refuse[call], outcome)
}

// LoseAnswer has the service take the next such call, and the device hear nothing
// of it: core.ErrUnknownOutcome.
func (l *Link) LoseAnswer(call string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lose == nil {
		l.lose = map[string]int{}
	}
	l.lose[call]++
}

// HoldBack keeps the next n messages from the device: those after them come first,
// and those kept come with Release.
func (l *Link) HoldBack(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold += n
}

// Release gives the device what was held back, and holds back nothing more.
func (l *Link) Release(ctx context.Context) error {
	l.mu.Lock()
	held := l.held
	l.held, l.hold = nil, 0
	l.mu.Unlock()
	for _, h := range held {
		if err := l.Receive(ctx, h.id, h.message); err != nil {
			return err
		}
	}
	return nil
}

// online is core.ErrUnavailable if the device is cut off.
func (l *Link) online() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.offline {
		return fmt.Errorf("%s is offline: %w", l.ID, core.ErrUnavailable)
	}
	return nil
}

// told takes what was ordered for one call.
func (l *Link) told(name string) (outcome client.Outcome, refuse, lose bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if list := l.refuse[name]; len(list) > 0 {
		l.refuse[name] = list[1:]
		return list[0], true, false
	}
	if l.lose[name] > 0 {
		l.lose[name]--
		lose = true
	}
	return outcome, false, lose
}

func (l *Link) call(name string, f func() client.Outcome) (client.Outcome, error) {
	if err := l.online(); err != nil {
		return client.Outcome{}, err
	}
	if l.Before != nil {
		if err := l.Before(name); err != nil {
			return client.Outcome{}, err
		}
	}
	outcome, refuse, lose := l.told(name)
	if !refuse {
		outcome = f()
	}
	if lose {
		return client.Outcome{}, fmt.Errorf("the answer to a %s was lost: %w", name, core.ErrUnknownOutcome)
	}
	if l.After != nil {
		if err := l.After(name); err != nil {
			return client.Outcome{}, err
		}
	}
	return outcome, nil
}

// SubmitCommit implements [client.Transport].
func (l *Link) SubmitCommit(_ context.Context, id core.ConversationID, _ string, b client.CommitBundle) (client.Outcome, error) {
	return l.call(CallCommit, func() client.Outcome { return l.Service.SubmitCommit(l.ID, id, b) })
}

// SendMessage implements [client.Transport].
func (l *Link) SendMessage(_ context.Context, id core.ConversationID, key string, message []byte) (client.Outcome, error) {
	return l.call(CallSend, func() client.Outcome { return l.Service.SendMessage(l.ID, id, key, message) })
}

// Drain implements [client.Transport].
func (l *Link) Drain(ctx context.Context, id core.ConversationID) error {
	for {
		if err := l.online(); err != nil {
			return err
		}
		number, message, err := l.Service.Next(l.ID, id)
		if err != nil || number == 0 {
			return err
		}
		if !l.keeps(id, message) {
			if err := l.Receive(ctx, id, message); err != nil {
				return err
			}
		}
		l.Service.Ack(l.ID, id, number)
	}
}

// keeps holds a message back if it was told to.
func (l *Link) keeps(id core.ConversationID, message []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hold == 0 {
		return false
	}
	l.hold--
	l.held = append(l.held, heldBack{id, message})
	return true
}

// GroupInfo implements [client.GroupInfoSource].
func (l *Link) GroupInfo(_ context.Context, id core.ConversationID) ([]byte, error) {
	if err := l.online(); err != nil {
		return nil, err
	}
	return l.Service.GroupInfo(id)
}
