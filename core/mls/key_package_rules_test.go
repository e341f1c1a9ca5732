// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// newPackage is a key package that was changed, and then signed again.
func newPackage(t *testing.T, change func(*mls.KeyPackage)) (*member, *mls.KeyPackage) {
	t.Helper()
	m := newMember(t, 1, "zoe", mls.DefaultConfig)
	m.grease = false
	kp := m.keyPackage()
	change(kp)
	if err := mls.ForgeKeyPackage(t.Context(), m.signer(), kp); err != nil {
		t.Fatal(err)
	}
	return m, kp
}

// KP-1, KP-2, LEAF-2, LEAF-6, LEAF-9, CRD-4, CS-2, mls-rs#323: a key package that breaks one rule is refused for it,
// on its own and in an Add: version, suite, place, keys, signatures.
func TestKeyPackageIsRefused(t *testing.T) {
	t.Parallel()
	alice, _, _, _ := threesome(t, mls.DefaultConfig, nil)
	for what, c := range map[string]struct {
		change func(*mls.KeyPackage)
		rule   string
	}{
		"another version": {func(k *mls.KeyPackage) { k.Version = 2 }, "KP-1"},
		"another version that the client supports": {func(k *mls.KeyPackage) {
			k.Version, k.LeafNode.Capabilities.Versions = 2, []mls.ProtocolVersion{2, 1}
		}, "KP-1"},
		"the version of nothing":                     {func(k *mls.KeyPackage) { k.Version, k.LeafNode.Capabilities.Versions = 0, []mls.ProtocolVersion{0, 1} }, "KP-1"},
		"a version that the client does not support": {func(k *mls.KeyPackage) { k.LeafNode.Capabilities.Versions = []mls.ProtocolVersion{2} }, "LEAF-6"},
		"another suite":                              {func(k *mls.KeyPackage) { k.Suite = 3 }, "KP-1"},
		"another suite that the client supports": {func(k *mls.KeyPackage) {
			k.Suite, k.LeafNode.Capabilities.Suites = 3, []core.SuiteID{3, 1}
		}, "KP-1"},
		"a leaf of an Update":                {func(k *mls.KeyPackage) { k.LeafNode.Source = mls.LeafUpdate }, "LEAF-2"},
		"an init key that is the leaf's":     {func(k *mls.KeyPackage) { k.InitKey = k.LeafNode.EncryptionKey }, "KP-1"},
		"an init key that is none":           {func(k *mls.KeyPackage) { k.InitKey = make([]byte, 32) }, "CS-2"},
		"no init key":                        {func(k *mls.KeyPackage) { k.InitKey = nil }, "CS-2"},
		"a leaf key that is none":            {func(k *mls.KeyPackage) { k.LeafNode.EncryptionKey = make([]byte, 32) }, "CS-2"},
		"a signature key that is none":       {func(k *mls.KeyPackage) { k.LeafNode.SignatureKey = k.LeafNode.SignatureKey[1:] }, "CS-2"},
		"a credential that it does not list": {func(k *mls.KeyPackage) { k.LeafNode.Capabilities.Credentials = []core.CredentialType{2} }, "CRD-4"},
	} {
		m, kp := newPackage(t, c.change)
		wantBreach(t, what, c.rule, kp.Validate(m.suite, time.Time{}))
		before := alice.stored.dump()
		_, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: kp}}})
		wantBreach(t, what+", committed", c.rule, err)
		_, err = alice.propose(&mls.Add{KeyPackage: kp})
		wantBreach(t, what+", proposed", c.rule, err)
		if alice.stored.dump() != before {
			t.Errorf("%s: something has changed", what)
		}
	}
	stranger := newMember(t, 1, "stranger", mls.DefaultConfig)
	var owner *member
	for what, spoil := range map[string]func(*mls.KeyPackage){
		"nobody":        func(k *mls.KeyPackage) { k.Signature = nil },
		"another":       func(k *mls.KeyPackage) { k.Signature = stranger.keyPackage().Signature },
		"a bit":         func(k *mls.KeyPackage) { k.Signature[5] ^= 1 },
		"the leaf only": func(k *mls.KeyPackage) { k.InitKey = stranger.keyPackage().InitKey },
		"the package only": func(k *mls.KeyPackage) {
			k.LeafNode.Signature[5] ^= 1
			if err := mls.ForgePackageAround(t.Context(), owner.signer(), k); err != nil {
				t.Fatal(err)
			}
		},
	} {
		var kp *mls.KeyPackage
		owner, kp = newPackage(t, func(*mls.KeyPackage) {})
		spoil(kp)
		if err := kp.Validate(owner.suite, time.Time{}); !errors.Is(err, mls.ErrAuthentication) {
			t.Errorf("signed by %s: %v", what, err)
		}
	}
	m, kp := newPackage(t, func(*mls.KeyPackage) {})
	if err := kp.Validate(m.suite, time.Time{}); err != nil {
		t.Error(err)
	}
	kp.LeafNode.Lifetime = mls.Lifetime{NotBefore: 1000, NotAfter: 2000}
	if err := mls.ForgeKeyPackage(t.Context(), m.signer(), kp); err != nil {
		t.Fatal(err)
	}
	for at, good := range map[int64]bool{999: false, 1000: true, 2000: true, 2001: false} {
		if err := kp.Validate(m.suite, time.Unix(at, 0)); good && err != nil {
			t.Errorf("at %d: %v", at, err)
		} else if !good {
			wantBreach(t, "out of its lifetime", "LEAF-9", err)
		}
	}
	// In an MLSMessage both have one version, and there is one only.
	for what, versions := range map[string][2]uint16{"the message": {2, 1}, "the package": {1, 2}, "both": {2, 2}, "neither": {0, 0}} {
		data := (&mls.MLSMessage{KeyPackage: kp}).Marshal()
		data[1], data[5] = byte(versions[0]), byte(versions[1])
		if _, err := mls.UnmarshalMLSMessage(data); !errors.Is(err, mls.ErrMalformed) {
			t.Errorf("%s of another version: %v", what, err)
		}
	}
}

// KP-3: each key package has keys of its own.
func TestKeyPackagesAreFresh(t *testing.T) {
	t.Parallel()
	m := newMember(t, 1, "zoe", mls.DefaultConfig)
	seen := map[string]bool{}
	for range 5 {
		kp := m.keyPackage()
		for _, key := range [][]byte{kp.InitKey, kp.LeafNode.EncryptionKey} {
			if seen[string(key)] || !bytes.Equal(key, m.bundle.InitKey.Public()) && !bytes.Equal(key, m.bundle.LeafKey.Public()) {
				t.Error("a key occurs twice, or is not the bundle's")
			}
			seen[string(key)] = true
		}
	}
}

// KP-7, KP-9: the extensions of a key package and those of its leaf are two lists: one
// type may be in both, each list has it once, and only the leaf's are asked to be in
// the capabilities; what we put into a key package we list.
func TestExtensionsOfKeyPackageAndLeaf(t *testing.T) {
	t.Parallel()
	one, two := mls.Extension{Type: 0xF001, Data: []byte("one")}, mls.Extension{Type: 0xF001, Data: []byte("two")}
	listed := func(k *mls.KeyPackage) { k.LeafNode.Capabilities.Extensions = []mls.ExtensionType{0xF001} }
	for what, c := range map[string]struct {
		change func(*mls.KeyPackage)
		rule   string
	}{
		"in both": {func(k *mls.KeyPackage) {
			listed(k)
			k.Extensions, k.LeafNode.Extensions = mls.Extensions{one}, mls.Extensions{two}
		}, ""},
		"twice in the package": {func(k *mls.KeyPackage) { listed(k); k.Extensions = mls.Extensions{one, two} }, "GRE-4"},
		"twice in the leaf":    {func(k *mls.KeyPackage) { listed(k); k.LeafNode.Extensions = mls.Extensions{one, two} }, "GRE-4"},
		"in the package, not listed": {func(k *mls.KeyPackage) {
			k.Extensions = mls.Extensions{{Type: 0x5A5A}, one}
		}, ""},
		"in the leaf, not listed": {func(k *mls.KeyPackage) { k.LeafNode.Extensions = mls.Extensions{one} }, "LEAF-5"},
	} {
		m, kp := newPackage(t, c.change)
		if err := kp.Validate(m.suite, time.Time{}); c.rule != "" {
			wantBreach(t, what, c.rule, err)
			continue
		} else if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		alice := newMember(t, 1, "alice", mls.DefaultConfig)
		alice.create("group", nil)
		party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{m.add()}}, m).talk(t)
		leaf, err := m.g().OwnLeafNode(t.Context(), m.env())
		if data, found := leaf.Extensions.Find(0xF001); err != nil || found != (what == "in both") || found && string(data) != "two" {
			t.Errorf("%s: the leaf has %q", what, data)
		}
	}
	m := newMember(t, 1, "zoe", mls.DefaultConfig)
	b, err := mls.NewKeyPackage(t.Context(), mls.KeyPackageParams{
		Suite: m.suite, Signer: m.signer(), Credential: core.BasicCredential("zoe"), Capabilities: m.capabilities(),
		Lifetime: mls.NoLifetime, LastResort: true, Grease: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if !b.KeyPackage.IsLastResort() || len(b.KeyPackage.Extensions) != 2 {
		t.Errorf("extensions %v", b.KeyPackage.Extensions)
	}
	for _, e := range b.KeyPackage.Extensions {
		if !slices.Contains(b.KeyPackage.LeafNode.Capabilities.Extensions, e.Type) {
			t.Errorf("extension 0x%04X is not listed", e.Type)
		}
	}
}
