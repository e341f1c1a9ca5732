// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
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

// register makes the identity of a device, once, and key packages by which others add it.
func register(ctx context.Context, c *client.Client, id core.ClientID) (keyPackages []client.KeyPackage, err error) {
	err = c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.InitMLS(ctx, id, core.SuiteX25519AES128Ed25519); err != nil {
			return err
		}
		keyPackages, err = tx.NewKeyPackages(ctx, core.SuiteX25519AES128Ed25519, core.CredentialBasic, 10)
		return err
	})
	return keyPackages, err // publish the Message of each; every one is for one conversation
}

// invite makes a conversation with whoever published the key package.
func invite(ctx context.Context, c *client.Client, keyPackage []byte) error {
	return c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
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

// join takes a Welcome: whoever published a key package was invited. After
// client.ErrConversationExists the messages are first, one of which removes us.
func join(ctx context.Context, c *client.Client, welcome []byte) error {
	return c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.ProcessWelcome(ctx, welcome, client.JoinConfig{})
		return err
	})
}

// receive takes a message as the delivery service hands it out. Welcomes come first:
// welcomes joins by those that wait.
func receive(ctx context.Context, c *client.Client, message []byte, welcomes func(context.Context) error) error {
	var received client.Received
	decrypt := func(ctx context.Context, tx *client.Transaction) (err error) {
		received, err = tx.DecryptMessage(ctx, "tea", message)
		return err
	}
	err := c.Transaction(ctx, decrypt)
	if errors.Is(err, client.ErrConversationNotFound) { // we are out, or the Welcome has just come
		if err := welcomes(ctx); err != nil {
			return err
		}
		err = c.Transaction(ctx, decrypt) // once more, and what it says now holds
	}
	if client.Blames(err) { // it is our own, was seen before, or is good for nothing
		return nil
	}
	if err != nil {
		return err // our side's: the message has to come again
	}
	for r, err := range client.All(received) { // it, and what was kept until it came
		switch r := r.(type) {
		case *client.Text:
			fmt.Printf("%s: %s\n", r.Sender, r.Data)
		case *client.CommitResult:
			fmt.Printf("epoch %d: %s added %v, removed %v\n", r.Epoch, r.Committer, r.Added, r.Removed)
		case *client.Buffered: // nothing to do: a later message brings it
			fmt.Printf("kept for epoch %d: %s\n", r.Epoch, r.Reason)
		case nil:
			fmt.Println("was kept in vain:", err)
		}
	}
	return nil
}

// The functions above are those of the README.
func Example_readme() {
	clienttest.Run(func(t clienttest.TB) {
		ctx := t.Context()
		folder, err := os.MkdirTemp("", "example")
		check(err)
		t.Cleanup(func() { _ = os.RemoveAll(folder) })
		service := clienttest.NewService(clienttest.Options{})
		device := func(id core.ClientID) (*client.Client, *clienttest.Link, []client.KeyPackage) {
			link := &clienttest.Link{Service: service, ID: id}
			c, err := openDevice(ctx, filepath.Join(folder, string(id)+".db"), core.NewSecret(client.RandomBytes(32)), link)
			check(err)
			t.Cleanup(func() { check(c.Close(context.WithoutCancel(ctx))) })
			keyPackages, err := register(ctx, c, id)
			check(err)
			welcomes := func(ctx context.Context) error {
				for {
					w, found := service.Welcome(id)
					if !found {
						return nil
					}
					if err := join(ctx, c, w.Message); err != nil {
						return err
					}
					service.TakeWelcome(id)
				}
			}
			link.Receive = func(ctx context.Context, _ core.ConversationID, message []byte) error {
				return receive(ctx, c, message, welcomes)
			}
			return c, link, keyPackages
		}
		alice, fromAlice, _ := device("alice")
		bob, fromBob, published := device("bob")
		check(invite(ctx, alice, published[0].Message))
		check(fromBob.Drain(ctx, "tea"))

		carol := clienttest.NewDevice(t, service, "carol", memory.New(), config())
		carol.Identify(t, suite1)
		check(bob.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			tea, err := tx.Conversation(ctx, "tea")
			check(err)
			_, err = tea.AddMembers(ctx, carol.KeyPackage(t, suite1))
			check(err)
			_, err = tea.Send(ctx, []byte("Coming!"), nil)
			return err
		}))
		log := service.Log("tea") // the text first, and then the commit that it is of
		check(receive(ctx, alice, log[len(log)-1], nil))
		check(fromAlice.Drain(ctx, "tea"))
	})
	// Output:
	// alice: Tea is ready.
	// kept for epoch 2: of the next epoch
	// epoch 2: bob added [carol], removed []
	// bob: Coming!
}
