// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// alone opens a client of its own, with an identity.
func alone(ctx context.Context, id core.ClientID, cfg client.Config) *client.Client {
	wrapper, err := seal.RawKey(core.NewSecret(client.RandomBytes(32)))
	check(err)
	cfg.Store, err = seal.Open(ctx, memory.New(), wrapper, "example")
	check(err)
	cfg.Suites, cfg.Keys = pure.New(), pure.New()
	c, err := client.Open(ctx, cfg)
	check(err)
	check(c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		return tx.InitMLS(ctx, id, core.SuiteX25519AES128Ed25519)
	}))
	return c
}

// An observer asks the client, which answers with what is durable.
func ExampleClient_Observe() {
	ctx := context.Background()
	alice := alone(ctx, "alice", client.Config{})
	stop := alice.Observe(func(e client.Event) {
		if e, ok := e.(client.EpochChanged); ok {
			members, err := alice.View(e.Conversation).ClientIDs(ctx)
			check(err)
			fmt.Println("epoch", e.Epoch, "of", e.Conversation, "with", members)
		}
	})
	defer stop()
	check(alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.NewConversation(ctx, "tea", client.ConversationConfig{})
		if err != nil {
			return err
		}
		inside, err := c.Exists(ctx)
		check(err)
		outside, err := alice.View("tea").Exists(ctx)
		fmt.Println("before the transaction is durable:", inside, outside)
		return err
	}))
	// Output:
	// before the transaction is durable: true false
	// epoch 0 of tea with [alice]
}

// Only clients of users who are in the conversation already may join by themselves.
func ExampleAdmission() {
	user := func(id core.ClientID) string { name, _, _ := strings.Cut(string(id), ":"); return name }
	admit := func(_ context.Context, a client.Admission) error {
		if a.How == client.AddedByMember {
			return nil
		}
		for _, member := range a.Members {
			if user(member) == user(a.Joiner.ClientID) {
				return nil
			}
		}
		return errors.New("no device of this user is here")
	}
	ctx := context.Background()
	alice := alone(ctx, "alice:phone", client.Config{Admit: admit})
	tell := func(f func(ctx context.Context, tx *client.Transaction) error) error {
		return alice.Transaction(ctx, f)
	}
	check(tell(func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, "tea", client.ConversationConfig{})
		return err
	}))
	for _, id := range []core.ClientID{"alice:tablet", "mallory:phone"} {
		var proposal []byte
		check(alone(ctx, id, client.Config{}).Transaction(ctx, func(ctx context.Context, tx *client.Transaction) (err error) {
			proposal, err = tx.NewExternalAddProposal(ctx, "tea", 0, client.KeyPackageOptions{})
			return err
		}))
		err := tell(func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.DecryptMessage(ctx, "tea", proposal)
			return err
		})
		fmt.Println(id, "is kept out:", errors.Is(err, client.ErrNotAdmitted))
	}
	// Output:
	// alice:tablet is kept out: false
	// mallory:phone is kept out: true
}
