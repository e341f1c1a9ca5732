// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core/record"
)

// Processed is what a message turned out to be: *ApplicationMessage,
// *ReceivedProposal or *ReceivedCommit.
type Processed interface{ processed() }

// An ApplicationMessage is authentic data from a member of that epoch.
type ApplicationMessage struct {
	Sender            Member // as of the message's epoch (CRD-7)
	Epoch             uint64
	AuthenticatedData []byte
	Data              []byte
}

// A ReceivedProposal is kept until a commit covers it or the epoch ends.
type ReceivedProposal struct {
	Ref               ProposalRef
	Proposal          Proposal
	Sender            Sender
	AuthenticatedData []byte
}

// A ReceivedCommit tells what a commit changed, one's own included.
type ReceivedCommit struct {
	Committer         Member // as of the new epoch if External, else as of the old one
	External          bool   // the committer has joined by it
	Added, Removed    []Member
	Updated           []Member
	SelfRemoved       bool
	Proposals         []ReceivedProposal // covered, in order
	Unused            []ReceivedProposal // dropped with the epoch (PRP-9)
	ReInit            *ReInit
	AuthenticatedData []byte
}

func (*ApplicationMessage) processed() {}
func (*ReceivedProposal) processed()   {}
func (*ReceivedCommit) processed()     {}

// Process handles a Public- or PrivateMessage of the group. On an error nothing
// has changed and the value at hand is as good as before.
func (g *Group) Process(ctx context.Context, env *Env, m *MLSMessage) (_ *Group, _ Processed, _ *record.WriteSet, err error) {
	defer tooLarge(&err)
	fail := func(err error) (*Group, Processed, *record.WriteSet, error) { return nil, nil, nil, err }
	groupID, epoch, ok := m.GroupEpoch()
	switch {
	case !ok:
		return fail(fmt.Errorf("wire format %d is not a group's message: %w", m.WireFormat(), ErrMalformed))
	case !bytes.Equal(groupID, g.context.GroupID): // FR-6
		return fail(ErrWrongGroup)
	case epoch != g.context.Epoch:
		return g.processPast(ctx, env, m, epoch)
	case !g.active:
		return fail(ErrInactive)
	case m.PublicMessage != nil:
		return g.processPublic(ctx, env, m.PublicMessage)
	}
	return g.processPrivate(ctx, env, m.PrivateMessage)
}

// processPast opens late application messages; handshakes of other epochs are
// never processed (FS-9, FS-10).
func (g *Group) processPast(ctx context.Context, env *Env, m *MLSMessage, epoch uint64) (*Group, Processed, *record.WriteSet, error) {
	private := m.PrivateMessage
	if epoch > g.context.Epoch || private == nil || private.ContentType != ContentApplication {
		return nil, nil, nil, &EpochError{Message: epoch, Group: g.context.Epoch}
	}
	if epoch < g.oldest {
		return nil, nil, nil, fmt.Errorf("epoch %d: %w", epoch, ErrTooOld)
	}
	past, err := g.pastEpoch(ctx, env, epoch)
	if err != nil {
		return nil, nil, nil, err
	}
	ws := &record.WriteSet{}
	messages, a, sender, err := past.open(ctx, env, private, ws, nil)
	if err != nil {
		return nil, nil, nil, err
	}
	return g.withPast(past).withPastMessages(epoch, messages), applicationMessage(a, sender), ws, nil
}

func applicationMessage(a *AuthenticatedContent, sender *LeafNode) *ApplicationMessage {
	c := a.Content
	return &ApplicationMessage{
		Sender: memberAt(c.Sender.Leaf, sender), Epoch: c.Epoch,
		AuthenticatedData: c.AuthenticatedData, Data: c.Application,
	}
}

// open decrypts and verifies a PrivateMessage. accept, if any, decides with the
// content at hand; only when it agrees is the key used up (FS-3).
func (p *pastEpoch) open(ctx context.Context, env *Env, m *PrivateMessage, ws *record.WriteSet, accept func(*AuthenticatedContent) error) (*secretTree, *AuthenticatedContent, *LeafNode, error) {
	d, err := m.openSenderData(p.tree.suite, p.senderData, p.tree.size())
	if err != nil {
		return nil, nil, nil, err
	}
	if d.leaf == p.own { // FR-9
		return nil, nil, nil, ErrOwnMessage
	}
	if err := p.tree.needLeaf(ctx, env.Fetch, d.leaf); err != nil {
		return nil, nil, nil, err
	}
	sender := p.tree.leaf(d.leaf)
	if sender == nil {
		return nil, nil, nil, breach("FR-6", "sender's leaf %d is blank", d.leaf)
	}
	var content *AuthenticatedContent
	messages, err := unprotectPrivate(ctx, env.Fetch, ws, p.messages, m, d, func(a *AuthenticatedContent) error {
		if err := verifyContent(p.tree.suite, sender.SignatureKey, p.contextBytes, a); err != nil {
			return err
		}
		content = a
		if accept != nil {
			return accept(a)
		}
		return nil
	})
	return messages, content, sender, err
}

func (g *Group) processPrivate(ctx context.Context, env *Env, m *PrivateMessage) (*Group, Processed, *record.WriteSet, error) {
	if m.ContentType != ContentApplication && g.config.Handshake != HandshakePrivate && !g.config.AcceptAnyWire {
		return nil, nil, nil, breach("FR-11", "handshakes of this group are PublicMessages")
	}
	// A handshake is worked through while its key is held, so that one that is
	// refused uses nothing up.
	var next *Group
	var result Processed
	handled := &record.WriteSet{}
	ws := &record.WriteSet{}
	messages, a, sender, err := g.asEpoch().open(ctx, env, m, ws, func(a *AuthenticatedContent) (err error) {
		if a.Content.ContentType == ContentApplication {
			return nil
		}
		if err := g.tree.needAll(ctx, env.Fetch); err != nil {
			return err
		}
		next, result, err = g.handle(ctx, env, a, handled)
		return err
	})
	if err != nil {
		return nil, nil, nil, err
	}
	if a.Content.ContentType == ContentApplication {
		next := *g
		next.messages = messages
		return &next, applicationMessage(a, sender), ws, nil
	}
	if next.context.Epoch == g.context.Epoch { // the ratchet of this epoch goes on
		next.messages = messages
	} else { // late messages need what the commit has left of it
		next = next.withPastMessages(g.context.Epoch, messages)
	}
	ws.Follow(handled)
	return next, result, ws, nil
}

func (g *Group) processPublic(ctx context.Context, env *Env, m *PublicMessage) (*Group, Processed, *record.WriteSet, error) {
	sender := m.Content.Sender
	if sender.Type == SenderMember && g.config.Handshake != HandshakePublic && !g.config.AcceptAnyWire {
		return nil, nil, nil, breach("FR-11", "handshakes of this group are PrivateMessages")
	}
	a, err := unprotectPublic(g.suite, g.secrets.membership, g.contextBytes, m)
	if err != nil {
		return nil, nil, nil, err
	}
	if sender.Type == SenderMember && sender.Leaf == g.own { // the tag shows that a member made it
		if c := m.Content.Commit; c == nil || c.Path != nil { // COM-3: without a path it is like anybody's
			return nil, nil, nil, ErrOwnMessage
		}
	}
	if err := g.tree.needAll(ctx, env.Fetch); err != nil {
		return nil, nil, nil, err
	}
	if err := g.verifySender(a); err != nil {
		return nil, nil, nil, err
	}
	ws := &record.WriteSet{}
	next, result, err := g.handle(ctx, env, a, ws)
	if err != nil {
		return nil, nil, nil, err
	}
	return next, result, ws, nil
}

// verifySender checks the signature of a PublicMessage.
func (g *Group) verifySender(a *AuthenticatedContent) error {
	key, err := g.senderKey(a)
	if err != nil {
		return err
	}
	return verifyContent(g.suite, key, g.contextBytes, a)
}

// senderKey finds the key that must have signed a PublicMessage (RFC 9420 section 6.1).
func (g *Group) senderKey(a *AuthenticatedContent) ([]byte, error) {
	switch c := a.Content; c.Sender.Type {
	case SenderMember:
		if n := g.tree.leaf(c.Sender.Leaf); n != nil {
			return n.SignatureKey, nil
		}
		return nil, breach("FR-6", "sender's leaf %d is blank", c.Sender.Leaf)
	case SenderExternal: // XS-1
		senders, err := g.context.Extensions.ExternalSenders()
		if err != nil {
			return nil, err
		}
		if uint64(c.Sender.Index) >= uint64(len(senders)) {
			return nil, breach("XS-1", "external sender %d of %d", c.Sender.Index, len(senders))
		}
		return senders[c.Sender.Index].key(g.suite), nil
	case SenderNewMemberProposal: // XS-3; unprotectPublic has checked that it is an Add
		return c.Proposal.(*Add).KeyPackage.LeafNode.SignatureKey, nil
	default: // SenderNewMemberCommit, EXT-4; unprotectPublic has checked that there is a path
		return c.Commit.Path.LeafNode.SignatureKey, nil
	}
}

// handle works a verified handshake message through.
func (g *Group) handle(ctx context.Context, env *Env, a *AuthenticatedContent, ws *record.WriteSet) (*Group, Processed, error) {
	if a.Content.ContentType == ContentCommit {
		return g.processCommit(ctx, env, a, ws)
	}
	return g.processProposal(ctx, env, a, ws)
}

func (g *Group) processProposal(ctx context.Context, env *Env, a *AuthenticatedContent, ws *record.WriteSet) (*Group, Processed, error) {
	c := a.Content
	store, err := g.loadProposals(ctx, env)
	if err != nil {
		return nil, nil, err
	}
	if _, known := store.find(a.proposalRef(g.suite)); known {
		return nil, nil, ErrDuplicateMessage // PRP-13
	}
	if err := g.checkProposal(env, c.Proposal, c.Sender); err != nil {
		return nil, nil, err
	}
	next, ref, err := g.keepProposal(ctx, env, a, ws)
	if err != nil {
		return nil, nil, err
	}
	return next, &ReceivedProposal{Ref: ref, Proposal: c.Proposal, Sender: c.Sender, AuthenticatedData: c.AuthenticatedData}, nil
}
