// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// PATH-1: a node whose copath child holds only joiners stays in the path, without
// a ciphertext. PATH-9: somebody who is alone commits a leaf only.
func TestPathOfFew(t *testing.T) {
	t.Parallel()
	for _, suite := range allSuites(t) {
		c := newCrowd(t, suite, 1)
		if path := c.commit(0, change{}); len(path.Nodes) != 0 {
			t.Errorf("%d nodes for one member", len(path.Nodes))
		}
		c.check()
		path := c.commit(0, change{adds: 1})
		if len(path.Nodes) != 1 || len(path.Nodes[0].Secrets) != 0 {
			t.Errorf("path of one who adds one: %d nodes", len(path.Nodes))
		}
		c.check()
		c.commit(1, change{removes: []LeafIndex{0}, adds: 1})
		c.check()
	}
}

// PATH-4: joiners that are unmerged at every node above them still follow.
func TestPathToUnmergedLeaves(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, testSuite(t, 1), 9)
	for i := range LeafIndex(9) {
		c.commit(i, change{})
	}
	c.commit(0, change{removes: []LeafIndex{2, 5}})
	c.commit(7, change{})
	c.add(2)
	for _, n := range []NodeIndex{7, 15} {
		if p := c.tree.node(n).Parent; p == nil || !slices.Equal(p.UnmergedLeaves, []LeafIndex{2, 5}) {
			t.Fatal("another tree than meant")
		}
	}
	path := c.commit(8, change{})
	if n := len(path.Nodes[0].Secrets); n != 3 { // node 7 and two leaves
		t.Errorf("%d ciphertexts", n)
	}
	c.check()
	c.commit(2, change{})
	c.check()
}

// A pathCase is a commit that two members of seven see, to be spoilt.
type pathCase struct {
	*crowd
	work  *tree // before the path, one leaf added
	added []LeafIndex
	path  *UpdatePath
}

func newPathCase(t *testing.T, suite core.Suite) *pathCase {
	c := newCrowd(t, suite, 6)
	for i := range LeafIndex(6) {
		c.commit(i, change{})
	}
	p := &pathCase{crowd: c, work: c.tree.edit()}
	joiner, _ := c.newMember()
	p.added = []LeafIndex{p.work.addLeaf(joiner)}
	path, _, err := createPath(context.Background(), pathParams{
		suite: suite, tree: p.work.edit(), own: 1, leaf: c.tree.leaf(1), signer: c.members[1].signer,
		groupID: c.groupID, excluded: p.added, keys: c.members[1].keys, groupContext: c.context,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.path = path
	return p
}

// spoil merges and decrypts a copy of the path that was changed, as leaf 4.
func (p *pathCase) spoil(change func(*UpdatePath)) error {
	path, err := UnmarshalUpdatePath(marshal(p.path))
	if err != nil {
		return err
	}
	change(path)
	work := p.work.edit()
	before := work.hash()
	if err := mergePublicPath(work, 1, path, p.added); err != nil {
		if !bytes.Equal(before, work.hash()) || !bytes.Equal(work.appendTo(nil), p.work.appendTo(nil)) {
			return errors.New("a path that is refused changed the tree")
		}
		return err
	}
	_, _, err = decryptPath(context.Background(), work, 4, p.members[4].keys, 1, path, p.added, p.context(work.hash()))
	return err
}

// rehash makes the parent hash of the leaf right for what was changed above it.
func (p *pathCase) rehash(path *UpdatePath) {
	var publics [][]byte
	for _, n := range path.Nodes {
		publics = append(publics, n.EncryptionKey)
	}
	steps := p.work.filteredDirectPath(1)
	_, path.LeafNode.ParentHash = p.work.pathNodes(steps[:len(publics)], publics)
}

// PATH-2, PATH-6, TREE-11, LEAF-2, LEAF-3, CS-2: what is wrong with a path is refused before
// the tree changes.
func TestPathRefused(t *testing.T) {
	t.Parallel()
	for _, suite := range allSuites(t) {
		t.Run(suite.Parameters().Name, func(t *testing.T) {
			t.Parallel()
			p := newPathCase(t, suite)
			if err := p.spoil(func(*UpdatePath) {}); err != nil {
				t.Fatal(err)
			}
			last := len(p.path.Nodes) - 1
			fresh := func() []byte {
				key, err := suite.GenerateKeyPair()
				if err != nil {
					t.Fatal(err)
				}
				return key.Public()
			}
			for _, c := range []struct {
				name, rule string
				change     func(*UpdatePath)
			}{
				{"source", "LEAF-2", func(u *UpdatePath) { u.LeafNode.Source = LeafUpdate }},
				{"a node too many", "PATH-2", func(u *UpdatePath) { u.Nodes = append(u.Nodes, u.Nodes[0]) }},
				{"a node too few", "PATH-2", func(u *UpdatePath) { u.Nodes = u.Nodes[:last] }},
				{"no node", "PATH-2", func(u *UpdatePath) { u.Nodes = nil }},
				{"the old leaf key", "LEAF-3", func(u *UpdatePath) { u.LeafNode.EncryptionKey = p.work.leaf(1).EncryptionKey }},
				{"another's leaf key", "PATH-6", func(u *UpdatePath) { u.LeafNode.EncryptionKey = p.work.leaf(4).EncryptionKey }},
				{"a joiner's key", "PATH-6", func(u *UpdatePath) { u.Nodes[0].EncryptionKey = p.work.leaf(p.added[0]).EncryptionKey }},
				{"the old root key", "PATH-6", func(u *UpdatePath) {
					u.Nodes[last].EncryptionKey = p.work.node(p.work.root()).Parent.EncryptionKey
					p.rehash(u)
				}},
				{"a key twice", "PATH-6", func(u *UpdatePath) {
					u.Nodes[last].EncryptionKey = u.Nodes[0].EncryptionKey
					p.rehash(u)
				}},
				{"the leaf key above", "PATH-6", func(u *UpdatePath) { u.Nodes[last].EncryptionKey = u.LeafNode.EncryptionKey }},
				{"parent hash", "TREE-11", func(u *UpdatePath) { u.LeafNode.ParentHash[0] ^= 1 }},
				{"no parent hash", "TREE-11", func(u *UpdatePath) { u.LeafNode.ParentHash = nil }},
				{"another root key", "TREE-11", func(u *UpdatePath) { u.Nodes[last].EncryptionKey = fresh() }},
				{"bad leaf key", "CS-2", func(u *UpdatePath) { u.LeafNode.EncryptionKey = make([]byte, len(u.LeafNode.EncryptionKey)) }},
				{"bad node key", "CS-2", func(u *UpdatePath) {
					u.Nodes[last].EncryptionKey = u.Nodes[last].EncryptionKey[1:]
					p.rehash(u)
				}},
			} {
				wantRule(t, c.name, c.rule, p.spoil(c.change))
			}
			for k := range p.path.Nodes {
				wantRule(t, "a ciphertext too many", "PATH-2", p.spoil(func(u *UpdatePath) {
					u.Nodes[k].Secrets = append(u.Nodes[k].Secrets, core.HPKECiphertext{})
				}))
				if len(p.path.Nodes[k].Secrets) > 0 {
					wantRule(t, "a ciphertext too few", "PATH-2", p.spoil(func(u *UpdatePath) { u.Nodes[k].Secrets = u.Nodes[k].Secrets[1:] }))
				}
			}
			// The context holds the tree hash.
			if err := p.spoil(func(u *UpdatePath) {
				u.Nodes[last].EncryptionKey = fresh()
				p.rehash(u)
			}); !errors.Is(err, ErrAuthentication) {
				t.Errorf("another root key, hashed: %v", err)
			}
			for _, change := range []func(*core.HPKECiphertext){
				func(ct *core.HPKECiphertext) { ct.Ciphertext[0] ^= 1 },
				func(ct *core.HPKECiphertext) { ct.Ciphertext = nil },
				func(ct *core.HPKECiphertext) { ct.KEMOutput = ct.KEMOutput[1:] },
				func(ct *core.HPKECiphertext) { clear(ct.KEMOutput) },
			} {
				if err := p.spoil(func(u *UpdatePath) {
					for k := range u.Nodes {
						for j := range u.Nodes[k].Secrets {
							change(&u.Nodes[k].Secrets[j])
						}
					}
				}); !errors.Is(err, ErrAuthentication) {
					t.Errorf("a changed ciphertext: %v", err)
				}
			}
		})
	}
}

// PATH-4, PATH-5: a path secret that does not give the keys sent, all the way up, or
// that is for nobody here.
func TestPathSecretOfOtherKeys(t *testing.T) {
	t.Parallel()
	p := newPathCase(t, testSuite(t, 1))
	last := len(p.path.Nodes) - 1
	for k := range last + 1 {
		for _, length := range []int{0, 31, 32, 33} {
			key, err := p.suite.GenerateKeyPair()
			if err != nil {
				t.Fatal(err)
			}
			err = p.spoil(func(u *UpdatePath) {
				if length == 32 {
					u.Nodes[k].EncryptionKey = key.Public()
					p.rehash(u)
				}
				work := p.work.edit()
				if err := mergePublicPath(work, 1, u, p.added); err != nil {
					t.Fatal(err)
				}
				steps := work.filteredDirectPath(1)
				for j := range u.Nodes {
					for i, n := range recipients(steps[j], leafSet(p.added)) {
						secret := make([]byte, length)
						if u.Nodes[j].Secrets[i], err = encryptWithLabel(p.suite, "UpdatePathNode", p.context(work.hash()))(work.encryptionKey(n), secret); err != nil {
							t.Fatal(err)
						}
					}
				}
			})
			wantRule(t, "other secrets", "PATH-5", err)
		}
	}
	work := p.work.edit()
	if err := mergePublicPath(work, 1, p.path, p.added); err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{nil, make([]byte, 31), make([]byte, 32)} {
		_, err := pathFromSecret(work, 4, 1, core.NewSecret(secret))
		wantRule(t, "a joiner's secret", "PATH-5", err)
	}
	// Secrets of another length whose keys fit are no path secrets either.
	for _, length := range []int{31, 33} {
		secret := core.NewSecret(bytes.Repeat([]byte{1}, length))
		key, _, err := deriveNode(p.suite, secret)
		if err != nil {
			t.Fatal(err)
		}
		two := wideTree(p.suite, 2)
		two.put(1, Node{Parent: &ParentNode{EncryptionKey: key.Public()}})
		_, err = pathFromSecret(two, 0, 1, secret)
		wantRule(t, "a secret of another length", "PATH-5", err)
	}
	_, err := pathFromSecret(work, 7, 1, core.NewSecret(make([]byte, 32)))
	wantRule(t, "a blank joiner", "TREE-3", err)
	_, _, err = decryptPath(context.Background(), work, 4, pathKeys{}, 1, p.path, p.added, p.context(work.hash()))
	wantRule(t, "without a key", "PATH-4", err)
}

// A failure to sign, or a call that was given up, leaves nothing behind.
func TestCreatePathFails(t *testing.T) {
	t.Parallel()
	p := newPathCase(t, testSuite(t, 1))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	path, created, err := createPath(ctx, pathParams{
		suite: p.suite, tree: p.work.edit(), own: 1, leaf: p.tree.leaf(1), signer: p.members[1].signer,
		groupID: p.groupID, keys: p.members[1].keys, groupContext: p.context,
	})
	if path != nil || created != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("after cancellation: %v", err)
	}
}

// Keys come back from their record, and say which secrets retire.
func TestPathKeysRecord(t *testing.T) {
	t.Parallel()
	suite := testSuite(t, 1)
	key, err := suite.GenerateKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	keys := pathKeys{}.with(3, key).with(4, key)
	var r reader
	r.s = keys.append(nil)
	stored := readPathKeys(&r)
	if _, public, err := stored.opened(suite, 4); r.bad || len(stored.held) != 2 || err != nil || !bytes.Equal(public, key.Public()) {
		t.Errorf("%d keys: %v", len(stored.held), err)
	}
	if got := keys.retired(keys.drop(3)); len(got) != 1 || got[0].Len() != 32 {
		t.Errorf("%d secrets retire", len(got))
	}
	if got := keys.retired(keys); len(got) != 0 {
		t.Error("kept keys retire")
	}
}

func TestInParallel(t *testing.T) {
	t.Parallel()
	got, err := inParallel(100, func(i int) (int, error) { return i * i, nil })
	if err != nil || len(got) != 100 || got[99] != 9801 {
		t.Error(got, err)
	}
	if got, err := inParallel(0, func(int) (int, error) { return 0, errors.New("called") }); err != nil || len(got) != 0 {
		t.Error(err)
	}
	stop := errors.New("stop")
	if _, err := inParallel(10, func(i int) (int, error) {
		if i == 3 {
			return 0, stop
		}
		return 0, nil
	}); !errors.Is(err, stop) {
		t.Error(err)
	}
}
