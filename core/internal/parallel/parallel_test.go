// SPDX-License-Identifier: Apache-2.0

package parallel_test

import (
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/conclave-mls/conclave/core/internal/parallel"
)

func TestDo(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	for n := range 200 {
		done := make([]atomic.Int32, n)
		parallel.Do(n, func(i int) { done[i].Add(1) })
		for i := range done {
			if got := done[i].Load(); got != 1 {
				t.Fatalf("of %d: %d was done %d times", n, i, got)
			}
		}
	}
}

// All of the cores work: each of four waits for the others.
func TestAtTheSameTime(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	var begun atomic.Int32
	all := make(chan struct{})
	first := make([]bool, 64)
	parallel.Do(len(first), func(i int) {
		if i%16 == 0 {
			if begun.Add(1) == 4 {
				close(all)
			}
			<-all
		}
		first[i] = true
	})
	if slices.Contains(first, false) {
		t.Error("not all was done")
	}
}
