// SPDX-License-Identifier: Apache-2.0

package messenger_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
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

// What a person has to hear of is told once, in words; the rest is not.
func TestNotices(t *testing.T) {
	t.Parallel()
	var n messenger.Notices
	m := messenger.New(messenger.Parts{Transport: delivery.NewTransport(nil), Notices: &n})
	for _, c := range []struct {
		event client.Event
		want  string
	}{
		{client.Undelivered{Conversation: "x", Data: []byte("hello"), Reason: "gone"}, `not delivered to x: "hello": gone`},
		{client.Lapsed{Conversation: "x", Reason: "late"}, "a proposal of ours in x lapsed: late"},
		{client.Committed{Conversation: "x", Result: &client.CommitResult{Own: true, Epoch: 7}}, "a commit of ours in x has gone through after all; epoch 7"},
		{client.Committed{Conversation: "x", Result: &client.CommitResult{Epoch: 7}}, ""},
		{client.CommitFailed{Conversation: "x", Err: core.ErrDenied}, "a commit of ours in x was not made: denied"},
		{client.OutOfSync{Conversation: "x", Epoch: 3, Seen: 9}, "commits of x seem to be missing here: it is in epoch 3, and a message is of epoch 9; " +
			"if that is so the next time too: conclave chat rejoin x"},
		{client.EpochChanged{Conversation: "x", Epoch: 3}, ""},
	} {
		n.Observe(c.event)
		got := strings.Join(m.Notices(), "|")
		if got != c.want {
			t.Errorf("%T: %q, want %q", c.event, got, c.want)
		}
	}
}
