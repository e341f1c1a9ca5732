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

// stage stages a commit on the chat.
func (w *world) stage(d *clienttest.Device, changes client.Changes) (key client.IdempotencyKey) {
	w.Helper()
	w.in(d, func(ctx context.Context, c *client.Conversation) (err error) {
		key, err = c.StageCommit(ctx, changes)
		return err
	})
	return key
}

func (w *world) epoch(d *clienttest.Device) uint64 {
	w.Helper()
	i, err := d.Info(w.Context(), chat)
	w.must(err)
	return i.Epoch
}

// TestStagedCommit: it is made in its turn behind what was sent before, and its end is
// told. An abort undoes it.
func TestStagedCommit(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, carol := trio(t, policy, clienttest.Options{})
		dave := w.device("dave")
		k := w.keyPackage(dave)
		before, calls := w.epoch(alice), 0
		alice.Link.Before = func(string) error { calls++; return nil }
		stop := errors.New("stop")
		err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
			if _, err := c.StageCommit(ctx, client.Changes{Update: true}); err != nil {
				return err
			}
			return stop
		})
		if !errors.Is(err, stop) || calls != 0 {
			t.Fatal(err, calls)
		}
		w.must(alice.Settle(t.Context(), chat))
		if calls != 0 || w.epoch(alice) != before {
			t.Fatalf("an aborted commit was made: %d calls", calls)
		}
		var key client.IdempotencyKey
		w.in(alice, func(ctx context.Context, c *client.Conversation) (err error) {
			if _, err = c.Send(ctx, []byte("one"), nil); err != nil {
				return err
			}
			if key, err = c.StageCommit(ctx, client.Changes{Add: [][]byte{k}, Remove: []core.ClientID{"carol"}}); err != nil {
				return err
			}
			if i, err := c.Info(ctx); err != nil || i.Epoch != before || calls != 0 {
				t.Errorf("the commit was made at once: %+v, %v", i, err)
			}
			if _, err := c.ProposeUpdate(ctx, 0); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("a proposal behind a staged commit: %v", err)
			}
			if _, err := c.UpdateKeyMaterial(ctx); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("a boundary behind a staged commit: %v", err)
			}
			_, err = c.Send(ctx, []byte("two"), nil)
			return err
		})
		if w.epoch(alice) != before+1 {
			t.Fatalf("epoch %d", w.epoch(alice))
		}
		done := eventsOf[client.Committed](alice)
		if len(done) != 1 || done[0].Key != key || done[0].Result.Epoch != before+1 || !slices.Equal(done[0].Result.Added, []core.ClientID{"dave"}) || !slices.Equal(done[0].Result.Removed, []core.ClientID{"carol"}) {
			t.Errorf("events %+v", done)
		}
		w.catchUp()
		w.reads(bob, "one", "two")
		if texts := carol.Texts(); !slices.Equal(texts, []string{"one"}) {
			t.Errorf("carol read %q", texts)
		}
		w.agree(alice, bob, dave)
	})
}

// TestStagedUnfit: what is wrong is told when it is staged; what becomes wrong, as an
// event, and nothing waits for it.
func TestStagedUnfit(t *testing.T) {
	t.Parallel()
	w, alice, bob, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
	for name, changes := range map[string]client.Changes{
		"no member": {Remove: []core.ClientID{"nobody"}}, "no key package": {Add: [][]byte{[]byte("x")}},
	} {
		if err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.StageCommit(ctx, changes)
			return err
		}); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	up := down(alice)
	w.send(alice, "first")
	key := w.stage(alice, client.Changes{PSKs: [][]byte{[]byte("unknown")}})
	gone := w.stage(alice, client.Changes{Remove: []core.ClientID{"carol"}})
	kept := w.stage(alice, client.Changes{Update: true})
	w.in(alice, func(ctx context.Context, c *client.Conversation) error { return c.DiscardStaged(ctx, gone) })
	if err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
		return c.DiscardStaged(ctx, gone)
	}); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("discarded twice: %v", err)
	}
	up()
	w.send(alice, "behind")
	failed, done := eventsOf2[client.CommitFailed, client.Committed](alice)
	if len(failed) != 1 || failed[0].Key != key || !errors.Is(failed[0].Err, mls.ErrMissingPSK) {
		t.Errorf("%+v", failed)
	}
	if len(done) != 1 || done[0].Key != kept {
		t.Errorf("%+v", done)
	}
	w.reads(bob, "first", "behind")
}

// eventsOf2 returns the events of two types since the last call.
func eventsOf2[E, F client.Event](d *clienttest.Device) (e []E, f []F) {
	for _, event := range d.Events() {
		switch event := event.(type) {
		case E:
			e = append(e, event)
		case F:
			f = append(f, event)
		}
	}
	return e, f
}

// TestStagedMeetsOthers: others commit while it is under way, again and again; then it
// is made of what is left, or nothing is left, or it is given up.
func TestStagedMeetsOthers(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, carol := trio(t, policy, clienttest.Options{})
		dave, erin := w.device("dave"), w.device("erin")
		kd, ke := w.keyPackage(dave), w.keyPackage(erin)
		overtake := func(times int, f func(ctx context.Context, c *client.Conversation) error) {
			alice.Link.Before = func(call string) error {
				if call == "commit" && times != 0 {
					times--
					w.must(bob.Link.Drain(t.Context(), chat))
					w.in(bob, f)
				}
				return nil
			}
		}
		overtake(3, update)
		w.stage(alice, client.Changes{Add: [][]byte{kd}})
		if done := eventsOf[client.Committed](alice); len(done) != 1 || !slices.Equal(done[0].Result.Added, []core.ClientID{"dave"}) {
			t.Fatalf("%+v", done)
		}
		w.catchUp()
		w.agree(alice, bob, carol, dave)

		overtake(1, func(ctx context.Context, c *client.Conversation) error { // does one half of it
			_, err := c.AddMembers(ctx, w.keyPackage(erin))
			return err
		})
		w.stage(alice, client.Changes{Add: [][]byte{ke}, Remove: []core.ClientID{"dave"}})
		if done := eventsOf[client.Committed](alice); len(done) != 1 || len(done[0].Result.Added) != 0 || !slices.Equal(done[0].Result.Removed, []core.ClientID{"dave"}) {
			t.Fatalf("%+v", done)
		}
		w.catchUp()
		w.agree(alice, bob, carol, erin)

		overtake(1, func(ctx context.Context, c *client.Conversation) error { // does the whole of it
			_, err := c.RemoveMembers(ctx, "erin")
			return err
		})
		before := w.epoch(alice)
		key := w.stage(alice, client.Changes{Remove: []core.ClientID{"erin"}})
		if done := eventsOf[client.Committed](alice); len(done) != 1 || done[0].Key != key || w.epoch(alice) != before+1 {
			t.Fatalf("%+v in epoch %d", done, w.epoch(alice))
		}
		overtake(-1, update)
		key = w.stage(alice, client.Changes{Update: true})
		if failed := eventsOf[client.CommitFailed](alice); len(failed) != 1 || failed[0].Key != key || !errors.Is(failed[0].Err, client.ErrCommitLost) {
			t.Fatalf("%+v", failed)
		}
		overtake(0, nil)
		w.send(alice, "on")
		w.reads(bob, "on")
	})
}

// TestNoRenewal: without it nothing is done again that others have overtaken.
func TestNoRenewal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	cfg := config()
	cfg.NoRenewal = true
	alice, bob := w.deviceOn("alice", memory.New(), cfg), w.device("bob")
	w.create(bob)
	w.add(bob, alice)
	alice.Link.Before = func(call string) error {
		if call == "commit" {
			w.in(bob, update)
		}
		return nil
	}
	if err := in(t.Context(), alice, update); !errors.Is(err, client.ErrCommitLost) {
		t.Error(err)
	}
	w.must(bob.Link.Drain(t.Context(), chat))
	key := w.stage(alice, client.Changes{Update: true})
	if failed := eventsOf[client.CommitFailed](alice); len(failed) != 1 || failed[0].Key != key || !errors.Is(failed[0].Err, client.ErrCommitLost) {
		t.Errorf("%+v", failed)
	}
	w.propose(alice)
	w.in(bob, update) // without having seen the proposal
	alice.Received()
	w.must(alice.Link.Drain(t.Context(), chat))
	for _, r := range alice.Received() {
		if c, ok := r.(*client.CommitResult); ok && (len(c.Dropped) != 1 || len(c.Renewed) != 0 || c.Delay != nil) {
			t.Errorf("%+v", c)
		}
	}
}

func (w *world) propose(d *clienttest.Device) (p client.Proposed) {
	w.Helper()
	w.in(d, func(ctx context.Context, c *client.Conversation) (err error) {
		p, err = c.ProposeUpdate(ctx, 0)
		return err
	})
	return p
}

// TestRenewal: what another's commit leaves undone of our proposals is proposed again,
// the way it was meant; what is done, or means somebody else by now, is not.
func TestRenewal(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, carol := trio(t, policy, clienttest.Options{})
		dave, erin := w.device("dave"), w.device("erin")
		kd, ke := w.keyPackage(dave), w.keyPackage(erin)
		var rotated client.Credential
		w.do(alice, func(ctx context.Context, tx *client.Transaction) (err error) {
			if rotated, err = tx.NewCredential(ctx, suite1); err != nil {
				return err
			}
			return tx.SetPSK(ctx, []byte("psk"), core.NewSecret([]byte("key")))
		})
		up := down(alice) // nobody sees the proposals
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			for _, k := range [][]byte{kd, ke} {
				if _, err := c.ProposeAdd(ctx, k); err != nil {
					return err
				}
			}
			if _, err := c.ProposeRemove(ctx, "carol"); err != nil {
				return err
			}
			if _, err := c.ProposePSK(ctx, []byte("psk")); err != nil {
				return err
			}
			_, err := c.ProposeUpdate(ctx, rotated.Ref)
			return err
		})
		w.in(bob, func(ctx context.Context, c *client.Conversation) error { // carol's leaf becomes erin's
			_, err := c.Commit(ctx, client.Changes{Remove: []core.ClientID{"carol"}, Add: [][]byte{w.keyPackage(erin)}})
			return err
		})
		alice.Received()
		w.must(alice.Link.Drain(t.Context(), chat))
		got := alice.Received()
		c, ok := got[0].(*client.CommitResult)
		if !ok || len(got) != 1 || len(c.Renewed) != 2 || len(c.Dropped) != 1 || c.Delay == nil {
			t.Fatalf("%+v", got)
		}
		if lapsed := eventsOf[client.Lapsed](alice); len(lapsed) != 3 { // those done, and the PSK
			t.Errorf("%+v", lapsed)
		}
		up()
		w.must(alice.Settle(t.Context(), chat))
		w.must(bob.Link.Drain(t.Context(), chat))
		w.in(bob, func(ctx context.Context, c *client.Conversation) error {
			list, err := c.PendingProposals(ctx)
			if err != nil {
				return err
			}
			var add *mls.Add
			var again *mls.Update
			for _, p := range list {
				switch p := p.Proposal.(type) {
				case *mls.Add:
					add = p
				case *mls.Update:
					again = p
				}
			}
			if len(list) != 2 || add == nil || again == nil || !slices.Equal(again.LeafNode.SignatureKey, rotated.SignatureKey) {
				t.Errorf("%+v", list)
			}
			_, err = c.CommitPendingProposals(ctx)
			return err
		})
		w.catchUp()
		w.agree(alice, bob, dave, erin)
		if _, err := carol.Info(t.Context(), chat); !errors.Is(err, client.ErrConversationNotFound) {
			t.Error(err)
		}
	})
}

// TestOutOfSync: the sign that commits are missing, and the way back.
func TestOutOfSync(t *testing.T) {
	t.Parallel()
	w, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
	w.update(bob)
	w.update(carol)
	w.send(carol, "from far ahead")
	far := w.service.Log(chat)[len(w.service.Log(chat))-1]
	before := w.epoch(alice)
	err := alice.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.DecryptMessage(ctx, chat, far)
		return err
	})
	if !errors.Is(err, mls.ErrWrongEpoch) {
		t.Fatal(err)
	}
	if signs := eventsOf[client.OutOfSync](alice); len(signs) != 1 || signs[0] != (client.OutOfSync{Conversation: chat, Epoch: before, Seen: before + 2}) {
		t.Errorf("%+v", signs)
	}
	if i, err := alice.Info(t.Context(), chat); err != nil || i.Buffered != 0 {
		t.Errorf("%+v %v", i, err)
	}
	up := down(alice)
	w.send(alice, "kept")
	up()
	r, err := alice.Rejoin(t.Context(), chat)
	if err != nil || r.Epoch != before+3 || !r.Own {
		t.Fatalf("%+v %v", r, err)
	}
	w.must(alice.Settle(t.Context(), chat))
	w.catchUp()
	w.agree(alice, bob, carol)
	w.reads(bob, "from far ahead", "kept")
}

// TestOwnCommitForgotten: our commit comes back and nothing is left of it.
func TestOwnCommitForgotten(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, _ := trio(t, policy, clienttest.Options{})
		alice.Link.After = func(string) error { return errors.New("no answer") }
		if err := in(t.Context(), alice, update); !errors.Is(err, core.ErrUnknownOutcome) {
			t.Fatal(err)
		}
		w.in(alice, func(ctx context.Context, c *client.Conversation) error { return c.DiscardPendingCommit(ctx) })
		alice.Events()
		w.must(alice.Link.Drain(t.Context(), chat))
		if signs := eventsOf[client.OutOfSync](alice); len(signs) != 1 {
			t.Errorf("%+v", signs)
		}
		alice.Link.After = nil
		if _, err := alice.Rejoin(t.Context(), chat); err != nil {
			t.Fatal(err)
		}
		w.catchUp()
		w.agree(alice, bob)
	})
}

// TestOwnersTime: an intention whose owner waits to try again is left alone by another
// process, until the owner's time is over.
func TestOwnersTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks, cfg := memory.New(), config()
	cfg.Lease = 50 * time.Millisecond
	alice, bob := w.deviceOn("alice", ks, cfg), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	again := clienttest.NewDevice(t, w.service, "alice", ks, cfg)
	tries := 0
	alice.Link.Before = func(call string) error {
		if tries++; call == "commit" && tries == 1 {
			w.in(bob, update)
			w.must(again.Link.Drain(t.Context(), chat)) // it is the other process that learns of that
			w.must(again.Settle(t.Context(), chat))     // and waits: the owner may be gone
		}
		return nil
	}
	if err := in(t.Context(), alice, update); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Errorf("what another process has taken over: %v", err)
	}
	if done := eventsOf[client.Committed](again); len(done) != 1 {
		t.Errorf("%+v", done)
	}
	alice.Link.Before = nil
	w.in(alice, update)
	w.catchUp()
	w.agree(alice, bob, again)
}

// posted answers messages out of turn.
type posted struct {
	clienttest.Backend
	next []client.Outcome
}

func (p *posted) SendMessage(by core.ClientID, id core.ConversationID, key string, message []byte) client.Outcome {
	if len(p.next) > 0 {
		next := p.next[0]
		p.next = p.next[1:]
		return next
	}
	return p.Backend.SendMessage(by, id, key, message)
}

// TestRefusedProposal: a proposal that the service refuses is no longer one of ours, so
// that no commit covers what nobody else has. One of an epoch that is over for the
// service waits until we know of that, and is renewed.
func TestRefusedProposal(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, carol := trio(t, policy, clienttest.Options{})
		told := &posted{Backend: w.service, next: []client.Outcome{{Kind: client.Refused, Reason: "no"}}}
		alice.Link.Service = told
		p := w.propose(alice)
		if lapsed := eventsOf[client.Lapsed](alice); len(lapsed) != 1 || lapsed[0].Key != p.Key || lapsed[0].Reason != "no" {
			t.Errorf("%+v", lapsed)
		}
		if i, err := alice.Info(t.Context(), chat); err != nil || i.PendingProposals != 0 {
			t.Errorf("%+v %v", i, err)
		}
		w.in(alice, update)
		w.catchUp()
		w.agree(alice, bob, carol)

		w.update(bob)
		told.next = []client.Outcome{{Kind: client.Stale}}
		w.propose(alice)
		w.catchUp()
		if lapsed := eventsOf[client.Lapsed](alice); len(lapsed) != 0 {
			t.Errorf("%+v", lapsed)
		}
		w.must(alice.Settle(t.Context(), chat))
		w.catchUp()
		if i, err := bob.Info(t.Context(), chat); err != nil || i.PendingProposals != 1 {
			t.Errorf("%+v %v", i, err)
		}
	})
}

// Of two Updates of ours a commit takes one. The other has nothing to do any more.
func TestSecondUpdateIsNotRenewed(t *testing.T) {
	t.Parallel()
	w, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
	for range 2 {
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposeUpdate(ctx, 0)
			return err
		})
	}
	w.catchUp()
	w.in(bob, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.CommitPendingProposals(ctx)
		return err
	})
	w.catchUp()
	if i, err := alice.Info(t.Context(), chat); err != nil || i.PendingProposals != 0 {
		t.Errorf("%d proposals wait, %v", i.PendingProposals, err)
	}
	w.agree(alice, bob, carol)
}
