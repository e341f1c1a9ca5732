// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// TreeKEM (RFC 9420 sections 7.4 to 7.6): a committer renews the keys of its path
// and sends each path secret to those below the other child.

// deriveNode gives the key pair of a node and the path secret of the next one.
func deriveNode(suite core.Suite, pathSecret core.Secret) (core.SoftwareKey, core.Secret, error) {
	nodeSecret, err := deriveSecret(suite, pathSecret, "node")
	if err != nil {
		return nil, core.Secret{}, err
	}
	key, err := suite.DeriveKeyPair(nodeSecret)
	nodeSecret.Wipe()
	if err != nil {
		return nil, core.Secret{}, err
	}
	next, err := deriveSecret(suite, pathSecret, "path")
	return key, next, err
}

// pathParams is what createPath needs.
type pathParams struct {
	suite    core.Suite
	tree     *tree // a working copy, all proposals applied
	own      LeafIndex
	leaf     *LeafNode // credential, capabilities, extensions and signature key of the new leaf
	signer   core.Signer
	groupID  []byte
	excluded []LeafIndex // added by the same commit (PATH-3)
	keys     pathKeys    // held until now
	// groupContext encodes the provisional GroupContext with this tree hash (PATH-7).
	groupContext func(treeHash []byte) []byte
}

// A createdPath is the private side of a path.
type createdPath struct {
	commitSecret core.Secret
	keys         pathKeys
	steps        []pathStep
	secrets      []core.Secret // path secret of each step
}

// secretFor is the path secret for somebody whom this commit adds (PATH-3): that of
// the lowest node over both leaves, which is on the path because the joiner is below it.
func (c *createdPath) secretFor(joiner LeafIndex) core.Secret {
	for k, s := range c.steps {
		if s.copathChild.covers(joiner.node()) {
			return c.secrets[k]
		}
	}
	return core.Secret{}
}

// wipe destroys the path secrets, once the Welcome is made.
func (c *createdPath) wipe() {
	for _, s := range c.secrets {
		s.Wipe()
	}
}

// createPath makes new keys for the own leaf and path, merges them into the working
// tree, signs the leaf and encrypts the path secrets, in this order.
func createPath(ctx context.Context, p pathParams) (_ *UpdatePath, _ *createdPath, err error) {
	t, suite := p.tree, p.suite
	leafKey, err := suite.GenerateKeyPair()
	if err != nil {
		return nil, nil, err
	}
	c := &createdPath{steps: t.filteredDirectPath(p.own)}
	c.keys = p.keys.kept(t).drop(t.directPath(p.own)...).with(p.own.node(), leafKey)
	random := make([]byte, suite.Parameters().Nh)
	_, _ = rand.Read(random)
	secret := core.NewSecret(random)
	defer func() {
		if err != nil {
			secret.Wipe()
			c.wipe()
		}
	}()
	publics := make([][]byte, len(c.steps))
	for k, s := range c.steps {
		c.secrets = append(c.secrets, secret)
		var key core.SoftwareKey
		if key, secret, err = deriveNode(suite, secret); err != nil {
			return nil, nil, err
		}
		publics[k] = key.Public()
		c.keys = c.keys.with(s.node, key)
	}
	c.commitSecret = secret // PATH-8; fresh if there is no node on the path

	leaf := *p.leaf
	leaf.EncryptionKey, leaf.Source, leaf.Lifetime = leafKey.Public(), LeafCommit, Lifetime{}
	var nodes []*ParentNode
	nodes, leaf.ParentHash = t.pathNodes(c.steps, publics)
	if err = leaf.sign(ctx, p.signer, p.groupID, p.own); err != nil {
		return nil, nil, err
	}
	t.mergePath(p.own, &leaf, c.steps, nodes)

	path := &UpdatePath{LeafNode: &leaf, Nodes: make([]UpdatePathNode, len(c.steps))}
	type job struct {
		public []byte
		step   int
	}
	var jobs []job
	excluded := leafSet(p.excluded)
	for k, s := range c.steps {
		path.Nodes[k].EncryptionKey = publics[k]
		for _, n := range recipients(s, excluded) {
			jobs = append(jobs, job{t.encryptionKey(n), k})
		}
	}
	encrypt := encryptWithLabel(suite, "UpdatePathNode", p.groupContext(t.hash()))
	ciphertexts, err := inParallel(len(jobs), func(i int) (ct core.HPKECiphertext, err error) {
		if err := ctx.Err(); err != nil {
			return ct, err
		}
		return encrypt(jobs[i].public, c.secrets[jobs[i].step].Bytes())
	})
	if err != nil {
		return nil, nil, err
	}
	for i, j := range jobs {
		path.Nodes[j.step].Secrets = append(path.Nodes[j.step].Secrets, ciphertexts[i])
	}
	return path, c, nil
}

func leafSet(leaves []LeafIndex) map[NodeIndex]bool {
	set := make(map[NodeIndex]bool, len(leaves))
	for _, i := range leaves {
		set[i.node()] = true
	}
	return set
}

// recipients are the nodes to which the path secret of a step is encrypted (PATH-2).
func recipients(s pathStep, excluded map[NodeIndex]bool) []NodeIndex {
	if len(excluded) == 0 {
		return s.resolution
	}
	return slices.DeleteFunc(slices.Clone(s.resolution), func(n NodeIndex) bool { return excluded[n] })
}

// mergePublicPath checks a received path and merges it into the working tree, to
// which all proposals were applied. excluded are the leaves that they added. The
// sender's leaf is blank if it joins by an external commit (see reserveLeaf). The
// signature of the leaf is the caller's to check. If it fails the tree is unchanged.
func mergePublicPath(t *tree, sender LeafIndex, path *UpdatePath, excluded []LeafIndex) error {
	if uint32(sender) >= t.size() {
		return breach("TREE-3", "sender %d is not in the tree", sender)
	}
	leaf := path.LeafNode
	if leaf.Source != LeafCommit {
		return breach("LEAF-2", "the leaf of a path has source %d", leaf.Source)
	}
	steps := t.filteredDirectPath(sender)
	if err := checkCiphertexts(steps, path, excluded); err != nil {
		return err
	}
	if old := t.leaf(sender); old != nil && bytes.Equal(old.EncryptionKey, leaf.EncryptionKey) {
		return breach("LEAF-3", "the encryption key of leaf %d was not renewed", sender)
	}
	fresh := map[string]bool{string(leaf.EncryptionKey): true}
	if t.suite.ValidatePublic(leaf.EncryptionKey) != nil {
		return breach("CS-2", "the new encryption key of leaf %d is not valid", sender)
	}
	publics := make([][]byte, len(steps))
	for k, n := range path.Nodes {
		if err := t.validateKey(steps[k].node, n.EncryptionKey); err != nil {
			return err
		}
		if fresh[string(n.EncryptionKey)] {
			return breach("PATH-6", "a key occurs twice in the path")
		}
		fresh[string(n.EncryptionKey)] = true
		publics[k] = n.EncryptionKey
	}
	if n, found := t.findKey(fresh); found {
		return breach("PATH-6", "a key of the path is that of node %d", n)
	}
	nodes, hash := t.pathNodes(steps, publics)
	if !bytes.Equal(hash, leaf.ParentHash) {
		return breach("TREE-11", "the parent hash of leaf %d is wrong", sender)
	}
	t.mergePath(sender, leaf, steps, nodes)
	return nil
}

// checkCiphertexts is PATH-2: a node for each step, and in it a ciphertext for each
// recipient.
func checkCiphertexts(steps []pathStep, path *UpdatePath, excluded []LeafIndex) error {
	if len(path.Nodes) != len(steps) {
		return breach("PATH-2", "%d nodes on a path of %d", len(path.Nodes), len(steps))
	}
	isExcluded := leafSet(excluded)
	for k, s := range steps {
		if got, want := len(path.Nodes[k].Secrets), len(recipients(s, isExcluded)); got != want {
			return breach("PATH-2", "%d ciphertexts at node %d, not %d", got, s.node, want)
		}
	}
	return nil
}

// decryptPath takes from a path that mergePublicPath merged what is for us: the
// commit secret, and the keys that we hold from now on.
func decryptPath(ctx context.Context, t *tree, own LeafIndex, keys pathKeys, sender LeafIndex, path *UpdatePath, excluded []LeafIndex, groupContext []byte) (core.Secret, pathKeys, error) {
	fail := func(err error) (core.Secret, pathKeys, error) { return core.Secret{}, pathKeys{}, err }
	steps, at, err := t.sharedPath(own, sender)
	if err != nil {
		return fail(err)
	}
	if err := checkCiphertexts(steps, path, excluded); err != nil {
		return fail(err)
	}
	keys = keys.kept(t)
	for i, n := range recipients(steps[at], leafSet(excluded)) { // PATH-4
		key, public, err := keys.opened(t.suite, n)
		if err != nil {
			return fail(err)
		}
		if key == nil || !bytes.Equal(public, t.encryptionKey(n)) {
			continue
		}
		plaintext, err := decryptWithLabel(ctx, key, "UpdatePathNode", groupContext, path.Nodes[at].Secrets[i])
		if errors.Is(err, core.ErrInvalid) {
			return fail(ErrAuthentication)
		}
		if err != nil {
			return fail(err)
		}
		return deriveUpward(t, keys, steps[at:], core.NewSecret(plaintext))
	}
	return fail(breach("PATH-4", "no ciphertext of the path is for a key that we hold"))
}

// sharedPath is the filtered path of a sender, and where on it the nodes begin
// that are over another member as well.
func (t *tree) sharedPath(own, sender LeafIndex) (steps []pathStep, at int, err error) {
	if own == sender || uint32(own) >= t.size() || uint32(sender) >= t.size() || t.leaf(own) == nil {
		return nil, 0, breach("TREE-3", "leaf %d has no path for leaf %d", sender, own)
	}
	steps = t.filteredDirectPath(sender)
	at = slices.IndexFunc(steps, func(s pathStep) bool { return s.copathChild.covers(own.node()) })
	return steps, at, nil
}

// pathFromSecret gives a joiner the keys of the nodes that it shares with the
// signer of the GroupInfo, from the path secret of the lowest (WEL-6).
func pathFromSecret(t *tree, own, signer LeafIndex, pathSecret core.Secret) (pathKeys, error) {
	steps, at, err := t.sharedPath(own, signer)
	if err != nil {
		return pathKeys{}, err
	}
	commitSecret, keys, err := deriveUpward(t, pathKeys{}, steps[at:], pathSecret.Clone())
	commitSecret.Wipe()
	return keys, err
}

// deriveUpward goes from a path secret to the commit secret. The keys on the way
// are those in the tree (PATH-5), and are added to the keys held. The secret is
// taken over.
func deriveUpward(t *tree, keys pathKeys, steps []pathStep, secret core.Secret) (core.Secret, pathKeys, error) {
	fail := func(err error) (core.Secret, pathKeys, error) {
		secret.Wipe()
		return core.Secret{}, pathKeys{}, err
	}
	if secret.Len() != t.suite.Parameters().Nh {
		return fail(breach("PATH-5", "a path secret has %d bytes", secret.Len()))
	}
	for _, s := range steps {
		key, next, err := deriveNode(t.suite, secret)
		if err != nil {
			return fail(err)
		}
		secret.Wipe()
		secret = next
		if p := t.node(s.node).Parent; p == nil || !bytes.Equal(p.EncryptionKey, key.Public()) {
			return fail(breach("PATH-5", "the path secret is not that of the key at node %d", s.node))
		}
		keys = keys.with(s.node, key)
	}
	return secret, keys, nil
}
