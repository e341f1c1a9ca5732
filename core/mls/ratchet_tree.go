// SPDX-License-Identifier: Apache-2.0

package mls

// A ParentNode is a non-leaf node of the ratchet tree (RFC 9420 section 7.1). It
// is immutable once made.
type ParentNode struct {
	EncryptionKey  []byte
	ParentHash     []byte
	UnmergedLeaves []LeafIndex // ascending
}

func (n *ParentNode) append(b []byte) []byte {
	b = appendOpaque(appendOpaque(b, n.EncryptionKey), n.ParentHash)
	return appendList(b, n.UnmergedLeaves, func(i LeafIndex, b []byte) []byte { return appendU32(b, uint32(i)) })
}

func readParentNode(r *reader) *ParentNode {
	n := &ParentNode{EncryptionKey: r.opaque(), ParentHash: r.opaque()}
	r.list(func(r *reader) { n.UnmergedLeaves = append(n.UnmergedLeaves, LeafIndex(r.u32())) })
	return n
}

// A Node is one optional<Node> of a serialized ratchet tree (RFC 9420 section
// 12.4.3.3); blank if neither field is set.
type Node struct {
	Leaf   *LeafNode
	Parent *ParentNode
}

func (n Node) append(b []byte) []byte {
	switch {
	case n.Leaf != nil:
		return n.Leaf.append(append(b, 1, 1))
	case n.Parent != nil:
		return n.Parent.append(append(b, 1, 2))
	}
	return append(b, 0)
}

func readNode(r *reader) (n Node) {
	if r.present() {
		switch r.u8() {
		case 1:
			n.Leaf = readLeafNode(r)
		case 2:
			n.Parent = readParentNode(r)
		default:
			r.fail()
		}
	}
	return n
}

// MarshalRatchetTree encodes optional<Node> ratchet_tree<V>.
func MarshalRatchetTree(nodes []Node) []byte { return appendList(nil, nodes, Node.append) }

// UnmarshalRatchetTree decodes the bare list. What a tree must be beyond that is
// checked when it is imported.
func UnmarshalRatchetTree(data []byte) ([]Node, error) {
	return decode("ratchet_tree", data, func(r *reader) (nodes []Node) {
		r.list(func(r *reader) { nodes = append(nodes, readNode(r)) })
		return nodes
	})
}
