// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// Two devices speak Proteus: for that a client needs no delivery service.
func ExampleTransaction_Proteus() {
	ctx := context.Background()
	device := func() *client.Client {
		wrapper, err := seal.RawKey(core.NewSecret(client.RandomBytes(32)))
		check(err)
		store, err := seal.Open(ctx, memory.New(), wrapper, "example")
		check(err)
		c, err := client.Open(ctx, client.Config{Store: store, Suites: pure.New(), Keys: pure.New()})
		check(err)
		return c
	}
	alice, bob := device(), device()

	var bundle []byte // which bob publishes
	check(bob.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		err := tx.Proteus().Init(ctx) // once
		if err == nil {
			_, bundle, err = tx.Proteus().NewPreKeyAuto(ctx)
		}
		return err
	}))
	var message []byte
	check(alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		err := errors.Join(tx.Proteus().Init(ctx), tx.Proteus().SessionFromPreKey(ctx, "bob", bundle))
		if err == nil {
			message, err = tx.Proteus().Encrypt(ctx, "bob", []byte("hello, bob"))
		}
		return err
	})) // now it is durable, and the message may be sent

	read := func() error {
		var plaintext []byte
		err := bob.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) (err error) {
			plaintext, err = tx.Proteus().DecryptSafe(ctx, "alice", message) // opens the session if there is none
			return err
		})
		if err == nil {
			fmt.Printf("alice: %s\n", plaintext)
		}
		return err
	}
	check(read())
	err := read() // it came twice
	var numbered *proteus.Error
	fmt.Println(errors.As(err, &numbered) && numbered.Code == proteus.CodeDuplicate, proteus.CodeOf(err), errors.Is(err, proteus.ErrDuplicateMessage))
	// Output:
	// alice: hello, bob
	// true 209 true
}
