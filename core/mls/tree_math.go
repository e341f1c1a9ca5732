// SPDX-License-Identifier: Apache-2.0

package mls

// The array view of the tree (RFC 9420 appendix C). Leaf i is node 2i; a tree of
// n leaves, n a power of two, has 2n-1 nodes.

// A LeafIndex counts leaves from the left.
type LeafIndex uint32

// A NodeIndex counts nodes in array order.
type NodeIndex uint32

// maxLeaves keeps every node index, and the index one past the end, within uint32 (TREE-3).
const maxLeaves = 1 << 30
