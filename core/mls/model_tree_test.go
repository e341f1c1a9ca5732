// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core/mls"
)

// A modelTree is the ratchet tree as one draws it on paper: nodes that point to
// their children, and no keys. A mark stands for the keys that a node got at one
// time: two nodes have the same key if they have the same mark, and only then.
type modelTree struct{ root *modelNode }

type modelNode struct {
	left, right *modelNode // nil for a leaf
	leaf        *modelLeaf // nil: a blank leaf, or a parent
	mark        int        // of a parent, 0: blank
	unmerged    []int      // of a parent: leaf indices
}

// A modelLeaf is what a member says of itself.
type modelLeaf struct {
	name string
	key  int  // which of its signature keys
	rich bool // it supports the extension that only some do
	mark int
}

func newModelTree(l *modelLeaf) *modelTree { return &modelTree{&modelNode{leaf: l}} }

func (t *modelTree) clone() *modelTree { return &modelTree{t.root.clone()} }

func (n *modelNode) clone() *modelNode {
	if n == nil {
		return nil
	}
	return &modelNode{n.left.clone(), n.right.clone(), n.leaf, n.mark, slices.Clone(n.unmerged)}
}

// blankOfSameSize is an empty tree as large as n.
func (n *modelNode) blankOfSameSize() *modelNode {
	if n.left == nil {
		return &modelNode{}
	}
	return &modelNode{left: n.left.blankOfSameSize(), right: n.right.blankOfSameSize()}
}

// places lists the leaves from left to right, blank ones included.
func (n *modelNode) places() []*modelNode {
	if n.left == nil {
		return []*modelNode{n}
	}
	return append(n.left.places(), n.right.places()...)
}

func (t *modelTree) leaves() (list []*modelLeaf) {
	for _, n := range t.root.places() {
		list = append(list, n.leaf)
	}
	return list
}

func (t *modelTree) leaf(i int) *modelLeaf {
	if list := t.leaves(); i >= 0 && i < len(list) {
		return list[i]
	}
	return nil
}

// find is the leaf index of a client, -1 if it is not there.
func (t *modelTree) find(name string) int {
	return slices.IndexFunc(t.leaves(), func(l *modelLeaf) bool { return l != nil && l.name == name })
}

func (t *modelTree) count() (n int) {
	for _, l := range t.leaves() {
		if l != nil {
			n++
		}
	}
	return n
}

// empty is whether the resolution is empty (RFC 9420 section 4.1.1).
func (n *modelNode) empty() bool {
	if n.left == nil {
		return n.leaf == nil
	}
	return n.mark == 0 && n.left.empty() && n.right.empty()
}

// up lists the ancestors of a leaf, from its parent to the root, each with its
// child that is not on the way: the direct path and the copath.
func (t *modelTree) up(i int) (path, copath []*modelNode) {
	for n := t.root; n.left != nil; {
		next, other := n.left, n.right
		if half := len(n.left.places()); i >= half {
			next, other, i = n.right, n.left, i-half
		}
		path, copath = append(path, n), append(copath, other)
		n = next
	}
	slices.Reverse(path)
	slices.Reverse(copath)
	return path, copath
}

func (t *modelTree) blankPath(i int) {
	path, _ := t.up(i)
	for _, n := range path {
		n.mark, n.unmerged = 0, nil
	}
}

// update is RFC 9420 section 12.1.2.
func (t *modelTree) update(i int, l *modelLeaf) {
	t.root.places()[i].leaf = l
	t.blankPath(i)
}

// remove is RFC 9420 section 12.1.3.
func (t *modelTree) remove(i int) {
	t.root.places()[i].leaf = nil
	t.blankPath(i)
	for t.root.right != nil && !slices.ContainsFunc(t.root.right.places(), func(n *modelNode) bool { return n.leaf != nil }) {
		t.root = t.root.left
	}
}

// add is RFC 9420 section 12.1.1.
func (t *modelTree) add(l *modelLeaf) int {
	i := slices.Index(t.leaves(), nil)
	if i < 0 {
		i = len(t.leaves())
		t.root = &modelNode{left: t.root, right: t.root.blankOfSameSize()}
	}
	t.root.places()[i].leaf = l
	path, _ := t.up(i)
	for _, n := range path {
		if n.mark != 0 {
			n.unmerged = append(n.unmerged, i)
			slices.Sort(n.unmerged)
		}
	}
	return i
}

// refresh is a path from leaf i (RFC 9420 section 7.5): nodes whose child off the
// path has nobody below stay blank.
func (t *modelTree) refresh(i int, l *modelLeaf, mark func() int) {
	t.root.places()[i].leaf = l
	path, copath := t.up(i)
	for k, n := range path {
		n.mark, n.unmerged = 0, nil
		if !copath[k].empty() {
			n.mark = mark()
		}
	}
}

// unmerged lists the leaves that a node above does not know.
func (t *modelTree) unmerged() (list []int) {
	for _, n := range t.root.nodes() {
		list = append(list, n.unmerged...)
	}
	return list
}

// nodes are those of the array representation (RFC 9420 appendix C).
func (n *modelNode) nodes() []*modelNode {
	if n.left == nil {
		return []*modelNode{n}
	}
	return append(append(n.left.nodes(), n), n.right.nodes()...)
}

// A keyring remembers which key belongs to which mark.
type keyring struct {
	keys  map[int]string
	marks map[string]int
}

func (k *keyring) same(mark int, key []byte) bool {
	m, known := k.marks[string(key)]
	if was, ok := k.keys[mark]; ok || known {
		return was == string(key) && m == mark
	}
	k.keys[mark], k.marks[string(key)] = string(key), mark
	return true
}

// compare says how a serialized tree differs from the model, "" if it does not.
func (t *modelTree) compare(data []byte, keys *keyring, signatureKey func(*modelLeaf) []byte) string {
	got, err := mls.UnmarshalRatchetTree(data)
	if err != nil {
		return err.Error()
	}
	want := t.root.nodes()
	for last := want[len(want)-1]; last.leaf == nil && last.mark == 0; last = want[len(want)-1] {
		want = want[:len(want)-1]
	}
	if len(got) != len(want) {
		return fmt.Sprintf("%d nodes, not %d", len(got), len(want))
	}
	for i, n := range want {
		leaf, parent := got[i].Leaf, got[i].Parent
		switch {
		case (leaf != nil) != (n.leaf != nil) || (parent != nil) != (n.mark != 0):
			return fmt.Sprintf("node %d: leaf %v parent %v, not %v %v", i, leaf != nil, parent != nil, n.leaf != nil, n.mark != 0)
		case leaf != nil:
			if string(leaf.Credential.Identity) != n.leaf.name || !bytes.Equal(leaf.SignatureKey, signatureKey(n.leaf)) ||
				slices.Contains(leaf.Capabilities.Extensions, richExtension) != n.leaf.rich || !keys.same(n.leaf.mark, leaf.EncryptionKey) {
				return fmt.Sprintf("leaf %d is not that of %s", i/2, n.leaf.name)
			}
		case parent != nil:
			var unmerged []int
			for _, u := range parent.UnmergedLeaves {
				unmerged = append(unmerged, int(u))
			}
			if !slices.Equal(unmerged, n.unmerged) || !keys.same(n.mark, parent.EncryptionKey) {
				return fmt.Sprintf("node %d: unmerged %v, not %v, or another key", i, unmerged, n.unmerged)
			}
		}
	}
	return ""
}
