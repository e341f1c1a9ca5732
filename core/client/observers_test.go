// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
)

func makeConversation(w *world, d *clienttest.Device, id core.ConversationID) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, id, client.ConversationConfig{})
		return err
	})
}

func wipe(w *world, d *clienttest.Device, id core.ConversationID) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, id)
		if err != nil {
			return err
		}
		return c.Wipe(ctx)
	})
}

func TestObserve(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	var first, second []client.Event
	var stop func()
	stopFirst := alice.Observe(func(e client.Event) {
		first = append(first, e)
		if _, left := e.(client.Left); left {
			stop() // takes effect at once, also for this event
		}
	})
	stop = alice.Observe(func(e client.Event) { second = append(second, e) })
	makeConversation(w, alice, "a")
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, "a")
		if err != nil {
			return err
		}
		if err := c.Wipe(ctx); err != nil {
			return err
		}
		_, err = tx.NewConversation(ctx, "b", client.ConversationConfig{})
		return err
	})
	stopFirst()
	stopFirst()
	makeConversation(w, alice, "c")
	want := []client.Event{client.EpochChanged{Conversation: "a"}, client.Left{Conversation: "a"}, client.EpochChanged{Conversation: "b"}}
	if !slices.Equal(first, want) || !slices.Equal(second, want[:1]) {
		t.Errorf("first saw %v, second %v; want %v", first, second, want)
	}
}

// Nothing is held while an observer runs, however long that takes, and a panic of it
// loses no later event.
func TestObserverHoldsNothing(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	w.create(w.device("dave")) // of which the service knows nothing: it is another's id
	refused := w.devices[2]

	entered, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var mu sync.Mutex
	var told []client.Event
	defer alice.Observe(func(e client.Event) {
		once.Do(func() { close(entered); <-proceed })
		mu.Lock()
		defer mu.Unlock()
		told = append(told, e)
	})()
	var wg sync.WaitGroup
	wg.Go(func() { makeConversation(w, alice, "slow") })
	<-entered
	ctx, cancel := context.WithTimeout(w.Context(), 10*time.Second)
	defer cancel()
	w.must(alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, "slow")
		if err != nil {
			return err
		}
		return c.Wipe(ctx)
	}))
	w.must(alice.Settle(ctx, chat))
	close(proceed)
	wg.Wait()
	if want := []client.Event{client.EpochChanged{Conversation: "slow"}, client.Left{Conversation: "slow"}}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}

	// A transaction and a settlement of the same outbox, from within.
	var inside []error
	defer refused.Observe(func(e client.Event) {
		if _, gone := e.(client.Undelivered); gone {
			ctx, cancel := context.WithTimeout(w.Context(), 10*time.Second)
			defer cancel()
			inside = append(inside, refused.Settle(ctx, chat), in(ctx, refused, func(ctx context.Context, c *client.Conversation) error { return c.Wipe(ctx) }))
		}
	})()
	w.send(refused, "to nobody")
	if len(inside) != 2 || inside[0] != nil || inside[1] != nil {
		t.Errorf("within an observer: %v", inside)
	}

	// And where the delivery itself is what led to the event.
	carol := w.device("carol")
	w.add(alice, carol)
	carol.SetTransport(nil)
	w.send(carol, "late")
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.UpdateKeyMaterial(ctx)
		return err
	})
	carol.SetTransport(carol.Link)
	inside = nil
	defer carol.Observe(func(e client.Event) {
		if _, entered := e.(client.EpochChanged); entered {
			ctx, cancel := context.WithTimeout(w.Context(), 10*time.Second)
			defer cancel()
			inside = append(inside, carol.Settle(ctx, chat))
		}
	})()
	w.must(carol.Settle(w.Context(), chat))
	if len(inside) != 1 || inside[0] != nil {
		t.Errorf("within an observer of what a delivery led to: %v", inside)
	}

	stop := alice.Observe(func(client.Event) { panic("observer") })
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		makeConversation(w, alice, "panic")
	}()
	stop()
	told = nil
	makeConversation(w, alice, "after")
	wipe(w, alice, "panic")
	want := []client.Event{client.EpochChanged{Conversation: "after"}, client.Left{Conversation: "panic"}}
	if !slices.Equal(told, want) {
		t.Errorf("after a panic %v was told, want %v", told, want)
	}
}

// Events of one conversation come in their order, whoever is first to tell them.
func TestEventsInOrder(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	var told []uint64
	defer alice.Observe(func(e client.Event) {
		if e, ok := e.(client.EpochChanged); ok && e.Conversation == chat {
			told = append(told, e.Epoch)
		}
	})()
	w.create(alice)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				_ = in(w.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
					_, err := c.UpdateKeyMaterial(ctx)
					return err
				})
			}
		})
	}
	wg.Wait()
	w.must(alice.Resume(w.Context()))
	for i, epoch := range told {
		if uint64(i) != epoch {
			t.Fatalf("told %v", told)
		}
	}
	if i, err := alice.View(chat).Epoch(w.Context()); err != nil || uint64(len(told)) != i+1 {
		t.Errorf("epoch %d, %v; told %v", i, err, told)
	}
}
