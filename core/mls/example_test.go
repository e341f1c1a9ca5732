// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
	"github.com/conclave-mls/conclave/providers/pure"
)

// trusting is an Authenticator for an example: real ones ask who a person is.
type trusting struct{}

func (trusting) Validate(c core.Credential, _ []byte, _ time.Time, _ core.Purpose) (core.Identity, error) {
	return core.Identity{ClientID: core.ClientID(c.Identity)}, nil
}
func (trusting) Successor(core.Identity, core.Identity) error { return nil }

// Alice makes a group, adds Bob and writes to him. Every step returns the next
// value of the group and the WriteSet of what changed. Here both live in memory
// only; an application uses core/client, which stores before it sends.
func Example() {
	ctx, provider := context.Background(), pure.New()
	suite, err := provider.Suite(core.SuiteX25519AES128Ed25519)
	check(err)
	signer := func(name string) core.Signer {
		key, err := provider.GenerateKey(ctx, core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign, Label: name})
		check(err)
		return key.(core.Signer)
	}
	alice, bob := signer("alice"), signer("bob")
	env := func(own core.Signer) *mls.Env {
		return &mls.Env{
			Suites: provider,
			Auth:   trusting{},
			Signer: func(context.Context, []byte) (core.Signer, error) { return own, nil },
			Fetch: func(_ context.Context, queries []record.Query) ([][]record.Record, error) {
				return make([][]record.Record, len(queries)), nil // nothing is stored
			},
		}
	}
	able := mls.DefaultCapabilities(provider.Suites())

	// Bob publishes a key package and keeps its private half.
	bundle, err := mls.NewKeyPackage(ctx, mls.KeyPackageParams{
		Suite: suite, Signer: bob, Credential: core.BasicCredential("bob"), Capabilities: able, Lifetime: mls.NoLifetime,
	})
	check(err)

	// Alice adds him. The commit counts once the delivery service has accepted it.
	hers, _, err := mls.Create(ctx, env(alice), mls.CreateParams{
		Suite: suite, GroupID: []byte("garden"), Signer: alice, Credential: core.BasicCredential("alice"),
		Capabilities: able, Lifetime: mls.NoLifetime, Config: mls.DefaultConfig,
	})
	check(err)
	hers, pending, _, err := hers.Commit(ctx, env(alice), mls.CommitParams{
		Proposals: []mls.Proposal{&mls.Add{KeyPackage: bundle.KeyPackage}},
	})
	check(err)
	sent, err := pending.Bundle(ctx, env(alice), hers)
	check(err)
	hers, _, _, err = hers.Merge(ctx, env(alice), pending)
	check(err)

	// Bob joins by the Welcome.
	welcome, err := mls.UnmarshalMLSMessage(sent.Welcome)
	check(err)
	his, joined, _, err := mls.Join(ctx, env(bob), mls.JoinParams{
		Welcome: welcome.Welcome, Config: mls.DefaultConfig,
		KeyPackage: func(context.Context, []byte) (*mls.KeyPackageBundle, error) { return bundle, nil },
	})
	check(err)
	fmt.Printf("bob was invited by %s, and is in epoch %d\n", joined.Inviter.Credential.Identity, his.Epoch())

	_, message, _, err := hers.Protect(ctx, env(alice), []byte("the roses are out"), nil)
	check(err)
	received, err := mls.UnmarshalMLSMessage(message)
	check(err)
	_, processed, _, err := his.Process(ctx, env(bob), received)
	check(err)
	m := processed.(*mls.ApplicationMessage)
	fmt.Printf("%s: %s\n", m.Sender.Credential.Identity, m.Data)
	// Output:
	// bob was invited by alice, and is in epoch 1
	// alice: the roses are out
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
