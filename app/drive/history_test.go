// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// An era is what a delivery service keeps for who reads later.
type era struct {
	secret  []byte
	welcome []byte
	log     [][]byte
	texts   []string
}

// begins has a member do what begins an era, and the others hear of it: the secret is a
// message of the new epoch, the same for all.
func (w *world) begins(by, command string, arguments ...any) *era {
	w.t.Helper()
	a := w.as(by)
	_ = a.must("events")
	got := a.must(command, arguments...)
	if len(got.HistorySecrets) != 1 || got.Bundle == nil || len(got.Bundle.Welcome) == 0 || len(got.Bundle.EncryptedMessage) == 0 {
		w.t.Fatalf("%v: %s: %+v", a, command, got)
	}
	secret := got.HistorySecrets[0]
	if !strings.HasPrefix(string(secret.ClientID), "history-client:") {
		w.t.Fatalf("%v: a history client is called %q", a, secret.ClientID)
	}
	if command == "removeMembers" {
		w.gone("dave")
	}
	w.shared = true
	e := &era{secret: secret.Data, welcome: got.Bundle.Welcome}
	w.spread(by, got.Bundle)
	w.tell(e, by, got.Bundle.EncryptedMessage, string(secret.Data))
	w.agree()
	told := 0
	for _, event := range a.must("events").Events {
		if event.Event == "historyClientCreated" && string(event.Data) == string(secret.Data) && string(event.ClientID) == string(secret.ClientID) {
			told++
		}
	}
	if told != 1 {
		w.t.Fatalf("%v: %d events of the new history client", a, told)
	}
	return e
}

// tell has a message read by all other members, and kept.
func (w *world) tell(e *era, from string, m []byte, text string) {
	w.t.Helper()
	for _, name := range w.in {
		if name != from {
			w.as(name).reads(m, from, text)
		}
	}
	e.log, e.texts = append(e.log, m), append(e.texts, w.as(from).id+": "+text)
}

// History is shared at the wish of either side, begins anew when somebody is removed,
// and is read from what the other side has made.
func historyIsShared(w *world) {
	sharing := func(want bool) {
		w.t.Helper()
		for _, name := range w.in {
			if got := w.as(name).must("historySharing").Enabled; got != want {
				w.t.Fatalf("%v: history is shared: %v", w.as(name), got)
			}
		}
	}
	chat := func(e *era) {
		w.t.Helper()
		for _, name := range w.in {
			w.tell(e, name, w.encrypt(name, name+" speaks"), name+" speaks")
		}
		b := w.commit(w.in[1], "updateKeys")
		if len(b.EncryptedMessage) > 0 {
			w.t.Fatal("an era began for an update")
		}
		w.spread(w.in[1], b)
		e.log = append(e.log, b.Commit)
		w.tell(e, w.in[2], w.encrypt(w.in[2], "after it"), "after it")
	}
	w.create("alice")
	w.add("alice", "bob", "carol", "dave")
	sharing(false)
	for _, by := range []string{"alice", "bob"} { // of each side one
		w.as(by).fails("Mls.MessageRejected", "enableHistorySharing", "transport", args{"kind": "reject", "reason": "no"})
		sharing(false)
		first := w.begins(by, "enableHistorySharing")
		sharing(true)
		if got := w.as("carol").must("enableHistorySharing"); got.Bundle != nil {
			w.t.Fatal("it was switched on twice")
		}
		chat(first)
		other := map[string]string{"alice": "bob", "bob": "alice"}[by]
		second := w.begins(other, "removeMembers", "clientIds", w.ids([]string{"dave"}))
		chat(second)
		sharing(true)
		b := w.commit("carol", "disableHistorySharing")
		w.shared = false
		w.spread("carol", b)
		w.agree()
		sharing(false)
		if got := w.as("alice").must("disableHistorySharing"); got.Bundle != nil {
			w.t.Fatal("it was switched off twice")
		}
		for _, e := range []*era{first, second} {
			if got := w.history(e); !slices.Equal(got, e.texts) {
				w.t.Fatalf("the history is %q, not %q", got, e.texts)
			}
		}
		w.talk()
		w.as("dave").must("wipe")
		if by == "alice" {
			w.add("carol", "dave")
		}
	}
}

// history reads an era with its secret alone.
func (w *world) history(e *era) (texts []string) {
	w.t.Helper()
	ctx := w.t.Context()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	software := pure.New()
	secret, err := client.ParseHistorySecret(software, e.secret)
	must(err)
	wrapper, err := seal.RawKey(core.NewSecret(make([]byte, 32)))
	must(err)
	store, err := seal.Open(ctx, memory.New(), wrapper, "history")
	must(err)
	c, err := client.OpenHistory(ctx, client.Config{Store: store, Suites: software}, secret)
	must(err)
	defer func() { must(c.Close(context.WithoutCancel(ctx))) }()
	must(c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		if _, err := tx.ProcessWelcome(ctx, e.welcome, client.JoinConfig{}); err != nil {
			return err
		}
		for _, m := range e.log {
			got, err := tx.DecryptMessage(ctx, core.ConversationID(w.group), m)
			if err != nil {
				return err
			}
			if text, ok := got.(*client.Text); ok {
				texts = append(texts, string(text.Sender)+": "+string(text.Data))
			}
		}
		return nil
	}))
	err = c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		conversation, err := tx.Conversation(ctx, core.ConversationID(w.group))
		if err == nil {
			_, err = conversation.Encrypt(ctx, []byte("me too"), nil)
		}
		return err
	})
	if !errors.Is(err, client.ErrHistoryClient) || errors.Is(err, mls.ErrPendingProposals) {
		w.t.Fatalf("a history client sent something: %v", err)
	}
	return texts
}
