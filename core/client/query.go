// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A view is a group with what it takes to ask it something. Conversation and
// Client answer the same questions: one about what the transaction did so far,
// the other about what is durable.
type view struct {
	group *mls.Group
	env   *mls.Env
	head  head
}

// view runs f on what is durable. If another process goes on meanwhile, it starts
// over.
func (c *Client) view(ctx context.Context, id core.ConversationID, f func(view) error) error {
	if err := c.open(); err != nil {
		return err
	}
	defer c.done()
	s := newSegment(c.store)
	for try := 1; ; try++ {
		r, found, err := s.get(ctx, ofConversation(tableConversation, id), theOnly)
		if err != nil {
			return err
		}
		if !found {
			return ErrConversationNotFound
		}
		err = c.viewOf(ctx, s, id, r.Version, r.Value, f)
		if !errors.Is(err, core.ErrDamaged) && !errors.Is(err, core.ErrConflict) || try == maxTries {
			return err
		}
		again, _, readErr := s.get(ctx, ofConversation(tableConversation, id), theOnly)
		if readErr != nil || again.Version == r.Version {
			return err
		}
	}
}

func (c *Client) viewOf(ctx context.Context, s *segment, id core.ConversationID, version core.Version, value []byte, f func(view) error) error {
	h, err := decodeHead(value)
	if err != nil {
		return err
	}
	if h.active == 0 {
		return ErrConversationNotFound
	}
	g, done := c.cache.read(id, version)
	if g == nil {
		if g, err = c.loadGroup(ctx, s, id, h.active); err != nil {
			return err
		}
		done = func() {}
	}
	defer done()
	return f(view{g, c.env(s, id, h.active), h})
}

func (c *Conversation) view(ctx context.Context, f func(view) error) error {
	return c.with(ctx, func(h *held) error { return f(view{h.group, c.tx.own(h), h.head}) })
}

// identify reads who a member is.
func (v view) identify(m mls.Member) (core.ClientID, error) {
	return identify(v.env, m.Credential, m.SignatureKey)
}

func identify(env *mls.Env, c core.Credential, key []byte) (core.ClientID, error) {
	who, err := env.Auth.Validate(c, key, env.Now, core.PurposeIdentify)
	return who.ClientID, err
}

func (v view) clientIDs(ctx context.Context) (ids []core.ClientID, err error) {
	members, err := v.group.Members(ctx, v.env)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		id, err := v.identify(m)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// Info is what a conversation is at the moment.
type Info struct {
	ID                 core.ConversationID
	Suite              core.SuiteID
	Epoch              uint64
	EpochAuthenticator []byte // equal for members in the same state
	PendingCommit      bool   // a commit of ours waits for the service's answer
	PendingProposals   int
	PendingJoin        bool // an external commit of ours waits
	Buffered           int  // messages that wait for another epoch
	BufferedCommit     bool // a commit that lacks proposals waits
	Parent             core.ConversationID
	Config             mls.Config
}

func (v view) info(ctx context.Context) (Info, error) {
	i := Info{
		ID: v.head.id, Suite: v.group.Suite(), Epoch: v.group.Epoch(), EpochAuthenticator: v.group.EpochAuthenticator(),
		PendingCommit: v.head.pending.exists(), PendingJoin: v.head.join.exists(),
		Buffered: int(v.head.waiting.count), BufferedCommit: v.head.waiting.commit,
		Parent: v.head.parent, Config: v.group.Config(),
	}
	for _, err := range v.group.PendingProposals(ctx, v.env) {
		if err != nil {
			return Info{}, err
		}
		i.PendingProposals++
	}
	return i, nil
}

// exporterLabel is the label of [Conversation.ExportSecret].
const exporterLabel = "exporter"

func (v view) exportSecret(length int) (core.Secret, error) {
	return v.group.Export(exporterLabel, nil, length)
}

// Info tells what the conversation is at the moment.
func (c *Conversation) Info(ctx context.Context) (i Info, err error) {
	err = c.view(ctx, func(v view) error { i, err = v.info(ctx); return err })
	return i, err
}

// Epoch is the current epoch.
func (c *Conversation) Epoch(ctx context.Context) (epoch uint64, err error) {
	err = c.view(ctx, func(v view) error { epoch = v.group.Epoch(); return nil })
	return epoch, err
}

// ClientIDs lists the members in leaf order, without what is pending.
func (c *Conversation) ClientIDs(ctx context.Context) (ids []core.ClientID, err error) {
	err = c.view(ctx, func(v view) error { ids, err = v.clientIDs(ctx); return err })
	return ids, err
}

// ExportSecret is MLS-Exporter with the label "exporter" and no context: another
// secret in each epoch, the same for all members.
func (c *Conversation) ExportSecret(ctx context.Context, length int) (s core.Secret, err error) {
	err = c.view(ctx, func(v view) error { s, err = v.exportSecret(length); return err })
	return s, err
}

// ExternalSender is the public key of the first who may propose from outside;
// core.ErrNotFound if there is none.
func (c *Conversation) ExternalSender(ctx context.Context) (key []byte, err error) {
	err = c.view(ctx, func(v view) error { key, err = v.externalSender(); return err })
	return key, err
}

func (v view) externalSender() ([]byte, error) {
	senders, err := v.group.Extensions().ExternalSenders()
	if err != nil {
		return nil, err
	}
	if len(senders) == 0 {
		return nil, fmt.Errorf("external sender: %w", core.ErrNotFound)
	}
	return senders[0].SignatureKey, nil
}

// GroupInfo makes the GroupInfo of the current epoch, an MLSMessage, for those who
// join by external commit.
func (c *Conversation) GroupInfo(ctx context.Context) (message []byte, err error) {
	err = c.view(ctx, func(v view) error { message, err = v.group.GroupInfo(ctx, v.env, mls.GroupInfoParams{}); return err })
	return message, err
}

// Conversations lists the conversations that are durable, in the order in which
// they came, also those that we are only about to join.
func (c *Client) Conversations(ctx context.Context) ([]core.ConversationID, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	defer c.done()
	return conversations(ctx, newSegment(c.store))
}

// ClientID is who we are; ErrNotInitialized.
func (c *Client) ClientID(ctx context.Context) (core.ClientID, error) {
	if err := c.open(); err != nil {
		return "", err
	}
	defer c.done()
	return clientID(ctx, newSegment(c.store))
}

// Info tells what a conversation durably is.
func (c *Client) Info(ctx context.Context, id core.ConversationID) (i Info, err error) {
	err = c.view(ctx, id, func(v view) error { i, err = v.info(ctx); return err })
	return i, err
}

// ClientIDs lists the members of a conversation in leaf order.
func (c *Client) ClientIDs(ctx context.Context, id core.ConversationID) (ids []core.ClientID, err error) {
	err = c.view(ctx, id, func(v view) error { ids, err = v.clientIDs(ctx); return err })
	return ids, err
}

// ExportSecret is [Conversation.ExportSecret] of what is durable.
func (c *Client) ExportSecret(ctx context.Context, id core.ConversationID, length int) (s core.Secret, err error) {
	err = c.view(ctx, id, func(v view) error { s, err = v.exportSecret(length); return err })
	return s, err
}
