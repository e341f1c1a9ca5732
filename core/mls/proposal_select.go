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
	once      map[string]bool // PSKs and the extensions that were taken
	adds      []*LeafNode     // by value
	clients   *clientSet      // of the members that stay and of the adds; nil: not needed yet
	ownUpdate *LeafNode
}

// selectProposals returns the list of our commit. The removal of ourselves waits
// for somebody else. An own Update cannot be committed by us: its leaf, the
// newest, is returned for the path.
func (g *Group) selectProposals(env *Env, store *proposalStore, params CommitParams) (list proposalList, ownUpdate *LeafNode, err error) {
	byValue := params.Proposals
	s := &proposalSelection{
		g: g, alone: len(byValue)+len(store.list) == 1 && !params.NoReInit,
		removed: map[LeafIndex]bool{}, updated: map[LeafIndex]bool{}, once: map[string]bool{},
	}
	for _, p := range byValue { // checkList refuses what does not go together
		if add, ok := p.(*Add); ok {
			s.adds = append(s.adds, add.KeyPackage.LeafNode)
		} else if _, err := s.take(env, p, g.me()); err != nil {
			return nil, nil, err
		}
	}
	// Newest first, and Removes before the Updates that they displace.
	order := slices.Clone(store.list)
	slices.Reverse(order)
	slices.SortStableFunc(order, func(a, b storedProposal) int { return precedence(a) - precedence(b) })
	taken := map[uint32]bool{}
	for _, p := range order {
		if params.LeaveOut != nil && params.LeaveOut(p.proposal) {
			continue
		}
		if taken[p.sequence], err = s.take(env, p.proposal, p.sender); err != nil {
			return nil, nil, err
		}
	}
	for _, p := range store.list {
		if taken[p.sequence] {
			list = append(list, p.sentProposal)
		}
	}
	for _, p := range byValue {
		list = append(list, sentProposal{proposal: p, sender: g.me()})
	}
	return list, s.ownUpdate, nil
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
func (s *proposalSelection) take(env *Env, p Proposal, sender Sender) (bool, error) {
	first := func(key string) (bool, error) {
		fresh := !s.once[key]
		s.once[key] = true
		return fresh, nil
	}
	switch p := p.(type) {
	case *Remove:
		if p.Removed == s.g.own || s.removed[p.Removed] {
			return false, nil
		}
		s.removed[p.Removed] = true
	case *Update:
		if sender.Leaf == s.g.own {
			if s.ownUpdate == nil {
				s.ownUpdate = p.LeafNode
			}
			return false, nil
		}
		if s.removed[sender.Leaf] || s.updated[sender.Leaf] {
			return false, nil
		}
		s.updated[sender.Leaf] = true
	case *Add:
		return s.takeClient(env, p.KeyPackage.LeafNode)
	case *PreSharedKey:
		return first("psk " + string(p.PSK.append(nil)))
	case *GroupContextExtensions:
		return first("extensions")
	case *ReInit:
		return s.alone, nil
	}
	return true, nil
}

// takeClient reports whether an Add brings somebody new. It is asked once all Removes
// were taken.
func (s *proposalSelection) takeClient(env *Env, leaf *LeafNode) (bool, error) {
	if s.clients == nil {
		s.clients = newClientSet(env)
		for i, n := range s.g.tree.leaves() {
			if !s.removed[i] {
				s.clients.add(n)
			}
		}
		for _, n := range s.adds {
			s.clients.add(n)
		}
	}
	found, err := s.clients.has(leaf)
	if found || err != nil {
		return false, err
	}
	s.clients.add(leaf)
	return true, nil
}

// dropUnfit leaves those proposals of others out that would spoil our commit, be
// it for what they ask of the other members, for a pre-shared key that we lack, for
// a key package that has expired or for a group in which we could not go on: nobody
// can keep us from committing by a proposal that cannot be committed (PRP-3). What
// is by value must fit, or the error says why it does not.
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
			if env.checkLifetime(body.KeyPackage.LeafNode) != nil {
				continue
			}
		case *ReInit:
			if body.canFollow(env) != nil {
				continue
			}
		}
		waiting = append(waiting, p)
	}
	// Almost always all fit, which one look tells.
	if all := append(slices.Clip(waiting), fit...); g.fits(env, all) == nil {
		return all, nil
	}
	if err := g.fits(env, fit); err != nil {
		return nil, err
	}
	// Those that ask least of the others come first, in their order of arrival.
	slices.SortStableFunc(waiting, func(a, b sentProposal) int { return demand(a.proposal) - demand(b.proposal) })
	byValue := fit
	fit = nil
	for _, p := range waiting {
		if with := append(slices.Clip(fit), p); g.fits(env, append(slices.Clip(with), byValue...)) == nil {
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
func (g *Group) fits(env *Env, list proposalList) error {
	if err := list.checkList(env, g.tree, g.own); err != nil {
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
