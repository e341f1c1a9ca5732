// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// away makes a conversation of alice and bob and a log that bob has not read, of every
// kind of message.
func away(w *world, alice, bob *clienttest.Device) (log [][]byte) {
	w.Helper()
	w.create(alice)
	w.add(alice, bob)
	n := len(w.service.Log(chat))
	for i := range 3 {
		w.send(alice, fmt.Sprint("text ", i))
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposeUpdate(ctx, 0)
			return err
		})
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
	}
	w.send(alice, "the last")
	return w.since(n)
}

func (w *world) giveAll(d *clienttest.Device, messages ...[]byte) (out []client.Decrypted, err error) {
	err = d.Transaction(w.Context(), func(ctx context.Context, tx *client.Transaction) (err error) {
		out, err = tx.DecryptMessages(ctx, chat, messages)
		return err
	})
	return out, err
}

// A message that is to blame has its error in its place and leaves nothing behind; all
// others come through, in one write.
func TestDecryptMessages(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w := newWorld(t, clienttest.Options{})
		w.policy = policy
		store := &coretest.Faulty{Keystore: memory.New()}
		alice, bob := w.device("alice"), w.deviceOn("bob", store, config())
		log := away(w, alice, bob)
		flipped := bytes.Clone(log[1])
		flipped[len(flipped)-1] ^= 1
		batch := [][]byte{log[0], nil, flipped, log[0], log[3], log[1], log[2], log[1], []byte("rubbish"), log[4], log[5], log[5], log[6], log[7], log[8], log[9]}
		fails := map[int]error{
			1: mls.ErrMalformed, 2: core.ErrInvalid, 3: mls.ErrDuplicateMessage, 7: client.ErrStaleProposal, 8: mls.ErrMalformed, 11: mls.ErrDuplicateMessage,
		}
		writes := store.Applies()
		out, err := w.giveAll(bob, batch...)
		w.must(err)
		if n := store.Applies() - writes; n != 1 {
			t.Errorf("%d writes", n)
		}
		if len(out) != len(batch) {
			t.Fatalf("%d results of %d messages", len(out), len(batch))
		}
		for i, r := range out {
			if want := fails[i]; want != nil && (!errors.Is(r.Err, want) || r.Received != nil) || want == nil && (r.Err != nil || r.Received == nil) {
				t.Errorf("message %d: %+v", i, r)
			}
		}
		if b, ok := out[4].Received.(*client.Buffered); !ok || b.Reason != client.FutureEpoch {
			t.Errorf("a message of the next epoch: %+v", out[4])
		}
		if text, ok := out[15].Received.(*client.Text); !ok || string(text.Data) != "the last" {
			t.Errorf("the last: %+v", out[15])
		}
		w.agree(alice, bob)
		if i, err := bob.Info(w.Context(), chat); err != nil || i.PendingProposals+i.Buffered > 0 || i.BufferedCommit {
			t.Errorf("%+v, %v", i, err)
		}
	})
}

// What fails for our own reasons fails whole: no message is passed over.
func TestDecryptMessagesFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	store := &coretest.Faulty{Keystore: memory.New()}
	alice, bob := w.device("alice"), w.deviceOn("bob", store, config())
	log := away(w, alice, bob)
	reads := 0
	for n := 1; ; n++ {
		bob = clienttest.NewDevice(t, w.service, "bob", store, config()) // with nothing in memory
		before := snapshot(t, store.Keystore)
		reads = 0
		store.PlanRead = func(int) bool { reads++; return reads == n }
		tx, err := bob.Begin(w.Context())
		w.must(err)
		out, err := tx.DecryptMessages(w.Context(), chat, log)
		store.PlanRead = nil
		if reads < n { // no fault any more
			w.must(errors.Join(err, tx.Finish(w.Context())))
			if len(out) != len(log) {
				t.Fatal(out)
			}
			break
		}
		if !errors.Is(err, core.ErrUnavailable) || out != nil {
			t.Fatalf("read %d: %v, %v", n, out, err)
		}
		_ = tx.Finish(w.Context()) // it is an error if a message before was processed
		if !same(before, snapshot(t, store.Keystore)) {
			t.Fatalf("read %d: the store has changed", n)
		}
	}
	if reads < 6 {
		t.Fatalf("only %d reads", reads)
	}
	w.agree(alice, bob)

	ctx, cancel := context.WithCancel(w.Context())
	tx, err := bob.Begin(ctx)
	w.must(err)
	cancel()
	if out, err := tx.DecryptMessages(ctx, chat, log); !errors.Is(err, context.Canceled) || out != nil {
		t.Errorf("cancelled: %v, %v", out, err)
	}
	w.must(tx.Abort(w.Context()))
}

func TestFlatten(t *testing.T) {
	t.Parallel()
	delay := 15 * time.Second
	renewed := []client.Proposed{{Key: client.IdempotencyKey{1}}}
	late := errors.New("late")
	for name, c := range map[string]struct {
		r    client.Received
		want client.Flat
	}{
		"text":       {&client.Text{Sender: "alice", Data: []byte("x")}, client.Flat{Message: []byte("x"), Sender: "alice", Active: true}},
		"empty text": {&client.Text{Sender: "alice"}, client.Flat{Message: []byte{}, Sender: "alice", Active: true}},
		"proposal":   {&client.ProposalResult{Delay: &delay}, client.Flat{Active: true, Delay: &delay}},
		"buffered":   {&client.Buffered{Reason: client.JoinPending}, client.Flat{Active: true, Waits: client.JoinPending}},
		"removed":    {&client.CommitResult{}, client.Flat{HasEpochChanged: true}},
		"commit": {
			&client.CommitResult{Active: true, Renewed: renewed, Delay: &delay, Replayed: []client.Decrypted{
				{Received: &client.Text{Sender: "bob", Data: []byte("y")}}, {Err: late},
			}},
			client.Flat{Active: true, HasEpochChanged: true, Proposals: renewed, Delay: &delay, Buffered: []client.Flat{
				{Message: []byte("y"), Sender: "bob", Active: true}, {Active: true, Err: late},
			}},
		},
	} {
		if got := client.Flatten(c.r); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// A client that was away reads everything in one transaction, and goes on where a
// message is of no use.
func ExampleTransaction_DecryptMessages() {
	ctx := context.Background()
	service := clienttest.NewService(clienttest.Options{})
	alice, _ := person(ctx, service, "alice")
	bob, _ := person(ctx, service, "bob")
	var keyPackage []byte
	check(bob.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		k, err := tx.NewKeyPackages(ctx, core.SuiteX25519AES128Ed25519, core.CredentialBasic, 1)
		if err == nil {
			keyPackage = k[0].Message
		}
		return err
	}))
	check(alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.NewConversation(ctx, "tea", client.ConversationConfig{})
		if err != nil {
			return err
		}
		if _, err := c.AddMembers(ctx, keyPackage); err != nil {
			return err
		}
		for _, text := range []string{"one", "two"} {
			if _, err := c.Send(ctx, []byte(text), nil); err != nil {
				return err
			}
		}
		return nil
	}))
	welcome, _ := service.Welcome("bob")
	waiting := append(service.Log("tea")[1:], []byte("rubbish")) // without the commit that added bob
	check(bob.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		if _, err := tx.ProcessWelcome(ctx, welcome.Message, client.JoinConfig{}); err != nil {
			return err
		}
		results, err := tx.DecryptMessages(ctx, "tea", waiting)
		for _, r := range results {
			if r.Err != nil {
				fmt.Println("dropped:", r.Err)
				continue
			}
			flat := client.Flatten(r.Received)
			fmt.Printf("%s: %s\n", flat.Sender, flat.Message)
		}
		return err
	}))
	// Output:
	// alice: one
	// alice: two
	// dropped: MLSMessage: mls: malformed: invalid
}
