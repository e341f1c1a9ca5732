// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
)

// A signature key is replaced: a new credential is taken into use in a conversation,
// and the old one goes, with its key, when nothing uses it any more.
func ExampleTransaction_RemoveCredential() {
	ctx := context.Background()
	alice, _ := person(ctx, clienttest.NewService(clienttest.Options{}), "alice")
	suite := core.SuiteX25519AES128Ed25519
	check(alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, "tea", client.ConversationConfig{Suite: suite})
		return err
	}))
	old, err := alice.Credential(ctx, "tea")
	check(err)

	remove := func(ctx context.Context, tx *client.Transaction) error { return tx.RemoveCredential(ctx, old.Ref) }
	err = alice.Transaction(ctx, remove)
	fmt.Println("in use:", errors.Is(err, client.ErrCredentialInUse))

	check(alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		fresh, err := tx.NewCredential(ctx, suite)
		if err != nil {
			return err
		}
		c, err := tx.Conversation(ctx, "tea")
		if err != nil {
			return err
		}
		_, err = c.SetCredential(ctx, fresh.Ref) // a commit: the members learn of the key
		return err
	}))
	check(alice.Transaction(ctx, remove))

	list, err := alice.Credentials(ctx, client.CredentialFilter{Suite: suite})
	check(err)
	inUse, err := alice.Credential(ctx, "tea")
	check(err)
	fmt.Println("left:", len(list), "the one in use:", list[0].Ref == inUse.Ref)
	// Output:
	// in use: true
	// left: 1 the one in use: true
}
