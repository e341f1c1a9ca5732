// SPDX-License-Identifier: Apache-2.0

package postgres_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/postgres"
	"github.com/conclave-mls/conclave/storage/postgres/pgtest"
)

// BenchmarkApply replaces records of 1 KiB, as each message does.
func BenchmarkApply(b *testing.B) {
	for _, rows := range []int{1, 3, 10, 100} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			store := benchStore(b, "", 1000)
			var took []time.Duration
			n := 0
			for b.Loop() {
				batch := core.Batch{}
				for range rows {
					n++
					batch.Puts = append(batch.Puts, core.Put{Table: 1, Key: benchKey(n % 1000), Value: sealed(1024), Version: core.NewVersion()})
				}
				start := time.Now()
				if err := store.Apply(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			reportMedian(b, took)
		})
	}
}

// BenchmarkMessage is the batch of one message: its receipt and a ratchet are expected
// and replaced, a new record goes to the outbox and an old one leaves it. Each goroutine
// has a conversation of its own.
func BenchmarkMessage(b *testing.B) {
	for _, beside := range []int{1, 16} {
		b.Run(fmt.Sprintf("beside=%d", beside), func(b *testing.B) {
			store := benchStore(b, "&pool_max_conns=16", 1000)
			var who atomic.Int32
			b.SetParallelism(beside / 2)
			took := make([][]time.Duration, 2*beside+1)
			message := func(who int, next func() bool) {
				receipt, ratchet := core.Version{}, core.Version{}
				key := func(n int) []byte {
					return binary.BigEndian.AppendUint64(bytes.Repeat([]byte{byte(who)}, 16), uint64(n))
				}
				for n := 1; next(); n++ {
					batch := core.Batch{
						Expect: []core.Expectation{{Table: 0, Key: key(0), Version: receipt}, {Table: 2, Key: key(0), Version: ratchet}},
						Dels:   []core.Range{{Table: 3, Prefix: key(n - 1)}},
						Puts: []core.Put{
							{Table: 0, Key: key(0), Version: core.NewVersion()},
							{Table: 2, Key: key(0), Value: sealed(150), Version: core.NewVersion()},
							{Table: 3, Key: key(n), Value: sealed(600), Version: core.NewVersion()},
						},
					}
					receipt, ratchet = batch.Puts[0].Version, batch.Puts[1].Version
					start := time.Now()
					if err := store.Apply(b.Context(), batch); err != nil {
						b.Error(err)
						return
					}
					took[who] = append(took[who], time.Since(start))
				}
			}
			if beside == 1 {
				message(0, b.Loop)
			} else {
				b.RunParallel(func(pb *testing.PB) { message(int(who.Add(1)), pb.Next) })
			}
			reportMedian(b, slices.Concat(took...))
		})
	}
}

// BenchmarkRead asks for single records of 1 KiB.
func BenchmarkRead(b *testing.B) {
	for _, points := range []int{1, 3, 10} {
		b.Run(fmt.Sprintf("points=%d", points), func(b *testing.B) {
			store := benchStore(b, "", 1000)
			var took []time.Duration
			n := 0
			for b.Loop() {
				queries := make([]core.Query, points)
				for i := range queries {
					n += 7
					queries[i] = core.Query{Table: 1, Prefix: benchKey(n % 1000)}
				}
				start := time.Now()
				answers, err := store.Read(b.Context(), queries)
				if err != nil || len(answers[points-1]) != 1 {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			reportMedian(b, took)
		})
	}
}

// BenchmarkOpen opens and closes a store that exists.
func BenchmarkOpen(b *testing.B) {
	dsn := at(pgtest.Shared(b), b.Name())
	for b.Loop() {
		store, err := postgres.Open(b.Context(), dsn)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := store.Read(b.Context(), []core.Query{{Table: 1, Prefix: benchKey(1)}}); err != nil {
			b.Fatal(err)
		}
		if err := store.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func benchStore(b *testing.B, parameters string, records int) *postgres.Store {
	b.Helper()
	store := open(b, at(pgtest.Shared(b), b.Name()+time.Now().String())+parameters)
	batch := core.Batch{}
	for i := range records {
		batch.Puts = append(batch.Puts, core.Put{Table: 1, Key: benchKey(i), Value: sealed(1024), Version: core.NewVersion()})
	}
	if err := store.Apply(b.Context(), batch); err != nil {
		b.Fatal(err)
	}
	return store
}

// benchKey is a key as core/seal makes them: 16 blinded bytes and a number.
func benchKey(i int) []byte {
	return binary.BigEndian.AppendUint64(bytes.Repeat([]byte{byte(i)}, 16), uint64(i))
}

func sealed(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func reportMedian(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
