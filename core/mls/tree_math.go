// SPDX-License-Identifier: Apache-2.0

package mls

import "math/bits"

// The array view of the tree (RFC 9420 appendix C). Leaf i is node 2i; a tree of
// n leaves, n a power of two, has 2n-1 nodes. These functions know no tree size:
// the caller compares an index from outside with the size first (TREE-3).

// A LeafIndex counts leaves from the left.
type LeafIndex uint32

// A NodeIndex counts nodes in array order.
type NodeIndex uint32

// maxLeaves keeps every node index, and the index one past the end, within uint32 (TREE-3).
const maxLeaves = 1 << 30

func (i LeafIndex) node() NodeIndex { return NodeIndex(2 * i) }

func (n NodeIndex) isLeaf() bool { return n&1 == 0 }

// leaf is the index of a leaf node among the leaves.
func (n NodeIndex) leaf() LeafIndex { return LeafIndex(n / 2) }

// level is the height over the leaves: 0 for a leaf.
func (n NodeIndex) level() int { return bits.TrailingZeros32(^uint32(n)) }

// left and right are the children of a node that is not a leaf.
func (n NodeIndex) left() NodeIndex  { return n ^ 1<<(n.level()-1) }
func (n NodeIndex) right() NodeIndex { return n ^ 3<<(n.level()-1) }

// parent and sibling are those of a node that is not the root.
func (n NodeIndex) parent() NodeIndex {
	k := n.level()
	return (n | 1<<k) &^ (1 << (k + 1))
}

func (n NodeIndex) sibling() NodeIndex { return n ^ 1<<(n.level()+1) }

// leafRange is the first leaf below a node, itself included, and the one past the last.
func (n NodeIndex) leafRange() (first, end LeafIndex) {
	width := LeafIndex(1) << n.level()
	first = LeafIndex(n+1)/2 - width/2
	return first, first + width
}

// covers reports whether m is in the subtree of n.
func (n NodeIndex) covers(m NodeIndex) bool {
	reach := NodeIndex(1)<<n.level() - 1
	return n-reach <= m && m <= n+reach
}

// rootNode is the root of a tree of a power of two of leaves.
func rootNode(leaves uint32) NodeIndex { return NodeIndex(leaves - 1) }
