// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// absent wants ErrConversationNotFound of whatever needs a conversation.
func (w *world) absent(d *clienttest.Device) {
	w.Helper()
	w.triesIn(d, client.ErrConversationNotFound, func(context.Context, *client.Conversation) error { return nil })
}

// invites has alice add bob, whose Welcome is returned and not processed.
func (w *world) invites(alice, bob *clienttest.Device) []byte {
	w.Helper()
	k := w.keyPackage(bob)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error { _, err := c.AddMembers(ctx, k); return err })
	welcome, ok := w.service.Welcome(bob.Link.ID)
	if !ok {
		w.Fatal("no Welcome")
	}
	w.service.TakeWelcome(bob.Link.ID)
	return welcome.Message
}

func methodDecrypt(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		alice, bob := w.pair()
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.Send(ctx, []byte("hello"), []byte("in clear"))
			return err
		})
		text, ok := w.gives(bob, w.last()).(*client.Text)
		if !ok || text.Sender != "alice" || text.Epoch != 1 || string(text.Data) != "hello" || string(text.AuthenticatedData) != "in clear" {
			t.Errorf("%+v", text)
		}
		p := w.propose(alice)
		proposal, ok := w.gives(bob, w.last()).(*client.ProposalResult)
		if !ok || !bytes.Equal(proposal.Ref, p.Ref) || proposal.Sender.Leaf != 0 || proposal.Delay == nil {
			t.Errorf("%+v", proposal)
		}
		w.update(alice)
		commit := w.last()
		w.send(alice, "next")
		if b, ok := w.gives(bob, w.last()).(*client.Buffered); !ok || b.Reason != client.FutureEpoch || b.Epoch != 2 {
			t.Errorf("%+v", b)
		}
		c, ok := w.gives(bob, commit).(*client.CommitResult)
		if !ok || c.Epoch != 2 || c.Own || c.Committer != "alice" || !c.Active || !slices.Equal(textsOf(c), []string{"next"}) {
			t.Errorf("%+v", c)
		}
		foreign := slices.Clone(commit)
		foreign[bytes.Index(foreign, []byte(chat))] ^= 1
		for what, c := range map[string]struct {
			message []byte
			want    error
		}{
			"nothing": {nil, mls.ErrMalformed}, "noise": {[]byte("noise"), mls.ErrMalformed}, "too short": {commit[:40], mls.ErrMalformed},
			"a key package": {w.keyPackage(alice), mls.ErrMalformed}, "of another group": {foreign, mls.ErrWrongGroup},
		} {
			if _, err := w.give(bob, c.message); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", what, err, c.want)
			}
		}
		if _, err := w.give(w.device("carol"), commit); !errors.Is(err, client.ErrConversationNotFound) {
			t.Errorf("not in the conversation: %v", err)
		}
	})
}

func methodExport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	ask := func(d *clienttest.Device, n int) (s core.Secret) {
		w.in(d, func(ctx context.Context, c *client.Conversation) (err error) {
			s, err = c.ExportSecret(ctx, n)
			return err
		})
		return s
	}
	first := ask(alice, 32)
	if !first.Equal(ask(bob, 32)) || first.Len() != 32 || ask(alice, 0).Len() != 0 {
		t.Error("members do not share the secret")
	}
	w.update(alice)
	if ask(alice, 32).Equal(first) {
		t.Error("the next epoch has the same secret")
	}
	w.triesIn(alice, core.ErrTooLarge, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.ExportSecret(ctx, 1<<16)
		return err
	})
	w.absent(w.device("carol"))
}

func methodClientIDs(t *testing.T) {
	t.Parallel()
	w, alice, _, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		if _, err := c.ProposeRemove(ctx, "bob"); err != nil { // does not count yet
			return err
		}
		ids, err := c.ClientIDs(ctx)
		if !slices.Equal(ids, []core.ClientID{"alice", "bob", "carol"}) {
			t.Errorf("%q", ids)
		}
		return err
	})
}

func methodClearProposal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	up := down(alice)
	p := w.propose(alice)
	w.triesIn(alice, mls.ErrPendingProposals, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Encrypt(ctx, []byte("x"), nil)
		return err
	})
	clear := func(ctx context.Context, c *client.Conversation) error { return c.ClearPendingProposal(ctx, p.Ref) }
	w.triesIn(alice, nil, clear)
	w.triesIn(alice, core.ErrNotFound, clear)
	up()
	w.send(alice, "free again")
	w.must(alice.Settle(t.Context(), chat))
	w.must(bob.Link.Drain(t.Context(), chat))
	if texts := bob.Texts(); !slices.Contains(texts, "free again") {
		t.Errorf("bob read %q", texts)
	}
}

func methodRawWelcome(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	welcome := w.invites(alice, bob)
	process := func(message []byte, want error) {
		t.Helper()
		w.tries(bob, want, func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.ProcessWelcome(ctx, message, client.JoinConfig{})
			if err == nil && c.ID() != chat {
				t.Errorf("joined %q", c.ID())
			}
			return err
		})
	}
	process(nil, mls.ErrMalformed)
	process([]byte("noise"), mls.ErrMalformed)
	process(welcome[:len(welcome)-1], mls.ErrMalformed)
	process(w.last(), mls.ErrMalformed) // a commit
	process(welcome, nil)
	w.agree(alice, bob)
}

func methodWelcome(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob, carol := w.device("alice"), w.device("bob"), w.device("carol")
	w.create(alice)
	welcome := w.invites(alice, bob)
	own := private
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.ProcessWelcome(ctx, welcome, client.JoinConfig{Group: own})
		if err != nil {
			return err
		}
		if i, err := c.Info(ctx); err != nil || i.Config != own || i.Suite != suite1 || i.Epoch != 1 {
			t.Errorf("%+v, %v", i, err)
		}
		return nil
	})
	w.tries(bob, client.ErrOrphanWelcome, func(ctx context.Context, tx *client.Transaction) error { // used up
		_, err := tx.ProcessWelcome(ctx, welcome, client.JoinConfig{})
		return err
	})
	w.tries(carol, client.ErrOrphanWelcome, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.ProcessWelcome(ctx, welcome, client.JoinConfig{})
		return err
	})
	w.create(carol)
	second := w.invites(alice, carol)
	w.tries(carol, client.ErrConversationExists, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.ProcessWelcome(ctx, second, client.JoinConfig{})
		return err
	})
}

func methodWipe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	calls := 0
	bob.Link.Before = func(string) error { calls++; return nil }
	wipe(w, bob, chat)
	w.absent(bob)
	if left := eventsOf[client.Left](bob); len(left) != 1 || calls != 0 {
		t.Errorf("%d events, %d calls of the service", len(left), calls)
	}
	if ids, err := alice.ClientIDs(t.Context(), chat); err != nil || len(ids) != 2 {
		t.Errorf("the others see %q, %v", ids, err)
	}
	w.create(bob)
}

func methodConversation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, _ := w.pair()
	w.in(alice, func(_ context.Context, c *client.Conversation) error {
		if c.ID() != chat {
			t.Errorf("%q", c.ID())
		}
		return nil
	})
	w.absent(w.device("carol"))
	w.tries(alice, core.ErrInvalid, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.Conversation(ctx, "")
		return err
	})
}

func methodChild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, _ := w.pair()
	mark := func(ctx context.Context, c *client.Conversation) error { return c.SetParent(ctx, "parent") }
	w.triesIn(alice, client.ErrConversationNotFound, mark)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error { // a parent of this transaction
		if _, err := tx.NewConversation(ctx, "parent", client.ConversationConfig{}); err != nil {
			return err
		}
		c, err := tx.Conversation(ctx, chat)
		return errors.Join(err, mark(ctx, c))
	})
	w.triesIn(alice, nil, mark)
	if parent, err := alice.View(chat).Parent(t.Context()); parent != "parent" || err != nil {
		t.Errorf("%q, %v", parent, err)
	}
}

func methodJoin(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		alice, bob := w.pair()
		dave := w.device("dave")
		info, err := w.service.GroupInfo(chat)
		w.must(err)
		join := func(info []byte, cfg client.JoinConfig, want error) {
			t.Helper()
			w.tries(dave, want, func(ctx context.Context, tx *client.Transaction) error {
				c, r, err := tx.JoinByExternalCommit(ctx, info, cfg)
				if err == nil && (c.ID() != chat || r.Epoch != 2 || !r.Own || !slices.Equal(r.Added, []core.ClientID{"dave"})) {
					t.Errorf("%+v", r)
				}
				return err
			})
		}
		join([]byte("noise"), client.JoinConfig{}, mls.ErrMalformed)
		join(w.last(), client.JoinConfig{}, mls.ErrMalformed)
		forged := slices.Clone(info)
		forged[len(forged)-1] ^= 1
		join(forged, client.JoinConfig{}, core.ErrInvalid)
		join(info, client.JoinConfig{Credential: core.CredentialX509}, client.ErrEnrollmentNotDone)
		if ids, err := dave.Conversations(t.Context()); err != nil || len(ids) != 0 {
			t.Errorf("%q, %v", ids, err)
		}
		join(info, client.JoinConfig{Group: w.policy}, nil)
		w.catchUp()
		w.agree(alice, bob, dave)
	})
}

func methodProposeAdd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	now := time.Now()
	alice, bob := w.pair()
	carol := w.at("carol", &now)
	k := w.keyPackage(carol)
	now = now.Add(-100 * 24 * time.Hour)
	expired := w.keyPackage(carol)
	add := func(k []byte, want error) {
		t.Helper()
		w.triesIn(alice, want, func(ctx context.Context, c *client.Conversation) error {
			p, err := c.ProposeAdd(ctx, k)
			if err == nil && (len(p.Ref) == 0 || len(p.Message) == 0) {
				t.Errorf("%+v", p)
			}
			return err
		})
	}
	add([]byte("noise"), mls.ErrMalformed)
	add(w.last(), mls.ErrMalformed)
	add(expired, core.ErrInvalid)
	forged := slices.Clone(k)
	forged[len(forged)-1] ^= 1
	add(forged, core.ErrInvalid)
	add(k, nil)
	w.triesIn(alice, mls.ErrPendingProposals, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Send(ctx, []byte("x"), nil)
		return err
	})
	r := w.gives(bob, w.last())
	if p, ok := r.(*client.ProposalResult); !ok || p.Proposal.Type() != mls.ProposalAdd {
		t.Errorf("%+v", r)
	}
}

func methodProposeRemove(t *testing.T) {
	t.Parallel()
	w, alice, bob, _ := trio(t, mls.DefaultConfig, clienttest.Options{})
	w.triesIn(alice, client.ErrClientNotFound, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.ProposeRemove(ctx, "nobody")
		return err
	})
	w.triesIn(alice, nil, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.ProposeRemove(ctx, "carol")
		return err
	})
	r := w.gives(bob, w.last())
	p, ok := r.(*client.ProposalResult)
	if !ok || p.Proposal.(*mls.Remove).Removed != 2 {
		t.Errorf("%+v", r)
	}
}

func methodProposeUpdate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	p := w.propose(alice)
	r, ok := w.gives(bob, w.last()).(*client.ProposalResult)
	if !ok || !bytes.Equal(r.Ref, p.Ref) || r.Proposal.Type() != mls.ProposalUpdate {
		t.Errorf("%+v", r)
	}
	w.in(bob, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.CommitPendingProposals(ctx)
		return err
	})
	w.catchUp()
	w.agree(alice, bob)
	w.triesIn(alice, client.ErrCredentialNotFound, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.ProposeUpdate(ctx, 99)
		return err
	})
	// While a commit of ours waits, nothing is proposed.
	alice.Link.Before = func(string) error { return errNetwork }
	w.triesIn(alice, core.ErrUnknownOutcome, update)
	err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error { _, err := c.ProposeUpdate(ctx, 0); return err })
	if !errors.Is(err, core.ErrConflict) && !errors.Is(err, core.ErrUnknownOutcome) {
		t.Errorf("behind a commit that waits: %v", err)
	}
}

func methodNewConversation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	create := func(id core.ConversationID, cfg client.ConversationConfig, want error) {
		t.Helper()
		w.tries(alice, want, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.NewConversation(ctx, id, cfg)
			return err
		})
	}
	create("", client.ConversationConfig{}, core.ErrInvalid)
	create(chat, client.ConversationConfig{Suite: 0xfefe}, core.ErrUnsupported)
	create(chat, client.ConversationConfig{Credential: core.CredentialX509}, client.ErrEnrollmentNotDone)
	create(chat, client.ConversationConfig{Suite: 2, Group: private}, nil) // a credential is made on demand
	create(chat, client.ConversationConfig{}, client.ErrConversationExists)
	i := w.info(alice)
	if i.Epoch != 0 || i.Suite != 2 || i.Config != private {
		t.Errorf("%+v", i)
	}
	if ids, err := alice.ClientIDs(t.Context(), chat); err != nil || !slices.Equal(ids, []core.ClientID{"alice"}) {
		t.Errorf("%q, %v", ids, err)
	}
	bob := w.nobody(memory.New())
	w.tries(bob, client.ErrNotInitialized, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{})
		return err
	})
}

func methodExists(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	ask := func(want bool) {
		t.Helper()
		w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
			there, err := tx.ConversationExists(ctx, chat)
			if there != want {
				t.Errorf("exists: %v", there)
			}
			return err
		})
	}
	ask(false)
	w.create(alice)
	ask(true)
	wipe(w, alice, chat)
	ask(false)
}

func methodEpoch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, _ := w.pair()
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		for want := uint64(1); want < 3; want++ {
			if epoch, err := c.Epoch(ctx); epoch != want || err != nil {
				t.Errorf("epoch %d, %v; want %d", epoch, err, want)
			}
			if err := update(ctx, c); err != nil {
				return err
			}
		}
		return nil
	})
	w.absent(w.device("carol"))
}

func methodSuite(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.suites("alice", 1, 2, 3, 5, 7)
	for _, suite := range []core.SuiteID{1, 2, 3, 5, 7} {
		w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.NewConversation(ctx, core.ConversationID(suite.String()), client.ConversationConfig{Suite: suite})
			if err != nil {
				return err
			}
			if got, err := c.Suite(ctx); got != suite || err != nil {
				t.Errorf("suite %v, %v; want %v", got, err, suite)
			}
			return nil
		})
	}
}

func methodRotate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.pair()
	w.propose(bob)
	w.must(alice.Link.Drain(t.Context(), chat))
	w.triesIn(alice, client.ErrEnrollmentNotDone, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Rotate(ctx, core.CredentialX509)
		return err
	})
	first, newest := w.fresh(alice), w.fresh(alice)
	w.in(alice, rotate) // covers what waits
	w.catchUp()
	w.agree(alice, bob)
	if !bytes.Equal(w.signsWith(bob, "alice"), newest.SignatureKey) {
		t.Error("it is not the newest that is in use")
	}
	w.triesIn(alice, client.ErrCredentialNotFound, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.SetCredential(ctx, 99)
		return err
	})
	w.triesIn(alice, nil, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.SetCredential(ctx, first.Ref)
		return err
	})
	w.catchUp()
	w.agree(alice, bob)
	if !bytes.Equal(w.signsWith(bob, "alice"), first.SignatureKey) {
		t.Error("it is not the one that was named")
	}
}
