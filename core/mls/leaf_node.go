// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"math"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// ProtocolVersion is the version of MLS; there is one.
type ProtocolVersion uint16

// MLS10 is RFC 9420.
const MLS10 ProtocolVersion = 1

// LeafNodeSource says how a leaf came to be (RFC 9420 section 7.2).
type LeafNodeSource uint8

// The sources.
const (
	LeafKeyPackage LeafNodeSource = 1
	LeafUpdate     LeafNodeSource = 2
	LeafCommit     LeafNodeSource = 3
)

// Capabilities lists what a client supports (RFC 9420 section 7.2). Default
// extension and proposal types are not listed.
type Capabilities struct {
	Versions    []ProtocolVersion
	Suites      []core.SuiteID
	Extensions  []ExtensionType
	Proposals   []ProposalType
	Credentials []core.CredentialType
}

func (c Capabilities) append(b []byte) []byte {
	b = appendCodes(b, c.Versions)
	b = appendCodes(b, c.Suites)
	b = appendCodes(b, c.Extensions)
	b = appendCodes(b, c.Proposals)
	return appendCodes(b, c.Credentials)
}

func readCapabilities(r *reader) (c Capabilities) {
	c.Versions = codesOf[ProtocolVersion](r)
	c.Suites = codesOf[core.SuiteID](r)
	c.Extensions = codesOf[ExtensionType](r)
	c.Proposals = codesOf[ProposalType](r)
	c.Credentials = codesOf[core.CredentialType](r)
	return c
}

// A Lifetime bounds the validity of a key package, in Unix seconds, both ends included.
// Let it begin an hour early, for clocks that are late. What is checked, and when, is
// in the [Env]: Now, MaxLifetime, StrictLifetimes.
type Lifetime struct {
	NotBefore, NotAfter uint64
}

// NoLifetime never ends.
var NoLifetime = Lifetime{0, math.MaxUint64}

// Contains reports whether t lies within the lifetime.
func (l Lifetime) Contains(t time.Time) bool {
	now := uint64(max(t.Unix(), 0))
	return l.NotBefore <= now && now <= l.NotAfter
}

// A LeafNode is a member's leaf (RFC 9420 section 7.2). It is immutable once made.
type LeafNode struct {
	EncryptionKey []byte
	SignatureKey  []byte
	Credential    core.Credential
	Capabilities  Capabilities
	Source        LeafNodeSource
	Lifetime      Lifetime // source key_package
	ParentHash    []byte   // source commit
	Extensions    Extensions
	Signature     []byte
}

// appendUnsigned writes all that the signature covers, apart from the context.
func (n *LeafNode) appendUnsigned(b []byte) []byte {
	b = appendOpaque(b, n.EncryptionKey)
	b = appendOpaque(b, n.SignatureKey)
	b = appendCredential(b, n.Credential)
	b = n.Capabilities.append(b)
	b = append(b, byte(n.Source))
	switch n.Source {
	case LeafKeyPackage:
		b = appendU64(b, n.Lifetime.NotBefore)
		b = appendU64(b, n.Lifetime.NotAfter)
	case LeafCommit:
		b = appendOpaque(b, n.ParentHash)
	}
	return n.Extensions.append(b)
}

func (n *LeafNode) append(b []byte) []byte {
	return appendOpaque(n.appendUnsigned(b), n.Signature)
}

func readLeafNode(r *reader) *LeafNode {
	n := &LeafNode{
		EncryptionKey: r.opaque(),
		SignatureKey:  r.opaque(),
		Credential:    readCredential(r),
		Capabilities:  readCapabilities(r),
		Source:        LeafNodeSource(r.u8()),
	}
	switch n.Source {
	case LeafKeyPackage:
		n.Lifetime = Lifetime{NotBefore: r.u64(), NotAfter: r.u64()}
	case LeafUpdate:
	case LeafCommit:
		n.ParentHash = r.opaque()
	default:
		r.fail()
	}
	n.Extensions = readExtensions(r)
	n.Signature = r.opaque()
	return n
}

// Marshal encodes the leaf.
func (n *LeafNode) Marshal() []byte { return marshal(n) }

// UnmarshalLeafNode decodes a leaf.
func UnmarshalLeafNode(data []byte) (*LeafNode, error) {
	return decode("LeafNode", data, readLeafNode)
}

func (n *LeafNode) equal(m *LeafNode) bool { return bytes.Equal(marshal(n), marshal(m)) }

// tbs is LeafNodeTBS; group and index count for sources update and commit only (LEAF-1).
func (n *LeafNode) tbs(groupID []byte, index LeafIndex) []byte {
	b := n.appendUnsigned(nil)
	if n.Source != LeafKeyPackage {
		b = appendU32(appendOpaque(b, groupID), uint32(index))
	}
	return b
}

func (n *LeafNode) sign(ctx context.Context, key core.Signer, groupID []byte, index LeafIndex) (err error) {
	n.Signature, err = signWithLabel(ctx, key, "LeafNodeTBS", n.tbs(groupID, index))
	return err
}

func (n *LeafNode) verify(suite core.Suite, groupID []byte, index LeafIndex) error {
	return verifyWithLabel(suite, n.SignatureKey, "LeafNodeTBS", n.tbs(groupID, index), n.Signature)
}
