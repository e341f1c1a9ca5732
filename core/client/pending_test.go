// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

var errNetwork = errors.New("the network is down")

// once fails the next call of a kind.
func once(call string) func(string) error {
	done := false
	return func(c string) error {
		if c != call || done {
			return nil
		}
		done = true
		return errNetwork
	}
}

func update(ctx context.Context, c *client.Conversation) error {
	_, err := c.UpdateKeyMaterial(ctx)
	return err
}

// answers is a backend that answers commits as told, and else asks the service.
type answers struct {
	clienttest.Backend
	mu   sync.Mutex
	next []client.Outcome
	got  []string // commits that were submitted
}

func (a *answers) SubmitCommit(by core.ClientID, id core.ConversationID, b client.CommitBundle) client.Outcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = append(a.got, string(b.Commit))
	if len(a.next) > 0 {
		next := a.next[0]
		a.next = a.next[1:]
		return next
	}
	return a.Backend.SubmitCommit(by, id, b)
}

// COM-3: with an unknown answer the commit stays, whether or not the service accepted
// it, and its echo, or the same bytes sent again, ends the epoch; traffic goes on
// meanwhile.
func TestUnknownAnswer(t *testing.T) {
	t.Parallel()
	for _, forgetful := range []bool{false, true} {
		for _, lost := range []string{"call", "answer"} {
			bothPolicies(t, func(t *testing.T, policy mls.Config) {
				w, alice, bob, carol := trio(t, policy, clienttest.Options{RefuseRepeats: forgetful})
				told := &answers{Backend: w.service}
				alice.Link.Service = told
				if lost == "call" {
					alice.Link.Before = once("commit")
				} else {
					alice.Link.After = once("commit")
				}
				err := in(t.Context(), alice, update)
				if !errors.Is(err, core.ErrUnknownOutcome) || !errors.Is(err, errNetwork) {
					t.Fatal(err)
				}
				i, err := alice.Info(t.Context(), chat)
				w.must(err)
				if !i.PendingCommit {
					t.Fatal("the commit is gone")
				}
				if lost == "call" { // traffic of the epoch goes on
					w.send(alice, "meanwhile")
					w.reads(bob, "meanwhile")
				}
				w.must(alice.Resume(t.Context()))
				w.catchUp()
				w.agree(alice, bob, carol)
				if j, err := alice.Info(t.Context(), chat); err != nil || j.Epoch != i.Epoch+1 || j.PendingCommit {
					t.Errorf("%+v, %v", j, err)
				}
				if lost == "answer" && len(told.got) != 1 {
					t.Error("it was sent again with its echo in the queue")
				}
				for _, commit := range told.got {
					if commit != told.got[0] {
						t.Error("other bytes were sent the second time")
					}
				}
				w.must(alice.Resume(t.Context()))
			})
		}
	}
}

// TestNextCommitResolves: who commits again needs no Resume.
func TestNextCommitResolves(t *testing.T) {
	t.Parallel()
	w, alice, bob, _ := trio(t, mls.DefaultConfig, clienttest.Options{RefuseRepeats: true})
	alice.Link.After = once("commit")
	if err := in(t.Context(), alice, update); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.RemoveMembers(ctx, "carol")
		return err
	})
	w.catchUp()
	w.agree(alice, bob)
	// also behind something else in the same segment
	alice.Link.After = once("commit")
	if err := in(t.Context(), alice, update); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	runs := 0
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		runs++
		if err := tx.SetData(ctx, []byte("x")); err != nil {
			return err
		}
		c, err := tx.Conversation(ctx, chat)
		if err != nil {
			return err
		}
		return update(ctx, c)
	})
	if runs != 2 {
		t.Errorf("the callback ran %d times", runs)
	}
	w.catchUp()
	w.agree(alice, bob)
}

func TestRefused(t *testing.T) {
	t.Parallel()
	w, alice, bob, carol := trio(t, private, clienttest.Options{})
	told := &answers{Backend: w.service}
	alice.Link.Service = told
	no := client.Outcome{Kind: client.Refused, Reason: "policy"}

	// the first time: it is dropped
	told.next = []client.Outcome{no}
	err := in(t.Context(), alice, update)
	var refused *client.RefusedError
	if !errors.As(err, &refused) || refused.Reason != "policy" || !errors.Is(err, core.ErrDenied) {
		t.Fatal(err)
	}
	if i, err := alice.Info(t.Context(), chat); err != nil || i.PendingCommit {
		t.Fatalf("%+v, %v", i, err)
	}
	w.in(alice, update)
	w.catchUp()
	w.agree(alice, bob, carol)

	// later: it may have been accepted before, so it stays
	alice.Link.Before = once("commit")
	if err := in(t.Context(), alice, update); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	told.next = []client.Outcome{no}
	if err := alice.Settle(t.Context(), chat); !errors.Is(err, client.ErrPendingUnresolved) {
		t.Fatal(err)
	}
	if i, err := alice.Info(t.Context(), chat); err != nil || !i.PendingCommit {
		t.Fatalf("%+v, %v", i, err)
	}
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		if pending, err := c.HasPendingCommit(ctx); !pending || err != nil {
			t.Errorf("%v, %v", pending, err)
		}
		return c.DiscardPendingCommit(ctx)
	})
	if err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error { return c.DiscardPendingCommit(ctx) }); !errors.Is(err, core.ErrNotFound) {
		t.Fatal(err)
	}
	w.in(alice, update)
	w.catchUp()
	w.agree(alice, bob, carol)

	// later, and the echo is there
	alice.Link.After = once("commit")
	if err := in(t.Context(), alice, update); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	told.next = []client.Outcome{no, no}
	w.must(alice.Settle(t.Context(), chat))
	w.catchUp()
	w.agree(alice, bob, carol)
}

// COM-2: another commit wins. What is left of the intention is committed again.
func TestRace(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, carol := trio(t, policy, clienttest.Options{RefuseRepeats: true})
		dave := w.device("dave")
		first := w.keyPackage(dave)
		second := w.keyPackage(dave)
		rival := func(f func()) {
			alice.Link.Before = func(call string) error {
				if call == "commit" {
					alice.Link.Before = nil
					f()
				}
				return nil
			}
		}
		// bob updates: alice adds all the same
		rival(func() { w.in(bob, update) })
		var r *client.CommitResult
		w.in(alice, func(ctx context.Context, c *client.Conversation) (err error) {
			r, err = c.AddMembers(ctx, first)
			return err
		})
		if len(r.Added) != 1 || r.Added[0] != "dave" {
			t.Errorf("%+v", r)
		}
		w.catchUp()
		w.agree(alice, bob, carol, dave)

		// bob removes carol and dave: alice has nothing left to do
		rival(func() {
			w.in(bob, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.RemoveMembers(ctx, "carol", "dave")
				return err
			})
		})
		before, err := alice.Info(t.Context(), chat)
		w.must(err)
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.RemoveMembers(ctx, "dave")
			return err
		})
		w.catchUp()
		w.agree(alice, bob)
		if after, err := alice.Info(t.Context(), chat); err != nil || after.Epoch != before.Epoch+1 {
			t.Errorf("epoch %d, then %d", before.Epoch, after.Epoch)
		}

		// bob adds dave as well
		rival(func() {
			w.in(bob, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.AddMembers(ctx, second)
				return err
			})
		})
		third := w.keyPackage(dave)
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.AddMembers(ctx, third)
			return err
		})
		w.catchUp()
		w.agree(alice, bob, dave)

		// bob removes alice
		rival(func() {
			w.in(bob, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.RemoveMembers(ctx, "alice")
				return err
			})
		})
		if err := in(t.Context(), alice, update); !errors.Is(err, client.ErrConversationNotFound) {
			t.Errorf("removed: %v", err)
		}
	})
}

// TestAlwaysLost: somebody is quicker every time.
func TestAlwaysLost(t *testing.T) {
	t.Parallel()
	w, alice, bob, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
	alice.Link.Before = func(call string) error {
		if call == "commit" {
			w.must(bob.Link.Drain(t.Context(), chat))
			w.in(bob, update)
		}
		return nil
	}
	err := in(t.Context(), alice, update)
	if !errors.Is(err, client.ErrCommitLost) || !errors.Is(err, core.ErrConflict) {
		t.Fatal(err)
	}
	if i, err := alice.Info(t.Context(), chat); err != nil || i.PendingCommit {
		t.Fatalf("%+v, %v", i, err)
	}
}

// COM-8, core-crypto/lock: two processes on one store resolve the same commit.
func TestTwoResolve(t *testing.T) {
	t.Parallel()
	for n := range 10 {
		w := newWorld(t, clienttest.Options{RefuseRepeats: n%2 == 0})
		ks := memory.New()
		alice := w.deviceOn("alice", ks, config())
		again := clienttest.NewDevice(t, w.service, "alice", ks, config())
		bob := w.device("bob")
		w.create(alice)
		w.add(alice, bob)
		if n%4 < 2 {
			alice.Link.After = once("commit")
		} else {
			alice.Link.Before = once("commit")
		}
		if err := in(t.Context(), alice, update); !errors.Is(err, core.ErrUnknownOutcome) {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, d := range []*clienttest.Device{alice, again} {
			wg.Go(func() {
				if err := d.Resume(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		w.catchUp()
		w.agree(alice, again, bob)
		if i, err := bob.Info(t.Context(), chat); err != nil || i.Epoch != 2 {
			t.Errorf("epoch %d, %v", i.Epoch, err)
		}
	}
}
