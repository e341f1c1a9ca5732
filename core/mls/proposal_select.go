// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"errors"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// A proposalSelection chooses what our commit covers: the proposals by value, and
// of those that wait what may stand beside them (PRP-3, PRP-5).
type proposalSelection struct {
	g         *Group
	alone     bool // one proposal in all, so that a ReInit may be taken
	removed   map[LeafIndex]bool
	updated   map[LeafIndex]bool
	once      map[string]bool // clients, PSKs and the extensions that were taken
	ownUpdate *LeafNode
}

// selectProposals returns the list of our commit. The removal of ourselves waits
// for somebody else. An own Update cannot be committed by us: its leaf, the
// newest, is returned for the path.
func (g *Group) selectProposals(store *proposalStore, byValue []Proposal) (list proposalList, ownUpdate *LeafNode) {
	s := &proposalSelection{
		g: g, alone: len(byValue)+len(store.list) == 1,
		removed: map[LeafIndex]bool{}, updated: map[LeafIndex]bool{}, once: map[string]bool{},
	}
	for _, p := range byValue {
		s.take(p, g.me()) // whatever it says: checkList refuses what does not go together
	}
	// Newest first, and Removes before the Updates that they displace.
	order := slices.Clone(store.list)
	slices.Reverse(order)
	slices.SortStableFunc(order, func(a, b storedProposal) int { return precedence(a) - precedence(b) })
	taken := map[uint32]bool{}
	for _, p := range order {
		taken[p.sequence] = s.take(p.proposal, p.sender)
	}
	for _, p := range store.list {
		if taken[p.sequence] {
			list = append(list, p.sentProposal)
		}
	}
	for _, p := range byValue {
		list = append(list, sentProposal{proposal: p, sender: g.me()})
	}
	return list, s.ownUpdate
}

func precedence(p storedProposal) int {
	switch p.proposal.Type() {
	case ProposalRemove:
		return 0
	case ProposalUpdate:
		return 1
	}
	return 2
}

// take reports whether the proposal goes with those taken before it.
func (s *proposalSelection) take(p Proposal, sender Sender) bool {
	first := func(key string) bool {
		fresh := !s.once[key]
		s.once[key] = true
		return fresh
	}
	switch p := p.(type) {
	case *Remove:
		if p.Removed == s.g.own || s.removed[p.Removed] {
			return false
		}
		s.removed[p.Removed] = true
	case *Update:
		if sender.Leaf == s.g.own {
			if s.ownUpdate == nil {
				s.ownUpdate = p.LeafNode
			}
			return false
		}
		if s.removed[sender.Leaf] || s.updated[sender.Leaf] {
			return false
		}
		s.updated[sender.Leaf] = true
	case *Add:
		for i, n := range s.g.tree.leaves() {
			if !s.removed[i] && sameClient(n.Credential, p.KeyPackage.LeafNode.Credential) {
				return false
			}
		}
		return first("client " + string(MarshalCredential(p.KeyPackage.LeafNode.Credential)))
	case *PreSharedKey:
		return first("psk " + string(p.PSK.append(nil)))
	case *GroupContextExtensions:
		return first("extensions")
	case *ReInit:
		return s.alone
	}
	return true
}

// dropUnfit leaves those proposals of others out that would spoil our commit, be
// it for what they ask of the other members, for a pre-shared key that we lack or
// for a key package that has expired: nobody can keep us from committing by a
// proposal that cannot be committed (PRP-3). What is by value must fit, or the
// error says why it does not.
func (g *Group) dropUnfit(ctx context.Context, env *Env, list proposalList) (proposalList, error) {
	var fit, waiting proposalList
	for _, p := range list {
		if len(p.ref) == 0 {
			fit = append(fit, p)
			continue
		}
		switch body := p.proposal.(type) {
		case *PreSharedKey:
			_, err := g.gatherPSKs(ctx, env, []PreSharedKeyID{body.PSK})
			if errors.Is(err, ErrMissingPSK) {
				continue
			}
			if err != nil {
				return nil, err
			}
		case *Add: // LEAF-9: the lifetime binds who commits
			if !env.Now.IsZero() && !body.KeyPackage.LeafNode.Lifetime.Contains(env.Now) {
				continue
			}
		}
		waiting = append(waiting, p)
	}
	// Almost always all fit, which one look tells.
	if all := append(slices.Clip(waiting), fit...); g.fits(all) == nil {
		return all, nil
	}
	if err := g.fits(fit); err != nil {
		return nil, err
	}
	// Those that ask least of the others come first, in their order of arrival.
	slices.SortStableFunc(waiting, func(a, b sentProposal) int { return demand(a.proposal) - demand(b.proposal) })
	byValue := fit
	fit = nil
	for _, p := range waiting {
		if with := append(slices.Clip(fit), p); g.fits(append(slices.Clip(with), byValue...)) == nil {
			fit = with
		}
	}
	return append(fit, byValue...), nil
}

func demand(p Proposal) int {
	switch p.(type) {
	case *Remove, *PreSharedKey, *ReInit:
		return 0
	case *Update:
		return 1
	case *Add:
		return 2
	}
	return 3 // GroupContextExtensions
}

// fits tries a list on a copy of the tree.
func (g *Group) fits(list proposalList) error {
	if err := list.checkList(g.tree, g.own); err != nil {
		return err
	}
	next := g.context
	work := g.tree.edit()
	var added []LeafIndex
	next.Extensions, added = list.apply(work, next.Extensions)
	return g.checkResult(work, &next, list.freshLeaves(g.own, added, false))
}

// missingPSK is [ErrMissingPSK] if the key is not there, else the error itself.
func missingPSK(err error) error {
	if errors.Is(err, core.ErrNotFound) && !errors.Is(err, ErrMissingPSK) {
		return errors.Join(ErrMissingPSK, err)
	}
	return err
}
