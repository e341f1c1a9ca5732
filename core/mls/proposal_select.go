// SPDX-License-Identifier: Apache-2.0

package mls

import "slices"

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
	me := Sender{Type: SenderMember, Leaf: g.own}
	for _, p := range byValue {
		s.take(p, me) // whatever it says: checkList refuses what does not go together
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
		list = append(list, sentProposal{proposal: p, sender: me})
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
