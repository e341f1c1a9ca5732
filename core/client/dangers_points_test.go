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
	"github.com/conclave-mls/conclave/storage/memory"
)

// A callback that returns whatever DecryptMessage returned has kept the message.
func dangerBuffered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice, bob := w.device("alice"), w.deviceOn("bob", ks, config())
	w.create(alice)
	w.add(alice, bob)
	w.update(alice)
	commit := w.last()
	w.send(alice, "early")
	if b, ok := w.gives(bob, w.last()).(*client.Buffered); !ok || b.Reason != client.FutureEpoch {
		t.Fatalf("%+v", b)
	}
	bob = w.reopen(bob, ks)
	if i := w.info(bob); i.Buffered != 1 {
		t.Errorf("%d are buffered", i.Buffered)
	}
	if texts := textsOf(w.gives(bob, commit)); !slices.Equal(texts, []string{"early"}) {
		t.Errorf("%q", texts)
	}
}

// The replay deletes, and then something is buffered in the same transaction.
func dangerBufferAfterReplay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	n := len(w.service.Log(chat))
	w.update(alice)
	w.send(alice, "one")
	w.update(alice)
	w.send(alice, "two")
	log := w.since(n)
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		for _, i := range []int{1, 0, 3} {
			r, err := tx.DecryptMessage(ctx, chat, log[i])
			if err != nil {
				return err
			}
			if i == 0 && !slices.Equal(textsOf(r), []string{"one"}) {
				t.Errorf("%+v", r)
			}
		}
		return nil
	})
	if i := w.info(bob); i.Buffered != 1 {
		t.Fatalf("%d are buffered", i.Buffered)
	}
	if texts := textsOf(w.gives(bob, log[2])); !slices.Equal(texts, []string{"two"}) {
		t.Errorf("%q", texts)
	}
}

// What a client knows of itself, and of its conversations, is as it was.
func dangerAbort(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.nobody(memory.New())
	undo := func(d *clienttest.Device, f func(ctx context.Context, tx *client.Transaction) error) {
		t.Helper()
		w.tries(d, errAbort, func(ctx context.Context, tx *client.Transaction) error { return errors.Join(f(ctx, tx), errAbort) })
	}
	undo(alice, func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "mallory", suite1) })
	if id, err := alice.ClientID(t.Context()); !errors.Is(err, client.ErrNotInitialized) {
		t.Errorf("%q, %v", id, err)
	}
	w.tries(alice, client.ErrNotInitialized, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{})
		return err
	})
	alice.Identify(w, suite1)
	w.devices = append(w.devices, alice)
	bob := w.device("bob")
	w.create(bob)
	w.add(bob, alice)
	key, err := alice.ClientPublicKey(t.Context(), suite1, 0)
	w.must(err)
	undo(alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewCredential(ctx, suite1)
		return err
	})
	if again, err := alice.ClientPublicKey(t.Context(), suite1, 0); err != nil || !bytes.Equal(again, key) {
		t.Errorf("a credential that is not stored is the newest: %v", err)
	}
	// A group that went on in memory only, by a text and by a commit.
	w.send(bob, "text")
	text := w.last()
	w.update(bob)
	commit := w.last()
	for _, message := range [][]byte{text, commit} {
		undo(alice, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.DecryptMessage(ctx, chat, message)
			return err
		})
	}
	if got, ok := w.gives(alice, text).(*client.Text); !ok || string(got.Data) != "text" {
		t.Errorf("%+v", got)
	}
	w.gives(alice, commit)
	w.agree(alice, bob)
}

// A boundary that was cancelled, or whose store failed, holds nothing either.
func dangerSlot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	ctx, cancel := context.WithCancel(t.Context())
	alice.Link.Before = func(call string) error {
		if call != "commit" {
			return nil
		}
		alice.Link.Before = nil
		cancel()
		return context.Canceled
	}
	if err := in(ctx, alice, update); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	within(t, func() {
		w.in(alice, update)
		w.catchUp()
		w.agree(alice, bob)
	})
	ctx, cancel = context.WithCancel(t.Context())
	if err := in(ctx, alice, func(context.Context, *client.Conversation) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a transaction that was cancelled with nothing to write: %v", err)
	}
	tx, err := alice.Begin(t.Context())
	w.must(err)
	_, err = tx.Conversation(t.Context(), chat)
	w.must(err)
	short, stop := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer stop()
	if err := in(short, alice, update); !errors.Is(err, context.DeadlineExceeded) { // who waits gives up
		t.Error(err)
	}
	w.must(tx.Abort(t.Context()))
	within(t, func() { w.in(alice, update); w.must(alice.Close(t.Context())) })
}

// Another process sees the commit before the service does, and can finish it.
func dangerDurableFirst(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ks := memory.New()
		bob, alice := w.device("bob"), w.deviceOn("alice", ks, config())
		w.create(bob)
		w.add(bob, alice)
		told := w.answering(alice)
		alice.Link.Before = func(call string) error {
			if call != "commit" {
				return nil
			}
			alice.Link.Before = nil
			again := clienttest.NewDevice(t, w.service, "alice", ks, config())
			if i := w.info(again); !i.PendingCommit {
				t.Errorf("sent before it was durable: %+v", i)
			}
			w.must(again.Close(t.Context()))
			return errNetwork // the process dies here
		}
		w.triesIn(alice, core.ErrUnknownOutcome, update)
		alice = w.reopen(alice, ks)
		alice.Link.Service = told
		w.must(alice.Resume(t.Context()))
		w.catchUp()
		w.agree(alice, bob)
		if len(told.got) != 1 {
			t.Errorf("%d commits were sent", len(told.got))
		}
	})
}

func dangerUnknown(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		alice, bob := w.pair()
		for range 3 { // however often
			alice.Link.After = once("commit")
			told := w.answering(alice, client.Outcome{})
			err := in(t.Context(), alice, update)
			if !errors.Is(err, core.ErrUnknownOutcome) || errors.Is(err, core.ErrDenied) {
				t.Fatal(err)
			}
			if i := w.info(alice); !i.PendingCommit || i.Epoch != 1 {
				t.Fatalf("%+v", i)
			}
			alice.Link.Service = told.Backend
		}
		w.must(alice.Resume(t.Context()))
		w.catchUp()
		w.agree(alice, bob)
	})
}

// The bundle of the epoch that is over is not sent again.
func dangerRetry(t *testing.T) {
	t.Parallel()
	w, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
	told := w.answering(alice)
	wins := func(f func(ctx context.Context, c *client.Conversation) error) {
		told.got = nil
		alice.Link.Before = func(call string) error {
			if call == "commit" {
				alice.Link.Before = nil
				w.in(bob, f)
			}
			return nil
		}
	}
	remove := func(ctx context.Context, c *client.Conversation) error {
		_, err := c.RemoveMembers(ctx, "carol")
		return err
	}
	wins(update)
	w.in(alice, update)
	if len(told.got) != 2 || told.got[0] == told.got[1] || w.epoch(alice) != 3 {
		t.Errorf("%d commits were sent, epoch %d", len(told.got), w.epoch(alice))
	}
	w.catchUp()
	w.agree(alice, bob, carol)
	wins(remove)
	w.in(alice, remove) // nothing is left to do: that is success
	if len(told.got) != 1 || w.epoch(alice) != 4 {
		t.Errorf("%d commits were sent, epoch %d", len(told.got), w.epoch(alice))
	}
	w.agree(alice, bob)
}

func dangerNothingHeld(t *testing.T) {
	t.Parallel()
	w, alice, bob, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
	w.send(bob, "waiting")
	asked := 0
	alice.Link.Before = func(call string) error {
		asked++
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var got client.Received
		err := in(ctx, alice, func(ctx context.Context, c *client.Conversation) (err error) {
			got, err = c.DecryptMessage(ctx, w.last())
			return err
		})
		if text, ok := got.(*client.Text); err != nil || !ok || string(text.Data) != "waiting" {
			t.Errorf("%+v, %v", got, err)
		}
		return nil
	}
	within(t, func() { w.in(alice, update) })
	if asked != 1 {
		t.Errorf("the service was asked %d times", asked)
	}
}

// A text by its generation, a proposal because it waits, a commit because it began the
// epoch.
func dangerDuplicates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	w.send(alice, "text")
	w.propose(alice)
	log := w.service.Log(chat)
	w.gives(bob, log[len(log)-2])
	w.gives(bob, log[len(log)-1])
	for what, message := range map[string][]byte{"text": log[len(log)-2], "proposal": log[len(log)-1]} {
		if _, err := w.give(bob, message); !errors.Is(err, mls.ErrDuplicateMessage) {
			t.Errorf("%s again: %v", what, err)
		}
	}
	if i := w.info(bob); i.PendingProposals != 1 {
		t.Errorf("%d proposals wait", i.PendingProposals)
	}
	w.update(alice)
	w.gives(bob, w.last())
	if _, err := w.give(bob, w.last()); !errors.Is(err, mls.ErrDuplicateMessage) {
		t.Errorf("commit again: %v", err)
	}
	if _, err := w.give(alice, w.last()); !errors.Is(err, mls.ErrDuplicateMessage) {
		t.Errorf("our own commit after it was accepted: %v", err)
	}
}

func dangerFarFuture(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		alice, bob := w.pair()
		n := len(w.service.Log(chat))
		w.update(alice)
		w.send(alice, "next")
		w.update(alice)
		w.send(alice, "far")
		log := w.since(n)
		if b, ok := w.gives(bob, log[1]).(*client.Buffered); !ok {
			t.Errorf("%+v", b)
		}
		if _, err := w.give(bob, log[3]); !errors.Is(err, mls.ErrWrongEpoch) {
			t.Errorf("of the epoch after: %v", err)
		}
		if b, ok := w.gives(bob, log[2]).(*client.Buffered); !ok { // which ends the next one
			t.Errorf("%+v", b)
		}
		if i := w.info(bob); i.Buffered != 2 {
			t.Errorf("%d are buffered", i.Buffered)
		}
		w.gives(bob, log[0])
		if i := w.info(bob); i.Epoch != 3 || i.Buffered != 0 {
			t.Errorf("%+v", i)
		}
	})
}

// The epoch's commit came first, and a text of the epoch that it begins is buffered as
// well: that one waits until its time has come.
func dangerReplayOrder(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		alice, bob := w.pair()
		n := len(w.service.Log(chat))
		w.update(alice) // 0
		w.send(alice, "one")
		w.send(alice, "two")
		w.propose(alice)
		w.update(alice) // 4
		log := w.since(n)
		for _, i := range []int{4, 3, 2, 1} {
			if b, ok := w.gives(bob, log[i]).(*client.Buffered); !ok {
				t.Fatalf("%+v", b)
			}
		}
		c, ok := w.gives(bob, log[0]).(*client.CommitResult)
		if !ok || len(c.Replayed) != 4 {
			t.Fatalf("%+v", c)
		}
		var order string
		for _, r := range c.Replayed {
			switch r := r.Received.(type) {
			case *client.Text:
				order += " " + string(r.Data)
				if r.Replayed != nil {
					t.Error("a replay within a replay")
				}
			case *client.ProposalResult:
				order += " proposal"
			case *client.CommitResult:
				order += " commit"
				if r.Replayed != nil {
					t.Error("a replay within a replay")
				}
			}
			if r.Err != nil {
				t.Error(r.Err)
			}
		}
		if order != " two one proposal commit" { // within a kind, as they came
			t.Errorf("replayed:%s", order)
		}
		w.agree(alice, bob)
	})
}

// The commit that removes us is among what is buffered; what follows it is not touched.
func dangerReplayRemoved(t *testing.T) {
	t.Parallel()
	w, alice, bob, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
	n := len(w.service.Log(chat))
	w.update(alice)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.RemoveMembers(ctx, "bob")
		return err
	})
	log := w.since(n)
	other := slices.Clone(log[1])
	other[len(other)-1] ^= 1
	w.gives(bob, log[1])
	w.gives(bob, other) // would be tried after it
	c, ok := w.gives(bob, log[0]).(*client.CommitResult)
	if !ok || len(c.Replayed) != 1 {
		t.Fatalf("%+v", c)
	}
	if last, ok := c.Replayed[0].Received.(*client.CommitResult); !ok || last.Active {
		t.Errorf("%+v", c.Replayed[0])
	}
	w.absent(bob)
}

// While a join waits, messages of any epoch are buffered: each is replayed in its own.
func dangerReplayLater(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		_, bob := w.pair()
		dave := w.device("dave")
		n := len(w.service.Log(chat))
		dave.Link.After = once("commit")
		if err := w.join(dave); !errors.Is(err, core.ErrUnknownOutcome) {
			t.Fatal(err)
		}
		w.must(bob.Link.Drain(t.Context(), chat))
		w.send(bob, "two")
		w.update(bob)
		w.send(bob, "three")
		log := w.since(n) // the join, two, the commit, three
		for _, i := range []int{3, 1} {
			if b, ok := w.gives(dave, log[i]).(*client.Buffered); !ok || b.Reason != client.JoinPending {
				t.Fatalf("%+v", b)
			}
		}
		for _, step := range []struct {
			i    int
			want string
			left int
		}{{0, "two", 1}, {2, "three", 0}} {
			r := w.gives(dave, log[step.i])
			if texts := textsOf(r); !slices.Equal(texts, []string{step.want}) {
				t.Errorf("%q came with message %d, want %q", texts, step.i, step.want)
			}
			if i := w.info(dave); i.Buffered != step.left {
				t.Errorf("%d are buffered, want %d", i.Buffered, step.left)
			}
		}
	})
}

// What was buffered in the lost past is not of the epoch that is joined again.
func dangerRejoinBuffer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	n := len(w.service.Log(chat))
	w.update(alice)
	w.send(alice, "past")
	w.gives(bob, w.since(n)[1])
	var r *client.CommitResult
	info, err := w.service.GroupInfo(chat)
	w.must(err)
	w.do(bob, func(ctx context.Context, tx *client.Transaction) (err error) {
		_, r, err = tx.JoinByExternalCommit(ctx, info, client.JoinConfig{})
		return err
	})
	if texts := textsOf(r); len(texts) != 0 {
		t.Errorf("%q", texts)
	}
	if i := w.info(bob); i.Buffered != 0 {
		t.Errorf("%d are buffered", i.Buffered)
	}
	w.catchUp()
	w.agree(alice, bob)
}

func dangerJoinBlocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, _ := w.pair()
	dave := w.device("dave")
	dave.Link.Before = once("commit")
	if err := w.join(dave); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	w.tries(dave, client.ErrConversationExists, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{})
		return err
	})
	welcome := w.invites(alice, dave)
	process := func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.ProcessWelcome(ctx, welcome, client.JoinConfig{})
		return err
	}
	w.tries(dave, client.ErrConversationExists, process)
	w.absent(dave) // it does not exist yet, either
	w.do(dave, func(ctx context.Context, tx *client.Transaction) error { return tx.DiscardPendingJoin(ctx, chat) })
	w.tries(dave, nil, process)
	w.agree(alice, dave)
}

// Credential, conversations, new key packages, and only then the old ones go. Whoever
// is added by an old one after that is an orphan.
func dangerRotationOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	carol := w.device("carol")
	w.do(carol, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, "carol's", client.ConversationConfig{Suite: suite1})
		return err
	})
	old, older := w.keyPackage(bob), w.keyPackage(bob)
	own := w.fresh(bob)
	w.in(bob, rotate)
	w.catchUp()
	w.agree(alice, bob)
	invite := func(id core.ConversationID, k []byte) []byte {
		w.do(carol, func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.Conversation(ctx, id)
			if errors.Is(err, client.ErrConversationNotFound) {
				c, err = tx.NewConversation(ctx, id, client.ConversationConfig{Suite: suite1})
			}
			if err == nil {
				_, err = c.AddMembers(ctx, k)
			}
			return err
		})
		welcome, _ := w.service.Welcome("bob")
		w.service.TakeWelcome("bob")
		return welcome.Message
	}
	fresh := w.keyPackage(bob)
	process := func(message []byte, want error) {
		t.Helper()
		w.tries(bob, want, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.ProcessWelcome(ctx, message, client.JoinConfig{})
			return err
		})
	}
	process(invite("carol's", old), nil) // one of the old ones was claimed meanwhile
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		return tx.DeleteStaleKeyPackages(ctx, suite1, 0)
	})
	process(invite("later", older), client.ErrOrphanWelcome)
	process(invite("with the new one", fresh), nil)
	if got, err := bob.Credential(t.Context(), "with the new one"); err != nil || got.Ref != own.Ref {
		t.Errorf("%+v, %v", got, err)
	}
	w.agree(alice, bob)
}

// float32Delays are seconds at positions where 64 bits would give another second.
var float32Delays = map[uint64]int{18645: 1074, 44727: 1179, 189094: 1352}

func dangerDelay(t *testing.T) {
	t.Parallel()
	for position, seconds := range float32Delays {
		if got := client.DelayAt(0, position-1, 1<<40); got != time.Duration(seconds)*time.Second {
			t.Errorf("position %d: %v, want %d s", position, got, seconds)
		}
	}
	// Carol is the third of three, and the second of those who stay: in epoch 1 hers is
	// the first place.
	w, alice, _, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.ProposeRemove(ctx, "bob")
		return err
	})
	r := w.gives(carol, w.last()).(*client.ProposalResult)
	if r.Delay == nil || *r.Delay != 0 {
		t.Errorf("carol: %v", r.Delay)
	}
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.ProposeRemove(ctx, "carol")
		return err
	})
	if r := w.gives(carol, w.last()).(*client.ProposalResult); r.Delay != nil {
		t.Errorf("carol, who is to go: %v", *r.Delay)
	}
	w2, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
	w2.propose(alice)
	for d, want := range map[*clienttest.Device]time.Duration{bob: 30 * time.Second, carol: 0} {
		if r := w2.gives(d, w2.last()).(*client.ProposalResult); r.Delay == nil || *r.Delay != want {
			t.Errorf("%s: %v, want %v", d.Link.ID, r.Delay, want)
		}
	}
}

func dangerConstants(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	// The exporter's label and context.
	plain, err := alice.ExportSecret(t.Context(), chat, 32)
	w.must(err)
	same, err := alice.View(chat).Export(t.Context(), "exporter", nil, 32)
	w.must(err)
	if !plain.Equal(same) {
		t.Error("the exporter has another label or context")
	}
	// Padding, with the tag.
	for n := range 300 {
		if n%37 != 0 {
			continue
		}
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			message, err := c.Encrypt(ctx, make([]byte, n), nil)
			if err != nil {
				return err
			}
			m, err := mls.UnmarshalMLSMessage(message)
			if err == nil && len(m.PrivateMessage.Ciphertext)%128 != 0 {
				t.Errorf("%d bytes become %d", n, len(m.PrivateMessage.Ciphertext))
			}
			return err
		})
	}
	// Three past epochs.
	wantErr := func(what string, message []byte, want error) {
		t.Helper()
		if _, err := w.give(bob, message); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	fourBack := w.texts(alice, 1)[0]
	w.update(alice)
	threeBack := w.texts(alice, 1)[0]
	for range 3 {
		w.update(alice)
	}
	w.must(bob.Link.Drain(t.Context(), chat))
	wantErr("three epochs ago", threeBack, nil)
	wantErr("four epochs ago", fourBack, mls.ErrTooOld)
	// Two generations back, a thousand ahead.
	m := w.texts(alice, 2003)
	wantErr("1001 ahead", m[1001], mls.ErrTooFarAhead)
	wantErr("1000 ahead", m[1000], nil)
	wantErr("1000 ahead again", m[2001], nil)
	wantErr("3 back", m[1999], mls.ErrTooOld)
	wantErr("2 back", m[2000], nil)
}

// Reads in a transaction see what it put and deleted, in order.
func dangerOwnWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	old := w.publish(alice, suite1, 1)
	w.update(bob)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.DeleteKeyPackages(ctx, []byte(old[0])); err != nil {
			return err
		}
		if _, err := tx.NewKeyPackages(ctx, suite1, 0, 2); err != nil {
			return err
		}
		if n, err := tx.CountKeyPackages(ctx, suite1, 0); n != 2 || err != nil {
			t.Errorf("%d key packages, %v", n, err)
		}
		if _, err := tx.DecryptMessage(ctx, chat, w.last()); err != nil {
			return err
		}
		c, err := tx.Conversation(ctx, chat)
		if err != nil {
			return err
		}
		if epoch, err := c.Epoch(ctx); epoch != 2 || err != nil {
			t.Errorf("epoch %d, %v", epoch, err)
		}
		own, err := tx.NewCredential(ctx, suite1)
		if err != nil {
			return err
		}
		if key, err := tx.ClientPublicKey(ctx, suite1, 0); err != nil || !bytes.Equal(key, own.SignatureKey) {
			t.Errorf("the newest is another: %v", err)
		}
		if err := c.Wipe(ctx); err != nil {
			return err
		}
		if there, err := tx.ConversationExists(ctx, chat); there || err != nil {
			t.Errorf("after the wipe: %v, %v", there, err)
		}
		return nil
	})
}
