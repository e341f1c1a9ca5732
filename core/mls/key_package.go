// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"github.com/conclave-mls/conclave/core"
)

// A KeyPackage lets others add a client to a group (RFC 9420 section 10).
type KeyPackage struct {
	Version    ProtocolVersion
	Suite      core.SuiteID
	InitKey    []byte
	LeafNode   *LeafNode
	Extensions Extensions
	Signature  []byte
}

func (k *KeyPackage) tbs() []byte {
	var b []byte
	b = appendU16(b, uint16(k.Version))
	b = appendU16(b, uint16(k.Suite))
	b = appendOpaque(b, k.InitKey)
	b = k.LeafNode.append(b)
	return k.Extensions.append(b)
}

func (k *KeyPackage) append(b []byte) []byte {
	return appendOpaque(append(b, k.tbs()...), k.Signature)
}

func readKeyPackage(r *reader) *KeyPackage {
	return &KeyPackage{
		Version:    ProtocolVersion(r.u16()),
		Suite:      core.SuiteID(r.u16()),
		InitKey:    r.opaque(),
		LeafNode:   readLeafNode(r),
		Extensions: readExtensions(r),
		Signature:  r.opaque(),
	}
}

// Marshal encodes the key package, not wrapped in an MLSMessage.
func (k *KeyPackage) Marshal() []byte { return marshal(k) }

// UnmarshalKeyPackage decodes a key package that is not wrapped in an MLSMessage.
func UnmarshalKeyPackage(data []byte) (k *KeyPackage, err error) {
	err = unmarshal("KeyPackage", data, func(r *reader) { k = readKeyPackage(r) })
	return k, err
}

// Ref is the KeyPackageRef (RFC 9420 section 5.2), Nh bytes.
func (k *KeyPackage) Ref(suite core.Suite) []byte {
	return refHash(suite, "MLS 1.0 KeyPackage Reference", marshal(k))
}

// IsLastResort reports whether the package may be used more than once (KP-4).
func (k *KeyPackage) IsLastResort() bool {
	_, ok := k.Extensions.Find(ExtensionLastResort)
	return ok
}
