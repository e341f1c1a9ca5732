// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
)

var reInit = &mls.ReInit{GroupID: []byte("next"), Version: mls.MLS10, Suite: suite1}

// A member can propose to end the conversation for another: our commits do not cover
// that, however little else there is to commit.
func TestForeignReInitIsLeftOut(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w := newWorld(t, clienttest.Options{})
		w.policy = policy
		alice, bob := w.device("alice"), w.device("bob")
		w.create(alice)
		w.add(alice, bob)
		mallory := w.raw("mallory")
		mallory.joinBy(alice)
		w.catchUp()
		mallory.propose(reInit)
		w.catchUp()
		if i, err := alice.Info(t.Context(), chat); err != nil || i.PendingProposals != 1 || i.ReInit != nil {
			t.Fatalf("%+v, %v", i, err)
		}
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			r, err := c.CommitPendingProposals(ctx)
			if err == nil && (!r.Active || r.ReInit != nil) {
				t.Errorf("%+v", r)
			}
			return err
		})
		w.catchUp()
		w.agree(alice, bob)
		if i, err := bob.Info(t.Context(), chat); err != nil || i.PendingProposals != 0 || i.ReInit != nil {
			t.Errorf("%+v, %v", i, err)
		}
		w.send(alice, "it goes on")
		w.reads(bob, "it goes on")
	})
}

// A commit with a ReInit ends the conversation: we are told, whatever waited comes to
// an end that is told as well, and whatever would change it is a typed error.
func TestReInitCommitted(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w := newWorld(t, clienttest.Options{})
		w.policy = policy
		alice, bob, carol := w.device("alice"), w.device("bob"), w.device("carol")
		w.create(alice)
		w.add(alice, bob)
		mallory := w.raw("mallory")
		mallory.joinBy(alice)
		w.catchUp()
		packages := [][]byte{w.keyPackage(carol)}
		w.send(alice, "before") // read afterwards
		late := w.service.Log(chat)
		bob.Link.Before = func(string) error { return errors.New("not now") }
		var own client.Proposed
		var staged client.IdempotencyKey
		w.in(bob, func(ctx context.Context, c *client.Conversation) (err error) {
			if _, err = c.Send(ctx, []byte("never"), nil); err != nil {
				return err
			}
			if own, err = c.ProposeUpdate(ctx, 0); err != nil {
				return err
			}
			staged, err = c.StageCommit(ctx, client.Changes{Update: true})
			return err
		})
		bob.Link.Before = nil
		mallory.commit(mls.CommitParams{Proposals: []mls.Proposal{reInit}})
		bob.Events()
		bob.Received()
		log := w.service.Log(chat)
		got, err := w.give(bob, log[len(log)-1])
		w.must(err)
		r, ok := got.(*client.CommitResult)
		if !ok || r.Active || r.ReInit == nil || string(r.ReInit.GroupID) != "next" || r.Committer != "mallory" {
			t.Fatalf("%+v", got)
		}
		if !client.Flatten(got).HasEpochChanged || client.Flatten(got).Active {
			t.Errorf("flat: %+v", client.Flatten(got))
		}
		if i, err := bob.Info(t.Context(), chat); err != nil || i.ReInit == nil {
			t.Errorf("%+v, %v", i, err)
		}
		events := bob.Events()
		var undelivered, lapsed, failed int
		for _, e := range events {
			switch e := e.(type) {
			case client.Undelivered:
				undelivered++
			case client.CommitFailed:
				if e.Key == staged && errors.Is(e.Err, mls.ErrInactive) {
					failed++
				}
			case client.Lapsed:
				if e.Key == own.Key {
					lapsed++
				}
			}
		}
		if undelivered != 1 || lapsed != 1 || failed != 1 {
			t.Errorf("events %+v", events)
		}
		if r, err := w.give(bob, late[len(late)-1]); err != nil || string(client.Flatten(r).Message) != "before" {
			t.Errorf("a late text: %+v, %v", r, err)
		}
		for name, op := range map[string]func(ctx context.Context, c *client.Conversation) error{
			"send": func(ctx context.Context, c *client.Conversation) error { _, err := c.Send(ctx, nil, nil); return err },
			"encrypt": func(ctx context.Context, c *client.Conversation) error {
				_, err := c.Encrypt(ctx, nil, nil)
				return err
			},
			"add": func(ctx context.Context, c *client.Conversation) error {
				_, err := c.AddMembers(ctx, packages...)
				return err
			},
			"remove": func(ctx context.Context, c *client.Conversation) error {
				_, err := c.RemoveMembers(ctx, "nobody")
				return err
			},
			"update": update,
			"pending": func(ctx context.Context, c *client.Conversation) error {
				_, err := c.CommitPendingProposals(ctx)
				return err
			},
			"stage": func(ctx context.Context, c *client.Conversation) error {
				_, err := c.StageCommit(ctx, client.Changes{Update: true})
				return err
			},
			"propose to add": func(ctx context.Context, c *client.Conversation) error {
				_, err := c.ProposeAdd(ctx, packages[0])
				return err
			},
			"propose to remove": func(ctx context.Context, c *client.Conversation) error {
				_, err := c.ProposeRemove(ctx, "nobody")
				return err
			},
			"propose to update": func(ctx context.Context, c *client.Conversation) error { _, err := c.ProposeUpdate(ctx, 0); return err },
			"leave":             func(ctx context.Context, c *client.Conversation) error { _, err := c.Leave(ctx); return err },
			"export":            func(ctx context.Context, c *client.Conversation) error { _, err := c.ExportSecret(ctx, 32); return err },
		} {
			if err := in(t.Context(), bob, op); !errors.Is(err, mls.ErrInactive) || !errors.Is(err, core.ErrDenied) {
				t.Errorf("%s: %v", name, err)
			}
		}
		w.must(bob.Settle(t.Context(), chat))
		w.in(bob, func(ctx context.Context, c *client.Conversation) error { return c.Wipe(ctx) })
		if there, err := bob.ConversationExists(t.Context(), chat); there || err != nil {
			t.Errorf("wiped: %v, %v", there, err)
		}
	})
}

// Who commits and is overtaken by the end of the conversation hears of that.
func TestReInitOvertakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	mallory := w.raw("mallory")
	mallory.joinBy(alice)
	w.catchUp()
	first := true
	alice.Link.Before = func(call string) error {
		if call == "commit" && first {
			first = false
			mallory.commit(mls.CommitParams{Proposals: []mls.Proposal{reInit}})
		}
		return nil
	}
	if err := in(t.Context(), alice, update); !errors.Is(err, mls.ErrInactive) {
		t.Errorf("update: %v", err)
	}
	w.must(alice.Resume(t.Context()))
	if failed := eventsOf[client.CommitFailed](alice); len(failed) != 0 {
		t.Errorf("told twice: %+v", failed)
	}
	if i, err := alice.Info(t.Context(), chat); err != nil || i.ReInit == nil || i.PendingCommit {
		t.Errorf("%+v, %v", i, err)
	}
}
