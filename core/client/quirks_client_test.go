// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

// The reference takes a seed, and panics at one that is too short.
func quirkNoSeed(t *testing.T) {
	t.Parallel()
	config := reflect.TypeFor[client.Config]()
	for i := range config.NumField() {
		if name := strings.ToLower(config.Field(i).Name); strings.Contains(name, "seed") || strings.Contains(name, "entropy") {
			t.Errorf("Config.%s: whoever gives a seed can give a bad one", config.Field(i).Name)
		}
	}
	for n := range 70 {
		if b := client.RandomBytes(n); len(b) != n {
			t.Errorf("%d bytes, want %d", len(b), n)
		}
	}
}

// The reference can be seeded anew, with nothing, which is zeros.
func quirkSystemsRandom(t *testing.T) {
	want, zeros := make([]byte, 32), make([]byte, 32)
	cryptotest.SetGlobalRandom(t, 4)
	_, _ = rand.Read(want)
	cryptotest.SetGlobalRandom(t, 4)
	if got := client.RandomBytes(32); !bytes.Equal(got, want) {
		t.Errorf("%x is not what the system's generator gave, %x", got, want)
	}
	if got := client.RandomBytes(32); bytes.Equal(got, want) || bytes.Equal(got, zeros) {
		t.Errorf("%x", got)
	}
}

// A transaction that reads, writes and decrypts shows the client none of it.
func quirkDurableReads(t *testing.T) {
	t.Parallel()
	w, alice, bob, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
	n := len(w.service.Log(chat))
	w.update(bob)
	look := func() map[string]any {
		seen := all(t.Context(), alice.View(chat))
		data, _, err := alice.Data(t.Context())
		seen["data"] = string(data)
		w.must(err)
		list, err := alice.Credentials(t.Context(), client.CredentialFilter{})
		seen["credentials"] = len(list)
		w.must(err)
		seen["key packages"], err = alice.CountKeyPackages(t.Context(), suite1, core.CredentialBasic)
		w.must(err)
		key, err := alice.ClientPublicKey(t.Context(), suite1, core.CredentialBasic)
		seen["key"] = string(key)
		w.must(err)
		ids, err := alice.Conversations(t.Context())
		seen["conversations"] = len(ids)
		w.must(err)
		return seen
	}
	before := look()
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		if _, err := tx.DecryptMessage(ctx, chat, w.since(n)[0]); err != nil {
			return err
		}
		if _, err := tx.NewCredential(ctx, suite1); err != nil {
			return err
		}
		if _, err := tx.NewKeyPackages(ctx, suite1, core.CredentialBasic, 1); err != nil {
			return err
		}
		if _, err := tx.NewConversation(ctx, "another", client.ConversationConfig{}); err != nil {
			return err
		}
		if err := tx.SetData(ctx, []byte("data")); err != nil {
			return err
		}
		if got := changed(before, look()); got != nil {
			t.Errorf("the client sees a change of %v", got)
		}
		return nil
	})
	for _, what := range []string{"epoch", "secret", "data", "credentials", "key packages", "key", "conversations"} {
		if !slices.Contains(changed(before, look()), what) {
			t.Errorf("the client does not see a change of %s", what)
		}
	}
}

// Whatever the transaction held is free after a finish that failed.
func quirkFinishFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := &coretest.Faulty{Keystore: memory.New()}
	alice := w.deviceOn("alice", ks, config())
	w.create(alice)
	ks.Break()
	if err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
		return c.SetParent(ctx, chat)
	}); err == nil {
		t.Fatal("the store was broken")
	}
	ks.Mend()
	tx, err := alice.Begin(t.Context())
	w.must(err)
	c, err := tx.Conversation(t.Context(), chat)
	w.must(err)
	w.must(c.SetParent(t.Context(), chat))
	ks.Break()
	if err := tx.Finish(t.Context()); !errors.Is(err, core.ErrUnavailable) {
		t.Fatal(err)
	}
	ks.Mend()
	within(t, func() {
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			if parent, err := c.Parent(ctx); parent != "" || err != nil {
				t.Errorf("what failed is there: %q, %v", parent, err)
			}
			return nil
		})
	})
	// What was read is not taken, either.
	bob := w.device("bob")
	w.add(alice, bob)
	w.send(bob, "hello")
	tx, err = alice.Begin(t.Context())
	w.must(err)
	_, err = tx.DecryptMessage(t.Context(), chat, w.last())
	w.must(err)
	ks.Break()
	if err := tx.Finish(t.Context()); !errors.Is(err, core.ErrUnavailable) {
		t.Fatal(err)
	}
	ks.Mend()
	if text, ok := w.gives(alice, w.last()).(*client.Text); !ok || string(text.Data) != "hello" {
		t.Errorf("%+v", text)
	}
	within(t, func() { w.must(alice.Close(t.Context())) })
}

// poolOf lists the references of the key packages of a suite.
func (w *world) poolOf(d *clienttest.Device, suite core.SuiteID) (refs []string) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) error {
		list, err := tx.StoredKeyPackages(ctx)
		for _, k := range list {
			if k.Suite == suite {
				refs = append(refs, string(k.Ref))
			}
		}
		return err
	})
	return refs
}

// publish makes n key packages of a suite.
func (w *world) publish(d *clienttest.Device, suite core.SuiteID, n int) (refs []string) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) error {
		list, err := tx.NewKeyPackages(ctx, suite, core.CredentialBasic, n)
		for _, k := range list {
			refs = append(refs, string(k.Ref))
		}
		return err
	})
	return refs
}

// suites makes a device with an identity for several suites.
func (w *world) suites(id core.ClientID, list ...core.SuiteID) *clienttest.Device {
	w.Helper()
	d := clienttest.NewDevice(w, w.service, id, memory.New(), config())
	d.Identify(w, list...)
	w.devices = append(w.devices, d)
	return d
}

func quirkLimitAfterFilter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.suites("alice", 1, 2)
	want := w.publish(alice, 1, 3)
	w.publish(alice, 2, 5) // newer
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		list, err := tx.KeyPackages(ctx, 1, core.CredentialBasic, 3)
		var got []string
		for _, k := range list {
			got = append(got, string(k.Ref))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%x, want %x", got, want)
		}
		return err
	})
	if n := len(w.poolOf(alice, 1)); n != 3 {
		t.Errorf("%d key packages: the others counted", n)
	}
}

func quirkCredentialStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	refs := w.publish(alice, suite1, 2)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		return tx.DeleteKeyPackages(ctx, []byte(refs[0]), []byte(refs[1]))
	})
	list, err := alice.Credentials(t.Context(), client.CredentialFilter{})
	w.must(err)
	if len(list) != 1 || len(w.poolOf(alice, suite1)) != 0 {
		t.Errorf("%d credentials, %d key packages", len(list), len(w.poolOf(alice, suite1)))
	}
	w.in(alice, update)
	w.catchUp()
	w.agree(alice, bob)
	// And one that no conversation has, but which is the newest.
	carol := w.device("carol")
	refs = w.publish(carol, suite1, 1)
	w.do(carol, func(ctx context.Context, tx *client.Transaction) error {
		return tx.DeleteKeyPackages(ctx, []byte(refs[0]))
	})
	w.publish(carol, suite1, 1)
}

func quirkNothingStale(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	stale := func(ctx context.Context, tx *client.Transaction) error {
		return tx.DeleteStaleKeyPackages(ctx, suite1, core.CredentialBasic)
	}
	w.do(alice, stale)
	w.publish(alice, suite1, 2)
	w.do(alice, stale)
	if n := len(w.poolOf(alice, suite1)); n != 2 {
		t.Errorf("%d key packages", n)
	}
}

func quirkStaleOfScheme(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.suites("alice", 1, 2, 3) // 1 and 3 sign alike
	w.publish(alice, 1, 2)
	other := w.publish(alice, 2, 2)
	w.publish(alice, 3, 2)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewCredential(ctx, 1)
		return err
	})
	fresh := w.publish(alice, 3, 1)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		return tx.DeleteStaleKeyPackages(ctx, 1, core.CredentialBasic)
	})
	if one, two, three := w.poolOf(alice, 1), w.poolOf(alice, 2), w.poolOf(alice, 3); len(one) != 0 || !slices.Equal(two, other) || !slices.Equal(three, fresh) {
		t.Errorf("%d, %d and %d key packages", len(one), len(two), len(three))
	}
}

// A buffer of a transaction on a store of its own.
func buffer(t *testing.T) (open func() *client.Buffer) {
	t.Helper()
	wrapper, err := seal.RawKey(core.NewSecret(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	store, err := seal.Open(t.Context(), memory.New(), wrapper, "buffer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return func() *client.Buffer { return client.NewBuffer(store) }
}

func keysOf(answers [][]seal.Record) (keys string) {
	for _, records := range answers {
		for _, r := range records {
			keys += string(r.Key)
		}
	}
	return keys
}

func quirkDeletedAndPut(t *testing.T) {
	t.Parallel()
	open := buffer(t)
	look := func(b *client.Buffer, want string) {
		t.Helper()
		list, err := b.Read(t.Context(), client.BufferQuery{})
		if err != nil || keysOf(list) != want {
			t.Errorf("%q, %v; want %q", keysOf(list), err, want)
		}
	}
	b := open()
	b.Put(0, []byte("a"), []byte("1"))
	b.Put(0, []byte("b"), []byte("1"))
	if err := b.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	b = open()
	b.Del(0, nil)
	look(b, "")
	b.Put(0, []byte("b"), []byte("2"))
	b.Put(0, []byte("c"), []byte("2"))
	b.Del(0, []byte("c"))
	look(b, "b")
	if err := b.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	look(open(), "b")
}

func quirkLimits(t *testing.T) {
	t.Parallel()
	open := buffer(t)
	b := open()
	for _, key := range []string{"a", "b", "c", "d"} {
		b.Put(0, []byte(key), []byte("1"))
	}
	if err := b.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	b = open()
	b.Del(0, []byte("a"))
	b.Del(0, []byte("b"))
	b.Put(0, []byte("e"), []byte("2"))
	for limit, want := range map[int]string{1: "c", 2: "cd", 3: "cde", 9: "cde"} {
		list, err := b.Read(t.Context(), client.BufferQuery{Limit: limit})
		if err != nil || keysOf(list) != want {
			t.Errorf("at most %d: %q, %v; want %q", limit, keysOf(list), err, want)
		}
	}
	if list, err := b.Read(t.Context(), client.BufferQuery{After: []byte("c"), Limit: 1}); err != nil || keysOf(list) != "d" {
		t.Errorf("after c: %q, %v", keysOf(list), err)
	}
	// As the application meets it: those that are left are enough.
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	refs := w.publish(alice, suite1, 5)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.DeleteKeyPackages(ctx, []byte(refs[3]), []byte(refs[4])); err != nil {
			return err
		}
		list, err := tx.KeyPackages(ctx, suite1, core.CredentialBasic, 3)
		for i, k := range list {
			if string(k.Ref) != refs[i] {
				t.Errorf("the key package at %d was made anew", i)
			}
		}
		return err
	})
}

func quirkOnlyDeletes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.deviceOn("alice", ks, config())
	w.create(alice)
	var made client.Credential
	w.do(alice, func(ctx context.Context, tx *client.Transaction) (err error) {
		if made, err = tx.NewCredential(ctx, suite1); err != nil {
			return err
		}
		return tx.SetPSK(ctx, []byte("psk"), core.NewSecret([]byte("key")))
	})
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error { return tx.RemoveCredential(ctx, made.Ref) })
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error { return tx.DeletePSK(ctx, []byte("psk")) })
	w.must(alice.Close(t.Context()))
	again := clienttest.NewDevice(t, w.service, "alice", ks, config())
	list, err := again.Credentials(t.Context(), client.CredentialFilter{})
	if err != nil || len(list) != 1 {
		t.Errorf("%d credentials, %v", len(list), err)
	}
	if err := in(t.Context(), again, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Commit(ctx, client.Changes{PSKs: [][]byte{[]byte("psk")}})
		return err
	}); !errors.Is(err, mls.ErrMissingPSK) {
		t.Errorf("a key that was deleted: %v", err)
	}
}

func quirkKeptOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.deviceOn("alice", ks, config())
	list, err := alice.Credentials(t.Context(), client.CredentialFilter{})
	w.must(err)
	keep := func(ctx context.Context, tx *client.Transaction) error {
		return errors.Join(tx.SetPSK(ctx, []byte("psk"), core.NewSecret([]byte("key"))), tx.SetData(ctx, []byte("data")))
	}
	w.do(alice, keep)
	_, before := w.rows(ks)
	w.do(alice, keep)
	if err := alice.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.AddCredential(ctx, list[0].Credential, list[0].SignatureKey)
		return err
	}); !errors.Is(err, client.ErrCredentialExists) {
		t.Errorf("the credential again: %v", err)
	}
	if err := alice.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		return tx.InitMLS(ctx, "alice", suite1)
	}); !errors.Is(err, client.ErrInitialized) {
		t.Errorf("the identity again: %v", err)
	}
	if rows, after := w.rows(ks); after != before {
		t.Errorf("%d records, then%s", before, rows)
	}
}

// The reference makes a schema in memory for every transaction.
func quirkEmptyIsFree(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	calls := 0
	ks := &coretest.Faulty{Keystore: memory.New()}
	alice := w.deviceOn("alice", ks, config())
	ks.Plan = func(int, core.Batch) coretest.Fault { calls++; return coretest.FaultNone }
	ks.PlanRead = func(int) bool { calls++; return false }
	w.do(alice, func(context.Context, *client.Transaction) error { return nil })
	if calls != 0 {
		t.Errorf("%d calls of the store for nothing", calls)
	}
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error { return tx.SetData(ctx, []byte("data")) })
	if calls != 1 {
		t.Errorf("%d calls of the store for one write", calls)
	}
}
