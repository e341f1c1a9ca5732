// SPDX-License-Identifier: Apache-2.0

package messenger_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// hears checks that a person has one notice, with a text in it.
func hears(t *testing.T, p *person, want string) {
	t.Helper()
	if list := p.Notices(); len(list) != 1 || !strings.Contains(list[0], want) {
		t.Errorf("%s hears %q, want %q", p.name, list, want)
	}
}

// A commit whose answer was lost is reported when it has gone through.
func TestCommitAfterAll(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	alice.network.set(nil, failing(http.MethodPost, "/v1/commits"))
	if err := alice.Update(t.Context(), id); err == nil {
		t.Error("committed without an answer")
	}
	alice.network.set(nil, nil)
	must(t, alice.Sync(t.Context()))
	hears(t, alice, "has gone through after all; epoch 2")
	agree(t, id, alice, bob)
	if list := alice.Notices(); len(list) > 0 {
		t.Errorf("again: %q", list)
	}
}

// Who has missed commits hears of it, and one verb later is back.
func TestRejoin(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	must(t, alice.Update(t.Context(), id))
	must(t, alice.Update(t.Context(), id))
	waiting, err := bob.service.Log(t.Context(), core.ConversationID(id), 0)
	must(t, err)
	if len(waiting) != 2 {
		t.Fatalf("%d messages wait for bob", len(waiting))
	}
	must(t, bob.service.Ack(t.Context(), core.ConversationID(id), waiting[1].Seq)) // and so they are lost
	must(t, alice.Send(t.Context(), id, []byte("bob?")))
	bob.reads(id)
	hears(t, bob, "conclave chat rejoin "+id)
	must(t, bob.Rejoin(t.Context(), "friends"))
	must(t, alice.Send(t.Context(), id, []byte("there you are")))
	same(t, "bob", bob.reads(id), "text alice there you are")
	agree(t, id, alice, bob)
	if err := bob.Rejoin(t.Context(), "enemies"); err == nil {
		t.Error("in a conversation that he is not in")
	}
}
