// SPDX-License-Identifier: Apache-2.0

package bench_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/app/bench"
	"github.com/conclave-mls/conclave/core"
)

// Every operation is measured in each store, and none costs nothing.
func TestRun(t *testing.T) {
	t.Parallel()
	var steps []string
	rows, err := bench.Run(t.Context(), bench.Options{
		Suites: []core.SuiteID{core.SuiteX25519AES128Ed25519, core.SuiteP256AES128P256},
		Stores: []string{"memory", "sqlite"}, Sizes: []int{2, 5}, Rounds: 1,
	}, func(what string, done, total int) {
		if done != len(steps) || done >= total {
			t.Errorf("%s is step %d of %d, after %d", what, done, total, len(steps))
		}
		steps = append(steps, what)
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range rows {
		key := fmt.Sprint(r.Suite, r.Store, r.Tree, r.N, r.Op)
		if seen[key] {
			t.Errorf("two rows of %s", key)
		}
		seen[key] = true
		if r.System != bench.Ours || r.Samples == 0 || r.Wall <= 0 {
			t.Errorf("%s: %+v", key, r)
		}
		durable := []string{bench.Send1K, bench.Receive1K, bench.UpdateKeys, bench.ProcessUpdate, bench.JoinByWelcome}
		if slices.Contains(durable, r.Op) && (r.Applied == 0 || r.CPU <= 0) {
			t.Errorf("%s handed %d bytes to Apply and took %v: %+v", key, r.Applied, r.CPU, r)
		}
	}
	for _, suite := range []int{1, 2} {
		for _, store := range []string{"memory", "sqlite"} {
			for _, op := range bench.Ops() {
				n := 0
				for _, r := range rows {
					if r.Suite == suite && r.Store == store && r.Op == op {
						n++
					}
				}
				if n == 0 && (store != "memory" || op != bench.OpenExisting && op != bench.FirstReceive) {
					t.Errorf("suite %d, %s: no row of %q", suite, store, op)
				}
			}
		}
	}
}

func TestRunRefuses(t *testing.T) {
	t.Parallel()
	for _, o := range []bench.Options{
		{Suites: []core.SuiteID{1}, Stores: []string{"paper"}, Sizes: []int{2}, Rounds: 1},
		{Suites: []core.SuiteID{99}, Stores: []string{"memory"}, Sizes: []int{2}, Rounds: 1},
		{Suites: []core.SuiteID{1}, Stores: []string{"memory"}, Sizes: []int{1}, Rounds: 1},
	} {
		if _, err := bench.Run(t.Context(), o, func(string, int, int) {}); err == nil {
			t.Errorf("%+v was measured", o)
		}
	}
}
