// SPDX-License-Identifier: Apache-2.0

package mls

import "testing"

// FR-12: each policy gives the lengths that it promises, and never shortens.
func TestPadding(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		padding Padding
		n, want int
	}{
		{PaddingNone, 0, 0}, {PaddingNone, 117, 117}, {1, 117, 117},
		{Padding128, 1, 1}, {Padding128, 2, 128}, {Padding128, 127, 128}, {Padding128, 128, 128}, {Padding128, 129, 256},
		{1000, 2001, 3000},
		{PaddingPadme, 1, 1}, {PaddingPadme, 2, 2}, {PaddingPadme, 9, 10}, {PaddingPadme, 100, 104},
		{PaddingPadme, 1000, 1024}, {PaddingPadme, 1025, 1088}, {PaddingPadme, 1 << 20, 1 << 20}, {PaddingPadme, 1<<20 + 1, 1<<20 + 1<<15},
	} {
		if got := c.padding.length(c.n); got != c.want {
			t.Errorf("padding %d of %d bytes gives %d, want %d", c.padding, c.n, got, c.want)
		}
	}
	lengths := map[int]bool{}
	for n := 2; n < 1<<16; n++ {
		got := PaddingPadme.length(n)
		if got < n || got-n > (n+7)/8 {
			t.Fatalf("Padmé makes %d of %d", got, n)
		}
		lengths[got] = true
	}
	if len(lengths) > 200 {
		t.Errorf("Padmé tells %d lengths apart", len(lengths))
	}
}
