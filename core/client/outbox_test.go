// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// down makes a device's network fail until the result is called.
func down(d *clienttest.Device) (up func()) {
	d.Link.Before = func(string) error { return errNetwork }
	return func() { d.Link.Before = nil }
}

func TestOutboxKeepsOrder(t *testing.T) {
	t.Parallel()
	w, alice, bob, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
	up := down(alice)
	var want []string
	for i := range 40 { // more than a page
		text := strings.Repeat("m", i+1)
		w.send(alice, text)
		want = append(want, text)
	}
	w.reads(bob)
	if err := alice.Settle(t.Context(), chat); !errors.Is(err, core.ErrUnavailable) || !errors.Is(err, errNetwork) {
		t.Fatal(err)
	}
	up()
	// every second answer is lost: nothing arrives twice or in another order
	n := 0
	alice.Link.After = func(string) error {
		if n++; n%2 == 0 {
			return errNetwork
		}
		return nil
	}
	for range 100 {
		if alice.Settle(t.Context(), chat) == nil {
			break
		}
	}
	w.reads(bob, want...)
}

// TestBoundaryDeliversFirst: a commit waits until what was sent before it is out.
func TestBoundaryDeliversFirst(t *testing.T) {
	t.Parallel()
	w, alice, bob, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
	up := down(alice)
	w.send(alice, "first")
	epoch := func() uint64 {
		i, err := alice.Info(t.Context(), chat)
		w.must(err)
		if i.PendingCommit {
			t.Error("a commit was written")
		}
		return i.Epoch
	}
	before := epoch()
	if err := in(t.Context(), alice, update); !errors.Is(err, core.ErrUnavailable) {
		t.Fatal(err)
	}
	if epoch() != before {
		t.Error("the epoch changed")
	}
	up()
	w.in(alice, update)
	w.reads(bob, "first")

	// in one transaction: message and proposal go before the commit
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		if _, err := c.Send(ctx, []byte("second"), nil); err != nil {
			return err
		}
		if _, err := c.ProposeUpdate(ctx, 0); err != nil {
			return err
		}
		_, err := c.CommitPendingProposals(ctx)
		return err
	})
	w.reads(bob, "second")
	w.catchUp()
	w.agree(w.devices...)

	// and if they cannot go, neither does the commit
	up = down(alice)
	before = epoch()
	if err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
		if _, err := c.Send(ctx, []byte("third"), nil); err != nil {
			return err
		}
		return update(ctx, c)
	}); !errors.Is(err, core.ErrUnavailable) {
		t.Fatal(err)
	}
	if epoch() != before {
		t.Error("the epoch changed")
	}
	up()
	w.must(alice.Settle(t.Context(), chat))
	w.reads(bob, "third")
}

// TestOvertaken: the epoch ends before a message is out. It is encrypted again,
// under the same key, whether we learn of that from the service or before.
func TestOvertaken(t *testing.T) {
	t.Parallel()
	for _, commits := range []int{1, 2, 3} {
		for _, knows := range []bool{false, true} {
			w, alice, bob, carol := trio(t, private, clienttest.Options{})
			up := down(alice)
			var key client.IdempotencyKey
			w.in(alice, func(ctx context.Context, c *client.Conversation) (err error) {
				if key, err = c.Send(ctx, []byte("late"), []byte("aad")); err != nil {
					return err
				}
				_, err = c.ProposeUpdate(ctx, 0)
				return err
			})
			for range commits {
				w.update(carol)
			}
			if knows {
				w.must(alice.Link.Drain(t.Context(), chat))
				if lapsed := eventsOf[client.Lapsed](alice); len(lapsed) != 0 {
					t.Errorf("not renewed: %v", lapsed)
				}
			}
			up()
			calls := 0
			alice.Link.Before = func(string) error { calls++; return nil }
			w.must(alice.Settle(t.Context(), chat))
			if knows && commits == 2 && calls != 2 { // encrypted again when the second commit came; and the proposal
				t.Errorf("%d calls for a message that is known to be too old to be sent as it is", calls)
			}
			if !w.service.Delivered("alice", chat, key.String()) {
				t.Error("not delivered under its key")
			}
			w.reads(bob, "late")
			if lapsed := eventsOf[client.Lapsed](alice); len(lapsed) != 0 {
				t.Errorf("lapsed %v", lapsed)
			}
			w.catchUp()
			w.in(bob, func(ctx context.Context, c *client.Conversation) error { // the proposal has come along
				r, err := c.CommitPendingProposals(ctx)
				if err == nil && r.Epoch != uint64(2+commits) {
					t.Errorf("nothing to commit in epoch %d", r.Epoch)
				}
				return err
			})
			w.catchUp()
			w.agree(alice, bob, carol)
		}
	}
}

// TestOvertakenOnTheWay: the receiving side of the application catches up, and that
// alone gets the message out.
func TestOvertakenOnTheWay(t *testing.T) {
	t.Parallel()
	w, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
	w.update(carol)
	w.send(alice, "too late")
	w.must(bob.Link.Drain(t.Context(), chat))
	if texts := bob.Texts(); len(texts) != 0 {
		t.Fatalf("bob read %q", texts)
	}
	w.must(alice.Link.Drain(t.Context(), chat))
	w.reads(bob, "too late")
	// and proposals of others keep it back until they are committed
	w.update(carol)
	w.in(carol, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.ProposeUpdate(ctx, 0)
		return err
	})
	up := down(alice)
	w.send(alice, "behind a proposal")
	w.must(alice.Link.Drain(t.Context(), chat))
	up()
	if err := alice.Settle(t.Context(), chat); !errors.Is(err, mls.ErrPendingProposals) {
		t.Fatal(err)
	}
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.CommitPendingProposals(ctx)
		return err
	})
	w.must(alice.Settle(t.Context(), chat))
	w.reads(bob, "behind a proposal")
}

// TestGenerationsLeaveInOrder: receivers keep the keys of two generations for what
// comes late. Many messages wait, some of them of an epoch that is over, more are
// sent while they are encrypted again, and the process ends in between.
func TestGenerationsLeaveInOrder(t *testing.T) {
	t.Parallel()
	for stop := range 12 {
		w := newWorld(t, clienttest.Options{})
		ks := memory.New()
		cfg := config()
		cfg.Lease = 20 * time.Millisecond
		alice, bob := w.deviceOn("alice", ks, cfg), w.device("bob")
		w.create(alice)
		w.add(alice, bob)
		up := down(alice)
		var want []string
		send := func(text string) {
			w.send(alice, text)
			want = append(want, text)
		}
		for range 6 {
			send("old")
		}
		w.update(bob)
		w.must(alice.Link.Drain(t.Context(), chat))
		for range 6 {
			send("new")
		}
		up()
		calls := 0
		alice.Link.Before = func(string) error {
			if calls++; calls == stop+1 {
				return errNetwork
			}
			return nil
		}
		_ = alice.Settle(t.Context(), chat)
		send("behind all")
		alice = clienttest.NewDevice(t, w.service, "alice", ks, cfg) // another process
		w.must(alice.Settle(t.Context(), chat))
		w.reads(bob, want...)
	}
}

// TestProposalBehindACommit: what follows a commit that waits must not overtake it.
func TestProposalBehindACommit(t *testing.T) {
	t.Parallel()
	w, alice, bob, carol := trio(t, private, clienttest.Options{})
	alice.Link.Before = once("commit")
	if err := in(t.Context(), alice, update); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	tx, err := alice.Begin(t.Context())
	w.must(err)
	c, err := tx.Conversation(t.Context(), chat)
	w.must(err)
	if _, err := c.ProposeUpdate(t.Context(), 0); !errors.Is(err, core.ErrConflict) {
		t.Errorf("a proposal beside a commit that waits: %v", err)
	}
	w.must(tx.Abort(t.Context()))
	for range 4 {
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposeUpdate(ctx, 0)
			return err
		})
	}
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.CommitPendingProposals(ctx)
		return err
	})
	w.catchUp()
	w.agree(alice, bob, carol)
	if errs := bob.Failed(); len(errs) > 0 {
		t.Error(errs)
	}
}

func TestUndelivered(t *testing.T) {
	t.Parallel()
	w, alice, bob, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
	up := down(alice)
	w.send(alice, "never")
	w.in(bob, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.RemoveMembers(ctx, "alice")
		return err
	})
	up()
	w.must(alice.Link.Drain(t.Context(), chat))
	events := alice.Events()
	i := slices.IndexFunc(events, func(e client.Event) bool {
		u, ok := e.(client.Undelivered)
		return ok && string(u.Data) == "never"
	})
	j := slices.Index(events, client.Event(client.Left{Conversation: chat}))
	if i < 0 || j < 0 {
		t.Fatalf("events %+v", events)
	}
	if ids, err := alice.Conversations(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("%q, %v", ids, err)
	}
	w.must(alice.Resume(t.Context()))
}

// TestLease: who died while sending keeps others from it for a moment only.
func TestLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	cfg := config()
	cfg.Lease = 300 * time.Millisecond
	alice := w.deviceOn("alice", ks, cfg)
	again := clienttest.NewDevice(t, w.service, "alice", ks, cfg)
	bob := w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	down(alice)
	w.send(alice, "x")
	began := time.Now()
	w.must(again.Settle(t.Context(), chat))
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("the lease held for %v", took)
	}
	w.reads(bob, "x")
}

// TestLongMessages do not fit into one record of a store.
func TestLongMessages(t *testing.T) {
	t.Parallel()
	w, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
	up := down(alice)
	long := strings.Repeat("long", 1<<20)
	w.send(alice, long)
	up()
	w.must(alice.Settle(t.Context(), chat))
	w.reads(bob, long)
	// and buffered
	w.update(alice)
	w.send(alice, long)
	log := w.service.Log(chat)
	if r, err := w.give(carol, log[len(log)-1]); err != nil {
		t.Fatal(r, err)
	}
	w.must(carol.Link.Drain(t.Context(), chat))
	if texts := carol.Texts(); len(texts) != 2 || texts[1] != long && texts[0] != long {
		t.Errorf("%d texts", len(texts))
	}
}
