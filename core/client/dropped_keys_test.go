// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// named tells how many keys the credentials of a client name.
func (w *world) named(d *clienttest.Device) int {
	w.Helper()
	keys := map[string]bool{}
	for _, c := range w.credentials(d, client.CredentialFilter{}) {
		keys[string(c.SignatureKey)] = true
	}
	return len(keys)
}

// A key goes with the last credential that has it, from the token too, and not before.
func TestKeyGoesWithTheLastCredential(t *testing.T) {
	t.Parallel()
	tok := newToken()
	for name, cfg := range map[string]client.Config{
		"software": {Keys: pure.New()},
		"token":    {Keys: tok},
		"token, no longer for new keys": {Keys: &core.KeyRouter{
			Default: pure.New(), Providers: map[string]core.CryptoProvider{"token": tok, "pure": pure.New()},
		}},
	} {
		w := newWorld(t, clienttest.Options{})
		cfg.Suites, cfg.Authenticator = pure.New(), certified{}
		first := cfg
		first.Keys = tok
		if name == "software" {
			first = cfg
		}
		before, ks := tok.count(), memory.New()
		alice := w.deviceOn("alice", ks, first)
		own := w.newCredential(alice, suite1, 1)
		w.must(alice.Close(t.Context()))
		alice = clienttest.NewDevice(t, w.service, "alice", ks, cfg)
		w.remove(alice, nil, own.Ref-1)
		w.do(alice, newChat(chat, own.Ref))
		w.in(alice, update) // the key that is shared signs
		w.in(alice, func(ctx context.Context, c *client.Conversation) error { return c.Wipe(ctx) })
		held := tok.count()
		w.try(alice, errAbort, func(ctx context.Context, tx *client.Transaction) error {
			return errors.Join(tx.RemoveCredential(ctx, own.Ref), errAbort)
		})
		if tok.count() != held || w.named(alice) != 2 {
			t.Errorf("%s: an aborted removal took a key", name)
		}
		w.remove(alice, nil, own.Ref)
		w.remove(alice, nil, 1)
		if n := tok.count(); n != before || w.named(alice) != 0 {
			t.Errorf("%s: %d keys are left", name, n-before)
		}
		// Made and removed in one transaction, with no credential at the start.
		w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.NewCredential(ctx, suite1)
			return errors.Join(err, tx.RemoveCredential(ctx, c.Ref))
		})
		if n := tok.count(); n != before {
			t.Errorf("%s: %d keys are left", name, n-before)
		}
	}
}

// Two credentials that share a key are removed by two processes at the same time:
// one of them sees that it is the last.
func TestLastCredentialsOfAKeyRemoved(t *testing.T) {
	t.Parallel()
	tok, ks := newToken(), memory.New()
	cfg := client.Config{Suites: pure.New(), Keys: tok, Authenticator: certified{}}
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", ks, cfg)
	own := w.newCredential(alice, suite1, 1)
	other := clienttest.NewDevice(t, w.service, "alice", ks, cfg)
	tx, err := other.Begin(t.Context())
	w.must(err)
	defer func() { _ = tx.Abort(context.Background()) }()
	w.must(tx.RemoveCredential(t.Context(), own.Ref))
	w.remove(alice, nil, own.Ref-1)
	if err := tx.Finish(t.Context()); !errors.Is(err, core.ErrConflict) {
		t.Errorf("both were removed, and nobody saw the last: %v", err)
	}
	w.remove(other, nil, own.Ref)
	if tok.count() != 1 {
		t.Errorf("%d keys, want 1", tok.count())
	}
}

// stuck is a token that cannot delete while it is told so.
type stuck struct {
	*token
	now atomic.Bool
}

func (s *stuck) DeleteKey(ctx context.Context, ref core.KeyRef) error {
	if s.now.Load() {
		return core.ErrUnavailable
	}
	return s.token.DeleteKey(ctx, ref)
}

// What a token could not delete then is deleted at the next start.
func TestKeyDeletedLater(t *testing.T) {
	t.Parallel()
	tok, ks := &stuck{token: newToken()}, memory.New()
	cfg := client.Config{Suites: pure.New(), Keys: tok}
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", ks, cfg)
	tok.now.Store(true)
	w.remove(alice, nil, 1)
	w.must(alice.Close(t.Context()))
	alice = clienttest.NewDevice(t, w.service, "alice", ks, cfg)
	if tok.count() != 1 {
		t.Fatal("the token was to fail")
	}
	w.must(alice.Close(t.Context()))
	tok.now.Store(false)
	clienttest.NewDevice(t, w.service, "alice", ks, cfg)
	if tok.count() != 0 {
		t.Errorf("%d keys are left", tok.count())
	}
}

// TestKeysOutsideTheStoreRemoved: whatever fails, and wherever the process ends, while
// credentials are made, shared and removed: after the next start the token holds
// exactly the keys that the store names.
func TestKeysOutsideTheStoreRemoved(t *testing.T) {
	t.Parallel()
	happened := map[string]bool{}
	for fault := coretest.FaultNone; fault <= coretest.FaultTooLate; fault++ {
		for n := 1; n < 14; n++ {
			for _, dies := range []bool{false, true} {
				tok, ks := newToken(), memory.New()
				cfg := client.Config{Suites: pure.New(), Keys: tok, Authenticator: certified{}}
				w := newWorld(t, clienttest.Options{})
				alice := w.deviceOn("alice", ks, cfg)
				own := w.newCredential(alice, suite1, 1) // 2 and 3 share a key
				w.newCredential(alice, suite2, 0)
				w.must(alice.Close(t.Context()))

				dead := new(bool)
				faulty := &coretest.Faulty{Keystore: ks}
				alice = clienttest.NewDevice(t, w.service, "alice", grave{faulty, dead}, cfg)
				ran := faulty.Applies()
				faulty.Plan = func(i int, _ core.Batch) coretest.Fault {
					if i != ran+n {
						return coretest.FaultNone
					}
					*dead = dies
					return fault
				}
				for _, f := range []step{
					func(ctx context.Context, tx *client.Transaction) error { return tx.RemoveCredential(ctx, own.Ref-1) },
					func(ctx context.Context, tx *client.Transaction) error { return tx.RemoveCredential(ctx, own.Ref) },
					func(ctx context.Context, tx *client.Transaction) error {
						c, err := tx.NewCredential(ctx, suite1)
						return errors.Join(err, tx.RemoveCredential(ctx, 4), tx.RemoveCredential(ctx, c.Ref))
					},
				} {
					_ = alice.Transaction(t.Context(), f)
				}
				faulty.Land(t.Context())

				alice = clienttest.NewDevice(t, w.service, "alice", ks, cfg)
				if tok.count() != w.named(alice) {
					t.Fatalf("%v at %d, dies %v: the token holds %d keys, the store names %d", fault, n, dies, tok.count(), w.named(alice))
				}
				happened[fmt.Sprint(len(w.credentials(alice, client.CredentialFilter{})))] = true
				w.create(alice)
				w.in(alice, update)
			}
		}
	}
	if len(happened) < 4 {
		t.Errorf("too little happened: %v", happened)
	}
}
