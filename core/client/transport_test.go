// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
)

// Without a transport nothing is made that would wait for one.
func TestQuirkTransportIsMissedBeforeAnythingIsMade(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice, bob, carol := w.device("alice"), w.device("bob"), w.device("carol")
	w.create(alice)
	w.add(alice, bob)
	info, err := alice.View(chat).GroupInfo(w.Context())
	w.must(err)
	keyPackage := w.keyPackage(carol)
	for _, d := range w.devices {
		d.SetTransport(nil)
	}
	before := all(w.Context(), alice.View(chat))
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, chat)
		if err != nil {
			return err
		}
		for name, try := range map[string]func() (*client.CommitResult, error){
			"add":    func() (*client.CommitResult, error) { return c.AddMembers(ctx, keyPackage) },
			"remove": func() (*client.CommitResult, error) { return c.RemoveMembers(ctx, "bob") },
			"update": func() (*client.CommitResult, error) { return c.UpdateKeyMaterial(ctx) },
			"rotate": func() (*client.CommitResult, error) { return c.Rotate(ctx, core.CredentialBasic) },
		} {
			if _, err := try(); !errors.Is(err, client.ErrNoTransport) {
				t.Errorf("%s: %v", name, err)
			}
		}
		return nil
	})
	w.do(carol, func(ctx context.Context, tx *client.Transaction) error {
		if _, _, err := tx.JoinByExternalCommit(ctx, info, client.JoinConfig{}); !errors.Is(err, client.ErrNoTransport) {
			t.Errorf("join: %v", err)
		}
		return nil
	})
	if got := changed(before, all(w.Context(), alice.View(chat))); got != nil {
		t.Errorf("%v changed", got)
	}
	if ids, err := carol.Conversations(w.Context()); err != nil || len(ids) != 0 {
		t.Errorf("carol has %v, %v", ids, err)
	}
	if err := alice.Settle(w.Context(), chat); !errors.Is(err, client.ErrNoTransport) {
		t.Errorf("settle: %v", err)
	}
	w.send(alice, "later") // waits in the outbox
	for _, d := range w.devices {
		d.SetTransport(d.Link)
	}
	w.must(alice.Resume(w.Context()))
	w.reads(bob, "later")
}

// A transport may be taken away between a commit and its answer.
func TestTransportTakenAway(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	alice.Link.Before = func(call string) error {
		if call == "commit" {
			alice.SetTransport(nil)
			return errors.New("no answer")
		}
		return nil
	}
	err := in(w.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.UpdateKeyMaterial(ctx)
		return err
	})
	if !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	if pending, err := alice.View(chat).HasPendingCommit(w.Context()); !pending || err != nil {
		t.Fatal("nothing is pending", err)
	}
	// Another one, of the same device.
	alice.SetTransport(&clienttest.Link{Service: w.service, ID: "alice", Receive: alice.Link.Receive})
	w.must(alice.Resume(w.Context()))
	w.catchUp()
	w.agree(alice, bob)
}
