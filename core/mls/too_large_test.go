// SPDX-License-Identifier: Apache-2.0

//go:build unix

package mls_test

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"unsafe"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// COD-2: what cannot be encoded is refused, wherever an application hands it over,
// and nothing has changed. The gigabyte is none: it is address space that nobody may
// read, so that a copy of it would end the test.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	huge, err := syscall.Mmap(-1, 0, vlbytes.MaxLength+1, syscall.PROT_NONE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(huge) })
	ctx := t.Context()
	alice, bob, _, p := threesome(t, mls.DefaultConfig, nil)
	able := mls.DefaultCapabilities(provider.Suites())
	able.Extensions = []mls.ExtensionType{0xF001}
	extensions := mls.Extensions{{Type: 0xF001, Data: huge}}
	credential := core.Credential{Type: core.CredentialBasic, Identity: huge}
	alice.able, alice.custom = listing(poll), customTypes()
	create := mls.CreateParams{
		Suite: alice.suite, GroupID: []byte("other"), Signer: alice.signer(), Credential: core.BasicCredential("alice"),
		Capabilities: able, Lifetime: mls.NoLifetime, Config: alice.config,
	}
	kp := mls.KeyPackageParams{
		Suite: alice.suite, Signer: alice.signer(), Credential: core.BasicCredential("alice"), Capabilities: able, Lifetime: mls.NoLifetime,
	}
	info, err := mls.UnmarshalMLSMessage(alice.groupInfo())
	if err != nil {
		t.Fatal(err)
	}
	without, err := alice.g().GroupInfo(ctx, alice.env(), mls.GroupInfoParams{OmitTree: true})
	if err != nil {
		t.Fatal(err)
	}
	bare, err := mls.UnmarshalMLSMessage(without)
	if err != nil {
		t.Fatal(err)
	}
	join := mls.ExternalParams{
		GroupInfo: info.GroupInfo, Signer: bob.signer(), Credential: core.BasicCredential("zoe"), Capabilities: able, Config: bob.config,
	}
	external := mls.ExternalProposalParams{
		Suite: 1, GroupID: []byte("group"), Sender: mls.Sender{Type: mls.SenderExternal}, Signer: bob.signer(), Proposal: &mls.Remove{},
	}
	large := bob.keyPackage()
	large.Extensions = extensions
	proposals := map[string]mls.Proposal{
		"add":        &mls.Add{KeyPackage: large},
		"psk":        &mls.PreSharedKey{PSK: mls.PreSharedKeyID{Type: mls.PSKExternal, ID: huge, Nonce: make([]byte, 32)}},
		"reinit":     &mls.ReInit{GroupID: huge, Version: mls.MLS10, Suite: 1},
		"extensions": &mls.GroupContextExtensions{Extensions: mls.Extensions{{Type: mls.ExtensionExternalSenders, Data: huge}}},
	}
	tries := map[string]func() error{
		"protect, data": func() error { _, _, _, err := alice.g().Protect(ctx, alice.env(), huge, nil); return err },
		"protect, additional data": func() error {
			_, _, _, err := alice.g().Protect(ctx, alice.env(), nil, huge)
			return err
		},
		"protect, both": func() error {
			_, _, _, err := alice.g().Protect(ctx, alice.env(), huge[:vlbytes.MaxLength/2+1], huge[:vlbytes.MaxLength/2+1])
			return err
		},
		"propose, additional data": func() error {
			_, _, _, err := alice.g().Propose(ctx, alice.env(), &mls.Remove{Removed: 1}, huge)
			return err
		},
		"update": func() error {
			_, _, _, err := alice.g().ProposeUpdate(ctx, alice.env(), mls.LeafParams{Extensions: &extensions, Capabilities: &able}, nil)
			return err
		},
		"commit, additional data": func() error { _, err := alice.commit(mls.CommitParams{AuthenticatedData: huge}); return err },
		"commit, leaf": func() error {
			_, err := alice.commit(mls.CommitParams{Leaf: mls.LeafParams{Extensions: &extensions, Capabilities: &able}})
			return err
		},
		"commit, credential": func() error {
			_, err := alice.commit(mls.CommitParams{Leaf: mls.LeafParams{Credential: &credential}})
			return err
		},
		"create, id": func() error { p := create; p.GroupID = huge; _, _, err := mls.Create(ctx, alice.env(), p); return err },
		"create, credential": func() error {
			p := create
			p.Credential = credential
			_, _, err := mls.Create(ctx, alice.env(), p)
			return err
		},
		"create, leaf": func() error {
			p := create
			p.LeafExtensions = extensions
			_, _, err := mls.Create(ctx, alice.env(), p)
			return err
		},
		"create, extensions": func() error {
			p := create
			p.Extensions = extensions
			_, _, err := mls.Create(ctx, alice.env(), p)
			return err
		},
		"branch": func() error {
			_, _, _, err := alice.g().Branch(ctx, alice.env(), mls.SuccessorParams{
				GroupID: huge, Signer: alice.signer(), Credential: core.BasicCredential("alice"), Capabilities: able, Lifetime: mls.NoLifetime,
			})
			return err
		},
		"key package, leaf":       func() error { p := kp; p.LeafExtensions = extensions; _, err := mls.NewKeyPackage(ctx, p); return err },
		"key package, credential": func() error { p := kp; p.Credential = credential; _, err := mls.NewKeyPackage(ctx, p); return err },
		"join, leaf": func() error {
			p := join
			p.LeafExtensions = extensions
			_, _, _, err := mls.JoinExternal(ctx, bob.env(), p)
			return err
		},
		"join, credential": func() error {
			p := join
			p.Credential = credential
			_, _, _, err := mls.JoinExternal(ctx, bob.env(), p)
			return err
		},
		"from outside, id": func() error {
			p := external
			p.GroupID = huge
			_, err := mls.ProposeExternal(ctx, alice.env(), p)
			return err
		},
		"from outside, data": func() error {
			p := external
			p.AuthenticatedData = huge
			_, err := mls.ProposeExternal(ctx, alice.env(), p)
			return err
		},
		"exporter, label": func() error { _, err := alice.g().Export(unsafe.String(&huge[0], len(huge)), nil, 32); return err },
		"message":         func() error { _, err := mls.UnmarshalMLSMessage(huge); return err },
		"tree":            func() error { _, err := mls.Observe(bob.env(), bare.GroupInfo, huge); return err },
	}
	env := alice.env()
	env.PSK = func(context.Context, mls.PreSharedKeyID) (core.Secret, error) {
		return core.NewSecret([]byte("psk")), nil
	}
	for name, proposal := range proposals {
		tries["propose, "+name] = func() error { _, _, _, err := alice.g().Propose(ctx, env, proposal, nil); return err }
		tries["commit, "+name] = func() error {
			_, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{proposal}})
			return err
		}
	}
	before := alice.stored.dump()
	for what, try := range tries {
		t.Log(what)
		if err := try(); !errors.Is(err, core.ErrTooLarge) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if alice.stored.dump() != before {
		t.Error("something has changed")
	}
	p.talk(t)
}

// A panic that is no length stays one.
func TestOtherPanics(t *testing.T) {
	t.Parallel()
	alice, _, _, _ := threesome(t, mls.DefaultConfig, nil)
	defer func() {
		if r := recover(); r != "of the application" {
			t.Errorf("recovered %v", r)
		}
	}()
	env := alice.env()
	env.Fetch = func(context.Context, []record.Query) ([][]record.Record, error) { panic("of the application") }
	_, _, _, _ = alice.g().Commit(t.Context(), env, mls.CommitParams{})
}
