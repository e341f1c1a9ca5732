// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// all asks everything that a view can be asked.
func all(ctx context.Context, v client.View) map[string]any {
	out := map[string]any{}
	note := func(what string, answer any, err error) {
		if out[what] = answer; err != nil {
			out[what] = err
		}
	}
	exists, err := v.Exists(ctx)
	note("exists", exists, err)
	info, err := v.Info(ctx)
	note("info", fmt.Sprint(info), err)
	epoch, err := v.Epoch(ctx)
	note("epoch", epoch, err)
	suite, err := v.Suite(ctx)
	note("suite", suite, err)
	parent, err := v.Parent(ctx)
	note("parent", parent, err)
	members, err := v.Members(ctx)
	note("members", fmt.Sprint(members), err)
	ids, err := v.ClientIDs(ctx)
	note("client ids", fmt.Sprint(ids), err)
	secret, err := v.ExportSecret(ctx, 32)
	note("secret", string(secret.Bytes()), err)
	other, err := v.Export(ctx, "exporter", nil, 32)
	note("export", string(other.Bytes()), err)
	sender, err := v.ExternalSender(ctx)
	note("external sender", string(sender), err)
	groupInfo, err := v.GroupInfo(ctx)
	note("group info", len(groupInfo) > 0, err) // it is signed anew each time
	proposals, err := v.PendingProposals(ctx)
	note("proposals", len(proposals), err)
	pending, err := v.HasPendingCommit(ctx)
	note("pending commit", pending, err)
	return out
}

func changed(before, after map[string]any) (what []string) {
	for k, v := range before {
		if after[k] != v {
			what = append(what, k)
		}
	}
	slices.Sort(what)
	return what
}

// The client answers with what is durable, also while a transaction runs: in it,
// beside it and in an observer. A transaction sees what it has done.
func TestQuirkReadsSeeNothingUncommitted(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	var alice *clienttest.Device
	cfg := config()
	var told []any
	cfg.Observe = func(e client.Event) {
		if e, ok := e.(client.EpochChanged); ok && e.Conversation == chat {
			epoch, err := alice.View(chat).Epoch(context.Background())
			told = append(told, e.Epoch, epoch, err)
		}
	}
	alice = w.deviceOn("alice", memory.New(), cfg)
	bob := w.device("bob")
	carol := w.keyPackage(w.device("carol"))
	w.create(alice)
	w.add(alice, bob)

	view := alice.View(chat)
	before := all(w.Context(), view)
	undo := errors.New("undo")
	err := alice.Transaction(w.Context(), func(ctx context.Context, tx *client.Transaction) error {
		other, err := tx.NewConversation(ctx, "other", client.ConversationConfig{})
		if err != nil {
			return err
		}
		c, err := tx.Conversation(ctx, chat)
		if err != nil {
			return err
		}
		if got := changed(before, all(ctx, c.View)); got != nil {
			t.Errorf("before anything is done the transaction differs in %v", got)
		}
		if _, err := c.ProposeAdd(ctx, carol); err != nil {
			return err
		}
		if err := c.SetParent(ctx, "other"); err != nil {
			return err
		}
		if got := changed(before, all(ctx, c.View)); !slices.Equal(got, []string{"info", "parent", "proposals"}) {
			t.Errorf("the transaction sees a change of %v", got)
		}
		if got := changed(before, all(ctx, view)); got != nil {
			t.Errorf("the client sees a change of %v", got)
		}
		if there, err := tx.ConversationExists(ctx, other.ID()); !there || err != nil {
			t.Errorf("in its transaction the new conversation is there: %v, %v", there, err)
		}
		if there, err := alice.ConversationExists(ctx, other.ID()); there || err != nil {
			t.Errorf("outside, the new conversation is there: %v, %v", there, err)
		}
		return undo
	})
	if !errors.Is(err, undo) {
		t.Fatal(err)
	}
	if got := changed(before, all(w.Context(), view)); got != nil {
		t.Errorf("after the abort the client sees a change of %v", got)
	}
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.UpdateKeyMaterial(ctx)
		return err
	})
	if got := changed(before, all(w.Context(), view)); !slices.Contains(got, "epoch") || !slices.Contains(got, "secret") {
		t.Errorf("after a commit the client sees a change of %v", got)
	}
	if want := []any{uint64(0), uint64(0), nil, uint64(1), uint64(1), nil, uint64(2), uint64(2), nil}; !slices.Equal(told, want) {
		t.Errorf("the observer saw %v, want %v", told, want)
	}
}

// A conversation of which we do not know is not one that is absent; one that we are
// about to join is.
func TestQuirkExistsReportsErrors(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice, dave := w.device("alice"), w.device("dave")
	store := &coretest.Faulty{Keystore: memory.New()}
	bob := w.deviceOn("bob", store, config())
	w.create(alice)
	w.add(alice, bob)
	both := func(d *clienttest.Device) (inside, outside bool, err error) {
		outside, err = d.ConversationExists(w.Context(), chat)
		return inside, outside, errors.Join(err, d.Transaction(w.Context(), func(ctx context.Context, tx *client.Transaction) (err error) {
			inside, err = tx.ConversationExists(ctx, chat)
			return err
		}))
	}
	if inside, outside, err := both(bob); !inside || !outside || err != nil {
		t.Fatal(inside, outside, err)
	}
	store.Break()
	for range 2 {
		if there, err := bob.ConversationExists(w.Context(), chat); there || !errors.Is(err, core.ErrUnavailable) {
			t.Errorf("with a broken store: %v, %v", there, err)
		}
	}
	_ = bob.Transaction(w.Context(), func(ctx context.Context, tx *client.Transaction) error {
		if there, err := tx.ConversationExists(ctx, chat); there || !errors.Is(err, core.ErrUnavailable) {
			t.Errorf("with a broken store, in a transaction: %v, %v", there, err)
		}
		return nil
	})
	store.Mend()

	info, err := alice.View(chat).GroupInfo(w.Context())
	w.must(err)
	lost := errors.New("lost")
	dave.Link.After = func(string) error { return lost }
	_ = dave.Transaction(w.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_, _, err := tx.JoinByExternalCommit(ctx, info, client.JoinConfig{})
		return err
	})
	if inside, outside, err := both(dave); inside || outside || err != nil {
		t.Errorf("while a join waits: %v, %v, %v", inside, outside, err)
	}
	dave.Link.After = nil
	w.must(dave.Resume(w.Context()))
	if inside, outside, err := both(dave); !inside || !outside || err != nil {
		t.Errorf("after it: %v, %v, %v", inside, outside, err)
	}
}

func TestMembers(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	list, err := bob.View(chat).Members(w.Context())
	w.must(err)
	for i, d := range w.devices {
		var key []byte
		w.do(d, func(ctx context.Context, tx *client.Transaction) (err error) {
			key, err = tx.ClientPublicKey(ctx, suite1, core.CredentialBasic)
			return err
		})
		want := client.Member{Leaf: mls.LeafIndex(i), ClientID: d.Link.ID, Credential: core.CredentialBasic, SignatureKey: key}
		if len(list) != 2 || fmt.Sprint(list[i]) != fmt.Sprint(want) {
			t.Errorf("members are %v, want %v at %d", list, want, i)
		}
	}
	list[0].SignatureKey[0] ^= 1 // the caller's own copy
	again, err := bob.View(chat).Members(w.Context())
	w.must(err)
	if again[0].SignatureKey[0] == list[0].SignatureKey[0] {
		t.Error("the group's own key was handed out")
	}
}

func TestExporter(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	seen := map[string]string{}
	for name, ask := range map[string]func(v client.View) (core.Secret, error){
		"plain":         func(v client.View) (core.Secret, error) { return v.ExportSecret(w.Context(), 32) },
		"other label":   func(v client.View) (core.Secret, error) { return v.Export(w.Context(), "calls", nil, 32) },
		"other context": func(v client.View) (core.Secret, error) { return v.Export(w.Context(), "exporter", []byte("x"), 32) },
		"other length":  func(v client.View) (core.Secret, error) { return v.ExportSecret(w.Context(), 33) },
		"none":          func(v client.View) (core.Secret, error) { return v.ExportSecret(w.Context(), 0) },
	} {
		a, err := ask(alice.View(chat))
		w.must(err)
		b, err := ask(bob.View(chat))
		w.must(err)
		if !a.Equal(b) {
			t.Errorf("%s: the members do not agree", name)
		}
		if other, dup := seen[string(a.Bytes())]; dup {
			t.Errorf("%s is the same as %s", name, other)
		}
		seen[string(a.Bytes())] = name
	}
	if _, err := alice.View(chat).ExportSecret(w.Context(), 255*32+1); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("too long: %v", err)
	}
	if _, err := alice.View("elsewhere").ExportSecret(w.Context(), 32); !errors.Is(err, client.ErrConversationNotFound) {
		t.Errorf("unknown conversation: %v", err)
	}
}

// A parent that is not there is told from a conversation that is not.
func TestParentNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	w.create(alice)
	err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error { return c.SetParent(ctx, "parent") })
	if !errors.Is(err, client.ErrParentNotFound) || !errors.Is(err, client.ErrConversationNotFound) {
		t.Errorf("%v", err)
	}
}
