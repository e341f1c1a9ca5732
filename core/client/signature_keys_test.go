// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	signing  func() // called before the next signature
	trouble  error  // of each signature
	wrong    bool   // is each signature
}

// tokenKey signs and does not tell its material.
type tokenKey struct {
	core.Signer
	ref   core.KeyRef
	token *token
}

func (k tokenKey) Ref() core.KeyRef { return k.ref }

func (k tokenKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if signing := k.token.signing; signing != nil {
		k.token.signing = nil
		signing()
	}
	k.token.mu.Lock()
	err, wrong := k.token.trouble, k.token.wrong
	if err == nil && k.token.keys[k.ref] == nil {
		err = core.ErrNotFound
	}
	k.token.mu.Unlock()
	if err != nil {
		return nil, err
	}
	signature, err := k.Signer.Sign(ctx, message)
	if wrong && err == nil {
		signature[len(signature)-1] ^= 1
	}
	return signature, err
}

func (k *token) fails(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.trouble = err
}

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
		k.keys[ref] = tokenKey{key.(core.Signer), ref, k}
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

// TestOtherKeyOfTheName: a token was swapped for one that has another key of the same
// name. It signs nothing, and nothing is sent.
func TestOtherKeyOfTheName(t *testing.T) {
	t.Parallel()
	tok, other, store := newToken(), newToken(), memory.New()
	cfg := client.Config{Suites: pure.New(), Keys: tok}
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", store, cfg)
	w.create(alice)
	w.must(alice.Close(t.Context()))
	for ref, key := range tok.keys {
		another, err := other.pure.GenerateKey(t.Context(), core.KeySpec{Algorithm: key.Algorithm(), Use: core.UseSign})
		w.must(err)
		other.keys[ref] = tokenKey{another.(core.Signer), ref, other}
	}
	cfg.Keys = other
	counted := &coretest.Faulty{Keystore: store}
	swapped := clienttest.NewDevice(t, w.service, "alice", counted, cfg)
	before := counted.Applies()
	for range 2 { // it is not kept either
		err := in(t.Context(), swapped, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.Send(ctx, []byte("hello"), nil)
			return err
		})
		if !errors.Is(err, client.ErrOtherKey) {
			t.Fatalf("another key: %v", err)
		}
	}
	if counted.Applies() != before {
		t.Error("a message that was not signed was written")
	}
	w.must(swapped.Close(t.Context()))
	cfg.Keys = tok
	alice = clienttest.NewDevice(t, w.service, "alice", store, cfg)
	w.send(alice, "hello")
	w.in(alice, update)
}

// TestTroubleWithOurKey: a message that needs our signature key to be processed, because
// a proposal of ours is made again, is not to blame for what the key's provider says. It
// waits, and the proposal too.
func TestTroubleWithOurKey(t *testing.T) {
	t.Parallel()
	for _, trouble := range []error{
		core.ErrUnavailable, core.ErrDenied, core.ErrInvalid, core.ErrUnsupported, core.ErrNotFound, context.DeadlineExceeded,
	} {
		tok := newToken()
		w := newWorld(t, clienttest.Options{})
		alice := w.device("alice")
		bob := w.deviceOn("bob", memory.New(), client.Config{Suites: pure.New(), Keys: tok})
		w.create(alice)
		w.add(alice, bob)
		bob.Link.SetOffline(true)
		w.send(bob, "first")
		w.in(bob, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposeUpdate(ctx, 0)
			return err
		})
		w.in(alice, update)
		bob.Link.SetOffline(false)
		tok.fails(trouble)
		if err := bob.Link.Drain(t.Context(), chat); !errors.Is(err, trouble) || client.Blames(err) {
			t.Fatalf("%v: %v", trouble, err)
		}
		if errors.Is(trouble, core.ErrNotFound) {
			if err := bob.Link.Drain(t.Context(), chat); !errors.Is(err, client.ErrKeyGone) {
				t.Errorf("a key that is gone: %v", err)
			}
		}
		tok.fails(nil)
		w.must(bob.Link.Drain(t.Context(), chat))
		renewed := 0
		for _, r := range bob.Received() {
			if c, ok := r.(*client.CommitResult); ok {
				renewed += len(c.Renewed)
			}
		}
		w.must(bob.Settle(t.Context(), chat))
		w.reads(alice, "first")
		if errs := bob.Failed(); len(errs) > 0 || renewed != 1 {
			t.Errorf("%v: %d proposals renewed, messages that failed: %v", trouble, renewed, errs)
		}
		w.agree(alice, bob)
	}
}

// TestTokenAwayWhileRenewing: without a message of ours that waits, too, a commit waits
// for the token that a proposal of ours is renewed with.
func TestTokenAwayWhileRenewing(t *testing.T) {
	t.Parallel()
	tok := newToken()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	bob := w.deviceOn("bob", memory.New(), client.Config{Suites: pure.New(), Keys: tok})
	w.create(alice)
	w.add(alice, bob)
	bob.Link.SetOffline(true)
	w.in(bob, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.ProposeUpdate(ctx, 0)
		return err
	})
	w.in(alice, update)
	bob.Link.SetOffline(false)
	tok.fails(core.ErrUnavailable)
	if err := bob.Link.Drain(t.Context(), chat); !errors.Is(err, core.ErrUnavailable) {
		t.Fatalf("the token is away: %v", err)
	}
	tok.fails(nil)
	w.must(bob.Link.Drain(t.Context(), chat))
	for _, r := range bob.Received() {
		if c, ok := r.(*client.CommitResult); ok && len(c.Renewed) != 1 {
			t.Errorf("renewed: %+v", c)
		}
	}
}

// TestRotatedMeanwhile: another process has taken another key into use and deleted the
// one that this one knows. That is a conflict, and it goes on with the new key.
func TestRotatedMeanwhile(t *testing.T) {
	t.Parallel()
	tok, store := newToken(), memory.New()
	cfg := client.Config{Suites: pure.New(), Keys: tok}
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", store, cfg)
	w.create(alice)
	w.send(alice, "first")
	other := clienttest.NewDevice(t, w.service, "alice", store, cfg)
	tries := 0
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		if tries++; tries == 1 {
			old := w.credentials(other, client.CredentialFilter{})[0]
			w.fresh(other)
			w.in(other, rotate)
			w.remove(other, nil, old.Ref)
		}
		_, err := c.Send(ctx, []byte("second"), nil)
		if tries == 1 && !errors.Is(err, core.ErrConflict) {
			t.Errorf("the key that was deleted meanwhile: %v", err)
		}
		return err
	})
	w.noKeyIsLeft(alice, tok)
}

// TestStagedCommitWithoutKey: a commit that waits for its turn when the key is gone does
// not wait for ever.
func TestStagedCommitWithoutKey(t *testing.T) {
	t.Parallel()
	tok := newToken()
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", memory.New(), client.Config{Suites: pure.New(), Keys: tok})
	w.create(alice)
	tok.fails(core.ErrUnavailable)
	w.stage(alice, client.Changes{Update: true})
	if err := alice.Settle(t.Context(), chat); !errors.Is(err, core.ErrUnavailable) || len(eventsOf[client.CommitFailed](alice)) > 0 {
		t.Errorf("the token is away: %v", err)
	}
	tok.fails(core.ErrNotFound)
	err := alice.Settle(t.Context(), chat)
	if failed := eventsOf[client.CommitFailed](alice); len(failed) != 1 || !errors.Is(failed[0].Err, client.ErrKeyGone) {
		t.Errorf("the key is gone: %v, events %v", err, failed)
	}
}

// TestWrongSignature: what a token signs wrongly is not sent, and changes nothing.
func TestWrongSignature(t *testing.T) {
	t.Parallel()
	tok, store := newToken(), memory.New()
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", store, client.Config{Suites: pure.New(), Keys: tok})
	bob := w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	before, sent := snapshot(t, store), len(w.service.Log(chat))
	tok.wrong = true
	w.triesIn(alice, core.ErrUnavailable, update)
	w.triesIn(alice, core.ErrUnavailable, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Send(ctx, []byte("hello"), nil)
		return err
	})
	if len(w.service.Log(chat)) != sent || !same(before, snapshot(t, store)) {
		t.Error("something was sent or has changed")
	}
	tok.wrong = false
	w.in(alice, update)
	w.send(alice, "hello")
	if heard := bob.Hear(t, chat); !slices.Equal(heard, []string{"hello"}) {
		t.Errorf("bob hears %q", heard)
	}
}
