// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// rows counts the records of a client in each table of a store. The first sixteen
// tables are not the client's.
func (w *world) rows(ks core.Keystore, without ...core.Table) (rows string, total int) {
	w.Helper()
	var queries []core.Query
	for table := range core.Table(64) {
		queries = append(queries, core.Query{Table: table, KeysOnly: true})
	}
	answers, err := ks.Read(w.Context(), queries)
	w.must(err)
	for table, records := range answers {
		if table >= 16 && len(records) > 0 && !slices.Contains(without, core.Table(table)) {
			rows += fmt.Sprintf(" %d:%d", table, len(records))
			total += len(records)
		}
	}
	return rows, total
}

// COM-5: the Welcome goes out with its commit and is there for the joiner when the
// service has accepted that: not for a commit that is refused, lost or overtaken.
func TestWelcomeWaitsForItsCommit(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, carol := trio(t, policy, clienttest.Options{})
		dave := w.device("dave")
		told := &answers{Backend: w.service}
		alice.Link.Service = told
		add := func() error {
			k := w.keyPackage(dave)
			return in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.AddMembers(ctx, k)
				return err
			})
		}
		waits := func(what string) {
			t.Helper()
			if _, ok := w.service.Welcome("dave"); ok {
				t.Errorf("%s: the Welcome is there", what)
			}
		}
		told.next = []client.Outcome{{Kind: client.Refused, Reason: "no"}}
		var refused *client.RefusedError
		if err := add(); !errors.As(err, &refused) {
			t.Fatal(err)
		}
		waits("a commit that is refused")
		alice.Link.Before = once("commit")
		if err := add(); !errors.Is(err, core.ErrUnknownOutcome) {
			t.Fatal(err)
		}
		waits("a commit that is lost on its way")
		w.in(bob, update) // now it is overtaken, and so is the next one that is made for it
		commits := 0
		alice.Link.Before = func(call string) error {
			if call == "commit" {
				waits("a commit before it is accepted")
				if commits++; commits == 1 {
					w.must(bob.Link.Drain(t.Context(), chat))
					w.in(bob, update)
				}
			}
			return nil
		}
		w.must(alice.Resume(t.Context()))
		if _, ok := w.service.Welcome("dave"); !ok {
			t.Fatal("the Welcome of a commit that is accepted is not there")
		}
		w.must(dave.Welcomes(t.Context()))
		waits("a commit that was made anew")
		w.catchUp()
		w.agree(alice, bob, carol, dave)
	})
}

// COM-4, core-crypto/rows: of a conversation that we were removed from, or have wiped, no
// record is left, secrets least of all.
func TestNoRowsAreLeft(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w := newWorld(t, clienttest.Options{})
		w.policy = policy
		ks := memory.New()
		alice, bob, carol := w.device("alice"), w.deviceOn("bob", ks, config()), w.device("carol")
		w.create(alice)
		var before string
		n := 0
		for _, how := range []string{"wiped", "removed", "wiped", "left"} { // the first time, the heads of lists are made
			w.add(alice, bob)
			w.add(alice, carol)
			if _, now := w.rows(ks); now < n+5 {
				t.Fatalf("%d rows in a conversation, %d without", now, n)
			}
			w.send(alice, "hello")
			w.send(bob, "hello")
			w.catchUp()
			log := len(w.service.Log(chat))
			w.update(alice)
			w.send(alice, "of the next epoch")
			if _, err := w.give(bob, w.since(log)[1]); err != nil { // buffered
				t.Fatal(err)
			}
			remove := func(d *clienttest.Device, who ...core.ClientID) {
				w.in(d, func(ctx context.Context, c *client.Conversation) error {
					_, err := c.RemoveMembers(ctx, who...)
					return err
				})
			}
			switch how {
			case "removed":
				remove(alice, "bob", "carol")
			case "wiped":
				w.in(bob, func(ctx context.Context, c *client.Conversation) error { return c.Wipe(ctx) })
				remove(alice, "bob", "carol")
			case "left":
				w.must(bob.Link.Drain(t.Context(), chat))
				w.in(bob, func(ctx context.Context, c *client.Conversation) error { _, err := c.Leave(ctx); return err })
				w.must(alice.Link.Drain(t.Context(), chat))
				w.in(alice, func(ctx context.Context, c *client.Conversation) error {
					_, err := c.CommitPendingProposals(ctx)
					return err
				})
				w.must(carol.Link.Drain(t.Context(), chat))
				remove(alice, "carol")
			}
			_ = bob.Link.Drain(t.Context(), chat)
			_ = carol.Link.Drain(t.Context(), chat)
			after, count := w.rows(ks)
			if before != "" && after != before {
				t.Errorf("%s: rows%s, then%s", how, before, after)
			}
			before, n = after, count
		}
	})
}

// WEL-8: who has looked at a Welcome and does not want it has no rows of it.
func TestRejectedWelcomeLeavesNoRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice, bob := w.device("alice"), w.deviceOn("bob", ks, config())
	w.create(alice)
	k := w.keyPackage(bob)
	before, _ := w.rows(ks)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.AddMembers(ctx, k)
		return err
	})
	welcome, ok := w.service.Welcome("bob")
	if !ok {
		t.Fatal("no Welcome")
	}
	for range 2 {
		err := bob.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.ProcessWelcome(ctx, welcome.Message, client.JoinConfig{})
			if err != nil {
				return err
			}
			if ids, err := c.ClientIDs(ctx); err != nil || len(ids) != 2 {
				t.Errorf("the members are %v, %v", ids, err)
			}
			return errAbort
		})
		if after, _ := w.rows(ks); !errors.Is(err, errAbort) || after != before {
			t.Errorf("rows%s, then%s: %v", before, after, err)
		}
	}
	w.must(bob.Welcomes(t.Context()))
	w.agree(alice, bob)
}

// COM-11: a conversation that is there is not overwritten, neither by a new one nor by a
// Welcome; joining again by an external commit is what asks for it.
func TestConversationIsNotOverwritten(t *testing.T) {
	t.Parallel()
	w, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
	other := newWorld(t, clienttest.Options{}) // where the same id is another group
	mallory := other.device("mallory")
	other.create(mallory)
	k := w.keyPackage(alice)
	other.in(mallory, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.AddMembers(ctx, k)
		return err
	})
	welcome, ok := other.service.Welcome("alice")
	if !ok {
		t.Fatal("no Welcome")
	}
	for what, f := range map[string]func(ctx context.Context, tx *client.Transaction) error{
		"a new one": func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{})
			return err
		},
		"a Welcome": func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.ProcessWelcome(ctx, welcome.Message, client.JoinConfig{})
			return err
		},
	} {
		if err := alice.Transaction(t.Context(), f); !errors.Is(err, client.ErrConversationExists) {
			t.Errorf("%s: %v", what, err)
		}
		w.agree(alice, bob, carol)
	}
	w.must(w.join(alice))
	w.catchUp()
	w.agree(alice, bob, carol)
}

// core-crypto/buffer: what was buffered before we join again is tried once at most, and
// nothing of it stays.
func TestBufferAfterRejoin(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, _ := trio(t, policy, clienttest.Options{})
		ks := memory.New()
		dave := w.deviceOn("dave", ks, config())
		w.add(alice, dave)
		buffered := func() int {
			answers, err := ks.Read(t.Context(), []core.Query{{Table: 30, KeysOnly: true}, {Table: 31, KeysOnly: true}})
			w.must(err)
			return len(answers[0]) + len(answers[1])
		}
		from := len(w.service.Log(chat))
		w.update(alice)
		w.send(alice, "one")
		w.must(bob.Link.Drain(t.Context(), chat))
		w.update(bob) // a commit of the epoch that dave does not know
		texts := 0
		for _, message := range w.since(from)[1:] {
			r, err := w.give(dave, message)
			if b, ok := r.(*client.Buffered); err != nil && !errors.Is(err, mls.ErrWrongEpoch) || err == nil && (!ok || b.Reason != client.FutureEpoch) {
				t.Fatalf("%+v, %v", r, err)
			}
		}
		if buffered() != 2 {
			t.Fatalf("%d are buffered", buffered())
		}
		w.must(w.join(dave))
		w.catchUp()
		if n := buffered(); n != 0 {
			t.Errorf("%d are buffered still", n)
		}
		for range 2 {
			w.send(alice, "two")
			w.update(bob)
			w.catchUp()
		}
		for _, text := range dave.Texts() {
			if text == "one" {
				texts++
			}
		}
		if texts > 1 {
			t.Errorf("what was buffered came %d times", texts)
		}
		w.agree(alice, bob, dave)
	})
}

// COM-3: a commit of ours that was given up and accepted after all comes back: without a
// path it is processed like anybody's, with one only joining again helps.
func TestCommitThatWasGivenUp(t *testing.T) {
	t.Parallel()
	for _, path := range []bool{false, true} {
		w, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
		dave := w.device("dave")
		k := w.keyPackage(dave)
		n := len(w.service.Log(chat))
		alice.Link.After = once("commit") // accepted, and the answer is lost
		err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.Commit(ctx, client.Changes{Add: [][]byte{k}, Update: path})
			return err
		})
		if !errors.Is(err, core.ErrUnknownOutcome) {
			t.Fatal(err)
		}
		w.in(alice, func(ctx context.Context, c *client.Conversation) error { return c.DiscardPendingCommit(ctx) })
		r, err := w.give(alice, w.since(n)[0])
		if path {
			if !errors.Is(err, mls.ErrOwnMessage) {
				t.Errorf("with a path: %+v, %v", r, err)
			}
			w.must(bob.Link.Drain(t.Context(), chat))
			w.must(w.join(alice))
		} else if c, ok := r.(*client.CommitResult); err != nil || !ok || !c.Own || c.Committer != "alice" || len(c.Added) != 1 || c.Added[0] != "dave" {
			t.Errorf("without: %+v, %v", r, err)
		}
		w.catchUp()
		w.agree(alice, bob, carol, dave)
	}
}
