// SPDX-License-Identifier: Apache-2.0

//go:build unix

package host_test

import (
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// What a call costs in process and behind a plugin.

func BenchmarkApply(b *testing.B) {
	for name, store := range map[string]core.Keystore{"in process": memory.New(), "plugin": keystore(b, launch(b, config("memory")))} {
		for count, records := range map[string]int{"1": 1, "10": 10, "100": 100} {
			b.Run(name+"/"+count, func(b *testing.B) {
				for b.Loop() {
					var batch core.Batch
					for i := range records {
						batch.Puts = append(batch.Puts, put(string([]byte{'k', byte(i)}), string(make([]byte, 1000))))
					}
					if err := store.Apply(b.Context(), batch); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkRead1000(b *testing.B) {
	for name, store := range map[string]core.Keystore{"in process": memory.New(), "plugin": keystore(b, launch(b, config("memory")))} {
		var batch core.Batch
		for i := range 1000 {
			batch.Puts = append(batch.Puts, put(string([]byte{'k', byte(i >> 8), byte(i)}), string(make([]byte, 1000))))
		}
		if err := store.Apply(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := store.Read(b.Context(), []core.Query{{Table: 1}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSign(b *testing.B) {
	behind, err := launch(b, config("pure")).CryptoProvider("")
	if err != nil {
		b.Fatal(err)
	}
	for name, p := range map[string]core.CryptoProvider{"in process": pure.New(), "plugin": behind} {
		key, err := p.GenerateKey(b.Context(), core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := key.(core.Signer).Sign(b.Context(), []byte("message")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
