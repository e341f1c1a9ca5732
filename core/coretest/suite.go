// SPDX-License-Identifier: Apache-2.0

package coretest

import "testing"

// A check is one named rule of a contract. It gets a [testing.TB], so that the
// same check runs against an implementation (under *testing.T) and against a
// wrong one (under a recorder, see catches).
type check[T any] struct {
	name string
	run  func(t testing.TB, open func() T)
}

// runChecks runs each check as a subtest, with a fresh instance for each call
// of the constructor.
func runChecks[T any](t *testing.T, checks []check[T], open func(t *testing.T) T) {
	t.Helper()
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			c.run(t, func() T { return open(t) })
		})
	}
}
