// SPDX-License-Identifier: Apache-2.0

// Package parallel has a loop over all cores.
package parallel

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// worth is how many calls a goroutine has to have for it to be worth the start.
const worth = 16

// Do calls f for 0 to n-1, in no order, some at the same time. It is for calls that take a
// microsecond or more each, and do not block.
func Do(n int, f func(i int)) {
	var next atomic.Int64
	work := func() {
		for {
			from := int(next.Add(worth)) - worth
			if from >= n {
				return
			}
			for i := from; i < min(from+worth, n); i++ {
				f(i)
			}
		}
	}
	var all sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), n/worth) - 1 {
		all.Go(work)
	}
	work()
	all.Wait()
}
