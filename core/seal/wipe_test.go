// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

func TestEach(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	s, other := open(t, ks), openTenant(t, ks, "other")
	want := map[string]bool{}
	for i := range 600 {
		key := fmt.Sprint(i)
		want[key] = true
		apply(t, s, puts(put(1, fmt.Sprint("scope ", i%7), key, key), put(2, "x", key, "")))
		apply(t, other, puts(put(1, "scope 1", key, "not ours")))
	}
	large := string(bytes.Repeat([]byte{1}, seal.MaxValue))
	for i := range 70 { // more than a store hands out at once
		apply(t, s, puts(put(3, "large", fmt.Sprintf("%02d", i), large)))
	}
	if err := s.Each(t.Context(), 1, func(r seal.Record) error {
		if string(r.Key) != string(r.Value) || !want[string(r.Key)] {
			t.Errorf("%s=%s", r.Key, r.Value)
		}
		delete(want, string(r.Key))
		return nil
	}); err != nil || len(want) > 0 {
		t.Errorf("%v; not seen: %v", err, want)
	}
	n := 0
	if err := s.Each(t.Context(), 3, func(seal.Record) error { n++; return nil }); err != nil || n != 70 {
		t.Errorf("%d large records, %v", n, err)
	}
	stop := errors.New("stop")
	if err := s.Each(t.Context(), 1, func(seal.Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	if err := s.Each(t.Context(), 0, nil); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("table 0: %v", err)
	}
}

// filled is a store with records of two tenants.
func filled(t testing.TB, ks core.Keystore) (ours, theirs *seal.Store) {
	ours, theirs = open(t, ks), openTenant(t, ks, "other")
	for i := range 300 {
		for _, s := range []*seal.Store{ours, theirs} {
			apply(t, s, puts(put(1, fmt.Sprint("scope ", i%70), fmt.Sprintf("%03d", i), "value"), put(255, "last", fmt.Sprintf("%03d", i), "")))
		}
	}
	return ours, theirs
}

func everything(t testing.TB, ks core.Keystore) map[string]string {
	t.Helper()
	all := dump(t, ks)
	answers, err := ks.Read(context.Background(), []core.Query{{Table: 255}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range answers[0] {
		all["255/"+string(r.Key)] = string(r.Value)
	}
	return all
}

// Nothing of the tenant is left, and nothing of another is touched.
func TestWipe(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	theirs := openTenant(t, ks, "other")
	apply(t, theirs, puts(put(1, "scope", "key", "value"), put(255, "last", "key", "")))
	before := everything(t, ks)
	ours := open(t, ks)
	second := open(t, ks) // whose receipts are ours as well
	for i := range 300 {
		apply(t, ours, puts(put(1, fmt.Sprint("scope ", i%70), fmt.Sprintf("%03d", i), "value"), put(255, "last", fmt.Sprintf("%03d", i), "")))
	}
	apply(t, second, puts(put(2, "x", "y", "z")))
	if err := ours.Wipe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := everything(t, ks); !maps.Equal(before, after) {
		t.Errorf("%d records before, %d after: %q", len(before), len(after), slices.Collect(maps.Keys(after)))
	}
	if _, err := ours.Read(t.Context(), nil); !errors.Is(err, core.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if err := errors.Join(ours.Close(), second.Wipe(t.Context())); err != nil {
		t.Errorf("again: %v", err)
	}
	fresh := open(t, ks)
	is(t, "opened anew", contents(t, fresh, seal.Query{Table: 255, Scope: []byte("last")}))
	if err := fresh.Close(); err != nil {
		t.Error(err)
	}
	if err := fresh.Wipe(t.Context()); !errors.Is(err, core.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// All is there or nothing is, whatever becomes of the write; and one that lands late
// does not meet who has begun anew.
func TestWipeFaults(t *testing.T) {
	t.Parallel()
	for _, fault := range []coretest.Fault{coretest.FaultBefore, coretest.FaultLost, coretest.FaultApplied, coretest.FaultLate, coretest.FaultTooLate} {
		ks := &coretest.Faulty{Keystore: memory.New()}
		ours, _ := filled(t, ks)
		before := everything(t, ks.Keystore)
		ks.Plan = coretest.At(ks.Applies()+1, fault)
		err := ours.Wipe(t.Context())
		if fault == coretest.FaultBefore {
			if !errors.Is(err, core.ErrUnavailable) || !maps.Equal(before, everything(t, ks.Keystore)) {
				t.Errorf("%v: %v", fault, err)
			}
			err = ours.Wipe(t.Context())
		}
		if after := everything(t, ks.Keystore); err != nil || len(after)*2 > len(before) {
			t.Errorf("%v: %v; %d records before, %d after", fault, err, len(before), len(after))
		}
		fresh := open(t, ks)
		apply(t, fresh, puts(put(1, "g", "a", "1")))
		ks.Land(t.Context())
		if got := opens(t, ks); got != "old" {
			t.Errorf("%v: begun anew, it opens with %q", fault, got)
		}
	}
}

// lateStore loses one batch until somebody finds it.
type lateStore struct {
	core.Keystore
	lose bool
	lost *core.Batch
}

func (s *lateStore) Apply(ctx context.Context, b core.Batch) error {
	if s.lose {
		s.lose, s.lost = false, &b
		return core.ErrUnknownOutcome
	}
	return s.Keystore.Apply(ctx, b)
}

// A wipe that was lost, and done again, does nothing when it turns up later.
func TestWipeTurnsUpLate(t *testing.T) {
	t.Parallel()
	ks := &lateStore{Keystore: memory.New()}
	s := open(t, ks)
	apply(t, s, puts(put(1, "g", "a", "0")))
	ks.lose = true
	if err := s.Wipe(t.Context()); err != nil || ks.lost == nil {
		t.Fatal(err)
	}
	apply(t, open(t, ks), puts(put(1, "g", "a", "1")))
	if err := ks.Apply(t.Context(), *ks.lost); !errors.Is(err, core.ErrConflict) {
		t.Errorf("late: %v", err)
	}
	if got := opens(t, ks); got != "old" {
		t.Errorf("begun anew, it opens with %q", got)
	}
}
