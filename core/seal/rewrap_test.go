// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

// opens says with which of two keys a store opens: "old", "new" or both.
func opens(t testing.TB, ks core.Keystore) string {
	t.Helper()
	var with []string
	for i, name := range []string{"old", "new"} {
		s, err := seal.Open(context.Background(), ks, wrapper(t, byte(i+1)), "tenant")
		if err == nil {
			is(t, name, contents(t, s, seal.Query{Table: 1, Scope: []byte("g")}), "a=1")
			with = append(with, name)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		} else if !errors.Is(err, core.ErrWrongKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	return strings.Join(with, " and ")
}

func TestRewrap(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	s := open(t, ks)
	other := openTenant(t, ks, "other")
	apply(t, s, puts(put(1, "g", "a", "1")))
	before := dump(t, ks)
	if err := s.Rewrap(t.Context(), wrapper(t, 3), wrapper(t, 2)); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("with a wrong key: %v", err)
	}
	if !maps.Equal(before, dump(t, ks)) || opens(t, ks) != "old" {
		t.Error("a wrong key has changed something")
	}
	if err := s.Rewrap(t.Context(), wrapper(t, 1), forgetful{wrapper(t, 2)}); !errors.Is(err, core.ErrInvalid) || opens(t, ks) != "old" {
		t.Errorf("a wrapper that cannot unwrap: %v; opens with %s", err, opens(t, ks))
	}
	if err := s.Rewrap(t.Context(), wrapper(t, 1), wrapper(t, 2)); err != nil || opens(t, ks) != "new" {
		t.Errorf("%v; opens with %s", err, opens(t, ks))
	}
	apply(t, s, puts(put(1, "g", "a", "1"))) // it goes on
	if err := s.Rewrap(t.Context(), wrapper(t, 1), wrapper(t, 3)); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("with the key of before: %v", err)
	}
	if err := other.Rewrap(t.Context(), wrapper(t, 1), wrapper(t, 1)); err != nil { // with a new root secret
		t.Error(err)
	}
	if opens(t, ks) != "new" {
		t.Error("another tenant's key has changed ours")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Rewrap(t.Context(), wrapper(t, 2), wrapper(t, 1)); !errors.Is(err, core.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// forgetful does not unwrap.
type forgetful struct{ core.KeyWrapper }

func (forgetful) Unwrap(context.Context, []byte, []byte) (core.Secret, error) {
	return core.Secret{}, core.ErrWrongKey
}

// Whatever becomes of the write, one of the two keys opens the store, and it is the new
// one if Rewrap says so.
func TestRewrapFaults(t *testing.T) {
	t.Parallel()
	for _, fault := range []coretest.Fault{coretest.FaultBefore, coretest.FaultLost, coretest.FaultApplied, coretest.FaultLate, coretest.FaultTooLate} {
		for _, killed := range []bool{false, true} {
			inner := memory.New()
			ks := &coretest.Faulty{Keystore: inner}
			s := open(t, ks)
			apply(t, s, puts(put(1, "g", "a", "1")))
			n := ks.Applies() + 1
			ks.Plan = coretest.At(n, fault)
			ctx, cancel := context.WithCancel(t.Context())
			if killed {
				ks.Plan = func(i int, b core.Batch) coretest.Fault {
					ks.Break() // nothing but this one gets through
					cancel()
					return coretest.At(n, fault)(i, b)
				}
			}
			err := s.Rewrap(ctx, wrapper(t, 1), wrapper(t, 2))
			cancel()
			ks.Plan = nil
			ks.Mend()
			if !killed {
				ks.Land(t.Context())
			}
			got := opens(t, inner)
			switch {
			case got != "old" && got != "new":
				t.Errorf("%v, killed %v: opens with %q after %v", fault, killed, got, err)
			case err == nil && got != "new", err != nil && !errors.Is(err, core.ErrUnknownOutcome) && got != "old":
				t.Errorf("%v, killed %v: %v, and opens with the %s key", fault, killed, err, got)
			}
		}
	}
}

// meanwhile does something while it wraps.
type meanwhile struct {
	core.KeyWrapper
	do func()
}

func (m meanwhile) Wrap(ctx context.Context, dek core.Secret, aad []byte) ([]byte, error) {
	m.do()
	return m.KeyWrapper.Wrap(ctx, dek, aad)
}

// Of two that change the key at once one wins, and the other is told.
func TestRewrapConflict(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	s := open(t, ks)
	apply(t, s, puts(put(1, "g", "a", "1")))
	err := s.Rewrap(t.Context(), wrapper(t, 1), meanwhile{wrapper(t, 3), func() {
		if err := s.Rewrap(t.Context(), wrapper(t, 1), wrapper(t, 2)); err != nil {
			t.Error(err)
		}
	}})
	if !errors.Is(err, core.ErrConflict) || opens(t, ks) != "new" {
		t.Errorf("%v; opens with %s", err, opens(t, ks))
	}
}
