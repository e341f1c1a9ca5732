// SPDX-License-Identifier: Apache-2.0

package messenger_test

import (
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/providers/basic"
)

// Who is added by a key package of last resort renews its keys soon: at once, or
// when the service takes a commit. A commit whose answer was lost does not count, so
// there is one more.
func TestLastResortIsRenewed(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	for n := 1; n > 0; {
		_, err := alice.service.Claim(t.Context(), "bob")
		must(t, err)
		n, err = bob.service.Count(t.Context())
		must(t, err)
	}
	id, err := alice.Create(t.Context(), "friends")
	must(t, err)
	must(t, alice.Add(t.Context(), string(id), "bob"))
	bob.network.set(failing(http.MethodPost, "/v1/commits"), nil)
	if err := bob.Sync(t.Context()); err == nil {
		t.Error("bob's commit got through a network that is down")
	}
	bob.network.set(nil, nil)
	// Nothing but the store remembers.
	bob.Messenger = messenger.New(messenger.Parts{Client: bob.client, Service: bob.service, Transport: bob.transport, Issuer: basic.New(), Suite: 1})
	for range 3 {
		must(t, bob.Sync(t.Context()))
	}
	s, err := bob.Status(t.Context(), string(id))
	must(t, err)
	if s.Epoch != 3 || s.PendingCommit {
		t.Errorf("bob is in epoch %d, pending %v", s.Epoch, s.PendingCommit)
	}
	agree(t, string(id), alice, bob)
	// One of the ordinary kind is used once, and nothing has to be renewed.
	must(t, alice.Remove(t.Context(), string(id), "bob"))
	must(t, bob.Sync(t.Context()))
	_, err = bob.Rotate(t.Context())
	must(t, err)
	must(t, alice.Add(t.Context(), string(id), "bob"))
	must(t, bob.Sync(t.Context()))
	if s, err = bob.Status(t.Context(), string(id)); err != nil || s.Epoch != 5 {
		t.Errorf("bob is in epoch %d, %v", s.Epoch, err)
	}
}

// A process that ends right after it has joined by a key package of last resort: what
// remembers that the keys are to be renewed is durable with the joining itself.
func TestLastResortIsRenewedAfterACrash(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	for n := 1; n > 0; {
		_, err := alice.service.Claim(t.Context(), "bob")
		must(t, err)
		n, err = bob.service.Count(t.Context())
		must(t, err)
	}
	id, err := alice.Create(t.Context(), "friends")
	must(t, err)
	must(t, alice.Add(t.Context(), string(id), "bob"))
	crash := errors.New("the process has ended")
	writes := 0
	bob.disk.onApply(func() error {
		if writes++; writes > 1 {
			return crash
		}
		return nil
	})
	bob.network.set(failing(http.MethodDelete, "/v1/welcomes/"), nil)
	if err := bob.Sync(t.Context()); err == nil {
		t.Fatal("bob went on")
	}
	if _, err := bob.client.Info(t.Context(), id); err != nil {
		t.Fatalf("bob has not joined: %v", err)
	}
	bob.disk.onApply(nil)
	again := arriveOn(t, bob.address, "bob", bob.disk.Keystore, client.Refuse)
	must(t, again.Sync(t.Context()))
	if s, err := again.Status(t.Context(), string(id)); err != nil || s.Epoch != 2 || s.PendingCommit {
		t.Errorf("bob is in epoch %d, pending %v, %v", s.Epoch, s.PendingCommit, err)
	}
	agree(t, string(id), alice, again)
}

// Health counts what is there and what waits.
func TestHealth(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	h, err := alice.Health(t.Context())
	must(t, err)
	if h.ID != "alice" || !h.Registered || h.KeyPackages != 20 || h.Expired != 0 || h.Expires.Before(time.Now().Add(80*24*time.Hour)) ||
		h.LastResort.IsZero() || len(h.Chats) != 1 || string(h.Chats[0].ID) != id || h.Chats[0].Unsent != 0 || h.Chats[0].Commit {
		t.Errorf("%+v", h)
	}
	alice.network.set(failing(http.MethodPost, "/v1/"), nil)
	if err := alice.Send(t.Context(), id, []byte("hello")); err == nil {
		t.Error("sent through a network that is down")
	}
	if err := alice.Update(t.Context(), id); err == nil {
		t.Error("committed through a network that is down")
	}
	h, err = alice.Health(t.Context())
	must(t, err)
	if w := h.Chats[0]; w.Unsent != 1 {
		t.Errorf("%+v", w)
	}
	alice.network.set(nil, nil)
	if _, err := bob.Leave(t.Context(), id); err != nil {
		t.Error(err)
	}
	h, err = bob.Health(t.Context())
	must(t, err)
	if w := h.Chats[0]; !w.Leaving || w.Proposals != 1 {
		t.Errorf("%+v", w)
	}
}

// Long work tells how far it is.
func TestProgress(t *testing.T) {
	all := people(t, "alice", "bob", "carol")
	conversation(t, "friends", all)
	conversation(t, "family", all)
	alice := all[0]
	alice.told = nil
	must(t, all[1].Send(t.Context(), "friends", []byte("hello")))
	_, err := alice.Rotate(t.Context())
	must(t, err)
	id, err := alice.Create(t.Context(), "new")
	must(t, err)
	must(t, alice.Add(t.Context(), string(id), "bob", "carol"))
	for _, want := range []step{
		{"conversations read", 0, 2}, {"conversations read", 1, 2}, {"conversations rotated", 0, 2}, {"conversations rotated", 1, 2},
		{"key packages", 0, 2}, {"key packages", 1, 2},
	} {
		if !slices.Contains(alice.told, want) {
			t.Errorf("nothing of %v in %v", want, alice.told)
		}
	}
	if !slices.ContainsFunc(alice.told, func(s step) bool { return s.what == "messages read" && s.total == 0 && s.done > 0 }) {
		t.Errorf("no message in %v", alice.told)
	}
}
