// SPDX-License-Identifier: Apache-2.0

//go:build unix

package host_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// BenchmarkCall is what a call costs in process and behind a plugin: the medians, which
// other programs on the machine disturb least, their difference and their ratio. With
// records of 1000 bytes:
//
//	go test -run xxx -bench Call ./plugins/host
func BenchmarkCall(b *testing.B) {
	plugin := launch(b, config("memory+pure"))
	provider, err := plugin.CryptoProvider("")
	if err != nil {
		b.Fatal(err)
	}
	local, remote := signer(b, pure.New()), signer(b, provider)
	compare(b, "Sign", func(key core.Signer) error {
		_, err := key.Sign(b.Context(), []byte("message"))
		return err
	}, local, remote)
	for _, count := range []int{1, 10, 100} {
		compare(b, fmt.Sprintf("Apply%d", count), func(store core.Keystore) error {
			return store.Apply(b.Context(), batch(count))
		}, core.Keystore(memory.New()), keystore(b, plugin))
	}
	stores := []core.Keystore{memory.New(), keystore(b, plugin)}
	for _, store := range stores {
		if err := store.Apply(b.Context(), batch(1000)); err != nil {
			b.Fatal(err)
		}
	}
	for _, count := range []int{1, 1000} {
		compare(b, fmt.Sprintf("Read%d", count), func(store core.Keystore) error {
			answers, err := store.Read(b.Context(), []core.Query{{Table: 1, Limit: count}})
			if err == nil && len(answers[0]) != count {
				err = fmt.Errorf("%d records", len(answers[0]))
			}
			return err
		}, stores[0], stores[1])
	}
}

func signer(b *testing.B, p core.CryptoProvider) core.Signer {
	key, err := p.GenerateKey(b.Context(), core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
	if err != nil {
		b.Fatal(err)
	}
	return key.(core.Signer)
}

func batch(count int) (batch core.Batch) {
	for i := range count {
		key := binary.BigEndian.AppendUint64([]byte("key12345"), uint64(i))
		batch.Puts = append(batch.Puts, put(string(key), string(make([]byte, 1000))))
	}
	return batch
}

// compare makes the same call of both in turn.
func compare[T any](b *testing.B, name string, call func(T) error, local, remote T) {
	b.Run(name, func(b *testing.B) {
		var took [2][]time.Duration
		for b.Loop() {
			for i, who := range []T{local, remote} {
				start := time.Now()
				if err := call(who); err != nil {
					b.Fatal(err)
				}
				took[i] = append(took[i], time.Since(start))
			}
		}
		var median [2]float64
		for i := range took {
			slices.Sort(took[i])
			median[i] = float64(took[i][len(took[i])/2].Nanoseconds()) / 1000
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(median[0], "µs-in-process")
		b.ReportMetric(median[1], "µs-plugin")
		b.ReportMetric(median[1]-median[0], "µs-overhead")
		b.ReportMetric(median[1]/median[0], "ratio")
	})
}
