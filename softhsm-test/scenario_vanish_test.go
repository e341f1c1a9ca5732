// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/pure"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
	"github.com/conclave-mls/conclave/storage/memory"
)

// TestConversationWithoutToken: a token is taken away in the middle of a conversation.
// What needs it fails in time and by name, and has changed nothing; what does not need it
// goes on; and when the token is back everything does, in the same process.
func TestConversationWithoutToken(t *testing.T) {
	for _, kind := range kinds {
		for _, handshake := range []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate} {
			if kind.name == "nss" { // it has no way to vanish
				continue
			}
			t.Run(fmt.Sprintf("%s, handshake %d", kind.name, handshake), func(t *testing.T) {
				t.Parallel()
				withoutToken(t, kind.make(t), handshake)
			})
		}
	}
}

const (
	chat  = core.ConversationID("chat")
	suite = core.SuiteP256AES128P256
)

// A pair is alice, whose signature key is on a token, and bob.
type pair struct {
	*testing.T
	alice, bob *clienttest.Device
	store      *coretest.Faulty // alice's; it counts writes
}

func newPair(t *testing.T, keys core.CryptoProvider, handshake mls.HandshakePolicy) *pair {
	p := &pair{T: t, store: &coretest.Faulty{Keystore: memory.New()}}
	service := clienttest.NewService(clienttest.Options{})
	p.alice = clienttest.NewDevice(t, service, "alice", p.store, client.Config{Suites: pure.New(), Keys: keys})
	p.bob = clienttest.NewDevice(t, service, "bob", memory.New(), client.Config{Suites: pure.New(), Keys: pure.New()})
	group := mls.DefaultConfig
	group.Handshake = handshake
	group.MaxForward = 1 // a generation that is burnt is noticed
	for _, d := range []*clienttest.Device{p.alice, p.bob} {
		d.Join.Group = group
		d.Identify(t, suite)
	}
	p.alice.New.Suite = suite
	clienttest.Group(t, chat, p.alice, p.bob)
	return p
}

// onChat is an operation on the chat, and run makes it that of a transaction.
type onChat func(ctx context.Context, tx *client.Transaction, c *client.Conversation) error

func (f onChat) run(ctx context.Context, tx *client.Transaction) error {
	c, err := tx.Conversation(ctx, chat)
	if err != nil {
		return err
	}
	return f(ctx, tx, c)
}

// away does what needs the token, which is not there.
func (p *pair) away(what string, f onChat) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	defer cancel()
	begin := time.Now()
	err := p.alice.Transaction(ctx, f.run)
	if !errors.Is(err, hsm.ErrTokenUnavailable) || !errors.Is(err, core.ErrUnavailable) || errors.Is(err, core.ErrNotFound) || client.Blames(err) {
		p.Fatalf("%s without the token: %v", what, err)
	}
	if took := time.Since(begin); took > patience+2*time.Second {
		p.Errorf("%s without the token takes %v", what, took)
	}
}

func send(text string) onChat {
	return func(ctx context.Context, _ *client.Transaction, c *client.Conversation) error {
		_, err := c.Send(ctx, []byte(text), nil)
		return err
	}
}

func updateKeys(ctx context.Context, _ *client.Transaction, c *client.Conversation) error {
	_, err := c.UpdateKeyMaterial(ctx)
	return err
}

// hears checks what a device reads, and that it reads everything.
func (p *pair) hears(d *clienttest.Device, want ...string) {
	p.Helper()
	got := d.Hear(p, chat)
	if failed := d.Failed(); !slices.Equal(got, want) || len(failed) > 0 {
		p.Fatalf("%s reads %q, not %q; failed: %v", d.Link.ID, got, want, failed)
	}
}

// do runs f on the chat; try again is what a token that has just come back may want.
func (p *pair) do(d *clienttest.Device, f onChat) {
	p.Helper()
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := d.Transaction(p.Context(), f.run)
		if err == nil {
			return
		}
		if !errors.Is(err, core.ErrUnavailable) || time.Since(begin) > 40*time.Second {
			p.Fatal(err)
		}
	}
}

func withoutToken(t *testing.T, k *softhsmtest.Token, handshake mls.HandshakePolicy) {
	token := open(t, k.URI())
	p := newPair(t, token.Provider(), handshake)
	p.alice.Say(t, chat, "before")
	p.hears(p.bob, "before")

	k.Remove(t)
	writes := p.store.Applies()
	for range 5 {
		p.away("a message", send("lost"))
	}
	p.away("a commit", updateKeys)
	p.away("key packages", func(ctx context.Context, tx *client.Transaction, _ *client.Conversation) error {
		_, err := tx.NewKeyPackages(ctx, suite, core.CredentialBasic, 1)
		return err
	})
	if n := p.store.Applies() - writes; n != 0 {
		t.Errorf("what failed was written %d times", n)
	}
	p.away("a signature key", func(ctx context.Context, tx *client.Transaction, _ *client.Conversation) error {
		_, err := tx.NewCredential(ctx, suite)
		return err
	})
	if pending, err := p.alice.View(chat).HasPendingCommit(t.Context()); pending || err != nil {
		t.Errorf("a commit that failed is pending: %v, %v", pending, err)
	}

	// Reading needs no signature.
	p.bob.Say(t, chat, "meanwhile")
	p.do(p.bob, updateKeys)
	p.hears(p.bob)
	p.hears(p.alice, "meanwhile")
	k.Restore(t)
	p.do(p.alice, send("after"))
	p.hears(p.bob, "after")

	// What waits to be sent is too old after two commits, and has to be signed again.
	p.alice.Link.SetOffline(true)
	p.alice.Say(t, chat, "waits")
	k.Remove(t)
	for range 2 {
		p.do(p.bob, updateKeys)
		p.hears(p.bob)
	}
	p.alice.Link.SetOffline(false)
	p.hears(p.alice)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.alice.Settle(ctx, chat); !errors.Is(err, hsm.ErrTokenUnavailable) {
		t.Errorf("what waits cannot be signed: %v", err)
	}
	if n, err := p.alice.Unsent(t.Context(), chat); n != 1 || err != nil {
		t.Errorf("%d messages wait: %v", n, err)
	}
	p.hears(p.bob)
	k.Restore(t)
	p.do(p.alice, send("later"))
	if err := p.alice.Settle(t.Context(), chat); err != nil {
		t.Error(err)
	}
	p.hears(p.bob, "waits", "later")
	p.do(p.alice, updateKeys)
	p.do(p.alice, rotate(suite))
	p.alice.Say(t, chat, "with a new key")
	p.hears(p.bob, "with a new key")
	for _, e := range p.alice.Events() {
		if lost, is := e.(client.Undelivered); is {
			t.Errorf("lost: %+v", lost)
		}
	}

	// The key that could not be made is in the journal, and on no token.
	if err := p.alice.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := clienttest.NewDevice(t, p.alice.Link.Service, "alice", p.store, client.Config{Suites: pure.New(), Keys: token.Provider()})
	if n := strings.Count(tool(t, k, "--list-objects", "--type", "privkey"), "ID:"); n != 1 {
		t.Errorf("the token has %d keys", n)
	}
	again.Say(t, chat, "opened again")
	p.hears(p.bob, "opened again")

	// Bob would have noticed generations that are missing.
	p.do(again, func(ctx context.Context, _ *client.Transaction, c *client.Conversation) error {
		for range 3 {
			if _, err := c.Encrypt(ctx, []byte("not sent"), nil); err != nil {
				return err
			}
		}
		return nil
	})
	again.Say(t, chat, "too far ahead")
	if got := p.bob.Hear(t, chat); len(got) > 0 || len(p.bob.Failed()) == 0 {
		t.Errorf("bob reads %q after three generations that never came", got)
	}
}

// TestConversationOverTrouble: the token is taken away and the process behind it is
// killed again and again while alice talks. What she was told is sent, bob reads, once and
// in order, and nothing else.
func TestConversationOverTrouble(t *testing.T) {
	t.Parallel()
	k := softhsmtest.P11Kit(t)
	token := open(t, k.URI())
	p := newPair(t, token.Provider(), mls.HandshakePublic)
	trouble := make(chan struct{})
	go func() {
		defer close(trouble)
		for i := range 6 {
			time.Sleep(50 * time.Millisecond)
			if i%3 == 2 {
				k.Remove(t)
				time.Sleep(50 * time.Millisecond)
				k.Restore(t)
			} else if k.Workers() > 0 {
				k.KillWorker(t)
			}
		}
	}()
	var want []string
	failed := 0
	for n, over, well := 0, false, false; !over || n < 50 || !well; n++ {
		select {
		case <-trouble:
			over = true
		default:
		}
		text := fmt.Sprint("message ", n)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := p.alice.In(ctx, chat, func(ctx context.Context, c *client.Conversation) error { return send(text)(ctx, nil, c) })
		cancel()
		switch well = err == nil; {
		case well:
			want = append(want, text)
		case errors.Is(err, hsm.ErrTokenUnavailable):
			failed++
			time.Sleep(5 * time.Millisecond)
		default:
			t.Fatal(err)
		}
	}
	p.do(p.alice, send("the last"))
	p.hears(p.bob, append(want, "the last")...)
	t.Logf("%d messages sent, %d failed", len(want), failed)
}
