// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"iter"
	"math/bits"
	"slices"
	"sync/atomic"

	"github.com/conclave-mls/conclave/core"
)

// A tree is the public ratchet tree (RFC 9420 section 7). It is a value that does
// not change once it is shared: edit gives a working copy that shares the pages
// which it does not change, and only a working copy has its mutators called.
// A working copy on which an operation failed is thrown away.
//
// What a tree holds is checked where it comes in: importTree and validate for a
// whole tree, mergePublicPath for a path. Within a tree all indices are in range.
type tree struct {
	suite     core.Suite
	depth     int          // levels above the leaves
	pages     [][]*pageRef // by page level, then index; nil: a blank subtree
	owner     *treeOwner   // pages with this owner may be changed in place
	frozen    atomic.Bool  // shared: no page may be changed any more
	dropped   map[pageID]uint64
	blankFrom LeafIndex // no leaf before this one is blank
}

// A treeOwner is an identity and nothing else.
type treeOwner struct{ _ byte }

// newTree returns a working copy with one blank leaf.
func newTree(suite core.Suite) *tree {
	t := &tree{suite: suite, owner: &treeOwner{}}
	t.resize(0)
	return t
}

// resize makes room for 2^depth leaves; what lies beyond is forgotten.
func (t *tree) resize(depth int) {
	t.depth = depth
	levels := pageLevels(depth)
	for len(t.pages) < levels {
		t.pages = append(t.pages, nil)
	}
	t.pages = t.pages[:levels]
	for level := range t.pages {
		n := pageCount(depth, level)
		refs := t.pages[level]
		t.pages[level] = append(refs[:min(len(refs), n):min(len(refs), n)], make([]*pageRef, n-min(len(refs), n))...)
	}
}

// edit returns a working copy. The tree itself does not change from now on.
func (t *tree) edit() *tree {
	if !t.frozen.Load() {
		t.hash()
		t.frozen.Store(true)
	}
	w := &tree{suite: t.suite, depth: t.depth, pages: make([][]*pageRef, len(t.pages)), owner: &treeOwner{}, blankFrom: t.blankFrom}
	for level, refs := range t.pages {
		w.pages[level] = slices.Clone(refs)
	}
	for id, epoch := range t.dropped {
		w.drop(id, epoch)
	}
	return w
}

// size is the number of leaf slots, a power of two.
func (t *tree) size() uint32 { return 1 << t.depth }

func (t *tree) root() NodeIndex { return rootNode(t.size()) }

// node is blank if the index is out of range.
func (t *tree) node(n NodeIndex) Node {
	if uint64(n) >= 2*uint64(t.size())-1 {
		return Node{}
	}
	level, index, slot := locate(n)
	if p := t.page(level, index); p != nil {
		return p.nodes[slot]
	}
	return Node{}
}

// leaf is nil if the leaf is blank or out of range.
func (t *tree) leaf(i LeafIndex) *LeafNode {
	if uint32(i) >= t.size() {
		return nil
	}
	return t.node(i.node()).Leaf
}

func (t *tree) isBlank(n NodeIndex) bool { return t.node(n) == Node{} }

// leaves goes over the leaves that are not blank.
func (t *tree) leaves() iter.Seq2[LeafIndex, *LeafNode] {
	return func(yield func(LeafIndex, *LeafNode) bool) {
		for i := range LeafIndex(t.size()) {
			if leaf := t.leaf(i); leaf != nil && !yield(i, leaf) {
				return
			}
		}
	}
}

// directPath goes from the leaf's parent to the root; empty for a single leaf.
func (t *tree) directPath(i LeafIndex) []NodeIndex {
	path := make([]NodeIndex, 0, t.depth)
	for n := i.node(); n != t.root(); {
		n = n.parent()
		path = append(path, n)
	}
	return path
}

// resolution is RFC 9420 section 4.1.1's (TREE-6): the smallest set of nodes that
// are not blank and cover all members below n.
func (t *tree) resolution(n NodeIndex) []NodeIndex { return t.appendResolution(nil, n) }

func (t *tree) appendResolution(list []NodeIndex, n NodeIndex) []NodeIndex {
	level, index, slot := locate(n)
	p := t.page(level, index)
	if p == nil {
		return list // a blank page stands for a blank subtree
	}
	switch node := p.nodes[slot]; {
	case node.Leaf != nil:
		return append(list, n)
	case node.Parent != nil:
		list = append(list, n)
		for _, i := range node.Parent.UnmergedLeaves {
			list = append(list, i.node())
		}
		return list
	case n.isLeaf():
		return list
	}
	return t.appendResolution(t.appendResolution(list, n.left()), n.right())
}

// A pathStep is a node of a filtered direct path, with the child that is not on
// the path and that child's resolution, which is not empty.
type pathStep struct {
	node, copathChild NodeIndex
	resolution        []NodeIndex
}

// filteredDirectPath leaves out the nodes whose copath child has nobody below it (PATH-1).
func (t *tree) filteredDirectPath(i LeafIndex) []pathStep {
	var steps []pathStep
	for n := i.node(); n != t.root(); n = n.parent() {
		if r := t.resolution(n.sibling()); len(r) > 0 {
			steps = append(steps, pathStep{node: n.parent(), copathChild: n.sibling(), resolution: r})
		}
	}
	return steps
}

// findKey returns the first node whose encryption key is in the set (PATH-6).
func (t *tree) findKey(keys map[string]bool) (NodeIndex, bool) {
	for n := range 2*NodeIndex(t.size()) - 1 {
		if !t.isBlank(n) && keys[string(t.encryptionKey(n))] {
			return n, true
		}
	}
	return 0, false
}

// encryptionKey is that of a node that is not blank.
func (t *tree) encryptionKey(n NodeIndex) []byte {
	node := t.node(n)
	if node.Leaf != nil {
		return node.Leaf.EncryptionKey
	}
	return node.Parent.EncryptionKey
}

// put changes one node of a working copy; the caller calls touch afterwards.
func (t *tree) put(n NodeIndex, node Node) {
	level, index, slot := locate(n)
	t.own(level, index).nodes[slot] = node
}

// touch forgets the hashes of the leaf and of its direct path.
func (t *tree) touch(i LeafIndex) {
	for n := i.node(); ; n = n.parent() {
		level, index, slot := locate(n)
		t.own(level, index).hashes[slot] = nil
		if level+1 < len(t.pages) {
			t.own(level+1, index/pageFanOut).below[index%pageFanOut] = nil
		}
		if n == t.root() {
			return
		}
	}
}

// reserveLeaf returns the leftmost blank leaf, and doubles the tree if there is
// none (TREE-4). The leaf stays blank.
func (t *tree) reserveLeaf() LeafIndex {
	for uint32(t.blankFrom) < t.size() && t.leaf(t.blankFrom) != nil {
		t.blankFrom++
	}
	if uint32(t.blankFrom) == t.size() {
		t.resize(t.depth + 1)
		t.own(len(t.pages)-1, 0) // over a page that is not blank, no page may be missing
	}
	return t.blankFrom
}

// addLeaf puts a leaf where reserveLeaf says; it is unmerged at its ancestors.
func (t *tree) addLeaf(leaf *LeafNode) LeafIndex {
	i := t.reserveLeaf()
	t.put(i.node(), Node{Leaf: leaf})
	for _, n := range t.directPath(i) {
		if p := t.node(n).Parent; p != nil {
			at, _ := slices.BinarySearch(p.UnmergedLeaves, i)
			t.put(n, Node{Parent: &ParentNode{
				EncryptionKey:  p.EncryptionKey,
				ParentHash:     p.ParentHash,
				UnmergedLeaves: slices.Insert(slices.Clone(p.UnmergedLeaves), at, i),
			}})
		}
	}
	t.touch(i)
	return i
}

// setLeaf replaces a leaf and nothing else.
func (t *tree) setLeaf(i LeafIndex, leaf *LeafNode) {
	t.put(i.node(), Node{Leaf: leaf})
	t.touch(i)
}

// updateLeaf replaces a leaf and blanks its direct path (TREE-5).
func (t *tree) updateLeaf(i LeafIndex, leaf *LeafNode) {
	for _, n := range t.directPath(i) {
		t.put(n, Node{})
	}
	t.setLeaf(i, leaf)
}

// removeLeaf blanks a leaf and its direct path; truncate follows the last removal (TREE-5).
func (t *tree) removeLeaf(i LeafIndex) {
	t.updateLeaf(i, nil)
	t.blankFrom = min(t.blankFrom, i)
}

// truncate drops the right half while no leaf in it is occupied (TREE-5).
func (t *tree) truncate() {
	last := LeafIndex(0)
	for i := LeafIndex(t.size() - 1); i > 0; i-- {
		if t.leaf(i) != nil {
			last = i
			break
		}
	}
	depth := bits.Len32(uint32(last))
	if depth == t.depth {
		return
	}
	for level, refs := range t.pages {
		for index := pageCount(depth, level); index < len(refs); index++ {
			if ref := refs[index]; ref != nil {
				if s := ref.loadedState(); s.stored {
					t.drop(pageID{uint8(level), uint32(index)}, s.epoch)
				}
			}
		}
	}
	t.resize(depth)
	// The page of the new root may hold nodes beyond it.
	top := t.own(len(t.pages)-1, 0)
	kept := pageNodesAt(depth)
	clear(top.nodes[kept:])
	clear(top.hashes[kept:])
	if top.below != nil {
		clear(top.below[kept+1:])
	}
}

func (t *tree) drop(id pageID, epoch uint64) {
	if t.dropped == nil {
		t.dropped = map[pageID]uint64{}
	}
	t.dropped[id] = epoch
}
