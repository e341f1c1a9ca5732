// SPDX-License-Identifier: Apache-2.0

package clienttest_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

const tea = core.ConversationID("tea")

func trio(t *testing.T) (alice, bob, carol *clienttest.Device) {
	t.Helper()
	d := clienttest.NewConversation(t, pure.New(), memory.New, tea, "alice", "bob", "carol")
	return d[0], d[1], d[2]
}

func update(ctx context.Context, c *client.Conversation) error {
	_, err := c.UpdateKeyMaterial(ctx)
	return err
}

func hears(t *testing.T, d *clienttest.Device, want ...string) {
	t.Helper()
	if got := d.Hear(t, tea); !slices.Equal(got, want) {
		t.Errorf("%s read %q, want %q", d.Link.ID, got, want)
	}
	if errs := d.Failed(); len(errs) > 0 {
		t.Errorf("%s: %v", d.Link.ID, errs)
	}
}

// What is said offline waits, and goes out once.
func TestOffline(t *testing.T) {
	t.Parallel()
	alice, bob, carol := trio(t)
	alice.Link.SetOffline(true)
	alice.Say(t, tea, "one")
	if err := alice.In(t.Context(), tea, update); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("a commit offline: %v", err)
	}
	if err := alice.Welcomes(t.Context()); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("Welcomes offline: %v", err)
	}
	if _, err := alice.Link.GroupInfo(t.Context(), tea); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("GroupInfo offline: %v", err)
	}
	bob.Say(t, tea, "two")
	hears(t, carol, "two")
	alice.Link.SetOffline(false)
	if err := alice.Settle(t.Context(), tea); err != nil {
		t.Fatal(err)
	}
	hears(t, alice, "two")
	hears(t, carol, "one")
	hears(t, bob, "one")
}

// A message that was held back is read after those that came later.
func TestHoldBack(t *testing.T) {
	t.Parallel()
	alice, bob, carol := trio(t)
	bob.Link.HoldBack(1)
	alice.Say(t, tea, "one")
	alice.Say(t, tea, "two")
	hears(t, bob, "two")
	hears(t, carol, "one", "two")
	if err := bob.Link.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	hears(t, bob, "one")
}

// A commit that was refused did not happen; the service has not seen it.
func TestRefuse(t *testing.T) {
	t.Parallel()
	alice, bob, carol := trio(t)
	alice.Link.Refuse(clienttest.CallCommit, client.Outcome{Kind: client.Refused, Reason: "not today"})
	if err := alice.In(t.Context(), tea, update); err == nil {
		t.Fatal("a commit that was refused went through")
	}
	if i, err := alice.Info(t.Context(), tea); err != nil || i.Epoch != 1 || i.PendingCommit {
		t.Errorf("epoch %d, pending %v, %v", i.Epoch, i.PendingCommit, err)
	}
	if err := alice.In(t.Context(), tea, update); err != nil {
		t.Fatal(err)
	}
	alice.Say(t, tea, "new keys")
	hears(t, bob, "new keys")
	hears(t, carol, "new keys")
}

// A commit whose answer was lost did happen; the device finds out.
func TestLoseAnswer(t *testing.T) {
	t.Parallel()
	alice, bob, _ := trio(t)
	alice.Link.LoseAnswer(clienttest.CallCommit)
	_ = alice.In(t.Context(), tea, update) // whether it says so is the client's affair
	if err := alice.Settle(t.Context(), tea); err != nil {
		t.Fatal(err)
	}
	hears(t, bob)
	for _, d := range []*clienttest.Device{alice, bob} {
		if i, err := d.Info(t.Context(), tea); err != nil || i.Epoch != 2 {
			t.Errorf("%s: epoch %d, %v", d.Link.ID, i.Epoch, err)
		}
	}
	bob.Link.LoseAnswer(clienttest.CallSend)
	bob.Say(t, tea, "once")
	if err := bob.Settle(t.Context(), tea); err != nil {
		t.Fatal(err)
	}
	hears(t, alice, "once")
}

// Run cleans up, also when f gives up.
func TestRun(t *testing.T) {
	t.Parallel()
	var ran []int
	gaveUp := func() (why any) {
		defer func() { why = recover() }()
		clienttest.Run(func(t clienttest.TB) {
			t.Cleanup(func() { ran = append(ran, 1) })
			t.Cleanup(func() { ran = append(ran, 2) })
			clienttest.NewConversation(t, pure.New(), memory.New, tea)
		})
		return nil
	}()
	if gaveUp == nil || !slices.Equal(ran, []int{2, 1}) {
		t.Errorf("gave up: %v; cleaned up: %v", gaveUp, ran)
	}
}
