// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

// sealedWith counts the stored values of all tenants by data key.
func sealedWith(t testing.TB, ks core.Keystore) map[uint32]int {
	t.Helper()
	counts := map[uint32]int{}
	for table := 1; table < 256; table++ {
		answers, err := ks.Read(t.Context(), []core.Query{{Table: core.Table(table)}})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range answers[0] {
			counts[seal.GenerationOf(r.Value)]++
		}
	}
	return counts
}

func rotate(t testing.TB, s *seal.Store) seal.Report {
	t.Helper()
	report, err := s.Rotate(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// A rotation leaves values and versions as they were, nothing sealed with the old key,
// no old key, and other Stores working.
func TestRotate(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	ours, theirs := filled(t, ks)
	other := open(t, ks)
	all := seal.Query{Table: 255, Scope: []byte("last")}
	want := contents(t, ours, all)
	apply(t, other, puts(put(3, "g", "a", "1"), put(3, "g", "empty", "")))
	before, err := ours.Read(t.Context(), []seal.Query{{Table: 3, Scope: []byte("g")}})
	if err != nil {
		t.Fatal(err)
	}
	var last, total int
	report, err := ours.Rotate(t.Context(), func(done, of int) { last, total = done, of })
	if err != nil || report.Records != 602 || report.Damaged != 0 || last != 602 || total != 602 {
		t.Errorf("%+v, %d of %d, %v", report, last, total, err)
	}
	if got := sealedWith(t, ks); got[2] != 602 || got[1] != 600 || len(got) != 2 {
		t.Errorf("values by data key: %v", got)
	}
	is(t, "ours", contents(t, ours, all), want...)
	is(t, "other Store of ours", contents(t, other, all), want...)
	is(t, "theirs", contents(t, theirs, all), want...)
	if keys := seal.DataKeys(open(t, ks)); !slices.Equal(keys, []uint32{2}) {
		t.Errorf("data keys: %v", keys)
	}
	// What was read before still holds: the versions are the same.
	var b seal.Batch
	for _, r := range before[0] {
		b.Expect = append(b.Expect, seal.Expectation{Table: 3, Scope: []byte("g"), Key: r.Key, Version: r.Version})
	}
	b.Puts = []seal.Put{put(3, "g", "b", "2")}
	apply(t, other, b)
	// And a Store that has written nothing meanwhile seals with the new key.
	for i := range 3 {
		rotate(t, ours)
		apply(t, other, puts(put(3, "g", "c", fmt.Sprint(i))))
	}
	if got := sealedWith(t, ks); got[5] != 604 || len(got) != 2 {
		t.Errorf("values by data key: %v", got)
	}
	is(t, "afterwards", contents(t, open(t, ks), seal.Query{Table: 3, Scope: []byte("g")}), "a=1", "b=2", "c=2", "empty=")
	if err := errors.Join(ours.Close(), other.Close(), theirs.Close()); err != nil {
		t.Error(err)
	}
}

// Stores that count, and rotations at the same time: no count is lost, and nobody sees
// an error but a conflict.
func TestRotateMeanwhile(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	var rotators, counters sync.WaitGroup
	var done atomic.Bool
	var counted [2]atomic.Int64
	first := open(t, ks)
	for i := range 300 {
		apply(t, first, puts(put(2, "ballast", fmt.Sprint(i), "x")))
	}
	for range 2 { // who rotate at once
		s := open(t, ks)
		rotators.Go(func() {
			for range 5 {
				for before := counted[0].Load(); counted[0].Load() < before+20 && !t.Failed(); {
					runtime.Gosched()
				}
				if _, err := s.Rotate(t.Context(), nil); err != nil && !errors.Is(err, core.ErrConflict) {
					t.Errorf("rotate: %v", err)
				}
			}
		})
	}
	for i := range 4 {
		s := open(t, ks)
		scope := []byte(fmt.Sprint("counter ", i%2))
		counters.Go(func() {
			for !done.Load() {
				err := countOne(t.Context(), s, scope)
				if err == nil {
					counted[i%2].Add(1)
				} else if !errors.Is(err, core.ErrConflict) {
					t.Errorf("count: %v", err)
					return
				}
			}
		})
	}
	rotators.Wait()
	done.Store(true)
	counters.Wait()
	fresh := open(t, ks)
	for i := range 2 {
		is(t, "counter", contents(t, fresh, seal.Query{Table: 1, Scope: []byte(fmt.Sprint("counter ", i))}), fmt.Sprint("n=", counted[i].Load()))
	}
	if report, err := fresh.Verify(t.Context(), nil); err != nil || report.Damaged != 0 || report.Records != 302 {
		t.Errorf("%+v, %v", report, err)
	}
}

func countOne(ctx context.Context, s *seal.Store, scope []byte) error {
	found, err := s.Read(ctx, []seal.Query{{Table: 1, Scope: scope, Prefix: []byte("n")}})
	if err != nil {
		return err
	}
	n, e := 0, seal.Expectation{Table: 1, Scope: scope, Key: []byte("n")}
	if len(found[0]) > 0 {
		n, _ = strconv.Atoi(string(found[0][0].Value))
		e.Version = found[0][0].Version
	}
	_, err = s.Apply(ctx, seal.Batch{
		Expect: []seal.Expectation{e},
		Puts:   []seal.Put{{Table: 1, Scope: scope, Key: []byte("n"), Value: []byte(fmt.Sprint(n + 1))}},
	})
	return err
}

// Whatever happens to one of its writes, also if the process ends there: everything can
// be read, by others too, and the next rotation is complete.
func TestRotateFaults(t *testing.T) {
	t.Parallel()
	for _, fault := range []coretest.Fault{coretest.FaultBefore, coretest.FaultLost, coretest.FaultApplied, coretest.FaultLate, coretest.FaultTooLate} {
		for _, killed := range []bool{false, true} {
			for n := 1; ; n++ {
				ks := &coretest.Faulty{Keystore: memory.New()}
				s, other := open(t, ks), open(t, ks)
				var want []string
				for i := range 40 {
					apply(t, other, puts(put(1, "scope", fmt.Sprintf("%02d", i), "value")))
					want = append(want, fmt.Sprintf("%02d=value", i))
				}
				ctx, cancel := context.WithCancel(t.Context())
				first, reached := ks.Applies(), false
				ks.Plan = func(i int, _ core.Batch) coretest.Fault {
					if i != first+n {
						return coretest.FaultNone
					}
					reached = true
					if killed {
						ks.Break()
						cancel()
					}
					return fault
				}
				_, err := s.Rotate(ctx, nil)
				cancel()
				ks.Plan = nil
				ks.Mend()
				if !reached {
					break
				}
				if killed && err == nil || err != nil && !killed && !errors.Is(err, core.ErrUnavailable) {
					t.Errorf("%v at write %d: %v", fault, n, err)
				}
				what := fmt.Sprintf("%v at write %d, killed: %v", fault, n, killed)
				is(t, what, contents(t, other, seal.Query{Table: 1, Scope: []byte("scope")}), want...)
				apply(t, other, puts(put(1, "new", "key", "value")))
				fresh := open(t, ks)
				rotate(t, fresh)
				ks.Land(t.Context())
				is(t, what, contents(t, fresh, seal.Query{Table: 1, Scope: []byte("scope")}), want...)
				if got := sealedWith(t, ks); len(got) != 1 || len(seal.DataKeys(open(t, ks))) != 1 {
					t.Errorf("%s: values by data key: %v, keys %v", what, got, seal.DataKeys(fresh))
				}
				apply(t, other, puts(put(1, "new", "key", "value")))
			}
		}
	}
}

// A write of a rotation that lands after the next one would bring back a value that
// nobody can read.
func TestRotateTooLate(t *testing.T) {
	t.Parallel()
	ks := &coretest.Faulty{Keystore: memory.New()}
	s := open(t, ks)
	apply(t, s, puts(put(1, "g", "a", "value")))
	var late []core.Batch
	ks.Plan = func(_ int, b core.Batch) coretest.Fault {
		late = append(late, core.Batch{Expect: slices.Clone(b.Expect), Dels: b.Dels, Puts: slices.Clone(b.Puts)})
		return coretest.FaultNone
	}
	rotate(t, s)
	rotate(t, s)
	ks.Plan = nil
	for _, b := range late {
		if err := ks.Apply(t.Context(), b); !errors.Is(err, core.ErrConflict) {
			t.Errorf("a write of an earlier rotation: %v", err)
		}
	}
	is(t, "afterwards", contents(t, open(t, ks), seal.Query{Table: 1, Scope: []byte("g")}), "a=value")
}

// Somebody else ends our rotation and begins the next: that one's keys are not ours to
// destroy.
func TestRotateOvertaken(t *testing.T) {
	t.Parallel()
	inner := memory.New()
	ks := &coretest.Faulty{Keystore: inner}
	s, other := open(t, inner), open(t, ks)
	apply(t, s, puts(put(1, "g", "a", "value")))
	overtaken := false
	_, err := s.Rotate(t.Context(), func(done, total int) {
		if done < total || overtaken {
			return
		}
		overtaken = true
		rotate(t, other)
		first := ks.Applies()
		ks.Plan = coretest.At(first+2, coretest.FaultBefore) // it has its key, and no more
		if _, err := other.Rotate(t.Context(), nil); !errors.Is(err, core.ErrUnavailable) {
			t.Errorf("the other: %v", err)
		}
	})
	if err != nil || !overtaken {
		t.Error(err)
	}
	is(t, "afterwards", contents(t, open(t, inner), seal.Query{Table: 1, Scope: []byte("g")}), "a=value")
	if keys := seal.DataKeys(open(t, inner)); !slices.Equal(keys, []uint32{2, 3}) {
		t.Errorf("data keys: %v", keys)
	}
}

// A Store that was opened before the wrapping key changed goes on until the data key
// changes too.
func TestRotateAfterRewrap(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	s, other := open(t, ks), open(t, ks)
	if err := s.Rewrap(t.Context(), wrapper(t, 1), wrapper(t, 2)); err != nil {
		t.Fatal(err)
	}
	apply(t, other, puts(put(1, "g", "a", "1")))
	rotate(t, s)
	if _, err := other.Apply(t.Context(), puts(put(1, "g", "a", "2"))); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("apply: %v", err)
	}
	if _, err := other.Read(t.Context(), []seal.Query{{Table: 1, Scope: []byte("g")}}); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("read: %v", err)
	}
	if _, err := other.Rotate(t.Context(), nil); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("rotate: %v", err)
	}
	again, err := seal.Open(t.Context(), ks, wrapper(t, 2), "tenant")
	if err != nil {
		t.Fatal(err)
	}
	is(t, "afterwards", contents(t, again, seal.Query{Table: 1, Scope: []byte("g")}), "a=1")
}

// Damaged records do not keep a rotation from its end.
func TestRotateDamaged(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	s := open(t, ks)
	apply(t, s, puts(put(1, "g", "a", "1"), put(1, "g", "b", "2"), put(1, "g", "c", "3")))
	answers, err := ks.Read(t.Context(), []core.Query{{Table: 1}})
	if err != nil {
		t.Fatal(err)
	}
	r := answers[0][1]
	r.Value[len(r.Value)-1] ^= 1
	if err := ks.Apply(t.Context(), core.Batch{Puts: []core.Put{{Table: 1, Key: r.Key, Value: r.Value, Version: r.Version}}}); err != nil {
		t.Fatal(err)
	}
	if report := rotate(t, s); report.Damaged != 1 || report.Records != 3 || !errors.Is(report.Last, core.ErrDamaged) {
		t.Errorf("%+v", report)
	}
	if report, err := s.Verify(t.Context(), nil); err != nil || report.Damaged != 1 || report.Records != 3 {
		t.Errorf("%+v, %v", report, err)
	}
	is(t, "the others", contents(t, open(t, ks), seal.Query{Table: 1, Scope: []byte("g"), Prefix: []byte("c")}), "c=3")
}
