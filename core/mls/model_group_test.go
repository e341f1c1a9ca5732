// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// The naive model of a group: what RFC 9420 says that everybody agrees on in an
// epoch, what a list of proposals may be, and what comes of a commit. It knows
// members by name and has neither keys nor messages.

// richExtension is supported by some clients only.
const richExtension mls.ExtensionType = 0xF001

// An extensionList is one of the lists that groups of the model have.
type extensionList int

const (
	noExtensions extensionList = iota
	withSenders
	withCredentials // required ones, which all have
	withRich        // the extension that not all support
	withRichRequired
	extensionLists
)

// real is the list on the wire.
func (l extensionList) real(senders mls.Extension) mls.Extensions {
	switch l {
	case withSenders:
		return mls.Extensions{senders}
	case withCredentials:
		return mls.Extensions{mls.RequiredCapabilities{Credentials: []core.CredentialType{1, 2}, Proposals: []mls.ProposalType{1, 7}}.Extension(), senders}
	case withRich:
		return mls.Extensions{{Type: richExtension, Data: []byte("data")}}
	case withRichRequired:
		return mls.Extensions{senders, mls.RequiredCapabilities{Extensions: []mls.ExtensionType{richExtension, 1}}.Extension()}
	}
	return nil
}

// demands is the rule that a member breaks which is not rich, "" if it breaks none.
func (l extensionList) demands() string {
	switch l {
	case withRich:
		return "LEAF-8"
	case withRichRequired:
		return "LEAF-7"
	}
	return ""
}

func (l extensionList) hasSenders() bool {
	return l == withSenders || l == withCredentials || l == withRichRequired
}

// A modelEpoch is what all members of an epoch agree on. Epochs form a tree: if two
// commits of one epoch are taken by different members, the group has forked.
type modelEpoch struct {
	number     uint64
	parent     *modelEpoch
	tree       *modelTree
	extensions extensionList
	ended      bool // with a ReInit
	commit     *modelCommit
	next       *modelEpoch // that the delivery service has chosen

	seen *observed // what the first member in it had
}

// ancestor is the epoch of an earlier number in the history of e.
func (e *modelEpoch) ancestor(number uint64) *modelEpoch {
	for e != nil && e.number != number {
		e = e.parent
	}
	return e
}

// A modelProposal is a proposal and who made it.
type modelProposal struct {
	kind   mls.ProposalType
	sender mls.SenderType
	from   int // the sender's leaf

	leaf       *modelLeaf // Add, Update
	bundle     *modelBundle
	target     int         // Remove
	psk        string      // PreSharedKey: the name of an external one, or ""
	pskEpoch   uint64      // of a resumption one
	before     *modelEpoch // of one that ties a group to the one before it
	nonce      int
	extensions extensionList // GroupContextExtensions

	real mls.Proposal
	ref  string // empty if it was never sent on its own
	sent *letter
}

// rivals is whether a commit can have only one of the two, whatever they say.
func (p *modelProposal) rivals(q *modelProposal) bool {
	switch {
	case p.kind != q.kind:
		return false
	case p.kind == mls.ProposalAdd:
		return p.leaf.name == q.leaf.name
	case p.kind == mls.ProposalUpdate:
		return p.from == q.from
	}
	return p.kind == mls.ProposalGroupContextExtensions
}

// A modelBundle is a key package and its private keys.
type modelBundle struct {
	owner  *actor
	leaf   *modelLeaf
	bundle *mls.KeyPackageBundle
	ref    string
}

// A modelItem is a proposal in a commit.
type modelItem struct {
	*modelProposal
	byReference bool
}

// breaches lists the rules that a list breaks in a commit of the member at a leaf.
func (e *modelEpoch) breaches(list []modelItem, committer int) (rules []string) {
	breach := func(rule string) { rules = append(rules, rule) }
	touched, removed := map[int]bool{}, map[int]bool{}
	psks := map[int]bool{}
	contexts := 0
	touch := func(i int) {
		if touched[i] {
			breach("PRP-3")
		}
		touched[i] = true
	}
	for _, p := range list {
		switch p.kind {
		case mls.ProposalUpdate:
			if !p.byReference {
				breach("PRP-2")
			}
			if p.from == committer {
				breach("PRP-3")
			}
			touch(p.from)
		case mls.ProposalRemove:
			if p.target == committer {
				breach("PRP-3")
			}
			if e.tree.leaf(p.target) == nil {
				breach("PRP-4")
			}
			touch(p.target)
			removed[p.target] = true
		case mls.ProposalPSK:
			if psks[p.nonce] {
				breach("PSK-2")
			}
			psks[p.nonce] = true
		case mls.ProposalGroupContextExtensions:
			if contexts++; contexts > 1 {
				breach("PRP-3")
			}
		case mls.ProposalReInit:
			if len(list) > 1 {
				breach("PRP-3")
			}
		}
	}
	added := map[string]bool{}
	for _, p := range list {
		if p.kind != mls.ProposalAdd {
			continue
		}
		if i := e.tree.find(p.leaf.name); added[p.leaf.name] || i >= 0 && !removed[i] {
			breach("PRP-3")
		}
		added[p.leaf.name] = true
	}
	if len(rules) > 0 {
		return rules
	}
	tree, extensions := e.apply(list)
	if rule := extensions.demands(); rule != "" {
		for _, l := range tree.leaves() {
			if l != nil && !l.rich {
				breach(rule)
			}
		}
	}
	return rules
}

// apply gives the tree and extensions that the proposals of a commit make, in the
// order of RFC 9420 section 12.3.
func (e *modelEpoch) apply(list []modelItem) (*modelTree, extensionList) {
	tree, extensions := e.tree.clone(), e.extensions
	each := func(kind mls.ProposalType, f func(modelItem)) {
		for _, p := range list {
			if p.kind == kind {
				f(p)
			}
		}
	}
	each(mls.ProposalGroupContextExtensions, func(p modelItem) { extensions = p.extensions })
	each(mls.ProposalUpdate, func(p modelItem) { tree.update(p.from, p.leaf) })
	each(mls.ProposalRemove, func(p modelItem) { tree.remove(p.target) })
	each(mls.ProposalAdd, func(p modelItem) { tree.add(p.leaf) })
	return tree, extensions
}

// pathRequired is RFC 9420 section 12.4.
func pathRequired(list []modelItem) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(p modelItem) bool {
		return p.kind != mls.ProposalAdd && p.kind != mls.ProposalPSK && p.kind != mls.ProposalReInit
	})
}

// A modelCommit is a commit, taken by somebody or not.
type modelCommit struct {
	by       *actor
	from     *modelEpoch
	external bool
	first    bool // of a successor, for nobody to process
	list     []modelItem
	leaf     *modelLeaf // of the path, nil if there is none
	result   *modelEpoch
	place    int // of the committer in the result

	bundle mls.CommitBundle
	tree   bool // GroupInfo and Welcome carry the tree
	sent   *letter
}

// follow is the epoch that a commit leads to.
func (c *modelCommit) follow(mark func() int) {
	tree, extensions := c.from.apply(c.list)
	if c.external {
		c.place = tree.add(c.leaf)
	} else {
		c.place = c.from.tree.find(c.by.name)
	}
	if c.leaf != nil {
		tree.refresh(c.place, c.leaf, mark)
	}
	c.result = &modelEpoch{
		number: c.from.number + 1, parent: c.from, tree: tree, extensions: extensions, commit: c,
		ended: slices.ContainsFunc(c.list, func(p modelItem) bool { return p.kind == mls.ProposalReInit }),
	}
}

// removes is whether the commit removes the leaf.
func (c *modelCommit) removes(leaf int) bool {
	return slices.ContainsFunc(c.list, func(p modelItem) bool { return p.kind == mls.ProposalRemove && p.target == leaf })
}

// adds lists the additions.
func (c *modelCommit) adds() (list []modelItem) {
	for _, p := range c.list {
		if p.kind == mls.ProposalAdd {
			list = append(list, p)
		}
	}
	return list
}
