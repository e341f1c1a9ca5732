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

// Several processes of one client commit in turn, and so does one that starts anew each
// time: none of them alone goes far, and nothing of what others sent is lost.
func TestCommitsOfSeveralWithoutDraining(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		for name, commit := range map[string]func(context.Context, *client.Conversation) error{
			"commit": update,
			"send and commit": func(ctx context.Context, c *client.Conversation) error {
				if _, err := c.Send(ctx, []byte("on we go"), nil); err != nil {
					return err
				}
				return update(ctx, c)
			},
			"stage": func(ctx context.Context, c *client.Conversation) error {
				_, err := c.StageCommit(ctx, client.Changes{Update: true})
				return err
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, clienttest.Options{})
				w.policy = policy
				store := memory.New()
				alice, bob := w.device("alice"), w.deviceOn("bob", store, config())
				w.create(alice)
				w.add(alice, bob)
				read := 0
				for range 3 {
					w.send(alice, "hello")
					for range 6 {
						another := clienttest.NewDevice(t, w.service, "bob", store, config())
						w.in(another, commit)
						read += len(another.Texts())
					}
					w.catchUp()
				}
				if read += len(bob.Texts()); read != 3 {
					t.Errorf("read %d texts, want 3", read)
				}
				w.agree(alice, bob)
			})
		}
	})
}

// Who cannot read what waits does not go far ahead of it either.
func TestNoCommitAheadOfWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	store, cfg := memory.New(), config()
	cfg.Lease = 20 * time.Millisecond
	alice, bob := w.device("alice"), w.deviceOn("bob", store, cfg)
	w.create(alice)
	w.add(alice, bob)
	w.send(alice, "hello")
	for range 6 {
		another := clienttest.NewDevice(t, w.service, "bob", store, cfg)
		another.Link.Receive = func(context.Context, core.ConversationID, []byte) error { return core.ErrClosed }
		for _, commit := range []func(context.Context, *client.Conversation) error{
			update,
			func(ctx context.Context, c *client.Conversation) error {
				_, err := c.Send(ctx, []byte("on we go"), nil)
				return errors.Join(err, update(ctx, c))
			},
			func(ctx context.Context, c *client.Conversation) error {
				_, err := c.StageCommit(ctx, client.Changes{Update: true})
				return err
			},
		} {
			if err := in(t.Context(), another, commit); err != nil && !errors.Is(err, core.ErrUnavailable) {
				t.Error(err)
			}
		}
	}
	w.must(errors.Join(bob.Resume(t.Context()), bob.Link.Drain(t.Context(), chat)))
	w.catchUp()
	if got := bob.Texts(); !slices.Equal(got, []string{"hello"}) {
		t.Errorf("bob has read %q", got)
	}
	w.agree(alice, bob)
}
