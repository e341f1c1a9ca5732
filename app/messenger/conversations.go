// SPDX-License-Identifier: Apache-2.0

package messenger

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
)

// ErrLeaving: we have said that we leave; nothing more is sent.
var ErrLeaving = fmt.Errorf("we are leaving this conversation: %w", core.ErrDenied)

// ErrKept: a text could not be delivered now. It is kept, and sent once with the
// next verb in its conversation that reaches the service.
var ErrKept = errors.New("the message is kept")

// ErrNotDelivered: a text will never arrive; the error says why.
var ErrNotDelivered = fmt.Errorf("the message is not delivered: %w", core.ErrDenied)

// ErrNoClient: somebody who should be added is not at the delivery service.
var ErrNoClient = errors.New("there is no such client")

// ErrSuite: somebody who should be added has an identity of another cipher suite.
var ErrSuite = fmt.Errorf("another cipher suite: %w", core.ErrUnsupported)

// Create makes a conversation with us as its only member. Nobody hears of it yet.
func (m *Messenger) Create(ctx context.Context, name string) (core.ConversationID, error) {
	id, err := newID(name)
	if err != nil {
		return "", err
	}
	kind, err := m.kind(ctx, m.suite)
	if err != nil {
		return "", err
	}
	return id, m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, id, client.ConversationConfig{Suite: m.suite, Credential: kind})
		return err
	})
}

// enter finds a conversation and takes what waits in it.
func (m *Messenger) enter(ctx context.Context, name string) (core.ConversationID, error) {
	if err := m.welcomes(ctx); err != nil {
		return "", err
	}
	id, err := m.Find(ctx, name)
	if err != nil {
		return "", err
	}
	if err := m.catchUp(ctx, id); err != nil {
		return "", err
	}
	return id, m.staying(ctx, id)
}

// staying is ErrLeaving where we have said that we leave, and client.ErrRecovering where
// we have to join again.
func (m *Messenger) staying(ctx context.Context, id core.ConversationID) error {
	if err := m.recovering(ctx, id); err != nil {
		return err
	}
	n, err := parseNote(m.client.Data(ctx))
	if err == nil && n.chat(id).Leaving {
		return ErrLeaving
	}
	return err
}

// later says whether only the way to the service, or its answer, is lacking.
func later(err error) bool {
	return !errors.Is(err, ErrFull) && (errors.Is(err, core.ErrUnavailable) || errors.Is(err, core.ErrUnknownOutcome))
}

// Add adds clients with one commit. ErrNoClient: one of them is not known to the
// service. ErrSuite. core.ErrDenied: the service gave somebody else's key package.
func (m *Messenger) Add(ctx context.Context, name string, clients ...core.ClientID) error {
	id, err := m.enter(ctx, name)
	if err != nil {
		return err
	}
	members, err := m.client.ClientIDs(ctx, id)
	if err != nil {
		return err
	}
	for i, c := range clients {
		if slices.Contains(members, c) || slices.Contains(clients[:i], c) {
			return fmt.Errorf("%q is a member already: %w", c, core.ErrInvalid)
		}
	}
	info, err := m.client.Info(ctx, id)
	if err != nil {
		return err
	}
	var packages [][]byte
	for i, c := range clients {
		m.progress("key packages", i, len(clients))
		k, err := m.service.Claim(ctx, c)
		if errors.Is(err, core.ErrNotFound) {
			err = fmt.Errorf("%w: %w", ErrNoClient, err)
		}
		if err != nil {
			return fmt.Errorf("key package of %q: %w", c, err)
		}
		if err := m.belongs(k, c, info.Suite); err != nil {
			return err
		}
		packages = append(packages, k)
	}
	return m.commit(ctx, id, client.Changes{Add: packages})
}

// belongs checks that the service did not hand out a key package of somebody else, and
// that the client can be in a conversation of the suite. Whether a certificate holds is asked
// when the client is added.
func (m *Messenger) belongs(message []byte, c core.ClientID, suite core.SuiteID) error {
	parsed, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		return fmt.Errorf("key package of %q: %w", c, err)
	}
	k := parsed.KeyPackage
	if k == nil {
		return fmt.Errorf("the delivery service gave no key package of %q: %w", c, core.ErrDenied)
	}
	who, err := m.auth.Validate(k.LeafNode.Credential, k.LeafNode.SignatureKey, time.Now(), core.PurposeIdentify)
	if err != nil || who.ClientID != c {
		return errors.Join(fmt.Errorf("the delivery service gave a key package that is not of %q: %w", c, core.ErrDenied), err)
	}
	if s := k.Suite; s != suite {
		return fmt.Errorf("%q has an identity of suite %d, the conversation is of suite %d: %w", c, s, suite, ErrSuite)
	}
	return nil
}

// Remove removes clients with one commit. They can read nothing that is sent after.
func (m *Messenger) Remove(ctx context.Context, name string, clients ...core.ClientID) error {
	id, err := m.enter(ctx, name)
	if err != nil {
		return err
	}
	members, err := m.client.ClientIDs(ctx, id)
	if err != nil {
		return err
	}
	own, err := m.client.ClientID(ctx)
	if err != nil {
		return err
	}
	for _, c := range clients {
		if c == own {
			return fmt.Errorf("a member cannot remove itself, only leave: %w", core.ErrInvalid)
		}
		if !slices.Contains(members, c) {
			return fmt.Errorf("%q is not a member: %w", c, core.ErrNotFound)
		}
	}
	return m.commit(ctx, id, client.Changes{Remove: clients})
}

// Update renews our keys in the conversation.
func (m *Messenger) Update(ctx context.Context, name string) error {
	id, err := m.enter(ctx, name)
	if err != nil {
		return err
	}
	return m.commit(ctx, id, client.Changes{Update: true})
}

// commit commits changes and whatever is proposed.
func (m *Messenger) commit(ctx context.Context, id core.ConversationID, changes client.Changes) error {
	accepted := false
	err := m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, id)
		if err != nil {
			return err
		}
		result, err := c.Commit(ctx, changes)
		if err != nil {
			return err
		}
		accepted = true // and durable
		if err := took(ctx, tx, id, result, 0); err != nil || !changes.Update {
			return err
		}
		return edit(ctx, tx, func(n *note) { n.chat(id).Reused = false })
	})
	return halfway(accepted, err)
}

// halfway is for a commit that was accepted while the keystore went away, before what
// follows from it was written: who is told that it is unavailable alone would commit again.
func halfway(accepted bool, err error) error {
	if accepted && errors.Is(err, core.ErrUnavailable) {
		return fmt.Errorf("the commit was accepted, and what follows from it is not written down: %w: %w", core.ErrUnknownOutcome, err)
	}
	return err
}

// Send sends a text. It is delivered, once, when Send returns; with ErrKept, which
// comes with the reason, it is sent later. After every other error it is not sent:
// with ErrNotDelivered it was on its way, and will never arrive. Only of a text that was on
// its way for half an hour it may be that nobody knows: core.ErrUnknownOutcome.
func (m *Messenger) Send(ctx context.Context, name string, text []byte) error {
	if len(text) > MaxText {
		return fmt.Errorf("a text of %d bytes, the longest is %d: %w", len(text), MaxText, core.ErrTooLarge)
	}
	id, err := m.enter(ctx, name)
	if later(err) {
		if id, err = m.Find(ctx, name); err == nil {
			err = m.staying(ctx, id)
		}
	}
	if err != nil {
		return err
	}
	key, err := m.client.Deliver(ctx, id, text, nil)
	var refused *client.RefusedError
	switch {
	case err != nil && key != (client.IdempotencyKey{}):
		return fmt.Errorf("%w: %w", ErrKept, err)
	case errors.As(err, &refused):
		return fmt.Errorf("%w: %s", ErrNotDelivered, refused.Reason)
	}
	return err
}

// settle sends what waits to be sent. Where commits of others keep overtaking it,
// it takes them and tries again, a few times.
func (m *Messenger) settle(ctx context.Context, id core.ConversationID) (err error) {
	for range 4 {
		if err = m.client.Settle(ctx, id); !errors.Is(err, core.ErrUnavailable) {
			return err
		}
		if drainErr := m.transport.Drain(ctx, id); drainErr != nil {
			return err
		}
	}
	return err
}

// Leave proposes our own removal and stops sending. The conversation is deleted
// here when another member commits the proposal; if there is no other, or a member has
// ended it, or it would have to be joined again first, at once.
func (m *Messenger) Leave(ctx context.Context, name string) (gone bool, err error) {
	if id, err := m.Find(ctx, name); err == nil && m.recovering(ctx, id) != nil {
		return true, m.forget(ctx, id)
	}
	id, err := m.enter(ctx, name)
	if err != nil {
		return false, err
	}
	members, err := m.client.ClientIDs(ctx, id)
	if err != nil {
		return false, err
	}
	info, err := m.client.Info(ctx, id)
	if err != nil {
		return false, err
	}
	if len(members) == 1 || info.ReInit != nil {
		return true, m.forget(ctx, id)
	}
	return false, m.proposeLeaving(ctx, id)
}

func (m *Messenger) proposeLeaving(ctx context.Context, id core.ConversationID) error {
	err := m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, id)
		if err != nil {
			return err
		}
		if _, err := c.Leave(ctx); err != nil {
			return err
		}
		return edit(ctx, tx, func(n *note) { n.chat(id).Leaving = true })
	})
	if err != nil {
		return err
	}
	return m.settle(ctx, id)
}

// A Status is what a conversation is at the moment.
type Status struct {
	client.Info
	Members     []core.ClientID // in leaf order
	Fingerprint []byte          // of the epoch's exporter secret: equal for all who share it
	Leaving     bool
	Unread      int // texts, and those that could not be opened
}

// Status tells what is known here of a conversation, without asking the service.
func (m *Messenger) Status(ctx context.Context, name string) (s Status, err error) {
	id, err := m.Find(ctx, name)
	if err != nil {
		return s, err
	}
	return m.status(ctx, id)
}

func (m *Messenger) status(ctx context.Context, id core.ConversationID) (s Status, err error) {
	n, err := parseNote(m.client.Data(ctx))
	if err != nil {
		return s, err
	}
	s.ID, s.Leaving = id, n.chat(id).Leaving
	for _, u := range n.Unread {
		if string(u.Conversation) == string(id) && (u.Item.Kind == Text || u.Item.Kind == Lost) {
			s.Unread++
		}
	}
	s.Info, err = m.client.Info(ctx, id)
	if errors.Is(err, core.ErrNotFound) { // left, but not read to its end
		s.ID = id
		return s, nil
	}
	if err != nil {
		return s, err
	}
	if s.Members, err = m.client.ClientIDs(ctx, id); err != nil {
		return s, err
	}
	if s.Recovering {
		return s, nil
	}
	secret, err := m.client.ExportSecret(ctx, id, 32)
	if err != nil {
		return s, err
	}
	defer secret.Wipe()
	sum := sha256.Sum256(append([]byte("conclave fingerprint\x00"), secret.Bytes()...))
	s.Fingerprint = sum[:10]
	return s, nil
}

// List tells what is known here of all conversations, also of those that we have
// left and have not read to their end.
func (m *Messenger) List(ctx context.Context) (list []Status, err error) {
	ids, err := m.client.Conversations(ctx)
	if err != nil {
		return nil, err
	}
	n, err := parseNote(m.client.Data(ctx))
	if err != nil {
		return nil, err
	}
	for _, u := range n.Unread {
		if id := core.ConversationID(u.Conversation); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		s, err := m.status(ctx, id)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}
