// SPDX-License-Identifier: Apache-2.0

package pure_test

import (
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// BenchmarkHPKE seals and opens 100 bytes and reports, measured in the same run,
// how much time each peer takes for the same: above 1, the peer is slower.
// Private keys are parsed before, as a client keeps them.
func BenchmarkHPKE(b *testing.B) {
	for _, s := range suites() {
		b.Run(s.Parameters().Name, func(b *testing.B) { benchmarkSuite(b, s) })
	}
}

func benchmarkSuite(b *testing.B, s core.Suite) {
	info, plaintext := []byte("info"), make([]byte, 100)
	key, err := s.GenerateKeyPair()
	if err != nil {
		b.Fatal(err)
	}
	r, err := s.Recipient(key)
	if err != nil {
		b.Fatal(err)
	}
	public, secret := key.Public(), key.Material().Bytes()
	ct, err := s.Seal(public, info, nil, plaintext)
	if err != nil {
		b.Fatal(err)
	}
	seal := func() {
		if _, err := s.Seal(public, info, nil, plaintext); err != nil {
			b.Fatal(err)
		}
	}
	open := func() {
		if _, err := r.Open(b.Context(), info, nil, ct); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("seal", func(b *testing.B) {
		b.ReportAllocs()
		mine := each(b, seal)
		for _, peer := range peersOf(s.Parameters()) {
			b.ReportMetric(timeOf(b, func() { peer.seal(public, info, nil, plaintext) })/mine, peer.name+"/mine")
		}
	})
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		mine := each(b, open)
		for _, peer := range peersOf(s.Parameters()) {
			opener := peer.opener(secret)
			b.ReportMetric(timeOf(b, func() {
				if _, err := opener(ct.KEMOutput, info, nil, ct.Ciphertext); err != nil {
					b.Fatal(err)
				}
			})/mine, peer.name+"/mine")
		}
	})
	b.Run("derive", func(b *testing.B) {
		b.ReportAllocs()
		ikm := core.NewSecret(make([]byte, s.Parameters().Nh))
		for b.Loop() {
			if _, err := s.DeriveKeyPair(ikm); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("expand", func(b *testing.B) {
		b.ReportAllocs()
		prk, info := core.NewSecret(make([]byte, s.Parameters().Nh)), make([]byte, 24)
		for b.Loop() {
			if _, err := s.Expand(prk, info, 32); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("validate", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := s.ValidatePublic(public); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// each is the benchmark's loop; it returns the nanoseconds of one call.
func each(b *testing.B, f func()) float64 {
	for b.Loop() {
		f()
	}
	return float64(b.Elapsed()) / float64(b.N)
}

// timeOf measures a peer for a tenth of a second, outside the benchmark's clock.
func timeOf(b *testing.B, f func()) float64 {
	b.StopTimer()
	n, start := 0, time.Now()
	for time.Since(start) < time.Second/10 {
		f()
		n++
	}
	return float64(time.Since(start)) / float64(n)
}
