// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"errors"
	"runtime"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

func openTallies(t *testing.T) (*client.Client, *coretest.Faulty) {
	t.Helper()
	ks := &coretest.Faulty{Keystore: memory.New()}
	p := pure.New()
	c, err := client.Open(t.Context(), client.Config{Store: openStore(t, ks), Suites: p, Keys: p})
	if err != nil {
		t.Fatal(err)
	}
	return c, ks
}

func begin(t *testing.T, c *client.Client) *client.Transaction {
	t.Helper()
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

// TestParties: what is no conversation is held, changed by one write with the others,
// and let go.
func TestParties(t *testing.T) {
	t.Parallel()
	c, ks := openTallies(t)
	a, b, d := client.TallyAt("a"), client.TallyAt("b"), client.TallyAt("d")
	tx := begin(t, c)
	list, err := client.Tallies(t.Context(), tx, d, a, b, a)
	if err != nil {
		t.Fatal(err)
	}
	if list[1] != list[3] {
		t.Error("one place was held twice")
	}
	list[0].Use()
	list[1].Use()
	again, err := client.Tallies(t.Context(), tx, a)
	if err != nil || again[0] != list[1] {
		t.Errorf("what is held is another: %v", err)
	}
	other := begin(t, c)
	if _, err := client.Tallies(t.Context(), other, client.TallyAt("e")); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Tallies(t.Context(), other, client.TallyAt("f"), b); !errors.Is(err, core.ErrConflict) {
		t.Errorf("who holds one waits, or gets what is taken: %v", err)
	}
	if client.TryLock(c, client.TallyAt("f")) == nil {
		t.Error("what was not to be had alone is still held")
	}
	if client.Unchanged(tx) {
		t.Error("two are changed")
	}
	before := ks.Applies()
	if err := tx.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := ks.Applies() - before; n != 1 {
		t.Errorf("%d writes", n)
	}
	if list[0].Version == (core.Version{}) || list[2].Version != (core.Version{}) {
		t.Error("who has changed is told its version, and nobody else")
	}
	if now, err := client.Tallies(t.Context(), other, b); err != nil || now[0].Version != (core.Version{}) {
		t.Errorf("it was let go, and not written: %v", err)
	}
	if err := other.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}

	// Another process changes one of two: neither is written.
	tx = begin(t, c)
	if list, err = client.Tallies(t.Context(), tx, a, b); err != nil {
		t.Fatal(err)
	}
	if err := client.WriteTally(t.Context(), c, b, 7); err != nil {
		t.Fatal(err)
	}
	list[0].Use()
	list[1].Use()
	if err := tx.Finish(t.Context()); !errors.Is(err, core.ErrConflict) {
		t.Errorf("a change of another process is overwritten: %v", err)
	}
	for _, p := range []client.Place{a, b} { // a conflict is an abort as well: both have burnt one
		if y := tallyNow(t, c, p); y.Count != map[client.Place]uint64{a: 2, b: 7}[p] {
			t.Errorf("%v: %d", p, y.Count)
		}
	}
}

func tallyNow(t *testing.T, c *client.Client, p client.Place) *client.Tally {
	t.Helper()
	tx := begin(t, c)
	list, err := client.Tallies(t.Context(), tx, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	return list[0]
}

// TestPartiesInOneOrder: who waits for several waits for the first, and holds none behind
// it meanwhile.
func TestPartiesInOneOrder(t *testing.T) {
	t.Parallel()
	c, _ := openTallies(t)
	places := []client.Place{client.PSKAt("a"), client.TallyAt("b"), client.TallyAt("a")}
	first := client.TallyAt("a") // its table is lower, and then its scope
	release := client.TryLock(c, first)
	tx, done := begin(t, c), make(chan error)
	go func() {
		_, err := client.Tallies(t.Context(), tx, places...)
		done <- err
	}()
	for client.Lockers(c, first) < 2 {
		runtime.Gosched()
	}
	for _, p := range places {
		if p == first {
			continue
		}
		behind := client.TryLock(c, p)
		if behind == nil {
			t.Fatalf("%v is held by who waits for %v", p, first)
		}
		behind()
	}
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := tx.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestPartyBurns: what a dropped segment has used is raised, and what holds it is closed
// until that is written.
func TestPartyBurns(t *testing.T) {
	t.Parallel()
	c, ks := openTallies(t)
	p := client.TallyAt("a")
	use := func(n int, end func(*client.Transaction) error) error {
		tx := begin(t, c)
		list, err := client.Tallies(t.Context(), tx, p)
		if err != nil {
			return errors.Join(err, tx.Abort(t.Context()))
		}
		for range n {
			list[0].Use()
		}
		return end(tx)
	}
	abort := func(tx *client.Transaction) error { return tx.Abort(t.Context()) }
	if err := use(3, abort); err != nil {
		t.Fatal(err)
	}
	if y := tallyNow(t, c, p); y.Count != 3 || y.Version != (core.Version{}) {
		t.Errorf("%d is the last that was used, want 3, and nothing else is written", y.Count)
	}
	ks.Plan = func(int, core.Batch) coretest.Fault { return coretest.FaultBefore }
	if err := use(2, abort); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("nobody is told: %v", err)
	}
	if err := use(1, abort); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("it is open, and what was used would be again: %v", err)
	}
	if _, err := client.Tallies(t.Context(), begin(t, c), client.TallyAt("b")); err != nil {
		t.Errorf("the others are closed: %v", err)
	}
	ks.Plan = nil
	if err := use(1, func(tx *client.Transaction) error { return tx.Finish(t.Context()) }); err != nil {
		t.Fatal(err)
	}
	if y := tallyNow(t, c, p); y.Count != 6 {
		t.Errorf("%d is the last that was used, want 6", y.Count)
	}
}
