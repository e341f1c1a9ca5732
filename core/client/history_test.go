// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// created is the secret of the one era that a device has begun since it was asked.
func (w *world) created(d *clienttest.Device) client.HistorySecret {
	w.Helper()
	events := eventsOf[client.HistoryClientCreated](d)
	if len(events) != 1 {
		w.Fatalf("%s has begun %d eras", d.Link.ID, len(events))
	}
	info, err := d.Info(w.Context(), chat)
	w.must(err)
	if e := events[0]; e.Conversation != chat || e.Epoch != info.Epoch {
		w.Fatalf("era of %q from epoch %d, want %d", e.Conversation, e.Epoch, info.Epoch)
	}
	return events[0].Secret
}

// told is the secret that a device got in a message, between other texts.
func (w *world) told(d *clienttest.Device) (s client.HistorySecret, texts []string) {
	w.Helper()
	w.must(d.Link.Drain(w.Context(), chat))
	for _, text := range d.Texts() {
		got, err := client.ParseHistorySecret(pure.New(), []byte(text))
		if err != nil {
			texts = append(texts, text)
			continue
		}
		if s.ClientID != "" {
			w.Fatalf("%s got two secrets", d.Link.ID)
		}
		s = got
	}
	if s.ClientID == "" {
		w.Fatalf("%s got no secret, only %q", d.Link.ID, texts)
	}
	if errs := d.Failed(); len(errs) > 0 {
		w.Fatalf("%s: %v", d.Link.ID, errs)
	}
	return s, texts
}

// openHistory opens a history client in its era.
func (w *world) openHistory(s client.HistorySecret, cfg client.Config) *client.Client {
	w.Helper()
	cfg.Store = w.sealed(memory.New())
	c, err := client.OpenHistory(w.Context(), cfg, s)
	w.must(err)
	w.Cleanup(func() { _ = c.Close(context.Background()) })
	welcome, ok := w.service.Welcome(s.ClientID)
	if !ok {
		w.Fatalf("no Welcome for %s", s.ClientID)
	}
	w.must(c.Transaction(w.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.ProcessWelcome(ctx, welcome.Message, client.JoinConfig{Group: w.policy})
		return err
	}))
	return c
}

// history reads an era whole; secrets are left out.
func (w *world) history(s client.HistorySecret, cfg client.Config) (texts []string) {
	w.Helper()
	c := w.openHistory(s, cfg)
	for {
		number, message, err := w.service.Next(s.ClientID, chat)
		w.must(err)
		if number == 0 {
			return texts
		}
		w.must(c.Transaction(w.Context(), func(ctx context.Context, tx *client.Transaction) error {
			got, err := tx.DecryptMessage(ctx, chat, message)
			if text, ok := got.(*client.Text); ok && !bytes.Contains(text.Data, []byte("history-client")) && text.Data[0] < 0x80 {
				texts = append(texts, fmt.Sprintf("%s: %s", text.Sender, text.Data))
			}
			return err
		}))
		w.service.Ack(s.ClientID, chat, number)
	}
}

func (w *world) sealed(ks core.Keystore) *seal.Store {
	w.Helper()
	wrapper, err := seal.RawKey(core.NewSecret(make([]byte, 32)))
	w.must(err)
	s, err := seal.Open(w.Context(), ks, wrapper, "history")
	w.must(err)
	return s
}

func enable(ctx context.Context, c *client.Conversation) error {
	_, err := c.EnableHistorySharing(ctx)
	return err
}

func disable(ctx context.Context, c *client.Conversation) error {
	_, err := c.DisableHistorySharing(ctx)
	return err
}

func remove(ids ...core.ClientID) func(context.Context, *client.Conversation) error {
	return func(ctx context.Context, c *client.Conversation) error {
		_, err := c.RemoveMembers(ctx, ids...)
		return err
	}
}

func (w *world) sharing(want bool, devices ...*clienttest.Device) {
	w.Helper()
	for _, d := range devices {
		durable, err := d.View(chat).HistorySharing(w.Context())
		w.must(err)
		var open bool
		w.in(d, func(ctx context.Context, c *client.Conversation) (err error) {
			open, err = c.HistorySharing(ctx)
			return err
		})
		if durable != want || open != want {
			w.Errorf("%s says that history is shared: %v, %v", d.Link.ID, durable, open)
		}
	}
}

// What is said in an era is read later by its secret, from the era's first message to
// its last, and nothing else is. The secret reaches every member with the commit.
func TestHistory(t *testing.T) {
	for name, policy := range map[string]mls.Config{"public": mls.DefaultConfig, "private": private} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, clienttest.Options{})
			w.policy = policy
			alice, bob, carol := w.device("alice"), w.device("bob"), w.device("carol")
			w.create(alice)
			w.add(alice, bob, carol)
			w.send(alice, "before")
			w.catchUp()
			w.sharing(false, alice, bob)
			_ = alice.Events()

			w.in(alice, enable)
			w.catchUp()
			w.sharing(true, alice, bob, carol)
			w.agree(alice, bob, carol)
			first := w.created(alice)
			for _, d := range []*clienttest.Device{bob, carol} {
				got, _ := w.told(d)
				if got.ClientID != first.ClientID || !got.Data.Equal(first.Data) {
					t.Fatalf("%s was told another secret", d.Link.ID)
				}
				w.in(d, func(ctx context.Context, c *client.Conversation) error { return c.CheckHistorySecret(ctx, got) })
			}
			if ids, err := bob.ClientIDs(t.Context(), chat); err != nil || !slices.Contains(ids, first.ClientID) {
				t.Errorf("the history client is not among the members %v (%v)", ids, err)
			}

			w.send(bob, "one")
			w.send(alice, "two")
			w.in(bob, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.UpdateKeyMaterial(ctx)
				return err
			})
			w.catchUp()
			dave := w.device("dave")
			w.add(carol, dave)
			w.send(dave, "three")
			w.catchUp()
			for _, d := range []*clienttest.Device{alice, bob} {
				if len(eventsOf[client.HistoryClientCreated](d)) > 0 {
					t.Errorf("%s began an era for an update or an add", d.Link.ID)
				}
			}
			_ = dave.Texts()

			w.in(bob, remove("carol")) // a new era, by another
			w.catchUp()
			second := w.created(bob)
			if second.ClientID == first.ClientID {
				t.Fatal("the history client stayed")
			}
			w.send(alice, "four")
			w.catchUp()
			got, texts := w.told(dave)
			if got.ClientID != second.ClientID || !slices.Equal(texts, []string{"four"}) {
				t.Errorf("dave was told %s and %q", got.ClientID, texts)
			}
			w.in(alice, disable)
			w.catchUp()
			w.sharing(false, alice, bob, dave)
			w.send(alice, "after")
			w.catchUp()

			want := []string{"bob: one", "alice: two", "dave: three"}
			if got := w.history(first, config()); !slices.Equal(got, want) {
				t.Errorf("the first era: %q, want %q", got, want)
			}
			later := config() // its invitation has expired long ago
			later.Clock = func() time.Time { return time.Now().Add(5 * 365 * 24 * time.Hour) }
			if got := w.history(second, later); !slices.Equal(got, []string{"alice: four"}) {
				t.Errorf("the second era: %q", got)
			}
		})
	}
}

// Who removes whom, and how: every way begins a new era, but not if nobody leaves or
// the history client is what is removed.
func TestNewEraOnRemoval(t *testing.T) {
	propose := func(id core.ClientID) func(context.Context, *client.Conversation) error {
		return func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposeRemove(ctx, id)
			return err
		}
	}
	commit := func(ctx context.Context, c *client.Conversation) error {
		_, err := c.CommitPendingProposals(ctx)
		return err
	}
	leave := func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Leave(ctx)
		return err
	}
	update := func(ctx context.Context, c *client.Conversation) error {
		_, err := c.UpdateKeyMaterial(ctx)
		return err
	}
	type step struct {
		by core.ClientID
		f  func(context.Context, *client.Conversation) error
	}
	historian := func(ctx context.Context, c *client.Conversation) error {
		ids, err := c.ClientIDs(ctx)
		if err != nil {
			return err
		}
		return propose(ids[slices.IndexFunc(ids, client.IsHistoryClient)])(ctx, c)
	}
	for name, row := range map[string]struct {
		steps   []step
		era, on bool // of bob, the last to commit
	}{
		"by value":                  {[]step{{"bob", remove("carol")}}, true, true},
		"proposed by another":       {[]step{{"alice", propose("carol")}, {"bob", commit}}, true, true},
		"proposed by ourselves":     {[]step{{"bob", propose("carol")}, {"bob", update}}, true, true},
		"leaves":                    {[]step{{"carol", leave}, {"bob", commit}}, true, true},
		"another, not who leaves":   {[]step{{"bob", leave}, {"bob", update}}, false, true},
		"nobody":                    {[]step{{"alice", update}, {"bob", update}}, false, true},
		"with the history client":   {[]step{{"alice", historian}, {"bob", remove("carol")}}, false, false},
		"the history client":        {[]step{{"alice", historian}, {"bob", commit}}, false, false},
		"the history client, twice": {[]step{{"alice", historian}, {"bob", disable}}, false, false},
		"and everybody else":        {[]step{{"bob", remove("alice", "carol")}}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, clienttest.Options{})
			alice, bob, carol := w.device("alice"), w.device("bob"), w.device("carol")
			devices := map[core.ClientID]*clienttest.Device{"alice": alice, "bob": bob, "carol": carol}
			w.create(alice)
			w.add(alice, bob, carol)
			w.in(alice, enable)
			w.catchUp()
			for _, s := range row.steps {
				w.in(devices[s.by], s.f)
				w.catchUp()
			}
			events := eventsOf[client.HistoryClientCreated](bob)
			if len(events) > 1 || (len(events) == 1) != row.era {
				t.Fatalf("%d eras began", len(events))
			}
			w.sharing(row.on, bob)
			ids, err := bob.ClientIDs(t.Context(), chat)
			w.must(err)
			ids = slices.DeleteFunc(ids, func(id core.ClientID) bool { return !client.IsHistoryClient(id) })
			if len(ids) > 1 || row.era && ids[0] != events[0].Secret.ClientID {
				t.Errorf("history clients %v", ids)
			}
			if _, err := alice.Info(t.Context(), chat); err == nil {
				w.agree(alice, bob)
			}
		})
	}
}

// Who joins again by an external commit leaves nobody behind: the era goes on.
func TestEraGoesOnAfterARejoin(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	w.in(alice, enable)
	w.catchUp()
	_ = alice.Events()
	_, err := bob.Rejoin(t.Context(), chat)
	w.must(err)
	w.catchUp()
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.UpdateKeyMaterial(ctx)
		return err
	})
	if n := len(eventsOf[client.HistoryClientCreated](alice)); n != 0 {
		t.Errorf("%d eras began", n)
	}
	w.catchUp()
	w.agree(alice, bob)
}

// A staged commit turns history sharing on, or removes somebody, as one that is waited
// for does; also where others win first, and what it is for is kept over a restart.
func TestStagedEras(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice, bob, carol := w.deviceOn("alice", ks, config()), w.device("bob"), w.device("carol")
	w.create(alice)
	w.add(alice, bob, carol)
	_ = alice.Events()
	up := down(alice)
	for i, changes := range []client.Changes{{History: client.HistoryOn}, {Remove: []core.ClientID{"carol"}}} {
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.StageCommit(ctx, changes)
			return err
		})
		w.in(bob, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.UpdateKeyMaterial(ctx)
			return err
		})
		if i == 0 { // the process dies before its turn
			w.must(alice.Close(t.Context()))
			alice = clienttest.NewDevice(t, w.service, "alice", ks, config())
			w.devices[0] = alice
		} else {
			up()
		}
		w.must(alice.Settle(t.Context(), chat))
		s := w.created(alice)
		if got, _ := w.told(bob); got.ClientID != s.ClientID {
			t.Errorf("bob was told of %s, not of %s", got.ClientID, s.ClientID)
		}
		if i == 0 {
			up = down(alice)
		}
	}
	w.agree(alice, bob)
	w.sharing(true, alice, bob)
}

// What is so already is no commit, and what is off cannot be switched off.
func TestHistorySharingIsAskedForAgain(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	epoch := func() uint64 {
		info, err := bob.Info(t.Context(), chat)
		w.must(err)
		return info.Epoch
	}
	for _, f := range []func(context.Context, *client.Conversation) error{disable, enable, enable, disable, disable, enable} {
		w.in(bob, f)
	}
	if got := epoch(); got != 4 {
		t.Errorf("epoch %d after 3 changes", got)
	}
	w.catchUp()
	w.agree(alice, bob)
	w.sharing(true, alice, bob)
	events := eventsOf[client.HistoryClientCreated](bob)
	if len(events) != 2 {
		t.Fatalf("%d eras began", len(events))
	}
	w.in(bob, func(ctx context.Context, c *client.Conversation) error { // twice the same
		_, err := c.Commit(ctx, client.Changes{History: client.HistoryOff, Remove: []core.ClientID{events[1].Secret.ClientID}})
		return err
	})
	w.catchUp()
	w.sharing(false, alice, bob)
}

// A history client is not made of what applications name: nobody can slip in as one.
func TestHistoryIDsAreReserved(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	mallory := clienttest.NewDevice(t, w.service, "history-client:mallory", memory.New(), config())
	err := mallory.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		return tx.InitMLS(ctx, "history-client:mallory", suite1)
	})
	if !errors.Is(err, core.ErrInvalid) {
		t.Errorf("an identity: %v", err)
	}
	w.create(alice)
	hand := newByHand(w, "history-client:mallory")
	add := hand.keyPackage()
	err = in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.AddMembers(ctx, add)
		return err
	})
	if !errors.Is(err, core.ErrInvalid) {
		t.Errorf("AddMembers: %v", err)
	}
	err = in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.ProposeAdd(ctx, add)
		return err
	})
	if !errors.Is(err, core.ErrInvalid) {
		t.Errorf("ProposeAdd: %v", err)
	}
}

// Where a commit removes somebody and leaves the history client, as that of a member
// without this feature does, the next commit of anybody begins the era that is due.
func TestEraThatIsDue(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice, bob, carol := w.device("alice"), w.device("bob"), w.device("carol")
	old := newByHand(w, "old")
	w.create(alice)
	w.add(alice, bob, carol)
	w.in(alice, enable)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.AddMembers(ctx, old.keyPackage())
		return err
	})
	w.catchUp()
	_ = alice.Events()
	old.removes("carol")
	w.catchUp()
	w.sharing(true, alice, bob)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.UpdateKeyMaterial(ctx)
		return err
	})
	w.catchUp()
	w.created(alice)
	for _, d := range []*clienttest.Device{bob, alice} { // once is enough
		w.in(d, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.UpdateKeyMaterial(ctx)
			return err
		})
		w.catchUp()
		if n := len(eventsOf[client.HistoryClientCreated](d)); n != 0 {
			t.Errorf("%s began one more era", d.Link.ID)
		}
	}
	w.agree(alice, bob)
}

// history has alice share it.
func (s *stage) history() {
	s.in(s.alice, enable)
	s.catchUp()
}

// nameless are ids without what is random in those of history clients.
func nameless(ids []core.ClientID) (out []core.ClientID) {
	for _, id := range ids {
		if client.IsHistoryClient(id) {
			id = "history-client"
		}
		out = append(out, id)
	}
	return out
}

// untold are texts without the secrets of history clients.
func untold(texts []string) []string {
	return slices.DeleteFunc(texts, func(text string) bool { return strings.Contains(text, "history-client") })
}

// byHand is a member that uses the engine alone.
type byHand struct {
	w      *world
	id     core.ClientID
	signer core.Signer
	bundle *mls.KeyPackageBundle
}

func newByHand(w *world, id core.ClientID) *byHand {
	key, err := pure.New().GenerateKey(w.Context(), core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
	w.must(err)
	return &byHand{w: w, id: id, signer: key.(core.Signer)}
}

func (m *byHand) env() *mls.Env {
	return &mls.Env{
		Suites: pure.New(), Auth: client.Basic{}, Now: time.Now(),
		Fetch: func(_ context.Context, queries []record.Query) ([][]record.Record, error) {
			return make([][]record.Record, len(queries)), nil
		},
		Signer: func(context.Context, []byte) (core.Signer, error) { return m.signer, nil },
	}
}

func (m *byHand) keyPackage() []byte {
	suite, err := pure.New().Suite(suite1)
	m.w.must(err)
	now := uint64(time.Now().Unix())
	m.bundle, err = mls.NewKeyPackage(m.w.Context(), mls.KeyPackageParams{
		Suite: suite, Signer: m.signer, Credential: core.BasicCredential(m.id), Now: time.Now(),
		Capabilities: mls.DefaultCapabilities([]core.SuiteID{suite1}), Lifetime: mls.Lifetime{NotBefore: now - 10, NotAfter: now + 3600},
	})
	m.w.must(err)
	return (&mls.MLSMessage{KeyPackage: m.bundle.KeyPackage}).Marshal()
}

// removes joins by the Welcome that waits, and removes a member.
func (m *byHand) removes(id core.ClientID) {
	m.w.Helper()
	ctx := m.w.Context()
	welcome, ok := m.w.service.Welcome(m.id)
	if !ok {
		m.w.Fatal("no Welcome")
	}
	message, err := mls.UnmarshalMLSMessage(welcome.Message)
	m.w.must(err)
	g, joined, _, err := mls.Join(ctx, m.env(), mls.JoinParams{
		Welcome: message.Welcome, Config: mls.DefaultConfig,
		KeyPackage: func(context.Context, []byte) (*mls.KeyPackageBundle, error) { return m.bundle, nil },
	})
	m.w.must(err)
	var remove mls.Proposal
	for _, member := range joined.Members {
		if string(member.Credential.Identity) == string(id) {
			remove = &mls.Remove{Removed: member.Leaf}
		}
	}
	_, pending, _, err := g.Commit(ctx, m.env(), mls.CommitParams{Proposals: []mls.Proposal{remove}})
	m.w.must(err)
	outcome := m.w.service.SubmitCommit(m.id, chat, client.CommitBundle{Commit: pending.Message(), Removed: []core.ClientID{id}})
	if outcome.Kind != client.Accepted {
		m.w.Fatalf("the commit: %+v", outcome)
	}
}

// The application says what is sent. It gets the secret before anything leaves, and
// what it cannot do is an error that changes nothing.
func TestPrepareHistory(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	var answer []byte
	var fails error
	var prepared []client.HistorySecret
	cfg := config()
	cfg.PrepareHistory = func(id core.ConversationID, s client.HistorySecret) ([]byte, error) {
		if id != chat {
			t.Errorf("of %q", id)
		}
		prepared = append(prepared, s)
		return answer, fails
	}
	alice, bob := w.deviceOn("alice", memory.New(), cfg), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	_ = alice.Events()
	answer = make([]byte, 64<<10+1)
	if err := in(t.Context(), alice, enable); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("too much to send: %v", err)
	}
	answer, fails = nil, errors.New("no room")
	if err := in(t.Context(), alice, enable); !errors.Is(err, fails) {
		t.Errorf("the application's error: %v", err)
	}
	w.sharing(false, alice)
	if n := len(alice.Events()); n > 0 {
		t.Errorf("%d events", n)
	}
	answer, fails = []byte("wrapped"), nil
	w.in(alice, enable)
	w.reads(bob, "wrapped")
	if s := w.created(alice); s.ClientID != prepared[len(prepared)-1].ClientID {
		t.Errorf("%s was created, the last prepared was %v", s.ClientID, prepared)
	}
}

// Wherever the first submission fails, the commit goes again with the same message, and
// no key of the new epoch is used twice: what is sent later has another.
func TestHistoryIsAnnouncedOnce(t *testing.T) {
	for name, row := range map[string]struct {
		trouble func(d *clienttest.Device)
		repeats bool // the first submission reached the service
	}{
		"nothing":        {func(*clienttest.Device) {}, false},
		"not submitted":  {func(d *clienttest.Device) { down(d) }, false},
		"answer is lost": {func(d *clienttest.Device) { d.Link.LoseAnswer(clienttest.CallCommit) }, true},
	} {
		for _, forgetful := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, %v", name, forgetful), func(t *testing.T) {
				w := newWorld(t, clienttest.Options{RefuseRepeats: forgetful})
				path := filepath.Join(t.TempDir(), "keys")
				r, err := newRecorder(path)
				w.must(err)
				cfg := config()
				cfg.Suites = r
				ks := memory.New()
				alice, bob := w.deviceOn("alice", ks, cfg), w.device("bob")
				backend := &outgoing{Backend: alice.Link.Service, who: "alice"}
				alice.Link.Service = backend
				w.create(alice)
				w.add(alice, bob)
				_ = alice.Events()
				row.trouble(alice)
				err = in(t.Context(), alice, enable)
				if (err == nil) != (name == "nothing") {
					t.Fatalf("enable: %v", err)
				}
				if err != nil { // and the process dies
					w.must(alice.Close(t.Context()))
					alice = clienttest.NewDevice(t, backend, "alice", ks, cfg)
					w.devices[0] = alice
					w.must(alice.Resume(t.Context()))
				}
				s := w.created(alice)
				w.send(alice, "hello")
				got, texts := w.told(bob)
				if got.ClientID != s.ClientID || !slices.Equal(texts, []string{"hello"}) {
					t.Errorf("bob was told %s and %q", got.ClientID, texts)
				}
				if n := len(backend.told); n != 1 && !row.repeats || n > 2 || !bytes.Equal(backend.told[0], backend.told[n-1]) {
					t.Errorf("%d announcements, or not the same", n)
				}
				noKeyTwice(t, path, backend.left)
				w.agree(alice, bob)
			})
		}
	}
}

// A commit that loses takes its era with it; what is left is made anew. One that is
// refused or given up leaves nothing.
func TestEraThatDoesNotBegin(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice, bob := w.deviceOn("alice", ks, config()), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	_ = alice.Events()
	kept := func() bool {
		w.Helper()
		rows, _ := w.rows(ks)
		return strings.Contains(rows, fmt.Sprintf(" %d:", client.HistoryTable))
	}
	alice.Link.Refuse(clienttest.CallCommit, client.Outcome{Kind: client.Refused, Reason: "no"})
	if err := in(t.Context(), alice, enable); !errors.Is(err, core.ErrDenied) {
		t.Fatalf("refused: %v", err)
	}
	if kept() {
		t.Error("the era of a refused commit is kept")
	}
	up := down(alice)
	if err := in(t.Context(), alice, enable); err == nil {
		t.Fatal("enabled without a service")
	}
	if !kept() {
		t.Error("the era of a commit that waits is not kept")
	}
	up()
	w.in(alice, func(ctx context.Context, c *client.Conversation) error { return c.DiscardPendingCommit(ctx) })
	if kept() {
		t.Error("the era of a commit that was given up is kept")
	}
	won := false
	alice.Link.Before = func(string) error {
		if !won {
			won = true
			w.in(bob, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.UpdateKeyMaterial(ctx)
				return err
			})
		}
		return nil
	}
	w.in(alice, enable)
	w.catchUp()
	s := w.created(alice)
	if got, _ := w.told(bob); got.ClientID != s.ClientID {
		t.Errorf("bob was told of %s, not of %s", got.ClientID, s.ClientID)
	}
	if kept() {
		t.Error("the era that has begun is kept with the commit")
	}
	w.agree(alice, bob)
}

// A history client has nothing to sign with: whatever sends, commits or makes keys says
// so, and changes nothing.
func TestHistoryClientOnlyReads(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	w.in(alice, enable)
	bobs := w.keyPackage(bob)
	var groupInfo []byte
	w.in(alice, func(ctx context.Context, c *client.Conversation) (err error) {
		groupInfo, err = c.GroupInfo(ctx)
		return err
	})
	s := w.created(alice)
	c := w.openHistory(s, config())
	type tx = *client.Transaction
	type conv = *client.Conversation
	ops := map[string]func(context.Context, tx, conv) error{
		"Send":      func(ctx context.Context, _ tx, c conv) error { _, err := c.Send(ctx, []byte("x"), nil); return err },
		"Encrypt":   func(ctx context.Context, _ tx, c conv) error { _, err := c.Encrypt(ctx, []byte("x"), nil); return err },
		"GroupInfo": func(ctx context.Context, _ tx, c conv) error { _, err := c.GroupInfo(ctx); return err },
		"Update":    func(ctx context.Context, _ tx, c conv) error { _, err := c.UpdateKeyMaterial(ctx); return err },
		"Add":       func(ctx context.Context, _ tx, c conv) error { _, err := c.AddMembers(ctx, bobs); return err },
		"Remove":    func(ctx context.Context, _ tx, c conv) error { _, err := c.RemoveMembers(ctx, "alice"); return err },
		"disable":   func(ctx context.Context, _ tx, c conv) error { return disable(ctx, c) },
		"Leave":     func(ctx context.Context, _ tx, c conv) error { _, err := c.Leave(ctx); return err },
		"ProposeRemove": func(ctx context.Context, _ tx, c conv) error {
			_, err := c.ProposeRemove(ctx, "alice")
			return err
		},
		"ProposeUpdate": func(ctx context.Context, _ tx, c conv) error { _, err := c.ProposeUpdate(ctx, 0); return err },
		"NewConversation": func(ctx context.Context, tx tx, _ conv) error {
			_, err := tx.NewConversation(ctx, "other", client.ConversationConfig{Suite: suite1})
			return err
		},
		"NewKeyPackages": func(ctx context.Context, tx tx, _ conv) error {
			_, err := tx.NewKeyPackages(ctx, suite1, core.CredentialBasic, 1)
			return err
		},
		"NewCredential": func(ctx context.Context, tx tx, _ conv) error { _, err := tx.NewCredential(ctx, suite1); return err },
		"JoinByExternalCommit": func(ctx context.Context, tx tx, _ conv) error {
			_, _, err := tx.JoinByExternalCommit(ctx, groupInfo, client.JoinConfig{})
			return err
		},
	}
	for name, op := range ops {
		err := c.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			conversation, err := tx.Conversation(ctx, chat)
			if err != nil {
				return err
			}
			return op(ctx, tx, conversation)
		})
		if !errors.Is(err, client.ErrHistoryClient) || !errors.Is(err, core.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	err := c.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "eve", suite1) })
	if !errors.Is(err, client.ErrInitialized) {
		t.Errorf("InitMLS: %v", err)
	}
	i, err := c.Info(t.Context(), chat)
	if id, err2 := c.ClientID(t.Context()); err != nil || err2 != nil || i.Epoch != 2 || i.PendingCommit || id != s.ClientID {
		t.Errorf("it is %+v of %s, %v, %v", i, id, err, err2)
	}
	if log := w.service.Log(chat); len(log) != 3 {
		t.Errorf("%d messages in the log", len(log))
	}
}

// The store of a history client opens again for the same secret, and for no other.
func TestHistoryStore(t *testing.T) {
	secrets := foreignSecrets(t)
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	open := func(data []byte) error {
		s, err := client.ParseHistorySecret(pure.New(), data)
		w.must(err)
		cfg := config()
		cfg.Store = w.sealed(ks)
		c, err := client.OpenHistory(t.Context(), cfg, s)
		if err == nil {
			n := 0
			w.must(c.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
				list, err := tx.StoredKeyPackages(ctx)
				n = len(list)
				return err
			}))
			if n != 1 {
				t.Errorf("%d key packages", n)
			}
		}
		return err
	}
	for range 2 {
		w.must(open(secrets[suite1]))
	}
	if err := open(secrets[2]); !errors.Is(err, client.ErrInitialized) {
		t.Errorf("the store of another: %v", err)
	}
	cfg := config()
	cfg.Store = w.sealed(memory.New())
	if _, err := client.OpenHistory(t.Context(), cfg, client.HistorySecret{}); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("no secret: %v", err)
	}
}

// A secret that is not that of a member, be it of the same name, shows a history that
// somebody has made up.
func TestForgedHistorySecret(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	w.create(alice)
	w.in(alice, enable)
	s := w.created(alice)
	check := func(s client.HistorySecret) error {
		return in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error { return c.CheckHistorySecret(ctx, s) })
	}
	w.must(check(s))
	other, err := client.ParseHistorySecret(pure.New(), foreignSecrets(t)[suite1])
	w.must(err)
	if err := check(other); !errors.Is(err, client.ErrClientNotFound) {
		t.Errorf("another's: %v", err)
	}
	forged, err := client.ForgeHistory(t.Context(), alice.Client, s.ClientID, suite1)
	w.must(err)
	if _, err := client.ParseHistorySecret(pure.New(), forged.Data.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := check(forged); !errors.Is(err, client.ErrClientNotFound) {
		t.Errorf("one with other keys: %v", err)
	}
	named, err := client.ForgeHistory(t.Context(), alice.Client, "alice", suite1)
	w.must(err)
	if _, err := client.ParseHistorySecret(pure.New(), named.Data.Bytes()); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("of somebody who is no history client: %v", err)
	}
	if err := check(client.HistorySecret{ClientID: s.ClientID}); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("an empty one: %v", err)
	}
	w.in(alice, disable)
	if err := check(s); !errors.Is(err, client.ErrClientNotFound) {
		t.Errorf("one that is over: %v", err)
	}
}

// The key of a history client is made in software and lasts no longer than its key
// package takes: a token that keeps our own keys is not asked, nor burdened with one
// for each era.
func TestHistoryKeyIsNotKept(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	keys := newToken()
	cfg := config()
	cfg.Keys = keys
	alice := w.deviceOn("alice", memory.New(), cfg)
	w.create(alice)
	before := len(keys.keys)
	w.in(alice, enable)
	if len(keys.keys) != before {
		t.Errorf("%d keys in the token, %d before", len(keys.keys), before)
	}
	cfg.Suites = struct{ core.SuiteSource }{pure.New()} // makes no signature keys
	bob := w.deviceOn("bob", memory.New(), cfg)
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.NewConversation(ctx, "other", client.ConversationConfig{Suite: suite1})
		if err != nil {
			return err
		}
		if err := enable(ctx, c); !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("a key in a token: %v", err)
		}
		return nil
	})
	if len(keys.keys) != before+1 { // bob's own
		t.Errorf("%d keys in the token", len(keys.keys))
	}
}

// A history secret is good for ever, though the key package in it is not.
func TestOldHistorySecret(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	cfg := config()
	cfg.Clock = func() time.Time { return time.Now().Add(-5 * 365 * 24 * time.Hour) }
	alice := w.deviceOn("alice", memory.New(), cfg)
	w.create(alice)
	w.in(alice, enable)
	w.send(alice, "long ago")
	if got := w.history(w.created(alice), config()); !slices.Equal(got, []string{"alice: long ago"}) {
		t.Errorf("read %q", got)
	}
}
