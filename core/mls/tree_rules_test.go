// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// TREE-1, TREE-2: a tree that comes in is extended to its full size, and goes out
// without the blank nodes at its end.
func TestTreeImportExtends(t *testing.T) {
	t.Parallel()
	suite := testSuite(t, 1)
	for members := 1; members <= 40; members++ {
		tr := wideTree(suite, members)
		nodes := tr.export()
		if len(nodes) != 2*members-1 {
			t.Fatalf("%d members: %d nodes go out", members, len(nodes))
		}
		got, err := importTree(suite, nodes)
		if err != nil {
			t.Fatal(err)
		}
		size := uint32(1)
		for size < uint32(members) {
			size *= 2
		}
		if got.size() != size || got.root() != NodeIndex(size-1) || !bytes.Equal(got.hash(), tr.hash()) {
			t.Errorf("%d members: %d leaves", members, got.size())
		}
		for n := NodeIndex(len(nodes)); n < NodeIndex(2*size+5); n++ {
			if got.node(n) != (Node{}) {
				t.Errorf("%d members: node %d is not blank", members, n)
			}
		}
	}
}

// TREE-3, mls-rs#286, openmls#2182, openmls#2186, openmls#2136: in the largest tree
// no index wraps around and every way up ends at the root.
func TestTreeMathAtTheLimit(t *testing.T) {
	t.Parallel()
	root := rootNode(maxLeaves)
	for _, i := range []LeafIndex{0, 1, maxLeaves/2 - 1, maxLeaves / 2, maxLeaves - 1} {
		n, steps := i.node(), 0
		for ; n != root; n = n.parent() {
			first, end := n.leafRange()
			if i < first || i >= end || end > maxLeaves || !n.covers(i.node()) {
				t.Fatalf("leaf %d is not below node %d (%d to %d)", i, n, first, end)
			}
			if up := n.parent(); up.left() != n && up.right() != n || n.sibling().parent() != up || up <= n == (up.left() == n) {
				t.Fatalf("the relatives of node %d", n)
			}
			if steps++; steps > 30 {
				t.Fatalf("no way from leaf %d to the root", i)
			}
		}
		if steps != 30 {
			t.Errorf("leaf %d: %d steps", i, steps)
		}
	}
	if first, end := root.leafRange(); first != 0 || end != maxLeaves || uint64(2*maxLeaves-1) > math.MaxInt32 {
		t.Error("the largest tree does not fit")
	}
}

// counting lists the nodes whose parent hash breaks the tree if it is spoilt: those
// that link to a parent, and those that are below the sibling of one.
func counting(t *testing.T, tr *tree) (list []NodeIndex) {
	t.Helper()
	if err := tr.validateParentHashes(); err != nil {
		t.Fatal(err)
	}
	for n := range 2*NodeIndex(tr.size()) - 1 {
		if tr.isBlank(n) {
			continue
		}
		flip := func(hash []byte) []byte {
			if hash = bytes.Clone(hash); len(hash) > 0 {
				hash[len(hash)-1] ^= 1
			}
			return hash
		}
		spoilt := mutate(t, tr, n, func(l *LeafNode, p *ParentNode) {
			if l != nil {
				l.ParentHash = flip(l.ParentHash)
			} else {
				p.ParentHash = flip(p.ParentHash)
			}
		})
		err := spoilt.validateParentHashes()
		if (err == nil) != naiveOf(spoilt).valid() {
			t.Fatalf("node %d spoilt: %v", n, err)
		}
		if err != nil {
			wantRule(t, "spoilt", "TREE-10", err)
			list = append(list, n)
		}
	}
	return list
}

// TREE-10, mls-rs#315, mls-rs#342: each parent node is linked to from exactly one
// place below it, and nowhere can a parent hash that counts be spoilt: in full trees,
// with blank nodes in between, and below a blank root.
func TestTreeParentHashLinks(t *testing.T) {
	t.Parallel()
	suite := testSuite(t, 1)
	for _, members := range []int{8, 16} {
		full := wideTree(suite, members)
		for i := range members {
			wideMerge(full, LeafIndex(i), i)
		}
		check := func(what string, tr *tree, rootIsBlank bool) (refused []NodeIndex) {
			t.Helper()
			refused = counting(t, tr)
			naive := naiveOf(tr)
			for n := range naive.nodes {
				if naive.nodes[n].Parent == nil {
					continue
				}
				from := naive.linksTo(n)
				if len(from) != 1 || !slices.Contains(refused, NodeIndex(from[0])) {
					t.Errorf("%s of %d: node %d is linked to from %v, refused are %v", what, members, n, from, refused)
				}
			}
			if tr.isBlank(tr.root()) != rootIsBlank {
				t.Fatalf("%s: another tree than meant", what)
			}
			return refused
		}
		if n := len(check("full tree", full, false)); n != 2*members-2 { // all but the root
			t.Errorf("%d of %d places count", n, 2*members-1)
		}
		removed := full.edit()
		removed.removeLeaf(LeafIndex(members - 2))
		check("after a Remove", removed, true)
		wideMerge(removed, 1, 100)
		check("after a Remove and a path", removed, false)
		grown := full.edit()
		grown.addLeaf(wideLeaf(members))
		check("below a new root", grown, true)
		wideMerge(grown, LeafIndex(members), 101)
		check("below a new root that was filled", grown, false)
		wideMerge(grown, 0, 102)
		check("from the other side", grown, false)
		sparse := full.edit()
		for i := 2; i < members; i += 3 {
			sparse.removeLeaf(LeafIndex(i))
		}
		wideMerge(sparse, 0, 103)
		sparse.addLeaf(wideLeaf(200))
		wideMerge(sparse, LeafIndex(members-1), 104)
		check("sparse", sparse, false)
	}
}

// TREE-10, mls-rs#360: an empty parent hash links to nothing, nor does a leaf that
// no commit made.
func TestTreeEmptyParentHash(t *testing.T) {
	t.Parallel()
	suite := testSuite(t, 1)
	for _, source := range []LeafNodeSource{LeafKeyPackage, LeafUpdate, LeafCommit} {
		tr := wideTree(suite, 4)
		leaf := *wideLeaf(0)
		leaf.Source = source
		tr.setLeaf(0, &leaf)
		tr.put(1, Node{Parent: &ParentNode{EncryptionKey: []byte("one")}})
		tr.touch(0)
		wantRule(t, "a leaf without parent hash", "TREE-10", tr.validateParentHashes())
		if source == LeafCommit {
			leaf.ParentHash = tr.parentHash(tr.node(1).Parent, 2)
			tr.setLeaf(0, &leaf)
			if err := tr.validateParentHashes(); err != nil {
				t.Error(err)
			}
			tr.put(3, Node{Parent: &ParentNode{EncryptionKey: []byte("root")}})
			tr.touch(0)
			wantRule(t, "a parent without parent hash", "TREE-10", tr.validateParentHashes())
		}
	}
}

// TREE-9, mls-rs#342, mls-rs#352: a leaf that was added below the sibling since, with
// blank nodes over it or without, does not change the parent hash; the sibling's
// lists of unmerged leaves forget it too. What changed otherwise does change it.
func TestTreeOriginalSibling(t *testing.T) {
	t.Parallel()
	suite := testSuite(t, 1)
	for _, blank := range []NodeIndex{0, 9, 11, 13} { // over the leaves that come: 5 and 6
		tr := wideTree(suite, 8)
		for _, i := range []LeafIndex{1, 3, 4, 7} {
			wideMerge(tr, i, int(i))
		}
		for _, i := range []LeafIndex{5, 6} {
			tr.removeLeaf(i)
		}
		wideMerge(tr, 4, 8)
		wideMerge(tr, 7, 9)
		if blank != 0 {
			tr.put(blank, Node{})
			tr.touch(5)
			tr.touch(6)
		}
		wideMerge(tr, 0, 10) // the root: its sibling hash is that of the right half
		root := tr.node(7).Parent
		before := tr.parentHash(root, 11)
		if !bytes.Equal(before, naiveOf(tr).parentHash(root, 11)) {
			t.Fatalf("node %d blank: not the naive parent hash", blank)
		}
		tr = tr.edit()
		tr.hash()
		for want := LeafIndex(5); want <= 6; want++ {
			if got := tr.addLeaf(wideLeaf(50 + int(want))); got != want {
				t.Fatal("another tree than meant")
			}
			tr.hash() // kept from here on
			root = tr.node(7).Parent
			if !slices.Contains(root.UnmergedLeaves, want) || !bytes.Equal(tr.parentHash(root, 11), before) {
				t.Errorf("node %d blank: the parent hash changed with leaf %d", blank, want)
			}
			if err := tr.validateParentHashes(); err != nil && blank == 0 {
				t.Errorf("leaf %d was added: %v", want, err)
			}
		}
		tr.setLeaf(7, wideLeaf(99))
		if bytes.Equal(tr.parentHash(root, 11), before) {
			t.Error("a changed leaf does not count")
		}
	}
}

func naiveOf(tr *tree) *naiveRatchetTree {
	naive := &naiveRatchetTree{tr.suite, tr.export()}
	naive.extend()
	return naive
}

// A hashCounter counts what is hashed and verified.
type hashCounter struct {
	core.Suite
	hashes, bytes, verified atomic.Int64
}

func (s *hashCounter) Hash(parts ...[]byte) []byte {
	s.hashes.Add(1)
	for _, p := range parts {
		s.bytes.Add(int64(len(p)))
	}
	return s.Suite.Hash(parts...)
}

func (s *hashCounter) Verify(_, _, _ []byte) error {
	s.verified.Add(1)
	return nil
}

func (s *hashCounter) ValidatePublic([]byte) error          { return nil }
func (s *hashCounter) ValidateSignaturePublic([]byte) error { return nil }

// TREE-15: to validate eight times as many members takes about eight times as many
// hashes, and each signature is verified once. Every second leaf is unmerged at all
// nodes above it, which is where hashes have to be made again.
func TestTreeValidateCost(t *testing.T) {
	t.Parallel()
	cost := func(n int) (hashes, bytes int64) {
		suite := &hashCounter{Suite: testSuite(t, 1)}
		tr := wideTree(suite, n)
		for i := 1; i < n; i += 2 {
			tr.removeLeaf(LeafIndex(i))
		}
		for i := 0; i < n; i += 2 {
			wideMerge(tr, LeafIndex(i), 1)
		}
		for i := 1; i < n; i += 2 {
			tr.addLeaf(wideLeaf(n + i))
		}
		nodes := tr.export()
		suite.hashes.Store(0)
		suite.bytes.Store(0)
		imported, err := importTree(suite, nodes)
		if err != nil {
			t.Fatal(err)
		}
		imported.hash()
		if err := imported.validate([]byte("group"), true); err != nil {
			t.Fatal(err)
		}
		if suite.verified.Load() != int64(n) {
			t.Errorf("%d members: %d signatures were verified", n, suite.verified.Load())
		}
		return suite.hashes.Load(), suite.bytes.Load()
	}
	hashes, bytes := cost(128)
	hashes8, bytes8 := cost(1024)
	// n log n: eight times n, ten levels for seven
	if hashes8 > 8*hashes*10/7 || bytes8 > 8*bytes*10/7 {
		t.Errorf("128 members: %d hashes of %d bytes, 1024 members: %d of %d", hashes, bytes, hashes8, bytes8)
	}
	t.Logf("128 members: %d hashes of %d bytes, 1024 members: %d of %d", hashes, bytes, hashes8, bytes8)
}

// TREE-15, COD-9: what a group asks of its members is read once for all of them, and
// a code that it lists many times counts once.
func TestNeedsOfManyMembers(t *testing.T) {
	t.Parallel()
	var required RequiredCapabilities
	for range 200_000 {
		required.Extensions = append(required.Extensions, 0xF001)
		required.Proposals = append(required.Proposals, 0xF002)
		required.Credentials = append(required.Credentials, core.CredentialBasic)
	}
	gc := &GroupContext{Version: MLS10, Suite: 1, Extensions: Extensions{required.Extension()}}
	tr := newTree(testSuite(t, 1))
	for i := range 2000 {
		leaf := *wideLeaf(i)
		leaf.Capabilities.Extensions, leaf.Capabilities.Proposals = []ExtensionType{0xF001}, []ProposalType{0xF002}
		tr.addLeaf(&leaf)
	}
	g := &Group{tree: tr, context: GroupContext{Version: MLS10, Suite: 1}} // its extensions change: all leaves are looked at again
	start := time.Now()
	if err := g.checkResult(tr, gc, nil); err != nil {
		t.Error(err)
	}
	// Read again for each leaf they would be a billion codes, to sort besides: minutes.
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("took %v", took)
	}
	needs, err := gc.needs()
	if err != nil || len(needs.extensions) != 1 || len(needs.proposals) != 1 || len(needs.credentials) != 1 {
		t.Errorf("%+v, %v", needs, err)
	}
	lacking := *wideLeaf(2000)
	lacking.Capabilities.Extensions = []ExtensionType{0xF001}
	wantRule(t, "a leaf that lacks one", "LEAF-7", lacking.meets(needs))
}
