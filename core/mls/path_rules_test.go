// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// PATH-1: a node over an empty subtree, which is not on the filtered path, is blank
// after the merge even if somebody sent a tree in which it was not.
func TestPathBlanksWhatIsFilteredOut(t *testing.T) {
	t.Parallel()
	tr := wideTree(testSuite(t, 1), 4)
	tr.put(1, Node{Parent: &ParentNode{EncryptionKey: []byte("stray")}})
	tr.setLeaf(1, nil)
	wideMerge(tr, 0, 1)
	if !tr.isBlank(1) || tr.isBlank(3) {
		t.Errorf("node 1 is blank: %v, node 3: %v", tr.isBlank(1), tr.isBlank(3))
	}
}

// PATH-3, amethyst/joiners: who is added by a commit gets no ciphertext in its path and one
// path secret, that of the lowest node over both leaves, in small and in sparse trees
// and with the committer on either side.
func TestPathSecretsForJoiners(t *testing.T) {
	t.Parallel()
	suite := testSuite(t, 1)
	for _, c := range []struct {
		members   int
		removes   []LeafIndex
		committer LeafIndex
		adds      int
	}{
		{1, nil, 0, 1}, {1, nil, 0, 3}, {2, nil, 1, 1}, {2, nil, 0, 6}, {3, []LeafIndex{0}, 2, 2}, {5, []LeafIndex{1, 2}, 4, 3},
		{8, []LeafIndex{0, 1, 2, 3, 4, 5}, 6, 1}, {8, []LeafIndex{1, 3, 5, 7}, 4, 2}, {9, []LeafIndex{2, 3, 5}, 8, 9}, {6, nil, 3, 11},
	} {
		cr := newCrowd(t, suite, c.members)
		for i := range LeafIndex(c.members) {
			cr.commit(i, change{})
		}
		before := len(occupied(cr.tree)) - len(c.removes)
		path := cr.commit(c.committer, change{removes: c.removes, adds: c.adds}) // every joiner goes up from its path secret
		cr.check()
		sealed := 0
		for _, n := range path.Nodes {
			sealed += len(n.Secrets)
		}
		if sealed > before-1 {
			t.Errorf("%+v: %d ciphertexts for %d others", c, sealed, before-1)
		}
		cr.commit(LeafIndex(0)+occupied(cr.tree)[len(cr.members)-1], change{}) // the last joiner commits
		cr.check()
	}
}

// PATH-3, WEL-6: the path secret of a joiner opens exactly the nodes over both leaves.
func TestPathSecretIsOfTheLowestCommonNode(t *testing.T) {
	t.Parallel()
	suite := testSuite(t, 1)
	cr := newCrowd(t, suite, 6)
	for i := range LeafIndex(6) {
		cr.commit(i, change{})
	}
	work := cr.tree.edit()
	joiner, _ := cr.newMember()
	at := work.addLeaf(joiner) // leaf 6
	_, created, err := createPath(context.Background(), pathParams{
		suite: suite, tree: work, own: 4, leaf: cr.tree.leaf(4), signer: cr.members[4].signer,
		groupID: cr.groupID, excluded: []LeafIndex{at}, keys: cr.members[4].keys, groupContext: cr.context,
	})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := pathFromSecret(work, at, 4, created.secretFor(at))
	if err != nil {
		t.Fatal(err)
	}
	var got []NodeIndex
	for n := range keys.held {
		got = append(got, n)
	}
	slices.Sort(got)
	if at != 6 || !slices.Equal(got, []NodeIndex{7, 11}) {
		t.Errorf("leaf %d holds the keys of %v", at, got)
	}
	for k := range created.secrets {
		if created.steps[k].node != 11 {
			_, err := pathFromSecret(work, at, 4, created.secrets[k])
			wantRule(t, "the secret of another node", "PATH-5", err)
		}
	}
}

// PATH-8, PATH-9, amethyst/commit-secret: somebody who is alone sends no node, and the commit secret is a
// fresh one; with nodes it is one step beyond the last of them.
func TestCommitSecret(t *testing.T) {
	t.Parallel()
	for _, suite := range allSuites(t) {
		create := func(members int) (*createdPath, *UpdatePath) {
			cr := newCrowd(t, suite, members)
			path, created, err := createPath(context.Background(), pathParams{
				suite: suite, tree: cr.tree.edit(), own: 0, leaf: cr.tree.leaf(0), signer: cr.members[0].signer,
				groupID: cr.groupID, keys: cr.members[0].keys, groupContext: cr.context,
			})
			if err != nil {
				t.Fatal(err)
			}
			return created, path
		}
		nh := suite.Parameters().Nh
		seen := map[string]bool{}
		for range 2 {
			alone, path := create(1)
			if len(path.Nodes) != 0 || len(path.LeafNode.ParentHash) != 0 || alone.commitSecret.Len() != nh || alone.commitSecret.Equal(core.NewSecret(make([]byte, nh))) {
				t.Errorf("%v: %d nodes, commit secret of %d bytes", suite.ID(), len(path.Nodes), alone.commitSecret.Len())
			}
			seen[string(alone.commitSecret.Bytes())] = true
		}
		if len(seen) != 2 {
			t.Errorf("%v: the same commit secret twice", suite.ID())
		}
		several, _ := create(5)
		if n := len(several.secrets); n != 3 {
			t.Fatalf("%d path secrets", n)
		}
		for k, s := range several.secrets {
			next := several.commitSecret
			if k+1 < len(several.secrets) {
				next = several.secrets[k+1]
			}
			if !must(deriveSecret(suite, s, "path")).Equal(next) {
				t.Errorf("%v: secret %d is not one step from the one before", suite.ID(), k+1)
			}
		}
	}
}

// PATH-10, mls-go#99: after each merge, kept or read back from its record, a member
// holds the keys of its leaf and of its own path and nothing else, and of those only
// the ones that belong to the nodes as they are now.
func TestPathKeysAfterMerge(t *testing.T) {
	t.Parallel()
	cr := newCrowd(t, testSuite(t, 1), 8)
	reload := func() {
		for _, m := range cr.members {
			var r reader
			r.s = m.keys.append(nil)
			m.keys = readPathKeys(&r)
		}
	}
	for _, c := range []struct {
		by LeafIndex
		change
	}{
		{0, change{}}, {7, change{}}, {1, change{updates: []LeafIndex{6}}}, {2, change{removes: []LeafIndex{3}}},
		{4, change{adds: 1}}, {0, change{removes: []LeafIndex{4, 5}}}, {6, change{adds: 3}}, {7, change{updates: []LeafIndex{0, 1}}}, {0, change{join: true}},
	} {
		old := map[LeafIndex]pathKeys{}
		for i, m := range cr.members {
			old[i] = m.keys
		}
		cr.commit(c.by, c.change)
		cr.check() // compares the keys with the nodes
		for i, m := range cr.members {
			before, ok := old[i]
			if !ok {
				continue
			}
			for _, s := range before.retired(m.keys) {
				if bytes.Contains(m.keys.append(nil), s.Bytes()) {
					t.Errorf("commit of %d: leaf %d keeps a key that has no node any more", c.by, i)
				}
			}
		}
		reload()
	}
}
