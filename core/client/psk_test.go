// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// The resumption key of a conversation that the transaction does not hold comes
// from a value of its own: another transaction may wipe the cached one meanwhile.
func TestResumptionKeyOfAnother(t *testing.T) {
	wrapper, err := seal.RawKey(core.NewSecret(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	store, err := seal.Open(t.Context(), memory.New(), wrapper, "test")
	if err != nil {
		t.Fatal(err)
	}
	p := pure.New()
	c, err := client.Open(t.Context(), client.Config{Store: store, Suites: p, Keys: p})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	err = c.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.InitMLS(ctx, "alice", core.SuiteX25519AES128Ed25519); err != nil {
			return err
		}
		_, err := tx.NewConversation(ctx, "a", client.ConversationConfig{Suite: core.SuiteX25519AES128Ed25519})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	key := func() core.Secret {
		tx, err := c.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Abort(t.Context()) }()
		s, err := client.ResumptionPSK(t.Context(), tx, "a", 0)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := key()
	client.SpoilCache(c, "a")
	if !key().Equal(before) {
		t.Error("the key was read from a value that another transaction has wiped")
	}
}
