// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// wantRule fails the test unless err is a breach of the rule.
func wantRule(t testing.TB, what, rule string, err error) {
	t.Helper()
	var breach *RuleError
	if !errors.As(err, &breach) || breach.Rule != rule || !errors.Is(err, core.ErrInvalid) {
		t.Errorf("%s: %v, want a breach of %s", what, err, rule)
	}
}

func occupied(t *tree) (list []LeafIndex) {
	for i := range t.leaves() {
		list = append(list, i)
	}
	return list
}

func TestTreeMath(t *testing.T) {
	t.Parallel()
	const leaves = 64
	for n := range NodeIndex(2*leaves - 1) {
		first, end := n.leafRange()
		for i := range LeafIndex(leaves) {
			up := i.node()
			for up.level() < n.level() {
				up = up.parent()
			}
			below := up == n
			if n.covers(i.node()) != below || (first <= i && i < end) != below {
				t.Errorf("leaf %d below node %d: %v", i, n, below)
			}
		}
	}
}

// TREE-5: the tree ends with the half that has a member.
func TestTreeTruncate(t *testing.T) {
	t.Parallel()
	suite := testSuite(t, 1)
	for _, c := range []struct {
		members int
		remove  []LeafIndex
		size    uint32
	}{
		{5, []LeafIndex{4}, 4},
		{9, []LeafIndex{8}, 8},
		{9, []LeafIndex{4, 8, 5, 7, 6}, 4},
		{9, []LeafIndex{7}, 16},
		{17, []LeafIndex{16}, 16},
		{65, []LeafIndex{64}, 64},
		{129, []LeafIndex{128, 127, 64}, 128},
		{4, []LeafIndex{1, 2, 3}, 1},
		{4, []LeafIndex{0, 1, 2}, 4},
		{600, []LeafIndex{599}, 1024},
	} {
		deferred := wideTree(suite, c.members)
		for i := range c.members {
			wideMerge(deferred, LeafIndex(i), 0)
		}
		each := deferred.edit()
		deferred = deferred.edit()
		for _, i := range c.remove {
			deferred.removeLeaf(i)
			each.removeLeaf(i)
			each.truncate()
		}
		deferred.truncate()
		if deferred.size() != c.size || !bytes.Equal(deferred.hash(), each.hash()) {
			t.Errorf("%d without %v: %d leaves, or %d", c.members, c.remove, deferred.size(), each.size())
		}
		naive := naiveRatchetTree{suite, deferred.export()}
		naive.extend()
		if !bytes.Equal(naive.hash(int(deferred.root()), nil), deferred.hash()) {
			t.Errorf("%d without %v: tree hash", c.members, c.remove)
		}
		// TREE-4: the next ones fill the gaps from the left.
		gaps := 0
		for i := range LeafIndex(deferred.size()) {
			if deferred.leaf(i) != nil {
				continue
			}
			if gaps++; gaps > 9 {
				break
			}
			if got := deferred.addLeaf(wideLeaf(5000 + int(i))); got != i {
				t.Errorf("added at %d, not %d", got, i)
			}
		}
	}
}

// What a truncation cuts off does not come back when the tree grows again, not even
// nodes that no honest tree has.
func TestTreeTruncateForgets(t *testing.T) {
	t.Parallel()
	suite := testSuite(t, 1)
	for _, c := range []struct{ size, keep int }{{8, 0}, {32, 0}, {32, 8}, {64, 16}, {64, 12}, {128, 0}, {256, 20}, {512, 64}, {512, 129}} {
		size := c.size
		nodes := make([]Node, size+1)
		nodes[2*c.keep] = Node{Leaf: wideLeaf(c.keep)}
		nodes[size] = Node{Leaf: wideLeaf(size)}
		tr, err := importTree(suite, nodes)
		if err != nil {
			t.Fatal(err)
		}
		stray := 2*NodeIndex(size) - 3 // the last parent
		if tr.size() != uint32(size) {
			t.Fatal("another tree than meant")
		}
		tr.put(stray, Node{Parent: &ParentNode{EncryptionKey: []byte("stray")}})
		tr.ownUpward()
		tr.touch(LeafIndex(size - 1))
		tr.hash()
		tr.removeLeaf(LeafIndex(size / 2))
		tr.hash()
		tr.truncate()
		for i := 0; tr.size() < uint32(size); i++ {
			tr.addLeaf(wideLeaf(1000 + i))
		}
		naive := naiveRatchetTree{suite, tr.export()}
		naive.extend()
		if !tr.isBlank(stray) || !bytes.Equal(naive.hash(int(tr.root()), nil), tr.hash()) {
			t.Errorf("%d leaves: tree hash", size)
		}
	}
}

// A tree that has grown for a joiner is hashed with its blank half.
func TestTreeReserveLeaf(t *testing.T) {
	t.Parallel()
	suite := testSuite(t, 1)
	for _, n := range []int{1, 2, 7, 8, 16, 64, 512} {
		tr := wideTree(suite, n)
		i := tr.reserveLeaf()
		naive := naiveRatchetTree{suite, tr.export()}
		for len(naive.nodes) < int(2*i)+1 {
			naive.nodes = append(naive.nodes, Node{})
		}
		naive.extend()
		if int(i) != n || tr.leaf(i) != nil || tr.reserveLeaf() != i || !bytes.Equal(naive.hash(int(tr.root()), nil), tr.hash()) {
			t.Errorf("leaf %d is reserved in a tree of %d", i, n)
		}
	}
}

// A shared tree does not change, whatever happens to its copies.
func TestTreeCopies(t *testing.T) {
	t.Parallel()
	tr := wideTree(testSuite(t, 1), 20)
	before, hash := tr.appendTo(nil), tr.hash()
	a, b := tr.edit(), tr.edit()
	a.removeLeaf(3)
	b.updateLeaf(3, wideLeaf(100))
	a2 := a.edit()
	hashA := a.hash()
	wideMerge(a2, 5, 1)
	for range 50 {
		a2.addLeaf(wideLeaf(200 + int(a2.size()) + len(occupied(a2))))
	}
	if !bytes.Equal(before, tr.appendTo(nil)) || !bytes.Equal(hash, tr.hash()) || !bytes.Equal(hashA, a.hash()) || tr.leaf(3) == nil || a.leaf(3) != nil || b.leaf(3) == nil {
		t.Error("a tree changed with its copy")
	}
	defer func() {
		if recover() == nil {
			t.Error("a shared tree may be changed")
		}
	}()
	a.removeLeaf(1)
}

// TREE-2, TREE-3, TREE-7, mls-rs#362, mls-rs#321: a list of nodes that is no tree is
// refused, and with it every index that is not in range.
func TestTreeImportRefuses(t *testing.T) {
	t.Parallel()
	suite := testSuite(t, 1)
	leaf := func(i int) Node { return Node{Leaf: wideLeaf(i)} }
	parent := func(unmerged ...LeafIndex) Node {
		return Node{Parent: &ParentNode{EncryptionKey: []byte(fmt.Sprint(unmerged, rand.Uint64())), UnmergedLeaves: unmerged}}
	}
	blank := Node{}
	for _, c := range []struct {
		name, rule string
		nodes      []Node
	}{
		{"nothing", "TREE-2", nil},
		{"an even number", "TREE-2", []Node{leaf(0), parent()}},
		{"a blank at the end", "TREE-2", []Node{leaf(0), parent(), blank}},
		{"only a blank", "TREE-2", []Node{blank}},
		{"a leaf for a parent", "TREE-2", []Node{leaf(0), leaf(1), leaf(2)}},
		{"a parent for a leaf", "TREE-2", []Node{leaf(0), blank, parent()}},
		{"out of order", "TREE-7", []Node{leaf(0), blank, leaf(1), parent(1, 0), leaf(2), blank, leaf(3)}},
		{"twice", "TREE-7", []Node{leaf(0), blank, leaf(1), parent(1, 1), leaf(2), blank, leaf(3)}},
		{"not below", "TREE-7", []Node{leaf(0), parent(2), leaf(1), blank, leaf(2)}},
		{"beyond the tree", "TREE-7", []Node{leaf(0), parent(2), leaf(1)}},
		{"2^30", "TREE-7", []Node{leaf(0), parent(1 << 30), leaf(1)}},
		{"2^31", "TREE-7", []Node{leaf(0), parent(1 << 31), leaf(1)}},
		{"2^32-1", "TREE-7", []Node{leaf(0), parent(math.MaxUint32), leaf(1)}},
		{"blank leaf", "TREE-7", []Node{leaf(0), blank, blank, parent(1), leaf(2), blank, leaf(3)}},
		{"merged in between", "TREE-7", []Node{leaf(0), parent(), leaf(1), parent(1), leaf(2), blank, leaf(3)}},
	} {
		_, err := importTree(suite, c.nodes)
		wantRule(t, c.name, c.rule, err)
	}
	good := []Node{leaf(0), parent(1), leaf(1), parent(1), leaf(2), blank, leaf(3)}
	if _, err := importTree(suite, good); err != nil {
		t.Error(err)
	}
	for _, i := range []LeafIndex{4, 1 << 30, 1 << 31, math.MaxUint32} { // TREE-3
		tr, _ := importTree(suite, good)
		if tr.leaf(i) != nil || tr.node(NodeIndex(i)|1<<3) != blank {
			t.Errorf("leaf %d", i)
		}
		path := &UpdatePath{LeafNode: wideLeaf(9)}
		path.LeafNode.Source = LeafCommit
		wantRule(t, "sender", "TREE-3", mergePublicPath(tr, i, path, nil))
		_, err := pathFromSecret(tr, 0, i, core.NewSecret(make([]byte, 32)))
		wantRule(t, "signer", "TREE-3", err)
	}
}

// mutate gives the tree with one node changed.
func mutate(t testing.TB, tr *tree, n NodeIndex, change func(*LeafNode, *ParentNode)) *tree {
	t.Helper()
	nodes := tr.export()
	switch {
	case nodes[n].Leaf != nil:
		leaf := *nodes[n].Leaf
		nodes[n].Leaf = &leaf
	case nodes[n].Parent != nil:
		parent := *nodes[n].Parent
		nodes[n].Parent = &parent
	}
	change(nodes[n].Leaf, nodes[n].Parent)
	changed, err := importTree(tr.suite, nodes)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// TREE-10: in trees with a history, whatever is changed, the verdict is the naive one.
func TestTreeParentHashCorrupted(t *testing.T) {
	t.Parallel()
	suite := testSuite(t, 1)
	r := rand.New(rand.NewPCG(1, 2))
	refused := 0
	verdict := func(c *crowd, what string, n NodeIndex, change func(*LeafNode, *ParentNode)) {
		tr := mutate(t, c.tree, n, change)
		naive := naiveRatchetTree{suite, tr.export()}
		naive.extend()
		err := tr.validateParentHashes()
		if (err == nil) != naive.valid() {
			t.Fatalf("%s of node %d: %v", what, n, err)
		}
		if err != nil {
			wantRule(t, what, "TREE-10", err)
			refused++
		}
	}
	for _, members := range []int{8, 16} {
		c := newCrowd(t, suite, members)
		for i := range members {
			c.commit(LeafIndex(i), change{})
		}
		for range 8 {
			for n := range 2*NodeIndex(c.tree.size()) - 1 {
				if c.tree.isBlank(n) {
					continue
				}
				verdict(c, "parent hash", n, func(l *LeafNode, p *ParentNode) {
					if l != nil && len(l.ParentHash) > 0 {
						l.ParentHash = append([]byte{l.ParentHash[0] ^ 1}, l.ParentHash[1:]...)
					} else if p != nil && len(p.ParentHash) > 0 {
						p.ParentHash = append([]byte{p.ParentHash[0] ^ 1}, p.ParentHash[1:]...)
					}
				})
				verdict(c, "empty parent hash", n, func(l *LeafNode, p *ParentNode) {
					if l != nil {
						l.ParentHash = nil
					} else {
						p.ParentHash = nil
					}
				})
				verdict(c, "key", n, func(l *LeafNode, p *ParentNode) {
					if l != nil {
						l.EncryptionKey = []byte("another")
					} else {
						p.EncryptionKey = []byte("another")
					}
				})
			}
			c.step(r, members)
		}
	}
	if refused < 200 {
		t.Errorf("only %d trees were refused", refused)
	}
}

// TREE-10: with member 6 of 8 gone, node 13 is blank and the link of node 9 goes on
// to the root over it.
func TestTreeParentHashAfterRemove(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, testSuite(t, 1), 8)
	for i := range LeafIndex(8) {
		c.commit(i, change{})
	}
	c.commit(4, change{removes: []LeafIndex{6}})
	if c.tree.isBlank(9) || !c.tree.isBlank(13) {
		t.Fatal("another tree than meant")
	}
	wantRule(t, "node 9", "TREE-10", mutate(t, c.tree, 9, func(_ *LeafNode, p *ParentNode) {
		p.ParentHash = bytes.Repeat([]byte{1}, 32)
	}).validate(c.groupID, true))
}

// TREE-10: a node that was topmost keeps its empty parent hash below a new root.
func TestTreeParentHashOfFormerRoot(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, testSuite(t, 1), 2)
	c.commit(0, change{})
	c.add(1)
	c.commit(2, change{})
	if p := c.tree.node(1).Parent; p == nil || len(p.ParentHash) != 0 || c.tree.isBlank(3) {
		t.Fatal("another tree than meant")
	}
	c.check()
}

// TREE-10: the rest of the resolution must be the unmerged leaves.
func TestTreeParentHashBesideOthers(t *testing.T) {
	t.Parallel()
	suite := testSuite(t, 1)
	for _, linked := range []LeafIndex{0, 1} {
		for _, unmerged := range [][]LeafIndex{nil, {1 - linked}} {
			tr := wideTree(suite, 3)
			p := &ParentNode{EncryptionKey: []byte("root"), UnmergedLeaves: unmerged}
			tr.put(3, Node{Parent: p})
			leaf := *wideLeaf(int(linked))
			leaf.Source, leaf.ParentHash = LeafCommit, tr.parentHash(p, 5)
			tr.setLeaf(linked, &leaf)
			if err := tr.validateParentHashes(); len(unmerged) == 0 {
				wantRule(t, "beside a merged leaf", "TREE-10", err)
			} else if err != nil {
				t.Error(err)
			}
		}
	}
}

// TREE-12, mlspp#430: the last node of the filtered path has an empty parent hash even below
// the root, and so has the leaf of somebody who is alone.
func TestTreeParentHashOfFilteredPath(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, testSuite(t, 1), 4)
	c.commit(0, change{})
	path := c.commit(2, change{removes: []LeafIndex{0, 1}})
	if p := c.tree.node(5).Parent; len(path.Nodes) != 1 || p == nil || len(p.ParentHash) != 0 || !c.tree.isBlank(3) {
		t.Error("the last node has a parent hash")
	}
	c.check()
	path = c.commit(2, change{removes: []LeafIndex{3}})
	if len(path.Nodes) != 0 || len(path.LeafNode.ParentHash) != 0 || c.tree.size() != 4 {
		t.Error("the path of a single member")
	}
	c.check()
}

// LEAF-1, LEAF-4, CS-2: what is wrong with a leaf or a key of a tree is found.
func TestTreeValidateRefuses(t *testing.T) {
	t.Parallel()
	for _, suite := range allSuites(t) {
		c := newCrowd(t, suite, 4)
		c.commit(0, change{})
		c.commit(3, change{})
		if err := c.tree.validate(c.groupID, true); err != nil {
			t.Fatal(err)
		}
		wantRule(t, "another group", "LEAF-1", c.tree.validate([]byte("another"), true))
		if err := c.tree.validate([]byte("another"), false); err != nil {
			t.Error(err)
		}
		// Leaves without a parent hash may be changed without breaking a chain.
		flat := newCrowd(t, suite, 4)
		leaf := func(change func(*LeafNode)) error {
			return mutate(t, flat.tree, 4, func(l *LeafNode, _ *ParentNode) { change(l) }).validate(flat.groupID, true)
		}
		wantRule(t, "signature", "LEAF-1", leaf(func(l *LeafNode) { l.Signature = flat.tree.leaf(1).Signature }))
		wantRule(t, "source", "LEAF-1", leaf(func(l *LeafNode) { l.Source = LeafUpdate }))
		wantRule(t, "encryption key", "LEAF-4", leaf(func(l *LeafNode) { l.EncryptionKey = flat.tree.leaf(1).EncryptionKey }))
		wantRule(t, "signature key", "LEAF-4", leaf(func(l *LeafNode) { l.SignatureKey = flat.tree.leaf(0).SignatureKey }))
		wantRule(t, "bad encryption key", "CS-2", leaf(func(l *LeafNode) { l.EncryptionKey = make([]byte, len(l.EncryptionKey)) }))
		wantRule(t, "bad signature key", "CS-2", leaf(func(l *LeafNode) { l.SignatureKey = l.SignatureKey[1:] }))
		wantRule(t, "a parent's key", "LEAF-4", mutate(t, c.tree, 2, func(l *LeafNode, _ *ParentNode) {
			l.EncryptionKey = c.tree.node(1).Parent.EncryptionKey
		}).validate(c.groupID, true))
	}
	// A parent's key that is not valid, in chains that hold.
	tr := wideTree(testSuite(t, 1), 2)
	leaf := *wideLeaf(0)
	leaf.Source, leaf.Lifetime = LeafCommit, Lifetime{}
	steps := tr.filteredDirectPath(0)
	nodes, hash := tr.pathNodes(steps, [][]byte{make([]byte, 32)})
	leaf.ParentHash = hash
	tr.mergePath(0, &leaf, steps, nodes)
	wantRule(t, "bad key of a parent", "CS-2", tr.validateNode(1, nil, true))
	if err := tr.validateParentHashes(); err != nil {
		t.Error(err)
	}
}

func TestTreeKeySearch(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, testSuite(t, 1), 5)
	c.commit(1, change{})
	for n := range 2*NodeIndex(c.tree.size()) - 1 {
		if c.tree.isBlank(n) {
			continue
		}
		if found, ok := c.tree.findKey(map[string]bool{string(c.tree.encryptionKey(n)): true}); !ok || found != n {
			t.Errorf("the key of node %d is not found", n)
		}
	}
	if _, ok := c.tree.findKey(map[string]bool{string(c.tree.leaf(2).SignatureKey): true}); ok {
		t.Error("a signature key is found among the encryption keys")
	}
	if !slices.Equal(c.tree.directPath(4), []NodeIndex{9, 11, 7}) {
		t.Error("direct path")
	}
}

// TREE-15: validation does not grow much faster than the tree. Every second leaf is
// unmerged at all nodes above it. Public keys and signatures are not looked at.
func BenchmarkTreeValidate(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			t := wideTree(testSuite(b, 1), n)
			for i := 1; i < n; i += 2 {
				t.removeLeaf(LeafIndex(i))
			}
			for i := 0; i < n; i += 2 {
				wideMerge(t, LeafIndex(i), 1)
			}
			for i := 1; i < n; i += 2 {
				t.addLeaf(wideLeaf(n + i))
			}
			nodes := t.export()
			for b.Loop() {
				t, err := importTree(t.suite, nodes)
				if err != nil {
					b.Fatal(err)
				}
				if err := t.validateUniqueKeys(); err != nil {
					b.Fatal(err)
				}
				if err := t.validateParentHashes(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
