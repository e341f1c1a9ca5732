// SPDX-License-Identifier: Apache-2.0

package mls

import "github.com/conclave-mls/conclave/core"

// An UpdatePathNode carries one new parent key and the path secret, encrypted to
// each node of the copath child's resolution (RFC 9420 section 7.6).
type UpdatePathNode struct {
	EncryptionKey []byte
	Secrets       []core.HPKECiphertext
}

func (n UpdatePathNode) append(b []byte) []byte {
	return appendList(appendOpaque(b, n.EncryptionKey), n.Secrets, func(c core.HPKECiphertext, b []byte) []byte {
		return appendHPKECiphertext(b, c)
	})
}

func appendHPKECiphertext(b []byte, c core.HPKECiphertext) []byte {
	return appendOpaque(appendOpaque(b, c.KEMOutput), c.Ciphertext)
}

func readHPKECiphertext(r *reader) core.HPKECiphertext {
	return core.HPKECiphertext{KEMOutput: r.opaque(), Ciphertext: r.opaque()}
}

// An UpdatePath replaces the committer's leaf and direct path.
type UpdatePath struct {
	LeafNode *LeafNode
	Nodes    []UpdatePathNode
}

func (p *UpdatePath) append(b []byte) []byte {
	return appendList(p.LeafNode.append(b), p.Nodes, UpdatePathNode.append)
}

func readUpdatePath(r *reader) *UpdatePath {
	p := &UpdatePath{LeafNode: readLeafNode(r)}
	r.list(func(r *reader) {
		n := UpdatePathNode{EncryptionKey: r.opaque()}
		r.list(func(r *reader) { n.Secrets = append(n.Secrets, readHPKECiphertext(r)) })
		p.Nodes = append(p.Nodes, n)
	})
	return p
}

// Marshal encodes the path.
func (p *UpdatePath) Marshal() []byte { return marshal(p) }

// UnmarshalUpdatePath decodes an update path.
func UnmarshalUpdatePath(data []byte) (*UpdatePath, error) {
	return decode("UpdatePath", data, readUpdatePath)
}

// A Commit ends an epoch (RFC 9420 section 12.4).
type Commit struct {
	Proposals []ProposalOrRef
	Path      *UpdatePath // nil: without a path
}

func (c *Commit) append(b []byte) []byte {
	b = appendPresent(appendList(b, c.Proposals, ProposalOrRef.append), c.Path != nil)
	if c.Path != nil {
		b = c.Path.append(b)
	}
	return b
}

func readCommit(r *reader) *Commit {
	c := &Commit{}
	r.list(func(r *reader) { c.Proposals = append(c.Proposals, readProposalOrRef(r)) })
	if r.present() {
		c.Path = readUpdatePath(r)
	}
	return c
}

// Marshal encodes the commit.
func (c *Commit) Marshal() []byte { return marshal(c) }

// UnmarshalCommit decodes a commit.
func UnmarshalCommit(data []byte) (*Commit, error) {
	return decode("Commit", data, readCommit)
}
