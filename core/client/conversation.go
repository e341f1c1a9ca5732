// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// A ConversationConfig is what a new conversation shall be. The zero value takes
// the client's most preferred suite and a basic credential.
type ConversationConfig struct {
	Suite           core.SuiteID
	Credential      core.CredentialType
	CredentialRef   CredentialRef        // not 0: this one of ours, instead of the newest of the type
	ExternalSenders []mls.ExternalSender // who may propose from outside; see ParseExternalSenders
	Group           mls.Config           // zero: mls.DefaultConfig; else as it is, and without MaxForward or Handshake core.ErrInvalid
}

// groupConfig is what was chosen for a group, or mls.DefaultConfig if nothing was. A choice
// by which no sender may jump ahead would lose messages for ever, and one without a format
// for handshakes would have the others refuse them: who makes one has not begun with
// mls.DefaultConfig.
func groupConfig(c mls.Config) (mls.Config, error) {
	switch {
	case c == mls.Config{}:
		return mls.DefaultConfig, nil
	case c.MaxForward == 0 || c.Handshake != mls.HandshakePublic && c.Handshake != mls.HandshakePrivate:
		return mls.Config{}, errGroupConfig
	}
	return c, nil
}

// A Conversation is a group as a transaction sees it, with all that a [View] can be
// asked. It is good for as long as the transaction is.
type Conversation struct {
	View
	tx   *Transaction
	last bool // see LastResort
}

// LastResort says of what [Transaction.ProcessWelcome] has returned that the key package
// that we were added by stays in use: our leaf has a key that other leaves of ours may have
// too. An Update or a commit with a path, soon, ends that (RFC 9420 section 16.8, KP-5).
// Who keeps in the same transaction that it has to be done forgets it in no crash.
func (c *Conversation) LastResort() bool { return c.last }

func (t *Transaction) conversation(id core.ConversationID) *Conversation {
	c := &Conversation{tx: t}
	c.View = View{id: id, view: func(ctx context.Context, f func(view) error) error {
		return t.do(ctx, func() error {
			h, err := t.memberToRead(ctx, id)
			if err != nil {
				return err
			}
			return t.explain(ctx, h, f(view{h.group, t.own(ctx, h), h.head}))
		})
	}}
	return c
}

// Conversation opens a conversation that we are in; ErrConversationNotFound. After an
// accident of the store, until it is joined again, it answers questions and can be wiped,
// and the rest is [ErrRecovering].
func (t *Transaction) Conversation(ctx context.Context, id core.ConversationID) (*Conversation, error) {
	return in(ctx, t, func() (*Conversation, error) {
		if _, err := t.memberToRead(ctx, id); err != nil {
			return nil, err
		}
		return t.conversation(id), nil
	})
}

// NewConversation makes a conversation with us as its only member, in epoch 0.
// ErrConversationExists if we are in it or about to join it.
func (t *Transaction) NewConversation(ctx context.Context, id core.ConversationID, cfg ConversationConfig) (*Conversation, error) {
	return in(ctx, t, func() (*Conversation, error) { return t.newConversation(ctx, id, cfg) })
}

func (t *Transaction) newConversation(ctx context.Context, id core.ConversationID, cfg ConversationConfig) (*Conversation, error) {
	config, err := groupConfig(cfg.Group)
	if err != nil {
		return nil, err
	}
	h, err := t.hold(ctx, id)
	if err != nil {
		return nil, err
	}
	if h.group != nil || h.head.join.exists() {
		return nil, ErrConversationExists
	}
	if cfg.Suite == 0 {
		cfg.Suite = t.client.suites.Suites()[0]
	}
	suite, err := t.client.suites.Suite(cfg.Suite)
	if err != nil {
		return nil, err
	}
	own, signer, err := t.ownSigner(ctx, suite, cfg.Credential, cfg.CredentialRef)
	if err != nil {
		return nil, err
	}
	extensions := mls.Extensions{mls.RequiredCapabilities{
		Credentials: []core.CredentialType{core.CredentialBasic, core.CredentialX509},
	}.Extension()}
	if len(cfg.ExternalSenders) > 0 {
		senders := slices.Clone(cfg.ExternalSenders)
		for i, s := range senders {
			senders[i].SignatureKey = mls.Uncompressed(suite.Parameters().Scheme, s.SignatureKey)
		}
		extensions = append(extensions, mls.ExternalSendersExtension(senders))
	}
	now := t.client.now()
	g, ws, err := mls.Create(ctx, t.env(ctx, id, h.head.next), mls.CreateParams{
		Suite: suite, GroupID: []byte(id), Signer: signer, Credential: own.Credential,
		Capabilities: mls.DefaultCapabilities(t.client.suites.Suites()), Extensions: extensions, Config: config,
		Lifetime: mls.Lifetime{NotBefore: unix(now.Add(-clockSkew)), NotAfter: unix(now.Add(keyPackageLifetime))},
	})
	if err != nil {
		return nil, err
	}
	t.emptyBuffer(h)
	if err := t.inhabit(ctx, h, h.head.next, g, ws, own.Ref); err != nil {
		return nil, err
	}
	return t.conversation(id), nil
}

// inhabit makes a fresh incarnation, with one of our credentials, the one that the
// conversation lives in.
func (t *Transaction) inhabit(ctx context.Context, h *held, incarnation uint32, g *mls.Group, ws *record.WriteSet, own CredentialRef) error {
	if err := t.enlist(ctx, h); err != nil {
		return err
	}
	if err := t.use(ctx, h, own); err != nil {
		return err
	}
	if h.head.active != 0 {
		t.segment.del(ofGroup(h.id, h.head.active), nil)
	}
	h.head.active = incarnation
	h.head.next = max(h.head.next, incarnation+1)
	t.noPending(h)
	h.head.merged, h.head.began = digest{}, digest{}
	h.head.lost = false
	h.head.waiting.ready = h.head.waiting.count > 0
	t.advance(h, g, ws)
	t.client.haveRead(h.id, g.Epoch()) // of those before it we can read nothing
	t.segment.events = append(t.segment.events, EpochChanged{h.id, g.Epoch()})
	t.note(slog.LevelInfo, h, "conversation entered", slog.Uint64("epoch", g.Epoch()))
	return nil
}

// enlist puts a conversation that has no head yet into the list of all.
func (t *Transaction) enlist(ctx context.Context, h *held) error {
	if h.exists {
		return nil
	}
	list, err := t.segment.set(ctx, conversationList)
	if err != nil {
		return err
	}
	h.head.sequence = list.next
	list.put(be64(list.next), newEncoder().bytes([]byte(h.id)))
	h.exists, h.dirty = true, true
	return nil
}

// conversationList is the set of all conversations with a head.
var conversationList = at(tableConversations, "")

// conversations lists the ids of all conversations with a head, in the order in
// which they came.
func conversations(ctx context.Context, s *segment) ([]core.ConversationID, error) {
	return names[core.ConversationID](ctx, s, conversationList)
}

// forget deletes the group and, unless a join waits, everything else that there is
// of the conversation. What was accepted for sending is reported.
func (t *Transaction) forget(ctx context.Context, h *held, reason string) error {
	if err := t.undeliverable(ctx, h, reason); err != nil {
		return err
	}
	if h.head.active != 0 {
		t.segment.del(ofGroup(h.id, h.head.active), nil)
		t.segment.events = append(t.segment.events, Left{h.id})
		t.note(slog.LevelInfo, h, "conversation left", slog.String("reason", reason))
	}
	if h.head.pending.exists() {
		in, err := t.intended(ctx, h)
		if err != nil {
			return err
		}
		t.ended(h.id, in.key, nil, fmt.Errorf("%s: %w", reason, ErrConversationNotFound))
	}
	left := h.head.epoch
	h.group, h.damaged, h.dirty = nil, nil, true
	t.noPending(h)
	h.head.active, h.head.epoch = 0, 0
	h.head.merged, h.head.began = digest{}, digest{}
	t.emptyBuffer(h)
	if h.head.join.exists() || !h.exists {
		return nil
	}
	list, err := t.segment.set(ctx, conversationList)
	if err != nil {
		return err
	}
	list.remove(be64(h.head.sequence))
	for _, table := range []core.Table{tableLease, tableJoin, tableUse} {
		t.segment.del(ofConversation(table, h.id), nil)
	}
	// What was burnt in an epoch that is still to come stays: a Welcome may lead there.
	for epoch := range h.floors {
		if epoch <= left {
			t.segment.del(ofConversation(tableFloors, h.id), be64(epoch))
		}
	}
	h.exists = false
	h.head = head{id: h.id, next: h.head.next, accidents: h.head.accidents}
	return nil
}

// WipeConversation deletes everything that we have of a conversation, here, also a join
// that waits for its answer, and also if the conversation is damaged. The other members
// are not told; see [Conversation.Leave].
func (t *Transaction) WipeConversation(ctx context.Context, id core.ConversationID) error {
	return t.do(ctx, func() error {
		h, err := t.salvage(ctx, id)
		if err != nil {
			return err
		}
		if h.group == nil && h.damaged == nil && !h.head.lost {
			return ErrConversationNotFound
		}
		if err := t.clear(ctx, h); err != nil {
			return err
		}
		if h.head.join.exists() { // of which forget would keep what it takes to go on
			if err := t.dropJoin(ctx, h); err != nil {
				return err
			}
		}
		return t.forget(ctx, h, "the conversation was wiped")
	})
}

// Wipe is [Transaction.WipeConversation] for this conversation.
func (c *Conversation) Wipe(ctx context.Context) error { return c.tx.WipeConversation(ctx, c.id) }

// with runs an operation on the conversation.
func (c *Conversation) with(ctx context.Context, f func(h *held) error) error {
	return c.tx.do(ctx, func() error {
		h, err := c.tx.member(ctx, c.id)
		if err != nil {
			return err
		}
		return c.tx.explain(ctx, h, f(h))
	})
}

// SetParent marks the conversation as a child of another, which must exist then, else
// ErrParentNotFound.
// Nothing but [View.Parent] depends on it.
func (c *Conversation) SetParent(ctx context.Context, parent core.ConversationID) error {
	return c.with(ctx, func(h *held) error {
		p, err := c.tx.holdToRead(ctx, parent)
		if err != nil {
			return err
		}
		if !p.exists {
			return ErrParentNotFound
		}
		h.head.parent, h.dirty = parent, true
		return nil
	})
}
