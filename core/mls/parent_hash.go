// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"slices"
)

// parentHash is RFC 9420 section 7.9's: the hash over a parent node that its child
// on the path carries, where sibling is the other child (TREE-9).
func (t *tree) parentHash(p *ParentNode, sibling NodeIndex) []byte {
	b := appendOpaque(make([]byte, 0, 256), p.EncryptionKey)
	b = appendOpaque(b, p.ParentHash)
	return t.suite.Hash(appendOpaque(b, t.originalHash(sibling, p.UnmergedLeaves)))
}

// pathNodes makes the parent nodes of a new path, and the parent hash of its leaf,
// from the public keys. The hashes follow the filtered path: the last node has an
// empty one, and so has the leaf if there is no node (TREE-12).
func (t *tree) pathNodes(steps []pathStep, publics [][]byte) (nodes []*ParentNode, leafHash []byte) {
	nodes = make([]*ParentNode, len(steps))
	var hash []byte
	for k := len(steps) - 1; k >= 0; k-- {
		nodes[k] = &ParentNode{EncryptionKey: publics[k], ParentHash: hash}
		hash = t.parentHash(nodes[k], steps[k].copathChild)
	}
	return nodes, hash
}

// mergePath sets leaf and path nodes and blanks the rest of the direct path.
func (t *tree) mergePath(sender LeafIndex, leaf *LeafNode, steps []pathStep, nodes []*ParentNode) {
	for _, n := range t.directPath(sender) {
		t.put(n, Node{})
	}
	for k, s := range steps {
		t.put(s.node, Node{Parent: nodes[k]})
	}
	t.setLeaf(sender, leaf)
}

// validateParentHashes checks that each parent node is linked to a child below it,
// and so down to a leaf (TREE-10).
func (t *tree) validateParentHashes() error {
	for n := NodeIndex(1); n < 2*NodeIndex(t.size())-1; n += 2 {
		if p := t.node(n).Parent; p != nil && !t.linked(p, n.left(), n.right()) && !t.linked(p, n.right(), n.left()) {
			return breach("TREE-10", "node %d has no valid parent hash below it", n)
		}
	}
	return nil
}

// linked reports whether p is linked on one side: the resolution of that child
// holds, apart from the leaves that are unmerged at p, exactly one node, and this
// node carries the parent hash of p. By TREE-7 all leaves that are unmerged at p and
// below the child are in that resolution. As every parent is checked, chains end at
// leaves. An empty parent hash links to nothing.
func (t *tree) linked(p *ParentNode, child, sibling NodeIndex) bool {
	var d Node
	for _, n := range t.resolution(child) {
		if n.isLeaf() {
			if _, unmerged := slices.BinarySearch(p.UnmergedLeaves, n.leaf()); unmerged {
				continue
			}
		}
		if d != (Node{}) {
			return false // a second one
		}
		d = t.node(n)
	}
	switch {
	case d.Parent != nil && len(d.Parent.ParentHash) > 0:
		return bytes.Equal(d.Parent.ParentHash, t.parentHash(p, sibling))
	case d.Leaf != nil && d.Leaf.Source == LeafCommit:
		return bytes.Equal(d.Leaf.ParentHash, t.parentHash(p, sibling))
	}
	return false
}
