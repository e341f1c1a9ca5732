// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

// photo is all that a keystore holds.
func photo(t testing.TB, ks core.Keystore) (all core.Batch) {
	t.Helper()
	var queries []core.Query
	for table := range core.Table(64) {
		queries = append(queries, core.Query{Table: table})
	}
	answers, err := ks.Read(t.Context(), queries)
	if err != nil {
		t.Fatal(err)
	}
	for table, records := range answers {
		for _, r := range records {
			all.Puts = append(all.Puts, core.Put{Table: core.Table(table), Key: r.Key, Value: r.Value, Version: r.Version})
		}
	}
	return all
}

// putBack is a keystore with an older state, as whoever puts a store back leaves it.
func putBack(t testing.TB, past core.Batch) core.Keystore {
	t.Helper()
	ks := memory.New()
	accident := core.Batch{Puts: []core.Put{core.NewIncarnation()}}
	if err := errors.Join(ks.Apply(t.Context(), past), ks.Apply(t.Context(), accident)); err != nil {
		t.Fatal(err)
	}
	return ks
}

// openOn opens the client of a device's store.
func openOn(t testing.TB, ks core.Keystore, cfg client.Config) (*client.Client, error) {
	t.Helper()
	wrapper, err := seal.RawKey(core.NewSecret(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Store, err = seal.Open(t.Context(), ks, wrapper, "device"); err != nil {
		return nil, err
	}
	c, err := client.Open(t.Context(), cfg)
	if err != nil {
		_ = cfg.Store.Close()
	}
	return c, err
}

// The conversations of an hour that is lost, beside the chat.
const (
	single = core.ConversationID("single") // a commit of alice waits for its answer before
	staged = core.ConversationID("staged") // and here a text and a commit wait to be sent
	joins  = core.ConversationID("joins")  // and here alice is about to join
	left   = core.ConversationID("left")   // alice is removed meanwhile
	joined = core.ConversationID("joined") // alice is added meanwhile
	resort = core.ConversationID("resort") // by a key package of last resort
)

// A lostHour is what alice did after the state that her store is put back to.
type lostHour struct {
	*world
	alice, bob, carol *clienttest.Device
	cfg               client.Config
	out               *outgoing
	keys              string
	past              core.Batch
	leaf              mls.LeafIndex // of alice in the chat
	credential        []byte        // key of the credential that she had
}

// found makes a conversation of one device with others.
func (w *world) found(by *clienttest.Device, id core.ConversationID, packages ...[]byte) {
	w.Helper()
	w.do(by, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, id, client.ConversationConfig{Suite: suite1, Group: w.policy})
		return err
	})
	w.must(by.In(w.Context(), id, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.AddMembers(ctx, packages...)
		return err
	}))
}

func newLostHour(t testing.TB, policy mls.Config, blank bool) *lostHour {
	t.Helper()
	w := newWorld(t, clienttest.Options{RefuseRepeats: blank})
	w.policy = policy
	h := &lostHour{world: w, keys: filepath.Join(t.TempDir(), "keys"), cfg: config()}
	h.cfg.Lease = 20 * time.Millisecond // of a process that is no more
	h.out = &outgoing{Backend: w.service, who: "alice"}
	suites, err := newRecorder(h.keys)
	w.must(err)
	t.Cleanup(func() { _ = suites.file.Close() })
	h.cfg.Suites = suites
	ks := memory.New()
	h.alice = w.deviceOn("alice", ks, h.cfg)
	h.alice.Link.Service = h.out
	h.bob, h.carol = w.device("bob"), w.device("carol")
	dave := w.device("dave")
	w.create(h.bob)
	w.add(h.bob, h.carol, dave, h.alice)
	if blank { // leaves bob, carol, blank, alice
		w.in(h.bob, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.RemoveMembers(ctx, "dave")
			return err
		})
		w.catchUp()
	}
	for _, id := range []core.ConversationID{single, staged, left} {
		w.found(h.bob, id, w.keyPackage(h.alice))
	}
	w.found(h.bob, joins, w.keyPackage(h.carol))
	w.catchUp()
	var once, last client.KeyPackage
	w.do(h.alice, func(ctx context.Context, tx *client.Transaction) error {
		list, err := tx.NewKeyPackages(ctx, suite1, core.CredentialBasic, 1)
		if err != nil {
			return err
		}
		once = list[0]
		last, err = tx.NewLastResortKeyPackage(ctx, suite1, core.CredentialBasic)
		return err
	})
	w.send(h.alice, "before")
	w.must(h.bob.Link.Drain(t.Context(), chat))

	w.must(h.bob.In(t.Context(), left, update))
	h.bob.Say(t, left, "early")
	early := w.service.Log(left)
	w.do(h.alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.DecryptMessage(ctx, left, early[len(early)-1])
		return err
	})
	up := down(h.alice) // all this waits in the state that comes back
	w.send(h.alice, "waiting")
	if err := h.alice.In(t.Context(), single, update); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	w.must(h.alice.In(t.Context(), staged, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Send(ctx, []byte("waiting"), nil)
		if err == nil {
			_, err = c.StageCommit(ctx, client.Changes{Update: true})
		}
		return err
	}))
	info, err := w.service.GroupInfo(joins)
	w.must(err)
	if err := h.alice.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_, _, err := tx.JoinByExternalCommit(ctx, info, client.JoinConfig{Group: policy})
		return err
	}); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	own, err := h.alice.Credentials(t.Context(), client.CredentialFilter{})
	w.must(err)
	h.credential = own[0].SignatureKey
	h.past = photo(t, ks)
	up()

	w.must(h.alice.Resume(t.Context())) // here the hour begins
	w.must(h.alice.Link.Drain(t.Context(), left))
	w.send(h.alice, "of the hour")
	w.send(h.bob, "to alice")
	w.catchUp()
	w.update(h.alice)
	w.send(h.alice, "of the hour, too")
	w.do(h.alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewCredential(ctx, suite1)
		return err
	})
	for _, id := range []core.ConversationID{chat, single, staged, joins, left} {
		w.must(h.alice.In(t.Context(), id, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.Rotate(ctx, core.CredentialBasic)
			if err == nil {
				_, err = c.Send(ctx, []byte("with another key"), nil)
			}
			return err
		}))
		w.must(h.bob.Link.Drain(t.Context(), id))
	}
	w.do(h.alice, func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.DeleteKeyPackagesOf(ctx, own[0].Ref); err != nil {
			return err
		}
		return nil
	})
	w.do(h.alice, func(ctx context.Context, tx *client.Transaction) (err error) {
		list, err := tx.NewKeyPackages(ctx, suite1, core.CredentialBasic, 1)
		if err == nil {
			once = list[0]
			last, err = tx.NewLastResortKeyPackage(ctx, suite1, core.CredentialBasic)
		}
		return err
	})
	w.found(h.bob, joined, once.Message)
	w.found(h.bob, resort, last.Message)
	w.must(h.alice.Welcomes(t.Context()))
	for _, id := range []core.ConversationID{joined, resort} {
		h.alice.Say(t, id, "here I am")
	}
	w.must(h.bob.In(t.Context(), left, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.RemoveMembers(ctx, "alice")
		return err
	}))
	w.must(h.alice.Link.Drain(t.Context(), left))
	w.must(h.alice.Settle(t.Context(), chat))
	h.alice.Link.After = func(string) error { return errNetwork } // in flight when it ends
	if err := in(t.Context(), h.alice, update); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	w.must(h.bob.Link.Drain(t.Context(), chat))
	w.send(h.bob, "never read")
	members, err := h.bob.View(chat).Members(t.Context())
	w.must(err)
	h.leaf = members[len(members)-1].Leaf
	w.must(h.alice.Close(t.Context()))
	h.devices = slices.DeleteFunc(h.devices, func(d *clienttest.Device) bool { return d == h.alice || d == dave })
	for _, d := range h.devices {
		w.must(d.Link.Drain(t.Context(), chat))
		d.Texts()
		d.Failed()
	}
	return h
}

// open starts alice again, on the store that was put back.
func (h *lostHour) open(ks core.Keystore, then client.AfterRollback) {
	h.Helper()
	cfg := h.cfg
	cfg.RolledBack = then
	h.alice = clienttest.NewDevice(h, h.service, "alice", ks, cfg)
	h.alice.Link.Service, h.alice.Join.Group = h.out, h.policy
}

func shapes(t *testing.T, f func(t *testing.T, policy mls.Config, blank bool)) {
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		for _, blank := range []bool{false, true} {
			t.Run(fmt.Sprintf("blank=%v", blank), func(t *testing.T) { f(t, policy, blank) })
		}
	})
}

// The store is put back by an hour, and the client talks again: by no key of that hour,
// and all agree.
func TestRecovery(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, policy mls.Config, blank bool) {
		h := newLostHour(t, policy, blank)
		ctx := t.Context()
		ks := putBack(t, h.past)
		before := photo(t, ks)
		if _, err := openOn(t, ks, h.cfg); !errors.Is(err, core.ErrRolledBack) {
			t.Fatalf("opened as if nothing had happened: %v", err)
		}
		if after := photo(t, ks); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Fatal("a client that refuses to open changes the store")
		}
		h.open(ks, client.Recover)
		if n := len(eventsOf[client.RolledBack](h.alice)); n != 1 {
			t.Errorf("%d events", n)
		}
		all := []core.ConversationID{chat, single, staged, left, joins}
		recovering := func(want ...core.ConversationID) {
			t.Helper()
			list, err := h.alice.Recovering(ctx)
			if err != nil || !slices.Equal(list, want) {
				t.Fatalf("recovering %q, %v; want %q", list, err, want)
			}
		}
		recovering(all...)
		h.count(h.alice, suite1, 0)
		if list := h.stored(h.alice); len(list) != 0 {
			t.Errorf("%d key packages are left", len(list))
		}

		// Nothing of the state goes out, and what comes in disturbs nobody.
		sent := len(h.out.left)
		if err := h.alice.Resume(ctx); err != nil || len(h.out.left) != sent {
			t.Fatalf("%d messages left, %v", len(h.out.left)-sent, err)
		}
		for _, id := range all[:len(all)-1] {
			if err := h.alice.In(ctx, id, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.Send(ctx, []byte("no"), nil)
				return err
			}); !errors.Is(err, client.ErrRecovering) || !errors.Is(err, core.ErrRolledBack) {
				t.Errorf("%s: %v", id, err)
			}
			if n, err := h.alice.Unsent(ctx, id); n != 0 || err != nil {
				t.Errorf("%s: %d unsent, %v", id, n, err)
			}
			if id != left {
				h.must(h.alice.Link.Drain(ctx, id))
			}
		}
		if texts := h.alice.Texts(); len(texts) > 0 {
			t.Errorf("read %q with the old keys", texts)
		}
		for _, err := range h.alice.Failed() {
			if !errors.Is(err, client.ErrRecovering) || !client.Blames(err) {
				t.Errorf("of a message: %v", err)
			}
		}
		for _, id := range all[:len(all)-1] {
			if i, err := h.alice.Info(ctx, id); err != nil || !i.Recovering || i.PendingCommit || i.PendingProposals != 0 || i.Buffered != 0 {
				t.Errorf("%+v, %v", i, err)
			}
		}

		// The way back, conversation by conversation.
		result, err := h.alice.RejoinWith(ctx, chat, client.JoinConfig{Member: true, InPlace: true})
		if blank {
			if !errors.Is(err, client.ErrLeafMoves) {
				t.Fatalf("to another leaf: %v", err)
			}
			recovering(all...)
			result, err = h.alice.Rejoin(ctx, chat)
		}
		if err != nil || !result.Own || result.Epoch <= 2 {
			t.Fatalf("%+v, %v", result, err)
		}
		recovering(all[1:]...)
		if _, ok := h.header(h.out.left[len(h.out.left)-1]).(*mls.PublicMessage); !ok {
			t.Error("the external commit is no PublicMessage")
		}
		for _, id := range all[1:] {
			_, err := h.alice.RejoinWith(ctx, id, client.JoinConfig{Member: true, Group: policy})
			if id == left {
				if !errors.Is(err, client.ErrLeafGone) {
					t.Fatalf("who was removed is back: %v", err)
				}
				_, err = h.alice.RejoinWith(ctx, id, client.JoinConfig{Group: policy}) // somebody wants that
			}
			if err != nil {
				t.Fatalf("%s: %v", id, err)
			}
		}
		recovering()
		for _, id := range []core.ConversationID{joined, resort} { // of which nothing is known here
			info, err := h.service.GroupInfo(id)
			h.must(err)
			h.do(h.alice, func(ctx context.Context, tx *client.Transaction) error {
				_, _, err := tx.JoinByExternalCommit(ctx, info, client.JoinConfig{Group: policy, Member: true})
				return err
			})
		}
		h.lost(blank)

		// All talk, and go on.
		for _, id := range append(all[1:], chat, joined, resort) {
			h.must(h.bob.Link.Drain(ctx, id))
			h.bob.Texts()
			h.alice.Say(t, id, "I am back")
			if got := h.bob.Hear(t, id); !slices.Equal(got, []string{"I am back"}) {
				t.Errorf("%s: bob read %q; %v", id, got, h.bob.Failed())
			}
			h.bob.Say(t, id, "so I see")
			if got := h.alice.Hear(t, id); !slices.Equal(got, []string{"so I see"}) {
				t.Errorf("%s: alice read %q", id, got)
			}
			h.must(h.alice.In(ctx, id, update))
			h.must(h.bob.Link.Drain(ctx, id))
			a, err := h.alice.Info(ctx, id)
			h.must(err)
			b, err := h.bob.Info(ctx, id)
			h.must(err)
			if string(a.EpochAuthenticator) != string(b.EpochAuthenticator) || a.Recovering {
				t.Errorf("%s: they do not agree: epochs %d and %d", id, a.Epoch, b.Epoch)
			}
		}
		h.must(h.carol.Link.Drain(ctx, chat))
		h.agree(h.alice, h.bob, h.carol)
		noKeyTwice(t, h.keys, h.out.left)

		// What is new has nothing to do with the accident.
		h.do(h.alice, func(ctx context.Context, tx *client.Transaction) error {
			for _, id := range []core.ConversationID{"new", "new again"} {
				if _, err := tx.NewConversation(ctx, id, client.ConversationConfig{}); err != nil {
					return err
				}
			}
			if err := tx.WipeConversation(ctx, "new again"); err != nil {
				return err
			}
			_, err := tx.NewConversation(ctx, "new again", client.ConversationConfig{})
			return err
		})
		h.alice.Say(t, "new", "to myself")
		h.alice.Say(t, "new again", "to myself")

		h.must(h.alice.Close(ctx))
		h.open(ks, client.Refuse) // there is nothing to refuse any more
		recovering()
		h.agree(h.alice, h.bob, h.carol)
	})
}

func (w *world) header(message []byte) any {
	w.Helper()
	m, err := mls.UnmarshalMLSMessage(message)
	w.must(err)
	if m.PublicMessage != nil {
		return m.PublicMessage
	}
	return m.PrivateMessage
}

// lost checks what alice is told of what waited, and where her leaf is.
func (h *lostHour) lost(blank bool) {
	h.Helper()
	events := h.alice.Events()
	count := map[string]int{}
	for _, e := range events {
		switch e := e.(type) {
		case client.Undelivered:
			count[fmt.Sprintf("%s %s", e.Conversation, e.Data)]++
		case client.CommitFailed:
			if errors.Is(e.Err, client.ErrRecovering) {
				count[fmt.Sprintf("%s commit", e.Conversation)]++
			}
		}
	}
	if got := fmt.Sprint(count); got != "map[chat waiting:1 single commit:1 staged commit:1 staged waiting:1]" {
		h.Errorf("reported: %s", got)
	}
	members, err := h.alice.View(chat).Members(h.Context())
	h.must(err)
	i := slices.IndexFunc(members, func(m client.Member) bool { return m.ClientID == "alice" })
	want := h.leaf
	if blank {
		want--
	}
	if members[i].Leaf != want || h.leaf != 3 {
		h.Errorf("leaf %d, was %d", members[i].Leaf, h.leaf)
	}
	if string(members[i].SignatureKey) != string(h.credential) {
		h.Error("not with the credential that is there")
	}
}

// Who vouches for it that nothing was lost finds everything as it was, and it goes out.
func TestNothingLost(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, _ := trio(t, policy, clienttest.Options{})
		ks, cfg := memory.New(), config()
		cfg.Lease = 20 * time.Millisecond
		dave := w.deviceOn("dave", ks, cfg)
		w.add(alice, dave)
		k := w.keyPackage(dave)
		dave.Link.SetOffline(true)
		w.send(dave, "waiting")
		w.in(dave, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.StageCommit(ctx, client.Changes{Update: true})
			return err
		})
		w.must(dave.Close(t.Context()))
		restored := putBack(t, photo(t, ks))
		cfg.RolledBack = client.NothingLost
		dave = clienttest.NewDevice(t, w.service, "dave", restored, cfg)
		dave.Join.Group = policy
		w.devices[len(w.devices)-1] = dave
		if list, err := dave.Recovering(t.Context()); len(list) > 0 || err != nil || len(eventsOf[client.RolledBack](dave)) > 0 {
			t.Fatalf("%q, %v", list, err)
		}
		w.must(dave.Resume(t.Context()))
		w.catchUp()
		w.reads(bob, "waiting")
		w.agree(alice, bob, dave)
		w.found(bob, single, k)
		w.must(dave.Welcomes(t.Context())) // the key package is there
		if _, err := dave.Info(t.Context(), single); err != nil {
			t.Error(err)
		}
		w.must(dave.Close(t.Context()))
		dave = clienttest.NewDevice(t, w.service, "dave", restored, config()) // it is on record
		w.agree(alice, bob, dave)
	})
}

// The test above can fail: where something was lost, keys are used twice.
func TestNothingLostWasWrong(t *testing.T) {
	t.Parallel()
	h := newLostHour(t, mls.DefaultConfig, false)
	h.open(putBack(t, h.past), client.NothingLost)
	_ = h.alice.Settle(t.Context(), chat)
	_ = in(t.Context(), h.alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Send(ctx, []byte("with a key of the hour"), nil)
		return err
	})
	if keyTwice(t, h.keys, h.out.left) == "" {
		t.Error("no key was used twice: there is nothing to see for the other tests")
	}
}
