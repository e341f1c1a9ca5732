// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// keyOf is a wrapper with a key of 32 times the same byte.
func (w *world) keyOf(key byte) core.KeyWrapper {
	w.Helper()
	wrapper, err := seal.RawKey(core.NewSecret(bytes.Repeat([]byte{key}, 32)))
	w.must(err)
	return wrapper
}

// storeWith opens the store of a device.
func (w *world) storeWith(ks core.Keystore, key byte) (*seal.Store, error) {
	w.Helper()
	return seal.Open(w.Context(), ks, w.keyOf(key), "device")
}

func companionOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	if _, err := client.Open(t.Context(), config()); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("without a store: %v", err)
	}
	store, err := w.storeWith(ks, 1)
	w.must(err)
	for what, cfg := range map[string]client.Config{"suites": {Store: store, Keys: pure.New()}, "keys": {Store: store, Suites: pure.New()}} {
		if _, err := client.Open(t.Context(), cfg); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("without %s: %v", what, err)
		}
	}
	alice, err := client.Open(t.Context(), client.Config{Store: store, Suites: pure.New(), Keys: pure.New()})
	w.must(err)
	w.must(alice.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "alice", suite1) }))
	w.must(alice.Close(t.Context()))
	before := snapshot(t, ks)
	if _, err := w.storeWith(ks, 2); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("with another key: %v", err)
	}
	if !same(before, snapshot(t, ks)) {
		t.Error("a wrong key has changed the store")
	}
	store, err = w.storeWith(ks, 1)
	w.must(err)
	alice, err = client.Open(t.Context(), client.Config{Store: store, Suites: pure.New(), Keys: pure.New()})
	w.must(err)
	defer func() { w.must(alice.Close(t.Context())) }()
	if id, err := alice.ClientID(t.Context()); id != "alice" || err != nil {
		t.Errorf("%q, %v", id, err)
	}
}

// The same client on a store in memory, which ends with the process.
func companionInMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.deviceOn("alice", ks, config())
	w.create(alice)
	w.must(alice.Close(t.Context()))
	w.must(ks.Close())
	if _, err := w.storeWith(memory.New(), 9); err != nil { // nothing is shared
		t.Error(err)
	}
	if _, err := w.storeWith(ks, 0); !errors.Is(err, core.ErrClosed) {
		t.Errorf("what was closed opens again: %v", err)
	}
}

func companionBegin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, _ := w.pair()
	first, err := alice.Begin(t.Context())
	w.must(err)
	_, err = first.Conversation(t.Context(), chat)
	w.must(err)
	next, err := alice.Begin(t.Context())
	w.must(err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := next.Conversation(ctx, chat); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("two hold a conversation: %v", err)
	}
	w.must(first.Finish(t.Context()))
	_, err = next.Conversation(t.Context(), chat)
	w.must(err)
	w.must(next.Abort(t.Context()))
	cancelled, stop := context.WithCancel(t.Context())
	stop()
	if _, err := alice.Begin(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that is over: %v", err)
	}
	w.do(alice, func(ctx context.Context, _ *client.Transaction) error {
		if _, err := alice.Begin(ctx); !errors.Is(err, client.ErrNestedTransaction) {
			t.Errorf("within a transaction: %v", err)
		}
		return nil
	})
}

func companionTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	w.tries(alice, nil, func(ctx context.Context, tx *client.Transaction) error { return tx.SetData(ctx, []byte("kept")) })
	w.tries(alice, errAbort, func(ctx context.Context, tx *client.Transaction) error {
		return errors.Join(tx.SetData(ctx, []byte("undone")), errAbort)
	})
	w.tries(alice, nil, func(ctx context.Context, tx *client.Transaction) error { return tx.Finish(ctx) })
	w.tries(alice, client.ErrNestedTransaction, func(ctx context.Context, tx *client.Transaction) error {
		return alice.Transaction(ctx, func(context.Context, *client.Transaction) error { return nil })
	})
	if data, _, err := alice.Data(t.Context()); string(data) != "kept" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}

func companionSetTransport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	alice.SetTransport(nil)
	w.triesIn(alice, client.ErrNoTransport, update)
	w.send(alice, "waits")
	w.reads(bob)
	alice.SetTransport(&clienttest.Link{Service: w.service, ID: "alice", Receive: alice.Link.Receive})
	w.must(alice.Resume(t.Context()))
	w.reads(bob, "waits")
	w.triesIn(alice, nil, update)
}

func companionMirror(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, _ := w.pair()
	w.publish(alice, suite1, 1)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		inside, outside := all(ctx, c.View), all(ctx, alice.View(chat))
		if got := changed(inside, outside); got != nil {
			t.Errorf("they differ in %v", got)
		}
		return nil
	})
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		for what, ask := range map[string]func() (inside, outside any, err error){
			"client id": func() (any, any, error) {
				a, err := tx.ClientID(ctx)
				b, err2 := alice.ClientID(ctx)
				return a, b, errors.Join(err, err2)
			},
			"public key": func() (any, any, error) {
				a, err := tx.ClientPublicKey(ctx, suite1, 0)
				b, err2 := alice.ClientPublicKey(ctx, suite1, 0)
				return string(a), string(b), errors.Join(err, err2)
			},
			"key packages": func() (any, any, error) {
				a, err := tx.CountKeyPackages(ctx, suite1, 0)
				b, err2 := alice.CountKeyPackages(ctx, suite1, 0)
				return a, b, errors.Join(err, err2)
			},
			"credentials": func() (any, any, error) {
				a, err := tx.Credentials(ctx, client.CredentialFilter{})
				b, err2 := alice.Credentials(ctx, client.CredentialFilter{})
				return a[0].Ref, b[0].Ref, errors.Join(err, err2)
			},
		} {
			if inside, outside, err := ask(); err != nil || inside != outside {
				t.Errorf("%s: %v and %v, %v", what, inside, outside, err)
			}
		}
		return nil
	})
}

func companionClose(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.deviceOn("alice", ks, config())
	tx, err := alice.Begin(t.Context())
	w.must(err)
	w.must(tx.SetData(t.Context(), []byte("data")))
	closed := make(chan error, 1)
	go func() { closed <- alice.Close(t.Context()) }()
	select {
	case err := <-closed:
		t.Fatalf("it did not wait for the transaction: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	w.must(tx.Finish(t.Context()))
	w.must(<-closed)
	if _, err := alice.Begin(t.Context()); !errors.Is(err, core.ErrClosed) {
		t.Errorf("begin: %v", err)
	}
	if _, _, err := alice.Data(t.Context()); !errors.Is(err, core.ErrClosed) {
		t.Errorf("data: %v", err)
	}
	w.must(alice.Close(t.Context()))
	again := clienttest.NewDevice(t, w.service, "alice", ks, config())
	if data, _, err := again.Data(t.Context()); string(data) != "data" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}

// An observer hears of a new epoch when it is durable, and not before.
func companionObserve(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	var told []uint64
	stop := bob.Observe(func(e client.Event) {
		if e, ok := e.(client.EpochChanged); ok {
			if epoch := w.epoch(bob); epoch != e.Epoch {
				t.Errorf("told of epoch %d in epoch %d", e.Epoch, epoch)
			}
			told = append(told, e.Epoch)
		}
	})
	w.update(alice)
	w.tries(bob, errAbort, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.DecryptMessage(ctx, chat, w.last())
		return errors.Join(err, errAbort)
	})
	if len(told) != 0 {
		t.Errorf("told of %d, which was undone", told)
	}
	w.gives(bob, w.last())
	stop()
	w.update(alice)
	w.gives(bob, w.last())
	if !slices.Equal(told, []uint64{2}) {
		t.Errorf("told of %d", told)
	}
}

func companionEncrypt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	encrypt := func(data []byte) (message []byte) {
		w.in(alice, func(ctx context.Context, c *client.Conversation) (err error) {
			message, err = c.Encrypt(ctx, data, []byte("seen"))
			return err
		})
		return message
	}
	n := len(w.service.Log(chat))
	for _, data := range [][]byte{[]byte("hello"), {}, make([]byte, 70000)} {
		message := encrypt(data)
		m, err := mls.UnmarshalMLSMessage(message)
		if err != nil || m.PrivateMessage == nil {
			t.Fatalf("%+v, %v", m, err)
		}
		text, ok := w.gives(bob, message).(*client.Text)
		if !ok || !slices.Equal(text.Data, data) || text.Data == nil || string(text.AuthenticatedData) != "seen" {
			t.Errorf("%+v", text)
		}
	}
	if len(w.since(n)) != 0 {
		t.Error("something was sent")
	}
	w.absent(w.device("carol"))
}

func companionDecrypt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	message := w.texts(alice, 1)[0]
	w.in(bob, func(ctx context.Context, c *client.Conversation) error {
		r, err := c.DecryptMessage(ctx, message)
		if text, ok := r.(*client.Text); !ok || string(text.Data) != "text" {
			t.Errorf("%+v", r)
		}
		return err
	})
}

func companionAdd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	now := time.Now()
	alice, bob := w.pair()
	carol, dave := w.device("carol"), w.at("dave", &now)
	kc := w.keyPackage(carol)
	now = now.Add(-100 * 24 * time.Hour)
	expired := w.keyPackage(dave)
	add := func(want error, list ...[]byte) (r *client.CommitResult) {
		t.Helper()
		w.triesIn(alice, want, func(ctx context.Context, c *client.Conversation) (err error) {
			r, err = c.AddMembers(ctx, list...)
			return err
		})
		return r
	}
	add(client.ErrEmptyInput)
	add(mls.ErrMalformed, []byte("noise"))
	add(core.ErrInvalid, expired)
	add(core.ErrInvalid, kc, kc)
	add(core.ErrInvalid, w.keyPackage(bob)) // a member
	if i := w.info(alice); i.Epoch != 1 || i.PendingCommit {
		t.Errorf("%+v", i)
	}
	w.propose(bob)
	w.must(alice.Link.Drain(t.Context(), chat))
	if r := add(nil, kc); r.Epoch != 2 || !slices.Equal(r.Added, []core.ClientID{"carol"}) || !r.Own || r.Committer != "alice" {
		t.Errorf("%+v", r)
	}
	w.catchUp()
	w.agree(alice, bob, carol)
	if i := w.info(bob); i.PendingProposals != 0 {
		t.Error("what waited was not covered")
	}
}

func companionRemove(t *testing.T) {
	t.Parallel()
	w, alice, bob, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
	remove := func(want error, ids ...core.ClientID) (r *client.CommitResult) {
		t.Helper()
		w.triesIn(alice, want, func(ctx context.Context, c *client.Conversation) (err error) {
			r, err = c.RemoveMembers(ctx, ids...)
			return err
		})
		return r
	}
	remove(client.ErrEmptyInput)
	remove(client.ErrEmptyInput, "nobody")
	remove(core.ErrInvalid, "alice")
	if r := remove(nil, "nobody", "carol"); !slices.Equal(r.Removed, []core.ClientID{"carol"}) {
		t.Errorf("%+v", r)
	}
	w.catchUp()
	w.agree(alice, bob)
	w.absent(w.devices[2])
}

func companionUpdate(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		alice, bob := w.pair()
		before := w.leafKey(bob, 0)
		if r := w.update(alice); r.Epoch != 2 || !r.Own {
			t.Errorf("%+v", r)
		}
		w.catchUp()
		w.agree(alice, bob)
		if slices.Equal(before, w.leafKey(bob, 0)) {
			t.Error("the leaf has the same key")
		}
	})
}

// leafKey is the HPKE key of a leaf as a member tells it to those who join.
func (w *world) leafKey(d *clienttest.Device, i int) []byte {
	w.Helper()
	info, err := d.View(chat).GroupInfo(w.Context())
	w.must(err)
	m, err := mls.UnmarshalMLSMessage(info)
	w.must(err)
	for _, x := range m.GroupInfo.Extensions {
		if x.Type == mls.ExtensionRatchetTree {
			return x.Data
		}
	}
	w.Fatal("no tree")
	return nil
}

func companionCommitPending(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	commit := func() (r *client.CommitResult) {
		w.in(alice, func(ctx context.Context, c *client.Conversation) (err error) {
			r, err = c.CommitPendingProposals(ctx)
			return err
		})
		return r
	}
	n := len(w.service.Log(chat))
	if r := commit(); r.Epoch != 1 || len(w.since(n)) != 0 {
		t.Errorf("%+v for nothing, %d messages", r, len(w.since(n)))
	}
	w.propose(bob)
	w.must(alice.Link.Drain(t.Context(), chat))
	if r := commit(); r.Epoch != 2 {
		t.Errorf("%+v", r)
	}
	w.catchUp()
	w.agree(alice, bob)
}

func companionDiscard(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	discard := func(ctx context.Context, c *client.Conversation) error { return c.DiscardPendingCommit(ctx) }
	w.triesIn(alice, core.ErrNotFound, discard)
	alice.Link.Before = once("commit")
	w.triesIn(alice, core.ErrUnknownOutcome, update)
	w.triesIn(alice, nil, discard)
	if i := w.info(alice); i.PendingCommit || i.Epoch != 1 {
		t.Errorf("%+v", i)
	}
	w.in(alice, update)
	w.catchUp()
	w.agree(alice, bob)
}

func companionHasPending(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, _ := w.pair()
	ask := func(want bool) {
		t.Helper()
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			if got, err := c.HasPendingCommit(ctx); got != want || err != nil {
				t.Errorf("%v, %v; want %v", got, err, want)
			}
			return nil
		})
	}
	ask(false)
	alice.Link.Before = once("commit")
	w.triesIn(alice, core.ErrUnknownOutcome, update)
	ask(true)
	w.must(alice.Resume(t.Context()))
	ask(false)
}

// What the delivery service is given and asked.
func companionTransport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	carol := w.device("carol")
	k := w.keyPackage(carol)
	told := &transport{Link: alice.Link}
	alice.SetTransport(told)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Commit(ctx, client.Changes{Add: [][]byte{k}, Remove: []core.ClientID{"bob"}})
		return err
	})
	b := told.bundle
	for what, c := range map[string]struct {
		message []byte
		is      func(m *mls.MLSMessage) bool
	}{
		"commit":    {b.Commit, func(m *mls.MLSMessage) bool { return m.PublicMessage != nil }},
		"Welcome":   {b.Welcome, func(m *mls.MLSMessage) bool { return m.Welcome != nil }},
		"GroupInfo": {b.GroupInfo, func(m *mls.MLSMessage) bool { return m.GroupInfo != nil && m.GroupInfo.GroupContext.Epoch == 2 }},
	} {
		if m, err := mls.UnmarshalMLSMessage(c.message); err != nil || !c.is(m) {
			t.Errorf("%s: %+v, %v", what, m, err)
		}
	}
	if !slices.Equal(b.Added, []core.ClientID{"carol"}) || !slices.Equal(b.Removed, []core.ClientID{"bob"}) {
		t.Errorf("added %q, removed %q", b.Added, b.Removed)
	}
	w.in(alice, update)
	if told.bundle.Welcome != nil {
		t.Error("a Welcome for nobody")
	}
	w.catchUp()
	w.agree(alice, carol)
	w.absent(bob)
	w.answering(alice, client.Outcome{Kind: client.Refused, Reason: "why"})
	w.triesIn(alice, core.ErrDenied, update)
	w.answering(alice, client.Outcome{Kind: 99})
	w.triesIn(alice, core.ErrUnknownOutcome, update)
	if i := w.info(alice); !i.PendingCommit {
		t.Error("an answer that means nothing was taken for a refusal")
	}
}

// A transport that remembers the last commit.
type transport struct {
	*clienttest.Link
	bundle client.CommitBundle
}

func (l *transport) SubmitCommit(ctx context.Context, id core.ConversationID, key string, b client.CommitBundle) (client.Outcome, error) {
	l.bundle = b
	return l.Link.SubmitCommit(ctx, id, key, b)
}

func companionExternalSender(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	suite, err := pure.New().Suite(suite1)
	w.must(err)
	keys := [][]byte{signerOf(t, suite).Public(), signerOf(t, suite).Public()}
	senders, err := client.ParseExternalSenders(suite, keys...)
	w.must(err)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{Suite: suite1, ExternalSenders: senders})
		return err
	})
	w.add(alice, bob)
	for _, d := range w.devices {
		w.in(d, func(ctx context.Context, c *client.Conversation) error {
			if key, err := c.ExternalSender(ctx); err != nil || !slices.Equal(key, keys[0]) {
				t.Errorf("%x, %v; want the first", key, err)
			}
			return nil
		})
	}
	wipe(w, alice, chat)
	w.create(alice)
	w.triesIn(alice, client.ErrNoExternalSender, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.ExternalSender(ctx)
		return err
	})
}

// Nothing is left, and somebody else can begin.
func companionWipe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.deviceOn("alice", ks, config())
	w.create(alice)
	tx, err := alice.Begin(t.Context())
	w.must(err)
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := alice.Client.Wipe(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while a transaction is open: %v", err)
	}
	w.must(tx.SetData(t.Context(), []byte("goes on")))
	w.must(tx.Finish(t.Context()))
	w.must(alice.Client.Wipe(t.Context()))
	if left := snapshot(t, ks); len(left) != 0 {
		t.Errorf("%d records are left", len(left))
	}
	if _, err := alice.ClientID(t.Context()); !errors.Is(err, core.ErrClosed) {
		t.Errorf("afterwards: %v", err)
	}
	w.must(alice.Client.Wipe(t.Context()))
	w.deviceOn("alice", ks, config())
}

func companionUpdateKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.deviceOn("alice", ks, config()) // whose key is zeros
	if err := alice.UpdateKey(t.Context(), w.keyOf(1), w.keyOf(2)); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("from another key: %v", err)
	}
	w.must(alice.UpdateKey(t.Context(), w.keyOf(0), w.keyOf(2)))
	w.create(alice) // it goes on
	if _, err := w.storeWith(ks, 0); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("with the old key: %v", err)
	}
	store, err := w.storeWith(ks, 2)
	w.must(err)
	w.must(store.Close())
	w.must(alice.Close(t.Context()))
	if err := alice.UpdateKey(t.Context(), w.keyOf(2), w.keyOf(3)); !errors.Is(err, core.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// 32 random bytes are a key; nothing else is.
func companionDatabaseKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	for _, n := range []int{0, 16, 31, 33, 64} {
		if _, err := seal.RawKey(core.NewSecret(client.RandomBytes(n))); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("a key of %d bytes: %v", n, err)
		}
	}
	wrapper, err := seal.RawKey(core.NewSecret(client.RandomBytes(32)))
	w.must(err)
	ks := memory.New()
	for range 2 {
		store, err := seal.Open(t.Context(), ks, wrapper, "device")
		w.must(err)
		w.must(store.Close())
	}
}
