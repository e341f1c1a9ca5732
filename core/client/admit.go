// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// An Admission is what Config.Admit decides on: somebody is about to come into a
// conversation. The hook says no by an error, which the caller of the operation gets
// with [ErrNotAdmitted]; nothing has changed then. A message that is refused may be
// dropped for good; who cannot decide now returns core.ErrUnavailable, and the message
// is kept. It is asked while the conversation is held: it may ask a [View], and must not
// start a transaction.
//
//   - Of our own Add or commit: it is not made. A staged commit is judged when it is
//     staged, and again at its turn.
//   - Of a proposal of others: it does not wait, so no commit of ours covers it. The
//     commit of a member who took it lacks a proposal here and waits in vain.
//   - Of a commit of others: it has happened all the same, and the others go on without
//     us: [OutOfSync] says so. Who would rather stay lets the commit in and then removes
//     the client.
//
// So all members should decide alike. What was admitted as a proposal is not judged
// again in the commit that covers it, nor when it is renewed. Clients for history are
// judged when another member's commit brings them, not when our own does.
type Admission struct {
	Conversation core.ConversationID
	Epoch        uint64 // in which it is asked
	How          AdmissionKind
	Joiner       core.Identity
	Proposer     core.Identity // of an Add of a member or an external sender: who it is
	// Members are in the conversation and no proposal waits to remove them. A client
	// that joins again is among them.
	Members []core.ClientID
	// ParentMembers are those of the conversation that SetParent named; nil if we are
	// not in it, or there is none.
	ParentMembers []core.ClientID
}

// AdmissionKind tells the way in.
type AdmissionKind uint8

// The ways in.
const (
	AddedByMember         AdmissionKind = iota + 1 // an Add, also our own
	AddedByExternalSender                          // a proposal of who is not a member
	ProposedItself                                 // a proposal of the joiner: see NewExternalAddProposal
	JoinedByCommit                                 // an external commit
)

func (k AdmissionKind) String() string {
	switch k {
	case AddedByMember:
		return "added by a member"
	case AddedByExternalSender:
		return "added by an external sender"
	case ProposedItself:
		return "proposed itself"
	case JoinedByCommit:
		return "joined by an external commit"
	}
	return fmt.Sprintf("way %d", uint8(k))
}

// admit asks about one who is to come into the conversation as it is before.
func (t *Transaction) admit(ctx context.Context, h *held, how AdmissionKind, joiner, proposer core.Identity) error {
	ask := t.client.cfg.Admit
	if ask == nil {
		return nil
	}
	v := view{h.group, t.own(ctx, h), h.head}
	a := Admission{Conversation: h.id, Epoch: h.group.Epoch(), How: how, Joiner: joiner, Proposer: proposer}
	leaving := map[mls.LeafIndex]bool{}
	for p, err := range h.group.PendingProposals(ctx, v.env) {
		if err != nil {
			return err
		}
		if r, ok := p.Proposal.(*mls.Remove); ok {
			leaving[r.Removed] = true
		}
	}
	members, err := v.members(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if !leaving[m.Leaf] {
			a.Members = append(a.Members, m.ClientID)
		}
	}
	if a.ParentMembers, err = t.parentMembers(ctx, h); err != nil {
		return err
	}
	if err := ask(ctx, a); err != nil {
		return fmt.Errorf("%w: %w", ErrNotAdmitted, err)
	}
	return nil
}

// parentMembers are the members of the parent as the transaction sees it.
func (t *Transaction) parentMembers(ctx context.Context, h *held) (ids []core.ClientID, err error) {
	id := h.head.parent
	if id == "" {
		return nil, nil
	}
	list := func(v view) error {
		members, err := v.members(ctx)
		for _, m := range members {
			ids = append(ids, m.ClientID)
		}
		return err
	}
	if p := t.holding(id); p != nil {
		if p.group == nil {
			return nil, nil
		}
		return ids, list(view{p.group, t.own(ctx, p), p.head})
	}
	err = t.client.look(ctx, id, list) // not held: so it is as it durably is
	if errors.Is(err, ErrConversationNotFound) {
		return nil, nil
	}
	return ids, err
}

// admitProposal asks about an Add of somebody else.
func (t *Transaction) admitProposal(ctx context.Context, h *held, r mls.ReceivedProposal) error {
	add, ok := r.Proposal.(*mls.Add)
	if !ok || t.client.cfg.Admit == nil {
		return nil
	}
	env := t.own(ctx, h)
	joiner, err := whose(env, add.KeyPackage.LeafNode.Credential, add.KeyPackage.LeafNode.SignatureKey)
	if err != nil {
		return err
	}
	var proposer core.Identity
	how := AddedByMember
	switch r.Sender.Type {
	case mls.SenderNewMemberProposal:
		how = ProposedItself
	case mls.SenderExternal:
		how = AddedByExternalSender
		senders, err := h.group.Extensions().ExternalSenders()
		if err != nil {
			return err
		}
		by := senders[r.Sender.Index] // or the signature would not hold
		if proposer, err = whose(env, by.Credential, by.SignatureKey); err != nil {
			return err
		}
	default:
		if proposer, err = t.memberAtLeaf(ctx, h, env, r.Sender.Leaf); err != nil {
			return err
		}
	}
	return t.admit(ctx, h, how, joiner, proposer)
}

func (t *Transaction) memberAtLeaf(ctx context.Context, h *held, env *mls.Env, leaf mls.LeafIndex) (core.Identity, error) {
	members, err := h.group.Members(ctx, env)
	if err != nil {
		return core.Identity{}, err
	}
	i := slices.IndexFunc(members, func(m mls.Member) bool { return m.Leaf == leaf })
	if i < 0 {
		return core.Identity{}, nil
	}
	return whose(env, members[i].Credential, members[i].SignatureKey)
}

// admitCommit asks about those whom somebody else's commit brings and no proposal has
// announced.
func (t *Transaction) admitCommit(ctx context.Context, h *held, r *mls.ReceivedCommit) error {
	if t.client.cfg.Admit == nil || r.SelfRemoved {
		return nil
	}
	for _, p := range r.Proposals {
		if len(p.Ref) > 0 {
			continue
		}
		if err := t.admitProposal(ctx, h, p); err != nil {
			return err
		}
	}
	if !r.External {
		return nil
	}
	joiner, err := whose(t.own(ctx, h), r.Committer.Credential, r.Committer.SignatureKey)
	if err != nil {
		return err
	}
	return t.admit(ctx, h, JoinedByCommit, joiner, core.Identity{})
}

// admitOwn asks about one whom we are about to add.
func (t *Transaction) admitOwn(ctx context.Context, h *held, k *mls.KeyPackage) error {
	return t.admitProposal(ctx, h, mls.ReceivedProposal{
		Proposal: &mls.Add{KeyPackage: k}, Sender: mls.Sender{Type: mls.SenderMember, Leaf: h.group.OwnLeaf()},
	})
}
