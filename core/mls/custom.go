// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// A Custom is a proposal of a type that this engine does not know, private use
// (0xF000 to 0xFFFF) or of a draft. Its body is taken for one <V> vector (COD-6);
// what it means is the application's: see Env.Custom (PRP-11).
type Custom struct {
	ProposalType ProposalType
	Body         []byte // up to 2^30-1 bytes
}

// Type implements [Proposal].
func (p *Custom) Type() ProposalType { return p.ProposalType }

func (p *Custom) append(b []byte) []byte { return appendOpaque(b, p.Body) }

// A CustomProposal is what an application says of a type of proposals that it
// brings. Every member must list the type in its capabilities and treat it alike.
type CustomProposal struct {
	// Validate refuses a proposal, of ours or received; nil: it takes all. It is
	// called once for each, before anything else is done with it.
	Validate func(p *Custom, sender Sender) error
	// PathRequired: a commit that covers one refreshes the committer's keys (PRP-7).
	PathRequired bool
}

// checkCustom is checkProposal for types that the application brings.
func (g *Group) checkCustom(env *Env, p *Custom, sender Sender) error {
	t := p.ProposalType
	if t == 0 || t.isDefault() {
		return breach("PRP-11", "type %d is not for an application", t)
	}
	kind, known := env.Custom[t]
	if !known {
		return fmt.Errorf("mls: proposals of type 0x%04X: %w", uint16(t), core.ErrUnsupported)
	}
	if own := g.tree.leaf(g.own); own != nil && !own.withoutGrease().supports(t) {
		return breach("PRP-11", "our leaf does not list proposal type 0x%04X", uint16(t))
	}
	if kind.Validate != nil {
		if err := kind.Validate(p, sender); err != nil {
			return fmt.Errorf("mls: proposal of type 0x%04X: %w: %w", uint16(t), core.ErrDenied, err)
		}
	}
	return nil
}

func (n *LeafNode) supports(t ProposalType) bool {
	return t.isDefault() || slices.Contains(n.Capabilities.Proposals, t)
}

// checkSupport makes sure that all who stay support the types of a commit's
// proposals. Who is removed or added need not (LEAF-11).
func (l proposalList) checkSupport(t *tree, removed map[LeafIndex]bool) error {
	var types []ProposalType
	var known codeSet // a commit can hold many (COD-9)
	for _, p := range l {
		if c, ok := p.proposal.(*Custom); ok && !known.has(uint16(c.ProposalType)) {
			known.add(uint16(c.ProposalType))
			types = append(types, c.ProposalType)
		}
	}
	if len(types) == 0 {
		return nil
	}
	for i, n := range t.leaves() {
		if lacked, missing := firstMissing(types, n.Capabilities.Proposals); missing && !removed[i] {
			return breach("LEAF-11", "leaf %d, which stays, does not support proposal type 0x%04X", i, uint16(lacked))
		}
	}
	return nil
}

// removesUs reports whether a commit ends the group for us. What else it covers we
// need not know (LEAF-11).
func (g *Group) removesUs(c *Commit, store *proposalStore) bool {
	return slices.ContainsFunc(c.Proposals, func(p ProposalOrRef) bool {
		body := p.Proposal
		if body == nil {
			found, _ := store.find(p.Reference)
			body = found.proposal
		}
		r, ok := body.(*Remove)
		return ok && r.Removed == g.own
	})
}
