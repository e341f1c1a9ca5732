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

// TestPartOfAConfig: who chooses the handshakes only does not choose to lose messages
// that come out of order.
func TestPartOfAConfig(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	w.policy = mls.Config{Handshake: mls.HandshakePrivate}
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	for _, d := range []*clienttest.Device{alice, bob} {
		if i, err := d.Info(t.Context(), chat); err != nil || i.Config != private {
			t.Errorf("%+v %v", i.Config, err)
		}
	}
	chosen := mls.Config{MaxForward: 7, TreeOutOfBand: true}
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.NewConversation(ctx, "other", client.ConversationConfig{Suite: suite1, Group: chosen})
		if err != nil {
			return err
		}
		chosen.Handshake = mls.HandshakePublic
		if i, err := c.Info(ctx); err != nil || i.Config != chosen {
			t.Errorf("%+v %v", i.Config, err)
		}
		return nil
	})
}
