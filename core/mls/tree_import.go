// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"math/bits"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// importTree makes a working copy from a serialized tree (RFC 9420 section
// 12.4.3.3), extended to its full size (TREE-2). It checks the structure, so that
// every index in the tree is in range (TREE-3) and every list sound (TREE-7);
// validate checks the rest.
func importTree(suite core.Suite, nodes []Node) (*tree, error) {
	switch {
	case len(nodes)%2 == 0:
		return nil, breach("TREE-2", "%d nodes", len(nodes))
	case len(nodes) > 2*maxLeaves-1:
		return nil, breach("TREE-3", "%d nodes", len(nodes))
	case nodes[len(nodes)-1] == Node{}:
		return nil, breach("TREE-2", "the last node is blank")
	}
	t := newTree(suite)
	t.resize(bits.Len(uint(len(nodes) / 2)))
	for i, node := range nodes {
		n := NodeIndex(i)
		if node.Leaf != nil && !n.isLeaf() || node.Parent != nil && n.isLeaf() {
			return nil, breach("TREE-2", "node %d is of the wrong type", n)
		}
		if node != (Node{}) {
			t.put(n, node)
		}
	}
	t.ownUpward()
	if err := t.checkUnmerged(); err != nil {
		return nil, err
	}
	return t, nil
}

// ownUpward makes the pages above every page that is not blank, so that a blank
// page has none below it.
func (t *tree) ownUpward() {
	for level := range len(t.pages) - 1 {
		for index, ref := range t.pages[level] {
			if ref != nil {
				t.own(level+1, index/pageFanOut)
			}
		}
	}
}

// checkUnmerged is TREE-7: the unmerged leaves of a node are in order, each once,
// each an occupied leaf below the node, and each unmerged as well at every node
// in between that is not blank.
func (t *tree) checkUnmerged() error {
	for n := NodeIndex(1); n < 2*NodeIndex(t.size())-1; n += 2 {
		p := t.node(n).Parent
		if p == nil {
			continue
		}
		first, end := n.leafRange()
		for k, i := range p.UnmergedLeaves {
			switch {
			case k > 0 && i <= p.UnmergedLeaves[k-1]:
				return breach("TREE-7", "unmerged leaves of node %d are not in order", n)
			case i < first || i >= end:
				return breach("TREE-7", "leaf %d is not below node %d, where it is unmerged", i, n)
			case t.leaf(i) == nil:
				return breach("TREE-7", "leaf %d, unmerged at node %d, is blank", i, n)
			}
			for m := i.node().parent(); m != n; m = m.parent() {
				if q := t.node(m).Parent; q != nil {
					if _, ok := slices.BinarySearch(q.UnmergedLeaves, i); !ok {
						return breach("TREE-7", "leaf %d is unmerged at node %d, but not at node %d below it", i, n, m)
					}
				}
			}
		}
	}
	return nil
}

// exported is the number of nodes without the trailing blank ones.
func (t *tree) exported() NodeIndex {
	end := 2*NodeIndex(t.size()) - 1
	for end > 0 && t.isBlank(end-1) {
		end--
	}
	return end
}

// export lists the nodes, without trailing blank ones.
func (t *tree) export() []Node {
	nodes := make([]Node, t.exported())
	for i := range nodes {
		nodes[i] = t.node(NodeIndex(i))
	}
	return nodes
}

// appendTo encodes what export returns as ratchet_tree<V>.
func (t *tree) appendTo(b []byte) []byte {
	return vlbytes.AppendVector(b, func(b []byte) []byte {
		for n := range t.exported() {
			b = t.node(n).append(b)
		}
		return b
	})
}
