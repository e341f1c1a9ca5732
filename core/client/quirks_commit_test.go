// SPDX-License-Identifier: Apache-2.0

package client_test

import (
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

// fresh makes a credential with a key of its own.
func (w *world) fresh(d *clienttest.Device) (own client.Credential) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) (err error) {
		own, err = tx.NewCredential(ctx, suite1)
		return err
	})
	return own
}

// signsWith tells the signature key of a member as another member sees it.
func (w *world) signsWith(sees *clienttest.Device, id core.ClientID) []byte {
	w.Helper()
	members, err := sees.View(chat).Members(w.Context())
	w.must(err)
	for _, m := range members {
		if m.ClientID == id {
			return m.SignatureKey
		}
	}
	w.Fatalf("%s sees no %s", sees.Link.ID, id)
	return nil
}

func rotate(ctx context.Context, c *client.Conversation) error {
	_, err := c.Rotate(ctx, core.CredentialBasic)
	return err
}

// answering is a backend in front of the service that alice is connected to.
func (w *world) answering(d *clienttest.Device, next ...client.Outcome) *answers {
	told := &answers{Backend: w.service, next: next}
	d.Link.Service = told
	return told
}

func quirkRotationSigned(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		alice, bob := w.pair()
		carol := w.device("carol")
		before := w.signsWith(bob, "alice")
		own := w.fresh(alice)
		w.in(alice, rotate)
		w.catchUp() // bob verifies with the key that he knows
		w.agree(alice, bob)
		if now := w.signsWith(bob, "alice"); slices.Equal(now, before) || !slices.Equal(now, own.SignatureKey) {
			t.Error("the leaf has not taken the new key")
		}
		w.add(alice, carol) // who verifies with the new one
		w.agree(alice, bob, carol)
	})
}

func quirkNoTransport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, _ := w.pair()
	info, err := w.service.GroupInfo(chat)
	w.must(err)
	alice.SetTransport(nil)
	if err := in(t.Context(), alice, update); !errors.Is(err, client.ErrNoTransport) {
		t.Errorf("a commit: %v", err)
	}
	if err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.StageCommit(ctx, client.Changes{Update: true})
		return err
	}); !errors.Is(err, client.ErrNoTransport) {
		t.Errorf("a staged commit: %v", err)
	}
	if err := alice.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_, _, err := tx.JoinByExternalCommit(ctx, info, client.JoinConfig{})
		return err
	}); !errors.Is(err, client.ErrNoTransport) {
		t.Errorf("a join: %v", err)
	}
	if i := w.info(alice); i.PendingCommit || i.PendingJoin {
		t.Errorf("%+v", i)
	}
}

// Another commit wins, and then the service says twice that something competes with the
// one made anew: the same bytes are sent until it is taken.
func quirkSecondRetry(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		alice, bob := w.pair()
		carol := w.device("carol")
		k := w.keyPackage(carol)
		told := w.answering(alice)
		alice.Link.Before = func(call string) error {
			if call != "commit" {
				return nil
			}
			alice.Link.Before = nil
			w.in(bob, update)
			again := client.Outcome{Kind: client.Competing}
			told.next = []client.Outcome{again, again, again}
			return nil
		}
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.AddMembers(ctx, k)
			return err
		})
		if len(told.got) != 4 || told.got[0] == told.got[1] || told.got[1] != told.got[2] || told.got[2] != told.got[3] {
			t.Errorf("%d commits were sent", len(told.got))
		}
		w.catchUp()
		w.agree(alice, bob, carol)
	})
}

func quirkUnanswered(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		alice, bob := w.pair()
		carol := w.device("carol")
		k := w.keyPackage(carol)
		told := w.answering(alice)
		alice.Link.After = once("commit")
		told.next = []client.Outcome{{}} // and the service has not heard of it
		if err := in(t.Context(), alice, update); !errors.Is(err, core.ErrUnknownOutcome) {
			t.Fatal(err)
		}
		if pending, err := alice.View(chat).HasPendingCommit(t.Context()); !pending || err != nil {
			t.Fatal("nobody is told that a commit waits", err)
		}
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			r, err := c.AddMembers(ctx, k)
			if err == nil && r.Epoch != 3 {
				t.Errorf("epoch %d", r.Epoch)
			}
			return err
		})
		if len(told.got) != 3 || told.got[0] != told.got[1] || told.got[1] == told.got[2] {
			t.Errorf("%d commits were sent", len(told.got))
		}
		w.catchUp()
		w.agree(alice, bob, carol)
	})
}

// What alice proposed has expired when it would be proposed again.
func quirkRenewalFails(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		now := time.Now()
		cfg := config()
		cfg.Clock = func() time.Time { return now }
		alice, bob, carol := w.deviceOn("alice", memory.New(), cfg), w.device("bob"), w.device("carol")
		w.create(bob)
		w.add(bob, alice)
		k := w.keyPackage(carol)
		up := down(alice)
		w.in(alice, func(ctx context.Context, c *client.Conversation) error { _, err := c.ProposeAdd(ctx, k); return err })
		up()
		w.update(bob)
		now = now.Add(100 * 24 * time.Hour)
		c, ok := w.gives(alice, w.last()).(*client.CommitResult)
		if !ok || c.Epoch != 2 || len(c.Dropped) != 1 || len(c.Renewed) != 0 {
			t.Errorf("%+v", c)
		}
		w.agree(alice, bob)
		w.send(alice, "on")
		w.reads(bob, "on")
	})
}

// The commit that lost covered another's proposal, too.
func quirkRotationAgain(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"at once", "staged"} {
		each(t, func(t *testing.T, w *world) {
			alice, bob := w.pair()
			carol := w.device("carol")
			w.add(alice, carol)
			w.propose(carol)
			w.must(alice.Link.Drain(t.Context(), chat))
			own := w.fresh(alice)
			alice.Link.Before = func(call string) error {
				if call == "commit" {
					alice.Link.Before = nil
					w.in(bob, update) // who has not seen the proposal
				}
				return nil
			}
			if way == "staged" {
				w.stage(alice, client.Changes{Rotate: own.Ref})
			} else {
				w.in(alice, rotate)
			}
			w.catchUp()
			if got := w.epoch(alice); got != 4 {
				t.Errorf("%s: epoch %d", way, got)
			}
			if !slices.Equal(w.signsWith(bob, "alice"), own.SignatureKey) {
				t.Errorf("%s: it is said to have been done and was not", way)
			}
		})
	}
	t.Run("proposed", func(t *testing.T) {
		w := newWorld(t, clienttest.Options{})
		alice, bob := w.pair()
		own := w.fresh(alice)
		up := down(alice)
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposeUpdate(ctx, own.Ref)
			return err
		})
		w.update(bob)
		c, ok := w.gives(alice, w.last()).(*client.CommitResult)
		if !ok || len(c.Renewed) != 1 {
			t.Fatalf("%+v", c)
		}
		up()
		w.must(alice.Settle(t.Context(), chat))
		w.must(bob.Link.Drain(t.Context(), chat))
		w.in(bob, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
		w.catchUp()
		if !slices.Equal(w.signsWith(bob, "alice"), own.SignatureKey) {
			t.Error("the Update that was proposed again has another key")
		}
	})
}

// Alice's commit covers an Update of carol's, an Add of carol's and an Add of her own.
// It loses to one of bob's, who has seen none of them.
func quirkRenewsOwn(t *testing.T) {
	t.Parallel()
	w, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
	dave, erin := w.device("dave"), w.device("erin")
	add := func(d *clienttest.Device, k []byte) {
		w.in(d, func(ctx context.Context, c *client.Conversation) error { _, err := c.ProposeAdd(ctx, k); return err })
	}
	add(carol, w.keyPackage(dave))
	w.propose(carol)
	w.must(alice.Link.Drain(t.Context(), chat))
	up := down(alice)
	add(alice, w.keyPackage(erin))
	up()
	alice.Link.Before = func(call string) error {
		if call == "commit" {
			return errNetwork
		}
		return nil
	}
	if err := in(t.Context(), alice, update); !errors.Is(err, core.ErrUnknownOutcome) && !errors.Is(err, core.ErrUnavailable) {
		t.Fatal(err)
	}
	if pending, err := alice.View(chat).HasPendingCommit(t.Context()); !pending || err != nil {
		t.Fatal("no commit waits", err)
	}
	w.update(bob)
	c, ok := w.gives(alice, w.last()).(*client.CommitResult)
	if !ok || len(c.Renewed) != 1 || len(c.Dropped) != 0 {
		t.Fatalf("%+v", c)
	}
	list, err := alice.View(chat).PendingProposals(t.Context())
	w.must(err)
	if len(list) != 1 {
		t.Fatalf("%d proposals wait", len(list))
	}
	if _, ok := list[0].Proposal.(*mls.Add); !ok || list[0].Sender.Leaf != 0 {
		t.Errorf("%+v", list[0])
	}
}
