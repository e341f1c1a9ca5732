// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

const (
	suite2 = core.SuiteP256AES128P256
	suite3 = core.SuiteX25519ChaChaEd25519
)

// stranger is a device without an identity.
func (w *world) stranger(ks core.Keystore, cfg client.Config) *clienttest.Device {
	w.Helper()
	d := clienttest.NewDevice(w, w.service, "alice", ks, cfg)
	w.devices = append(w.devices, d)
	return d
}

// try runs a transaction with one operation, whose error is wanted and who shall have
// changed nothing.
func (w *world) try(d *clienttest.Device, want error, f func(ctx context.Context, tx *client.Transaction) error) {
	w.Helper()
	if err := d.Transaction(w.Context(), f); !errors.Is(err, want) {
		w.Errorf("%v, want %v", err, want)
	}
}

// Suites that sign alike share a key; the configuration says how many key packages
// are made; a second identity is refused.
func TestInitMLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	cfg := config()
	cfg.InitialKeyPackages = 3
	alice := w.stranger(memory.New(), cfg)
	w.try(alice, client.ErrNotInitialized, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.ClientID(ctx)
		return err
	})
	w.try(alice, client.ErrNotInitialized, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewKeyPackages(ctx, suite1, 0, 1)
		return err
	})
	w.try(alice, client.ErrEmptyInput, func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "", suite1) })
	w.try(alice, client.ErrEmptyInput, func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "alice") })
	w.try(alice, core.ErrUnsupported, func(ctx context.Context, tx *client.Transaction) error {
		return tx.InitMLS(ctx, "alice", suite1, 0xfefe)
	})
	w.try(alice, errAbort, func(ctx context.Context, tx *client.Transaction) error {
		return errors.Join(tx.InitMLS(ctx, "mallory", suite1), errAbort)
	})
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		return tx.InitMLS(ctx, "alice", suite1, suite2, suite3, suite1)
	})
	w.try(alice, client.ErrInitialized, func(ctx context.Context, tx *client.Transaction) error {
		return tx.InitMLS(ctx, "alice", suite1)
	})
	list, err := alice.Credentials(t.Context(), client.CredentialFilter{})
	w.must(err)
	if len(list) != 2 {
		t.Errorf("%d credentials for two signature schemes", len(list))
	}
	id, err := alice.ClientID(t.Context())
	if err != nil || id != "alice" {
		t.Errorf("%q, %v", id, err)
	}
	for _, suite := range []core.SuiteID{suite1, suite2, suite3} {
		n, err := alice.CountKeyPackages(t.Context(), suite, 0)
		if err != nil || n != 3 {
			t.Errorf("suite %v: %d key packages, %v", suite, n, err)
		}
	}
	plain := w.device("bob")
	if n, err := plain.CountKeyPackages(t.Context(), suite1, 0); err != nil || n != 0 {
		t.Errorf("%d key packages unasked, %v", n, err)
	}
}

// generate makes keys that wait for a client id.
func (w *world) generate(d *clienttest.Device, suites ...core.SuiteID) (names []core.ClientID) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) (err error) {
		names, err = tx.GenerateKeypairs(ctx, suites...)
		return err
	})
	return names
}

// The reference keeps the temporary id as the identity and loses the keys.
func TestQuirkClientIDGivenLater(t *testing.T) {
	t.Parallel()
	tok, ks := newToken(), memory.New()
	cfg := client.Config{Suites: pure.New(), Keys: tok, InitialKeyPackages: 1}
	w := newWorld(t, clienttest.Options{})
	alice := w.stranger(ks, cfg)
	names := w.generate(alice, suite1, suite2, suite3)
	if len(names) != 2 || len(names[0]) != 16 || names[0] == names[1] || tok.count() != 2 {
		t.Fatalf("names %x of %d keys", names, tok.count())
	}
	w.must(alice.Close(t.Context()))
	alice = w.stranger(ks, cfg)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		return tx.InitMLSWithClientID(ctx, "alice", names, suite1, suite2, suite3)
	})
	w.must(alice.Close(t.Context()))
	alice = w.stranger(ks, cfg)
	if tok.count() != 2 {
		t.Fatalf("%d keys, want the two that were made", tok.count())
	}
	list, err := alice.Credentials(t.Context(), client.CredentialFilter{})
	w.must(err)
	for _, c := range list {
		if string(c.Credential.Identity) != "alice" {
			t.Errorf("identity %q", c.Credential.Identity)
		}
	}
	for _, suite := range []core.SuiteID{suite1, suite2, suite3} {
		if n, err := alice.CountKeyPackages(t.Context(), suite, 0); err != nil || n != 1 {
			t.Errorf("suite %v: %d key packages, %v", suite, n, err)
		}
		w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.NewConversation(ctx, core.ConversationID(suite.String()), client.ConversationConfig{Suite: suite})
			if err == nil {
				_, err = c.UpdateKeyMaterial(ctx) // the key signs
			}
			return err
		})
	}
	w.noKeyIsLeft(alice, tok)
}

func TestClientIDGivenLaterRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.stranger(memory.New(), config())
	later := func(want error, suites []core.SuiteID, names ...core.ClientID) {
		t.Helper()
		w.try(alice, want, func(ctx context.Context, tx *client.Transaction) error {
			return tx.InitMLSWithClientID(ctx, "alice", names, suites...)
		})
		if _, err := alice.ClientID(t.Context()); want != nil && want != client.ErrInitialized && !errors.Is(err, client.ErrNotInitialized) {
			t.Errorf("after %v: %v", want, err)
		}
	}
	both := []core.SuiteID{suite1, suite2}
	later(client.ErrNoProvisionalIdentity, both, "nobody")
	w.try(alice, client.ErrEmptyInput, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.GenerateKeypairs(ctx)
		return err
	})
	names := w.generate(alice, both...)
	later(client.ErrTooManyIdentities, both, names[0])
	later(client.ErrTooManyIdentities, both)
	later(client.ErrNoProvisionalIdentity, both, append(names, "another")...)
	later(client.ErrNoProvisionalIdentity, both, names[0], "another")
	later(client.ErrNoProvisionalIdentity, both, names[0], names[0])
	later(client.ErrNoProvisionalIdentity, []core.SuiteID{suite1, core.SuiteP384AES256P384}, names...)
	later(client.ErrEmptyInput, nil, names...)
	w.try(alice, client.ErrNotInitialized, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewCredential(ctx, suite1)
		return err
	})
	later(nil, both, names[1], names[0])
	later(client.ErrInitialized, both, names...)
	w.try(alice, client.ErrInitialized, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.GenerateKeypairs(ctx, suite1)
		return err
	})
}

// Keys that wait for an id that never comes go with another beginning.
func TestTemporaryKeysGo(t *testing.T) {
	t.Parallel()
	tok := newToken()
	w := newWorld(t, clienttest.Options{})
	alice := w.stranger(memory.New(), client.Config{Suites: pure.New(), Keys: tok})
	first := w.generate(alice, suite1)
	w.try(alice, errAbort, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.GenerateKeypairs(ctx, suite1)
		return errors.Join(err, errAbort)
	})
	second := w.generate(alice, suite1)
	if bytes.Equal([]byte(first[0]), []byte(second[0])) || tok.count() != 2 {
		t.Fatalf("%d keys", tok.count())
	}
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "alice", suite1) })
	if tok.count() != 1 {
		t.Errorf("%d keys, want that of the credential", tok.count())
	}
	w.noKeyIsLeft(alice, tok)
}
