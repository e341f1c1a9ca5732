// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// trio is alice, bob and carol in a chat.
func trio(t testing.TB, policy mls.Config, options clienttest.Options) (w *world, alice, bob, carol *clienttest.Device) {
	w = newWorld(t, options)
	w.policy = policy
	alice, bob, carol = w.device("alice"), w.device("bob"), w.device("carol")
	w.create(alice)
	w.add(alice, bob, carol)
	for _, d := range w.devices {
		d.Received()
		d.Failed()
		d.Events()
	}
	return w, alice, bob, carol
}

// give has a device process a message outside of the queue.
func (w *world) give(d *clienttest.Device, message []byte) (r client.Received, err error) {
	err = d.Transaction(w.Context(), func(ctx context.Context, tx *client.Transaction) (err error) {
		r, err = tx.DecryptMessage(ctx, chat, message)
		return err
	})
	return r, err
}

func (w *world) update(d *clienttest.Device) *client.CommitResult {
	w.Helper()
	var r *client.CommitResult
	w.in(d, func(ctx context.Context, c *client.Conversation) (err error) {
		r, err = c.UpdateKeyMaterial(ctx)
		return err
	})
	return r
}

// since returns what the service accepted after the first n.
func (w *world) since(n int) [][]byte { return w.service.Log(chat)[n:] }

func TestDuplicatesAndLatecomers(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, _ := trio(t, policy, clienttest.Options{})
		n := len(w.service.Log(chat))
		w.send(alice, "text")
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposeUpdate(ctx, 0)
			return err
		})
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
		log := w.since(n)
		if len(log) != 3 {
			t.Fatalf("%d messages", len(log))
		}
		for i, message := range log {
			if _, err := w.give(bob, message); err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
			if _, err := w.give(bob, message); !errors.Is(err, mls.ErrDuplicateMessage) {
				t.Errorf("message %d again: %v", i, err)
			}
		}
		if _, err := w.give(bob, log[0]); !errors.Is(err, mls.ErrDuplicateMessage) {
			t.Errorf("text of the epoch before, again: %v", err)
		}
		if _, err := w.give(bob, log[1]); !errors.Is(err, client.ErrStaleProposal) {
			t.Errorf("proposal of the epoch before: %v", err)
		}
		w.update(alice)
		w.must(bob.Link.Drain(t.Context(), chat))
		if _, err := w.give(bob, log[2]); !errors.Is(err, client.ErrStaleCommit) {
			t.Errorf("commit of the epoch before: %v", err)
		}
		// our own coming back
		w.send(bob, "mine")
		all := w.service.Log(chat)
		if _, err := w.give(bob, all[len(all)-1]); !errors.Is(err, mls.ErrOwnMessage) {
			t.Errorf("own text: %v", err)
		}
		// too old: more epochs than are kept
		w.send(alice, "old")
		all = w.service.Log(chat)
		for range 5 {
			w.update(alice)
		}
		for _, commit := range w.since(len(all)) {
			if _, err := w.give(bob, commit); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.give(bob, all[len(all)-1]); !errors.Is(err, mls.ErrTooOld) {
			t.Errorf("text of an epoch that is not kept: %v", err)
		}
	})
}

func TestMessagesOfTheNextEpoch(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, carol := trio(t, policy, clienttest.Options{})
		n := len(w.service.Log(chat))
		w.update(alice) // 0: the commit that bob will miss
		w.send(alice, "one")
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposeUpdate(ctx, 0)
			return err
		})
		w.must(carol.Link.Drain(t.Context(), chat))
		w.in(carol, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
		w.send(carol, "far")
		log := w.since(n)
		// the next epoch's commit, proposal and text in the wrong order
		for _, i := range []int{3, 2, 1} {
			r, err := w.give(bob, log[i])
			if b, ok := r.(*client.Buffered); err != nil || !ok || b.Reason != client.FutureEpoch || b.Epoch != 3-1 {
				t.Fatalf("message %d: %+v, %v", i, r, err)
			}
		}
		if _, err := w.give(bob, log[4]); !errors.Is(err, mls.ErrWrongEpoch) {
			t.Fatalf("two epochs ahead: %v", err)
		}
		i, err := bob.Info(t.Context(), chat)
		w.must(err)
		if i.Buffered != 3 {
			t.Fatalf("%d buffered", i.Buffered)
		}
		// a poisoned one does not hold up the others
		poison := bytes.Clone(log[1])
		poison[len(poison)-1] ^= 1
		if _, err := w.give(bob, poison); err != nil {
			t.Fatal(err)
		}
		r, err := w.give(bob, log[0])
		w.must(err)
		c := r.(*client.CommitResult)
		var got []string
		bad := 0
		for _, p := range c.Replayed {
			switch r := p.Received.(type) {
			case *client.Text:
				got = append(got, "text "+string(r.Data))
			case *client.ProposalResult:
				got = append(got, "proposal")
			case *client.CommitResult:
				got = append(got, "commit")
			}
			if p.Err != nil {
				bad++
			}
		}
		if want := []string{"text one", "proposal", "commit"}; !slices.Equal(got, want) || bad != 1 {
			t.Fatalf("replayed %q and %d bad", got, bad)
		}
		if i, err = bob.Info(t.Context(), chat); err != nil || i.Buffered != 0 {
			t.Fatalf("%d buffered, %v", i.Buffered, err)
		}
		w.agree(bob, carol)
		r, err = w.give(bob, log[4])
		if text, ok := r.(*client.Text); err != nil || !ok || string(text.Data) != "far" || text.Sender != "carol" {
			t.Fatalf("%+v, %v", r, err)
		}
	})
}

// TestReplayAfterOwnCommit: what came for the new epoch before the service's answer
// is replayed by the committing call, and by the next message if that is aborted.
func TestReplayAfterOwnCommit(t *testing.T) {
	t.Parallel()
	for _, abort := range []bool{false, true} {
		w, alice, bob, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
		alice.Link.After = func(call string) error { // bob is quicker than the answer
			if call != "commit" {
				return nil
			}
			alice.Link.After = nil
			w.must(bob.Link.Drain(t.Context(), chat))
			w.send(bob, "welcome to the new epoch")
			log := w.service.Log(chat)
			r, err := w.give(alice, log[len(log)-1])
			if _, ok := r.(*client.Buffered); !ok {
				t.Errorf("%+v, %v", r, err)
			}
			return err
		}
		var replayed []client.Decrypted
		err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
			r, err := c.UpdateKeyMaterial(ctx)
			if err != nil {
				return err
			}
			replayed = r.Replayed
			if abort {
				return errAbort
			}
			return nil
		})
		if abort != errors.Is(err, errAbort) || !abort && err != nil {
			t.Fatal(err)
		}
		if abort { // the application did not keep it
			w.send(bob, "next")
			log := w.service.Log(chat)
			r, err := w.give(alice, log[len(log)-1])
			w.must(err)
			replayed = r.(*client.Text).Replayed
		}
		if len(replayed) != 1 || string(replayed[0].Received.(*client.Text).Data) != "welcome to the new epoch" {
			t.Errorf("abort %v: replayed %+v", abort, replayed)
		}
		if i, err := alice.Info(t.Context(), chat); err != nil || i.Buffered != 0 {
			t.Errorf("%d buffered, %v", i.Buffered, err)
		}
	}
}

func TestCommitThatLacksProposals(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, carol := trio(t, policy, clienttest.Options{})
		n := len(w.service.Log(chat))
		dave, erin := w.device("dave"), w.device("erin")
		for _, d := range []*clienttest.Device{dave, erin} {
			k := w.keyPackage(d)
			w.in(alice, func(ctx context.Context, c *client.Conversation) error {
				p, err := c.ProposeAdd(ctx, k)
				if err == nil && len(p.Ref) == 0 {
					t.Error("no reference")
				}
				return err
			})
		}
		w.must(carol.Link.Drain(t.Context(), chat))
		w.in(carol, func(ctx context.Context, c *client.Conversation) error {
			r, err := c.CommitPendingProposals(ctx)
			if err == nil && len(r.Added) != 2 {
				t.Errorf("added %v", r.Added)
			}
			return err
		})
		log := w.since(n)
		order := []int{2, 0, 1}
		if policy.Handshake == mls.HandshakePrivate {
			order = []int{2, 1, 0}
		}
		for step, i := range order {
			// bob's process ends after each step
			r, err := w.give(bob, log[i])
			w.must(err)
			info, err := bob.Info(t.Context(), chat)
			w.must(err)
			switch r := r.(type) {
			case *client.Buffered:
				if step != 0 || r.Reason != client.MissingProposals || !info.BufferedCommit || info.BufferedSince.IsZero() {
					t.Fatalf("step %d: %+v", step, r)
				}
			case *client.ProposalResult:
				if step != 1 || !info.BufferedCommit {
					t.Fatalf("step %d: %+v", step, r)
				}
			case *client.CommitResult:
				if step != 2 || info.BufferedCommit || !info.BufferedSince.IsZero() || len(r.Added) != 2 || r.Committer != "carol" {
					t.Fatalf("step %d: %+v", step, r)
				}
			}
		}
		w.agree(bob, carol)
	})
}

func TestBufferIsBounded(t *testing.T) {
	t.Parallel()
	w, alice, bob, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
	w.update(alice)
	w.send(alice, "x")
	log := w.service.Log(chat)
	message := log[len(log)-1]
	flood := 0
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		for {
			message[len(message)-1]++
			message[len(message)-2] = byte(flood >> 8)
			_, err := tx.DecryptMessage(ctx, chat, message)
			if errors.Is(err, client.ErrBufferFull) {
				return nil
			}
			if err != nil {
				return err
			}
			flood++
		}
	})
	if flood != client.MaxBuffered {
		t.Errorf("%d messages were buffered", flood)
	}
	// large ones
	carol := w.devices[2]
	big := slices.Concat(message, make([]byte, 0))
	m, err := mls.UnmarshalMLSMessage(big)
	w.must(err)
	m.PrivateMessage.Ciphertext = make([]byte, 3<<20)
	taken := 0
	for range 4 {
		if _, err := w.give(carol, m.Marshal()); err == nil {
			taken++
		} else if !errors.Is(err, core.ErrTooLarge) {
			t.Fatal(err)
		}
	}
	if taken != client.MaxBufferedBytes/(3<<20) {
		t.Errorf("%d of 3 MiB were buffered", taken)
	}
	// the commit goes through all the same
	for _, d := range []*clienttest.Device{bob, carol} {
		w.must(d.Link.Drain(t.Context(), chat))
		d.Failed()
		if i, err := d.Info(t.Context(), chat); err != nil || i.Buffered != 0 {
			t.Errorf("%s: %d buffered, %v", d.Link.ID, i.Buffered, err)
		}
	}
	w.agree(alice, bob, carol)
}

// snapshot is all that a store holds.
func snapshot(t *testing.T, ks core.Keystore) (all []core.Record) {
	t.Helper()
	for table := core.Table(1); table < 64; table++ {
		found, err := ks.Read(t.Context(), []core.Query{{Table: table}})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found[0]...)
	}
	return all
}

func same(a, b []core.Record) bool {
	return slices.EqualFunc(a, b, func(x, y core.Record) bool { return bytes.Equal(x.Key, y.Key) && x.Version == y.Version })
}

// TestDamagedMessages: whatever byte is changed, and wherever a message ends, it is
// an error of one of the classes and the store stays as it is, except that what
// claims the next epoch is buffered.
func TestDamagedMessages(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w := newWorld(t, clienttest.Options{})
		w.policy = policy
		ks := memory.New()
		alice, bob := w.device("alice"), w.deviceOn("bob", ks, config())
		w.create(alice)
		w.add(alice, bob)
		n := len(w.service.Log(chat))
		w.send(alice, "x")
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.Leave(ctx)
			return err
		})
		messages := w.since(n)
		w.update(alice)
		messages = append(messages, w.since(n+2)...)
		for kind, message := range messages {
			before := snapshot(t, ks)
			try := func(what string, at int, message []byte) {
				t.Helper()
				r, err := w.give(bob, message)
				if _, buffered := r.(*client.Buffered); buffered && err == nil {
					w.in(bob, func(ctx context.Context, c *client.Conversation) error {
						i, err := c.Info(ctx)
						if i.Buffered == 0 {
							t.Errorf("message %d, %s at %d: not buffered", kind, what, at)
						}
						return err
					})
					before = snapshot(t, ks)
					return
				}
				if !errors.Is(err, core.ErrInvalid) && !errors.Is(err, core.ErrNotFound) {
					t.Fatalf("message %d, %s at %d: %+v, %v", kind, what, at, r, err)
				}
				if !same(before, snapshot(t, ks)) {
					t.Fatalf("message %d, %s at %d: the store has changed", kind, what, at)
				}
			}
			for i := range message {
				flipped := bytes.Clone(message)
				flipped[i] ^= 1 << (i % 8)
				try("flipped", i, flipped)
				if i%7 == 0 {
					try("truncated", i, message[:i])
				}
			}
			try("with a byte more", len(message), append(bytes.Clone(message), 0))
			if _, err := w.give(bob, message); err != nil {
				t.Fatalf("message %d whole: %v", kind, err)
			}
		}
		w.agree(alice, bob)
	})
}

func TestCommitDelay(t *testing.T) {
	t.Parallel()
	want := []int{15, 30, 60, 87, 109, 127, 143, 157, 170, 0, 15}
	for index, seconds := range want {
		if got := client.DelayAt(1, uint64(index), 10); got != time.Duration(seconds)*time.Second {
			t.Errorf("index %d: %v, want %d s", index, got, seconds)
		}
	}
	for _, n := range []uint64{0, 1, math.MaxUint64} {
		if got := client.DelayAt(math.MaxUint64, math.MaxUint64, n); got != 0 {
			t.Errorf("n=%d: %v", n, got)
		}
	}
}
