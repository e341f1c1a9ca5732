// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

func openStore(t testing.TB, ks core.Keystore) *seal.Store {
	t.Helper()
	wrapper, err := seal.RawKey(core.NewSecret(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	store, err := seal.Open(t.Context(), ks, wrapper, "device")
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// core-crypto/transaction: compares random operations, with commits, aborts and
// reopening, to a plain map that does the same in order.
func TestSegmentModel(t *testing.T) {
	t.Parallel()
	for _, long := range []bool{false, true} {
		for seed := range uint64(60) {
			rng := rand.New(rand.NewPCG(seed, 1))
			ks := memory.New()
			store := openStore(t, ks)
			durable := map[string]string{}
			model := map[string]string{}
			b := client.NewBuffer(store, long)
			key := func() []byte { return []byte{byte(rng.IntN(3)), byte(rng.IntN(4))} }
			for range 60 {
				switch rng.IntN(10) {
				case 0, 1, 2:
					k, v := key(), fmt.Sprint(rng.IntN(1000))
					if long && rng.IntN(8) == 0 {
						v = strings.Repeat(v, seal.MaxValue*(1+rng.IntN(2))/len(v)+rng.IntN(3))
					}
					b.Put(k, []byte(v))
					model[string(k)] = v
				case 3, 4:
					k := key()[:rng.IntN(3)]
					b.Del(k)
					maps.DeleteFunc(model, func(name, _ string) bool { return strings.HasPrefix(name, string(k)) })
				case 5:
					if err := b.Apply(t.Context()); err != nil {
						t.Fatal(err)
					}
					durable = maps.Clone(model)
					b = client.NewBuffer(store, long)
				case 6: // abort
					model = maps.Clone(durable)
					b = client.NewBuffer(store, long)
				case 7: // a crash
					store = openStore(t, ks)
					model = maps.Clone(durable)
					b = client.NewBuffer(store, long)
				default:
					prefix, after, limit := key()[:rng.IntN(3)], []byte(nil), rng.IntN(4)
					if rng.IntN(2) == 0 {
						after = key()
					}
					got, err := b.Read(t.Context(), prefix, after, limit)
					if err != nil {
						t.Fatal(err)
					}
					want := slices.DeleteFunc(slices.Sorted(maps.Keys(model)), func(name string) bool {
						return !strings.HasPrefix(name, string(prefix)) || len(after) > 0 && bytes.Compare([]byte(name), after) <= 0
					})
					if limit > 0 && len(want) > limit {
						want = want[:limit]
					}
					if len(got) != len(want) {
						t.Fatalf("seed %d: %d records, want %d", seed, len(got), len(want))
					}
					for i, r := range got {
						if string(r.Key) != want[i] || string(r.Value) != model[want[i]] {
							t.Fatalf("seed %d: record %d is %q, want %q", seed, i, r.Key, want[i])
						}
					}
				}
			}
		}
	}
}

func TestSegmentExpectations(t *testing.T) {
	t.Parallel()
	store := openStore(t, memory.New())
	a, b := client.NewBuffer(store, false), client.NewBuffer(store, false)
	for _, x := range []*client.Buffer{a, b} {
		x.Expect([]byte("k"), core.Version{})
		x.Put([]byte("k"), []byte("v"))
	}
	if err := a.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Apply(t.Context()); !errors.Is(err, core.ErrConflict) {
		t.Fatalf("the second: %v", err)
	}
}
