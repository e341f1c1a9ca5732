// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"testing"

	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
)

// What waits to be sent is counted until it is.
func TestUnsent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	unsent := func(want int) {
		t.Helper()
		if n, err := alice.Unsent(t.Context(), chat); n != want || err != nil {
			t.Errorf("%d unsent, %v; want %d", n, err, want)
		}
	}
	unsent(0)
	alice.Link.SetOffline(true)
	w.send(alice, "one")
	w.send(alice, "two")
	unsent(2)
	alice.Link.SetOffline(false)
	w.must(alice.Settle(t.Context(), chat))
	unsent(0)
	stage := func() {
		w.must(alice.In(t.Context(), chat, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.StageCommit(ctx, client.Changes{Update: true})
			return err
		}))
	}
	alice.Link.SetOffline(true)
	stage()
	unsent(1) // the commit is made
	stage()
	unsent(2) // and this one is staged
	alice.Link.SetOffline(false)
	w.must(alice.Settle(t.Context(), chat))
	unsent(0)
	w.reads(bob, "one", "two")
	if n, err := alice.Unsent(t.Context(), "elsewhere"); n != 0 || err != nil {
		t.Errorf("elsewhere: %d, %v", n, err)
	}
}
