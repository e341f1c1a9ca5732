// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// openDevice opens a client on a file, sealed with a key of 32 bytes.
func openDevice(ctx context.Context, file string, key core.Secret, service client.Transport) (*client.Client, error) {
	keystore, err := sqlite.Open(ctx, file) // where state lives
	if err != nil {
		return nil, err
	}
	wrapper, err := seal.RawKey(key) // what seals it; or seal.Passphrase
	if err != nil {
		return nil, err
	}
	store, err := seal.Open(ctx, keystore, wrapper, "device")
	if err != nil {
		return nil, err
	}
	software := pure.New() // cipher suites, and where keys live
	return client.Open(ctx, client.Config{Store: store, Suites: software, Keys: software, Transport: service})
}

// invite makes an identity, and a conversation with whoever published the key package.
func invite(ctx context.Context, c *client.Client, keyPackage []byte) error {
	return c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.InitMLS(ctx, "alice", core.SuiteX25519AES128Ed25519); err != nil {
			return err
		}
		tea, err := tx.NewConversation(ctx, "tea", client.ConversationConfig{})
		if err != nil {
			return err
		}
		if _, err := tea.AddMembers(ctx, keyPackage); err != nil { // asks the delivery service
			return err
		}
		_, err = tea.Send(ctx, []byte("Tea is ready."), nil) // goes out once all of this is durable
		return err
	})
}

// receive takes a message as the delivery service hands it out.
func receive(ctx context.Context, c *client.Client, message []byte) error {
	err := c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		received, err := tx.DecryptMessage(ctx, "tea", message)
		switch r := received.(type) {
		case *client.Text:
			fmt.Printf("%s: %s\n", r.Sender, r.Data)
		case *client.CommitResult:
			fmt.Printf("epoch %d: %s added %v, removed %v\n", r.Epoch, r.Committer, r.Added, r.Removed)
		}
		return err
	})
	if client.Blames(err) { // it is our own, was seen before, or is good for nothing
		return nil
	}
	return err
}

// The functions above are those of the README.
func Example_readme() {
	clienttest.Run(func(t clienttest.TB) {
		ctx := t.Context()
		folder, err := os.MkdirTemp("", "example")
		check(err)
		t.Cleanup(func() { _ = os.RemoveAll(folder) })
		service := clienttest.NewService(clienttest.Options{})
		fromAlice := &clienttest.Link{Service: service, ID: "alice"}
		alice, err := openDevice(ctx, filepath.Join(folder, "alice.db"), core.NewSecret(client.RandomBytes(32)), fromAlice)
		check(err)
		fromAlice.Receive = func(ctx context.Context, _ core.ConversationID, message []byte) error {
			return receive(ctx, alice, message)
		}

		bob := clienttest.NewDevice(t, service, "bob", memory.New(), config())
		carol := clienttest.NewDevice(t, service, "carol", memory.New(), config())
		bob.Identify(t, suite1)
		carol.Identify(t, suite1)
		check(invite(ctx, alice, bob.KeyPackage(t, suite1)))
		fmt.Println(bob.Hear(t, "tea"))
		check(bob.In(ctx, "tea", func(ctx context.Context, c *client.Conversation) error {
			_, err := c.AddMembers(ctx, carol.KeyPackage(t, suite1))
			return err
		}))
		bob.Say(t, "tea", "Coming!")
		check(fromAlice.Drain(ctx, "tea"))
		check(alice.Close(ctx))
	})
	// Output:
	// [Tea is ready.]
	// epoch 2: bob added [carol], removed []
	// bob: Coming!
}
