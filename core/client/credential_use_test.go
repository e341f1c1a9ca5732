// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/storage/memory"
)

// remove tries to remove a credential.
func (w *world) remove(d *clienttest.Device, want error, ref client.CredentialRef) {
	w.Helper()
	w.try(d, want, func(ctx context.Context, tx *client.Transaction) error { return tx.RemoveCredential(ctx, ref) })
}

// A step is what alice does in the chat, or outside.
type step func(ctx context.Context, tx *client.Transaction) error

func onChat(f func(ctx context.Context, c *client.Conversation) error) step {
	return func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, chat)
		if err != nil {
			return err
		}
		return f(ctx, c)
	}
}

func set(ref client.CredentialRef) step {
	return onChat(func(ctx context.Context, c *client.Conversation) error {
		_, err := c.SetCredential(ctx, ref)
		return err
	})
}

func proposeUpdate(ref client.CredentialRef) step {
	return onChat(func(ctx context.Context, c *client.Conversation) error {
		_, err := c.ProposeUpdate(ctx, ref)
		return err
	})
}

func makePackage(o client.KeyPackageOptions) step {
	return func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.MakeKeyPackages(ctx, o, 1)
		return err
	}
}

func (w *world) joinWith(ref client.CredentialRef) step {
	return func(ctx context.Context, tx *client.Transaction) error {
		info, err := w.service.GroupInfo(chat)
		if err == nil {
			_, _, err = tx.JoinByExternalCommit(ctx, info, client.JoinConfig{CredentialRef: ref})
		}
		return err
	}
}

func newChat(id core.ConversationID, ref client.CredentialRef) step {
	return func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, id, client.ConversationConfig{Suite: suite1, CredentialRef: ref})
		return err
	}
}

// A credential is not removed while it is in use, whatever uses it; when that is over
// it is.
func TestRemoveCredential(t *testing.T) {
	t.Parallel()
	wipe := onChat(func(ctx context.Context, c *client.Conversation) error { return c.Wipe(ctx) })
	discard := onChat(func(ctx context.Context, c *client.Conversation) error { return c.DiscardPendingCommit(ctx) })
	packagesGo := func(ctx context.Context, tx *client.Transaction) error { return tx.DeleteKeyPackagesOf(ctx, 2) }
	for name, test := range map[string]struct {
		outside    bool // alice is not in the conversation
		lost       bool // the answer to her commit is
		begin, end step
		later      time.Duration
	}{
		"leaf":        {begin: set(2), end: set(1)},
		"leaf, wiped": {begin: set(2), end: wipe},
		"another conversation": {begin: newChat("another", 2), end: func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.Conversation(ctx, "another")
			if err != nil {
				return err
			}
			return c.Wipe(ctx)
		}},
		"pending commit": {lost: true, begin: set(2), end: discard},
		"own Update": {begin: proposeUpdate(2), end: onChat(func(ctx context.Context, c *client.Conversation) error {
			list, err := c.PendingProposals(ctx)
			if err != nil {
				return err
			}
			return c.ClearPendingProposal(ctx, list[0].Ref)
		})},
		"own Update, taken": {begin: func(ctx context.Context, tx *client.Transaction) error {
			return errors.Join(proposeUpdate(2)(ctx, tx), onChat(update)(ctx, tx)) // our own commit has its leaf
		}, end: set(1)},
		"join": {outside: true, begin: func(ctx context.Context, tx *client.Transaction) error { return errAbort }, end: wipe},
		"waiting join": {outside: true, lost: true, begin: func(ctx context.Context, tx *client.Transaction) error { return errAbort },
			end: func(ctx context.Context, tx *client.Transaction) error { return tx.DiscardPendingJoin(ctx, chat) }},
		"key package": {begin: makePackage(client.KeyPackageOptions{CredentialRef: 2}), end: packagesGo},
		"last resort": {begin: makePackage(client.KeyPackageOptions{CredentialRef: 2, LastResort: true}), end: packagesGo},
		"expired":     {begin: makePackage(client.KeyPackageOptions{CredentialRef: 2}), later: 85 * 24 * time.Hour},
		"shortly":     {begin: makePackage(client.KeyPackageOptions{CredentialRef: 2, Lifetime: time.Minute}), later: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, clienttest.Options{})
			cfg, now := config(), time.Now()
			cfg.Clock = func() time.Time { return now }
			alice, bob := w.deviceOn("alice", memory.New(), cfg), w.device("bob")
			w.create(bob)
			w.in(bob, update) // the service knows the conversation
			if !test.outside {
				w.add(bob, alice)
			}
			own := w.newCredential(alice, suite1, 0)
			if test.outside {
				test.begin = w.joinWith(2)
			}
			if test.lost {
				alice.Link.After = once("commit")
			}
			err := alice.Transaction(t.Context(), test.begin)
			if test.lost != (err != nil) {
				t.Fatal(err)
			}
			w.remove(alice, client.ErrCredentialInUse, 2)
			if !test.outside && name != "leaf" && name != "leaf, wiped" && name != "own Update, taken" {
				w.remove(alice, client.ErrCredentialInUse, 1)
			}
			now = now.Add(test.later)
			if test.end != nil {
				w.do(alice, test.end)
			}
			w.remove(alice, nil, 2)
			w.remove(alice, client.ErrCredentialNotFound, 2)
			if n := len(w.credentials(alice, client.CredentialFilter{SignatureKey: own.SignatureKey})); n != 0 {
				t.Errorf("%d credentials have the key", n)
			}
			for _, f := range []step{newChat("gone", 2), makePackage(client.KeyPackageOptions{CredentialRef: 2})} {
				w.try(alice, client.ErrCredentialNotFound, f)
			}
			w.try(alice, errAbort, func(ctx context.Context, tx *client.Transaction) error { // a number is not used again
				if c, err := tx.NewCredential(ctx, suite1); err != nil || c.Ref != 3 {
					t.Errorf("credential %d, %v", c.Ref, err)
				}
				return errAbort
			})
		})
	}
}

// A removal that is refused has changed nothing, and the transaction goes on.
func TestRemovalRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	w.create(alice)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.RemoveCredential(ctx, 1); !errors.Is(err, client.ErrCredentialInUse) || !errors.Is(err, core.ErrDenied) {
			t.Errorf("a credential in use: %v", err)
		}
		_, err := tx.NewCredential(ctx, suite1)
		return err
	})
	w.uses(alice, 1)
	w.send(alice, "hello")
	// Within one transaction it sees what that did.
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		if err := newChat("another", 2)(ctx, tx); err != nil {
			return err
		}
		if err := tx.RemoveCredential(ctx, 2); !errors.Is(err, client.ErrCredentialInUse) {
			t.Errorf("a credential that this transaction uses: %v", err)
		}
		c, err := tx.Conversation(ctx, "another")
		return errors.Join(err, c.Wipe(ctx), tx.RemoveCredential(ctx, 2))
	})
	w.remove(alice, client.ErrCredentialNotFound, 2)
}

// A commit that is staged has its credential in use while it waits for its turn, and
// gets through with it.
func TestRemoveCredentialOfStagedCommit(t *testing.T) {
	t.Parallel()
	for _, discard := range []bool{false, true} {
		w := newWorld(t, clienttest.Options{})
		alice, bob := w.device("alice"), w.device("bob")
		w.create(alice)
		w.add(alice, bob)
		w.newCredential(alice, suite1, 0)
		up := down(alice)
		var key client.IdempotencyKey
		w.in(alice, func(ctx context.Context, c *client.Conversation) (err error) {
			if _, err := c.Send(ctx, []byte("before"), nil); err != nil {
				return err
			}
			key, err = c.StageCommit(ctx, client.Changes{Rotate: 2})
			return err
		})
		w.remove(alice, client.ErrCredentialInUse, 2)
		if discard {
			w.in(alice, func(ctx context.Context, c *client.Conversation) error { return c.DiscardStaged(ctx, key) })
			w.remove(alice, nil, 2)
		}
		up()
		w.must(alice.Settle(t.Context(), chat))
		w.catchUp()
		w.agree(alice, bob)
		w.reads(bob, "before")
		if discard {
			w.uses(alice, 1)
			continue
		}
		w.uses(alice, 2)
		w.remove(alice, nil, 1)
		w.remove(alice, client.ErrCredentialInUse, 2)
	}
}

// 13.36: what others overtake is renewed with the credential that was meant, one that
// shares the key of the leaf included; and what meant none brings none.
func TestRenewalKeepsTheCredential(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		begin step
		want  client.CredentialRef
	}{
		"new key":   {proposeUpdate(2), 2},
		"same key":  {proposeUpdate(3), 3},
		"none":      {proposeUpdate(0), 1},
		"commit":    {staging(client.Changes{Rotate: 2}), 2},
		"no commit": {staging(client.Changes{Update: true}), 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, clienttest.Options{})
			alice, bob := w.deviceOn("alice", memory.New(), certifiedConfig()), w.deviceOn("bob", memory.New(), certifiedConfig())
			w.create(alice)
			w.add(alice, bob)
			w.newCredential(alice, suite1, 0)
			w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
				list, err := tx.Credentials(ctx, client.CredentialFilter{})
				if err == nil {
					_, err = tx.AddCredential(ctx, certificate("alice", 1), list[0].SignatureKey)
				}
				return err
			})
			up := down(alice)
			w.do(alice, test.begin)
			w.in(bob, update)
			up()
			w.must(alice.Link.Drain(t.Context(), chat))
			if test.want != 1 {
				w.remove(alice, client.ErrCredentialInUse, test.want)
			}
			w.must(alice.Settle(t.Context(), chat))
			w.catchUp()
			w.in(bob, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.CommitPendingProposals(ctx)
				return err
			})
			w.catchUp()
			w.agree(alice, bob)
			w.uses(alice, test.want)
		})
	}
}

// 13.36: of two Updates of ours a commit takes the one that brings a credential. The
// other, when it is renewed, does not bring the old one back.
func TestRenewalDoesNotUndoARotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	w.newCredential(alice, suite1, 0)
	w.do(alice, proposeUpdate(0))
	w.do(alice, proposeUpdate(2))
	w.must(bob.Link.Drain(t.Context(), chat))
	for range 2 { // the second takes what was renewed
		w.in(bob, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
		w.catchUp()
		w.agree(alice, bob)
		w.uses(alice, 2)
	}
}

func staging(changes client.Changes) step {
	return onChat(func(ctx context.Context, c *client.Conversation) error {
		_, err := c.StageCommit(ctx, changes)
		return err
	})
}

// Two processes: one removes a credential, the other takes it into use. Whoever comes
// second has a conflict.
func TestCredentialTakenWhileRemoved(t *testing.T) {
	t.Parallel()
	type taker struct {
		name    string
		outside bool
		take    func(w *world) step
	}
	plain := func(s step) func(*world) step { return func(*world) step { return s } }
	takers := []taker{
		{"new conversation", false, plain(newChat("another", 2))},
		{"key package", false, plain(makePackage(client.KeyPackageOptions{CredentialRef: 2}))},
		{"update", false, plain(proposeUpdate(2))},
		{"rotation", false, plain(set(2))},
		{"join", true, func(w *world) step { return w.joinWith(2) }},
		{"another credential", false, plain(func(ctx context.Context, tx *client.Transaction) error {
			list, err := tx.Credentials(ctx, client.CredentialFilter{})
			if err != nil || len(list) < 2 {
				return errors.Join(err, client.ErrCredentialNotFound)
			}
			_, err = tx.AddCredential(ctx, certificate("alice", 1), list[1].SignatureKey)
			return err
		})},
	}
	begin := func(t *testing.T, outside bool) (w *world, alice, other *clienttest.Device, faulty *coretest.Faulty) {
		w = newWorld(t, clienttest.Options{})
		ks := memory.New()
		faulty = &coretest.Faulty{Keystore: ks}
		alice, bob := w.deviceOn("alice", faulty, certifiedConfig()), w.device("bob")
		w.create(bob)
		w.in(bob, update)
		if !outside {
			w.add(bob, alice)
			w.send(bob, "for alice") // who has it still to read
		}
		w.newCredential(alice, suite1, 0)
		w.must(alice.Close(t.Context())) // the next has no key in memory
		alice = clienttest.NewDevice(t, w.service, "alice", faulty, certifiedConfig())
		return w, alice, clienttest.NewDevice(t, w.service, "alice", ks, certifiedConfig()), faulty
	}
	for _, taker := range takers {
		t.Run(taker.name, func(t *testing.T) {
			t.Parallel()
			w, alice, other, _ := begin(t, taker.outside)
			tx, err := other.Begin(t.Context())
			w.must(err)
			defer func() { _ = tx.Abort(context.Background()) }()
			w.must(tx.RemoveCredential(t.Context(), 2))
			w.do(alice, taker.take(w))
			if err := tx.Finish(t.Context()); !errors.Is(err, core.ErrConflict) {
				t.Errorf("a credential that was taken into use was removed: %v", err)
			}
			if n := len(w.credentials(alice, client.CredentialFilter{})); n < 2 {
				t.Errorf("%d credentials are left", n)
			}
		})
		t.Run(taker.name+", removed first", func(t *testing.T) {
			t.Parallel()
			w, alice, other, faulty := begin(t, taker.outside)
			removed := false
			faulty.Plan = func(int, core.Batch) coretest.Fault {
				if !removed {
					removed = true
					w.remove(other, nil, 2)
				}
				return coretest.FaultNone
			}
			err := alice.Transaction(t.Context(), taker.take(w))
			if !errors.Is(err, client.ErrCredentialNotFound) || !removed {
				t.Errorf("a credential that was removed was taken into use: %v", err)
			}
			if n := len(w.credentials(alice, client.CredentialFilter{})); n != 1 {
				t.Errorf("%d credentials are left", n)
			}
			if !taker.outside {
				w.uses(alice, 1)
				w.in(alice, update)
			}
		})
	}
	// The removal comes between two reads.
	for _, taker := range takers {
		t.Run(taker.name+", removed while it reads", func(t *testing.T) {
			t.Parallel()
			for n, more := 1, true; more; n++ {
				w, alice, other, faulty := begin(t, taker.outside)
				reads := 0
				var removal error
				faulty.PlanRead = func(int) bool {
					if reads++; reads == n {
						removal = other.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
							return tx.RemoveCredential(ctx, 2)
						})
					}
					return false
				}
				err := alice.Transaction(t.Context(), taker.take(w))
				more = reads >= n
				if taker.name == "another credential" && errors.Is(err, client.ErrWrongCredential) {
					err = client.ErrCredentialNotFound // the key is not ours any more
				}
				taken := !more || errors.Is(removal, client.ErrCredentialInUse)
				if taken && err != nil || !taken && (removal != nil || !errors.Is(err, client.ErrCredentialNotFound)) {
					t.Errorf("removed at read %d: %v; taken: %v", n, removal, err)
				}
			}
		})
	}
	t.Run("traffic does not disturb", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, clienttest.Options{})
		ks := memory.New()
		alice := w.deviceOn("alice", ks, config())
		w.create(alice)
		w.newCredential(alice, suite1, 0)
		other := clienttest.NewDevice(t, w.service, "alice", ks, config())
		tx, err := other.Begin(t.Context())
		w.must(err)
		defer func() { _ = tx.Abort(context.Background()) }()
		w.must(tx.RemoveCredential(t.Context(), 2))
		w.send(alice, "hello")
		w.in(alice, update)
		w.must(tx.Finish(t.Context()))
	})
}

// A removal that looks at a conversation while it goes on sees one state of it, or has
// a conflict: what is an Update at first, and then our leaf, is in use all the time.
func TestRemovalWhileTheConversationGoesOn(t *testing.T) {
	t.Parallel()
	for n, more := 1, true; more; n++ {
		w := newWorld(t, clienttest.Options{})
		ks := memory.New()
		alice, bob := w.deviceOn("alice", ks, config()), w.device("bob")
		w.create(alice)
		w.add(alice, bob)
		w.newCredential(alice, suite1, 0)
		w.do(alice, proposeUpdate(2))
		w.must(bob.Link.Drain(t.Context(), chat))
		w.in(bob, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
		faulty := &coretest.Faulty{Keystore: ks}
		other := clienttest.NewDevice(t, w.service, "alice", faulty, config())
		reads := 0
		faulty.PlanRead = func(int) bool {
			if reads++; reads == n {
				w.must(alice.Link.Drain(t.Context(), chat))
			}
			return false
		}
		tx, err := other.Begin(t.Context())
		w.must(err)
		err = tx.RemoveCredential(t.Context(), 2)
		if err == nil {
			err = tx.Finish(t.Context())
		}
		_ = tx.Abort(t.Context())
		if !errors.Is(err, client.ErrCredentialInUse) && !errors.Is(err, core.ErrConflict) {
			t.Errorf("at read %d: %v", n, err)
		}
		more = reads >= n
		w.must(alice.Link.Drain(t.Context(), chat))
		w.uses(alice, 2)
		if more && n > 50 {
			t.Fatal("the removal does not end")
		}
	}
}

// A credential that is removed leaves nothing behind.
func TestRemovedWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	cfg, now, ks := config(), time.Now(), memory.New()
	cfg.Clock = func() time.Time { return now }
	alice := w.deviceOn("alice", ks, cfg)
	w.create(alice)
	w.packages(alice, client.KeyPackageOptions{}, 1)
	before, _ := w.rows(ks)
	w.newCredential(alice, suite1, 0)
	w.packages(alice, client.KeyPackageOptions{Lifetime: time.Minute}, 2)
	up := down(alice)
	w.do(alice, proposeUpdate(2))
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		list, err := c.PendingProposals(ctx)
		if err != nil {
			return err
		}
		return c.ClearPendingProposal(ctx, list[0].Ref)
	})
	up()
	w.must(alice.Settle(t.Context(), chat))
	w.do(alice, newChat("another", 2))
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, "another")
		if err != nil {
			return err
		}
		return c.Wipe(ctx)
	})
	now = now.Add(time.Hour)
	w.remove(alice, nil, 2)
	if after, _ := w.rows(ks); after != before {
		t.Errorf("tables with records before %s, after %s", before, after)
	}
}

// One of many conversations is enough to keep a credential.
func TestRemoveCredentialAmongMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	w.newCredential(alice, suite1, 0)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		for i := range 30 {
			if err := newChat(core.ConversationID([]byte{byte(i)}), client.CredentialRef(1+i/29))(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	w.remove(alice, client.ErrCredentialInUse, 1)
	w.remove(alice, client.ErrCredentialInUse, 2)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, core.ConversationID([]byte{29}))
		if err != nil {
			return err
		}
		return c.Wipe(ctx)
	})
	w.remove(alice, nil, 2)
}
