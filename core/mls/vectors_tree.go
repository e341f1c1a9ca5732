// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// A treeMathVector has the relatives of every node of a tree; null for none.
type treeMathVector struct {
	Leaves  uint32       `json:"n_leaves"`
	Nodes   int          `json:"n_nodes"`
	Root    NodeIndex    `json:"root"`
	Left    []*NodeIndex `json:"left"`
	Right   []*NodeIndex `json:"right"`
	Parent  []*NodeIndex `json:"parent"`
	Sibling []*NodeIndex `json:"sibling"`
}

func runTreeMath(_ context.Context, _ *vectorEnv, v *treeMathVector) error {
	if v.Leaves == 0 || v.Leaves > maxLeaves || v.Nodes != 2*int(v.Leaves)-1 {
		return fmt.Errorf("%d leaves, %d nodes: %w", v.Leaves, v.Nodes, core.ErrInvalid)
	}
	root := rootNode(v.Leaves)
	if root != v.Root {
		return fmt.Errorf("root is %d, want %d", root, v.Root)
	}
	for _, r := range []struct {
		what   string
		want   []*NodeIndex
		exists func(NodeIndex) bool
		of     func(NodeIndex) NodeIndex
	}{
		{"left child", v.Left, func(n NodeIndex) bool { return !n.isLeaf() }, NodeIndex.left},
		{"right child", v.Right, func(n NodeIndex) bool { return !n.isLeaf() }, NodeIndex.right},
		{"parent", v.Parent, func(n NodeIndex) bool { return n != root }, NodeIndex.parent},
		{"sibling", v.Sibling, func(n NodeIndex) bool { return n != root }, NodeIndex.sibling},
	} {
		if len(r.want) != v.Nodes {
			return fmt.Errorf("%d nodes have a %s: %w", len(r.want), r.what, core.ErrInvalid)
		}
		for i, want := range r.want {
			n := NodeIndex(i)
			if r.exists(n) != (want != nil) || want != nil && r.of(n) != *want {
				return fmt.Errorf("the %s of node %d is wrong", r.what, n)
			}
		}
	}
	return nil
}

// importVectorTree is a working copy of a serialized tree.
func importVectorTree(suite core.Suite, data []byte) (*tree, error) {
	nodes, err := UnmarshalRatchetTree(data)
	if err != nil {
		return nil, err
	}
	return importTree(suite, nodes)
}

// A treeOperationsVector is one proposal applied to a tree.
type treeOperationsVector struct {
	Suite          core.SuiteID `json:"cipher_suite"` // 1 if absent
	TreeBefore     hexBytes     `json:"tree_before"`
	Proposal       hexBytes     `json:"proposal"`
	ProposalSender LeafIndex    `json:"proposal_sender"`
	TreeHashBefore hexBytes     `json:"tree_hash_before"`
	TreeAfter      hexBytes     `json:"tree_after"`
	TreeHashAfter  hexBytes     `json:"tree_hash_after"`
}

func runTreeOperations(_ context.Context, env *vectorEnv, v *treeOperationsVector) error {
	if v.Suite == 0 {
		v.Suite = core.SuiteX25519AES128Ed25519
	}
	suite, err := env.suite(v.Suite)
	if err != nil {
		return err
	}
	before, err := importVectorTree(suite, v.TreeBefore)
	if err != nil {
		return err
	}
	if v.TreeHashBefore != nil {
		if err := sameBytes("tree hash before", before.hash(), v.TreeHashBefore); err != nil {
			return err
		}
	}
	proposal, err := UnmarshalProposal(v.Proposal)
	if err != nil {
		return err
	}
	t := before.edit()
	switch p := proposal.(type) {
	case *Add:
		t.addLeaf(p.KeyPackage.LeafNode)
	case *Update:
		t.updateLeaf(v.ProposalSender, p.LeafNode)
	case *Remove:
		t.removeLeaf(p.Removed)
		t.truncate()
	default:
		return fmt.Errorf("proposal of type %d: %w", proposal.Type(), core.ErrUnsupported)
	}
	if err := sameBytes("tree after", t.appendTo(nil), v.TreeAfter); err != nil {
		return err
	}
	if v.TreeHashAfter != nil {
		if err := sameBytes("tree hash after", t.hash(), v.TreeHashAfter); err != nil {
			return err
		}
	}
	// The tree before is a value: it did not change.
	return sameBytes("tree before, afterwards", before.appendTo(nil), v.TreeBefore)
}

type treeHashVector struct {
	Suite    core.SuiteID `json:"cipher_suite"`
	TreeData hexBytes     `json:"tree_data"`
	TreeHash hexBytes     `json:"tree_hash"`
}

func runTreeHash(_ context.Context, env *vectorEnv, v *treeHashVector) error {
	suite, err := env.suite(v.Suite)
	if err != nil {
		return err
	}
	t, err := importVectorTree(suite, v.TreeData)
	if err != nil {
		return err
	}
	return sameBytes("tree hash", t.hash(), v.TreeHash)
}

// A treeValidationVector says what is to be seen at each node of a valid tree.
type treeValidationVector struct {
	Suite       core.SuiteID  `json:"cipher_suite"`
	Tree        hexBytes      `json:"tree"`
	GroupID     hexBytes      `json:"group_id"`
	Resolutions [][]NodeIndex `json:"resolutions"`
	TreeHashes  []hexBytes    `json:"tree_hashes"`
}

func runTreeValidation(_ context.Context, env *vectorEnv, v *treeValidationVector) error {
	suite, err := env.suite(v.Suite)
	if err != nil {
		return err
	}
	t, err := importVectorTree(suite, v.Tree)
	if err != nil {
		return err
	}
	if nodes := 2*int(t.size()) - 1; len(v.Resolutions) != nodes || len(v.TreeHashes) != nodes {
		return fmt.Errorf("%d nodes, but %d resolutions and %d hashes", nodes, len(v.Resolutions), len(v.TreeHashes))
	}
	for i := range v.Resolutions {
		n := NodeIndex(i)
		if got, want := fmt.Sprint(t.resolution(n)), fmt.Sprint(v.Resolutions[i]); got != want {
			return fmt.Errorf("resolution of node %d is %s, want %s", n, got, want)
		}
		if err := sameBytes(fmt.Sprintf("hash of node %d", n), t.nodeHash(n), v.TreeHashes[i]); err != nil {
			return err
		}
	}
	if err := t.validate(v.GroupID, true); err != nil {
		return err
	}
	return sameBytes("tree", t.appendTo(nil), v.Tree)
}

// A updatePathsVector has the private side of every leaf of a tree, and update paths.
type updatePathsVector struct {
	Suite                   core.SuiteID        `json:"cipher_suite"`
	GroupID                 hexBytes            `json:"group_id"`
	Epoch                   uint64              `json:"epoch"`
	ConfirmedTranscriptHash hexBytes            `json:"confirmed_transcript_hash"`
	RatchetTree             hexBytes            `json:"ratchet_tree"`
	LeavesPrivate           []privateLeafVector `json:"leaves_private"`
	UpdatePaths             []updatePathVector  `json:"update_paths"`
}

type privateLeafVector struct {
	Index          LeafIndex `json:"index"`
	EncryptionPriv hexBytes  `json:"encryption_priv"`
	SignaturePriv  hexBytes  `json:"signature_priv"`
	PathSecrets    []struct {
		Node       NodeIndex `json:"node"`
		PathSecret hexBytes  `json:"path_secret"`
	} `json:"path_secrets"`
}

type updatePathVector struct {
	Sender        LeafIndex  `json:"sender"`
	UpdatePath    hexBytes   `json:"update_path"`
	PathSecrets   []hexBytes `json:"path_secrets"` // by leaf
	CommitSecret  hexBytes   `json:"commit_secret"`
	TreeHashAfter hexBytes   `json:"tree_hash_after"`
}

// A updatePathsCase is a vector whose private keys are open.
type updatePathsCase struct {
	*updatePathsVector
	suite   core.Suite
	before  *tree
	keys    map[LeafIndex]pathKeys
	signers map[LeafIndex]core.Signer
}

func runTreeKEM(ctx context.Context, env *vectorEnv, v *updatePathsVector) error {
	suite, err := env.suite(v.Suite)
	if err != nil {
		return err
	}
	t, err := importVectorTree(suite, v.RatchetTree)
	if err != nil {
		return err
	}
	c := &updatePathsCase{updatePathsVector: v, suite: suite, before: t, keys: map[LeafIndex]pathKeys{}, signers: map[LeafIndex]core.Signer{}}
	for i := range v.LeavesPrivate {
		if err := c.open(ctx, env, &v.LeavesPrivate[i]); err != nil {
			return fmt.Errorf("leaf %d: %w", v.LeavesPrivate[i].Index, err)
		}
	}
	for i := range v.UpdatePaths {
		if err := c.given(ctx, &v.UpdatePaths[i]); err != nil {
			return fmt.Errorf("path %d: %w", i, err)
		}
	}
	if len(v.LeavesPrivate) == 0 || len(v.UpdatePaths) == 0 {
		return fmt.Errorf("no private leaf or no path: %w", core.ErrInvalid)
	}
	sender := v.LeavesPrivate[len(v.LeavesPrivate)/2].Index
	if err := c.own(ctx, sender); err != nil {
		return fmt.Errorf("own path of leaf %d: %w", sender, err)
	}
	return nil
}

// open checks that the private keys are those of the public tree.
func (c *updatePathsCase) open(ctx context.Context, env *vectorEnv, l *privateLeafVector) error {
	leaf := c.before.leaf(l.Index)
	if leaf == nil {
		return fmt.Errorf("the leaf is blank: %w", core.ErrInvalid)
	}
	signer, err := env.signer(ctx, c.suite, l.SignaturePriv)
	if err != nil {
		return err
	}
	if err := sameBytes("signature key", signer.Public(), leaf.SignatureKey); err != nil {
		return err
	}
	key, err := env.keyPair(c.suite, l.EncryptionPriv)
	if err != nil {
		return fmt.Errorf("encryption key: %w", err)
	}
	if err := sameBytes("encryption key", key.Public(), leaf.EncryptionKey); err != nil {
		return err
	}
	keys := pathKeys{}.with(l.Index.node(), key)
	for _, s := range l.PathSecrets {
		key, _, err := deriveNode(c.suite, s.PathSecret.secret())
		if err != nil {
			return err
		}
		parent := c.before.node(s.Node).Parent
		if parent == nil {
			return fmt.Errorf("path secret for the blank node %d: %w", s.Node, core.ErrInvalid)
		}
		if err := sameBytes(fmt.Sprintf("key of node %d", s.Node), key.Public(), parent.EncryptionKey); err != nil {
			return err
		}
		keys = keys.with(s.Node, key)
	}
	c.signers[l.Index], c.keys[l.Index] = signer, keys
	return nil
}

func (c *updatePathsCase) groupContext(treeHash []byte) []byte {
	gc := &GroupContext{Version: MLS10, Suite: c.Suite, GroupID: c.GroupID, Epoch: c.Epoch, TreeHash: treeHash, ConfirmedTranscriptHash: c.ConfirmedTranscriptHash}
	return gc.Marshal()
}

// given runs a path of the file.
func (c *updatePathsCase) given(ctx context.Context, v *updatePathVector) error {
	path, err := UnmarshalUpdatePath(v.UpdatePath)
	if err != nil {
		return err
	}
	after, err := c.received(ctx, v.Sender, path, v.CommitSecret.secret())
	if err != nil {
		return err
	}
	if err := sameBytes("tree hash after", after.hash(), v.TreeHashAfter); err != nil {
		return err
	}
	for i, secret := range v.PathSecrets {
		if secret == nil {
			continue
		}
		steps, at, err := after.sharedPath(LeafIndex(i), v.Sender)
		if err != nil {
			return err
		}
		commit, _, err := deriveUpward(after, pathKeys{}, steps[at:], secret.secret())
		if err := sameSecret(fmt.Sprintf("commit secret from the path secret of leaf %d", i), commit, err, v.CommitSecret); err != nil {
			return err
		}
	}
	return nil
}

// received merges a path and lets every other leaf decrypt it.
func (c *updatePathsCase) received(ctx context.Context, sender LeafIndex, path *UpdatePath, commitSecret core.Secret) (*tree, error) {
	if err := path.LeafNode.verify(c.suite, c.GroupID, sender); err != nil {
		return nil, fmt.Errorf("leaf signature: %w", err)
	}
	after := c.before.edit()
	if err := mergePublicPath(after, sender, path, nil); err != nil {
		return nil, err
	}
	groupContext := c.groupContext(after.hash())
	for i, keys := range c.keys {
		if i == sender {
			continue
		}
		got, _, err := decryptPath(ctx, after, i, keys, sender, path, nil, groupContext)
		if err := sameSecret("commit secret", got, err, commitSecret.Bytes()); err != nil {
			return nil, fmt.Errorf("leaf %d: %w", i, err)
		}
	}
	return after, nil
}

// own makes a path as the leaf, which all others must accept.
func (c *updatePathsCase) own(ctx context.Context, sender LeafIndex) error {
	work := c.before.edit()
	path, created, err := createPath(ctx, pathParams{
		suite: c.suite, tree: work, own: sender, leaf: c.before.leaf(sender), signer: c.signers[sender],
		groupID: c.GroupID, keys: c.keys[sender], groupContext: c.groupContext,
	})
	if err != nil {
		return err
	}
	defer created.wipe()
	after, err := c.received(ctx, sender, path, created.commitSecret)
	if err != nil {
		return err
	}
	return errors.Join(
		sameBytes("tree hash after", after.hash(), work.hash()),
		sameBytes("tree after", after.appendTo(nil), work.appendTo(nil)),
	)
}
