// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// What two batches at the same time must not do: each of them alone would be
// right, and both together could not have come one after the other. Databases
// allow it unless they are asked not to.

// pairs is how many pairs of batches a check starts at the same moment.
const pairs = 40

// together applies a batch to each of two stores on one state at the same moment
// and says which of them happened. A conflict may also be one that the store had
// with itself: it is up to it which of the two it lets through, if any.
func together(t testing.TB, one, two *kit, first, second core.Batch) (happened [2]bool) {
	t.Helper()
	var errs [2]error
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i, side := range []struct {
		k *kit
		b core.Batch
	}{{one, first}, {two, second}} {
		wg.Go(func() {
			defer caught(t)
			<-begin
			errs[i] = side.k.store.Apply(t.Context(), side.b)
		})
	}
	close(begin)
	wg.Wait()
	for i, err := range errs {
		if err != nil && !errors.Is(err, core.ErrConflict) && !errors.Is(err, core.ErrUnavailable) {
			t.Fatalf("apply: %v", err)
		}
		happened[i] = err == nil
	}
	return happened
}

// keystoreSkew has two batches each replace what the other one expects: only one
// of them can have been first.
func keystoreSkew(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	noSkew(t, k, k)
}

func noSkew(t testing.TB, one, two *kit) {
	t.Helper()
	for i := range pairs {
		a, b := fmt.Sprintf("a%03d", i), fmt.Sprintf("b%03d", i)
		var v [2]core.Version
		what := "absent"
		if i%2 == 1 {
			what = "unchanged"
			copy(v[:], one.puts(put(1, a, "0"), put(1, b, "0")))
		}
		happened := together(t, one, two,
			core.Batch{Expect: []core.Expectation{expect(1, b, v[1])}, Puts: []core.Put{put(1, a, "1")}},
			core.Batch{Expect: []core.Expectation{expect(1, a, v[0])}, Puts: []core.Put{put(1, b, "1")}})
		if happened[0] && happened[1] {
			t.Errorf("two batches at the same time both succeeded, and each had expected the other's record %s", what)
			return
		}
	}
}

// keystoreRangeRaces deletes ranges while others put records into them: what is
// left must be what one after the other would have left.
func keystoreRangeRaces(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	noRangeRaces(t, k, k)
}

func noRangeRaces(t testing.TB, one, two *kit) {
	t.Helper()
	for i := range pairs {
		g := fmt.Sprintf("g%03d.", i)
		old := one.puts(put(1, g+"1", "old"))[0]

		// The range goes, or what is put into it stays whole.
		x, y := put(1, g+"1", "new"), put(1, g+"2", "new")
		happened := together(t, one, two,
			core.Batch{Dels: []core.Range{del(1, g)}}, core.Batch{Puts: []core.Put{x, y}})
		left := one.read(query(1, g))[0]
		if !happened[0] && !happened[1] {
			continue
		}
		for _, r := range left {
			if r.Version == old {
				t.Errorf("a record survived its range (deleted: %v) and its replacement (put: %v)", happened[0], happened[1])
				return
			}
		}
		if len(left) == 1 || len(left) > 0 && !happened[1] {
			t.Errorf("a range was deleted (%v) while two records were put into it (%v): %s is left", happened[0], happened[1], keysOf(left))
			return
		}

		// Two that replace the same range: the later one has deleted what the first put.
		h := fmt.Sprintf("h%03d.", i)
		happened = together(t, one, two,
			core.Batch{Dels: []core.Range{del(1, h)}, Puts: []core.Put{put(1, h+"1", "")}},
			core.Batch{Dels: []core.Range{del(1, h)}, Puts: []core.Put{put(1, h+"2", "")}})
		left = one.read(query(1, h))[0]
		if (happened[0] || happened[1]) && len(left) != 1 {
			t.Errorf("two batches replaced a range at the same time (%v): %s is left", happened, keysOf(left))
			return
		}
	}
}
