// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"errors"
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
