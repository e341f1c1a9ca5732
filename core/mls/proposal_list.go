// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// A sentProposal is a proposal with its sender; ref is empty for one that a
// commit carries by value.
type sentProposal struct {
	proposal Proposal
	sender   Sender
	ref      ProposalRef
}

func (p sentProposal) received() ReceivedProposal {
	return ReceivedProposal{Ref: p.ref, Proposal: p.proposal, Sender: p.sender}
}

// A proposalList is what one commit covers, in the commit's order.
type proposalList []sentProposal

func (l proposalList) of(t ProposalType) (out []sentProposal) {
	for _, p := range l {
		if p.proposal.Type() == t {
			out = append(out, p)
		}
	}
	return out
}

// pathRequired is PRP-7.
func (l proposalList) pathRequired(env *Env) bool {
	for _, p := range l {
		switch p := p.proposal.(type) {
		case *Add, *PreSharedKey, *ReInit:
		case *Custom:
			if env.Custom[p.ProposalType].PathRequired {
				return true
			}
		default:
			return true
		}
	}
	return len(l) == 0
}

// checkProposal checks one proposal against the group as it is: whatever does not
// depend on the rest of a commit (PRP-12). It asks the Authenticator about new
// credentials, so it is called once for each proposal: on receipt, or in the
// commit that carries it by value.
//
// Lifetimes bind who proposes or commits an Add, not who receives one: members
// with different clocks must not part over it (LEAF-9).
func (g *Group) checkProposal(env *Env, p Proposal, sender Sender) error {
	return g.checkProposals(env, []Proposal{p}, sender)
}

// checkProposals is checkProposal for all of one sender, of which there may be thousands.
func (g *Group) checkProposals(env *Env, proposals []Proposal, sender Sender) error {
	if _, err := inParallel(len(proposals), func(i int) (_ struct{}, err error) {
		if add, ok := proposals[i].(*Add); ok {
			err = add.KeyPackage.Validate(g.suite, time.Time{})
		}
		return struct{}{}, err
	}); err != nil {
		return err
	}
	for _, p := range proposals {
		if err := g.checkProposalHere(env, p, sender); err != nil {
			return err
		}
	}
	return nil
}

// checkProposalHere is checkProposal without what a key package is on its own.
func (g *Group) checkProposalHere(env *Env, p Proposal, sender Sender) error {
	if err := checkProposalSender(p.Type(), sender); err != nil {
		return err
	}
	switch p := p.(type) {
	case *Add:
		if err := env.checkListed(p.KeyPackage.LeafNode); err != nil {
			return err
		}
		if sender == g.me() || env.StrictLifetimes {
			if err := env.checkLifetime(p.KeyPackage.LeafNode); err != nil {
				return err
			}
		}
		return env.authenticate(p.KeyPackage.LeafNode, nil)
	case *Update:
		old := g.tree.leaf(sender.Leaf)
		if old == nil {
			return breach("PRP-4", "update of blank leaf %d", sender.Leaf)
		}
		return g.checkLeafUpdate(env, p.LeafNode, LeafUpdate, old, sender.Leaf)
	case *Remove:
		if g.tree.leaf(p.Removed) == nil {
			return breach("PRP-4", "remove of blank leaf %d", p.Removed)
		}
	case *PreSharedKey:
		return p.PSK.check(g.suite)
	case *ReInit:
		if p.Version < g.context.Version {
			return breach("RE-4", "version %d is lower than the group's", p.Version)
		}
		if sender == g.me() {
			if err := p.canFollow(env); err != nil {
				return err
			}
		}
		return checkGroupExtensions(p.Extensions)
	case *GroupContextExtensions:
		return g.checkNewExtensions(env, p.Extensions)
	case *Custom:
		return g.checkCustom(env, p, sender)
	}
	return nil
}

// checkProposalSender is the table of who may propose what, on its own or in a commit.
func checkProposalSender(t ProposalType, sender Sender) error {
	ok, rule := false, "FR-4"
	switch sender.Type {
	case SenderMember:
		ok = t != ProposalExternalInit
	case SenderExternal:
		ok, rule = t.isDefault() && t != ProposalUpdate && t != ProposalExternalInit, "XS-2"
	case SenderNewMemberProposal:
		ok, rule = t == ProposalAdd, "XS-3"
	case SenderNewMemberCommit:
		ok = t == ProposalExternalInit || t == ProposalRemove || t == ProposalPSK
	}
	if !ok {
		return breach(rule, "proposal type %d from sender type %d", t, sender.Type)
	}
	return nil
}

// checkLeafUpdate checks a leaf that replaces another, by Update or by a path.
func (g *Group) checkLeafUpdate(env *Env, leaf *LeafNode, source LeafNodeSource, old *LeafNode, i LeafIndex) error {
	if err := leaf.checkSelf(g.suite, source); err != nil {
		return err
	}
	if bytes.Equal(leaf.EncryptionKey, old.EncryptionKey) {
		return breach("LEAF-3", "leaf %d keeps its encryption key", i)
	}
	if err := leaf.verify(g.suite, g.context.GroupID, i); err != nil {
		return err
	}
	if err := env.checkListed(leaf); err != nil {
		return err
	}
	return env.authenticate(leaf, old)
}

// authenticate asks the Authenticator about a credential that is new to the
// group; an unchanged one was asked about before (CRD-1, CRD-2). What is inside a
// chain of certificates is for the Authenticator alone (CRD-3).
func (e *Env) authenticate(leaf, old *LeafNode) error {
	if old != nil && bytes.Equal(leaf.SignatureKey, old.SignatureKey) &&
		bytes.Equal(MarshalCredential(leaf.Credential), MarshalCredential(old.Credential)) {
		return nil
	}
	identity, err := e.validate(leaf, core.PurposeMember)
	if err != nil || old == nil {
		return err
	}
	before, err := e.identity(old)
	if err != nil {
		return err
	}
	return e.Auth.Successor(before, identity)
}

// checkGroupExtensions is what a list of GroupContext extensions must be in any group.
func checkGroupExtensions(l Extensions) error {
	if err := l.checkUnique(); err != nil {
		return err
	}
	for _, e := range l {
		switch e.Type {
		case ExtensionApplicationID, ExtensionRatchetTree, ExtensionExternalPub, ExtensionLastResort:
			return breach("PRP-8", "extension 0x%04X does not belong in a GroupContext", uint16(e.Type))
		}
	}
	if _, err := l.requiredCapabilities(); err != nil {
		return err
	}
	_, err := l.ExternalSenders()
	return err
}

// checkNewExtensions checks a replacement of the group's extensions (PRP-8).
// Whether every member supports it is checked on the tree that the commit makes.
func (g *Group) checkNewExtensions(env *Env, l Extensions) error {
	if err := checkGroupExtensions(l); err != nil {
		return err
	}
	senders, err := l.ExternalSenders()
	if err != nil {
		return err
	}
	known, _ := g.context.Extensions.Find(ExtensionExternalSenders)
	if now, _ := l.Find(ExtensionExternalSenders); bytes.Equal(known, now) {
		return nil
	}
	return authenticateSenders(env, g.suite, senders)
}

func authenticateSenders(env *Env, suite core.Suite, senders []ExternalSender) error {
	for _, s := range senders {
		key := s.key(suite)
		if err := suite.ValidateSignaturePublic(key); err != nil {
			return breach("CS-2", "external sender: %v", err)
		}
		if _, err := env.Auth.Validate(s.Credential, key, env.Now, core.PurposeExternal); err != nil {
			return err
		}
	}
	return nil
}

// checkList is what the proposals of one regular commit must be together (PRP-3).
func (l proposalList) checkList(env *Env, t *tree, committer LeafIndex) error {
	touched := map[LeafIndex]bool{}
	touch := func(i LeafIndex) error {
		if touched[i] {
			return breach("PRP-3", "leaf %d is updated or removed twice", i)
		}
		touched[i] = true
		return nil
	}
	removed := map[LeafIndex]bool{}
	psks := map[string]bool{}
	extensions := 0
	for _, p := range l {
		switch body := p.proposal.(type) {
		case *Update:
			if len(p.ref) == 0 { // PRP-2
				return breach("PRP-2", "update by value")
			}
			if p.sender.Leaf == committer {
				return breach("PRP-3", "update of the committer")
			}
			if err := touch(p.sender.Leaf); err != nil {
				return err
			}
		case *Remove:
			if body.Removed == committer {
				return breach("PRP-3", "remove of the committer")
			}
			if t.leaf(body.Removed) == nil {
				return breach("PRP-4", "remove of blank leaf %d", body.Removed)
			}
			if err := touch(body.Removed); err != nil {
				return err
			}
			removed[body.Removed] = true
		case *PreSharedKey:
			id := string(body.PSK.append(nil))
			if psks[id] {
				return breach("PSK-2", "a PSK occurs twice")
			}
			psks[id] = true
		case *GroupContextExtensions:
			if extensions++; extensions > 1 {
				return breach("PRP-3", "two GroupContextExtensions")
			}
		case *ReInit:
			if len(l) > 1 {
				return breach("PRP-3", "ReInit beside other proposals")
			}
		case *ExternalInit:
			return breach("PRP-3", "ExternalInit in a regular commit")
		}
	}
	if err := l.checkSupport(t, removed); err != nil {
		return err
	}
	return l.checkAdds(env, t, removed)
}

// checkAdds refuses a client that would be in the group twice.
func (l proposalList) checkAdds(env *Env, t *tree, removed map[LeafIndex]bool) error {
	adds := l.of(ProposalAdd)
	if len(adds) == 0 {
		return nil
	}
	clients := newClientSet(env)
	for _, p := range adds {
		leaf := p.proposal.(*Add).KeyPackage.LeafNode
		if twice, err := clients.has(leaf); err != nil {
			return err
		} else if twice {
			return breach("PRP-3", "two adds of one client")
		}
		clients.add(leaf)
	}
	for i, n := range t.leaves() {
		if removed[i] {
			continue
		}
		if twice, err := clients.has(n); err != nil {
			return err
		} else if twice {
			return breach("PRP-3", "add of a client that is at leaf %d", i)
		}
	}
	return nil
}

// checkExternalList is what an external commit may carry (EXT-2).
func (l proposalList) checkExternalList() error {
	inits, removes := 0, 0
	psks := map[string]bool{}
	for _, p := range l {
		switch body := p.proposal.(type) {
		case *ExternalInit:
			inits++
		case *Remove:
			removes++
		case *PreSharedKey:
			id := string(body.PSK.append(nil))
			if psks[id] {
				return breach("PSK-2", "a PSK occurs twice")
			}
			psks[id] = true
		default:
			return breach("EXT-2", "proposal type %d in an external commit", p.proposal.Type())
		}
	}
	if inits != 1 || removes > 1 {
		return breach("EXT-2", "%d ExternalInit and %d Remove", inits, removes)
	}
	return nil
}

// apply changes the working tree in the order of PRP-6 and returns the new
// extensions and the leaves that were added, in list order.
func (l proposalList) apply(t *tree, extensions Extensions) (Extensions, []LeafIndex) {
	for _, p := range l.of(ProposalGroupContextExtensions) {
		extensions = p.proposal.(*GroupContextExtensions).Extensions
	}
	for _, p := range l.of(ProposalUpdate) {
		t.updateLeaf(p.sender.Leaf, p.proposal.(*Update).LeafNode)
	}
	for _, p := range l.of(ProposalRemove) {
		t.removeLeaf(p.proposal.(*Remove).Removed)
	}
	t.truncate()
	var added []LeafIndex
	for _, p := range l.of(ProposalAdd) {
		added = append(added, t.addLeaf(p.proposal.(*Add).KeyPackage.LeafNode))
	}
	return extensions, added
}

// freshLeaves are the leaves of the new tree that a commit set.
func (l proposalList) freshLeaves(committer LeafIndex, added []LeafIndex, path bool) []LeafIndex {
	fresh := slices.Clone(added)
	for _, p := range l.of(ProposalUpdate) {
		fresh = append(fresh, p.sender.Leaf)
	}
	if path {
		fresh = append(fresh, committer)
	}
	return fresh
}

// checkResult checks the leaves of the tree that a commit made: fresh are those
// it set. All are looked at again when the group's extensions change (LEAF-7, LEAF-8).
func (g *Group) checkResult(t *tree, gc *GroupContext, fresh []LeafIndex) error {
	if !gc.Extensions.equal(g.context.Extensions) {
		fresh = nil
		for i := range t.leaves() {
			fresh = append(fresh, i)
		}
	}
	needs, err := gc.needs()
	if err != nil {
		return err
	}
	for _, i := range fresh {
		if err := t.leaf(i).meets(needs); err != nil {
			return err
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := checkOwn(t, gc, g.own); err != nil {
		return err
	}
	if err := checkCredentialTypes(t); err != nil {
		return err
	}
	return checkFreshKeys(t, fresh)
}

// checkFreshKeys is LEAF-4 for the given leaves against the whole tree.
func checkFreshKeys(t *tree, fresh []LeafIndex) error {
	encryption, signature := map[string]int{}, map[string]int{}
	for _, i := range fresh {
		encryption[string(t.leaf(i).EncryptionKey)] = 0
		signature[string(t.leaf(i).SignatureKey)] = 0
	}
	count := func(m map[string]int, key []byte) bool {
		n, ok := m[string(key)]
		if ok {
			m[string(key)] = n + 1
		}
		return n == 0
	}
	for i := range 2*t.size() - 1 {
		switch n := t.node(NodeIndex(i)); {
		case n.Leaf != nil:
			if !count(encryption, n.Leaf.EncryptionKey) || !count(signature, n.Leaf.SignatureKey) {
				return breach("LEAF-4", "a key of leaf %d is in the tree twice", i/2)
			}
		case n.Parent != nil:
			if !count(encryption, n.Parent.EncryptionKey) {
				return breach("LEAF-4", "the key of node %d is in the tree twice", i)
			}
		}
	}
	return nil
}

// pskIDs lists the PSKs of a commit in list order (PSK-5).
func (l proposalList) pskIDs() (ids []PreSharedKeyID) {
	for _, p := range l.of(ProposalPSK) {
		ids = append(ids, p.proposal.(*PreSharedKey).PSK)
	}
	return ids
}
