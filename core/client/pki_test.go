// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/storage/memory"
)

func methodPKIReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca := newWireCA(t, "ours")
	alice := w.nobody(memory.New()) // before there is an identity
	ready := func(ask func(context.Context) (*e2ei.Environment, error)) bool {
		env, err := ask(t.Context())
		w.must(err)
		return env.Ready()
	}
	if ready(alice.Environment) {
		t.Error("ready without an anchor")
	}
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.RegisterTrustAnchor(ctx, pemOf(ca.root)); err != nil {
			return err
		}
		if !ready(tx.Environment) || ready(alice.Environment) {
			t.Error("what is registered is not staged")
		}
		return nil
	})
	if !ready(alice.Environment) {
		t.Error("not ready")
	}
	w.must(alice.Close(t.Context()))
	if _, err := alice.Environment(t.Context()); !errors.Is(err, core.ErrClosed) {
		t.Error(err)
	}
}

func methodDumpPKI(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca := newWireCA(t, "ours")
	alice := w.nobody(memory.New())
	w.trust(ca, alice)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.RegisterCRL(ctx, listURL, ca.list(1))
		return err
	})
	env, err := alice.Environment(t.Context())
	w.must(err)
	anchors, intermediates, lists := env.Dump()
	if !slices.Equal(anchors, []string{string(pemOf(ca.root))}) || !slices.Equal(intermediates, []string{string(pemOf(ca.ca))}) || len(lists) != 1 {
		t.Errorf("%v %v %v", anchors, intermediates, lists)
	}
}

func methodRegisterAnchor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ours, other := newWireCA(t, "ours"), newWireCA(t, "other")
	alice := w.nobody(memory.New())
	register := func(want error, text []byte) {
		t.Helper()
		w.tries(alice, want, func(ctx context.Context, tx *client.Transaction) error { return tx.RegisterTrustAnchor(ctx, text) })
	}
	register(nil, pemOf(ours.root))
	register(e2ei.ErrRegistered, pemOf(ours.root))
	register(e2ei.ErrCertificate, nil)
	register(e2ei.ErrCertificate, pemOf(other.root, other.ca)) // the second is none, so neither is
	register(nil, pemOf(ours.root, other.root))
	register(e2ei.ErrRegistered, pemOf(other.root, ours.root))
}

func methodRegisterIntermediate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca := newWireCA(t, "ours")
	alice := w.nobody(memory.New())
	register := func(want error, text []byte) (points []string) {
		t.Helper()
		w.tries(alice, want, func(ctx context.Context, tx *client.Transaction) (err error) {
			points, err = tx.RegisterIntermediate(ctx, text)
			return err
		})
		return points
	}
	register(e2ei.ErrNotReady, pemOf(ca.ca))
	w.tries(alice, nil, func(ctx context.Context, tx *client.Transaction) error {
		return tx.RegisterTrustAnchor(ctx, pemOf(ca.root))
	})
	below := *ca.ca
	below.Subject.CommonName, below.RawSubject, below.SubjectKeyId, below.CRLDistributionPoints = "below", nil, []byte("below"), []string{listURL}
	last := ca.sign(&below, ca.ca, ca.key.Public())
	register(e2ei.ErrNoPath, pemOf(last))
	if points := register(nil, pemOf(last, ca.ca, ca.root)); !slices.Equal(points, []string{listURL}) {
		t.Error(points)
	}
	if points := register(nil, pemOf(ca.root)); points != nil {
		t.Error(points)
	}
	register(e2ei.ErrCertificate, []byte("no certificate"))
}

func methodRegisterCRL(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca, other := newWireCA(t, "ours"), newWireCA(t, "other")
	alice := w.nobody(memory.New())
	register := func(want error, der []byte) (r e2ei.CRLRegistration) {
		t.Helper()
		w.tries(alice, want, func(ctx context.Context, tx *client.Transaction) (err error) {
			r, err = tx.RegisterCRL(ctx, listURL, der)
			return err
		})
		return r
	}
	register(e2ei.ErrNotReady, ca.list(1))
	w.trust(ca, alice)
	if r := register(nil, ca.list(1)); r.Dirty || r.Expiration.Before(time.Now()) {
		t.Errorf("%+v", r)
	}
	if r := register(nil, ca.list(2)); r.Dirty {
		t.Error("nobody was revoked")
	}
	if r := register(nil, ca.list(3, ca.ca)); !r.Dirty {
		t.Error("somebody was revoked")
	}
	register(e2ei.ErrCRLStale, ca.list(2))
	register(e2ei.ErrCRLSignature, other.list(9))
}

// What is removed is gone from the store as well.
func TestRemoveTrust(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ours, other := newWireCA(t, "ours"), newWireCA(t, "other")
	ks := memory.New()
	alice := w.nobody(ks)
	w.trust(ours, alice)
	w.trust(other, alice)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.RegisterCRL(ctx, listURL, ours.list(1))
		return err
	})
	size := func(want [3]int) {
		t.Helper()
		alice = w.reopen(alice, ks)
		env, err := alice.Environment(t.Context())
		w.must(err)
		anchors, intermediates, lists := env.Dump()
		if have := [3]int{len(anchors), len(intermediates), len(lists)}; have != want {
			t.Errorf("%v, want %v", have, want)
		}
	}
	size([3]int{2, 2, 1})
	anchor := func(want error, text []byte) {
		t.Helper()
		w.tries(alice, want, func(ctx context.Context, tx *client.Transaction) error { return tx.RemoveTrustAnchor(ctx, text) })
	}
	list := func(want error) {
		t.Helper()
		w.tries(alice, want, func(ctx context.Context, tx *client.Transaction) error { return tx.RemoveCRL(ctx, listURL) })
	}
	anchor(core.ErrNotFound, pemOf(other.root, ours.ca)) // the second is none, so neither goes
	anchor(e2ei.ErrCertificate, nil)
	size([3]int{2, 2, 1})
	list(nil)
	list(core.ErrNotFound)
	size([3]int{2, 2, 0})
	anchor(nil, pemOf(ours.root))
	size([3]int{1, 1, 0})
	anchor(nil, pemOf(other.root))
	size([3]int{0, 0, 0})
}

// Where there is no room for another, what has expired goes.
func TestFullEnvironment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	now := time.Now()
	ks := memory.New()
	cfg := config()
	cfg.Clock = func() time.Time { return now }
	alice := clienttest.NewDevice(t, w.service, "alice", ks, cfg)
	register := func(want error) {
		t.Helper()
		w.tries(alice, want, func(ctx context.Context, tx *client.Transaction) error {
			return tx.RegisterTrustAnchor(ctx, pemOf(newWireCA(t, "another").root))
		})
	}
	for range e2ei.MaxAnchors {
		register(nil)
	}
	register(e2ei.ErrFull)
	now = now.Add(999*time.Hour + 30*time.Minute) // they are about to expire
	register(e2ei.ErrFull)
	for i := range 2 {
		now = now.Add(time.Hour)
		w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
			longer := newWireCA(t, "longer")
			longer.root.NotBefore, longer.root.NotAfter = now.Add(-time.Hour), now.Add(time.Hour)
			return tx.RegisterTrustAnchor(ctx, pemOf(longer.sign(longer.root, nil, longer.key.Public())))
		})
		w.must(alice.Close(t.Context()))
		alice = clienttest.NewDevice(t, w.service, "alice", ks, cfg)
		env, err := alice.Environment(t.Context())
		w.must(err)
		if anchors, _, _ := env.Dump(); len(anchors) != 1+i {
			t.Errorf("%d anchors", len(anchors))
		}
	}
}

// What a transaction registers is there for it alone until it is durable, is gone if it is
// aborted, and is seen by other processes on the store then.
func TestEnvironmentIsStaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	one, two := w.nobody(ks), w.nobody(ks)
	ours, other := newWireCA(t, "ours"), newWireCA(t, "other")
	count := func(ask func(context.Context) (*e2ei.Environment, error)) int {
		t.Helper()
		env, err := ask(t.Context())
		w.must(err)
		anchors, _, _ := env.Dump()
		return len(anchors)
	}
	undo := errors.New("undo")
	w.tries(one, undo, func(ctx context.Context, tx *client.Transaction) error {
		err := tx.RegisterTrustAnchor(ctx, pemOf(ours.root))
		if here := count(tx.Environment); here != 1 || count(one.Environment) != 0 {
			t.Errorf("%d anchors in the transaction", here)
		}
		return errors.Join(err, undo)
	})
	if count(one.Environment) != 0 {
		t.Error("an abort leaves an anchor behind")
	}
	// Who registers does it beside what others have registered since the environment was read.
	register := func(d *clienttest.Device, ca *wireCA) {
		w.do(d, func(ctx context.Context, tx *client.Transaction) error {
			return tx.RegisterTrustAnchor(ctx, pemOf(ca.root))
		})
	}
	w.do(one, func(ctx context.Context, tx *client.Transaction) error {
		if count(tx.Environment) != 0 {
			t.Error("anchors come from nowhere")
		}
		register(two, other)
		err := tx.RegisterTrustAnchor(ctx, pemOf(ours.root))
		if n := count(tx.Environment); n != 2 {
			t.Errorf("%d anchors in the transaction", n)
		}
		return err
	})
	if count(one.Environment) != 2 || count(two.Environment) != 2 {
		t.Errorf("%d and %d anchors", count(one.Environment), count(two.Environment))
	}
	w.do(two, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.RegisterIntermediate(ctx, pemOf(ours.ca))
		return err
	})
	for _, d := range []*clienttest.Device{one, two} {
		env, err := d.Environment(t.Context())
		w.must(err)
		if _, intermediates, _ := env.Dump(); len(intermediates) != 1 {
			t.Error("an old environment is kept")
		}
	}
	// Both register at the same time: one of them does it again.
	runs := 0
	w.do(one, func(ctx context.Context, tx *client.Transaction) error {
		runs++
		err := tx.RegisterTrustAnchor(ctx, pemOf(newWireCA(t, "third").root))
		if runs == 1 {
			register(two, newWireCA(t, "fourth"))
		}
		return err
	})
	one = w.reopen(one, ks)
	if count(one.Environment) != 4 || runs != 2 {
		t.Error("not there after a restart")
	}
}

// A store that does not answer is nobody's fault: the commit that brings a certificate can
// be read when it does.
func TestEnvironmentCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca := newWireCA(t, "ours")
	ks := &coretest.Faulty{Keystore: memory.New()}
	alice := w.deviceOn(wireID(1).Core(), memory.New(), config())
	bob := w.deviceOn(wireID(2).Core(), ks, config())
	w.trust(ca, alice, bob)
	w.create(alice)
	w.add(alice, bob)
	own, _ := w.certify(ca, alice, 1, time.Hour)
	n := len(w.service.Log(chat))
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.SetCredential(ctx, own.Ref)
		return err
	})
	commit := w.since(n)[0]
	reads := 0
	counts := func(n int) bool { reads = n; return false }
	ks.PlanRead = counts
	bob = w.reopen(bob, ks)
	undo := errors.New("undo")
	process := func(end error) error {
		return bob.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.DecryptMessage(ctx, chat, commit)
			return errors.Join(err, end)
		})
	}
	before := reads
	if err := process(undo); !errors.Is(err, undo) || client.Blames(err) {
		t.Fatal(err)
	}
	took := reads - before
	if took < 5 { // its head, its records, and the environment
		t.Errorf("%d reads", took)
	}
	for i := range took {
		ks.PlanRead = counts
		bob = w.reopen(bob, ks)
		first := reads
		ks.PlanRead = func(n int) bool { reads = n; return n == first+1+i }
		if err := process(undo); !errors.Is(err, core.ErrUnavailable) || client.Blames(err) {
			t.Errorf("read %d of %d fails: %v", i+1, took, err)
		}
	}
	ks.PlanRead = nil
	w.must(process(nil))
}

// embedding would believe everybody: the client cannot put an environment into it.
type embedding struct{ e2ei.Authenticator }

func TestAuthenticatorWithoutEnvironment(t *testing.T) {
	t.Parallel()
	for name, auth := range map[string]core.Authenticator{
		"a pointer": &e2ei.Authenticator{}, "embedding": embedding{}, "its own environment": e2ei.Authenticator{Environment: new(e2ei.Environment)},
	} {
		cfg := config()
		cfg.Authenticator = auth
		var err error
		if cfg.Store, err = newWorld(t, clienttest.Options{}).storeWith(memory.New(), 1); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Open(t.Context(), cfg); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
