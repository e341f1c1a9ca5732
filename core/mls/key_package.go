// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"slices"
	"time"

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

// readKeyPackage refuses other versions, bare or in an Add as well as in an
// MLSMessage: their layout is not known (COD-11, KP-2).
func readKeyPackage(r *reader) *KeyPackage {
	version := ProtocolVersion(r.u16())
	if version != MLS10 {
		r.fail()
	}
	return &KeyPackage{
		Version:    version,
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
func UnmarshalKeyPackage(data []byte) (*KeyPackage, error) {
	return decode("KeyPackage", data, readKeyPackage)
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

// A KeyPackageParams says what a new key package shall be.
type KeyPackageParams struct {
	Suite          core.Suite
	Signer         core.Signer
	Credential     core.Credential
	Capabilities   Capabilities
	Lifetime       Lifetime
	LeafExtensions Extensions
	LastResort     bool
	Grease         bool // see Env.Grease
	// Now and MaxLifetime bound the lifetime as they do in Env.
	Now         time.Time
	MaxLifetime time.Duration
}

// A KeyPackageBundle is a key package with its private keys.
type KeyPackageBundle struct {
	KeyPackage *KeyPackage
	InitKey    core.SoftwareKey
	LeafKey    core.SoftwareKey
}

// NewKeyPackage makes a key package with fresh init and leaf keys (KP-3).
func NewKeyPackage(ctx context.Context, p KeyPackageParams) (_ *KeyPackageBundle, err error) {
	defer tooLarge(&err)
	if err := p.Lifetime.check(p.Now, p.MaxLifetime); err != nil {
		return nil, err
	}
	initKey, err := p.Suite.GenerateKeyPair()
	if err != nil {
		return nil, err
	}
	leafKey, err := p.Suite.GenerateKeyPair()
	if err != nil {
		return nil, err
	}
	k := &KeyPackage{
		Version: MLS10,
		Suite:   p.Suite.ID(),
		InitKey: initKey.Public(),
		LeafNode: &LeafNode{
			EncryptionKey: leafKey.Public(),
			SignatureKey:  p.Signer.Public(),
			Credential:    p.Credential,
			Capabilities:  p.Capabilities,
			Source:        LeafKeyPackage,
			Lifetime:      p.Lifetime,
			Extensions:    p.LeafExtensions,
		},
	}
	if p.LastResort {
		k.Extensions = Extensions{{Type: ExtensionLastResort}}
		if !slices.Contains(k.LeafNode.Capabilities.Extensions, ExtensionLastResort) { // KP-9
			k.LeafNode.Capabilities.Extensions = append(slices.Clip(k.LeafNode.Capabilities.Extensions), ExtensionLastResort)
		}
	}
	if p.Grease {
		k.grease()
	}
	if err := k.LeafNode.checkMade(p.Suite, LeafKeyPackage); err != nil {
		return nil, err
	}
	if err := k.LeafNode.sign(ctx, p.Signer, nil, 0); err != nil {
		return nil, err
	}
	if k.Signature, err = signWithLabel(ctx, p.Signer, "KeyPackageTBS", k.tbs()); err != nil {
		return nil, err
	}
	return &KeyPackageBundle{KeyPackage: k, InitKey: initKey, LeafKey: leafKey}, nil
}

// Marshal encodes the bundle for a store; the result is secret.
func (b *KeyPackageBundle) Marshal() []byte {
	out := b.KeyPackage.append([]byte{recordFormat})
	out = appendOpaque(out, b.InitKey.Material().Bytes())
	return appendOpaque(out, b.LeafKey.Material().Bytes())
}

// UnmarshalKeyPackageBundle decodes what Marshal encoded.
func UnmarshalKeyPackageBundle(suites core.SuiteSource, data []byte) (*KeyPackageBundle, error) {
	b := &KeyPackageBundle{}
	var initKey, leafKey core.Secret
	err := unmarshalRecord("key package record", data, func(r *reader) {
		b.KeyPackage = readKeyPackage(r)
		initKey, leafKey = core.NewSecret(r.opaque()), core.NewSecret(r.opaque())
	})
	if err != nil {
		return nil, err
	}
	suite, err := suites.Suite(b.KeyPackage.Suite)
	if err != nil {
		return nil, err
	}
	if b.InitKey, err = suite.OpenKeyPair(initKey); err != nil {
		return nil, err
	}
	b.LeafKey, err = suite.OpenKeyPair(leafKey)
	return b, err
}

// Validate checks a key package on its own (RFC 9420 section 10.1), with its
// lifetime if now is not zero. Whether it fits a group is checked when it is added.
func (k *KeyPackage) Validate(suite core.Suite, now time.Time) error {
	if k.Version != MLS10 || k.Suite != suite.ID() { // KP-1, KP-2
		return breach("KP-1", "version %d, suite %v", k.Version, k.Suite)
	}
	if err := k.LeafNode.checkSelf(suite, LeafKeyPackage); err != nil {
		return err
	}
	if !slices.Contains(k.LeafNode.Capabilities.Versions, k.Version) {
		return breach("LEAF-6", "own version is not in the capabilities")
	}
	if bytes.Equal(k.InitKey, k.LeafNode.EncryptionKey) {
		return breach("KP-1", "init key equals the leaf encryption key")
	}
	if err := suite.ValidatePublic(k.InitKey); err != nil {
		return breach("CS-2", "init key: %v", err)
	}
	if err := k.Extensions.checkUnique(); err != nil { // KP-7: the leaf's are its own; KP-9: unlisted ones are ignored
		return err
	}
	if !now.IsZero() && !k.LeafNode.Lifetime.Contains(now) {
		return breach("LEAF-9", "key package has expired or is not valid yet")
	}
	if err := k.LeafNode.verify(suite, nil, 0); err != nil {
		return err
	}
	return verifyWithLabel(suite, k.LeafNode.SignatureKey, "KeyPackageTBS", k.tbs(), k.Signature)
}
