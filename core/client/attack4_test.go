// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
)

// TestRefusedProposalBeforeCommit: a commit that covers a proposal of the same
// transaction is not submitted when the service has refused the proposal: nobody else
// could process it.
func TestRefusedProposalBeforeCommit(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, carol := trio(t, policy, clienttest.Options{})
		alice.Link.Refuse(clienttest.CallSend, client.Outcome{Kind: client.Refused, Reason: "no"})
		err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
			if _, err := c.ProposeRemove(ctx, "carol"); err != nil {
				return err
			}
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
		w.must(err)
		w.must(alice.Settle(t.Context(), chat))
		w.catchUp()
		w.agree(alice, bob, carol)
		if lapsed := eventsOf[client.Lapsed](alice); len(lapsed) != 1 {
			t.Errorf("%+v", lapsed)
		}
	})
}

// TestCommitsOfManyGoroutines: goroutines of one client commit at the same time, and so
// does another member. None of them is turned away.
func TestCommitsOfManyGoroutines(t *testing.T) {
	t.Parallel()
	w, alice, bob, carol := trio(t, mls.DefaultConfig, clienttest.Options{})
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			d := alice
			if i == 0 {
				d = bob
			}
			for range 5 {
				if err := in(t.Context(), d, update); err != nil {
					t.Errorf("%d: %v", i, err)
				}
			}
		})
	}
	all.Wait()
	w.catchUp()
	w.agree(alice, bob, carol)
}
