// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/storage/memory"
)

// TestSet: whoever has opened a set meets everybody who changes it meanwhile, and nobody
// who has only opened it too.
func TestSet(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name   string
		put    []byte
		remove []uint64
		want   []string
		meets  error
	}{
		{"put", []byte("c"), nil, []string{"a", "b", "c"}, core.ErrConflict},
		{"remove", nil, []uint64{0}, []string{"b"}, core.ErrConflict},
		{"both", []byte("c"), []uint64{1}, []string{"a", "c"}, core.ErrConflict},
		{"nothing", nil, nil, []string{"a", "b"}, nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			store, ctx := openStore(t, memory.New()), t.Context()
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			s := client.NewBuffer(store)
			must(s.Set(ctx, 0, []byte("a")))
			must(s.Set(ctx, 0, []byte("b"))) // a segment goes on from what it did
			must(s.Apply(ctx))
			one, other := client.NewBuffer(store), client.NewBuffer(store)
			must(one.Set(ctx, 0, nil)) // it decides on the whole, and writes elsewhere
			one.Put(2, []byte("k"), []byte("v"))
			must(other.Set(ctx, 0, x.put, x.remove...))
			other.Put(1, []byte("k"), []byte("v"))
			must(other.Apply(ctx))
			if err := one.Apply(ctx); !errors.Is(err, x.meets) {
				t.Errorf("who decides on the whole: %v, want %v", err, x.meets)
			}
			if got, err := client.NewBuffer(store).Items(ctx, 0); err != nil || !slices.Equal(got, x.want) {
				t.Errorf("%q, %v; want %q", got, err, x.want)
			}
		})
	}
}
