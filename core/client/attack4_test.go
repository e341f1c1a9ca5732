// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// TestRefusedProposalBeforeCommit: a commit that covers a proposal of the same
// transaction is not submitted when the service has refused the proposal: nobody else
// could process it.
func TestRefusedProposalBeforeCommit(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, carol := trio(t, policy, clienttest.Options{})
		alice.Link.Refuse(clienttest.CallSend, client.Outcome{Kind: client.Refused, Reason: "no"})
		err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
			if _, err := c.ProposeRemove(ctx, "carol"); err != nil {
				return err
			}
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
		w.must(err)
		w.must(alice.Settle(t.Context(), chat))
		w.catchUp()
		w.agree(alice, bob, carol)
		if lapsed := eventsOf[client.Lapsed](alice); len(lapsed) != 1 {
			t.Errorf("%+v", lapsed)
		}
	})
}

// TestCommitsOfManyGoroutines: goroutines of one client commit at the same time, and so
// does another member. None of them is turned away; the other member, who is one against
// five, may lose more often than is tried again.
func TestCommitsOfManyGoroutines(t *testing.T) {
	t.Parallel()
	w, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			d := alice
			if i == 0 {
				d = bob
			}
			for range 5 {
				err := in(t.Context(), d, update)
				for d == bob && errors.Is(err, client.ErrCommitLost) {
					err = in(t.Context(), d, update)
				}
				if err != nil {
					t.Errorf("%d: %v", i, err)
				}
			}
		})
	}
	all.Wait()
	w.catchUp()
	w.agree(alice, bob, carol)
}

// TestProposedHistoryClient: a member who is about to be removed proposes a history
// client, whose secret nobody else gets. The commit that removes the member does not
// let it in, and neither does any other of ours.
func TestProposedHistoryClient(t *testing.T) {
	t.Parallel()
	for _, sharing := range []bool{false, true} {
		w, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
		if sharing {
			w.in(alice, enable)
			w.catchUp()
		}
		w.in(carol, client.ProposeHistory)
		w.catchUp()
		w.in(bob, remove("carol"))
		w.catchUp()
		w.sharing(sharing, alice, bob)
		ids, err := alice.ClientIDs(t.Context(), chat)
		w.must(err)
		known := slices.DeleteFunc(ids, func(id core.ClientID) bool { return !client.IsHistoryClient(id) })
		if sharing && !slices.Equal(known, []core.ClientID{w.created(bob).ClientID}) {
			t.Errorf("history clients %v", known)
		}
		w.agree(alice, bob)
		w.in(alice, client.ProposeHistory)
		w.catchUp()
		w.in(bob, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
		w.catchUp()
		w.sharing(sharing, alice, bob)
		w.agree(alice, bob)
	}
}

// TestRenewedAddIsJudged: what was admitted in one epoch is not in the next without
// being asked about again.
func TestRenewedAddIsJudged(t *testing.T) {
	t.Parallel()
	var closed atomic.Bool
	cfg := config()
	cfg.Admit = func(context.Context, client.Admission) error {
		if closed.Load() {
			return errors.New("closed")
		}
		return nil
	}
	w := newWorld(t, clienttest.Options{})
	alice, bob, carol := w.deviceOn("alice", memory.New(), cfg), w.device("bob"), w.device("carol")
	w.create(alice)
	w.add(alice, bob)
	k := w.keyPackage(carol)
	alice.Link.SetOffline(true)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.ProposeAdd(ctx, k)
		return err
	})
	closed.Store(true)
	w.update(bob)
	alice.Link.SetOffline(false)
	w.catchUp()
	if i, err := alice.Info(t.Context(), chat); err != nil || i.PendingProposals != 0 {
		t.Errorf("%d proposals wait, %v", i.PendingProposals, err)
	}
	if lapsed := eventsOf[client.Lapsed](alice); len(lapsed) != 1 {
		t.Errorf("%+v", lapsed)
	}
	w.agree(alice, bob)
}

// TestRejoinOfThePast: nobody leads us back into an epoch before ours, in which those are
// members who were removed since.
func TestRejoinOfThePast(t *testing.T) {
	t.Parallel()
	w, alice, bob, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
	past, err := w.service.GroupInfo(chat)
	w.must(err)
	w.in(alice, remove("carol"))
	w.catchUp()
	epoch := func() uint64 {
		i, err := bob.Info(t.Context(), chat)
		w.must(err)
		return i.Epoch
	}
	before := epoch()
	err = bob.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_, _, err := tx.JoinByExternalCommit(ctx, past, client.JoinConfig{Group: w.policy})
		return err
	})
	if !errors.Is(err, mls.ErrWrongEpoch) || epoch() != before {
		t.Errorf("%v, epoch %d", err, epoch())
	}
	_, err = bob.Rejoin(t.Context(), chat)
	w.must(err)
	w.catchUp()
	w.agree(alice, bob)
}

// TestCommitsWithoutDraining: who commits again and again, and reads only then, has lost
// nothing of what others sent meanwhile, however few past epochs can be read.
func TestCommitsWithoutDraining(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, carol := trio(t, policy, clienttest.Options{})
		for range 4 {
			w.send(alice, "hello")
			for range 4 {
				w.in(bob, update)
			}
			w.must(alice.Link.Drain(t.Context(), chat))
		}
		w.catchUp()
		if got := bob.Texts(); len(got) != 4 {
			t.Errorf("%q", got)
		}
		w.agree(alice, bob, carol)
	})
}
