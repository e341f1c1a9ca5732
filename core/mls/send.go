// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"

	"github.com/conclave-mls/conclave/core/record"
)

// protect frames a signed content of our own in the wire format that it was
// signed for. For a PrivateMessage the next value has its generation spent (FS-1).
func (g *Group) protect(ctx context.Context, env *Env, a *AuthenticatedContent, ws *record.WriteSet) (*Group, []byte, error) {
	if a.WireFormat == WirePublicMessage {
		m, err := protectPublic(g.suite, g.secrets.membership, g.contextBytes, a)
		if err != nil {
			return nil, nil, err
		}
		return g, (&MLSMessage{PublicMessage: m}).Marshal(), nil
	}
	g, err := g.withStoredFloors(ctx, env)
	if err != nil {
		return nil, nil, err
	}
	messages, m, err := protectPrivate(ctx, env.Fetch, ws, g.messages, g.secrets.senderData, a, g.config.PadTo)
	if err != nil {
		return nil, nil, err
	}
	next := *g
	next.messages = messages
	return &next, (&MLSMessage{PrivateMessage: m}).Marshal(), nil
}

func (g *Group) handshakeFormat() WireFormat {
	if g.config.Handshake == HandshakePrivate {
		return WirePrivateMessage
	}
	return WirePublicMessage
}

// Protect encrypts application data (RFC 9420 section 6.3). It is refused while
// proposals wait, unless the configuration allows it (PRP-10).
func (g *Group) Protect(ctx context.Context, env *Env, data, authenticatedData []byte) (_ *Group, _ []byte, _ *record.WriteSet, err error) {
	defer tooLarge(&err)
	if !g.active {
		return nil, nil, nil, ErrInactive
	}
	store, err := g.loadProposals(ctx, env)
	if err != nil {
		return nil, nil, nil, err
	}
	if len(store.list) > 0 && !g.config.SendWithProposals {
		return nil, nil, nil, ErrPendingProposals
	}
	leaf, err := g.OwnLeafNode(ctx, env)
	if err != nil {
		return nil, nil, nil, err
	}
	signer, err := env.signer(ctx, leaf.SignatureKey)
	if err != nil {
		return nil, nil, nil, err
	}
	c := g.content(authenticatedData)
	c.ContentType, c.Application = ContentApplication, data
	a, err := signFramedContent(ctx, signer, WirePrivateMessage, c, g.contextBytes)
	if err != nil {
		return nil, nil, nil, err
	}
	ws := &record.WriteSet{}
	next, message, err := g.protect(ctx, env, a, ws)
	if err != nil {
		return nil, nil, nil, err
	}
	if next.proposals == nil {
		again := *next
		again.proposals = store
		next = &again
	}
	return next, message, ws, nil
}

// me is us as a sender.
func (g *Group) me() Sender { return Sender{Type: SenderMember, Leaf: g.own} }

// content begins a content of our own in the current epoch.
func (g *Group) content(authenticatedData []byte) *FramedContent {
	return &FramedContent{
		GroupID:           g.context.GroupID,
		Epoch:             g.context.Epoch,
		Sender:            g.me(),
		AuthenticatedData: authenticatedData,
	}
}
