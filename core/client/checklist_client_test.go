// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

// nobody is a device without an identity.
func (w *world) nobody(ks core.Keystore) *clienttest.Device {
	w.Helper()
	return clienttest.NewDevice(w, w.service, "alice", ks, config())
}

// at makes a device whose clock the test moves.
func (w *world) at(id core.ClientID, now *time.Time) *clienttest.Device {
	w.Helper()
	cfg := config()
	cfg.Clock = func() time.Time { return *now }
	return w.deviceOn(id, memory.New(), cfg)
}

func methodKeyPackages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	now := time.Now()
	alice := w.at("alice", &now)
	ask := func(n int) (refs []string) {
		w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
			list, err := tx.KeyPackages(ctx, suite1, core.CredentialBasic, n)
			for _, k := range list {
				m, err := mls.UnmarshalMLSMessage(k.Message)
				if err != nil || m.KeyPackage == nil || k.LastResort || k.Suite != suite1 {
					t.Errorf("%+v, %v", k, err)
				}
				refs = append(refs, string(k.Ref))
			}
			return err
		})
		return refs
	}
	first := ask(2)
	if again := ask(2); len(first) != 2 || !slices.Equal(again, first) {
		t.Error("the same question has another answer")
	}
	if more := ask(3); len(more) != 3 || !slices.Equal(more[1:], first) {
		t.Error("fresh ones come first, then those that were there")
	}
	now = now.Add(85 * 24 * time.Hour)
	if none := ask(0); len(none) != 0 || len(w.poolOf(alice, suite1)) != 0 {
		t.Error("what has expired is still there")
	}
	w.tries(alice, client.ErrCredentialNotFound, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.KeyPackages(ctx, suite1, core.CredentialX509, 1)
		return err
	})
	w.tries(alice, core.ErrUnsupported, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.KeyPackages(ctx, 0xfefe, core.CredentialBasic, 1)
		return err
	})
	w.tries(w.nobody(memory.New()), client.ErrNotInitialized, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.KeyPackages(ctx, suite1, core.CredentialBasic, 1)
		return err
	})
}

func methodCountKeyPackages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	now := time.Now()
	alice := w.at("alice", &now)
	count := func(d *clienttest.Device, suite core.SuiteID, want int) {
		t.Helper()
		w.do(d, func(ctx context.Context, tx *client.Transaction) error {
			n, err := tx.CountKeyPackages(ctx, suite, core.CredentialBasic)
			if n != want {
				t.Errorf("%d key packages, want %d", n, want)
			}
			return err
		})
	}
	w.publish(alice, suite1, 2)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewLastResortKeyPackage(ctx, suite1, core.CredentialBasic)
		return err
	})
	count(alice, suite1, 2)
	count(alice, 3, 0)
	count(w.nobody(memory.New()), suite1, 0) // needs no identity
	now = now.Add(84*24*time.Hour + time.Second)
	count(alice, suite1, 0)
	if n := len(w.poolOf(alice, suite1)); n != 3 {
		t.Errorf("counting has taken some away: %d", n)
	}
}

func methodDeleteKeyPackages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	now := time.Now()
	alice, bob := w.device("alice"), w.at("bob", &now)
	w.tries(bob, client.ErrEmptyInput, func(ctx context.Context, tx *client.Transaction) error { return tx.DeleteKeyPackages(ctx) })
	w.create(alice)
	w.publish(bob, suite1, 1)
	k := w.keyPackage(bob)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error { _, err := c.AddMembers(ctx, k); return err })
	var used []byte
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		list, err := tx.StoredKeyPackages(ctx)
		for _, p := range list {
			if bytes.Equal(p.Message, k) {
				used = p.Ref
			}
		}
		return err
	})
	kept := w.publish(bob, suite1, 1)
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		return tx.DeleteKeyPackages(ctx, used, []byte("none of ours"))
	})
	left := w.poolOf(bob, suite1)
	if len(left) != 2 || left[1] != kept[0] || slices.Contains(left, string(used)) {
		t.Errorf("%d key packages are left", len(left))
	}
	now = now.Add(85 * 24 * time.Hour) // the others have expired
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		return tx.DeleteKeyPackages(ctx, []byte("none of ours"))
	})
	if n := len(w.poolOf(bob, suite1)); n != 0 {
		t.Errorf("%d have expired and are left", n)
	}
	welcome, _ := w.service.Welcome("bob")
	w.tries(bob, client.ErrOrphanWelcome, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.ProcessWelcome(ctx, welcome.Message, client.JoinConfig{})
		return err
	})
}

func methodInit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.nobody(ks)
	for _, bad := range []func(ctx context.Context, tx *client.Transaction) error{
		func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "", suite1) },
		func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "alice") },
	} {
		w.tries(alice, client.ErrEmptyInput, bad)
	}
	w.tries(alice, core.ErrUnsupported, func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "alice", 0xfefe) })
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "alice", 1, 3, 2) })
	w.tries(alice, client.ErrInitialized, func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "alice", suite1) })
	alice = w.reopen(alice, ks) // loads
	list, err := alice.Credentials(t.Context(), client.CredentialFilter{})
	if err != nil || len(list) != 2 {
		t.Errorf("%d credentials for two signature schemes, %v", len(list), err)
	}
	cfg := config()
	cfg.InitialKeyPackages = 2
	bob := w.deviceOn("bob", memory.New(), cfg)
	if n := len(w.poolOf(bob, suite1)); n != 2 {
		t.Errorf("%d key packages, want 2", n)
	}
}

func methodGenerateKeypairs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.nobody(memory.New())
	w.tries(alice, client.ErrEmptyInput, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.GenerateKeypairs(ctx)
		return err
	})
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		names, err := tx.GenerateKeypairs(ctx, 1, 2, 3)
		if len(names) != 2 || len(names[0]) != 16 || len(names[1]) != 16 || names[0] == names[1] {
			t.Errorf("names %x", names)
		}
		return err
	})
	w.tries(w.device("bob"), client.ErrInitialized, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.GenerateKeypairs(ctx, suite1)
		return err
	})
}

func methodInitLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.nobody(memory.New())
	var names []core.ClientID
	later := func(names ...core.ClientID) func(ctx context.Context, tx *client.Transaction) error {
		return func(ctx context.Context, tx *client.Transaction) error {
			return tx.InitMLSWithClientID(ctx, "alice", names, 1, 2)
		}
	}
	w.tries(alice, client.ErrNoProvisionalIdentity, later("nobody"))
	w.do(alice, func(ctx context.Context, tx *client.Transaction) (err error) {
		names, err = tx.GenerateKeypairs(ctx, 1, 2)
		return err
	})
	w.tries(alice, client.ErrTooManyIdentities, later(names[0]))
	w.tries(alice, client.ErrNoProvisionalIdentity, later(names[0], "another"))
	w.tries(alice, client.ErrNoProvisionalIdentity, later(names[0], names[1], "another"))
	w.tries(alice, nil, later(names...))
	w.tries(alice, client.ErrInitialized, later(names...))
	id, err := alice.ClientID(t.Context())
	if err != nil || id != "alice" {
		t.Errorf("%q, %v", id, err)
	}
	w.create(alice)
	w.in(alice, update)
}

func methodPublicKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.suites("alice", 1, 2)
	newest := w.fresh(alice)
	ask := func(suite core.SuiteID, kind core.CredentialType) (key []byte, err error) {
		err = alice.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) (err error) {
			key, err = tx.ClientPublicKey(ctx, suite, kind)
			return err
		})
		return key, err
	}
	if key, err := ask(1, core.CredentialBasic); err != nil || !bytes.Equal(key, newest.SignatureKey) {
		t.Errorf("%x, %v: not the newest", key, err)
	}
	if key, err := ask(2, 0); err != nil || len(key) != 65 {
		t.Errorf("P-256: %x, %v", key, err)
	}
	for _, c := range []struct {
		suite core.SuiteID
		kind  core.CredentialType
		want  error
	}{{1, core.CredentialX509, client.ErrEnrollmentNotDone}, {7, 0, client.ErrCredentialNotFound}, {0xfefe, 0, core.ErrUnsupported}} {
		if _, err := ask(c.suite, c.kind); !errors.Is(err, c.want) {
			t.Errorf("suite %d, type %d: %v, want %v", c.suite, c.kind, err, c.want)
		}
	}
}

func methodClientID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.nobody(memory.New())
	ask := func(ctx context.Context, tx *client.Transaction) error {
		id, err := tx.ClientID(ctx)
		if err == nil && id != "alice" {
			t.Errorf("%q", id)
		}
		return err
	}
	w.tries(alice, client.ErrNotInitialized, ask)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.GenerateKeypairs(ctx, 1)
		return err
	})
	w.tries(alice, client.ErrNotInitialized, ask)
	alice.Identify(w, suite1)
	w.tries(alice, nil, ask)
}

func methodRandom(t *testing.T) {
	t.Parallel()
	a, b := client.RandomBytes(32), client.RandomBytes(32)
	if len(a) != 32 || bytes.Equal(a, b) || bytes.Equal(a, make([]byte, 32)) || len(client.RandomBytes(0)) != 0 {
		t.Errorf("%x %x", a, b)
	}
}

func methodDeleteStale(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	w.publish(alice, suite1, 2)
	w.fresh(alice)
	fresh := w.publish(alice, suite1, 1)
	stale := func(suite core.SuiteID, kind core.CredentialType) func(ctx context.Context, tx *client.Transaction) error {
		return func(ctx context.Context, tx *client.Transaction) error {
			return tx.DeleteStaleKeyPackages(ctx, suite, kind)
		}
	}
	w.tries(alice, client.ErrCredentialNotFound, stale(suite1, core.CredentialX509))
	w.tries(alice, client.ErrCredentialNotFound, stale(2, 0))
	w.tries(alice, nil, stale(suite1, 0))
	if left := w.poolOf(alice, suite1); !slices.Equal(left, fresh) {
		t.Errorf("%d key packages are left", len(left))
	}
}

// What others would need the provider for is offered instead: nothing exported leads
// to keys or to the store.
func methodProvider(t *testing.T) {
	t.Parallel()
	for _, kind := range []reflect.Type{reflect.TypeFor[*client.Client](), reflect.TypeFor[*client.Transaction](), reflect.TypeFor[*client.Conversation]()} {
		for i := range kind.NumMethod() {
			m := kind.Method(i)
			for j := range m.Type.NumOut() {
				switch out := m.Type.Out(j); out {
				case reflect.TypeFor[core.CryptoProvider](), reflect.TypeFor[core.Keystore](), reflect.TypeFor[*seal.Store](),
					reflect.TypeFor[core.Signer](), reflect.TypeFor[core.PrivateKey](), reflect.TypeFor[core.SuiteSource]():
					t.Errorf("%v.%s hands out a %v", kind, m.Name, out)
				}
			}
		}
		for i := range kind.Elem().NumField() {
			if f := kind.Elem().Field(i); f.IsExported() && f.Type != reflect.TypeFor[client.View]() {
				t.Errorf("%v.%s is exported", kind, f.Name)
			}
		}
	}
}

func methodFinish(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.deviceOn("alice", ks, config())
	tx, err := alice.Begin(t.Context())
	w.must(err)
	c, err := tx.NewConversation(t.Context(), chat, client.ConversationConfig{})
	w.must(err)
	w.must(tx.SetData(t.Context(), []byte("data")))
	_, before := w.rows(ks)
	w.must(tx.Finish(t.Context()))
	if _, after := w.rows(ks); after == before {
		t.Error("nothing was written")
	}
	for what, err := range map[string]error{
		"finish": tx.Finish(t.Context()), "abort": tx.Abort(t.Context()), "data": tx.SetData(t.Context(), nil),
		"epoch": second(c.Epoch(t.Context())), "encrypt": second(c.Encrypt(t.Context(), nil, nil)),
		"conversation": second(tx.Conversation(t.Context(), chat)),
	} {
		if !errors.Is(err, client.ErrInvalidTransaction) {
			t.Errorf("%s: %v", what, err)
		}
	}
	alice = w.reopen(alice, ks)
	if data, found, err := alice.Data(t.Context()); string(data) != "data" || !found || err != nil {
		t.Errorf("%q, %v, %v", data, found, err)
	}
	w.epoch(alice)
}

func methodAbort(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.deviceOn("alice", ks, config())
	_, before := w.rows(ks)
	tx, err := alice.Begin(t.Context())
	w.must(err)
	_, err = tx.NewConversation(t.Context(), chat, client.ConversationConfig{})
	w.must(err)
	w.must(tx.SetData(t.Context(), []byte("data")))
	w.must(tx.Abort(t.Context()))
	if rows, after := w.rows(ks); after != before {
		t.Errorf("an abort leaves%s", rows)
	}
	if err := tx.Abort(t.Context()); !errors.Is(err, client.ErrInvalidTransaction) {
		t.Errorf("again: %v", err)
	}
	w.create(alice)
}

func methodSetData(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	set := func(data []byte) func(ctx context.Context, tx *client.Transaction) error {
		return func(ctx context.Context, tx *client.Transaction) error { return tx.SetData(ctx, data) }
	}
	w.tries(alice, nil, set([]byte("one")))
	w.tries(alice, nil, set([]byte("two")))
	w.tries(alice, core.ErrTooLarge, set(make([]byte, 1<<20)))
	if data, _, err := alice.Data(t.Context()); string(data) != "two" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	w.tries(alice, nil, set(nil))
	if data, found, err := alice.Data(t.Context()); len(data) != 0 || !found || err != nil {
		t.Errorf("%q, %v, %v", data, found, err)
	}
}

func methodData(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	read := func(ctx context.Context, tx *client.Transaction, want string, there bool) error {
		data, found, err := tx.Data(ctx)
		if string(data) != want || found != there {
			t.Errorf("%q, %v; want %q", data, found, want)
		}
		return err
	}
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error { return read(ctx, tx, "", false) })
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		return errors.Join(tx.SetData(ctx, []byte("one")), read(ctx, tx, "one", true))
	})
	w.tries(alice, errAbort, func(ctx context.Context, tx *client.Transaction) error {
		return errors.Join(tx.SetData(ctx, []byte("two")), read(ctx, tx, "two", true), errAbort)
	})
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error { return read(ctx, tx, "one", true) })
}

// A handle copied is a pointer copied; whatever verb prints it, no secret is shown.
func methodPrint(t *testing.T) {
	t.Parallel()
	w, alice, _, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
	secret, err := alice.ExportSecret(t.Context(), chat, 32)
	w.must(err)
	psk := core.NewSecret([]byte("the shared key of all of us"))
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		if _, err := c.Send(ctx, []byte("a text in clear"), nil); err != nil {
			return err
		}
		return nil
	})
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.SetPSK(ctx, []byte("psk"), psk); err != nil {
			return err
		}
		c, err := tx.Conversation(ctx, chat)
		if err != nil {
			return err
		}
		if _, err := c.Send(ctx, []byte("a text in clear"), nil); err != nil {
			return err
		}
		if err := tx.SetData(ctx, []byte("a text in clear")); err != nil {
			return err
		}
		copied := *c
		for _, v := range []any{alice.Client, tx, c, copied, secret, psk} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
				text := fmt.Sprintf(verb, v)
				for _, s := range [][]byte{secret.Bytes(), psk.Bytes(), []byte("a text in clear")} {
					for _, form := range []string{string(s), hex.EncodeToString(s), strings.Trim(fmt.Sprint(s), "[]")} {
						if strings.Contains(strings.ToLower(text), form) {
							t.Errorf("%T printed with %s shows a secret", v, verb)
						}
					}
				}
			}
		}
		return nil
	})
}
