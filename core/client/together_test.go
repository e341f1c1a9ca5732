// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/storage/memory"
)

// twoProcesses are two clients of alice on one store, who is alone in the chat with bob.
func twoProcesses(t *testing.T, lease, otherLease time.Duration) (w *world, one, other, bob *clienttest.Device) {
	w = newWorld(t, clienttest.Options{})
	store, cfg := memory.New(), config()
	cfg.Lease = lease
	one, bob = w.deviceOn("alice", store, cfg), w.device("bob")
	w.create(one)
	w.add(one, bob)
	cfg.Lease = otherLease
	return w, one, clienttest.NewDevice(t, w.service, "alice", store, cfg), bob
}

// A commit whose caller waits for the answer in another process is left to that process,
// unless it seems to be dead.
func TestCommitOfAnotherProcess(t *testing.T) {
	t.Parallel()
	for _, dead := range []bool{false, true} {
		t.Run(fmt.Sprint("dead ", dead), func(t *testing.T) {
			t.Parallel()
			lease := time.Minute
			if dead {
				lease = 50 * time.Millisecond
			}
			w, one, other, bob := twoProcesses(t, lease, lease)
			var again atomic.Int64
			other.Link.Before = func(string) error { again.Add(1); return nil }
			settled := make(chan error)
			one.Link.Before = func(string) error {
				go func() { settled <- other.Settle(w.Context(), chat) }()
				if dead {
					w.must(<-settled)
					return nil
				}
				select {
				case err := <-settled:
					t.Errorf("the other process has settled the conversation: %v", err)
				case <-time.After(100 * time.Millisecond):
				}
				return nil
			}
			w.must(in(w.Context(), one, update))
			if !dead {
				w.must(<-settled)
			}
			if got := again.Load() > 0; got != dead {
				t.Errorf("the other process has submitted it %d times", again.Load())
			}
			w.must(other.Link.Drain(w.Context(), chat))
			w.catchUp()
			w.agree(one, other, bob)
		})
	}
}

// Who commits does not wait for an outbox to be empty into which others put more all the
// time. What was there before comes before the commit, and the rest comes too.
func TestCommitBesideSenders(t *testing.T) {
	t.Parallel()
	w, one, other, bob := twoProcesses(t, time.Minute, time.Millisecond)
	other.Link.SetOffline(true)
	const most = 60
	sent, before := 0, 0
	send := func() {
		sent++
		w.must(other.In(w.Context(), chat, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.Send(ctx, fmt.Append(nil, sent), nil)
			return err
		}))
	}
	send()
	one.Link.Before = func(call string) error {
		switch {
		case call == clienttest.CallCommit:
			before = sent
		case sent < most:
			send()
		}
		return nil
	}
	w.must(in(w.Context(), one, update))
	if before == 0 || before > most/2 {
		t.Errorf("the commit was submitted after %d texts", before)
	}
	w.must(one.Settle(w.Context(), chat))
	w.catchUp()
	texts := bob.Texts()
	for i, text := range texts {
		if text != fmt.Sprint(i+1) {
			t.Fatalf("bob reads %q", texts)
		}
	}
	if len(texts) != sent {
		t.Errorf("bob has read %d texts, want %d", len(texts), sent)
	}
	w.agree(one, bob)
}
