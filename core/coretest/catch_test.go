// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"slices"
	"testing"
)

func TestRecorderKeepsFailuresToItself(t *testing.T) {
	var order []string
	for name, tt := range map[string]struct {
		body func(t testing.TB)
		want []string
	}{
		"passes": {func(t testing.TB) { t.Log("fine") }, nil},
		"skips":  {func(t testing.TB) { t.Skip("not here") }, nil},
		"errors": {func(t testing.TB) { t.Errorf("a %d", 1); t.Error("b") }, []string{"a 1", "b"}},
		"fatal":  {func(t testing.TB) { t.Fatal("stop"); t.Error("not reached") }, []string{"stop"}},
		"panics": {func(testing.TB) { panic("ouch") }, []string{"panic: ouch"}},
		"cleans up in reverse order, after the context": {func(t testing.TB) {
			ctx := t.Context()
			t.Cleanup(func() { order = append(order, "first") })
			t.Cleanup(func() {
				if ctx.Err() != nil {
					order = append(order, "second")
				}
			})
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := record(t, tt.body); !slices.Equal(got, tt.want) {
				t.Errorf("recorded %q, want %q", got, tt.want)
			}
		})
	}
	if want := []string{"second", "first"}; !slices.Equal(order, want) {
		t.Errorf("clean-up order %q, want %q", order, want)
	}
}

func TestCatching(t *testing.T) {
	positive := []check[int]{
		{"is positive", func(t testing.TB, open func() int) {
			if open() <= 0 {
				t.Error("not positive")
			}
		}},
		{"is even", func(t testing.TB, open func() int) {
			if open()%2 != 0 {
				t.Error("odd")
			}
		}},
	}
	runChecks(t, positive, func(*testing.T) int { return 2 })
	catchesWrong(t, positive, func(testing.TB) int { return -2 }, "is positive")
	catches(t, func(t testing.TB) { t.Fail() })
}
