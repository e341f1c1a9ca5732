// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"context"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// aliceAndBob share a group, in which Bob holds an external PSK that Alice lacks.
func aliceAndBob(t *testing.T) (alice, bob *member) {
	t.Helper()
	alice, bob = newMember(t, 1, "alice", mls.DefaultConfig), newMember(t, 1, "bob", mls.DefaultConfig)
	alice.create("group", nil)
	bundle, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}})
	if err != nil {
		t.Fatal(err)
	}
	alice.merge()
	if err := bob.join(bundle.Welcome); err != nil {
		t.Fatal(err)
	}
	bob.psks["bob's"] = []byte("secret")
	return alice, bob
}

// propose sends a proposal of one to the other.
func propose(t *testing.T, from, to *member, p mls.Proposal) {
	t.Helper()
	message, err := from.propose(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.process(message); err != nil {
		t.Fatal(err)
	}
}

// keyPackageWith is a key package with a credential type that nobody else knows.
func keyPackageWith(t *testing.T, m *member, credential core.Credential) *mls.KeyPackage {
	t.Helper()
	capabilities := m.capabilities()
	capabilities.Credentials = append(capabilities.Credentials, credential.Type)
	b, err := mls.NewKeyPackage(t.Context(), mls.KeyPackageParams{
		Suite: m.suite, Signer: m.signer(), Credential: credential, Capabilities: capabilities, Lifetime: mls.NoLifetime,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.KeyPackage
}

// PRP-3: a proposal that cannot be committed waits in vain, and keeps nobody from
// committing the others.
func TestUnfitProposalsAreLeftOut(t *testing.T) {
	t.Parallel()
	alice, bob := aliceAndBob(t)
	carol, dave := newMember(t, 1, "carol", mls.DefaultConfig), newMember(t, 1, "dave", mls.DefaultConfig)
	propose(t, bob, alice, &mls.GroupContextExtensions{Extensions: mls.Extensions{{Type: 0xF123}}}) // LEAF-8
	propose(t, bob, alice, bob.g().NewExternalPSK([]byte("bob's")))                                 // PSK-4
	propose(t, bob, alice, &mls.Add{KeyPackage: keyPackageWith(t, carol, core.Credential{Type: 0xF000, Opaque: []byte("carol")})})
	propose(t, bob, alice, &mls.Add{KeyPackage: dave.keyPackage()})
	bundle, err := alice.commit(mls.CommitParams{})
	if err != nil {
		t.Fatal(err)
	}
	result := alice.merge()
	if len(result.Proposals) != 1 || len(result.Added) != 1 || len(result.Unused) != 3 {
		t.Errorf("%d proposals, %d unused", len(result.Proposals), len(result.Unused))
	}
	if _, err := bob.process(bundle.Commit); err != nil {
		t.Fatal(err)
	}
	if err := dave.join(bundle.Welcome); err != nil {
		t.Fatal(err)
	}
	party{alice, bob, dave}.agree(t)
}

// What is asked for by value is not left out silently.
func TestUnfitByValueIsRefused(t *testing.T) {
	t.Parallel()
	alice, bob := aliceAndBob(t)
	var rule *mls.RuleError
	_, err := bob.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.GroupContextExtensions{Extensions: mls.Extensions{{Type: 0xF123}}}}})
	if !errors.As(err, &rule) || rule.Rule != "LEAF-8" {
		t.Errorf("extension: %v", err)
	}
	_, err = alice.commit(mls.CommitParams{Proposals: []mls.Proposal{alice.g().NewExternalPSK([]byte("bob's"))}})
	if !errors.Is(err, mls.ErrMissingPSK) || !errors.Is(err, core.ErrNotFound) {
		t.Errorf("PSK: %v", err)
	}
}

// A store that cannot answer is not a key that is missing.
func TestPSKStoreFails(t *testing.T) {
	t.Parallel()
	alice, _ := aliceAndBob(t)
	env := alice.env()
	env.PSK = func(context.Context, mls.PreSharedKeyID) (core.Secret, error) {
		return core.Secret{}, core.ErrUnavailable
	}
	_, _, _, err := alice.g().Commit(t.Context(), env, mls.CommitParams{Proposals: []mls.Proposal{alice.g().NewExternalPSK([]byte("x"))}})
	if !errors.Is(err, core.ErrUnavailable) || errors.Is(err, mls.ErrMissingPSK) {
		t.Errorf("%v", err)
	}
}
