// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// BenchmarkMessage is the batch of one message, receipt included, and the read
// before it: what sealing costs over memory, and all of it over SQLite.
func BenchmarkMessage(b *testing.B) {
	for name, open := range map[string]func() (core.Keystore, error){
		"memory": func() (core.Keystore, error) { return memory.New(), nil },
		"sqlite": func() (core.Keystore, error) { return sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "store")) },
	} {
		b.Run(name, func(b *testing.B) {
			ks, err := open()
			if err != nil {
				b.Fatal(err)
			}
			defer ks.Close()
			s := openTenant(b, ks, "tenant")
			defer s.Close()
			ratchet, message := make([]byte, 150), make([]byte, 600)
			var version core.Version
			var took []time.Duration
			before := s.Stats()
			for n := 0; b.Loop(); n++ {
				start := time.Now()
				if _, err := s.Read(b.Context(), []seal.Query{{Table: 2, Scope: []byte("g"), Prefix: []byte("ratchet")}}); err != nil {
					b.Fatal(err)
				}
				versions, err := s.Apply(b.Context(), seal.Batch{
					Expect: []seal.Expectation{{Table: 2, Scope: []byte("g"), Key: []byte("ratchet"), Version: version}},
					Dels:   []seal.Range{{Table: 3, Scope: []byte("g"), Prefix: fmt.Appendf(nil, "%08d", n-1)}},
					Puts: []seal.Put{
						{Table: 2, Scope: []byte("g"), Key: []byte("ratchet"), Value: ratchet},
						{Table: 3, Scope: []byte("g"), Key: fmt.Appendf(nil, "%08d", n), Value: message},
					},
				})
				if err != nil {
					b.Fatal(err)
				}
				version = versions[0]
				took = append(took, time.Since(start))
			}
			b.ReportMetric(float64(s.Stats().Bytes-before.Bytes)/float64(b.N), "apply-B/op")
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-µs")
		})
	}
}
