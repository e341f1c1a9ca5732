// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A View answers questions about a conversation that we are in: as a transaction sees
// it, if it is that of a [Conversation], or as it durably is, if it is from
// [Client.View]. Nothing that a question asks changes anything. Every method is
// ErrConversationNotFound if we are not in the conversation.
type View struct {
	id   core.ConversationID
	view func(ctx context.Context, f func(view) error) error
}

// A view is a group with what it takes to ask it something.
type view struct {
	group *mls.Group
	env   *mls.Env
	head  head
}

// ask runs one question.
func ask[T any](ctx context.Context, v View, f func(view) (T, error)) (answer T, err error) {
	err = v.view(ctx, func(v view) error { answer, err = f(v); return err })
	return answer, err
}

// askKeys is ask for a question that is answered with the keys of the group.
func askKeys[T any](ctx context.Context, v View, f func(view) (T, error)) (answer T, err error) {
	return ask(ctx, v, func(v view) (T, error) {
		if v.head.lost {
			return *new(T), ErrRecovering
		}
		return f(v)
	})
}

// View returns the questions about a conversation, answered with what is durable:
// what a transaction has done and not finished is not seen. It waits for no
// transaction and may be used in one, in an observer and in a transport. It is good
// for as long as the client is open and always tells of the newest state.
func (c *Client) View(id core.ConversationID) View {
	return View{id: id, view: func(ctx context.Context, f func(view) error) error { return c.view(ctx, id, f) }}
}

// ID is the group id.
func (v View) ID() core.ConversationID { return v.id }

// view runs f on what is durable. If another process goes on meanwhile, it starts
// over.
func (c *Client) view(ctx context.Context, id core.ConversationID, f func(view) error) error {
	if err := c.open(); err != nil {
		return err
	}
	defer c.done()
	return c.look(ctx, id, f)
}

// look is view for who has opened the client already.
func (c *Client) look(ctx context.Context, id core.ConversationID, f func(view) error) error {
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
	h, err := c.decodeHead(value)
	if err != nil {
		return err
	}
	if h.active == 0 {
		return ErrConversationNotFound
	}
	g, done := c.cache.read(cacheKey{c, id}, version)
	if g == nil {
		if g, err = c.loadGroup(ctx, s, id, h.active); err != nil {
			return err
		}
		done = func() {}
	}
	defer done()
	return f(view{g, c.env(ctx, s, id, h.active), h})
}

// identify reads who a member is.
func (v view) identify(m mls.Member) (core.ClientID, error) {
	return identify(v.env, m.Credential, m.SignatureKey)
}

func identify(env *mls.Env, c core.Credential, key []byte) (core.ClientID, error) {
	who, err := whose(env, c, key)
	return who.ClientID, err
}

func whose(env *mls.Env, c core.Credential, key []byte) (core.Identity, error) {
	return env.Auth.Validate(c, key, env.Now, core.PurposeIdentify)
}

// A Member is a client in a conversation.
type Member struct {
	Leaf         mls.LeafIndex
	ClientID     core.ClientID
	Credential   core.CredentialType
	SignatureKey []byte // public, in the MLS encoding
}

func (v view) members(ctx context.Context) (list []Member, err error) {
	members, err := v.group.Members(ctx, v.env)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		id, err := v.identify(m)
		if err != nil {
			return nil, err
		}
		list = append(list, Member{Leaf: m.Leaf, ClientID: id, Credential: m.Credential.Type, SignatureKey: bytes.Clone(m.SignatureKey)})
	}
	return list, nil
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
	// BufferedSince is when the oldest of these came; zero if nothing waits. Who waits for
	// long has missed something: see OutOfSync.
	BufferedSince time.Time
	Parent        core.ConversationID
	Config        mls.Config
	Recovering    bool        // the store was put back: nothing works but to join again
	ReInit        *mls.ReInit // set: the conversation has ended; see CommitResult
}

func (v view) info(ctx context.Context) (Info, error) {
	i := Info{
		ID: v.head.id, Suite: v.group.Suite(), Epoch: v.group.Epoch(), EpochAuthenticator: v.group.EpochAuthenticator(),
		PendingCommit: v.head.pending.exists(), PendingJoin: v.head.join.exists(),
		Buffered: int(v.head.waiting.count), BufferedCommit: v.head.waiting.commit,
		Parent: v.head.parent, Config: v.group.Config(), ReInit: v.group.ReInit(), Recovering: v.head.lost,
	}
	if v.head.waiting.some() {
		i.BufferedSince = time.Unix(int64(v.head.waiting.since), 0)
	}
	if v.head.lost { // none of its proposals will be committed
		return i, nil
	}
	for _, err := range v.group.PendingProposals(ctx, v.env) {
		if err != nil {
			return Info{}, err
		}
		i.PendingProposals++
	}
	return i, nil
}

// Exists says whether we are in the conversation. Who is only about to join is not.
// Whether it is there may not be known, and that is an error.
func (v View) Exists(ctx context.Context) (bool, error) {
	err := v.view(ctx, func(view) error { return nil })
	if errors.Is(err, ErrConversationNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Info tells what the conversation is at the moment.
func (v View) Info(ctx context.Context) (Info, error) {
	return ask(ctx, v, func(v view) (Info, error) { return v.info(ctx) })
}

// Epoch is the current epoch.
func (v View) Epoch(ctx context.Context) (uint64, error) {
	return ask(ctx, v, func(v view) (uint64, error) { return v.group.Epoch(), nil })
}

// Suite is the cipher suite.
func (v View) Suite(ctx context.Context) (core.SuiteID, error) {
	return ask(ctx, v, func(v view) (core.SuiteID, error) { return v.group.Suite(), nil })
}

// Parent is what [Conversation.SetParent] set; empty if nothing.
func (v View) Parent(ctx context.Context) (core.ConversationID, error) {
	return ask(ctx, v, func(v view) (core.ConversationID, error) { return v.head.parent, nil })
}

// Members lists the members in leaf order, without what is pending.
func (v View) Members(ctx context.Context) ([]Member, error) {
	return ask(ctx, v, func(v view) ([]Member, error) { return v.members(ctx) })
}

// ClientIDs lists the members in leaf order, without what is pending.
func (v View) ClientIDs(ctx context.Context) ([]core.ClientID, error) {
	return ask(ctx, v, func(v view) ([]core.ClientID, error) {
		members, err := v.members(ctx)
		var ids []core.ClientID
		for _, m := range members {
			ids = append(ids, m.ClientID)
		}
		return ids, err
	})
}

// exporterLabel is the label of [View.ExportSecret], which members with Core Crypto
// use.
const exporterLabel = "exporter"

// ExportSecret is [View.Export] with the label "exporter" and no context.
func (v View) ExportSecret(ctx context.Context, length int) (core.Secret, error) {
	return v.Export(ctx, exporterLabel, nil, length)
}

// Export is MLS-Exporter (RFC 9420 section 8.5): a secret of up to 255 times the
// suite's hash length, else core.ErrTooLarge; another one for each epoch, label and
// context, the same for all members.
func (v View) Export(ctx context.Context, label string, exporterContext []byte, length int) (core.Secret, error) {
	return askKeys(ctx, v, func(v view) (core.Secret, error) { return v.group.Export(label, exporterContext, length) })
}

// ExternalSender is the public key of the first who may propose from outside, as one
// gives it to [ParseExternalSenders] for a conversation that shall have the same;
// ErrNoExternalSender if there is none.
func (v View) ExternalSender(ctx context.Context) ([]byte, error) {
	return ask(ctx, v, func(v view) ([]byte, error) {
		senders, err := v.group.Extensions().ExternalSenders()
		if err != nil {
			return nil, err
		}
		if len(senders) == 0 {
			return nil, ErrNoExternalSender
		}
		suite, err := v.env.Suites.Suite(v.group.Suite())
		if err != nil {
			return nil, err
		}
		return bytes.Clone(mls.Uncompressed(suite.Parameters().Scheme, senders[0].SignatureKey)), nil
	})
}

// GroupInfo makes the GroupInfo of the current epoch, an MLSMessage, for those who
// join by external commit.
func (v View) GroupInfo(ctx context.Context) ([]byte, error) {
	return askKeys(ctx, v, func(v view) ([]byte, error) { return v.group.GroupInfo(ctx, v.env, mls.GroupInfoParams{}) })
}

// PendingProposals lists what waits to be committed.
func (v View) PendingProposals(ctx context.Context) ([]mls.ReceivedProposal, error) {
	return askKeys(ctx, v, func(v view) (list []mls.ReceivedProposal, err error) {
		for p, err := range v.group.PendingProposals(ctx, v.env) {
			if err != nil {
				return nil, err
			}
			list = append(list, p)
		}
		return list, nil
	})
}

// HasPendingCommit says whether a commit of ours waits for an answer.
func (v View) HasPendingCommit(ctx context.Context) (bool, error) {
	return ask(ctx, v, func(v view) (bool, error) { return v.head.pending.exists(), nil })
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

// ConversationExists says whether we are in a conversation, as the transaction sees
// it. An error is not an answer.
func (t *Transaction) ConversationExists(ctx context.Context, id core.ConversationID) (bool, error) {
	return t.conversation(id).Exists(ctx)
}

// ConversationExists is [View.Exists] of what is durable.
func (c *Client) ConversationExists(ctx context.Context, id core.ConversationID) (bool, error) {
	return c.View(id).Exists(ctx)
}

// Info is [View.Info] of what is durable.
func (c *Client) Info(ctx context.Context, id core.ConversationID) (Info, error) {
	return c.View(id).Info(ctx)
}

// ClientIDs is [View.ClientIDs] of what is durable.
func (c *Client) ClientIDs(ctx context.Context, id core.ConversationID) ([]core.ClientID, error) {
	return c.View(id).ClientIDs(ctx)
}

// ExportSecret is [View.ExportSecret] of what is durable.
func (c *Client) ExportSecret(ctx context.Context, id core.ConversationID, length int) (core.Secret, error) {
	return c.View(id).ExportSecret(ctx, length)
}
