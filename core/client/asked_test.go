// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/storage/memory"
)

// refusals counts what is kept of refused texts.
func refusals(t testing.TB, ks core.Keystore) int {
	t.Helper()
	answers, err := ks.Read(t.Context(), []core.Query{{Table: client.TableRefused}})
	if err != nil {
		t.Fatal(err)
	}
	return len(answers[0])
}

// asker makes two members, of whom alice has a store that can be looked at.
func asker(t *testing.T) (w *world, alice, bob *clienttest.Device, ks core.Keystore) {
	w, ks = newWorld(t, clienttest.Options{}), memory.New()
	cfg := config()
	cfg.Lease = time.Millisecond
	alice, bob = w.deviceOn("alice", ks, cfg), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	return w, alice, bob, ks
}

var noKey client.IdempotencyKey

// Deliver says what became of a text, and leaves nothing of that behind.
func TestDeliver(t *testing.T) {
	t.Parallel()
	w, alice, bob, ks := asker(t)
	deliver := func(text string) (client.IdempotencyKey, error) {
		return alice.Deliver(t.Context(), chat, []byte(text), nil)
	}
	if key, err := deliver("accepted"); err != nil || key == noKey {
		t.Errorf("accepted: %v, %v", key, err)
	}
	w.reads(bob, "accepted")

	const reason = "too loud"
	alice.Link.Refuse(clienttest.CallSend, client.Outcome{Kind: client.Refused, Reason: reason + strings.Repeat("!", 1<<20)})
	var refused *client.RefusedError
	if key, err := deliver("refused"); key != noKey || !errors.As(err, &refused) || !strings.HasPrefix(refused.Reason, reason) || len(refused.Reason) > 1<<12 {
		t.Errorf("refused: %v, %v", key, err)
	}
	if lost := eventsOf[client.Undelivered](alice); len(lost) != 1 || string(lost[0].Data) != "refused" {
		t.Errorf("%+v", lost)
	}

	// What fails behind a text does not speak of it.
	alice.Link.SetOffline(true)
	key, err := deliver("late")
	if key == noKey || !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("offline: %v, %v", key, err)
	}
	alice.Link.SetOffline(false)
	w.must(alice.Settle(t.Context(), chat))
	w.reads(bob, "late")

	// Where commits keep overtaking it, they are taken.
	overtaken := 0
	alice.Link.Before = func(call string) error {
		if overtaken++; call == clienttest.CallSend && overtaken <= 3 {
			w.update(bob)
			w.must(bob.Link.Drain(t.Context(), chat)) // of what he knows
		}
		return nil
	}
	if _, err := deliver("overtaken"); err != nil {
		t.Error(err)
	}
	w.reads(bob, "overtaken")
	alice.Link.Before = func(call string) error { // nobody but her sees it end
		alice.Link.Before = nil
		w.in(bob, remove("alice"))
		return nil
	}
	if key, err := deliver("removed"); key != noKey || !errors.As(err, &refused) {
		t.Errorf("removed: %v, %v", key, err)
	}
	if _, err := deliver("to nobody"); !errors.Is(err, client.ErrConversationNotFound) {
		t.Errorf("when we are out: %v", err)
	}
	if n := refusals(t, ks); n != 0 {
		t.Errorf("%d refusals stay", n)
	}
}

// Another process may be the one that delivers, or that hears the refusal: what it has
// said to its own observers does not reach us.
func TestDeliveredByAnotherProcess(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]client.OutcomeKind{"accepted": client.Accepted, "refused": client.Refused} {
		t.Run(name, func(t *testing.T) {
			w, alice, _, ks := asker(t)
			again := clienttest.NewDevice(t, w.service, "alice", ks, config())
			alice.Link.Before = func(string) error { // her lease is over at once
				if answer == client.Refused {
					again.Link.Refuse(clienttest.CallSend, client.Outcome{Kind: answer, Reason: "no"})
				}
				w.must(again.Settle(t.Context(), chat))
				return errNetwork
			}
			var refused *client.RefusedError
			key, err := alice.Deliver(t.Context(), chat, []byte("hello"), nil)
			if answer == client.Accepted && (err != nil || key == noKey) || answer == client.Refused && (!errors.As(err, &refused) || refused.Reason != "no") {
				t.Errorf("%v, %v", key, err)
			}
		})
	}
}

// Nobody asks for ever: a refusal that nobody hears goes with the next, one that comes too
// late is not kept, and who has waited for too long is told that nobody knows.
func TestAskedTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, alice, _, ks := asker(t)
		refuse := func() { alice.Link.Refuse(clienttest.CallSend, client.Outcome{Kind: client.Refused}) }
		unheard := func(after time.Duration, want int) {
			t.Helper()
			alice.Link.SetOffline(true)
			key, err := alice.Deliver(t.Context(), chat, []byte("hello"), nil)
			if key == noKey || !errors.Is(err, core.ErrUnavailable) {
				t.Fatalf("offline: %v, %v", key, err)
			}
			alice.Link.SetOffline(false)
			time.Sleep(after)
			refuse()
			alice.Events()
			w.must(alice.Settle(t.Context(), chat))
			if lost := eventsOf[client.Undelivered](alice); len(lost) != 1 || lost[0].Key != key {
				t.Errorf("after %v: %+v", after, lost)
			}
			if n := refusals(t, ks); n != want {
				t.Errorf("after %v: %d refusals, want %d", after, n, want)
			}
		}
		unheard(time.Minute, 1)
		unheard(61*time.Minute, 1) // that of before
		unheard(time.Minute, 2)
		refuse()
		var refused *client.RefusedError
		if _, err := alice.Deliver(t.Context(), chat, nil, nil); !errors.As(err, &refused) {
			t.Error(err)
		}
		if n := refusals(t, ks); n != 1 { // somebody may still ask for it
			t.Errorf("%d refusals stay", n)
		}
		alice.Link.After = func(string) error { time.Sleep(31 * time.Minute); return nil }
		if key, err := alice.Deliver(t.Context(), chat, nil, nil); key != noKey || !errors.Is(err, core.ErrUnknownOutcome) {
			t.Errorf("after 31 minutes: %v, %v", key, err)
		}
	})
}

// What lies where a text was may be another: the conversation was wiped and made again.
func TestAskedOfAnother(t *testing.T) {
	t.Parallel()
	w, alice, _, _ := asker(t)
	alice.Link.Before = func(string) error {
		down(alice)
		w.in(alice, func(ctx context.Context, c *client.Conversation) error { return c.Wipe(ctx) })
		w.create(alice)
		w.send(alice, "of another conversation")
		return errNetwork
	}
	var refused *client.RefusedError
	if key, err := alice.Deliver(t.Context(), chat, []byte("hello"), nil); key != noKey || !errors.As(err, &refused) {
		t.Errorf("%v, %v", key, err)
	}
}

// A text that is dropped because the store was put back was refused, too.
func TestAskedBeforeAnAccident(t *testing.T) {
	t.Parallel()
	w, alice, _, ks := asker(t)
	alice.Link.SetOffline(true)
	if _, err := alice.Deliver(t.Context(), chat, []byte("hello"), nil); !errors.Is(err, core.ErrUnavailable) {
		t.Fatal(err)
	}
	restored := putBack(t, photo(t, ks))
	again := clienttest.NewDevice(t, w.service, "alice", restored, recovered())
	w.do(again, func(ctx context.Context, tx *client.Transaction) error { return tx.WipeConversation(ctx, chat) })
	if n := refusals(t, restored); n != 1 {
		t.Errorf("%d refusals", n)
	}
	if lost := eventsOf[client.Undelivered](again); !slices.ContainsFunc(lost, func(u client.Undelivered) bool { return string(u.Data) == "hello" }) {
		t.Errorf("%+v", lost)
	}
}
