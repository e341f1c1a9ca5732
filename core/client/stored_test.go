// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// Only a release that reads the stores of the one before it may do this.
var rewrite = flag.Bool("rewrite", false, "make testdata/store1.json anew")

// A storedClient is all that one client has stored in the middle of its life, sealed
// with the key of the tests, and what it receives next.
type storedClient struct {
	Tables        map[core.Table][]core.Record `json:"tables"`
	Late, Skipped []byte                       // of an epoch before, and behind another
	Commit        []byte
	Authenticator []byte // of the epoch that the commit begins
	KeyPackages   int
}

var storedFile = filepath.Join("testdata", "store1.json")

// ENG-10, openmls#2034, openmls#2051, openmls#1990: what a client of this format has
// stored is read by every later one: keys, credentials, key packages, a group in the
// middle of an epoch with all that waits in it, and a commit without an answer.
func TestStoredByEarlierReleases(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	cfg := config()
	cfg.Clock = func() time.Time { return now }
	cfg.NoGrease = true
	if *rewrite {
		makeStored(t, cfg)
	}
	text, err := os.ReadFile(storedFile)
	if err != nil {
		t.Fatal(err)
	}
	var s storedClient
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	ks := memory.New()
	batch := core.Batch{}
	for table, records := range s.Tables {
		for _, r := range records {
			batch.Puts = append(batch.Puts, core.Put{Table: table, Key: r.Key, Value: r.Value, Version: r.Version})
		}
	}
	if err := ks.Apply(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, clienttest.Options{})
	bob := clienttest.NewDevice(t, w.service, "bob", ks, cfg)
	decrypt := func(message []byte) (got client.Received) {
		t.Helper()
		w.do(bob, func(ctx context.Context, tx *client.Transaction) (err error) {
			got, err = tx.DecryptMessage(ctx, chat, message)
			return err
		})
		return got
	}
	for message, want := range map[string]string{string(s.Late): "late", string(s.Skipped): "skipped"} {
		if got, ok := decrypt([]byte(message)).(*client.Text); !ok || string(got.Data) != want || got.Sender != "alice" {
			t.Errorf("got %+v, want %q", got, want)
		}
	}
	w.in(bob, func(ctx context.Context, c *client.Conversation) error {
		list, err := c.PendingProposals(ctx)
		if len(list) != 3 {
			t.Errorf("%d proposals wait, want 3", len(list))
		}
		return err
	})
	result, ok := decrypt(s.Commit).(*client.CommitResult)
	if !ok || result.Committer != "alice" || len(result.Replayed) != 1 || result.Replayed[0].Err != nil {
		t.Fatalf("the commit: %+v", result)
	}
	if text, ok := result.Replayed[0].Received.(*client.Text); !ok || string(text.Data) != "early" {
		t.Errorf("what came early: %+v", result.Replayed[0])
	}
	info, err := bob.Info(t.Context(), chat)
	if err != nil || !bytes.Equal(info.EpochAuthenticator, s.Authenticator) {
		t.Errorf("the commit leads elsewhere: epoch %d, %v", info.Epoch, err)
	}
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		n, err := tx.CountKeyPackages(ctx, suite1, core.CredentialBasic)
		data, found, err2 := tx.Data(ctx)
		id, err3 := tx.ClientID(ctx)
		if n != s.KeyPackages || !found || string(data) != "checkpoint" || id != "bob" {
			t.Errorf("%d key packages, checkpoint %q, client %q", n, data, id)
		}
		c, err4 := tx.Conversation(ctx, "alone")
		if err4 != nil {
			return err4
		}
		if pending, err := c.HasPendingCommit(ctx); err != nil || !pending {
			t.Errorf("no commit waits for its answer (%v)", err)
		}
		return errors.Join(err, err2, err3, c.DiscardPendingCommit(ctx))
	})
	w.in(bob, func(ctx context.Context, c *client.Conversation) error { // and life goes on
		_, err := c.Encrypt(ctx, []byte("hello"), nil)
		return err
	})
	w.must(bob.Close(t.Context()))
	again, err := clienttest.NewDevice(t, w.service, "bob", ks, cfg).Info(t.Context(), chat)
	if err != nil || !bytes.Equal(again.EpochAuthenticator, s.Authenticator) {
		t.Errorf("opened again: %v", err)
	}
}

// makeStored makes the file.
func makeStored(t *testing.T, cfg client.Config) {
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice, bob := w.deviceOn("alice", memory.New(), cfg), w.deviceOn("bob", ks, cfg)
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewKeyPackages(ctx, suite1, core.CredentialBasic, 2)
		if err == nil {
			_, err = tx.NewLastResortKeyPackage(ctx, suite1, core.CredentialBasic)
		}
		return errors.Join(err, tx.SetData(ctx, []byte("checkpoint")), tx.SetPSK(ctx, []byte("psk"), core.NewSecret([]byte("a secret"))))
	})
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		return tx.SetPSK(ctx, []byte("psk"), core.NewSecret([]byte("a secret")))
	})
	w.create(alice)
	w.add(alice, bob)
	encrypt := func(text string) (message []byte) {
		w.in(alice, func(ctx context.Context, c *client.Conversation) (err error) {
			message, err = c.Encrypt(ctx, []byte(text), nil)
			return err
		})
		return message
	}
	s := storedClient{Tables: map[core.Table][]core.Record{}, KeyPackages: 2}
	s.Late = encrypt("late")
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.UpdateKeyMaterial(ctx)
		return err
	})
	w.catchUp()
	w.in(bob, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.UpdateKeyMaterial(ctx)
		return err
	})
	w.catchUp()
	s.Skipped = encrypt("skipped")
	w.send(alice, "next")
	w.send(bob, "mine")
	w.catchUp()
	for by, propose := range map[*clienttest.Device]func(ctx context.Context, c *client.Conversation) error{
		alice: func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposePSK(ctx, []byte("psk"))
			return err
		},
		bob: func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposeUpdate(ctx, 0)
			if err == nil {
				_, err = c.ProposeAdd(ctx, w.keyPackage(w.device("carol")))
			}
			return err
		},
	} {
		w.in(by, propose)
		w.must(by.Link.Drain(t.Context(), chat))
	}
	w.must(alice.Link.Drain(t.Context(), chat))
	w.must(bob.Link.Drain(t.Context(), chat))
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, "alone", client.ConversationConfig{Suite: suite1, Group: mls.DefaultConfig})
		return err
	})
	bob.Link.After = func(call string) error { return errors.New("lost") }
	if err := bob.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, "alone")
		if err == nil {
			_, err = c.UpdateKeyMaterial(ctx)
		}
		return err
	}); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	bob.Link.After = nil
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.CommitPendingProposals(ctx)
		return err
	})
	early := encrypt("early")
	w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.DecryptMessage(ctx, chat, early)
		return err
	})
	var err error
	if _, s.Commit, err = w.service.Next("bob", chat); err != nil {
		t.Fatal(err)
	}
	info, err := alice.Info(t.Context(), chat)
	w.must(err)
	s.Authenticator = info.EpochAuthenticator
	w.must(bob.Close(t.Context()))
	for table := range core.Table(64) {
		answers, err := ks.Read(t.Context(), []core.Query{{Table: table}})
		w.must(err)
		if len(answers[0]) > 0 {
			s.Tables[table] = slices.Clone(answers[0])
		}
	}
	text, err := json.Marshal(s)
	w.must(err)
	w.must(os.MkdirAll("testdata", 0o755))
	w.must(os.WriteFile(storedFile, text, 0o644))
}
