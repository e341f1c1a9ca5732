// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// pair is alice and bob in a chat, of a world that has its policy.
func (w *world) pair() (alice, bob *clienttest.Device) {
	w.Helper()
	alice, bob = w.device("alice"), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	return alice, bob
}

// reopen ends a device's process and starts another on the same store.
func (w *world) reopen(d *clienttest.Device, ks core.Keystore) *clienttest.Device {
	w.Helper()
	w.must(d.Close(w.Context()))
	again := clienttest.NewDevice(w, w.service, d.Link.ID, ks, config())
	again.Join.Group = w.policy
	if i := slices.Index(w.devices, d); i >= 0 {
		w.devices[i] = again
	}
	return again
}

// last is the newest message that the service has accepted.
func (w *world) last() []byte {
	w.Helper()
	log := w.service.Log(chat)
	return log[len(log)-1]
}

// gives has a device process a message that is in order.
func (w *world) gives(d *clienttest.Device, message []byte) client.Received {
	w.Helper()
	r, err := w.give(d, message)
	w.must(err)
	return r
}

func (w *world) info(d *clienttest.Device) client.Info {
	w.Helper()
	i, err := d.Info(w.Context(), chat)
	w.must(err)
	return i
}

func quirkOrphan(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, "parent", client.ConversationConfig{})
		return err
	})
	w.in(bob, func(ctx context.Context, c *client.Conversation) error { return c.SetParent(ctx, "parent") })
	wipe(w, bob, "parent")
	w.send(alice, "hello")
	w.reads(bob, "hello")
	w.in(bob, update)
	if i := w.info(bob); i.Parent != "parent" {
		t.Errorf("parent %q", i.Parent)
	}
}

// What waits for another epoch, for proposals and for the answer to a join, goes.
func quirkWipeTakesAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice, carol, bob := w.device("alice"), w.device("carol"), w.deviceOn("bob", ks, config())
	w.create(alice)
	w.add(alice, carol)
	k := w.keyPackage(bob)
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error { // so that lists have their heads
		_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{})
		return err
	})
	wipe(w, bob, chat)
	const pool, keyPackages = 21, 22 // of which one will be used up
	before, _ := w.rows(ks, pool, keyPackages)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error { _, err := c.AddMembers(ctx, k); return err })
	w.catchUp()
	n := len(w.service.Log(chat))
	w.in(alice, func(ctx context.Context, c *client.Conversation) error { _, err := c.ProposeUpdate(ctx, 0); return err })
	w.must(carol.Link.Drain(t.Context(), chat))
	w.in(carol, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.CommitPendingProposals(ctx)
		return err
	})
	w.send(carol, "of the next epoch")
	for i, reason := range []client.BufferReason{client.MissingProposals, client.FutureEpoch} {
		if b, ok := w.gives(bob, w.since(n)[i+1]).(*client.Buffered); !ok || b.Reason != reason {
			t.Fatalf("%+v", b)
		}
	}
	bob.Link.Before = once("commit")
	if err := w.join(bob); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	wipe(w, bob, chat)
	if after, _ := w.rows(ks, pool, keyPackages); after != before {
		t.Errorf("rows%s, then%s", before, after)
	}
	if ids, err := bob.Conversations(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("bob has %q, %v", ids, err)
	}
	w.create(bob)
}

// Wiped and joined again in one transaction: the conversation is there.
func quirkWipeAndJoin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	k := w.keyPackage(bob)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.RemoveMembers(ctx, "bob")
		return err
	})
	w.in(alice, func(ctx context.Context, c *client.Conversation) error { _, err := c.AddMembers(ctx, k); return err })
	welcome, ok := w.service.Welcome("bob")
	if !ok {
		t.Fatal("no Welcome")
	}
	w.in(bob, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Encrypt(ctx, []byte("x"), nil)
		return err
	})
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, chat)
		if err != nil {
			return err
		}
		if err := c.Wipe(ctx); err != nil {
			return err
		}
		_, err = tx.ProcessWelcome(ctx, welcome.Message, client.JoinConfig{})
		return err
	})
	w.agree(alice, bob)
	w.send(alice, "again")
	w.gives(bob, w.last())
}

func quirkWelcomeFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	k := w.keyPackage(bob)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error { _, err := c.AddMembers(ctx, k); return err })
	welcome, ok := w.service.Welcome("bob")
	if !ok {
		t.Fatal("no Welcome")
	}
	w.create(bob)
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		if _, err := tx.ProcessWelcome(ctx, welcome.Message, client.JoinConfig{}); !errors.Is(err, client.ErrConversationExists) {
			t.Errorf("a conversation that is there: %v", err)
		}
		return tx.SetData(ctx, []byte("and it goes on"))
	})
	if n := len(w.poolOf(bob, suite1)); n != 1 {
		t.Fatalf("%d key packages", n)
	}
	wipe(w, bob, chat)
	w.must(bob.Welcomes(t.Context()))
	w.agree(alice, bob)
}

func quirkJoinReplays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	_, bob := w.pair()
	dave := w.device("dave")
	dave.Link.After = func(call string) error { // bob is quicker than the answer
		if call != "commit" {
			return nil
		}
		w.must(bob.Link.Drain(t.Context(), chat))
		w.send(bob, "welcome")
		if b, ok := w.gives(dave, w.last()).(*client.Buffered); !ok || b.Reason != client.JoinPending {
			t.Errorf("%+v", b)
		}
		return nil
	}
	info, err := w.service.GroupInfo(chat)
	w.must(err)
	var joined *client.CommitResult
	w.do(dave, func(ctx context.Context, tx *client.Transaction) (err error) {
		_, joined, err = tx.JoinByExternalCommit(ctx, info, client.JoinConfig{})
		return err
	})
	if texts := textsOf(joined); !slices.Equal(texts, []string{"welcome"}) {
		t.Errorf("the join came with %q", texts)
	}
	if i := w.info(dave); i.Buffered != 0 {
		t.Errorf("%d are buffered", i.Buffered)
	}
}

// The old group is in the epoch that our join ends: it would see that we are removed.
func quirkJoinEcho(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	bob.Link.After = once("commit")
	if err := w.join(bob); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	if i := w.info(bob); i.Epoch != 1 || !i.PendingJoin {
		t.Fatalf("%+v", i)
	}
	c, ok := w.gives(bob, w.last()).(*client.CommitResult)
	if !ok || !c.Own || !c.Active || c.Epoch != 2 {
		t.Errorf("%+v", c)
	}
	w.must(alice.Link.Drain(t.Context(), chat))
	w.agree(alice, bob)
}

func quirkUnreadable(t *testing.T) {
	t.Parallel()
	for what, damage := range map[string]func(r core.Record) core.Batch{
		"changed": func(r core.Record) core.Batch {
			value := slices.Clone(r.Value)
			value[len(value)/2] ^= 1
			return core.Batch{Puts: []core.Put{{Table: client.TableGroup, Key: r.Key, Value: value, Version: core.Version{1}}}}
		},
		"gone": func(r core.Record) core.Batch {
			return core.Batch{Dels: []core.Range{{Table: client.TableGroup, Prefix: r.Key}}}
		},
	} {
		w := newWorld(t, clienttest.Options{})
		ks := memory.New()
		alice, bob := w.device("alice"), w.deviceOn("bob", ks, config())
		w.create(alice)
		w.add(alice, bob)
		answers, err := ks.Read(t.Context(), []core.Query{{Table: client.TableGroup}})
		w.must(err)
		for _, r := range answers[0] {
			w.must(ks.Apply(t.Context(), damage(r)))
		}
		bob = clienttest.NewDevice(t, w.service, "bob", ks, config()) // which has nothing in memory
		w.send(alice, "hello")
		for name, err := range map[string]error{
			"decrypt": second(w.give(bob, w.last())),
			"epoch":   second(bob.View(chat).Epoch(t.Context())),
			"exists":  second(bob.ConversationExists(t.Context(), chat)),
			"open":    in(t.Context(), bob, func(context.Context, *client.Conversation) error { return nil }),
		} {
			if !errors.Is(err, core.ErrDamaged) || errors.Is(err, client.ErrConversationNotFound) {
				t.Errorf("%s, %s: %v", what, name, err)
			}
		}
		// The two ways out.
		if what == "gone" {
			w.do(bob, func(ctx context.Context, tx *client.Transaction) error { return tx.WipeConversation(ctx, chat) })
			if on, err := bob.ConversationExists(t.Context(), chat); on || err != nil {
				t.Errorf("after it was wiped: %v %v", on, err)
			}
		}
		r, err := bob.Rejoin(t.Context(), chat)
		if err != nil || !r.Own {
			t.Fatalf("%+v %v", r, err)
		}
		w.must(alice.Link.Drain(t.Context(), chat))
		w.agree(alice, bob)
	}
}

func second[T any](_ T, err error) error { return err }

// texts sends n texts and returns their ciphertexts.
func (w *world) texts(d *clienttest.Device, n int) (messages [][]byte) {
	w.Helper()
	w.in(d, func(ctx context.Context, c *client.Conversation) error {
		for range n {
			m, err := c.Encrypt(ctx, []byte("text"), nil)
			if err != nil {
				return err
			}
			messages = append(messages, m)
		}
		return nil
	})
	return messages
}

func quirkNoDuplicates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	w.policy.MaxForward = 5
	alice, bob := w.pair()
	m := w.texts(alice, 13)
	for _, step := range []struct {
		i    int
		want error
	}{
		{6, mls.ErrTooFarAhead}, {5, nil}, {5, mls.ErrDuplicateMessage}, {4, nil}, {4, mls.ErrDuplicateMessage},
		{3, mls.ErrTooOld}, {0, mls.ErrTooOld}, {12, mls.ErrTooFarAhead}, {11, nil},
	} {
		_, err := w.give(bob, m[step.i])
		if !errors.Is(err, step.want) || step.want != mls.ErrDuplicateMessage && errors.Is(err, mls.ErrDuplicateMessage) {
			t.Errorf("generation %d: %v, want %v", step.i, err, step.want)
		}
	}
	own := w.texts(bob, 1)
	if _, err := w.give(bob, own[0]); !errors.Is(err, mls.ErrOwnMessage) {
		t.Errorf("our own: %v", err)
	}
	old := w.texts(alice, 1)
	for range 4 {
		w.update(alice)
	}
	w.must(bob.Link.Drain(t.Context(), chat))
	if _, err := w.give(bob, old[0]); !errors.Is(err, mls.ErrTooOld) || errors.Is(err, mls.ErrDuplicateMessage) {
		t.Errorf("of an epoch that is not kept: %v", err)
	}
}

func quirkRemoved(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		alice, bob := w.pair()
		n := len(w.service.Log(chat))
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.RemoveMembers(ctx, "bob")
			return err
		})
		w.send(alice, "not for bob")
		log := w.since(n)
		if b, ok := w.gives(bob, log[1]).(*client.Buffered); !ok {
			t.Fatalf("%+v", b)
		}
		up := down(bob)
		w.propose(bob)
		bob.Events()
		c, ok := w.gives(bob, log[0]).(*client.CommitResult)
		if !ok || c.Active || len(c.Renewed)+len(c.Dropped)+len(c.Replayed) != 0 || !slices.Equal(c.Removed, []core.ClientID{"bob"}) {
			t.Errorf("%+v", c)
		}
		up()
		left, lapsed := eventsOf2[client.Left, client.Lapsed](bob)
		if len(left) != 1 || len(lapsed) != 1 {
			t.Errorf("%+v %+v", left, lapsed)
		}
		if _, err := bob.Info(t.Context(), chat); !errors.Is(err, client.ErrConversationNotFound) {
			t.Error(err)
		}
		w.create(bob) // the id is free
	})
}

func quirkOwnEcho(t *testing.T) {
	t.Parallel()
	for _, discard := range []bool{false, true} {
		w := newWorld(t, clienttest.Options{})
		w.policy = private
		alice, bob := w.pair()
		alice.Link.After = once("commit")
		if err := in(t.Context(), alice, update); !errors.Is(err, core.ErrUnknownOutcome) {
			t.Fatal(err)
		}
		if discard {
			w.in(alice, func(ctx context.Context, c *client.Conversation) error { return c.DiscardPendingCommit(ctx) })
			_, err := w.give(alice, w.last())
			if !errors.Is(err, mls.ErrOwnMessage) || errors.Is(err, mls.ErrDuplicateMessage) {
				t.Errorf("a commit that was given up: %v", err)
			}
			continue
		}
		c, ok := w.gives(alice, w.last()).(*client.CommitResult)
		if !ok || !c.Own || c.Committer != "alice" {
			t.Errorf("%+v", c)
		}
		w.must(bob.Link.Drain(t.Context(), chat))
		w.agree(alice, bob)
		if _, err := w.give(alice, w.last()); !errors.Is(err, mls.ErrDuplicateMessage) {
			t.Errorf("the echo again: %v", err)
		}
	}
}

func quirkPoison(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		alice, bob := w.pair()
		w.update(alice)
		commit := w.last()
		w.send(alice, "good")
		good := w.last()
		poison := slices.Clone(good)
		poison[len(poison)-1] ^= 1
		for _, message := range [][]byte{poison, good} {
			if b, ok := w.gives(bob, message).(*client.Buffered); !ok {
				t.Fatalf("%+v", b)
			}
		}
		c, ok := w.gives(bob, commit).(*client.CommitResult)
		if !ok || len(c.Replayed) != 2 || !errors.Is(c.Replayed[0].Err, core.ErrInvalid) || !slices.Equal(textsOf(c), []string{"good"}) {
			t.Errorf("%+v", c)
		}
		if i := w.info(bob); i.Buffered != 0 || i.Epoch != 2 {
			t.Errorf("%+v", i)
		}
	})
}

func quirkBufferedCommit(t *testing.T) {
	t.Parallel()
	bufferedCommit(t, true)
}

func quirkBufferedCommitInOne(t *testing.T) {
	t.Parallel()
	bufferedCommit(t, false)
}

// bufferedCommit has bob get a commit before the proposal that it names, in another
// process or in a transaction with other writes.
func bufferedCommit(t *testing.T, restart bool) {
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice, carol, bob := w.device("alice"), w.device("carol"), w.deviceOn("bob", ks, config())
	w.create(alice)
	w.add(alice, carol, bob)
	w.propose(alice)
	proposal := w.last()
	w.must(carol.Link.Drain(t.Context(), chat))
	w.in(carol, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.CommitPendingProposals(ctx)
		return err
	})
	commit := w.last()
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		r, err := tx.DecryptMessage(ctx, chat, commit)
		if b, ok := r.(*client.Buffered); err == nil && (!ok || b.Reason != client.MissingProposals) {
			t.Errorf("%+v", r)
		}
		return errors.Join(err, tx.SetData(ctx, []byte("and more")))
	})
	if restart {
		bob = w.reopen(bob, ks)
	}
	if !w.info(bob).BufferedCommit {
		t.Error("nobody is told that a commit waits")
	}
	c, ok := w.gives(bob, proposal).(*client.CommitResult)
	if !ok || c.Committer != "carol" {
		t.Fatalf("%+v", c)
	}
	w.agree(bob, carol)
}

func quirkRemoveFirst(t *testing.T) {
	t.Parallel()
	for _, last := range []string{"remove", "update"} {
		w, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
		removes := func() {
			w.in(carol, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.ProposeRemove(ctx, "bob")
				return err
			})
		}
		if last == "update" {
			removes()
		}
		w.propose(bob)
		if last == "remove" {
			removes()
		}
		w.must(alice.Link.Drain(t.Context(), chat))
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			r, err := c.CommitPendingProposals(ctx)
			if err == nil && !slices.Equal(r.Removed, []core.ClientID{"bob"}) {
				t.Errorf("%s last: %+v", last, r)
			}
			return err
		})
		w.catchUp()
		w.agree(alice, carol)
	}
}

// A credential is taken into use by our own Update and our own commit.
func quirkOwnUpdate(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"alice", "bob"} {
		w, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
		var own client.Credential
		w.do(alice, func(ctx context.Context, tx *client.Transaction) (err error) {
			own, err = tx.NewCredential(ctx, suite1)
			return err
		})
		if first == "bob" {
			w.propose(bob)
			w.must(alice.Link.Drain(t.Context(), chat))
		}
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposeUpdate(ctx, own.Ref)
			return err
		})
		if first == "alice" {
			w.propose(bob)
			w.must(alice.Link.Drain(t.Context(), chat))
		}
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
		w.catchUp()
		w.agree(alice, bob, carol)
		members, err := bob.View(chat).Members(t.Context())
		w.must(err)
		if !slices.Equal(members[0].SignatureKey, own.SignatureKey) || members[0].ClientID != "alice" {
			t.Errorf("%s first: alice's leaf has not taken what she proposed", first)
		}
	}
}
