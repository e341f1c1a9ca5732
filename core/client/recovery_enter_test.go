// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// recovered is the configuration of who recovers.
func recovered() client.Config {
	cfg := config()
	cfg.RolledBack = client.Recover
	return cfg
}

// restoredTrio is alice, bob and carol, with alice's store put back, not opened yet, to
// a state in which a text waits and she has key packages.
func restoredTrio(t testing.TB, policy mls.Config) (w *world, bob, carol *clienttest.Device, ks core.Keystore) {
	t.Helper()
	w = newWorld(t, clienttest.Options{})
	w.policy = policy
	ks = memory.New()
	alice := w.deviceOn("alice", ks, config())
	bob, carol = w.device("bob"), w.device("carol")
	w.create(alice)
	w.add(alice, bob, carol)
	w.packages(alice, client.KeyPackageOptions{}, 2)
	w.packages(alice, client.KeyPackageOptions{LastResort: true}, 1)
	up := down(alice)
	w.send(alice, "waiting")
	up()
	w.must(alice.Close(t.Context()))
	w.devices = []*clienttest.Device{bob, carol}
	return w, bob, carol, putBack(t, photo(t, ks))
}

// comesBack has alice join again, and all talk.
func (w *world) comesBack(ks core.Keystore, others ...*clienttest.Device) *clienttest.Device {
	w.Helper()
	alice := clienttest.NewDevice(w, w.service, "alice", ks, recovered())
	list, err := alice.Recovering(w.Context())
	if err != nil || !slices.Equal(list, []core.ConversationID{chat}) || len(w.stored(alice)) != 0 {
		w.Fatalf("recovering %q, %v; %d key packages", list, err, len(w.stored(alice)))
	}
	_, err = alice.Rejoin(w.Context(), chat)
	w.must(err)
	w.catchUp()
	w.agree(append(others, alice)...)
	w.send(alice, "I am back")
	for _, d := range others {
		w.must(d.Link.Drain(w.Context(), chat))
		if got := d.Texts(); !slices.Equal(got, []string{"I am back"}) {
			w.Fatalf("%s read %q", d.Link.ID, got)
		}
	}
	return alice
}

// Whatever fails at whichever call of Open, and wherever the process ends: recovery is
// entered whole or not at all, and the next to open goes on from there.
func TestEnteringRecoveryFails(t *testing.T) {
	t.Parallel()
	for _, x := range troubles {
		for n := 1; ; n++ {
			w, bob, carol, ks := restoredTrio(t, mls.DefaultConfig)
			packages := len(photo(t, ks).Puts)
			dead, calls := new(bool), 0
			faulty := &coretest.Faulty{Keystore: ks}
			hit := func() bool {
				calls++
				if calls == n {
					*dead = x.dies
				}
				return calls == n
			}
			faulty.PlanRead = func(int) bool { return hit() && x.fault == coretest.FaultBefore }
			faulty.Plan = func(int, core.Batch) coretest.Fault {
				if hit() {
					return x.fault
				}
				return coretest.FaultNone
			}
			c, err := openOn(t, grave{faulty, dead}, recovered())
			reached := calls >= n
			faulty.Plan, faulty.PlanRead = nil, nil
			faulty.Land(t.Context())
			if err == nil {
				_ = c.Close(t.Context())
			} else if !x.dies && !errors.Is(err, core.ErrUnavailable) {
				t.Fatalf("%v at call %d: %v", x, n, err)
			}
			if _, err := openOn(t, ks, config()); err != nil && !errors.Is(err, core.ErrRolledBack) {
				t.Fatal(err)
			} else if now := len(photo(t, ks).Puts); err != nil && now < packages {
				t.Fatalf("%v at call %d: entered by half: %d records of %d", x, n, now, packages)
			}
			w.comesBack(ks, bob, carol)
			if !reached {
				if n < 4 {
					t.Fatalf("%d calls in all", calls)
				}
				break
			}
		}
	}
}

// Two processes enter at once: it is one recovery, and both can go on.
func TestTwoEnterRecovery(t *testing.T) {
	t.Parallel()
	w, bob, carol, ks := restoredTrio(t, mls.DefaultConfig)
	var entered atomic.Int32
	var both sync.WaitGroup
	both.Add(2)
	faulty := &coretest.Faulty{Keystore: ks}
	met := make(chan struct{})
	var writers atomic.Int32
	faulty.Plan = func(int, core.Batch) coretest.Fault {
		if writers.Add(1) == 2 {
			close(met)
		}
		return coretest.FaultNone
	}
	clients := make([]*client.Client, 2)
	for i := range clients {
		go func() {
			defer both.Done()
			cfg := recovered()
			cfg.Observe = func(e client.Event) {
				if _, ok := e.(client.RolledBack); ok {
					entered.Add(1)
				}
			}
			c, err := openOn(t, meeting{faulty, met}, cfg)
			if err != nil {
				t.Error(err)
			}
			clients[i] = c
		}()
	}
	both.Wait()
	if entered.Load() != 1 {
		t.Errorf("entered %d times", entered.Load())
	}
	for _, c := range clients {
		if err := c.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.NewKeyPackages(ctx, suite1, core.CredentialBasic, 1)
			return err
		}); err != nil {
			t.Error(err)
		}
		if list, err := c.Recovering(t.Context()); len(list) != 1 || err != nil {
			t.Errorf("%q, %v", list, err)
		}
		if err := c.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			return tx.DeleteKeyPackagesOf(ctx, 1)
		}); err != nil {
			t.Error(err)
		}
		w.must(c.Close(t.Context()))
	}
	w.comesBack(ks, bob, carol)
}

// meeting is a store where a writer waits until there are two.
type meeting struct {
	*coretest.Faulty
	met chan struct{}
}

func (m meeting) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	return m.Faulty.Keystore.Read(ctx, queries)
}

func (m meeting) Apply(ctx context.Context, b core.Batch) error {
	_ = m.Faulty.Plan(0, b)
	<-m.met
	return m.Faulty.Keystore.Apply(ctx, b)
}

// A process that had the store open when that was put back changes nothing any more,
// once another has met the accident: it would send with the old keys.
func TestOutdatedProcess(t *testing.T) {
	t.Parallel()
	for _, then := range []client.AfterRollback{client.Recover, client.NothingLost} {
		w := newWorld(t, clienttest.Options{})
		ks := memory.New()
		alice := w.deviceOn("alice", ks, config())
		bob := w.device("bob")
		w.create(alice)
		w.add(alice, bob)
		w.must(ks.Apply(t.Context(), core.Batch{Puts: []core.Put{core.NewIncarnation()}}))
		cfg := recovered()
		cfg.RolledBack = then
		c, err := openOn(t, ks, cfg)
		w.must(err)
		sent := len(w.service.Log(chat))
		for what, f := range map[string]func(ctx context.Context, c *client.Conversation) error{
			"send": func(ctx context.Context, c *client.Conversation) error {
				_, err := c.Send(ctx, []byte("with an old key"), nil)
				return err
			},
			"commit": update,
		} {
			if err := in(t.Context(), alice, f); !errors.Is(err, core.ErrRolledBack) || errors.Is(err, core.ErrConflict) {
				t.Errorf("%v: %s: %v", then, what, err)
			}
		}
		if len(w.service.Log(chat)) != sent {
			t.Errorf("%v: something was sent", then)
		}
		w.must(c.Close(t.Context()))
	}
}

// Who has nothing yet has lost nothing: a client that is made in a store that went
// through an accident before.
func TestNewClientInAnOldStore(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	w := newWorld(t, clienttest.Options{})
	w.must(ks.Apply(t.Context(), core.Batch{Puts: []core.Put{core.NewIncarnation()}}))
	alice := w.deviceOn("alice", ks, config())
	w.create(alice)
	w.must(alice.Close(t.Context()))
	if _, err := openOn(t, ks, config()); err != nil {
		t.Error(err)
	}
	again := putBack(t, photo(t, ks))
	if _, err := openOn(t, again, config()); !errors.Is(err, core.ErrRolledBack) {
		t.Errorf("the next accident: %v", err)
	}
}

// An accident in the middle of recovery: what was joined again since has to be joined
// once more, and a join that waited is not sent again.
func TestAccidentWhileRecovering(t *testing.T) {
	t.Parallel()
	w, bob, carol, ks := restoredTrio(t, mls.DefaultConfig)
	alice := clienttest.NewDevice(t, w.service, "alice", ks, recovered())
	alice.Link.Before = once(clienttest.CallCommit)
	if _, err := alice.Rejoin(t.Context(), chat); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	if list, err := alice.Recovering(t.Context()); len(list) != 1 || err != nil {
		t.Errorf("a join that waits is none: %q, %v", list, err)
	}
	waiting := photo(t, ks)
	w.must(alice.Settle(t.Context(), chat)) // this time it is sent
	if list, err := alice.Recovering(t.Context()); len(list) != 0 || err != nil {
		t.Errorf("%q, %v", list, err)
	}
	w.catchUp()
	w.agree(alice, bob, carol)
	w.must(alice.Close(t.Context()))
	ks = putBack(t, waiting)
	alice = clienttest.NewDevice(t, w.service, "alice", ks, recovered())
	sent := len(w.service.Log(chat))
	w.must(alice.Resume(t.Context()))
	if len(w.service.Log(chat)) != sent {
		t.Error("the join of the state that was put back was sent again")
	}
	w.must(alice.Close(t.Context()))
	w.comesBack(ks, bob, carol)
}

// While the join waits for its answer, what comes behind it waits as well, and what is
// older is passed over.
func TestMessagesAroundTheWayBack(t *testing.T) {
	t.Parallel()
	w, bob, carol, ks := restoredTrio(t, mls.DefaultConfig)
	n := len(w.service.Log(chat))
	w.send(bob, "too old")
	w.update(bob)
	w.catchUp()
	alice := clienttest.NewDevice(t, w.service, "alice", ks, recovered())
	alice.Link.LoseAnswer(clienttest.CallCommit)
	if _, err := alice.Rejoin(t.Context(), chat); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	w.must(bob.Link.Drain(t.Context(), chat))
	w.send(bob, "new")
	log := w.since(n) // text, commit, our way back, text
	for i, want := range []error{client.ErrRecovering, client.ErrStaleCommit} {
		if _, err := w.give(alice, log[i]); !errors.Is(err, want) || !errors.Is(err, client.ErrRecovering) || !client.Blames(err) {
			t.Errorf("message %d: %v", i, err)
		}
	}
	if r, ok := w.gives(alice, log[3]).(*client.Buffered); !ok || r.Reason != client.JoinPending {
		t.Errorf("%+v", r)
	}
	if got := textsOf(w.gives(alice, log[2])); !slices.Equal(got, []string{"new"}) {
		t.Errorf("read %q", got)
	}
	w.catchUp()
	w.agree(alice, bob, carol)
}

// By the Welcome of a member who has removed her and added her again she is back; one to
// an epoch that she knows to be over leads nowhere, nor does one of a key package from
// before.
func TestRecoveryByWelcome(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, bob, carol, ks := restoredTrio(t, policy)
		alice := clienttest.NewDevice(t, w.service, "alice", ks, recovered())
		alice.Join.Group = policy
		w.devices = append(w.devices, alice)
		mallory := w.device("mallory")
		w.do(mallory, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{Suite: suite1})
			return err
		})
		own := clienttest.NewService(clienttest.Options{})
		mallory.Link.Service = own
		w.in(mallory, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.AddMembers(ctx, w.keyPackage(alice))
			return err
		})
		made, _ := own.Welcome("alice")
		w.tries(alice, mls.ErrWrongEpoch, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.ProcessWelcome(ctx, made.Message, client.JoinConfig{})
			return err
		})
		w.devices = []*clienttest.Device{bob, carol, alice}
		w.in(bob, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.RemoveMembers(ctx, "alice")
			return err
		})
		w.must(bob.Link.Drain(t.Context(), chat))
		w.add(bob, alice)
		w.agree(alice, bob, carol)
		if list, err := alice.Recovering(t.Context()); len(list) != 0 || err != nil {
			t.Errorf("%q, %v", list, err)
		}
		if lost := eventsOf[client.Undelivered](alice); len(lost) != 1 || string(lost[0].Data) != "waiting" {
			t.Errorf("%+v", lost)
		}
		bob.Texts()
		w.send(alice, "I am back")
		w.reads(bob, "I am back")
	})
}

// Keys outside the store that nothing names stay until somebody says that no newer state
// will be found. What is dropped meanwhile stays as well.
func TestKeysStayWhileRecovering(t *testing.T) {
	t.Parallel()
	tok, ks := newToken(), memory.New()
	cfg := client.Config{Suites: pure.New(), Keys: tok}
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", ks, cfg)
	w.create(alice)
	var past core.Batch
	tok.making = func() { past = photo(t, ks) } // in the hour that is lost the key is used
	w.newCredential(alice, suite1, 0)
	w.must(alice.Close(t.Context()))
	restored := putBack(t, past)
	cfg.RolledBack = client.Recover
	alice = clienttest.NewDevice(t, w.service, "alice", restored, cfg)
	w.must(alice.Close(t.Context()))
	cfg.RolledBack = client.Refuse
	alice = clienttest.NewDevice(t, w.service, "alice", restored, cfg)
	own := w.newCredential(alice, suite1, 0)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error { return tx.RemoveCredential(ctx, own.Ref) })
	if n := tok.count(); n != 3 {
		t.Errorf("%d keys, want that of the identity, the one without a name and the dropped one", n)
	}
	if n, err := alice.SweepKeys(t.Context()); err != nil || n != 2 {
		t.Errorf("%d keys are deleted: %v", n, err)
	}
	if n := tok.count(); n != 1 {
		t.Errorf("%d keys after somebody said so", n)
	}
	own = w.newCredential(alice, suite1, 0)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error { return tx.RemoveCredential(ctx, own.Ref) })
	if n := tok.count(); n != 1 {
		t.Errorf("%d keys: dropped ones go at once again", n)
	}
}

// The key of the credential was deleted in the hour that is lost.
func TestKeyGone(t *testing.T) {
	t.Parallel()
	tok, ks := newToken(), memory.New()
	cfg := client.Config{Suites: pure.New(), Keys: tok}
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", ks, cfg)
	bob := w.device("bob")
	w.create(bob)
	w.add(bob, alice)
	past := photo(t, ks)
	own := w.newCredential(alice, suite1, 0)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.SetCredential(ctx, own.Ref)
		return err
	})
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		return errors.Join(tx.DeleteKeyPackagesOf(ctx, 1), tx.RemoveCredential(ctx, 1))
	})
	w.must(alice.Close(t.Context()))
	cfg.RolledBack = client.Recover
	alice = clienttest.NewDevice(t, w.service, "alice", putBack(t, past), cfg)
	w.devices = []*clienttest.Device{bob, alice}
	if _, err := alice.Rejoin(t.Context(), chat); !errors.Is(err, client.ErrKeyGone) {
		t.Fatal(err)
	}
	w.newCredential(alice, suite1, 0)
	_, err := alice.RejoinWith(t.Context(), chat, client.JoinConfig{Member: true, InPlace: true})
	w.must(err)
	w.catchUp()
	w.agree(alice, bob)
}

// Without external_pub only a member can help.
func TestNoExternalPub(t *testing.T) {
	t.Parallel()
	w, bob, _, ks := restoredTrio(t, mls.DefaultConfig)
	alice := clienttest.NewDevice(t, w.service, "alice", ks, recovered())
	m, err := mls.UnmarshalMLSMessage(w.groupInfo(bob))
	w.must(err)
	m.GroupInfo.Extensions = slices.DeleteFunc(m.GroupInfo.Extensions, func(x mls.Extension) bool { return x.Type == mls.ExtensionExternalPub })
	before := fmt.Sprint(photo(t, ks))
	w.tries(alice, client.ErrNoExternalPub, func(ctx context.Context, tx *client.Transaction) error {
		_, _, err := tx.JoinByExternalCommit(ctx, m.Marshal(), client.JoinConfig{})
		return err
	})
	if fmt.Sprint(photo(t, ks)) != before {
		t.Error("it changed something")
	}
}

// A join that waited in the state that was put back is none any more: its conversation is
// in the list until it is joined or wiped, also if the service refuses it.
func TestJoinOfThePast(t *testing.T) {
	t.Parallel()
	s := newStage(t, operationOf("DiscardPendingJoin"), setting{})
	s.putBack()
	listed := func(want bool) {
		t.Helper()
		list, err := s.alice.Recovering(t.Context())
		if slices.Contains(list, chat) != want || err != nil {
			t.Fatalf("%q, %v", list, err)
		}
	}
	listed(true)
	s.alice.Link.Refuse(clienttest.CallCommit, client.Outcome{Kind: client.Refused, Reason: "no"})
	var refused *client.RefusedError
	if _, err := s.alice.Rejoin(t.Context(), chat); !errors.As(err, &refused) {
		t.Fatal(err)
	}
	listed(true)
	s.do(s.alice, func(ctx context.Context, tx *client.Transaction) error { return tx.WipeConversation(ctx, chat) })
	listed(false)
	s.tries(s.alice, client.ErrConversationNotFound, func(ctx context.Context, tx *client.Transaction) error { return tx.WipeConversation(ctx, chat) })
}

// Who only reads what others wrote uses no key twice, however old its state is.
func TestHistoryClientPutBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, _ := w.pair()
	w.in(alice, enable)
	secret := w.created(alice)
	ks := memory.New()
	cfg := config()
	cfg.Store = w.sealed(ks)
	c, err := client.OpenHistory(t.Context(), cfg, secret)
	w.must(err)
	w.must(c.Close(t.Context()))
	cfg.Store = w.sealed(putBack(t, photo(t, ks)))
	c, err = client.OpenHistory(t.Context(), cfg, secret)
	w.must(err)
	defer func() { _ = c.Close(context.Background()) }()
	welcome, _ := w.service.Welcome(secret.ClientID)
	w.must(c.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.ProcessWelcome(ctx, welcome.Message, client.JoinConfig{})
		return err
	}))
}
