// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// inParallel calls f for 0 to n-1 on all cores and returns the results in order.
// After a failure no further call is begun; the error of the lowest index that
// failed is returned.
func inParallel[T any](n int, f func(i int) (T, error)) ([]T, error) {
	results, errs := make([]T, n), make([]error, n)
	var next atomic.Int64
	var failed atomic.Bool
	work := func() {
		for !failed.Load() {
			i := int(next.Add(1)) - 1
			if i >= n {
				return
			}
			if results[i], errs[i] = safely(i, f); errs[i] != nil {
				failed.Store(true)
			}
		}
	}
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), n) - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return results, nil
}

// safely is f with [core.ErrTooLarge] as an error: nobody else sees a panic in here.
func safely[T any](i int, f func(i int) (T, error)) (_ T, err error) {
	defer tooLarge(&err)
	return f(i)
}
