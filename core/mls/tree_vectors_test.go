// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/providers/pure"
)

type hexString []byte

func (h *hexString) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// treeVectors reads a file of vectors and runs each case.
func treeVectors[T any](t *testing.T, run func(t *testing.T, v T), file ...string) {
	data, err := os.ReadFile(coretest.Shared(t, append([]string{"vectors", "mls"}, file...)...))
	if err != nil {
		t.Fatal(err)
	}
	var cases []T
	if err := json.Unmarshal(data, &cases); err != nil || len(cases) == 0 {
		t.Fatalf("%d cases: %v", len(cases), err)
	}
	for i, v := range cases {
		if run(t, v); t.Failed() {
			t.Fatalf("in case %d", i)
		}
	}
}

func testSuite(t testing.TB, id core.SuiteID) core.Suite {
	t.Helper()
	suite, err := pure.New().Suite(id)
	if err != nil {
		t.Fatal(err)
	}
	return suite
}

func importBytes(t *testing.T, suite core.Suite, data []byte) *tree {
	t.Helper()
	nodes, err := UnmarshalRatchetTree(data)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := importTree(suite, nodes)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(tr.appendTo(nil), data) || !bytes.Equal(MarshalRatchetTree(tr.export()), data) {
		t.Error("the tree is not exported as it was imported")
	}
	return tr
}

func TestTreeMathVectors(t *testing.T) {
	t.Parallel()
	treeVectors(t, func(t *testing.T, v struct {
		Leaves                       uint32 `json:"n_leaves"`
		Nodes                        uint32 `json:"n_nodes"`
		Root                         NodeIndex
		Left, Right, Parent, Sibling []*NodeIndex
	}) {
		if rootNode(v.Leaves) != v.Root || 2*v.Leaves-1 != v.Nodes {
			t.Errorf("root %d of %d nodes", rootNode(v.Leaves), v.Nodes)
		}
		check := func(n NodeIndex, name string, want *NodeIndex, absent bool, f func(NodeIndex) NodeIndex) {
			if absent != (want == nil) || !absent && f(n) != *want {
				t.Errorf("%s of %d", name, n)
			}
		}
		for i := range v.Left {
			n := NodeIndex(i)
			check(n, "left", v.Left[i], n.isLeaf(), NodeIndex.left)
			check(n, "right", v.Right[i], n.isLeaf(), NodeIndex.right)
			check(n, "parent", v.Parent[i], n == v.Root, NodeIndex.parent)
			check(n, "sibling", v.Sibling[i], n == v.Root, NodeIndex.sibling)
		}
	}, "tree-math.json")
}

func TestTreeValidationVectors(t *testing.T) {
	t.Parallel()
	treeVectors(t, func(t *testing.T, v struct {
		Suite       core.SuiteID `json:"cipher_suite"`
		Tree        hexString
		GroupID     hexString     `json:"group_id"`
		Hashes      []hexString   `json:"tree_hashes"`
		Resolutions [][]NodeIndex `json:"resolutions"`
	}) {
		tr := importBytes(t, testSuite(t, v.Suite), v.Tree)
		if len(v.Hashes) != int(2*tr.size()-1) {
			t.Fatalf("%d leaves for %d nodes", tr.size(), len(v.Hashes))
		}
		for n := range NodeIndex(len(v.Hashes)) {
			if !bytes.Equal(tr.nodeHash(n), v.Hashes[n]) {
				t.Errorf("tree hash of %d", n)
			}
			if !slices.Equal(tr.resolution(n), v.Resolutions[n]) {
				t.Errorf("resolution of %d", n)
			}
		}
		if err := tr.validate(v.GroupID, true); err != nil {
			t.Error(err)
		}
	}, "tree-validation.json")
}

type treeOperation struct {
	Suite      core.SuiteID `json:"cipher_suite"`
	Before     hexString    `json:"tree_before"`
	Proposal   hexString
	Sender     LeafIndex `json:"proposal_sender"`
	HashBefore hexString `json:"tree_hash_before"`
	HashAfter  hexString `json:"tree_hash_after"`
	After      hexString `json:"tree_after"`
}

func runTreeOperation(t *testing.T, v treeOperation) {
	suite := testSuite(t, max(v.Suite, 1))
	before := importBytes(t, suite, v.Before)
	p, err := UnmarshalProposal(v.Proposal)
	if err != nil {
		t.Fatal(err)
	}
	after := before.edit()
	switch p := p.(type) {
	case *Add:
		after.addLeaf(p.KeyPackage.LeafNode)
	case *Update:
		after.updateLeaf(v.Sender, p.LeafNode)
	case *Remove:
		after.removeLeaf(p.Removed)
		after.truncate()
	}
	if v.HashBefore != nil && (!bytes.Equal(before.hash(), v.HashBefore) || !bytes.Equal(after.hash(), v.HashAfter)) {
		t.Error("tree hash")
	}
	if !bytes.Equal(after.hash(), importBytes(t, suite, v.After).hash()) {
		t.Error("hash after import")
	}
	if !bytes.Equal(after.appendTo(nil), v.After) || !bytes.Equal(before.appendTo(nil), v.Before) {
		t.Error("tree")
	}
}

func TestTreeOperationVectors(t *testing.T) {
	t.Parallel()
	treeVectors(t, runTreeOperation, "tree-operations.json")
	treeVectors(t, runTreeOperation, "extra", "tree-operations-2.json")
}

func TestTreeHashVectors(t *testing.T) {
	t.Parallel()
	treeVectors(t, func(t *testing.T, v struct {
		Suite core.SuiteID `json:"cipher_suite"`
		Tree  hexString    `json:"tree_data"`
		Hash  hexString    `json:"tree_hash"`
	}) {
		if !bytes.Equal(importBytes(t, testSuite(t, v.Suite), v.Tree).hash(), v.Hash) {
			t.Error("tree hash")
		}
	}, "extra", "tree-hash.json")
}

type treeKEMVector struct {
	Suite    core.SuiteID `json:"cipher_suite"`
	GroupID  hexString    `json:"group_id"`
	Epoch    uint64
	Confirm  hexString `json:"confirmed_transcript_hash"`
	Tree     hexString `json:"ratchet_tree"`
	Privates []struct {
		Index      LeafIndex
		Encryption hexString `json:"encryption_priv"`
		Signature  hexString `json:"signature_priv"`
		Secrets    []struct {
			Node   NodeIndex
			Secret hexString `json:"path_secret"`
		} `json:"path_secrets"`
	} `json:"leaves_private"`
	Paths []struct {
		Sender       LeafIndex
		Path         hexString   `json:"update_path"`
		Secrets      []hexString `json:"path_secrets"`
		CommitSecret hexString   `json:"commit_secret"`
		TreeHash     hexString   `json:"tree_hash_after"`
	} `json:"update_paths"`
}

func (v *treeKEMVector) context(treeHash []byte) []byte {
	return marshal(&GroupContext{Version: MLS10, Suite: v.Suite, GroupID: v.GroupID, Epoch: v.Epoch,
		TreeHash: treeHash, ConfirmedTranscriptHash: v.Confirm})
}

func padded(key []byte, suite core.Suite) core.Secret {
	size := map[core.KeyAlgorithm]int{core.ECDHP521: 66, core.ECDHP384: 48, core.ECDHP256: 32}[suite.Parameters().KEMAlgorithm]
	return core.NewSecret(append(make([]byte, max(0, size-len(key))), key...))
}

func TestTreeKEMVectors(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	treeVectors(t, func(t *testing.T, v treeKEMVector) {
		suite := testSuite(t, v.Suite)
		tr := importBytes(t, suite, v.Tree)
		keys := map[LeafIndex]pathKeys{}
		for _, p := range v.Privates {
			leaf, err := suite.OpenKeyPair(padded(p.Encryption, suite))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(leaf.Public(), tr.leaf(p.Index).EncryptionKey) {
				t.Error("leaf key")
			}
			held := pathKeys{}.with(p.Index.node(), leaf)
			for _, s := range p.Secrets {
				key, _, err := deriveNode(suite, core.NewSecret(s.Secret))
				if err != nil || !bytes.Equal(key.Public(), tr.encryptionKey(s.Node)) {
					t.Errorf("path key of node %d: %v", s.Node, err)
				}
				held = held.with(s.Node, key)
			}
			keys[p.Index] = held
		}
		for _, u := range v.Paths {
			path, err := UnmarshalUpdatePath(u.Path)
			if err != nil {
				t.Fatal(err)
			}
			if err := path.LeafNode.verify(suite, v.GroupID, u.Sender); err != nil {
				t.Error(err)
			}
			work := tr.edit()
			if err := mergePublicPath(work, u.Sender, path, nil); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(work.hash(), u.TreeHash) {
				t.Error("tree hash")
			}
			for i := range work.leaves() {
				if i == u.Sender {
					continue
				}
				secret, after, err := decryptPath(ctx, work, i, keys[i], u.Sender, path, nil, v.context(u.TreeHash))
				if err != nil || !bytes.Equal(secret.Bytes(), u.CommitSecret) {
					t.Fatalf("leaf %d: commit secret: %v", i, err)
				}
				joiner, err := pathFromSecret(work, i, u.Sender, core.NewSecret(u.Secrets[i]))
				if err != nil {
					t.Fatalf("leaf %d: path secret: %v", i, err)
				}
				for n := range joiner.held {
					if after.held[n] == nil {
						t.Errorf("leaf %d: key of node %d", i, n)
					}
				}
			}
		}
	}, "treekem.json")
}
