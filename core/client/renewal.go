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

// An ownProposal is one of ours that a commit of somebody else has left undone.
type ownProposal struct {
	ref      mls.ProposalRef
	proposal mls.Proposal
	removed  core.ClientID // whom a Remove meant: the leaf may be another's by now
	rotates  bool          // an Update that brings a credential
}

// leftover lists our proposals that a commit did not cover, as seen from the epoch
// that it ends.
func leftover(ctx context.Context, before *mls.Group, env *mls.Env, r *mls.ReceivedCommit) (list []ownProposal, err error) {
	if r.SelfRemoved {
		return nil, nil
	}
	ours := func(p mls.ReceivedProposal) bool {
		return p.Sender.Type == mls.SenderMember && p.Sender.Leaf == before.OwnLeaf()
	}
	updated := slices.ContainsFunc(r.Proposals, func(p mls.ReceivedProposal) bool {
		_, ok := p.Proposal.(*mls.Update)
		return ok && ours(p)
	})
	var members []mls.Member
	for _, p := range r.Unused {
		if !ours(p) {
			continue
		}
		own := ownProposal{ref: p.Ref, proposal: p.Proposal}
		switch proposal := p.Proposal.(type) {
		case *mls.Update:
			leaf, err := before.OwnLeafNode(ctx, env)
			if err != nil {
				return nil, err
			}
			if own.rotates = !sameCredential(leaf, proposal.LeafNode); updated && !own.rotates {
				continue // another Update of ours has refreshed our keys
			}
		case *mls.Remove:
			if members == nil {
				if members, err = before.Members(ctx, env); err != nil {
					return nil, err
				}
			}
			if own.removed, err = memberAt(env, members, proposal.Removed); err != nil {
				return nil, err
			}
		}
		list = append(list, own)
	}
	return list, nil
}

// memberAt tells whose a leaf is; empty if nobody's.
func memberAt(env *mls.Env, members []mls.Member, leaf mls.LeafIndex) (core.ClientID, error) {
	for _, m := range members {
		if m.Leaf == leaf {
			return identify(env, m.Credential, m.SignatureKey)
		}
	}
	return "", nil
}

// renew proposes again, in the epoch that somebody else's commit has begun, what it
// left undone of ours: Adds, Removes and Updates. What goes wrong with that, if it is
// not the store, does not hold the commit up.
func (t *Transaction) renew(ctx context.Context, h *held, c *CommitResult, left []ownProposal) error {
	unsent, err := t.unsentProposals(ctx, h)
	if err != nil {
		return err
	}
	if len(left) > 0 && !t.client.cfg.NoRenewal {
		if err := t.encryptTexts(ctx, h); err != nil {
			return err
		}
	}
	for _, p := range left {
		key := newIdempotencyKey()
		was := slices.IndexFunc(unsent, func(o outgoing) bool { return slices.Equal(o.ref, p.ref) })
		if was >= 0 {
			key = unsent[was].key
		}
		again, err := t.proposeAgain(ctx, h, p, key)
		switch {
		case errors.Is(err, errAchieved):
			continue
		case isStoreTrouble(err):
			return err // nothing can be said of the commit either
		case isKeyTrouble(err) && errors.Is(err, core.ErrUnavailable):
			return err // the commit waits for the token, and the proposal is not lost
		case err != nil:
			t.client.log.Warn("a proposal is not renewed", "conversation", h.id, "error", err)
			c.Dropped = append(c.Dropped, p.proposal)
			continue
		}
		c.Renewed = append(c.Renewed, again)
		if was >= 0 {
			unsent = slices.Delete(unsent, was, was+1)
		}
	}
	t.lapsed(h, unsent)
	if len(c.Renewed) == 0 {
		return nil
	}
	if c.Delay, err = t.delay(ctx, h.group, t.own(ctx, h)); err != nil {
		return err
	}
	return t.requeue(ctx, h, nil)
}

// errAchieved: the commit has done what a proposal wanted.
var errAchieved = errors.New("done already")

func (t *Transaction) proposeAgain(ctx context.Context, h *held, own ownProposal, key IdempotencyKey) (Proposed, error) {
	if t.client.cfg.NoRenewal {
		return Proposed{}, fmt.Errorf("renewal is off: %w", core.ErrUnsupported)
	}
	env := t.own(ctx, h)
	members, err := h.group.Members(ctx, env)
	if err != nil {
		return Proposed{}, err
	}
	switch p := own.proposal.(type) {
	case *mls.Add:
		id, err := identify(env, p.KeyPackage.LeafNode.Credential, p.KeyPackage.LeafNode.SignatureKey)
		if err != nil {
			return Proposed{}, err
		}
		for _, m := range members {
			if who, err := identify(env, m.Credential, m.SignatureKey); err != nil || who == id {
				return Proposed{}, errors.Join(errAchieved, err)
			}
		}
		if err := t.admitOwn(ctx, h, p.KeyPackage); err != nil {
			return Proposed{}, err
		}
	case *mls.Remove:
		if who, err := memberAt(env, members, p.Removed); err != nil || who != own.removed {
			return Proposed{}, errors.Join(errAchieved, err)
		}
	case *mls.Update:
		var leaf mls.LeafParams
		if own.rotates {
			if leaf, err = t.leafAgain(ctx, h, p.LeafNode); err != nil {
				return Proposed{}, err
			}
		}
		g, sent, ws, err := h.group.ProposeUpdate(ctx, env, leaf, nil)
		if err != nil {
			return Proposed{}, err
		}
		return t.proposed(ctx, h, key, g, sent, ws)
	default:
		return Proposed{}, fmt.Errorf("proposal of type %T: %w", p, core.ErrUnsupported)
	}
	g, sent, ws, err := h.group.Propose(ctx, env, own.proposal, nil)
	if err != nil {
		return Proposed{}, err
	}
	return t.proposed(ctx, h, key, g, sent, ws)
}

// leafAgain is what an Update asked for beside fresh keys: the credential that it
// brought.
func (t *Transaction) leafAgain(ctx context.Context, h *held, leaf *mls.LeafNode) (mls.LeafParams, error) {
	list, err := credentials(ctx, t.segment)
	if err != nil {
		return mls.LeafParams{}, err
	}
	for _, own := range list {
		if own.is(leaf) {
			return t.leafParams(ctx, h, own.Ref) // whose use by this conversation is on record
		}
	}
	return mls.LeafParams{}, ErrCredentialNotFound
}
