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

// bothPolicies runs a test with handshakes in clear and encrypted.
func bothPolicies(t *testing.T, f func(t *testing.T, policy mls.Config)) {
	for name, policy := range map[string]mls.Config{"public": mls.DefaultConfig, "private": private} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, policy)
		})
	}
}

func TestLifeOfAConversation(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w := newWorld(t, clienttest.Options{})
		w.policy = policy
		alice, bob, carol, dave := w.device("alice"), w.device("bob"), w.device("carol"), w.device("dave")
		w.create(alice)
		w.add(alice, bob, carol, dave)
		w.agree(alice, bob, carol, dave)

		w.send(alice, "hello")
		w.send(bob, "hi")
		w.reads(alice, "hi")
		w.reads(bob, "hello")
		w.reads(carol, "hello", "hi")
		w.reads(dave, "hello", "hi")

		w.in(bob, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.RemoveMembers(ctx, "dave")
			return err
		})
		w.catchUp()
		w.agree(alice, bob, carol)
		if _, err := dave.Info(t.Context(), chat); !errors.Is(err, client.ErrConversationNotFound) {
			t.Fatalf("dave: %v", err)
		}
		if left := eventsOf[client.Left](dave); len(left) != 1 {
			t.Fatalf("dave's events: %v", left)
		}

		w.do(carol, func(ctx context.Context, tx *client.Transaction) error {
			if _, err := tx.NewCredential(ctx, suite1); err != nil {
				return err
			}
			c, err := tx.Conversation(ctx, chat)
			if err != nil {
				return err
			}
			_, err = c.Rotate(ctx, core.CredentialBasic)
			return err
		})
		w.catchUp()
		w.agree(alice, bob, carol)
		w.send(carol, "with a new key")
		w.reads(alice, "with a new key")

		var info []byte
		w.in(alice, func(ctx context.Context, c *client.Conversation) (err error) {
			info, err = c.GroupInfo(ctx)
			return err
		})
		w.do(dave, func(ctx context.Context, tx *client.Transaction) error {
			_, r, err := tx.JoinByExternalCommit(ctx, info, client.JoinConfig{Group: policy})
			if err == nil && r.Committer != "dave" {
				t.Errorf("committer %q", r.Committer)
			}
			return err
		})
		w.catchUp()
		w.agree(alice, bob, carol, dave)
		w.send(dave, "back")
		w.reads(carol, "back")

		// dave leaves: somebody else has to commit it
		w.in(dave, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.Leave(ctx)
			return err
		})
		w.catchUp()
		if err := in(t.Context(), dave, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.Send(ctx, []byte("too late"), nil)
			return err
		}); !errors.Is(err, mls.ErrPendingProposals) {
			t.Fatalf("send after leave: %v", err)
		}
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			r, err := c.CommitPendingProposals(ctx)
			if err == nil && (len(r.Removed) != 1 || r.Removed[0] != "dave") {
				t.Errorf("removed %v", r.Removed)
			}
			return err
		})
		w.catchUp()
		w.agree(alice, bob, carol)
		if _, err := dave.Info(t.Context(), chat); !errors.Is(err, client.ErrConversationNotFound) {
			t.Fatalf("dave: %v", err)
		}
	})
}

// A configuration is taken as it is, or all of it is the default. One that was not begun
// with the default is refused wherever it is given, and nothing of it is a message's fault.
func TestGroupConfig(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	chosen := mls.Config{Handshake: mls.HandshakePrivate, MaxForward: 7, TreeOutOfBand: true}
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		for id, g := range map[core.ConversationID]struct{ given, want mls.Config }{
			"default": {want: mls.DefaultConfig}, "chosen": {chosen, chosen},
		} {
			c, err := tx.NewConversation(ctx, id, client.ConversationConfig{Suite: suite1, Group: g.given})
			if err != nil {
				return err
			}
			if i, err := c.Info(ctx); err != nil || i.Config != g.want {
				t.Errorf("%s: %+v %v", id, i.Config, err)
			}
		}
		return nil
	})

	w.create(alice)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.AddMembers(ctx, w.keyPackage(bob))
		return err
	})
	welcome, _ := w.service.Welcome("bob")
	for _, part := range []mls.Config{
		{MaxPastEpochs: 9}, {Handshake: mls.HandshakePrivate}, {MaxForward: 7}, {Handshake: 3, MaxForward: 7},
	} {
		refused := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, core.ErrInvalid) || client.Blames(err) {
				t.Errorf("%s with %+v: %v, blamed %v", what, part, err, client.Blames(err))
			}
		}
		w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.NewConversation(ctx, "other", client.ConversationConfig{Suite: suite1, Group: part})
			refused("a new conversation", err)
			_, err = tx.ProcessWelcome(ctx, welcome.Message, client.JoinConfig{Group: part})
			refused("a Welcome", err)
			return nil
		})
		_, err := alice.RejoinWith(t.Context(), chat, client.JoinConfig{Group: part})
		refused("an external commit", err)
	}
	w.catchUp()
	w.agree(alice, bob)
}
