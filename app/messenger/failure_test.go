// SPDX-License-Identifier: Apache-2.0

package messenger_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

func everything(*http.Request) error { return errNetwork }

func TestRegisterAgain(t *testing.T) {
	all := people(t, "alice", "bob")
	alice := all[0]
	if err := alice.Register(t.Context(), "bob"); !errors.Is(err, core.ErrConflict) {
		t.Errorf("as somebody else: %v", err)
	}
	must(t, alice.Register(t.Context(), "alice"))
	if n, err := alice.service.Count(t.Context()); err != nil || n != 20 {
		t.Errorf("%d key packages, %v", n, err)
	}
}

// Whether the request or the answer gets lost: a text arrives once.
func TestTextArrivesOnce(t *testing.T) {
	for name, lose := range map[string]func(*network, func(*http.Request) error){
		"request": func(n *network, f func(*http.Request) error) { n.set(f, nil) },
		"answer":  func(n *network, f func(*http.Request) error) { n.set(nil, f) },
	} {
		t.Run(name, func(t *testing.T) {
			all := people(t, "alice", "bob")
			alice, bob := all[0], all[1]
			id := conversation(t, "friends", all)
			lose(alice.network, failing("POST", "/v1/messages"))
			if err := alice.Send(t.Context(), id, []byte("hello")); !errors.Is(err, core.ErrUnavailable) || !errors.Is(err, messenger.ErrKept) {
				t.Errorf("send: %v", err)
			}
			alice.network.set(nil, nil)
			must(t, alice.Send(t.Context(), id, []byte("world")))
			same(t, "bob", bob.reads(id), "text alice hello", "text alice world")
		})
	}
}

// A text is kept also when nothing at all of the service can be reached.
func TestTextsOffline(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	alice.network.set(everything, nil)
	for _, text := range []string{"one", "two"} {
		if err := alice.Send(t.Context(), id, []byte(text)); !errors.Is(err, messenger.ErrKept) {
			t.Errorf("send %s: %v", text, err)
		}
	}
	if _, err := alice.Leave(t.Context(), id); !errors.Is(err, core.ErrUnavailable) || errors.Is(err, messenger.ErrKept) {
		t.Errorf("leave: %v", err)
	}
	if err := alice.Send(t.Context(), "enemies", nil); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("to no conversation: %v", err)
	}
	must(t, bob.Update(t.Context(), id))
	alice.network.set(nil, nil)
	must(t, alice.Sync(t.Context()))
	same(t, "bob", bob.reads(id), "text alice one", "text alice two")
	same(t, "bob, again", bob.reads(id))
}

// before runs f once, before a person's next text is on its way.
func (p *person) before(f func()) {
	var once sync.Once
	p.network.set(func(r *http.Request) error {
		if r.URL.Path == "/v1/messages" {
			once.Do(f)
		}
		return nil
	}, nil)
}

// Who is removed on the way hears that the text did not arrive.
func TestTextOfWhoWasRemoved(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	bob.before(func() { must(t, alice.Remove(t.Context(), id, "bob")) })
	err := bob.Send(t.Context(), id, []byte("hello"))
	if !errors.Is(err, messenger.ErrNotDelivered) || !errors.Is(err, core.ErrDenied) || errors.Is(err, messenger.ErrKept) {
		t.Errorf("send: %v", err)
	}
	same(t, "alice", alice.reads(id))
	same(t, "bob", bob.reads(id), "left alice")
}

// So does who is removed while another goroutine of the program has observers to tell of
// something, which are slow.
func TestTextOfWhoWasRemovedWhileOthersAreTold(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	told, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	defer bob.client.Observe(func(client.Event) { once.Do(func() { close(told); <-proceed }) })()
	created := make(chan error, 1)
	go func() {
		_, err := bob.Create(context.Background(), "other")
		created <- err
	}()
	<-told
	bob.before(func() { must(t, alice.Remove(t.Context(), id, "bob")) })
	if err := bob.Send(t.Context(), id, []byte("hello")); !errors.Is(err, messenger.ErrNotDelivered) {
		t.Errorf("send: %v", err)
	}
	close(proceed)
	must(t, <-created)
}

// So does who is removed while another process of the same store sends what waits.
func TestTextOfWhoWasRemovedByAnotherProcess(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	again := arriveOn(t, bob.address, "bob", bob.disk.Keystore, client.Refuse)
	var results []<-chan error
	send := func(p *person, text string) {
		result := make(chan error, 1)
		go func() { result <- p.Send(context.Background(), id, []byte(text)) }()
		results = append(results, result)
	}
	began, sending, proceed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var once sync.Once
	bob.disk.onApply(func() error { // he is about to write what the other is to send
		once.Do(func() { close(began); <-sending })
		return nil
	})
	again.before(func() { close(sending); <-proceed })
	send(bob, "second")
	<-began
	send(again, "first")
	<-sending
	for n := 0; n < 2; {
		var err error
		n, err = bob.client.Unsent(t.Context(), core.ConversationID(id))
		must(t, err)
	}
	must(t, alice.Remove(t.Context(), id, "bob"))
	close(proceed)
	for i, result := range results {
		if err := <-result; !errors.Is(err, messenger.ErrNotDelivered) {
			t.Errorf("text %d: %v", i, err)
		}
	}
	same(t, "alice", alice.reads(id))
}

// What has no room for what must be taken first is kept, and said to be.
func TestTextOfWhoIsFull(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	bob.before(func() {
		for range 10 {
			must(t, alice.Send(t.Context(), id, make([]byte, messenger.MaxText)))
		}
		must(t, alice.Update(t.Context(), id))
	})
	err := bob.Send(t.Context(), id, []byte("hello"))
	if !errors.Is(err, messenger.ErrKept) || !errors.Is(err, messenger.ErrFull) {
		t.Fatalf("send: %v", err)
	}
	for range 3 { // each makes room
		bob.reads(id)
	}
	same(t, "alice", alice.reads(id), "text bob hello")
}

// Whether the request or the answer gets lost: a commit counts, and the same one
// is resolved by the next verb.
func TestCommitOfUnknownOutcome(t *testing.T) {
	for name, lose := range map[string]func(*network, func(*http.Request) error){
		"request": func(n *network, f func(*http.Request) error) { n.set(f, nil) },
		"answer":  func(n *network, f func(*http.Request) error) { n.set(nil, f) },
	} {
		t.Run(name, func(t *testing.T) {
			all := people(t, "alice", "bob", "carol")
			alice := all[0]
			id := conversation(t, "friends", all[:2])
			lose(alice.network, failing("POST", "/v1/commits"))
			if err := alice.Add(t.Context(), id, "carol"); !errors.Is(err, core.ErrUnknownOutcome) {
				t.Errorf("add: %v", err)
			}
			alice.network.set(nil, nil)
			if s, err := alice.Status(t.Context(), id); err != nil || !s.PendingCommit || s.Epoch != 1 {
				t.Errorf("pending %v, epoch %d, %v", s.PendingCommit, s.Epoch, err)
			}
			must(t, alice.Sync(t.Context()))
			agree(t, id, all...)
		})
	}
}

// What the answer to a confirmation loses comes again, and has nothing new.
func TestConfirmationsLost(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id, err := alice.Create(t.Context(), "friends")
	must(t, err)
	must(t, alice.Add(t.Context(), string(id), "bob"))
	must(t, alice.Send(t.Context(), string(id), []byte("hello")))
	bob.network.set(failing("DELETE", "/v1/welcomes/"), nil)
	if err := bob.Sync(t.Context()); err == nil {
		t.Error("the confirmation of the Welcome was not sent")
	}
	bob.network.set(failing("POST", "/v1/groups/"), nil)
	if err := bob.Sync(t.Context()); err == nil {
		t.Error("the confirmation of the message was not sent")
	}
	bob.network.set(nil, nil)
	same(t, "bob", bob.reads(string(id)), "joined", "text alice hello")
	same(t, "bob, again", bob.reads(string(id)))
	bob.network.set(everything, nil)
	if err := bob.Sync(t.Context()); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("no network: %v", err)
	}
}

// What nobody can open is told and holds up nothing.
func TestGarbage(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	garbage := vlbytes.Append([]byte{0, 1, 0, 2}, []byte(id)) // a PrivateMessage of epoch 1
	garbage = append(garbage, 0, 0, 0, 0, 0, 0, 0, 1, 1)
	for _, field := range []string{"", "sender data", "ciphertext"} {
		garbage = vlbytes.Append(garbage, []byte(field))
	}
	answer, err := alice.service.SendMessage(t.Context(), []byte("key"), garbage)
	if err != nil || answer.Kind != client.Accepted {
		t.Fatal(err, answer.Refusal)
	}
	must(t, alice.Send(t.Context(), id, []byte("after")))
	same(t, "bob", bob.reads(id), "lost", "text alice after")
}

// What our side fails at, for whatever reason, costs no message.
func TestUnknownErrorKeepsMessage(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	must(t, alice.Send(t.Context(), id, []byte("hello")))
	unknown := errors.New("nobody knows what this means")
	bob.network.set(nil, func(r *http.Request) error {
		if strings.HasSuffix(r.URL.Path, "/log") {
			reads := 0
			bob.disk.set(func() error { // the first is of the note, the second for decryption
				if reads++; reads == 2 {
					return unknown
				}
				return nil
			})
		}
		return nil
	})
	if err := bob.Sync(t.Context()); !errors.Is(err, unknown) {
		t.Errorf("sync: %v", err)
	}
	bob.network.set(nil, nil)
	bob.disk.set(nil)
	same(t, "bob", bob.reads(id), "text alice hello")
}

// What is unread has its room; what does not fit waits at the service.
func TestUnreadFillsUp(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	const n, size = 10, messenger.MaxText
	for range n {
		must(t, alice.Send(t.Context(), id, []byte(strings.Repeat("x", size))))
	}
	if err := bob.Sync(t.Context()); !errors.Is(err, messenger.ErrFull) {
		t.Fatalf("sync: %v", err)
	}
	var read []int
	for len(read) < n {
		err := bob.Read(t.Context(), id, func(_ core.ConversationID, i messenger.Item) error {
			read = append(read, len(i.Text))
			return nil
		})
		if err != nil {
			t.Fatalf("after %d messages: %v", len(read), err)
		}
	}
	if want := slices.Repeat([]int{size}, n); !slices.Equal(read, want) {
		t.Errorf("read %v", read)
	}
}

func TestTextTooLong(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	text := make([]byte, messenger.MaxText+1)
	if err := alice.Send(t.Context(), id, text); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("send: %v", err)
	}
	must(t, alice.client.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, core.ConversationID(id))
		if err != nil {
			return err
		}
		_, err = c.Send(ctx, text, nil)
		return err
	}))
	same(t, "bob", bob.reads(id), "lost alice")
}

// Two processes that have fetched the same messages, the slower one last: it finds
// nothing new and nothing wrong.
func TestTwoReaders(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	var want []string
	for i := range 8 {
		text := string(rune('a' + i))
		must(t, alice.Send(t.Context(), id, []byte(text)))
		want = append(want, "text alice "+text)
	}
	fetched, fast := make(chan struct{}), make(chan struct{})
	first := true
	bob.network.set(nil, func(r *http.Request) error {
		if first && strings.HasSuffix(r.URL.Path, "/log") {
			first = false
			close(fetched)
			<-fast
		}
		return nil
	})
	slow := make(chan error, 1)
	go func() { slow <- bob.transport.Drain(t.Context(), core.ConversationID(id)) }()
	<-fetched
	bob.network.set(nil, nil)
	same(t, "the fast one", bob.reads(id), want...)
	close(fast)
	must(t, <-slow)
	same(t, "the slow one", bob.reads(id))
}

// What show did not take stays unread.
func TestShowFails(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	for _, text := range []string{"one", "two", "three"} {
		must(t, alice.Send(t.Context(), id, []byte(text)))
	}
	full := errors.New("the disk is full")
	shown := 0
	err := bob.Read(t.Context(), id, func(core.ConversationID, messenger.Item) error {
		if shown++; shown > 1 {
			return full
		}
		return nil
	})
	if !errors.Is(err, full) {
		t.Errorf("read: %v", err)
	}
	same(t, "bob", bob.reads(id), "text alice two", "text alice three")
}
