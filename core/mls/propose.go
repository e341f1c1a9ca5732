// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// LeafParams changes what our next leaf says; a nil field keeps what the current
// leaf has. A new signature key needs its signer.
type LeafParams struct {
	Credential   *core.Credential
	SignatureKey core.Signer
	Extensions   *Extensions
	Capabilities *Capabilities
}

// template is the unsigned content of our next leaf.
func (p LeafParams) template(env *Env, current *LeafNode) *LeafNode {
	current = current.withoutGrease()
	leaf := &LeafNode{
		SignatureKey: current.SignatureKey,
		Credential:   current.Credential,
		Capabilities: current.Capabilities,
		Extensions:   current.Extensions,
	}
	if p.SignatureKey != nil {
		leaf.SignatureKey = p.SignatureKey.Public()
	}
	if p.Credential != nil {
		leaf.Credential = *p.Credential
	}
	if p.Extensions != nil {
		leaf.Extensions = *p.Extensions
	}
	if p.Capabilities != nil {
		leaf.Capabilities = *p.Capabilities
	}
	if env.Grease {
		leaf.grease()
	}
	return leaf
}

// A SentProposal is a proposal of ours, as an MLSMessage. The reference names it.
type SentProposal struct {
	Message []byte
	Ref     ProposalRef
}

// Propose sends a proposal on its own and keeps it until a commit covers it or the
// epoch ends. A proposal to remove ourselves is how to leave: somebody else has to
// commit it.
func (g *Group) Propose(ctx context.Context, env *Env, p Proposal, authenticatedData []byte) (_ *Group, _ *SentProposal, _ *record.WriteSet, err error) {
	defer tooLarge(&err)
	if p.Type() == ProposalUpdate {
		return nil, nil, nil, fmt.Errorf("mls: updates are proposed with ProposeUpdate: %w", core.ErrInvalid)
	}
	return g.propose(ctx, env, p, authenticatedData, &record.WriteSet{})
}

// ProposeUpdate proposes a new leaf for ourselves. Its private key waits until
// somebody commits it (COM-7).
func (g *Group) ProposeUpdate(ctx context.Context, env *Env, p LeafParams, authenticatedData []byte) (_ *Group, _ *SentProposal, _ *record.WriteSet, err error) {
	defer tooLarge(&err)
	current, err := g.OwnLeafNode(ctx, env)
	if err != nil {
		return nil, nil, nil, err
	}
	leaf := p.template(env, current)
	key, err := g.suite.GenerateKeyPair()
	if err != nil {
		return nil, nil, nil, err
	}
	leaf.EncryptionKey, leaf.Source = key.Public(), LeafUpdate
	if err := leaf.checkMade(g.suite, LeafUpdate); err != nil {
		return nil, nil, nil, err
	}
	signer := p.SignatureKey
	if signer == nil {
		if signer, err = env.signer(ctx, leaf.SignatureKey); err != nil {
			return nil, nil, nil, err
		}
	}
	if err := leaf.sign(ctx, signer, g.context.GroupID, g.own); err != nil {
		return nil, nil, nil, err
	}
	keys, err := g.loadKeys(ctx, env)
	if err != nil {
		return nil, nil, nil, err
	}
	next := *g
	next.keys = keys.withUpdate(key)
	ws := &record.WriteSet{}
	next.keys.write(ws)
	return next.propose(ctx, env, &Update{LeafNode: leaf}, authenticatedData, ws)
}

func (g *Group) propose(ctx context.Context, env *Env, p Proposal, authenticatedData []byte, ws *record.WriteSet) (*Group, *SentProposal, *record.WriteSet, error) {
	if !g.active {
		return nil, nil, nil, ErrInactive
	}
	if err := g.tree.needAll(ctx, env.Fetch); err != nil {
		return nil, nil, nil, err
	}
	c := g.content(authenticatedData)
	c.ContentType, c.Proposal = ContentProposal, p
	if err := g.checkProposal(env, p, c.Sender); err != nil {
		return nil, nil, nil, err
	}
	if ps, ok := p.(*PreSharedKey); ok { // PSK-4: creating fails cleanly
		if _, err := g.gatherPSKs(ctx, env, []PreSharedKeyID{ps.PSK}); err != nil {
			return nil, nil, nil, err
		}
	}
	signer, err := env.signer(ctx, g.tree.leaf(g.own).SignatureKey)
	if err != nil {
		return nil, nil, nil, err
	}
	a, err := signFramedContent(ctx, signer, g.handshakeFormat(), c, g.contextBytes)
	if err != nil {
		return nil, nil, nil, err
	}
	next, ref, err := g.keepProposal(ctx, env, a, ws)
	if err != nil {
		return nil, nil, nil, err
	}
	next, message, err := next.protect(ctx, env, a, ws)
	if err != nil {
		return nil, nil, nil, err
	}
	return next, &SentProposal{Message: message, Ref: ref}, ws, nil
}

// NewExternalPSK names an injection of an external pre-shared key, with a fresh nonce.
func (g *Group) NewExternalPSK(id []byte) *PreSharedKey {
	return &PreSharedKey{PSK: PreSharedKeyID{Type: PSKExternal, ID: id, Nonce: randomBytes(g.suite.Parameters().Nh)}}
}

// NewResumptionPSK names an injection of the resumption key of an epoch of this group.
func (g *Group) NewResumptionPSK(epoch uint64) *PreSharedKey {
	return &PreSharedKey{PSK: PreSharedKeyID{
		Type: PSKResumption, Usage: ResumptionApplication,
		GroupID: g.context.GroupID, Epoch: epoch, Nonce: randomBytes(g.suite.Parameters().Nh),
	}}
}

// keepProposal puts a verified proposal into the store.
func (g *Group) keepProposal(ctx context.Context, env *Env, a *AuthenticatedContent, ws *record.WriteSet) (*Group, ProposalRef, error) {
	store, err := g.loadProposals(ctx, env)
	if err != nil {
		return nil, nil, err
	}
	ref := a.proposalRef(g.suite)
	store, err = store.with(sentProposal{proposal: a.Content.Proposal, sender: a.Content.Sender, ref: ref}, ws)
	if err != nil {
		return nil, nil, err
	}
	next := *g
	next.proposals = store
	return &next, ref, nil
}

// DropProposal forgets a proposal that the delivery service refused for good;
// core.ErrNotFound if it is not there.
func (g *Group) DropProposal(ctx context.Context, env *Env, ref ProposalRef) (*Group, *record.WriteSet, error) {
	store, err := g.loadProposals(ctx, env)
	if err != nil {
		return nil, nil, err
	}
	ws := &record.WriteSet{}
	store, found := store.without(ref, ws)
	if !found {
		return nil, nil, fmt.Errorf("proposal %x: %w", []byte(ref), core.ErrNotFound)
	}
	next := *g
	next.proposals = store
	return &next, ws, nil
}
