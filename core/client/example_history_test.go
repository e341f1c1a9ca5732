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

// Alice shares the history of a conversation, Bob keeps the secret, and somebody to whom
// he gives it reads what was said.
func ExampleOpenHistory() {
	check := func(err error) {
		if err != nil {
			log.Fatal(err)
		}
	}
	clienttest.Run(func(t clienttest.TB) {
		pair := clienttest.NewConversation(t, pure.New(), memory.New, "tea", "alice", "bob")
		alice, bob := pair[0], pair[1]
		check(alice.In(t.Context(), "tea", func(ctx context.Context, c *client.Conversation) error {
			_, err := c.EnableHistorySharing(ctx)
			return err
		}))
		alice.Say(t, "tea", "Tea is ready.")
		texts := bob.Hear(t, "tea") // the secret is the first
		secret, err := client.ParseHistorySecret(pure.New(), []byte(texts[0]))
		check(err)
		check(bob.View("tea").CheckHistorySecret(t.Context(), secret))
		bob.Say(t, "tea", "Coming!")

		wrapper, err := seal.RawKey(core.NewSecret(client.RandomBytes(32)))
		check(err)
		store, err := seal.Open(t.Context(), memory.New(), wrapper, "history")
		check(err)
		reader, err := client.OpenHistory(t.Context(), client.Config{Store: store, Suites: pure.New()}, secret)
		check(err)
		service := bob.Link.Service // has kept the Welcome and the messages
		check(reader.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			welcome, _ := service.Welcome(secret.ClientID)
			c, err := tx.ProcessWelcome(ctx, welcome.Message, client.JoinConfig{})
			for err == nil {
				number, message, err := service.Next(secret.ClientID, c.ID())
				if err != nil || number == 0 {
					return err
				}
				service.Ack(secret.ClientID, c.ID(), number)
				received, err := c.DecryptMessage(ctx, message)
				if err != nil {
					return err
				}
				if text, ok := received.(*client.Text); ok && string(text.Data) != texts[0] {
					fmt.Printf("%s: %s\n", text.Sender, text.Data)
				}
			}
			return err
		}))
		check(reader.Close(t.Context()))
	})
	// Output:
	// alice: Tea is ready.
	// bob: Coming!
}
