// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

func (w *world) join(d *clienttest.Device) error {
	info, err := w.service.GroupInfo(chat)
	w.must(err)
	return d.Transaction(w.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_, _, err := tx.JoinByExternalCommit(ctx, info, client.JoinConfig{Group: w.policy})
		return err
	})
}

func TestExternalJoin(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, carol := trio(t, policy, clienttest.Options{RefuseRepeats: true})
		dave := w.device("dave")

		// bob is quicker: the GroupInfo is fetched again
		dave.Link.Before = func(call string) error {
			dave.Link.Before = nil
			w.update(bob)
			return nil
		}
		w.must(w.join(dave))
		w.catchUp()
		w.agree(alice, bob, carol, dave)

		// again, from a state that is good, and from one that is lost
		w.must(w.join(dave))
		w.catchUp()
		w.agree(alice, bob, carol, dave)
		w.in(dave, func(ctx context.Context, c *client.Conversation) error { return c.Wipe(ctx) })
		w.must(w.join(dave))
		w.catchUp()
		w.agree(alice, bob, carol, dave)
		if ids, err := alice.ClientIDs(t.Context(), chat); err != nil || len(ids) != 4 {
			t.Errorf("members %v, %v", ids, err)
		}
		w.send(dave, "x")
		w.reads(alice, "x")
	})
}

// TestExternalJoinUnknown: the answer is lost. Messages that come meanwhile wait, the
// echo completes the join, and a rejoin does not fall over the old group.
func TestExternalJoinUnknown(t *testing.T) {
	t.Parallel()
	for _, member := range []bool{false, true} {
		for _, how := range []string{"echo", "resume", "again"} {
			w, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{RefuseRepeats: true})
			dave := carol
			if !member {
				dave = w.device("dave")
			}
			dave.Link.After = once("commit")
			if err := w.join(dave); !errors.Is(err, core.ErrUnknownOutcome) {
				t.Fatal(err)
			}
			err := dave.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
				_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{})
				return err
			})
			if !errors.Is(err, client.ErrConversationExists) {
				t.Errorf("a new one beside a join that waits: %v", err)
			}
			w.must(bob.Link.Drain(t.Context(), chat))
			w.send(bob, "hello")
			log := w.service.Log(chat)
			r, err := w.give(dave, log[len(log)-1])
			if b, ok := r.(*client.Buffered); err != nil || !ok || !member && b.Reason != client.JoinPending {
				t.Fatalf("%+v, %v", r, err)
			}
			switch how {
			case "echo":
				w.must(dave.Link.Drain(t.Context(), chat))
			case "resume":
				w.must(dave.Resume(t.Context()))
				w.must(dave.Link.Drain(t.Context(), chat))
			case "again":
				w.must(w.join(dave))
			}
			if i, err := dave.Info(t.Context(), chat); err != nil || i.Buffered != 0 {
				t.Errorf("%d buffered, %v", i.Buffered, err)
			}
			texts := 0
			for _, text := range dave.Texts() {
				if text == "hello" {
					texts++
				}
			}
			if how == "echo" && texts != 1 { // once as it was buffered; the queue has it again
				t.Errorf("member %v, %s: the message came %d times", member, how, texts)
			}
			w.catchUp()
			members := []*clienttest.Device{alice, bob, dave}
			if !member {
				members = append(members, carol)
			}
			w.agree(members...)
		}
	}
}

// A staleLink says that a commit is stale, and has an error to receive with.
type staleLink struct {
	*clienttest.Link
	err error
}

func (x staleLink) SubmitCommit(context.Context, core.ConversationID, string, client.CommitBundle) (client.Outcome, error) {
	return client.Outcome{Kind: client.Stale}, nil
}

func (x staleLink) Drain(context.Context, core.ConversationID) error { return x.err }

// TestExternalJoinKeepsWithTrouble: the answer is lost, and then our own key or store has
// trouble. That does not say that we are no member: the join goes on waiting.
func TestExternalJoinKeepsWithTrouble(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		client.KeyTrouble(core.ErrDenied), client.KeyTrouble(core.ErrNotFound), client.StoreTrouble(core.ErrDenied),
	} {
		w, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{RefuseRepeats: true})
		dave := w.device("dave")
		dave.Link.After = once("commit")
		if err := w.join(dave); !errors.Is(err, core.ErrUnknownOutcome) {
			t.Fatal(err)
		}
		dave.SetTransport(staleLink{dave.Link, fmt.Errorf("receive: %w", err)})
		if got := w.join(dave); !errors.Is(got, core.ErrUnknownOutcome) || !errors.Is(got, err) {
			t.Errorf("%v: %v, want ErrUnknownOutcome", err, got)
		}
		dave.SetTransport(dave.Link)
		w.must(w.join(dave))
		w.catchUp()
		w.agree(alice, bob, carol, dave)
	}
}

// TestWelcomeBesideAJoin: while our join waits for its answer somebody adds us. The
// join is lost, and what came meanwhile is not.
func TestWelcomeBesideAJoin(t *testing.T) {
	t.Parallel()
	w, alice, bob, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
	dave := w.device("dave")
	k := w.keyPackage(dave)
	dave.Link.Before = once("commit")
	if err := w.join(dave); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.AddMembers(ctx, k)
		return err
	})
	w.send(alice, "hello, dave")
	w.must(bob.Link.Drain(t.Context(), chat))
	w.update(bob)
	w.must(dave.Welcomes(t.Context())) // not yet
	if _, err := dave.Info(t.Context(), chat); !errors.Is(err, client.ErrConversationNotFound) {
		t.Fatal(err)
	}
	w.must(dave.Resume(t.Context()))
	w.must(dave.Welcomes(t.Context()))
	if texts := dave.Texts(); !slices.Equal(texts, []string{"hello, dave"}) {
		t.Errorf("dave read %q", texts)
	}
	w.must(alice.Link.Drain(t.Context(), chat))
	w.agree(alice, bob, dave)
}

func TestExternalJoinRefused(t *testing.T) {
	t.Parallel()
	w, _, _, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
	dave := w.device("dave")
	for _, d := range []*clienttest.Device{carol, dave} {
		before, _ := d.Info(t.Context(), chat)
		told := &answers{Backend: w.service, next: []client.Outcome{{Kind: client.Refused, Reason: "no"}}}
		d.Link.Service = told
		var refused *client.RefusedError
		if err := w.join(d); !errors.As(err, &refused) {
			t.Fatal(err)
		}
		after, _ := d.Info(t.Context(), chat)
		if before.Epoch != after.Epoch || after.PendingJoin {
			t.Errorf("%s: %+v, then %+v", d.Link.ID, before, after)
		}
	}
	if ids, err := dave.Conversations(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("dave has %q, %v", ids, err)
	}
	w.in(carol, update)
}

// KP-3, KP-4, KP-5, WEL-7, WEL-9, openmls#1502, openmls#1503: a Welcome that fails leaves
// the key package, one that is processed uses it up, and none is good for a
// conversation that is there or twice; a last resort stays, keys and all, good for
// another join, and says that the leaf's key is to be renewed.
func TestWelcome(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	count := func() (n int) {
		w.do(bob, func(ctx context.Context, tx *client.Transaction) (err error) {
			n, err = tx.CountKeyPackages(ctx, suite1, core.CredentialBasic)
			return err
		})
		return n
	}
	last := false
	join := func(message []byte) error {
		return bob.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.ProcessWelcome(ctx, message, client.JoinConfig{})
			last = err == nil && c.LastResort()
			return err
		})
	}
	var once, lastResort client.KeyPackage
	w.do(bob, func(ctx context.Context, tx *client.Transaction) (err error) {
		list, err := tx.NewKeyPackages(ctx, suite1, core.CredentialBasic, 2)
		if err != nil {
			return err
		}
		once = list[0]
		lastResort, err = tx.NewLastResortKeyPackage(ctx, suite1, core.CredentialBasic)
		if err == nil && !lastResort.LastResort {
			t.Error("not a last resort")
		}
		return err
	})
	add := func(k client.KeyPackage) []byte {
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			if ids, err := c.ClientIDs(ctx); err == nil && len(ids) > 1 {
				if _, err := c.RemoveMembers(ctx, "bob"); err != nil {
					return err
				}
			}
			_, err := c.AddMembers(ctx, k.Message)
			return err
		})
		got, ok := w.service.Welcome("bob")
		if !ok {
			t.Fatal("no welcome")
		}
		w.service.TakeWelcome("bob")
		return got.Message
	}
	w.create(alice)
	welcome := add(once)

	// what fails leaves the key package
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{})
		return err
	})
	if err := join(welcome); !errors.Is(err, client.ErrConversationExists) || count() != 2 {
		t.Fatalf("%v, %d key packages", err, count())
	}
	w.in(bob, func(ctx context.Context, c *client.Conversation) error { return c.Wipe(ctx) })
	for _, i := range []int{len(welcome) - 1, len(welcome) / 2} {
		damaged := append([]byte(nil), welcome...)
		damaged[i] ^= 1
		if err := join(damaged); err == nil || count() != 2 {
			t.Fatalf("%v, %d key packages", err, count())
		}
	}
	if err := bob.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		if _, err := tx.ProcessWelcome(ctx, welcome, client.JoinConfig{}); err != nil {
			t.Error(err)
		}
		return errAbort
	}); !errors.Is(err, errAbort) || count() != 2 {
		t.Fatalf("%v, %d key packages", err, count())
	}
	w.must(join(welcome))
	if count() != 1 || last {
		t.Errorf("%d key packages, last resort %v", count(), last)
	}
	w.agree(alice, bob)
	w.in(bob, func(ctx context.Context, c *client.Conversation) error { return c.Wipe(ctx) })
	if err := join(welcome); !errors.Is(err, client.ErrOrphanWelcome) {
		t.Errorf("the same again: %v", err)
	}

	// a last resort stays, but no Welcome is good twice
	for range 2 {
		welcome := add(lastResort)
		w.must(join(welcome))
		if !last {
			t.Error("nobody is told that a last resort was used")
		}
		w.agree(alice, bob)
		w.in(bob, func(ctx context.Context, c *client.Conversation) error { return c.Wipe(ctx) })
		if err := join(welcome); !errors.Is(err, mls.ErrDuplicateMessage) {
			t.Errorf("the same again: %v", err)
		}
	}
	if count() != 1 {
		t.Errorf("%d key packages", count())
	}
}

// KP-6, KP-8: expired key packages go, and nothing else uses them up: a new group has
// keys of its own.
func TestKeyPackages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	now := time.Now()
	cfg := config()
	cfg.Clock = func() time.Time { return now }
	alice := clienttest.NewDevice(t, w.service, "alice", memory.New(), cfg)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "alice", 1, 2) })
	refs := func(suite core.SuiteID, n int) (refs []string) {
		w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
			list, err := tx.KeyPackages(ctx, suite, core.CredentialBasic, n)
			for _, k := range list {
				refs = append(refs, string(k.Ref))
			}
			return err
		})
		if len(refs) != n {
			t.Fatalf("%d key packages, want %d", len(refs), n)
		}
		return refs
	}
	count := func(suite core.SuiteID) (n int) {
		w.do(alice, func(ctx context.Context, tx *client.Transaction) (err error) {
			n, err = tx.CountKeyPackages(ctx, suite, core.CredentialBasic)
			return err
		})
		return n
	}
	one, two := refs(1, 3), refs(2, 5)
	if count(1) != 3 || count(2) != 5 {
		t.Fatalf("%d and %d", count(1), count(2))
	}
	if again := refs(1, 3); !slices.Equal(slices.Sorted(slices.Values(one)), slices.Sorted(slices.Values(again))) {
		t.Error("asking again gives others")
	}
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{Suite: suite1})
		return err
	})
	if count(1) != 3 || count(2) != 5 {
		t.Errorf("a new group leaves %d and %d", count(1), count(2))
	}
	more := refs(1, 5)
	if slices.Contains(one, more[0]) || slices.Contains(one, more[1]) || !slices.Contains(one, more[2]) {
		t.Error("fresh ones do not come first")
	}
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.DeleteKeyPackages(ctx); !errors.Is(err, client.ErrEmptyInput) {
			t.Errorf("nothing to delete: %v", err)
		}
		return tx.DeleteKeyPackages(ctx, []byte(two[0]), []byte(two[1]), []byte("unknown"))
	})
	if count(1) != 5 || count(2) != 3 {
		t.Fatalf("%d and %d", count(1), count(2))
	}
	now = now.Add(85 * 24 * time.Hour)
	if count(1) != 0 {
		t.Errorf("%d are valid for ever", count(1))
	}
	refs(1, 1)
	now = now.Add(-85 * 24 * time.Hour)
	if count(1) != 1 || count(2) != 0 {
		t.Errorf("%d and %d were not pruned", count(1), count(2))
	}
	if err := alice.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewKeyPackages(ctx, 1, core.CredentialX509, 1)
		return err
	}); !errors.Is(err, client.ErrCredentialNotFound) {
		t.Errorf("x509: %v", err)
	}
}
