// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A token keeps its keys and lets nobody see them.
type token struct {
	mu   sync.Mutex
	pure *pure.Provider
	keys map[core.KeyRef]core.Signer

	deleting func() // called before a key is deleted
	making   func() // called before a key is made
}

// tokenKey signs and does not tell its material.
type tokenKey struct {
	core.Signer
	ref core.KeyRef
}

func (k tokenKey) Ref() core.KeyRef { return k.ref }

func newToken() *token { return &token{pure: pure.New(), keys: map[core.KeyRef]core.Signer{}} }

func (k *token) Algorithms(ctx context.Context) ([]core.KeyAlgorithm, error) {
	return k.pure.Algorithms(ctx)
}

func (k *token) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	if making := k.making; making != nil {
		k.making = nil
		making()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	ref := core.KeyRef(fmt.Sprintf("token:%x", spec.ID))
	if k.keys[ref] == nil {
		key, err := k.pure.GenerateKey(ctx, spec)
		if err != nil {
			return nil, err
		}
		k.keys[ref] = tokenKey{key.(core.Signer), ref}
	}
	return k.keys[ref], nil
}

func (k *token) OpenKey(_ context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !material.IsZero() {
		return nil, core.ErrInvalid
	}
	if key := k.keys[ref]; key != nil {
		return key, nil
	}
	return nil, core.ErrNotFound
}

func (k *token) DeleteKey(_ context.Context, ref core.KeyRef) error {
	if k.deleting != nil {
		k.deleting()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.keys, ref)
	return nil
}

func (k *token) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.keys)
}

// TestKeysOutsideTheStore: whatever fails, and wherever the process ends, after the
// next start the token holds exactly the keys that the store names.
func TestKeysOutsideTheStore(t *testing.T) {
	t.Parallel()
	for _, fault := range []coretest.Fault{coretest.FaultNone, coretest.FaultBefore, coretest.FaultLost, coretest.FaultApplied, coretest.FaultLate} {
		for n := 1; n < 12; n++ {
			for _, dies := range []bool{false, true} {
				tok, store := newToken(), memory.New()
				cfg := client.Config{Suites: pure.New(), Keys: tok}
				w := newWorld(t, clienttest.Options{})
				dead := new(bool)
				faulty := &coretest.Faulty{Keystore: store}
				alice := clienttest.NewDevice(t, w.service, "alice", grave{faulty, dead}, cfg)
				ran := faulty.Applies()
				faulty.Plan = func(i int, _ core.Batch) coretest.Fault {
					if i != ran+n {
						return coretest.FaultNone
					}
					*dead = dies
					return fault
				}
				_ = alice.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
					return tx.InitMLS(ctx, "alice", 1, 2)
				})
				_ = alice.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
					if _, err := tx.NewCredential(ctx, 1); err != nil {
						return err
					}
					return errAbort
				})
				faulty.Land(t.Context())

				alice = clienttest.NewDevice(t, w.service, "alice", store, cfg)
				var list []client.Credential
				w.do(alice, func(ctx context.Context, tx *client.Transaction) (err error) {
					list, err = tx.Credentials(ctx, client.CredentialFilter{})
					return err
				})
				if tok.count() != len(list) {
					t.Fatalf("%v at %d: the token holds %d keys, the store names %d", fault, n, tok.count(), len(list))
				}
				if len(list) > 0 {
					w.create(alice)
				}
			}
		}
	}
}

// noKeyIsLeft compares what a token holds with what the store names.
func (w *world) noKeyIsLeft(d *clienttest.Device, tok *token) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) error {
		list, err := tx.Credentials(ctx, client.CredentialFilter{})
		if len(list) != tok.count() {
			w.Errorf("the token holds %d keys, the store names %d", tok.count(), len(list))
		}
		return err
	})
}

// TestSweptWhileNamed: a process starts while another is about to name a key. The
// key is named or dying, never both.
func TestSweptWhileNamed(t *testing.T) {
	t.Parallel()
	tok, store := newToken(), memory.New()
	cfg := client.Config{Suites: pure.New(), Keys: tok}
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", store, cfg)
	tx, err := alice.Begin(t.Context())
	w.must(err)
	_, err = tx.NewCredential(t.Context(), suite1)
	w.must(err)
	finished := false
	tok.deleting = func() {
		tok.deleting = nil
		finished = true
		if err := tx.Finish(t.Context()); !errors.Is(err, core.ErrConflict) {
			t.Errorf("a dying key was named: %v", err)
		}
	}
	other := clienttest.NewDevice(t, w.service, "alice", store, cfg)
	if !finished {
		t.Fatal("nothing was swept")
	}
	w.noKeyIsLeft(other, tok)
}

// TestSweptBeforeMade: a process starts, and sweeps, between the journal and the key
// of another. The key that comes too late is not left behind.
func TestSweptBeforeMade(t *testing.T) {
	t.Parallel()
	tok, store := newToken(), memory.New()
	cfg := client.Config{Suites: pure.New(), Keys: tok}
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", store, cfg)
	tx, err := alice.Begin(t.Context())
	w.must(err)
	var other *clienttest.Device
	tok.making = func() { other = clienttest.NewDevice(t, w.service, "alice", store, cfg) }
	if _, err := tx.NewCredential(t.Context(), suite1); !errors.Is(err, core.ErrConflict) {
		t.Errorf("a swept key was made: %v", err)
	}
	w.must(tx.Abort(t.Context()))
	w.noKeyIsLeft(other, tok)
}

// TestSweepsMeet: several processes make keys and sweep at the same time.
func TestSweepsMeet(t *testing.T) {
	t.Parallel()
	tok, store := newToken(), memory.New()
	cfg := client.Config{Suites: pure.New(), Keys: &core.KeyRouter{Default: tok, Providers: map[string]core.CryptoProvider{"token": tok}}}
	w := newWorld(t, clienttest.Options{})
	first := w.deviceOn("alice", store, cfg)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			d, err := client.Open(t.Context(), func() client.Config { c := cfg; c.Store = openStore(t, store); return c }())
			if err != nil {
				t.Error(err)
				return
			}
			for range 5 {
				err := d.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
					_, err := tx.NewCredential(ctx, suite1)
					return err
				})
				if err != nil && !errors.Is(err, core.ErrConflict) {
					t.Error(err)
				}
			}
			if err := d.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	last := clienttest.NewDevice(t, w.service, "alice", store, cfg)
	w.do(last, func(ctx context.Context, tx *client.Transaction) error {
		list, err := tx.Credentials(ctx, client.CredentialFilter{})
		if len(list) < 2 || tok.count() != len(list) {
			t.Errorf("the token holds %d keys, the store names %d", tok.count(), len(list))
		}
		return err
	})
	w.create(first)
	w.in(first, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Rotate(ctx, core.CredentialBasic)
		return err
	})
}
