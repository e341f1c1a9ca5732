// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"testing"

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
