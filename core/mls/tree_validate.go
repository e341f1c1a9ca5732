// SPDX-License-Identifier: Apache-2.0

package mls

// validate checks a whole tree as somebody who joins has to (RFC 9420 section
// 12.4.3.1), after importTree: keys occur once (LEAF-4), parent hashes hold
// (TREE-10), public keys are valid (CS-2), and so are the signatures of the leaves
// (LEAF-1) if asked for. What a leaf says of its client is checked elsewhere.
func (t *tree) validate(groupID []byte, verifySignatures bool) error {
	if err := t.validateUniqueKeys(); err != nil {
		return err
	}
	if err := t.validateParentHashes(); err != nil {
		return err
	}
	var nodes []NodeIndex
	for n := range 2*NodeIndex(t.size()) - 1 {
		if !t.isBlank(n) {
			nodes = append(nodes, n)
		}
	}
	_, err := inParallel(len(nodes), func(i int) (struct{}, error) {
		return struct{}{}, t.validateNode(nodes[i], groupID, verifySignatures)
	})
	return err
}

func (t *tree) validateUniqueKeys() error {
	encryption, signature := map[string]bool{}, map[string]bool{}
	for n := range 2*NodeIndex(t.size()) - 1 {
		var key []byte
		switch node := t.node(n); {
		case node.Leaf != nil:
			key = node.Leaf.EncryptionKey
			if signature[string(node.Leaf.SignatureKey)] {
				return breach("LEAF-4", "leaf %d has the signature key of another leaf", n.leaf())
			}
			signature[string(node.Leaf.SignatureKey)] = true
		case node.Parent != nil:
			key = node.Parent.EncryptionKey
		default:
			continue
		}
		if encryption[string(key)] {
			return breach("LEAF-4", "node %d has the encryption key of another node", n)
		}
		encryption[string(key)] = true
	}
	return nil
}

func (t *tree) validateNode(n NodeIndex, groupID []byte, verifySignatures bool) error {
	node := t.node(n)
	if node.Parent != nil {
		return t.validateKey(n, node.Parent.EncryptionKey)
	}
	if err := t.validateKey(n, node.Leaf.EncryptionKey); err != nil {
		return err
	}
	if t.suite.ValidateSignaturePublic(node.Leaf.SignatureKey) != nil {
		return breach("CS-2", "the signature key of leaf %d is not valid", n.leaf())
	}
	if verifySignatures && node.Leaf.verify(t.suite, groupID, n.leaf()) != nil {
		return breach("LEAF-1", "the signature of leaf %d does not hold", n.leaf())
	}
	return nil
}

func (t *tree) validateKey(n NodeIndex, public []byte) error {
	if t.suite.ValidatePublic(public) != nil {
		return breach("CS-2", "the encryption key of node %d is not valid", n)
	}
	return nil
}
