// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// The operations on a naiveRatchetTree, in the words of RFC 9420 sections 7.7 and
// 12.1.1 to 12.1.3: an array that is always full.

func (t *naiveRatchetTree) ancestors(i LeafIndex) (list []int) {
	for k := 1; 1<<k <= len(t.nodes); k++ {
		list = append(list, int(2*i)&^(2<<k-1)+1<<k-1)
	}
	return list
}

func (t *naiveRatchetTree) occupied() (list []LeafIndex) {
	for n := 0; n < len(t.nodes); n += 2 {
		if t.nodes[n].Leaf != nil {
			list = append(list, LeafIndex(n/2))
		}
	}
	return list
}

func (t *naiveRatchetTree) add(leaf *LeafNode) LeafIndex {
	n := 0
	for n < len(t.nodes) && t.nodes[n].Leaf != nil {
		n += 2
	}
	if n > len(t.nodes) { // the root takes the place between the old and the new half
		t.nodes = append(t.nodes, make([]Node, len(t.nodes)+1)...)
	}
	t.nodes[n].Leaf = leaf
	for _, a := range t.ancestors(LeafIndex(n / 2)) {
		if p := t.nodes[a].Parent; p != nil {
			unmerged := append(slices.Clone(p.UnmergedLeaves), LeafIndex(n/2))
			slices.Sort(unmerged)
			t.nodes[a].Parent = &ParentNode{EncryptionKey: p.EncryptionKey, ParentHash: p.ParentHash, UnmergedLeaves: unmerged}
		}
	}
	return LeafIndex(n / 2)
}

func (t *naiveRatchetTree) update(i LeafIndex, leaf *LeafNode) {
	t.nodes[2*i].Leaf = leaf
	for _, a := range t.ancestors(i) {
		t.nodes[a] = Node{}
	}
}

// remove truncates at once.
func (t *naiveRatchetTree) remove(i LeafIndex) {
	t.update(i, nil)
	for {
		half := len(t.nodes) / 2
		present := t.occupied()
		if half == 0 || len(present) == 0 || int(2*present[len(present)-1]) > half {
			return
		}
		t.nodes = t.nodes[:half]
	}
}

func (t *naiveRatchetTree) check(what string, test *testing.T, tr *tree) {
	test.Helper()
	if len(t.nodes) != int(2*tr.size()-1) || tr.root() != NodeIndex(len(t.nodes)/2) {
		test.Fatalf("%s: %d nodes, %d leaves", what, len(t.nodes), tr.size())
	}
	if !bytes.Equal(MarshalRatchetTree(t.trimmed()), tr.appendTo(nil)) {
		test.Fatalf("%s: another tree", what)
	}
	if !bytes.Equal(t.hash(len(t.nodes)/2, nil), tr.hash()) {
		test.Fatalf("%s: tree hash", what)
	}
	for n := range t.nodes {
		got := []int{}
		for _, m := range tr.resolution(NodeIndex(n)) {
			got = append(got, int(m))
		}
		if !slices.Equal(got, t.resolution(n)) {
			test.Fatalf("%s: resolution of node %d is %v, not %v", what, n, got, t.resolution(n))
		}
	}
}

// TREE-1, TREE-4, TREE-5, TREE-6, TREE-8, openmls#1797, mlspp#365, go-mls@cb566b5:
// adds, updates, removes and paths in any order give the tree that an array gives
// which is extended, blanked and truncated step by step, down to a single member at
// any leaf.
func TestTreeAgainstNaive(t *testing.T) {
	t.Parallel()
	suite := testSuite(t, 1)
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 4))
		tr := newTree(suite)
		naive := &naiveRatchetTree{suite: suite, nodes: make([]Node, 1)}
		serial := 0
		fresh := func() *LeafNode { serial++; return wideLeaf(serial) }
		tr.addLeaf(wideLeaf(0))
		naive.add(wideLeaf(0))
		most := 1 << r.IntN(6)
		for range 60 {
			tr = tr.edit()
			present := naive.occupied()
			any := present[r.IntN(len(present))]
			what := "update"
			switch k := r.IntN(8); {
			case k < 3 && len(present) < most:
				what = "add"
				leaf := fresh()
				if got, want := tr.addLeaf(leaf), naive.add(leaf); got != want {
					t.Fatalf("added at %d, not %d", got, want)
				}
			case k < 5 && len(present) > 1:
				what = "remove"
				n := 1
				if r.IntN(4) == 0 {
					n += r.IntN(len(present) - 1)
				}
				r.Shuffle(len(present), func(i, j int) { present[i], present[j] = present[j], present[i] })
				for _, i := range present[:n] {
					tr.removeLeaf(i)
					naive.remove(i)
				}
				tr.truncate()
			case k < 7:
				what = "path"
				wideMerge(tr, any, serial)
				serial++
				naive.nodes = tr.export()
				naive.extend()
			default:
				leaf := fresh()
				tr.updateLeaf(any, leaf)
				naive.update(any, leaf)
			}
			naive.check(what, t, tr)
		}
	}
}

// TREE-4: no honest group gets there, but a tree that somebody sends may: a leaf comes
// before those that are unmerged already.
func TestTreeAddKeepsUnmergedInOrder(t *testing.T) {
	t.Parallel()
	tr, err := importTree(testSuite(t, 1), []Node{
		{Leaf: wideLeaf(0)}, {}, {}, {Parent: &ParentNode{EncryptionKey: []byte("root"), UnmergedLeaves: []LeafIndex{3}}},
		{Leaf: wideLeaf(2)}, {}, {Leaf: wideLeaf(3)},
	})
	if err != nil {
		t.Fatal(err)
	}
	tr = tr.edit()
	if i := tr.addLeaf(wideLeaf(1)); i != 1 || !slices.Equal(tr.node(3).Parent.UnmergedLeaves, []LeafIndex{1, 3}) {
		t.Errorf("leaf %d was added, unmerged are %v", i, tr.node(3).Parent.UnmergedLeaves)
	}
}

// TREE-5: what a commit removes and adds gives the tree that truncating after each
// Remove gives, wherever they stand in its list.
func TestApplyTruncates(t *testing.T) {
	t.Parallel()
	suite := testSuite(t, 1)
	for _, c := range []struct {
		members int
		remove  []LeafIndex
		adds    int
	}{
		{5, []LeafIndex{4}, 1}, {9, []LeafIndex{8}, 1}, {9, []LeafIndex{8}, 2}, {5, []LeafIndex{4, 0}, 1},
		{8, []LeafIndex{7, 6, 5, 4}, 1}, {17, []LeafIndex{16, 15}, 4}, {4, []LeafIndex{1, 2, 3}, 2}, {4, []LeafIndex{0, 1, 3}, 3},
	} {
		tr := wideTree(suite, c.members)
		for i := range c.members {
			wideMerge(tr, LeafIndex(i), i)
		}
		naive := &naiveRatchetTree{suite, tr.export()}
		naive.extend()
		var list proposalList
		for i := range c.adds { // before the removes, in the list
			list = append(list, sentProposal{proposal: &Add{KeyPackage: &KeyPackage{LeafNode: wideLeaf(100 + i)}}})
		}
		for _, i := range c.remove {
			list = append(list, sentProposal{proposal: &Remove{Removed: i}})
			naive.remove(i)
		}
		work := tr.edit()
		_, added := list.apply(work, nil)
		for i := range c.adds {
			if want := naive.add(wideLeaf(100 + i)); added[i] != want {
				t.Errorf("%+v: added at %d, not %d", c, added[i], want)
			}
		}
		naive.check("commit", t, work)
	}
}
