// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"maps"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A trie behaves like a map, and no change shows in an older value.
func TestTrie(t *testing.T) {
	t.Parallel()
	keys := rapid.OneOf(rapid.Uint32Max(40), rapid.Uint32(), rapid.SampledFrom([]uint32{15, 16, 255, 256, 1 << 31, math.MaxUint32}))
	rapid.Check(t, func(t *rapid.T) {
		type version struct {
			trie  trie[int]
			model map[uint32]int
		}
		var now version
		var history []version
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			history = append(history, version{now.trie, maps.Clone(now.model)})
			next := maps.Clone(now.model)
			if next == nil {
				next = map[uint32]int{}
			}
			key := keys.Draw(t, "key")
			if len(next) > 0 && rapid.Bool().Draw(t, "known") {
				key = rapid.SampledFrom(slices.Sorted(maps.Keys(next))).Draw(t, "known key")
			}
			if rapid.Bool().Draw(t, "remove") {
				delete(next, key)
				now = version{now.trie.Without(key), next}
			} else {
				next[key] = i
				now = version{now.trie.With(key, i), next}
			}
			if _, ok := now.trie.Get(key + 1); ok != hasKey(next, key+1) {
				t.Fatalf("key %d: %v", key+1, ok)
			}
		}
		for _, v := range append(history, now) {
			var got []uint32
			for key, value := range v.trie.All() {
				got = append(got, key)
				if again, ok := v.trie.Get(key); !ok || again != value || value != v.model[key] {
					t.Fatalf("key %d: %d, %d, %v, want %d", key, value, again, ok, v.model[key])
				}
			}
			if !slices.Equal(got, slices.Sorted(maps.Keys(v.model))) {
				t.Fatalf("keys %v, want %v", got, v.model)
			}
			if len(v.model) == 0 && v.trie.root != nil {
				t.Fatal("an empty trie keeps nodes")
			}
		}
		for key := range now.trie.All() {
			if _, ok := now.model[key]; !ok {
				t.Fatal("a key too many")
			}
			break // ending early is allowed
		}
	})
}

func hasKey(m map[uint32]int, key uint32) bool {
	_, ok := m[key]
	return ok
}
