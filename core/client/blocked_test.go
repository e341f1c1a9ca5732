// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// An inward transport has everything decrypted that waits in the conversation, within
// each call, before it sends and behind it: as one does whose connection carries both.
type inward struct {
	*clienttest.Link
	before func() // the first time
}

func (x *inward) around(ctx context.Context, id core.ConversationID, f func() (client.Outcome, error)) (client.Outcome, error) {
	if before := x.before; before != nil {
		x.before = nil
		before()
	}
	if err := x.Drain(ctx, id); err != nil {
		return client.Outcome{}, err
	}
	outcome, err := f()
	if err != nil {
		return outcome, err
	}
	return outcome, x.Drain(ctx, id)
}

func (x *inward) SendMessage(ctx context.Context, id core.ConversationID, key string, message []byte) (client.Outcome, error) {
	return x.around(ctx, id, func() (client.Outcome, error) { return x.Link.SendMessage(ctx, id, key, message) })
}

func (x *inward) SubmitCommit(ctx context.Context, id core.ConversationID, key string, b client.CommitBundle) (client.Outcome, error) {
	return x.around(ctx, id, func() (client.Outcome, error) { return x.Link.SubmitCommit(ctx, id, key, b) })
}

// Two processes have texts in one outbox that is blocked, first because the network is
// down and then because the call hangs. Both times bob commits five times and everybody
// else talks. Then both send at once, and decrypt what comes from within their
// transports. Every text is read once by everybody, in order.
func TestFiveCommitsWhileBlocked(t *testing.T) {
	t.Parallel()
	rounds := 10
	if testing.Short() {
		rounds = 2
	}
	for n := range rounds {
		for name, policy := range map[string]mls.Config{"public": mls.DefaultConfig, "private": private} {
			t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) { fiveCommits(t, policy, n) })
		}
	}
}

func fiveCommits(t *testing.T, policy mls.Config, round int) {
	w := newWorld(t, clienttest.Options{RefuseRepeats: round%2 == 0})
	w.policy = policy
	ks := memory.New()
	alice, bob, carol := w.deviceOn("alice", ks, config()), w.device("bob"), w.device("carol")
	again := clienttest.NewDevice(t, w.service, "alice", ks, config())
	again.Join.Group = policy
	w.create(alice)
	w.add(alice, bob, carol)

	var ours, theirs []string // texts, in the order in which they were sent
	say := func(d *clienttest.Device, list *[]string, text string) {
		w.send(d, text)
		*list = append(*list, text)
	}
	commits := func(what string) {
		for i := range 5 {
			say(bob, &theirs, fmt.Sprintf("%s %d of bob", what, i))
			w.update(bob)
			w.must(bob.Link.Drain(t.Context(), chat))
			w.must(carol.Link.Drain(t.Context(), chat))
			say(carol, &theirs, fmt.Sprintf("%s %d of carol", what, i))
		}
	}
	alice.Link.SetOffline(true)
	again.Link.SetOffline(true)
	for i := range 4 {
		say(alice, &ours, fmt.Sprintf("%d of alice", i))
		say(again, &ours, fmt.Sprintf("%d of the other", i))
	}
	commits("offline")
	alice.Link.SetOffline(false)
	again.Link.SetOffline(false)
	alice.SetTransport(&inward{Link: alice.Link, before: func() { commits("in the call") }})
	again.SetTransport(&inward{Link: again.Link})

	var wg sync.WaitGroup
	for _, d := range []*clienttest.Device{alice, again} {
		wg.Go(func() {
			var err error
			for range 20 {
				if err = d.Settle(t.Context(), chat); err == nil {
					return
				}
			}
			t.Errorf("settle: %v", err)
		})
	}
	wg.Wait()
	for _, d := range []*clienttest.Device{alice, again, bob, carol} {
		w.must(d.Link.Drain(t.Context(), chat))
		if errs := d.Failed(); len(errs) > 0 {
			t.Errorf("%s: %v", d.Link.ID, errs)
		}
	}
	reads := func(who string, got, want []string) { // those of them that are wanted, and what else there is
		t.Helper()
		got = slices.DeleteFunc(slices.Clone(got), func(text string) bool {
			return !slices.Contains(want, text) && (slices.Contains(ours, text) || slices.Contains(theirs, text))
		})
		if !slices.Equal(got, want) {
			t.Errorf("%s read %q, want %q", who, got, want)
		}
	}
	by := func(sender string) []string {
		return slices.DeleteFunc(slices.Clone(theirs), func(text string) bool { return !strings.HasSuffix(text, sender) })
	}
	of := map[*clienttest.Device][]string{alice: alice.Texts(), again: again.Texts(), bob: bob.Texts(), carol: carol.Texts()}
	reads("bob", of[bob], ours)
	reads("bob", of[bob], by("carol"))
	reads("carol", of[carol], ours)
	reads("carol", of[carol], by("bob"))
	// The two share a queue: what one has read is nothing to the other.
	both := append(slices.Clone(of[alice]), of[again]...)
	if slices.Sort(both); !slices.Equal(both, slices.Sorted(slices.Values(theirs))) {
		t.Errorf("alice read %q, want each of %q once", both, theirs)
	}
	for who, got := range map[string][]string{"alice": of[alice], "the other": of[again]} {
		at := -1
		for _, text := range got {
			i := slices.Index(theirs, text)
			if i <= at {
				t.Errorf("%s read %q out of order", who, got)
			}
			at = i
		}
	}
	w.agree(alice, again, bob, carol)
}
