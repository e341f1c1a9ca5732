// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

func (w *world) externalAdd(d *clienttest.Device, epoch uint64, o client.KeyPackageOptions) (message []byte, err error) {
	err = d.Transaction(w.Context(), func(ctx context.Context, tx *client.Transaction) (err error) {
		message, err = tx.NewExternalAddProposal(ctx, chat, epoch, o)
		return err
	})
	return message, err
}

func (w *world) keyPackages(d *clienttest.Device) (n int) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) (err error) {
		n, err = tx.CountKeyPackages(ctx, suite1, core.CredentialBasic)
		return err
	})
	return n
}

// Who is not a member proposes itself; a member commits that, and the Welcome is for
// the one key package that was made.
func TestExternalAdd(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w := newWorld(t, clienttest.Options{})
		w.policy = policy
		alice, bob, carol := w.device("alice"), w.device("bob"), w.device("carol")
		w.create(alice)
		w.add(alice, bob)
		if _, err := w.externalAdd(bob, 1, client.KeyPackageOptions{}); !errors.Is(err, client.ErrConversationExists) {
			t.Errorf("of a member: %v", err)
		}
		if _, err := w.externalAdd(carol, 1, client.KeyPackageOptions{Credential: core.CredentialX509}); !errors.Is(err, client.ErrEnrollmentNotDone) {
			t.Errorf("without a certificate: %v", err)
		}
		wrong, err := w.externalAdd(carol, 0, client.KeyPackageOptions{Suite: suite1})
		w.must(err)
		if _, err := w.give(alice, wrong); !errors.Is(err, client.ErrStaleProposal) {
			t.Errorf("of a past epoch: %v", err)
		}
		message, err := w.externalAdd(carol, 1, client.KeyPackageOptions{Suite: suite1})
		w.must(err)
		if n := w.keyPackages(carol); n != 2 {
			t.Errorf("%d key packages of two proposals", n)
		}
		if ids, err := carol.Conversations(t.Context()); err != nil || len(ids) != 0 {
			t.Errorf("carol has %v, %v", ids, err)
		}
		if len(carol.Events()) > 0 {
			t.Error("something has happened")
		}
		if o := w.service.SendMessage("carol", chat, "join", message); o.Kind != client.Accepted {
			t.Fatal(o)
		}
		w.must(alice.Link.Drain(t.Context(), chat))
		w.must(bob.Link.Drain(t.Context(), chat))
		var seen *client.ProposalResult
		for _, r := range alice.Received() {
			seen, _ = r.(*client.ProposalResult)
		}
		if seen == nil || seen.Sender.Type != mls.SenderNewMemberProposal || seen.Delay == nil {
			t.Fatalf("alice has received %+v", seen)
		}
		w.in(bob, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
		w.catchUp()
		w.agree(alice, bob, carol)
		if n := w.keyPackages(carol); n != 1 {
			t.Errorf("%d key packages are left", n)
		}
	})
}

// A basic credential that is missing is made, with the proposal or not at all.
func TestExternalAddMakesACredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	dave := w.deviceOn("dave", ks, config()) // has a key for suite 1
	count := func() int {
		list, err := dave.Credentials(t.Context(), client.CredentialFilter{})
		w.must(err)
		return len(list)
	}
	undo := errors.New("undo")
	err := dave.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewExternalAddProposal(ctx, chat, 3, client.KeyPackageOptions{Suite: core.SuiteP256AES128P256})
		return errors.Join(err, undo)
	})
	if err.Error() != "undo" || count() != 1 {
		t.Errorf("%v; %d credentials", err, count())
	}
	message, err := w.externalAdd(dave, 3, client.KeyPackageOptions{Suite: core.SuiteP256AES128P256})
	w.must(err)
	m, err := mls.UnmarshalMLSMessage(message)
	w.must(err)
	if group, epoch, ok := m.GroupEpoch(); !ok || string(group) != string(chat) || epoch != 3 || count() != 2 {
		t.Errorf("group %s, epoch %d; %d credentials", group, epoch, count())
	}
}

// The proposal of somebody who would like to join releases a commit that waits for it,
// as that of a member does.
func TestQuirkJoinProposalReleasesCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob, carol := w.device("alice"), w.device("bob"), w.device("carol")
	w.create(alice)
	w.add(alice, bob)
	message, err := w.externalAdd(carol, 1, client.KeyPackageOptions{Suite: suite1})
	w.must(err)
	if _, err := w.give(alice, message); err != nil { // alice alone
		t.Fatal(err)
	}
	n := len(w.service.Log(chat))
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.CommitPendingProposals(ctx)
		return err
	})
	r, err := w.give(bob, w.since(n)[0])
	if b, ok := r.(*client.Buffered); err != nil || !ok || b.Reason != client.MissingProposals {
		t.Fatalf("%+v, %v", r, err)
	}
	r, err = w.give(bob, message)
	if c, ok := r.(*client.CommitResult); err != nil || !ok || len(c.Added) != 1 || c.Added[0] != "carol" {
		t.Fatalf("%+v, %v", r, err)
	}
	w.agree(alice, bob)
}
