// SPDX-License-Identifier: Apache-2.0

package sqlite_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// BenchmarkApply replaces records of 1 KiB, as each message does; "written" is
// what one batch hands to write calls, the log's pages and checkpoints included.
func BenchmarkApply(b *testing.B) {
	for _, rows := range []int{1, 3, 10, 100} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			store := benchStore(b, 1000)
			var took []time.Duration
			n, before := 0, written(b)
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
			b.ReportMetric(float64(written(b)-before)/float64(b.N), "written-B/op")
			reportMedian(b, took)
		})
	}
}

// BenchmarkMessage is the batch of one message: its receipt and a ratchet are
// expected and replaced, a new record goes to the outbox and an old one leaves it.
func BenchmarkMessage(b *testing.B) {
	store := benchStore(b, 1000)
	receipt, ratchet := core.Version{}, core.Version{}
	var took []time.Duration
	n, before := 0, written(b)
	for b.Loop() {
		n++
		batch := core.Batch{
			Expect: []core.Expectation{{Table: 0, Key: benchKey(1), Version: receipt}, {Table: 2, Key: benchKey(1), Version: ratchet}},
			Dels:   []core.Range{{Table: 3, Prefix: benchKey(n - 1)}},
			Puts: []core.Put{
				{Table: 0, Key: benchKey(1), Version: core.NewVersion()},
				{Table: 2, Key: benchKey(1), Value: sealed(150), Version: core.NewVersion()},
				{Table: 3, Key: benchKey(n), Value: sealed(600), Version: core.NewVersion()},
			},
		}
		receipt, ratchet = batch.Puts[0].Version, batch.Puts[1].Version
		start := time.Now()
		if err := store.Apply(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	b.ReportMetric(float64(written(b)-before)/float64(b.N), "written-B/op")
	reportMedian(b, took)
}

// BenchmarkTogether has eight callers at once write a record of 1 KiB each.
func BenchmarkTogether(b *testing.B) {
	for _, callers := range []int{1, 8} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			store := benchStore(b, 1000)
			var next atomic.Int64
			var group sync.WaitGroup
			b.ResetTimer()
			for range callers {
				group.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						batch := core.Batch{Puts: []core.Put{{Table: 1, Key: benchKey(int(i*7) % 1000), Value: sealed(1024), Version: core.NewVersion()}}}
						if err := store.Apply(b.Context(), batch); err != nil {
							b.Error(err)
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tx/s")
		})
	}
}

// BenchmarkRead asks for single records of 1 KiB.
func BenchmarkRead(b *testing.B) {
	for _, points := range []int{1, 10} {
		b.Run(fmt.Sprintf("points=%d", points), func(b *testing.B) {
			store := benchStore(b, 1000)
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
	path := filepath.Join(b.TempDir(), "store")
	for b.Loop() {
		store, err := sqlite.Open(b.Context(), path)
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

func benchStore(b *testing.B, records int) *sqlite.Store {
	b.Helper()
	store, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "store"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := store.Close(); err != nil {
			b.Error(err)
		}
	})
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

// sealed is a value as core/seal makes them: nothing in it repeats. (SQLite does
// not write a page that an update leaves as it is.)
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

// written is how many bytes this process has given to write calls, 0 where the
// system does not say.
func written(b *testing.B) (n int64) {
	f, err := os.Open("/proc/self/io")
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "wchar: %d", &n); err == nil {
			return n
		}
	}
	b.Log("no wchar in /proc/self/io")
	return 0
}
