// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/storage/memory"
)

// burns is alice, whose every message is recorded, with bob.
type burns struct {
	*world
	out        *outgoing
	suites     *recorder
	ks         *memory.Store
	alice, bob *clienttest.Device
}

func newBurns(t *testing.T) *burns {
	w := newWorld(t, clienttest.Options{})
	w.policy = private
	suites, err := newRecorder(filepath.Join(t.TempDir(), "keys"))
	w.must(err)
	t.Cleanup(func() { _ = suites.file.Close() })
	b := &burns{world: w, out: &outgoing{Backend: w.service, who: "alice"}, suites: suites, ks: memory.New()}
	b.alice = b.again()
	w.do(b.alice, func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "alice", suite1) })
	b.bob = w.device("bob")
	w.devices = append(w.devices, b.alice)
	return b
}

// again opens alice's store as another process.
func (b *burns) again() *clienttest.Device {
	return b.on(b.ks)
}

func (b *burns) on(ks core.Keystore) *clienttest.Device {
	cfg := config()
	cfg.Suites = b.suites
	cfg.NoRenewal = true // a proposal that waits keeps texts from being encrypted
	d := clienttest.NewDevice(b, b.out, "alice", ks, cfg)
	d.Join.Group = private
	return d
}

// escape encrypts and lets the ciphertexts out before the transaction is durable.
func (b *burns) escape(ctx context.Context, c *client.Conversation) error {
	for range 3 {
		message, err := c.Encrypt(ctx, []byte("x"), nil)
		if err != nil {
			return err
		}
		b.out.note("alice", message)
	}
	p, err := c.ProposeUpdate(ctx, 0)
	if err != nil {
		return err
	}
	b.out.note("alice", p.Message)
	return nil
}

func (b *burns) check() {
	b.Helper()
	noKeyTwice(b, b.suites.file.Name(), b.out.left)
}

// TestBurntGenerations: every way in which a segment that encrypted can end leaves
// floors, and no process starts below them.
func TestBurntGenerations(t *testing.T) {
	t.Parallel()
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBurns(t)
			b.create(b.alice)
			b.add(b.alice, b.bob)
			other := b.again()
			b.must(other.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
				_, err := tx.Conversation(ctx, chat) // it is in memory there
				return err
			}))
			f := func(ctx context.Context, tx *client.Transaction) error {
				c, err := tx.Conversation(ctx, chat)
				if err != nil {
					return err
				}
				return b.escape(ctx, c)
			}
			for _, d := range []*clienttest.Device{b.alice, other, b.alice, b.again()} {
				way(d, t.Context(), f)
				b.send(d, "y")
			}
			b.check()
			b.reads(b.bob, "y", "y", "y", "y")
		})
	}
}

// TestBurntInANewEpoch: the segment that encrypted has entered its epoch by a commit
// or a Welcome, which is undone with it and comes again.
func TestBurntInANewEpoch(t *testing.T) {
	t.Parallel()
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBurns(t)
			b.create(b.bob)
			k := b.keyPackage(b.alice)
			b.in(b.bob, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.AddMembers(ctx, k)
				return err
			})
			welcome, _ := b.service.Welcome("alice")
			for range 2 {
				way(b.alice, t.Context(), func(ctx context.Context, tx *client.Transaction) error {
					c, err := tx.ProcessWelcome(ctx, welcome.Message, client.JoinConfig{Group: private})
					if err != nil {
						return err
					}
					return b.escape(ctx, c)
				})
			}
			b.catchUp()
			b.send(b.alice, "joined")
			n := len(b.service.Log(chat))
			b.update(b.bob)
			b.must(b.bob.Link.Drain(t.Context(), chat))
			commit := b.since(n)[0]
			for range 2 {
				way(b.alice, t.Context(), func(ctx context.Context, tx *client.Transaction) error {
					c, err := tx.Conversation(ctx, chat)
					if err != nil {
						return err
					}
					if err := b.escape(ctx, c); err != nil { // in the old epoch, too
						return err
					}
					if _, err := tx.DecryptMessage(ctx, chat, commit); err != nil {
						return err
					}
					return b.escape(ctx, c)
				})
			}
			b.send(b.alice, "stale, and encrypted again")
			b.catchUp()
			b.send(b.alice, "in the new epoch")
			b.check()
			b.reads(b.bob, "joined", "stale, and encrypted again", "in the new epoch")
		})
	}
}

// TestFloorsCannotBeWritten: the conversation stays closed until they are.
func TestFloorsCannotBeWritten(t *testing.T) {
	t.Parallel()
	b := newBurns(t)
	b.create(b.alice)
	b.add(b.alice, b.bob)
	ks := &coretest.Faulty{Keystore: b.ks}
	alice := b.on(ks)
	broken := false
	ks.Plan = func(int, core.Batch) coretest.Fault {
		if broken {
			return coretest.FaultBefore
		}
		return coretest.FaultNone
	}
	err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
		broken = true
		return errors.Join(b.escape(ctx, c), errAbort)
	})
	if !errors.Is(err, errAbort) || !errors.Is(err, core.ErrUnavailable) {
		t.Fatal(err)
	}
	send := func() error {
		return in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.Encrypt(ctx, []byte("y"), nil)
			return err
		})
	}
	if err := send(); !errors.Is(err, core.ErrUnavailable) {
		t.Fatalf("encrypted with burnt generations: %v", err)
	}
	broken = false
	b.must(send())
	b.send(alice, "z")
	b.check()
	b.reads(b.bob, "z")
}

// TestBurntElsewhere: another process has the conversation in memory, and has sent in
// this epoch; or it is in the middle of a transaction.
func TestBurntElsewhere(t *testing.T) {
	t.Parallel()
	b := newBurns(t)
	b.create(b.alice)
	b.add(b.alice, b.bob)
	other := b.again()
	burn := func() {
		err := in(t.Context(), b.alice, func(ctx context.Context, c *client.Conversation) error {
			return errors.Join(b.escape(ctx, c), errAbort)
		})
		if !errors.Is(err, errAbort) {
			t.Fatal(err)
		}
	}
	b.send(other, "1")
	burn()
	b.send(other, "2")
	runs := 0
	b.in(other, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Send(ctx, []byte("3"), nil)
		if runs++; runs == 1 {
			burn()
		}
		return err
	})
	if runs != 2 {
		t.Errorf("%d runs", runs)
	}
	b.check()
	b.reads(b.bob, "1", "2", "3")
}

// TestConflictBurns: a write that loses against another process is an abort as well.
func TestConflictBurns(t *testing.T) {
	t.Parallel()
	b := newBurns(t)
	b.create(b.alice)
	b.add(b.alice, b.bob)
	other := b.again()
	runs := 0
	b.in(b.alice, func(ctx context.Context, c *client.Conversation) error {
		runs++
		if err := b.escape(ctx, c); err != nil {
			return err
		}
		if runs == 1 {
			b.in(other, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.Encrypt(ctx, []byte("quicker"), nil)
				return err
			})
		}
		return nil
	})
	if runs != 2 {
		t.Errorf("%d runs", runs)
	}
	w := b.world
	w.in(b.alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.CommitPendingProposals(ctx)
		return err
	})
	b.send(other, "x")
	b.check()
}
