// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// fill gives a device something in as many tables as it can.
func fill(w *world, d, other *clienttest.Device) {
	w.Helper()
	w.create(other)
	w.add(other, d)
	w.keyPackage(d)
	w.do(d, func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.SetPSK(ctx, []byte("psk"), core.NewSecret([]byte("secret"))); err != nil {
			return err
		}
		_, err := tx.NewLastResortKeyPackage(ctx, suite1, core.CredentialBasic)
		return errors.Join(err, tx.SetData(ctx, []byte("data")))
	})
	n := len(w.service.Log(chat))
	w.update(other)
	w.send(other, "of the next epoch")
	if _, err := w.give(d, w.since(n)[1]); err != nil {
		w.Fatal(err)
	}
	d.SetTransport(nil)
	w.send(d, "waits")
	undo := errors.New("undo")
	if err := in(w.Context(), d, func(ctx context.Context, c *client.Conversation) error { // floors
		_, err := c.Encrypt(ctx, []byte("x"), nil)
		return errors.Join(err, undo)
	}); !errors.Is(err, undo) {
		w.Fatal(err)
	}
}

// Nothing is left of a client that is wiped, in its store or in its token, and another
// client's records beside it are as they were.
func TestWipeClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks, keys := &coretest.Faulty{Keystore: memory.New()}, newToken()
	cfg := config()
	cfg.Keys = &core.KeyRouter{Default: keys, Providers: map[string]core.CryptoProvider{"token": keys, "pure": pure.New()}}
	alice, bob := w.device("alice"), w.deviceOn("bob", ks, cfg)
	fill(w, bob, alice)
	if _, n := w.rows(ks); n < 20 || keys.count() == 0 {
		t.Fatalf("%d rows, %d keys", n, keys.count())
	}
	err := bob.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error { return bob.Wipe(ctx) })
	if !errors.Is(err, client.ErrNestedTransaction) {
		t.Errorf("in a transaction: %v", err)
	}
	// It waits, and if it cannot wait any longer nothing has happened.
	tx, err := bob.Begin(t.Context())
	w.must(err)
	before := snapshot(t, ks.Keystore)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := bob.Wipe(ctx); !errors.Is(err, context.DeadlineExceeded) || !same(before, snapshot(t, ks.Keystore)) || keys.count() == 0 {
		t.Errorf("while a transaction is open: %v", err)
	}
	w.must(tx.SetData(t.Context(), []byte("other data")))
	w.must(tx.Finish(t.Context()))
	w.must(bob.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error { return tx.SetData(ctx, nil) }))

	tx, err = bob.Begin(t.Context())
	w.must(err)
	go func() {
		time.Sleep(20 * time.Millisecond)
		_ = tx.Abort(context.Background())
	}()
	w.must(bob.Wipe(t.Context()))
	if rows, n := w.rows(ks); n > 0 || keys.count() > 0 {
		t.Errorf("rows%s and %d keys are left", rows, keys.count())
	}
	left, err := ks.Read(t.Context(), []core.Query{{Table: 0}})
	if err != nil || len(left[0]) != 0 {
		t.Errorf("%d records of the seal are left, %v", len(left[0]), err)
	}
	if _, err := bob.Begin(t.Context()); !errors.Is(err, core.ErrClosed) {
		t.Errorf("begin: %v", err)
	}
	w.must(errors.Join(bob.Wipe(t.Context()), bob.Close(t.Context()), bob.Wipe(t.Context())))
	w.must(alice.Close(t.Context()))
	if err := alice.Wipe(t.Context()); !errors.Is(err, core.ErrClosed) {
		t.Errorf("of a client that is closed: %v", err)
	}
}

// Whatever fails, the client can be wiped after it, and until then nothing is missing
// but keys.
func TestWipeClientFails(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		w := newWorld(t, clienttest.Options{})
		ks, keys := &coretest.Faulty{Keystore: memory.New()}, newToken()
		cfg := config()
		cfg.Keys = keys
		bob := w.deviceOn("bob", ks, cfg)
		w.create(bob)
		before := snapshot(t, ks.Keystore)
		reads := 0
		ks.PlanRead = func(int) bool { reads++; return reads == n }
		err := bob.Wipe(t.Context())
		ks.PlanRead = nil
		if err == nil {
			if reads < 2 {
				t.Errorf("after %d reads", reads)
			}
			break
		}
		if !errors.Is(err, core.ErrUnavailable) || !same(before, snapshot(t, ks.Keystore)) {
			t.Fatalf("read %d: %v", n, err)
		}
		w.must(bob.Wipe(t.Context()))
		if rows, left := w.rows(ks); left > 0 || keys.count() > 0 {
			t.Errorf("rows%s and %d keys are left", rows, keys.count())
		}
	}
}

func wrapperOf(t testing.TB, b byte) core.KeyWrapper {
	t.Helper()
	k, err := seal.RawKey(core.NewSecret(bytes.Repeat([]byte{b}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The key of the store is replaced while the client is at work; a wrong one changes
// nothing.
func TestUpdateKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.deviceOn("alice", ks, config())
	w.create(alice)
	tx, err := alice.Begin(t.Context())
	w.must(err)
	if err := alice.UpdateKey(t.Context(), wrapperOf(t, 1), wrapperOf(t, 2)); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("with a wrong key: %v", err)
	}
	w.must(alice.UpdateKey(t.Context(), wrapperOf(t, 0), wrapperOf(t, 2)))
	w.must(tx.SetData(t.Context(), []byte("after")))
	w.must(tx.Finish(t.Context()))
	w.must(alice.Close(t.Context()))
	if _, err := seal.Open(t.Context(), ks, wrapperOf(t, 0), "device"); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("opened with the key of before: %v", err)
	}
	store, err := seal.Open(t.Context(), ks, wrapperOf(t, 2), "device")
	w.must(err)
	cfg := config()
	cfg.Store = store
	again, err := client.Open(t.Context(), cfg)
	w.must(err)
	data, _, err := again.Data(t.Context())
	if epoch, epochErr := again.View(chat).Epoch(t.Context()); err != nil || epochErr != nil || epoch != 0 || string(data) != "after" {
		t.Errorf("%q, %v; epoch %d, %v", data, err, epoch, epochErr)
	}
	w.must(again.Close(t.Context()))
	if err := again.UpdateKey(t.Context(), wrapperOf(t, 2), wrapperOf(t, 0)); !errors.Is(err, core.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func ExampleClient_UpdateKey() {
	ctx := context.Background()
	keystore, before, after := memory.New(), core.NewSecret(client.RandomBytes(32)), core.NewSecret(client.RandomBytes(32))
	from, err := seal.RawKey(before)
	check(err)
	to, err := seal.RawKey(after)
	check(err)
	store, err := seal.Open(ctx, keystore, from, "alice")
	check(err)
	c, err := client.Open(ctx, client.Config{Store: store, Suites: pure.New(), Keys: pure.New()})
	check(err)
	check(c.UpdateKey(ctx, from, to))
	check(c.Close(ctx))

	_, err = seal.Open(ctx, keystore, from, "alice")
	fmt.Println("the key of before is wrong now:", errors.Is(err, core.ErrWrongKey))
	store, err = seal.Open(ctx, keystore, to, "alice")
	check(err)
	c, err = client.Open(ctx, client.Config{Store: store, Suites: pure.New(), Keys: pure.New()})
	check(err)
	check(c.Wipe(ctx))
	// Output: the key of before is wrong now: true
}
