// SPDX-License-Identifier: Apache-2.0

package messenger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

func ExampleName() {
	fmt.Println(messenger.Name("friends-1f6b09c2"), messenger.Name("friends"))
	// Output: friends friends
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestConversation(t *testing.T) {
	all := people(t, "alice", "bob", "carol")
	alice, bob, carol := all[0], all[1], all[2]
	id, err := alice.Create(t.Context(), "friends")
	must(t, err)
	must(t, alice.Add(t.Context(), "friends", "bob", "carol"))
	must(t, alice.Send(t.Context(), "friends", []byte("hello")))
	same(t, "bob", bob.reads("friends"), "joined", "text alice hello")
	same(t, "bob, again", bob.reads("friends"))
	must(t, bob.Send(t.Context(), string(id), []byte("hi")))
	same(t, "alice", alice.reads("friends"), "text bob hi")
	must(t, alice.Remove(t.Context(), "friends", "bob"))
	must(t, alice.Send(t.Context(), "friends", []byte("without bob")))
	same(t, "carol", carol.reads("friends"), "joined", "text alice hello", "text bob hi", "changed alice", "text alice without bob")
	must(t, carol.Update(t.Context(), "friends"))
	agree(t, string(id), alice, carol)
	same(t, "bob, removed", bob.reads("friends"), "left alice")
	if err := bob.Send(t.Context(), "friends", []byte("me too")); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("bob sends: %v", err)
	}
	if list, err := bob.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("bob has %v, %v", list, err)
	}
}

func TestWhoCanBeAddedAndRemoved(t *testing.T) {
	all := people(t, "alice", "bob", "carol")
	alice, bob, carol := all[0], all[1], all[2]
	conversation(t, "friends", all[:2])
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"add nobody known":  {alice.Add(t.Context(), "friends", "mallory"), core.ErrNotFound},
		"add a member":      {alice.Add(t.Context(), "friends", "bob"), core.ErrInvalid},
		"add twice":         {alice.Add(t.Context(), "friends", "carol", "carol"), core.ErrInvalid},
		"remove a stranger": {alice.Remove(t.Context(), "friends", "carol"), core.ErrNotFound},
		"remove oneself":    {alice.Remove(t.Context(), "friends", "alice"), core.ErrInvalid},
		"add elsewhere":     {alice.Add(t.Context(), "enemies", "carol"), core.ErrNotFound},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
	// A service, or carol, that hands out bob's key package as carol's.
	bobs, err := alice.service.Claim(t.Context(), "bob")
	must(t, err)
	must(t, carol.SignIn(t.Context()))
	if _, err := carol.service.Replace(t.Context(), [][]byte{bobs}, nil); err != nil {
		t.Fatal(err)
	}
	if err := alice.Add(t.Context(), "friends", "carol"); !errors.Is(err, core.ErrDenied) {
		t.Errorf("bob's key package for carol: %v", err)
	}
	if s, err := bob.Status(t.Context(), "friends"); err != nil || s.Epoch != 1 {
		t.Errorf("epoch %d, %v", s.Epoch, err)
	}
}

func TestNames(t *testing.T) {
	alice := people(t, "alice")[0]
	first, err := alice.Create(t.Context(), "friends")
	must(t, err)
	if _, err := alice.Status(t.Context(), "friends"); err != nil {
		t.Error(err)
	}
	second, err := alice.Create(t.Context(), "friends")
	must(t, err)
	if first == second || messenger.Name(first) != "friends" {
		t.Errorf("ids %q and %q", first, second)
	}
	if _, err := alice.Status(t.Context(), "friends"); !errors.Is(err, core.ErrInvalid) || !strings.Contains(err.Error(), string(second)) {
		t.Errorf("a name that two have: %v", err)
	}
	if s, err := alice.Status(t.Context(), string(second)); err != nil || s.ID != second {
		t.Errorf("by id: %v, %v", s.ID, err)
	}
	for _, bad := range []string{"", "-x", "two words", strings.Repeat("x", 65), "a\x1b[31m"} {
		if _, err := alice.Create(t.Context(), bad); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Removed and added again without having seen either, and in one go.
func TestAddedAgain(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	for round := range 2 {
		must(t, alice.Send(t.Context(), id, []byte("before")))
		must(t, alice.Remove(t.Context(), id, "bob"))
		must(t, alice.Send(t.Context(), id, []byte("not for bob")))
		must(t, alice.Add(t.Context(), id, "bob"))
		must(t, alice.Send(t.Context(), id, []byte("after")))
		if round == 1 { // the log is read before the inbox
			must(t, bob.transport.Drain(t.Context(), core.ConversationID(id)))
		}
		same(t, "bob", bob.reads(id), "text alice before", "left alice, past", "joined", "text alice after")
		agree(t, id, alice, bob)
	}
}

func TestLeave(t *testing.T) {
	all := people(t, "alice", "bob", "carol")
	alice, bob, carol := all[0], all[1], all[2]
	id := conversation(t, "friends", all)
	if gone, err := bob.Leave(t.Context(), id); gone || err != nil {
		t.Fatalf("leave: %v, %v", gone, err)
	}
	if s, err := bob.Status(t.Context(), id); err != nil || !s.Leaving {
		t.Errorf("leaving %v, %v", s.Leaving, err)
	}
	if err := bob.Send(t.Context(), id, []byte("bye")); !errors.Is(err, messenger.ErrLeaving) {
		t.Errorf("send after leaving: %v", err)
	}
	must(t, carol.Send(t.Context(), id, []byte("bob?"))) // commits first
	agree(t, id, alice, carol)
	same(t, "bob", bob.reads(id), "left carol, left: bob")
	same(t, "alice", alice.reads(id), "changed carol, left: bob", "text carol bob?")
	same(t, "carol", carol.reads(id), "changed carol, left: bob")
	if _, err := bob.Status(t.Context(), id); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("bob still has it: %v", err)
	}
	must(t, alice.Remove(t.Context(), id, "carol"))
	must(t, carol.Sync(t.Context()))
	must(t, carol.Join(t.Context(), core.ConversationID(id))) // that she was out is past
	same(t, "carol", carol.reads(id), "left alice, past")
	must(t, alice.Remove(t.Context(), id, "carol"))
	if gone, err := alice.Leave(t.Context(), id); !gone || err != nil {
		t.Errorf("the last one leaves: %v, %v", gone, err)
	}
}

// A commit that overtakes the proposal to leave: it is made again.
func TestLeaveAgain(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	must(t, alice.Sync(t.Context()))                      // who has read nothing does not commit twice
	alice.network.set(failing("GET", "/v1/groups/"), nil) // alice does not see the proposal
	_, err := bob.Leave(t.Context(), id)
	must(t, err)
	err = alice.client.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, core.ConversationID(id))
		if err != nil {
			return err
		}
		_, err = c.UpdateKeyMaterial(ctx)
		return err
	})
	must(t, err)
	alice.network.set(nil, nil)
	must(t, bob.Sync(t.Context()))
	must(t, alice.Sync(t.Context()))
	same(t, "bob", bob.reads(id), "changed alice", "left alice, left: bob")
	agree(t, id, alice)
}

// Who proposed to leave, in vain, and is removed in a later epoch has not left.
func TestRemovedAfterProposing(t *testing.T) {
	all := people(t, "alice", "bob", "carol")
	alice, bob, carol := all[0], all[1], all[2]
	id := conversation(t, "friends", all)
	must(t, alice.Sync(t.Context()))                      // who has read nothing does not commit twice
	alice.network.set(failing("GET", "/v1/groups/"), nil) // alice does not see the proposal
	_, err := bob.Leave(t.Context(), id)
	must(t, err)
	carol.network.set(failing("POST", "/v1/groups/"), nil) // carol sees it, and cannot commit it
	if err := carol.Sync(t.Context()); err == nil {
		t.Error("carol has committed")
	}
	for _, changes := range []client.Changes{{Update: true}, {Remove: []core.ClientID{"bob"}}} {
		err := alice.client.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.Conversation(ctx, core.ConversationID(id))
			if err != nil {
				return err
			}
			_, err = c.Commit(ctx, changes)
			return err
		})
		must(t, err)
	}
	alice.network.set(nil, nil)
	carol.network.set(nil, nil)
	same(t, "carol", carol.reads(id), "changed alice", "changed alice")
}

func TestJoinAndRotate(t *testing.T) {
	all := people(t, "alice", "bob", "bob-phone")
	alice, bob, phone := all[0], all[1], all[2]
	id := conversation(t, "friends", all[:2])
	must(t, phone.Join(t.Context(), core.ConversationID(id)))
	agree(t, id, alice, bob, phone)
	same(t, "alice", alice.reads(id), "changed bob-phone")
	must(t, phone.Join(t.Context(), core.ConversationID(id))) // again: replaces its leaf
	agree(t, id, alice, bob, phone)
	if err := phone.Join(t.Context(), "unheard-00000000"); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("join what is not there: %v", err)
	}

	key := func() []byte {
		var k []byte
		must(t, bob.client.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) (err error) {
			k, err = tx.ClientPublicKey(ctx, 1, core.CredentialBasic)
			return err
		}))
		return k
	}
	before := key()
	old, err := alice.service.Claim(t.Context(), "bob")
	must(t, err)
	done, err := bob.Rotate(t.Context())
	must(t, err)
	if len(done) != 1 || done[0].Err != nil || string(done[0].ID) != id || done[0].Epoch != 4 {
		t.Errorf("rotation %+v", done)
	}
	if after := key(); bytes.Equal(before, after) || !bytes.Contains(old, before) {
		t.Errorf("the key was %x and is %x", before, after)
	}
	if own, err := bob.client.Credentials(t.Context(), client.CredentialFilter{}); err != nil || len(own) != 1 {
		t.Errorf("the old credential stays, with its key: %+v %v", own, err)
	}
	for {
		k, err := alice.service.Claim(t.Context(), "bob")
		must(t, err)
		if bytes.Contains(k, before) {
			t.Fatal("a key package with the old key is handed out")
		}
		if n, err := bob.service.Count(t.Context()); err != nil || n == 0 {
			must(t, err)
			break
		}
	}
	agree(t, id, alice, bob, phone)
}

func TestFollow(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := make(chan string, 10)
	followed := make(chan error, 1)
	go func() {
		followed <- bob.Follow(ctx, id, func(_ core.ConversationID, i messenger.Item) error {
			got <- string(i.Kind) + string(i.Text)
			return nil
		})
	}()
	must(t, alice.Send(t.Context(), id, []byte("one")))
	if s := <-got; s != "textone" {
		t.Errorf("got %q", s)
	}
	must(t, alice.Send(t.Context(), id, []byte("two")))
	if s := <-got; s != "texttwo" {
		t.Errorf("got %q", s)
	}
	must(t, alice.Remove(t.Context(), id, "bob"))
	if s := <-got; s != "left" {
		t.Errorf("got %q", s)
	}
	if err := <-followed; err != nil { // it ends by itself
		t.Error(err)
	}
}
