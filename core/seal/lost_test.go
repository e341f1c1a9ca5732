// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

// duringSilence is what meets a store that gives no answers.
var duringSilence = map[string]func(context.Context, *testing.T, core.Keystore, *seal.Store) error{
	"open": func(ctx context.Context, t *testing.T, ks core.Keystore, _ *seal.Store) error {
		return second(seal.Open(ctx, ks, wrapper(t, 1), "another"))
	},
	"apply": func(ctx context.Context, _ *testing.T, _ core.Keystore, s *seal.Store) error {
		return second(s.Apply(ctx, puts(put(1, "g", "a", "2"))))
	},
	"check": func(ctx context.Context, _ *testing.T, _ core.Keystore, s *seal.Store) error {
		return second(s.Apply(ctx, seal.Batch{Expect: []seal.Expectation{{Table: 1, Scope: []byte("g"), Key: []byte("b")}}}))
	},
	"rotate": func(ctx context.Context, _ *testing.T, _ core.Keystore, s *seal.Store) error {
		return second(s.Rotate(ctx, nil))
	},
	"rewrap": func(ctx context.Context, t *testing.T, _ core.Keystore, s *seal.Store) error {
		return s.Rewrap(ctx, wrapper(t, 1), wrapper(t, 1))
	},
	"wipe": func(ctx context.Context, _ *testing.T, _ core.Keystore, s *seal.Store) error { return s.Wipe(ctx) },
}

// endsIn runs an operation that has a minute, and says how long it took.
func endsIn(t *testing.T, name string, ks core.Keystore, s *seal.Store) (took time.Duration, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	began := time.Now()
	err = duringSilence[name](ctx, t, ks, s)
	took = time.Since(began)
	if took > time.Minute {
		t.Errorf("%s took %v", name, took)
	}
	if err != nil && !errors.Is(err, core.ErrUnavailable) && !errors.Is(err, core.ErrUnknownOutcome) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s: %v", name, err)
	}
	return took, err
}

// closes closes a store that gives no answers.
func closes(t *testing.T, s *seal.Store) {
	t.Helper()
	began := time.Now()
	if err := s.Close(); err != nil && !errors.Is(err, core.ErrUnavailable) && !errors.Is(err, core.ErrUnknownOutcome) {
		t.Errorf("Close: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Close took %v", took)
	}
}

// From some call on, a store gives no answers any more. Every operation ends with its
// context, at once if the store does what it is asked and can be read, and does not ask
// again without a pause. What was reported has happened.
func TestSilence(t *testing.T) {
	t.Parallel()
	faults := []coretest.Fault{coretest.FaultBefore, coretest.FaultLost, coretest.FaultApplied, coretest.FaultLate, coretest.FaultTooLate}
	for name := range duringSilence {
		for _, fault := range faults {
			for from := 1; from <= 4; from++ {
				for _, reads := range []bool{true, false} {
					t.Run(fmt.Sprintf("%s/%v from %d/reads %v", name, fault, from, reads), func(t *testing.T) {
						t.Parallel()
						synctest.Test(t, func(t *testing.T) { silence(t, name, fault, from, reads) })
					})
				}
			}
		}
	}
}

func silence(t *testing.T, name string, fault coretest.Fault, from int, reads bool) {
	ks := &coretest.Faulty{Keystore: memory.New()}
	s := open(t, ks)
	apply(t, s, puts(put(1, "g", "a", "1"), put(1, "g", "k", "kept")))
	start, silent := ks.Applies(), false
	ks.Plan = func(n int, _ core.Batch) coretest.Fault {
		if silent = n >= start+from; !silent {
			return coretest.FaultNone
		}
		return fault
	}
	if !reads {
		ks.PlanRead = func(int) bool { return silent }
	}
	took, err := endsIn(t, name, ks, s)
	if reads && fault != coretest.FaultLost && took > time.Second {
		t.Errorf("it took %v", took)
	}
	if tries := ks.Applies() - start; tries > 100 {
		t.Errorf("%d writes in a minute", tries)
	}
	closes(t, s)
	ks.Plan, ks.PlanRead = nil, nil
	ks.Land(t.Context())
	s = open(t, ks)
	if name == "rotate" {
		rotate(t, s)
	}
	want := []string{"a=1 k=kept"}
	unknown := errors.Is(err, core.ErrUnknownOutcome)
	switch {
	case name == "apply" && err == nil:
		want = []string{"a=2 k=kept"}
	case name == "wipe" && err == nil:
		want = []string{""}
	case name == "apply" && unknown:
		want = append(want, "a=2 k=kept")
	case name == "wipe" && unknown:
		want = append(want, "")
	}
	got := strings.Join(contents(t, s, seal.Query{Table: 1, Scope: []byte("g")}), " ")
	if got != want[0] && got != want[len(want)-1] {
		t.Errorf("%v, and the store holds %q", err, got)
	}
}

// Nobody waits longer than they want because somebody else waits for the store, whether
// for a batch of their own or for one that was lost before.
func TestSilenceForTwo(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"apply", "rotate", "rewrap"} {
		for second := range duringSilence {
			for _, before := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/lost before %v", first, second, before), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) { silenceForTwo(t, first, second, before) })
				})
			}
		}
	}
}

func silenceForTwo(t *testing.T, first, second string, before bool) {
	ks := &lostStore{Keystore: memory.New()}
	s := open(t, ks)
	apply(t, s, puts(put(1, "g", "a", "1")))
	ks.lost = true
	if before {
		_, _ = endsIn(t, "apply", ks, s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	outcome := make(chan error, 1)
	go func() { outcome <- duringSilence[first](ctx, t, ks, s) }()
	time.Sleep(time.Second)
	if _, err := endsIn(t, second, ks, s); err == nil {
		t.Errorf("%s: no error", second)
	}
	if got := value(t, s); got != "1" {
		t.Errorf("%q is read", got)
	}
	closes(t, s)
	if err := <-outcome; !errors.Is(err, core.ErrUnknownOutcome) && !(before && errors.Is(err, core.ErrClosed)) {
		t.Errorf("%s: %v", first, err)
	}
}

// Who ends the search does not let a batch that is lost happen after what comes later.
func TestEndSearch(t *testing.T) {
	t.Parallel()
	for _, away := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			inner := memory.New()
			ks := &coretest.Faulty{Keystore: inner}
			s := open(t, ks)
			apply(t, s, puts(put(1, "g", "a", "1")))
			start := ks.Applies()
			var lost core.Batch
			ks.Plan = func(n int, b core.Batch) coretest.Fault {
				if n == start+1 {
					lost = b
					return coretest.FaultLost
				}
				return coretest.FaultBefore
			}
			outcome := make(chan error, 1)
			go func() { outcome <- second(s.Apply(t.Context(), puts(put(1, "g", "a", "2")))) }()
			synctest.Wait()
			s.EndSearch()
			if err := <-outcome; !errors.Is(err, core.ErrUnknownOutcome) {
				t.Errorf("the lost batch: %v", err)
			}
			want := "1"
			if away {
				if _, err := s.Apply(t.Context(), puts(put(1, "g", "a", "3"))); !errors.Is(err, core.ErrClosed) {
					t.Errorf("what comes after it: %v", err)
				}
				ks.Plan = nil
			} else {
				ks.Plan = nil
				apply(t, s, puts(put(1, "g", "a", "3")))
				want = "3"
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if err := inner.Apply(t.Context(), lost); !errors.Is(err, core.ErrConflict) {
				t.Errorf("the lost batch happens: %v", err)
			}
			if got := value(t, open(t, ks)); got != want {
				t.Errorf("the store holds %q, want %q", got, want)
			}
		})
	}
}

// A restore whose last write has happened is not said to have failed, although the store
// is away when it is asked about it.
func TestRestoredAndAway(t *testing.T) {
	t.Parallel()
	from := memory.New()
	filled(t, from)
	saved := backup(t, open(t, from))
	away := false
	ks := &coretest.Faulty{Keystore: memory.New(), Plan: func(_ int, b core.Batch) coretest.Fault {
		switch {
		case away:
			return coretest.FaultBefore
		case len(b.Puts) > 0 && b.Puts[0].Table == 0 && len(b.Puts[0].Value) > 0: // the root record
			away = true
			return coretest.FaultApplied
		}
		return coretest.FaultNone
	}}
	if _, err := restore(t, ks, saved); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Errorf("got error %v", err)
	}
	if is, err := seal.Exists(t.Context(), ks, "tenant"); err != nil || !is {
		t.Errorf("it is there: %v, %v", is, err)
	}
}
