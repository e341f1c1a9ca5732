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
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

var errPolicy = errors.New("policy")

// doorkeeper is a policy that keeps some out and remembers what it was asked.
type doorkeeper struct {
	out   []core.ClientID
	asked []client.Admission
}

func (k *doorkeeper) admit(_ context.Context, a client.Admission) error {
	k.asked = append(k.asked, a)
	if slices.Contains(k.out, a.Joiner.ClientID) {
		return errPolicy
	}
	return nil
}

// is checks the one question since the last call.
func (k *doorkeeper) is(t testing.TB, want string) {
	t.Helper()
	asked := k.asked
	k.asked = nil
	if len(asked) != 1 {
		t.Fatalf("asked %+v", asked)
	}
	a := asked[0]
	got := fmt.Sprintf("%s %d: %d %s by %s, with %v, above %v", a.Conversation, a.Epoch, a.How, a.Joiner.ClientID, a.Proposer.ClientID, a.Members, a.ParentMembers)
	if got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
}

// guarded is alice, bob with a doorkeeper, and an external sender, in a chat whose
// parent bob has made.
func guarded(t testing.TB, policy mls.Config) (w *world, alice, bob *clienttest.Device, keeper *doorkeeper, server core.Signer, store core.Keystore) {
	w = newWorld(t, clienttest.Options{})
	w.policy = policy
	keeper, store = &doorkeeper{}, memory.New()
	cfg := config()
	cfg.Admit = keeper.admit
	alice, bob = w.device("alice"), w.deviceOn("bob", store, cfg)
	suite, err := pure.New().Suite(suite1)
	w.must(err)
	server = signerOf(t, suite)
	senders, err := client.ParseExternalSenders(suite, server.Public())
	w.must(err)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{Suite: suite1, Group: policy, ExternalSenders: senders})
		return err
	})
	w.add(alice, bob)
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		if _, err := tx.NewConversation(ctx, "parent", client.ConversationConfig{Suite: suite1}); err != nil {
			return err
		}
		c, err := tx.Conversation(ctx, chat)
		if err != nil {
			return err
		}
		return c.SetParent(ctx, "parent")
	})
	if len(keeper.asked) > 0 {
		t.Fatalf("asked %+v", keeper.asked)
	}
	return w, alice, bob, keeper, server, store
}

// ENG-7, XS-3: each way in is asked about, once, with who is there and who will be gone.
func TestAdmit(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, keeper, server, _ := guarded(t, policy)
		carol, dave, erin, frank := w.device("carol"), w.device("dave"), w.device("erin"), w.device("frank")
		add := func(by *clienttest.Device, who *clienttest.Device) {
			t.Helper()
			p := w.keyPackage(who)
			w.in(by, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.AddMembers(ctx, p)
				return err
			})
			w.catchUp()
		}
		add(alice, carol)
		keeper.is(t, "chat 1: 1 carol by alice, with [alice bob], above [bob]")
		add(bob, dave)
		keeper.is(t, "chat 2: 1 dave by bob, with [alice bob carol], above [bob]")

		// A Remove that waits is taken off, and what is announced is not asked about twice.
		p := w.keyPackage(erin)
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			if _, err := c.ProposeRemove(ctx, "dave"); err != nil {
				return err
			}
			_, err := c.ProposeAdd(ctx, p)
			return err
		})
		w.catchUp()
		keeper.is(t, "chat 3: 1 erin by alice, with [alice bob carol], above [bob]")
		w.in(bob, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposeAdd(ctx, w.keyPackage(frank))
			return err
		})
		keeper.is(t, "chat 3: 1 frank by bob, with [alice bob carol], above [bob]")
		w.catchUp()
		w.in(carol, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
		w.catchUp()
		w.agree(alice, bob, carol, erin, frank)
		if len(keeper.asked) > 0 {
			t.Errorf("asked %+v", keeper.asked)
		}

		// From outside.
		grace, heidi := w.device("grace"), w.device("heidi")
		message, err := w.externalAdd(grace, 4, client.KeyPackageOptions{Suite: suite1})
		w.must(err)
		if _, err := w.give(bob, message); err != nil {
			t.Fatal(err)
		}
		keeper.is(t, "chat 4: 3 grace by , with [alice bob carol erin frank], above [bob]")
		k, err := mls.UnmarshalMLSMessage(w.keyPackage(heidi))
		w.must(err)
		message, err = mls.ProposeExternal(t.Context(), &mls.Env{Suites: pure.New()}, mls.ExternalProposalParams{
			Suite: suite1, GroupID: []byte(chat), Epoch: 4, Sender: mls.Sender{Type: mls.SenderExternal}, Signer: server, Proposal: &mls.Add{KeyPackage: k.KeyPackage},
		})
		w.must(err)
		if _, err := w.give(bob, message); err != nil {
			t.Fatal(err)
		}
		keeper.is(t, "chat 4: 2 heidi by wire-server, with [alice bob carol erin frank], above [bob]")
		w.do(heidi, func(ctx context.Context, tx *client.Transaction) error {
			info, err := alice.View(chat).GroupInfo(ctx)
			if err == nil {
				_, _, err = tx.JoinByExternalCommit(ctx, info, heidi.Join)
			}
			return err
		})
		w.must(bob.Link.Drain(t.Context(), chat))
		keeper.is(t, "chat 4: 4 heidi by , with [alice bob carol erin frank], above [bob]")
		w.catchUp()
		w.agree(alice, bob, heidi)

		// Once more, as who is in it.
		_, err = heidi.Rejoin(t.Context(), chat)
		w.must(err)
		w.must(bob.Link.Drain(t.Context(), chat))
		keeper.is(t, "chat 5: 4 heidi by , with [alice bob carol erin frank heidi], above [bob]")
	})
}

// ENG-7, XS-3: who is kept out is not let in by anything of ours, and nothing has changed.
func TestNotAdmitted(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w, alice, bob, keeper, _, store := guarded(t, policy)
		mallory := w.device("mallory")
		keeper.out = []core.ClientID{"mallory"}
		p := w.keyPackage(mallory)
		refused := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, client.ErrNotAdmitted) || !errors.Is(err, core.ErrDenied) || !errors.Is(err, errPolicy) || !client.Blames(err) {
				t.Errorf("%s: %v", what, err)
			}
			keeper.asked = nil
		}
		unchanged := func(what string, f func() error) {
			t.Helper()
			before := snapshot(t, store)
			refused(what, f())
			if !same(before, snapshot(t, store)) {
				t.Errorf("%s: the store has changed", what)
			}
		}
		for what, op := range map[string]func(ctx context.Context, c *client.Conversation) error{
			"add":     func(ctx context.Context, c *client.Conversation) error { _, err := c.AddMembers(ctx, p); return err },
			"propose": func(ctx context.Context, c *client.Conversation) error { _, err := c.ProposeAdd(ctx, p); return err },
			"stage": func(ctx context.Context, c *client.Conversation) error {
				_, err := c.StageCommit(ctx, client.Changes{Add: [][]byte{p}})
				return err
			},
		} {
			unchanged(what, func() error { return in(t.Context(), bob, op) })
		}
		message, err := w.externalAdd(mallory, 1, client.KeyPackageOptions{Suite: suite1})
		w.must(err)
		unchanged("proposes itself", func() error { _, err := w.give(bob, message); return err })

		// A staged commit, of which the policy changes its mind.
		bob.Link.Before = func(string) error { return errors.New("not now") }
		keeper.out = nil
		w.in(bob, func(ctx context.Context, c *client.Conversation) error {
			if _, err := c.Send(ctx, []byte("before it"), nil); err != nil {
				return err
			}
			_, err := c.StageCommit(ctx, client.Changes{Add: [][]byte{p}})
			return err
		})
		keeper.out = []core.ClientID{"mallory"}
		bob.Link.Before = nil
		w.must(bob.Settle(t.Context(), chat))
		failed := eventsOf[client.CommitFailed](bob)
		if len(failed) != 1 {
			t.Fatalf("%+v", failed)
		}
		refused("at its turn", failed[0].Err)
		w.catchUp()
		w.agree(alice, bob)

		// What has happened all the same: the others go on, and we are told.
		n := len(w.service.Log(chat))
		w.in(alice, func(ctx context.Context, c *client.Conversation) error { _, err := c.AddMembers(ctx, p); return err })
		bob.Events()
		unchanged("a commit", func() error { _, err := w.give(bob, w.since(n)[0]); return err })
		if lost := eventsOf[client.OutOfSync](bob); len(lost) != 1 || lost[0].Epoch != 1 {
			t.Errorf("events %+v", lost)
		}
		keeper.out = nil
		if _, err := w.give(bob, w.since(n)[0]); err != nil { // after all
			t.Fatal(err)
		}
		w.agree(alice, bob)
		keeper.out = []core.ClientID{"mallory"}
		n = len(w.service.Log(chat))
		_, err = alice.Rejoin(t.Context(), chat) // anybody else may
		w.must(err)
		if _, err := w.give(bob, w.since(n)[0]); err != nil {
			t.Fatal(err)
		}
		n = len(w.service.Log(chat))
		w.must(mallory.Welcomes(t.Context()))
		w.must(mallory.Link.Drain(t.Context(), chat))
		_, err = mallory.Rejoin(t.Context(), chat)
		w.must(err)
		unchanged("an external commit", func() error { _, err := w.give(bob, w.since(n)[0]); return err })
	})
}

// A policy that cannot tell now costs no message.
func TestAdmitCannotTell(t *testing.T) {
	t.Parallel()
	w, alice, bob, _, _, store := guarded(t, mls.DefaultConfig)
	w.must(bob.Close(t.Context()))
	cfg := config()
	down := true
	cfg.Admit = func(context.Context, client.Admission) error {
		if down {
			return core.ErrUnavailable
		}
		return nil
	}
	bob = clienttest.NewDevice(t, w.service, "bob", store, cfg)
	p := w.keyPackage(w.device("carol"))
	w.in(alice, func(ctx context.Context, c *client.Conversation) error { _, err := c.AddMembers(ctx, p); return err })
	if err := bob.Link.Drain(t.Context(), chat); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("drained with %v", err)
	}
	down = false
	w.must(bob.Link.Drain(t.Context(), chat))
	w.agree(alice, bob)
}

// ENG-7: a Welcome can be looked at before it is taken: who aborts is where it was, with
// its key package.
func TestWelcomeIsLookedAt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	ks := memory.New()
	bob := w.deviceOn("bob", ks, config())
	w.create(alice)
	p := w.keyPackage(bob)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error { _, err := c.AddMembers(ctx, p); return err })
	welcome, ok := w.service.Welcome("bob")
	if !ok {
		t.Fatal("no Welcome")
	}
	before := snapshot(t, ks)
	take := func(decide func(members []core.ClientID) error) error {
		return bob.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.ProcessWelcome(ctx, welcome.Message, bob.Join)
			if err != nil {
				return err
			}
			members, err := c.ClientIDs(ctx)
			return errors.Join(err, decide(members))
		})
	}
	if err := take(func(members []core.ClientID) error {
		if !slices.Equal(members, []core.ClientID{"alice", "bob"}) {
			t.Errorf("with %v", members)
		}
		return errPolicy
	}); !errors.Is(err, errPolicy) {
		t.Fatal(err)
	}
	if !same(before, snapshot(t, ks)) || w.keyPackages(bob) != 1 {
		t.Error("something has changed")
	}
	w.must(take(func([]core.ClientID) error { return nil }))
	w.agree(alice, bob)
}
