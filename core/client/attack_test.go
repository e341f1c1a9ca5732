// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A Welcome is not authenticated as a whole: the service can add to it. One that a
// last-resort key package opened must not start our ratchets over a second time,
// whatever stands beside the part that is for us.
func TestWelcomeAgainInOtherBytes(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	record, err := newRecorder(filepath.Join(t.TempDir(), "keys"))
	w.must(err)
	t.Cleanup(func() { _ = record.file.Close() })
	cfg := config()
	cfg.Suites = record
	alice, bob := w.device("alice"), w.deviceOn("bob", memory.New(), cfg)
	w.create(alice)
	var last []byte
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		k, err := tx.NewLastResortKeyPackage(ctx, suite1, core.CredentialBasic)
		last = k.Message
		return err
	})
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.AddMembers(ctx, last)
		return err
	})
	welcome, ok := w.service.Welcome("bob")
	if !ok {
		t.Fatal("no Welcome")
	}
	var left [][]byte
	useAndWipe := func(message []byte) error {
		return bob.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.ProcessWelcome(ctx, message, client.JoinConfig{})
			if err != nil {
				return err
			}
			m, err := c.Encrypt(ctx, []byte("hello"), nil)
			if err != nil {
				return err
			}
			left = append(left, m)
			return c.Wipe(ctx)
		})
	}
	w.must(useAndWipe(welcome.Message))
	m, err := mls.UnmarshalMLSMessage(welcome.Message)
	w.must(err)
	m.Welcome.Secrets = append(m.Welcome.Secrets, mls.EncryptedGroupSecrets{NewMember: []byte("nobody"), Secrets: m.Welcome.Secrets[0].Secrets})
	if err := useAndWipe(m.Marshal()); !errors.Is(err, mls.ErrDuplicateMessage) {
		t.Errorf("the same Welcome in other bytes: %v, want ErrDuplicateMessage", err)
	}
	noKeyTwice(t, record.file.Name(), left)
}

// Floors of an epoch that is still to come outlive the conversation that is left
// before it: the Welcome to that epoch may be processed again.
func TestFloorsOutliveTheConversation(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	record, err := newRecorder(filepath.Join(t.TempDir(), "keys"))
	w.must(err)
	t.Cleanup(func() { _ = record.file.Close() })
	cfg := config()
	cfg.Suites = record
	alice, bob := w.device("alice"), w.deviceOn("bob", memory.New(), cfg)
	w.create(alice)
	w.add(alice, bob)
	again := w.keyPackage(bob)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.RemoveMembers(ctx, "bob")
		return err
	})
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.AddMembers(ctx, again)
		return err
	})
	log := w.service.Log(chat)
	removal := log[len(log)-2]
	welcome, ok := w.service.Welcome("bob")
	if !ok {
		t.Fatal("no Welcome")
	}
	var left [][]byte
	removed := func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.DecryptMessage(ctx, chat, removal)
		return err
	}
	joined := func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.ProcessWelcome(ctx, welcome.Message, client.JoinConfig{})
		if err != nil {
			return err
		}
		m, err := c.Encrypt(ctx, []byte{byte(len(left))}, nil)
		left = append(left, m)
		return err
	}
	enough := errors.New("enough")
	err = bob.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		return errors.Join(removed(ctx, tx), joined(ctx, tx), enough)
	})
	if !errors.Is(err, enough) || len(left) != 1 {
		t.Fatalf("%d messages, %v", len(left), err)
	}
	w.do(bob, removed)
	w.do(bob, joined)
	noKeyTwice(t, record.file.Name(), left)
}

// within fails the test if f does not end.
func within(t testing.TB, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it hangs")
	}
}

// An application that panics in its own code that we call keeps nothing locked.
func TestPanicsOfTheApplication(t *testing.T) {
	recovered := func(f func()) {
		defer func() {
			if recover() == nil {
				t.Error("the panic got lost")
			}
		}()
		f()
	}
	t.Run("observer", func(t *testing.T) {
		w := newWorld(t, clienttest.Options{})
		cfg, panics := config(), true
		cfg.Observe = func(client.Event) {
			if panics {
				panic("observer")
			}
		}
		alice := w.deviceOn("alice", memory.New(), cfg)
		within(t, func() { recovered(func() { w.create(alice) }) })
		panics = false
		within(t, func() { w.send(alice, "after") })
		within(t, func() { w.must(alice.Close(t.Context())) })
	})
	t.Run("transport", func(t *testing.T) {
		w := newWorld(t, clienttest.Options{})
		alice := w.device("alice")
		w.create(alice)
		for _, call := range []string{"send", "commit"} {
			alice.Link.Before = func(c string) error {
				if c == call {
					panic("transport")
				}
				return nil
			}
			within(t, func() {
				recovered(func() {
					w.in(alice, func(ctx context.Context, c *client.Conversation) error {
						if _, err := c.Send(ctx, []byte(call), nil); err != nil {
							return err
						}
						_, err := c.UpdateKeyMaterial(ctx)
						return err
					})
				})
			})
			alice.Link.Before = nil
			within(t, func() { w.must(alice.Settle(t.Context(), chat)) })
		}
		i, err := alice.Info(t.Context(), chat)
		w.must(err)
		if i.PendingCommit || i.Epoch != 2 {
			t.Errorf("epoch %d, pending %v: want both commits merged", i.Epoch, i.PendingCommit)
		}
	})
}

// A commit that waits behind the outbox is dropped if that cannot be sent, but not
// if another process has submitted it meanwhile.
func TestDroppedOnlyIfNeverSubmitted(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	ks, cfg := memory.New(), config()
	cfg.Lease = 50 * time.Millisecond
	alice := w.deviceOn("alice", ks, cfg)
	w.create(alice)
	other := clienttest.NewDevice(t, w.service, "alice", ks, cfg)
	lost := errors.New("lost")
	other.Link.After = func(call string) error {
		if call == "commit" {
			return lost
		}
		return nil
	}
	alice.Link.Before = func(call string) error {
		if call != "send" {
			return nil
		}
		if err := other.Settle(t.Context(), chat); !errors.Is(err, core.ErrUnknownOutcome) {
			t.Errorf("the other process: %v, want an unknown outcome", err)
		}
		return lost
	}
	err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
		if _, err := c.Send(ctx, []byte("first"), nil); err != nil {
			return err
		}
		_, err := c.UpdateKeyMaterial(ctx)
		return err
	})
	if err == nil {
		t.Error("no error")
	}
	alice.Link.Before, other.Link.After = nil, nil
	w.must(alice.Settle(t.Context(), chat))
	i, err := alice.Info(t.Context(), chat)
	w.must(err)
	if i.PendingCommit || i.Epoch != 1 {
		t.Errorf("epoch %d, pending %v: the service has accepted the commit", i.Epoch, i.PendingCommit)
	}
}

// A failing store fails every write that fails says.
type failingStore struct {
	core.Keystore
	fails func(core.Batch) error
}

func (s *failingStore) Apply(ctx context.Context, b core.Batch) error {
	if s.fails != nil {
		if err := s.fails(b); err != nil {
			return err
		}
	}
	return s.Keystore.Apply(ctx, b)
}

// A boundary that could not make its segment durable has undone what came before:
// an application that goes on regardless must not be told that all is well.
func TestUndoneAtTheBoundary(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	ks := &failingStore{Keystore: memory.New()}
	alice := w.deviceOn("alice", ks, config())
	w.create(alice)
	full := true
	ks.fails = func(core.Batch) error {
		if full {
			full = false
			return core.ErrUnavailable
		}
		return nil
	}
	err := alice.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.SetData(ctx, []byte("kept")); err != nil {
			return err
		}
		c, err := tx.Conversation(ctx, chat)
		if err != nil {
			return err
		}
		if _, err := c.UpdateKeyMaterial(ctx); err == nil {
			t.Error("a commit on a full store")
		}
		return nil // never mind
	})
	if data, found, _ := alice.Data(t.Context()); err == nil && !found {
		t.Errorf("the transaction succeeded and its data is %q", data)
	}
}

// A service that answers with the GroupInfo of another conversation does not get
// us to join that one.
type substituting struct {
	clienttest.Backend
	competing bool
}

func (s *substituting) GroupInfo(core.ConversationID) ([]byte, error) {
	return s.Backend.GroupInfo("trap")
}

func (s *substituting) SubmitCommit(by core.ClientID, id core.ConversationID, b client.CommitBundle) client.Outcome {
	if s.competing {
		s.competing = false
		return client.Outcome{Kind: client.Competing}
	}
	return s.Backend.SubmitCommit(by, id, b)
}

func TestGroupInfoOfAnother(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	for _, id := range []core.ConversationID{chat, "trap"} {
		w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.NewConversation(ctx, id, client.ConversationConfig{Suite: suite1})
			if err == nil {
				_, err = c.UpdateKeyMaterial(ctx)
			}
			return err
		})
	}
	info, err := w.service.GroupInfo(chat)
	w.must(err)
	bob.Link.Service = &substituting{w.service, true}
	err = bob.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_, _, err := tx.JoinByExternalCommit(ctx, info, client.JoinConfig{})
		return err
	})
	if !errors.Is(err, mls.ErrWrongGroup) {
		t.Errorf("%v, want ErrWrongGroup", err)
	}
	if ids, err := bob.Conversations(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("bob is in %v, %v", ids, err)
	}
}

// A failing provider's keys fail every signature but the first few.
type failingProvider struct {
	core.CryptoProvider
	left *int
}

func (p failingProvider) OpenKey(ctx context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
	k, err := p.CryptoProvider.OpenKey(ctx, ref, material)
	if err != nil {
		return nil, err
	}
	return failingSigner{k.(core.Signer), p.left}, nil
}

type failingSigner struct {
	core.Signer
	left *int
}

func (s failingSigner) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if *s.left--; *s.left < 0 {
		return nil, core.ErrUnavailable
	}
	return s.Signer.Sign(ctx, message)
}

// An operation that fails half way leaves nothing behind, even if the application
// goes on: here a key that cannot sign any more.
func TestNothingHalfWay(t *testing.T) {
	for signatures := range 4 {
		w := newWorld(t, clienttest.Options{})
		alice := w.device("alice")
		w.create(alice)
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.UpdateKeyMaterial(ctx)
			return err
		})
		info, err := w.service.GroupInfo(chat)
		w.must(err)
		left, cfg := 100, config()
		cfg.Keys = failingProvider{cfg.Keys, &left}
		bob := w.deviceOn("bob", memory.New(), cfg)
		left = signatures
		var joined error
		err = bob.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			_, _, joined = tx.JoinByExternalCommit(ctx, info, client.JoinConfig{})
			return nil
		})
		ids, listErr := bob.Conversations(t.Context())
		w.must(listErr)
		if (joined == nil) != (len(ids) == 1) {
			t.Errorf("%d signatures: joined %v, finished %v, conversations %v", signatures, joined, err, ids)
		}
	}
	for signatures := range 4 { // two for each key package
		w := newWorld(t, clienttest.Options{})
		left, cfg := 100, config()
		cfg.Keys = failingProvider{cfg.Keys, &left}
		bob := w.deviceOn("bob", memory.New(), cfg)
		left = signatures
		err := bob.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			_, _ = tx.NewKeyPackages(ctx, suite1, core.CredentialBasic, 2)
			return nil
		})
		w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
			if n, countErr := tx.CountKeyPackages(ctx, suite1, core.CredentialBasic); countErr != nil || n != 0 {
				t.Errorf("%d signatures: finished %v: %d key packages, %v", signatures, err, n, countErr)
			}
			return nil
		})
	}
	w := newWorld(t, clienttest.Options{})
	carol := clienttest.NewDevice(t, w.service, "carol", memory.New(), config())
	err := carol.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_ = tx.InitMLS(ctx, "carol", suite1, 0xfefe) // never mind
		return nil
	})
	w.do(carol, func(ctx context.Context, tx *client.Transaction) error {
		if list, listErr := tx.Credentials(ctx, client.CredentialFilter{}); listErr != nil || len(list) != 0 {
			t.Errorf("finished %v: credentials %v, %v of nobody", err, list, listErr)
		}
		return nil
	})
}

// A Drain may hand a message to an application that commits at once: who sends from
// an outbox and drains for it does not wait for itself.
func TestCommitWhileDraining(t *testing.T) {
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	w.add(alice, bob)
	alice.Link.Before = func(call string) error {
		if call == "send" {
			return errors.New("down")
		}
		return nil
	}
	w.send(alice, "waits")
	alice.Link.Before = nil
	w.in(bob, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.UpdateKeyMaterial(ctx)
		return err
	})
	receive, busy := alice.Link.Receive, false
	alice.Link.Receive = func(ctx context.Context, id core.ConversationID, message []byte) error {
		if !busy {
			busy = true
			err := in(ctx, alice, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.UpdateKeyMaterial(ctx)
				return err
			})
			if err == nil || !errors.Is(err, core.ErrUnavailable) && !errors.Is(err, core.ErrDenied) {
				t.Errorf("a commit while its own outbox is being sent: %v", err)
			}
		}
		return receive(ctx, id, message)
	}
	within(t, func() { w.must(alice.Settle(t.Context(), chat)) })
	w.reads(bob, "waits")
}
