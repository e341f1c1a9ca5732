// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

func value(t testing.TB, s *seal.Store) string {
	t.Helper()
	got := contents(t, s, seal.Query{Table: 1, Scope: []byte("g"), Prefix: []byte("a")})
	if len(got) == 0 {
		return ""
	}
	return got[0][len("a="):]
}

// What Apply says of a batch is what became of it, and stays so, for each fault
// of the batch and each of the call that asks about it, with a new receipt and
// with one that exists.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	faults := []coretest.Fault{coretest.FaultNone, coretest.FaultBefore, coretest.FaultLost, coretest.FaultApplied, coretest.FaultLate, coretest.FaultTooLate}
	for _, first := range faults {
		for _, second := range faults {
			for _, third := range faults {
				for _, used := range []bool{false, true} {
					name := fmt.Sprintf("%v, then %v, then %v, receipt exists: %v", first, second, third, used)
					synctest.Test(t, func(t *testing.T) {
						ks := &coretest.Faulty{Keystore: memory.New()}
						s := open(t, ks)
						if used {
							apply(t, s, puts(put(2, "x", "", "")))
						}
						ks.Plan = planned(ks.Applies(), first, second, third)
						versions, err := s.Apply(t.Context(), puts(put(1, "g", "a", "1")))
						ks.Plan = nil
						happened := value(t, s) == "1"
						switch {
						case errors.Is(err, core.ErrUnknownOutcome):
							t.Errorf("%s: the outcome was left unknown: %v", name, err)
						case err != nil && !errors.Is(err, core.ErrUnavailable):
							t.Errorf("%s: got error %v", name, err)
						case happened != (err == nil):
							t.Errorf("%s: got error %v, but applied: %v", name, err, happened)
						}
						if first == coretest.FaultApplied && err != nil {
							t.Errorf("%s: got error %v for a batch that was applied", name, err)
						}
						// It stays so, whatever still lands, and the store is usable.
						ks.Land(t.Context())
						if now := value(t, s) == "1"; now != happened {
							t.Errorf("%s: it changed later", name)
						}
						if err == nil {
							apply(t, s, seal.Batch{
								Expect: []seal.Expectation{{Table: 1, Scope: []byte("g"), Key: []byte("a"), Version: versions[0]}},
								Puts:   []seal.Put{put(1, "g", "a", "2")},
							})
						} else {
							apply(t, s, puts(put(1, "g", "a", "2")))
						}
						if got := value(t, s); got != "2" {
							t.Errorf("%s: the next batch left %q", name, got)
						}
						if err := s.Close(); err != nil {
							t.Errorf("%s: close: %v", name, err)
						}
					})
				}
			}
		}
	}
}

// planned gives these faults to the calls after the given number, in order.
func planned(after int, faults ...coretest.Fault) func(int, core.Batch) coretest.Fault {
	return func(n int, _ core.Batch) coretest.Fault {
		if n > after && n <= after+len(faults) {
			return faults[n-after-1]
		}
		return coretest.FaultNone
	}
}

// A conflict of the caller's own is the caller's, also when the answer was lost.
func TestConflictIsTheCallers(t *testing.T) {
	t.Parallel()
	ks := &coretest.Faulty{Keystore: memory.New()}
	s := open(t, ks)
	apply(t, s, puts(put(1, "g", "a", "1")))
	stale := seal.Batch{Expect: []seal.Expectation{{Table: 1, Scope: []byte("g"), Key: []byte("a")}}, Puts: []seal.Put{put(1, "g", "a", "wrong")}}
	if _, err := s.Apply(t.Context(), stale); !errors.Is(err, core.ErrConflict) {
		t.Errorf("got error %v, want ErrConflict", err)
	}
	ks.Plan = planned(ks.Applies(), coretest.FaultApplied)
	if _, err := s.Apply(t.Context(), stale); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("answer lost: got error %v, want ErrUnavailable", err)
	}
	if got := value(t, s); got != "1" {
		t.Errorf("the store holds %q", got)
	}
}

// Receipts that somebody removed are made again, and nobody notices.
func TestReceiptGone(t *testing.T) {
	t.Parallel()
	inner := memory.New()
	ks := &coretest.Faulty{Keystore: inner}
	s := open(t, ks)
	removeReceipts := func() {
		answers, err := inner.Read(t.Context(), []core.Query{{Table: 0}})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range answers[0] {
			if len(r.Key) > 16 {
				if err := inner.Apply(t.Context(), core.Batch{Dels: []core.Range{{Table: 0, Prefix: r.Key}}}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for i := range 3 {
		apply(t, s, puts(put(1, "g", "a", fmt.Sprint(i))))
		removeReceipts()
		if got := value(t, s); got != fmt.Sprint(i) {
			t.Errorf("round %d: the store holds %q", i, got)
		}
	}
	// A receipt that goes while it is needed leaves the outcome unknown, once.
	apply(t, s, puts(put(1, "g", "a", "before")))
	start := ks.Applies()
	ks.Plan = func(n int, _ core.Batch) coretest.Fault {
		if n == start+2 {
			removeReceipts()
		}
		return planned(start, coretest.FaultApplied)(n, core.Batch{})
	}
	if _, err := s.Apply(t.Context(), puts(put(1, "g", "a", "after"))); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Errorf("receipt gone while it is needed: got error %v, want ErrUnknownOutcome", err)
	}
	apply(t, s, puts(put(1, "g", "a", "next")))
}

func TestUnresolved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		inner := memory.New()
		ks := &coretest.Faulty{Keystore: inner}
		s := open(t, ks)
		apply(t, s, puts(put(1, "g", "a", "1")))

		// The connection stays away longer than the context allows.
		start := ks.Applies()
		var lost core.Batch
		ks.Plan = func(n int, b core.Batch) coretest.Fault {
			if n == start+1 {
				lost = core.Batch{Expect: slices.Clone(b.Expect), Puts: slices.Clone(b.Puts)}
				return coretest.FaultLost
			}
			return coretest.FaultBefore
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := s.Apply(ctx, puts(put(1, "g", "a", "2")))
		if !errors.Is(err, core.ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, core.ErrUnavailable) {
			t.Errorf("got error %v, want ErrUnknownOutcome and the context's", err)
		}
		if tries := ks.Applies() - start; tries > 100 {
			t.Errorf("%d tries in a minute", tries)
		}
		ks.Plan = nil
		ended, end := context.WithCancel(t.Context())
		end()
		if _, err := s.Apply(ended, puts(put(1, "g", "a", "x"))); !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v, want the context's", err)
		}
		// What comes after it is written after it.
		apply(t, s, puts(put(1, "g", "a", "3")))
		if err := inner.Apply(t.Context(), lost); !errors.Is(err, core.ErrConflict) {
			t.Errorf("the lost batch lands after what came later: %v", err)
		}
		if got := value(t, s); got != "3" {
			t.Errorf("the store holds %q", got)
		}
		// The store is closed underneath.
		start = ks.Applies()
		ks.Plan = func(n int, b core.Batch) coretest.Fault {
			inner.Close()
			return planned(start, coretest.FaultLost)(n, b)
		}
		if _, err := s.Apply(t.Context(), puts(put(1, "g", "a", "4"))); !errors.Is(err, core.ErrUnknownOutcome) {
			t.Errorf("closed: got error %v, want ErrUnknownOutcome", err)
		}
		ks.Plan = nil
		if err := s.Close(); !errors.Is(err, core.ErrClosed) {
			t.Errorf("close over a closed keystore: got error %v", err)
		}
	})
}

// Faults while the keys are made: one set of keys comes of it.
func TestFaultsAtFirstOpen(t *testing.T) {
	t.Parallel()
	for _, fault := range []coretest.Fault{coretest.FaultLost, coretest.FaultApplied, coretest.FaultLate, coretest.FaultTooLate} {
		ks := &coretest.Faulty{Keystore: memory.New(), Plan: coretest.At(1, fault)}
		s := open(t, ks)
		apply(t, s, puts(put(1, "g", "a", "1")))
		ks.Land(t.Context())
		if got := value(t, open(t, ks)); got != "1" {
			t.Errorf("%v: another store reads %q", fault, got)
		}
	}
	ks := &coretest.Faulty{Keystore: memory.New(), Plan: coretest.At(1, coretest.FaultBefore)}
	if _, err := seal.Open(t.Context(), ks, wrapper(t, 1), "tenant"); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("not available: got error %v", err)
	}
	ks.PlanRead = func(int) bool { return true }
	if _, err := seal.Open(t.Context(), ks, wrapper(t, 1), "tenant"); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("read not available: got error %v", err)
	}
}

// A counter under random faults counts what was reported, no more and no less.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(3, 4))
		ks := &coretest.Faulty{Keystore: memory.New()}
		s := open(t, ks)
		ks.Plan = func(int, core.Batch) coretest.Fault {
			return coretest.Fault(max(0, random.IntN(12)-6))
		}
		ks.PlanRead = func(int) bool { return random.IntN(10) == 0 }
		count := 0
		var version core.Version
		for range 2000 {
			v, err := s.Apply(t.Context(), seal.Batch{
				Expect: []seal.Expectation{{Table: 1, Scope: []byte("g"), Key: []byte("a"), Version: version}},
				Puts:   []seal.Put{put(1, "g", "a", fmt.Sprint(count+1))},
			})
			if err == nil {
				count++
				version = v[0]
			} else if !errors.Is(err, core.ErrUnavailable) {
				t.Fatalf("got error %v", err)
			}
		}
		ks.Plan, ks.PlanRead = nil, nil
		if got := value(t, s); got != fmt.Sprint(count) || count < 500 {
			t.Errorf("the store counted %q, the caller %d", got, count)
		}
	})
}
