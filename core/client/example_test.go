// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"log"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// person opens a client with an identity, connected to a delivery service.
func person(ctx context.Context, service *clienttest.Service, id core.ClientID) (*client.Client, *clienttest.Link) {
	wrapper, err := seal.RawKey(core.NewSecret(client.RandomBytes(32)))
	check(err)
	store, err := seal.Open(ctx, memory.New(), wrapper, "example")
	check(err)
	link := &clienttest.Link{Service: service, ID: id}
	c, err := client.Open(ctx, client.Config{Store: store, Suites: pure.New(), Keys: pure.New(), Transport: link})
	check(err)
	link.Receive = func(ctx context.Context, id core.ConversationID, message []byte) error {
		return c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			received, err := tx.DecryptMessage(ctx, id, message)
			if text, ok := received.(*client.Text); ok {
				fmt.Printf("%s: %s\n", text.Sender, text.Data)
			}
			return err
		})
	}
	check(c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		return tx.InitMLS(ctx, id, core.SuiteX25519AES128Ed25519)
	}))
	return c, link
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func Example() {
	ctx := context.Background()
	service := clienttest.NewService(clienttest.Options{})
	alice, _ := person(ctx, service, "alice")
	bob, fromAlice := person(ctx, service, "bob")

	var keyPackage []byte // which bob publishes
	check(bob.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		k, err := tx.NewKeyPackages(ctx, core.SuiteX25519AES128Ed25519, core.CredentialBasic, 1)
		if err == nil {
			keyPackage = k[0].Message
		}
		return err
	}))
	check(alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.NewConversation(ctx, "tea", client.ConversationConfig{})
		if err != nil {
			return err
		}
		if _, err := c.AddMembers(ctx, keyPackage); err != nil {
			return err
		}
		_, err = c.Send(ctx, []byte("hello, bob"), nil)
		return err
	}))
	welcome, _ := service.Welcome("bob")
	check(bob.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.ProcessWelcome(ctx, welcome.Message, client.JoinConfig{})
		return err
	}))
	check(fromAlice.Drain(ctx, "tea"))
	// Output: alice: hello, bob
}
