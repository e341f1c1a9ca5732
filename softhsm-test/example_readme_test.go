// SPDX-License-Identifier: Apache-2.0

//go:build unix

package softhsmtest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/pure"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
	"github.com/conclave-mls/conclave/storage/memory"
)

// openWithToken opens a client with its signature keys in a token, and there the key, kek,
// that seals its keystore. Both are URIs. Who is done closes the client, the keystore and
// the token, in this order.
func openWithToken(ctx context.Context, uri, kek, latch string, keystore core.Keystore, service client.Transport) (*client.Client, *hsm.Token, error) {
	token, err := hsm.Open(ctx, hsm.Config{URI: uri, Latch: latch})
	if err != nil {
		return nil, nil, err
	}
	c, err := func() (*client.Client, error) {
		wrapper, err := token.Wrapper(ctx, kek)
		if err != nil {
			return nil, err
		}
		store, err := seal.Open(ctx, keystore, wrapper, "device")
		if err != nil {
			return nil, err
		}
		return client.Open(ctx, client.Config{Store: store, Suites: pure.New(), Keys: token.Provider(), Transport: service})
	}()
	if err != nil {
		return nil, nil, errors.Join(err, token.Close())
	}
	return c, token, nil
}

// The function above is that of the README.
func TestReadmeInGo(t *testing.T) {
	t.Parallel()
	k := softhsmtest.New(t)
	first, err := hsm.Open(t.Context(), hsm.Config{URI: k.URI()})
	if err != nil {
		t.Fatal(err)
	}
	kek, err := first.GenerateKEK(t.Context(), "kek", "")
	if err := errors.Join(err, first.Close()); err != nil {
		t.Fatal(err)
	}
	keystore := memory.New()
	link := &clienttest.Link{Service: clienttest.NewService(clienttest.Options{}), ID: "alice"}
	if _, _, err := openWithToken(t.Context(), k.URI(), "pkcs11:object=none", t.TempDir(), keystore, link); !errors.Is(err, hsm.ErrKeyNotFound) {
		t.Fatal(err)
	}
	c, token, err := openWithToken(t.Context(), k.URI(), kek, t.TempDir(), keystore, link)
	if err != nil {
		t.Fatal(err)
	}
	err = c.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.InitMLS(ctx, "alice", core.SuiteX25519AES128Ed25519); err != nil {
			return err
		}
		_, err := tx.NewConversation(ctx, "tea", client.ConversationConfig{})
		return err
	})
	if err := errors.Join(err, c.Close(t.Context()), keystore.Close(), token.Close()); err != nil {
		t.Fatal(err)
	}
}
