// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/storage/memory"
)

// ways in which a transaction comes to nothing.
var ways = map[string]func(d *clienttest.Device, ctx context.Context, f func(context.Context, *client.Transaction) error){
	"error": func(d *clienttest.Device, ctx context.Context, f func(context.Context, *client.Transaction) error) {
		_ = d.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error { return errors.Join(f(ctx, tx), errAbort) })
	},
	"panic": func(d *clienttest.Device, ctx context.Context, f func(context.Context, *client.Transaction) error) {
		defer func() {
			if recover() == nil {
				panic("the panic was swallowed")
			}
		}()
		_ = d.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error { _ = f(ctx, tx); panic("so") })
	},
	"end of goroutine": func(d *clienttest.Device, ctx context.Context, f func(context.Context, *client.Transaction) error) {
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = d.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
				_ = f(ctx, tx)
				runtime.Goexit()
				return nil
			})
		})
		wg.Wait()
	},
	"cancellation": func(d *clienttest.Device, ctx context.Context, f func(context.Context, *client.Transaction) error) {
		ctx, cancel := context.WithCancel(ctx)
		if err := d.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			defer cancel()
			return f(ctx, tx)
		}); !errors.Is(err, context.Canceled) {
			panic(err)
		}
	},
	"abort": func(d *clienttest.Device, ctx context.Context, f func(context.Context, *client.Transaction) error) {
		tx, err := d.Begin(ctx)
		if err != nil {
			panic(err)
		}
		_ = f(ctx, tx)
		if err := tx.Abort(ctx); err != nil {
			panic(err)
		}
	},
}

func TestUndone(t *testing.T) {
	t.Parallel()
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, clienttest.Options{})
			alice := w.device("alice")
			packages := func() (n int) {
				w.do(alice, func(ctx context.Context, tx *client.Transaction) (err error) {
					n, err = tx.CountKeyPackages(ctx, suite1, core.CredentialBasic)
					return err
				})
				return n
			}
			w.keyPackage(alice)
			way(alice, t.Context(), func(ctx context.Context, tx *client.Transaction) error {
				if _, err := tx.NewConversation(ctx, chat, client.ConversationConfig{}); err != nil {
					return err
				}
				if _, err := tx.NewKeyPackages(ctx, suite1, core.CredentialBasic, 3); err != nil {
					return err
				}
				if n, err := tx.CountKeyPackages(ctx, suite1, core.CredentialBasic); n != 4 || err != nil {
					t.Errorf("inside: %d key packages, %v", n, err)
				}
				if _, err := alice.Info(ctx, chat); !errors.Is(err, client.ErrConversationNotFound) {
					t.Errorf("the client sees what is not durable: %v", err)
				}
				return tx.SetData(ctx, []byte("x"))
			})
			if _, err := alice.Info(t.Context(), chat); !errors.Is(err, client.ErrConversationNotFound) {
				t.Errorf("the conversation is there: %v", err)
			}
			if n := packages(); n != 1 {
				t.Errorf("%d key packages", n)
			}
			if _, found, err := alice.Data(t.Context()); found || err != nil {
				t.Errorf("data: %v %v", found, err)
			}
			// nothing is held
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			w.must(alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
				_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{})
				return err
			}))
			// identity made in a transaction that came to nothing is none
			bob := clienttest.NewDevice(t, w.service, "bob", memory.New(), config())
			way(bob, t.Context(), func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "bob", suite1) })
			if _, err := bob.ClientID(t.Context()); !errors.Is(err, client.ErrNotInitialized) {
				t.Errorf("bob: %v", err)
			}
		})
	}
}

func TestTransactionEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	ctx := t.Context()
	tx, err := alice.Begin(ctx)
	w.must(err)
	c, err := tx.NewConversation(ctx, chat, client.ConversationConfig{})
	w.must(err)
	w.must(tx.SetData(ctx, []byte("checkpoint")))
	w.must(tx.Finish(ctx))
	for name, err := range map[string]error{
		"finish": tx.Finish(ctx), "abort": tx.Abort(ctx), "data": tx.SetData(ctx, nil), "wipe": c.Wipe(ctx),
	} {
		if !errors.Is(err, client.ErrInvalidTransaction) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if data, found, err := alice.Data(ctx); string(data) != "checkpoint" || !found || err != nil {
		t.Errorf("data: %q %v %v", data, found, err)
	}
	if err := alice.Transaction(ctx, func(context.Context, *client.Transaction) error { return nil }); err != nil {
		t.Errorf("an empty transaction: %v", err)
	}
	if err := alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		return alice.Transaction(ctx, func(context.Context, *client.Transaction) error { return nil })
	}); !errors.Is(err, client.ErrNestedTransaction) {
		t.Errorf("nested: %v", err)
	}
	// another client is another matter
	bob := w.device("bob")
	w.do(alice, func(ctx context.Context, _ *client.Transaction) error {
		return bob.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error { return tx.SetData(ctx, nil) })
	})
}

func TestFinishFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := &coretest.Faulty{Keystore: memory.New()}
	alice := w.deviceOn("alice", ks, config())
	tx, err := alice.Begin(t.Context())
	w.must(err)
	_, err = tx.NewConversation(t.Context(), chat, client.ConversationConfig{})
	w.must(err)
	ks.Break()
	if err := tx.Finish(t.Context()); !errors.Is(err, core.ErrUnavailable) {
		t.Fatalf("finish: %v", err)
	}
	if err := tx.Finish(t.Context()); !errors.Is(err, client.ErrInvalidTransaction) {
		t.Fatalf("again: %v", err)
	}
	ks.Mend()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	w.must(alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{})
		return err
	}))
}

func TestConversationsAreIndependent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	ctx := t.Context()
	for _, id := range []core.ConversationID{"one", "two"} {
		w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.NewConversation(ctx, id, client.ConversationConfig{})
			return err
		})
	}
	first, err := alice.Begin(ctx)
	w.must(err)
	_, err = first.Conversation(ctx, "one")
	w.must(err)
	second, err := alice.Begin(ctx)
	w.must(err)
	_, err = second.Conversation(ctx, "two")
	w.must(err)
	if _, err := second.Conversation(ctx, "one"); !errors.Is(err, core.ErrConflict) {
		t.Fatalf("a transaction that holds one waits for another: %v", err)
	}
	third, err := alice.Begin(ctx)
	w.must(err)
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := third.Conversation(short, "one"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a transaction that holds none does not wait: %v", err)
	}
	got := make(chan error)
	go func() { _, err := third.Conversation(ctx, "one"); got <- err }()
	w.must(first.Abort(ctx))
	w.must(<-got)
	w.must(third.Abort(ctx))
	w.must(second.Finish(ctx))
}

// COM-10, core-crypto/lock: two clients on one store, as two processes have them.
func TestConflict(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.deviceOn("alice", ks, config())
	again := clienttest.NewDevice(t, w.service, "alice", ks, config())
	bob := w.device("bob")
	w.create(alice)
	w.add(alice, bob)

	runs := 0
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		if runs++; runs == 1 { // the other process is quicker
			w.send(again, "from there")
		}
		_, err := c.Send(ctx, []byte("from here"), nil)
		return err
	})
	if runs != 2 {
		t.Errorf("the callback ran %d times", runs)
	}
	w.reads(bob, "from there", "from here")

	// after a boundary the callback is not run again
	runs = 0
	err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
		runs++
		if _, err := c.UpdateKeyMaterial(ctx); err != nil {
			return err
		}
		w.send(again, "once more")
		_, err := c.Send(ctx, []byte("lost"), nil)
		if err == nil {
			w.send(again, "twice more")
		}
		return err
	})
	_ = err
	if runs != 1 {
		t.Errorf("the callback ran %d times over a boundary", runs)
	}

	// and many at once
	var wg sync.WaitGroup
	for _, d := range []*clienttest.Device{alice, again, alice, again} {
		wg.Go(func() {
			for range 10 {
				for {
					err := in(t.Context(), d, func(ctx context.Context, c *client.Conversation) error {
						_, err := c.Send(ctx, []byte("many"), nil)
						return err
					})
					if err == nil {
						break
					}
					if !errors.Is(err, core.ErrConflict) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	w.must(alice.Settle(t.Context(), chat))
	w.must(bob.Link.Drain(t.Context(), chat))
	n := 0
	for _, text := range bob.Texts() {
		if text == "many" {
			n++
		}
	}
	if errs := bob.Failed(); n != 40 || len(errs) > 0 {
		t.Errorf("bob read %d of 40, %v", n, errs)
	}
}

func TestWipeAndAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	w.create(alice)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Encrypt(ctx, []byte("x"), nil)
		return err
	})
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, chat)
		if err != nil {
			return err
		}
		if _, err := tx.NewConversation(ctx, chat, client.ConversationConfig{}); !errors.Is(err, client.ErrConversationExists) {
			t.Errorf("a second one: %v", err)
		}
		if err := c.Wipe(ctx); err != nil {
			return err
		}
		if _, err := c.Epoch(ctx); !errors.Is(err, client.ErrConversationNotFound) {
			t.Errorf("after the wipe: %v", err)
		}
		_, err = tx.NewConversation(ctx, chat, client.ConversationConfig{Suite: core.SuiteX25519ChaChaEd25519})
		return err
	})
	i, err := alice.Info(t.Context(), chat)
	w.must(err)
	if i.Suite != core.SuiteX25519ChaChaEd25519 {
		t.Errorf("suite %v", i.Suite)
	}
	ids, err := alice.Conversations(t.Context())
	w.must(err)
	if len(ids) != 1 || ids[0] != chat {
		t.Errorf("conversations %q", ids)
	}
	w.in(alice, func(ctx context.Context, c *client.Conversation) error { return c.Wipe(ctx) })
	if ids, err = alice.Conversations(t.Context()); len(ids) != 0 || err != nil {
		t.Errorf("conversations %q, %v", ids, err)
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	d := clienttest.NewDevice(t, w.service, "alice", memory.New(), config())
	all := []core.SuiteID{1, 2, 3, 4, 5, 6, 7}
	w.do(d, func(ctx context.Context, tx *client.Transaction) error {
		if _, err := tx.NewConversation(ctx, chat, client.ConversationConfig{}); !errors.Is(err, client.ErrNotInitialized) {
			t.Errorf("without an identity: %v", err)
		}
		if err := tx.InitMLS(ctx, "", suite1); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("empty id: %v", err)
		}
		return tx.InitMLS(ctx, "alice", all...)
	})
	w.do(d, func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.InitMLS(ctx, "alice", suite1); !errors.Is(err, client.ErrInitialized) {
			t.Errorf("again: %v", err)
		}
		list, err := tx.Credentials(ctx, client.CredentialFilter{})
		if len(list) != 5 { // suites 1 and 3, 4 and 6 share a scheme
			t.Errorf("%d credentials", len(list))
		}
		one, err1 := tx.ClientPublicKey(ctx, 1, core.CredentialBasic)
		three, err3 := tx.ClientPublicKey(ctx, 3, core.CredentialBasic)
		if string(one) != string(three) {
			t.Error("suites 1 and 3 do not share their key")
		}
		if _, err := tx.ClientPublicKey(ctx, 1, core.CredentialX509); !errors.Is(err, client.ErrCredentialNotFound) {
			t.Errorf("x509: %v", err)
		}
		return errors.Join(err, err1, err3)
	})
	for _, s := range all {
		id := core.ConversationID(strings.Repeat("c", int(s)))
		w.do(d, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.NewConversation(ctx, id, client.ConversationConfig{Suite: s})
			return err
		})
	}
}
