// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

func TestFaultyPassesOn(t *testing.T) {
	TestKeystore(t, func(*testing.T) core.Keystore { return &Faulty{Keystore: newNaive("")} })
}

func TestFaulty(t *testing.T) {
	for _, c := range []struct {
		fault               Fault
		want                error
		at, afterNext, land string // what the store holds then
	}{
		{FaultBefore, core.ErrUnavailable, "", "", ""},
		{FaultLost, core.ErrUnknownOutcome, "", "", ""},
		{FaultApplied, core.ErrUnknownOutcome, "faulty", "faulty", "faulty"},
		{FaultLate, core.ErrUnknownOutcome, "", "faulty", "faulty"},
		{FaultTooLate, core.ErrUnknownOutcome, "", "faulty", "faulty"},
	} {
		t.Run(c.fault.String(), func(t *testing.T) {
			value := func(k *kit) string {
				if r := k.one(1, "a"); r != nil {
					return string(r.Value)
				}
				return ""
			}
			start := func() (*kit, *Faulty) {
				store := &Faulty{Keystore: newNaive(""), Plan: At(2, c.fault)}
				k := newKit(t, func() core.Keystore { return store })
				k.puts(put(2, "first", ""))
				b := core.Batch{Expect: []core.Expectation{expect(1, "a", core.Version{})}, Puts: []core.Put{put(1, "a", "faulty")}}
				if err := store.Apply(t.Context(), b); !errors.Is(err, c.want) {
					t.Errorf("got error %v, want %v", err, c.want)
				}
				b.Puts[0].Value[0] = 'F' // the caller's again
				if got := value(k); got != c.at {
					t.Errorf("at once: %q, want %q", got, c.at)
				}
				return k, store
			}
			k, _ := start()
			k.puts(put(2, "next", ""))
			if got := value(k); got != c.afterNext {
				t.Errorf("after the next: %q, want %q", got, c.afterNext)
			}
			k, store := start()
			store.Land(t.Context())
			if got := value(k); got != c.land {
				t.Errorf("landed: %q, want %q", got, c.land)
			}
			// A batch that takes its place: late comes before it, too late after.
			k, store = start()
			p := put(1, "a", "instead")
			err := store.Apply(t.Context(), core.Batch{Expect: []core.Expectation{expect(1, "a", core.Version{})}, Puts: []core.Put{p}})
			if won := c.fault != FaultApplied && c.fault != FaultLate; won != (err == nil) {
				t.Errorf("the batch instead of it: error %v", err)
			}
			store.Break()
			if _, err := store.Read(t.Context(), nil); !errors.Is(err, core.ErrUnavailable) {
				t.Errorf("broken: got error %v", err)
			}
			store.Mend()
			if value(k) == "" {
				t.Error("neither happened")
			}
			if store.Applies() != 3 {
				t.Errorf("%d calls of Apply, want 3", store.Applies())
			}
		})
	}
}

func TestFaultyKeystoreAcceptsRight(t *testing.T) {
	TestFaultyKeystore(t, func(*testing.T) core.Keystore { return newNaive("") })
}

// What only those find out who look for lost batches: the receipt is the last
// expectation and the last put.
func TestFaultyKeystoreCatchesWrong(t *testing.T) {
	for _, wrong := range []string{"forgets the last expectation", "expectations outside the lock", "applies up to the failed expectation"} {
		t.Run(wrong, func(t *testing.T) {
			t.Parallel()
			catchesWrong(t, faultyChecks, func(testing.TB) core.Keystore { return newNaive(wrong) })
		})
	}
	// Every fault happens, and does harm to those who only try again.
	seen := map[Fault]bool{}
	f := breaking(newNaive(""), 1)
	for n := range 100 {
		seen[f.Plan(n, core.Batch{})] = true
	}
	if len(seen) != int(FaultTooLate)+1 {
		t.Errorf("only these faults happen: %v", seen)
	}
	for _, c := range []string{"no update is lost", "random batches"} {
		only := slices.DeleteFunc(slices.Clone(keystoreChecks), func(k keystoreCheck) bool { return k.name != c })
		catchesWrong(t, only, func(testing.TB) core.Keystore { return &impatient{breaking(newNaive(""), 1)} }, c)
	}
}

// An impatient takes an unknown outcome for none.
type impatient struct{ *Faulty }

func (i *impatient) Apply(ctx context.Context, b core.Batch) error {
	for {
		err := i.Faulty.Apply(ctx, b)
		if !errors.Is(err, core.ErrUnavailable) && !errors.Is(err, core.ErrUnknownOutcome) {
			return err
		}
	}
}

func (i *impatient) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	return i.Keystore.Read(ctx, queries)
}
