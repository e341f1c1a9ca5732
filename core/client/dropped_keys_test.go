// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/providers/audit"
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
		"software":                       {Keys: pure.New()},
		"token":                          {Keys: tok},
		"token, watched behind a router": {Keys: audit.Keys(&core.KeyRouter{Default: tok}, slog.New(slog.DiscardHandler))},
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

// refusing is a token that has made keys before and will not delete them, for good.
type refusing struct {
	*token
	err error
}

func (r refusing) DeleteKey(context.Context, core.KeyRef) error { return r.err }

// A token that was replaced refuses for ever to delete what was on the old one. The client
// opens and works without it, and the log says what stays; a caller that has left is
// another matter.
func TestOpenWhenAKeyCannotBeDeleted(t *testing.T) {
	t.Parallel()
	for _, refusal := range []error{core.ErrDenied, core.ErrInvalid, core.ErrNotFound, core.ErrUnsupported, errors.New("no error of core")} {
		tok, ks := newToken(), memory.New()
		cfg := client.Config{Suites: pure.New(), Keys: refusing{tok, refusal}}
		w := newWorld(t, clienttest.Options{})
		alice := w.deviceOn("alice", ks, cfg)
		w.newCredential(alice, suite1, 0)
		w.remove(alice, nil, 1)
		w.must(alice.Close(t.Context()))

		var log bytes.Buffer
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		alice = clienttest.NewDevice(t, w.service, "alice", ks, cfg)
		if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), refusal.Error()) {
			t.Errorf("%v: the log says %q", refusal, log.String())
		}
		w.create(alice)
		w.must(alice.Close(t.Context()))

		left, leave := context.WithCancel(t.Context())
		keys := refusing{tok, refusal}
		cfg.Store, cfg.Keys = openStore(t, ks), leaving{keys, leave}
		if _, err := client.Open(left, cfg); err == nil {
			t.Errorf("%v: opened for a caller that has left", refusal)
		}
	}
}

// leaving is a token whose caller leaves while it works.
type leaving struct {
	refusing
	leave func()
}

func (l leaving) DeleteKey(ctx context.Context, ref core.KeyRef) error {
	l.leave()
	return l.refusing.DeleteKey(ctx, ref)
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

// Several processes on one store and one token make credentials, take them into use and
// remove them, all at once. What a leaf has is there, with its key, and the token
// holds what is named and nothing else.
func TestCredentialsOfManyProcesses(t *testing.T) {
	t.Parallel()
	tok, ks := newToken(), memory.New()
	cfg := client.Config{Suites: pure.New(), Keys: tok, Lease: 20 * time.Millisecond}
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", ks, cfg)
	ids := []core.ConversationID{"a", "b", "c"}
	for _, id := range ids {
		w.do(alice, newChat(id, 1))
	}
	var done [4]atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		d := clienttest.NewDevice(t, w.service, "alice", ks, cfg)
		wg.Go(func() {
			for range 40 {
				what := rand.N(4)
				err := d.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
					list, err := tx.Credentials(ctx, client.CredentialFilter{})
					if err != nil {
						return err
					}
					ref := list[rand.N(len(list))].Ref
					switch what {
					case 0:
						_, err := tx.NewCredential(ctx, suite1)
						return err
					case 1:
						return tx.RemoveCredential(ctx, ref)
					case 2:
						return errors.Join(tx.DeleteKeyPackagesOf(ctx, ref), makePackage(client.KeyPackageOptions{CredentialRef: ref})(ctx, tx))
					}
					c, err := tx.Conversation(ctx, ids[rand.N(len(ids))])
					if err == nil {
						_, err = c.SetCredential(ctx, ref)
					}
					return err
				})
				is := func(target error) bool { return errors.Is(err, target) }
				switch {
				case err == nil:
					done[what].Add(1)
				case !is(core.ErrConflict) && !is(client.ErrCredentialInUse) && !is(client.ErrCredentialNotFound) && !is(core.ErrUnavailable) && !is(core.ErrUnknownOutcome):
					t.Errorf("%d: %v", what, err)
				}
			}
		})
	}
	wg.Wait()
	for what := range done {
		if done[what].Load() == 0 {
			t.Errorf("%d never succeeded", what)
		}
	}
	alice = clienttest.NewDevice(t, w.service, "alice", ks, cfg)
	if tok.count() != w.named(alice) {
		t.Errorf("the token holds %d keys, the store names %d", tok.count(), w.named(alice))
	}
	w.must(alice.Resume(t.Context()))
	for _, id := range ids {
		if _, err := alice.Credential(t.Context(), id); err != nil {
			t.Error(err)
		}
		w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.Conversation(ctx, id)
			if err == nil {
				_, err = c.UpdateKeyMaterial(ctx) // signed with the key of the leaf
			}
			return err
		})
	}
	refs := map[client.CredentialRef]bool{}
	for _, c := range w.credentials(alice, client.CredentialFilter{}) {
		refs[c.Ref] = true
	}
	for _, k := range w.stored(alice) {
		if !refs[k.Credential] {
			t.Errorf("a key package of credential %d, which was removed", k.Credential)
		}
	}
}

// opened is a token of which a key is opened just when something else happens.
type opened struct {
	*token
	meanwhile func()
}

func (o *opened) OpenKey(ctx context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
	if f := o.meanwhile; f != nil {
		o.meanwhile = nil
		f()
	}
	return o.token.OpenKey(ctx, ref, material)
}

// A key that another process deletes when we are about to open it is not taken for
// damage, nor for something that the application has asked for.
func TestKeyRemovedWhileItIsOpened(t *testing.T) {
	t.Parallel()
	tok, ks := newToken(), memory.New()
	slow := &opened{token: tok}
	w := newWorld(t, clienttest.Options{})
	other := w.deviceOn("alice", ks, client.Config{Suites: pure.New(), Keys: tok})
	w.newCredential(other, suite1, 0)
	alice := clienttest.NewDevice(t, w.service, "alice", ks, client.Config{Suites: pure.New(), Keys: slow})
	slow.meanwhile = func() { w.remove(other, nil, 2) }
	w.try(alice, client.ErrCredentialNotFound, newChat(chat, 2))
	w.do(alice, newChat(chat, 0))
	w.uses(alice, 1)
	clear(tok.keys) // but a key that the store names is missed
	last := clienttest.NewDevice(t, w.service, "alice", ks, client.Config{Suites: pure.New(), Keys: tok})
	if err := in(t.Context(), last, update); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("the token has lost the key: %v", err)
	}
}

// A key that we know, and that another process deletes when we are about to sign with it.
func TestKeyRemovedWhileItSigns(t *testing.T) {
	t.Parallel()
	tok, ks := newToken(), memory.New()
	cfg := client.Config{Suites: pure.New(), Keys: tok}
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", ks, cfg)
	other := clienttest.NewDevice(t, w.service, "alice", ks, cfg)
	w.create(alice)
	w.newCredential(alice, suite1, 0)
	tok.signing = func() { w.remove(other, nil, 2) }
	if err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.SetCredential(ctx, 2)
		return err
	}); !errors.Is(err, client.ErrCredentialNotFound) {
		t.Errorf("a key that was removed meanwhile: %v", err)
	}
	w.uses(alice, 1)
	w.in(alice, update)
}

// Another process replaces the key of our leaf and deletes the old one while we send,
// between any two of our reads: we sign with the new one.
func TestSendWhileTheKeyIsReplaced(t *testing.T) {
	t.Parallel()
	for n, more := 1, true; more; n++ {
		tok, ks := newToken(), memory.New()
		cfg := client.Config{Suites: pure.New(), Keys: tok, Lease: 20 * time.Millisecond}
		w := newWorld(t, clienttest.Options{})
		other, bob := w.deviceOn("alice", ks, cfg), w.device("bob")
		w.create(other)
		w.add(other, bob)
		w.newCredential(other, suite1, 0)
		faulty := &coretest.Faulty{Keystore: ks}
		alice := clienttest.NewDevice(t, w.service, "alice", faulty, cfg)
		reads := 0
		faulty.PlanRead = func(int) bool {
			if reads++; reads == n {
				w.do(other, set(2))
				w.remove(other, nil, 1)
			}
			return false
		}
		w.send(alice, "hello")
		if more = reads >= n; more {
			w.uses(alice, 2)
		}
		faulty.PlanRead = nil
		w.must(alice.Settle(t.Context(), chat))
		w.reads(bob, "hello")
	}
}
