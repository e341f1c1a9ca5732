// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// Tree hashes (RFC 9420 section 7.8). A working copy keeps the hash of each node
// until something below the node changes; what is shared is not written to, and
// upper pages hold the hashes at their lower edge.

// hash is the tree hash of the root, Nh bytes.
func (t *tree) hash() []byte { return t.nodeHash(t.root()) }

func (t *tree) nodeHash(n NodeIndex) []byte {
	level, index, slot := locate(n)
	var kept []*[]byte // where the result is remembered
	if above := level + 1; n.level() == pageTop(level) && above < len(t.pages) {
		if p := t.page(above, index/pageFanOut); p != nil {
			at := &p.below[index%pageFanOut]
			if *at != nil {
				return *at
			}
			if t.mayKeep(p) {
				kept = append(kept, at)
			}
		}
	}
	p := t.page(level, index)
	if p == nil {
		h := t.blankHash(n)
		for _, at := range kept {
			*at = h
		}
		return h
	}
	h := p.hashes[slot]
	if h == nil {
		if n.isLeaf() {
			h = leafHash(t.suite, n.leaf(), p.nodes[slot].Leaf)
		} else {
			h = parentNodeHash(t.suite, p.nodes[slot].Parent, t.nodeHash(n.left()), t.nodeHash(n.right()))
		}
		if t.mayKeep(p) {
			p.hashes[slot] = h
		}
	}
	for _, at := range kept {
		*at = h
	}
	return h
}

func (t *tree) mayKeep(p *page) bool { return p.owner == t.owner && !t.frozen.Load() }

// blankHash is the hash of a subtree without a node.
func (t *tree) blankHash(n NodeIndex) []byte {
	if n.isLeaf() {
		return leafHash(t.suite, n.leaf(), nil)
	}
	return parentNodeHash(t.suite, nil, t.blankHash(n.left()), t.blankHash(n.right()))
}

// leafHash hashes a TreeHashInput with a LeafNodeHashInput; a nil leaf is blank (TREE-8).
func leafHash(suite core.Suite, i LeafIndex, leaf *LeafNode) []byte {
	b := appendU32(append(make([]byte, 0, 512), 1), uint32(i))
	b = appendPresent(b, leaf != nil)
	if leaf != nil {
		b = leaf.append(b)
	}
	return suite.Hash(b)
}

// parentNodeHash hashes a TreeHashInput with a ParentNodeHashInput.
func parentNodeHash(suite core.Suite, parent *ParentNode, left, right []byte) []byte {
	b := appendPresent(append(make([]byte, 0, 512), 2), parent != nil)
	if parent != nil {
		b = parent.append(b)
	}
	return suite.Hash(appendOpaque(appendOpaque(b, left), right))
}

// originalHash is the hash of a subtree as it was before the given leaves, in
// ascending order, were added: they are blank and in no unmerged list (TREE-9).
func (t *tree) originalHash(n NodeIndex, without []LeafIndex) []byte {
	first, end := n.leafRange()
	from, _ := slices.BinarySearch(without, first)
	to, _ := slices.BinarySearch(without, end)
	without = without[from:to]
	switch {
	case len(without) == 0:
		return t.nodeHash(n)
	case n.isLeaf():
		return leafHash(t.suite, n.leaf(), nil)
	}
	p := t.node(n).Parent
	if p != nil {
		p = &ParentNode{
			EncryptionKey: p.EncryptionKey,
			ParentHash:    p.ParentHash,
			UnmergedLeaves: slices.DeleteFunc(slices.Clone(p.UnmergedLeaves), func(i LeafIndex) bool {
				_, gone := slices.BinarySearch(without, i)
				return gone
			}),
		}
	}
	return parentNodeHash(t.suite, p, t.originalHash(n.left(), without), t.originalHash(n.right(), without))
}
