// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// FS-5: however many generations are skipped, a ratchet keeps the newest keys of its
// window and nothing else, so that an epoch keeps at most two windows for each sender;
// at its end they are gone.
func TestSkippedKeysAreBounded(t *testing.T) {
	t.Parallel()
	suite := suiteOf(t, core.SuiteX25519AES128Ed25519)
	limits := ratchetLimits{tolerance: 20, maxForward: 1000}
	u := newTreeUser(t, suite, 5, limits, bytes.Repeat([]byte{7}, 32))
	u.reload = true
	skipped, total := 0, 0
	for _, jump := range []uint32{3, 500, 1000, 1000} {
		total = 0
		for leaf := range LeafIndex(5) {
			for _, kind := range []ratchetKind{handshakeRatchet, applicationRatchet} {
				r, err := u.tree.step().reach(t.Context(), u.store.fetch, leaf, kind)
				if err != nil {
					t.Fatal(err)
				}
				generation := uint32(r.next) + jump
				if _, err := u.open(leaf, kind, generation); err != nil {
					t.Fatal(err)
				}
				skipped += int(jump)
				if r, err = u.tree.step().reach(t.Context(), u.store.fetch, leaf, kind); err != nil {
					t.Fatal(err)
				}
				var kept []uint32
				for _, k := range r.skipped {
					kept = append(kept, k.generation)
				}
				total += len(kept)
				oldest := generation + 1 - min(generation+1, limits.tolerance)
				if len(kept) > int(limits.tolerance) || len(kept) > 0 && (kept[0] < oldest || kept[len(kept)-1] != generation-1) || !slices.IsSorted(kept) {
					t.Fatalf("leaf %d: %v are kept after generation %d", leaf, kept, generation)
				}
			}
		}
	}
	if skipped < 10_000 || total > 2*5*int(limits.tolerance) || total < 5*int(limits.tolerance) {
		t.Errorf("%d generations were skipped, %d keys are kept", skipped, total)
	}
	size := 0
	for _, v := range u.store.values {
		size += len(v)
	}
	if most := total*(4+16+12) + 10*64 + 8*64; size > most {
		t.Errorf("%d bytes are stored for %d keys", size, total)
	}
	var ws record.WriteSet
	deleteEpoch(&ws, 3)
	u.store.apply(&ws)
	if len(u.store.values) != 0 {
		t.Error("keys outlive their epoch")
	}
}

// FS-8, amethyst/secret-tree: the secret tree of a large epoch is one secret until
// somebody sends, and grows by the height of the tree for a sender; trees that are
// not full, and their last leaf, are no exception.
func TestSecretTreeGrowsWithSenders(t *testing.T) {
	t.Parallel()
	suite := suiteOf(t, core.SuiteX25519AES128Ed25519)
	for _, leaves := range []uint32{1, 3, 5, 6, 7, 1000, 50_000, 50_001, 1 << 20} {
		u := newTreeUser(t, suite, leaves, testLimits, bytes.Repeat([]byte{1}, 32))
		height := len(u.tree.path(0)) - 1
		if u.tree.width < leaves || height > 20 {
			t.Fatalf("%d leaves: %d levels over %d", leaves, height, u.tree.width)
		}
		stored := func() (bytes int) {
			for k, v := range u.store.values {
				bytes += len(k) + len(v)
			}
			return bytes
		}
		if n, bytes := len(u.tree.secrets()), stored(); n != 1 || bytes > 50 {
			t.Errorf("%d leaves: a new epoch has %d secrets in memory, %d bytes in the store", leaves, n, bytes)
		}
		for k, leaf := range []LeafIndex{LeafIndex(leaves - 1), 0, LeafIndex(leaves / 2)} {
			if _, err := u.open(leaf, applicationRatchet, uint32(k)); err != nil {
				t.Fatalf("leaf %d of %d: %v", leaf, leaves, err)
			}
			// siblings on the way, two ratchets, and what was skipped
			if n, most := len(u.tree.secrets()), (k+1)*(height+2+2*k); n > most {
				t.Errorf("%d leaves, %d senders: %d secrets in memory", leaves, k+1, n)
			}
			if bytes, most := stored(), (k+1)*(height*46+2*70+64*k); bytes > most {
				t.Errorf("%d leaves, %d senders: %d bytes in the store, not %d", leaves, k+1, bytes, most)
			}
		}
		if _, err := u.open(LeafIndex(u.tree.width), applicationRatchet, 0); err == nil {
			t.Errorf("a leaf beyond %d has a ratchet", leaves)
		}
	}
}

// FS-1: a leaf has a ratchet for handshakes and one for application messages, and
// what one has spent the other has not.
func TestTwoRatchets(t *testing.T) {
	t.Parallel()
	eachSuite(t, func(t *testing.T, suite core.Suite) {
		u := newTreeUser(t, suite, 3, testLimits, bytes.Repeat([]byte{1}, suite.Parameters().Nh))
		u.reload = true
		keys := map[string]bool{}
		for want := range uint32(3) {
			for _, kind := range []ratchetKind{handshakeRatchet, applicationRatchet} {
				for leaf := range LeafIndex(2) {
					generation, key, err := u.seal(leaf, kind)
					if err != nil || generation != want || keys[string(key)] {
						t.Fatalf("leaf %d, kind %d: generation %d, %v", leaf, kind, generation, err)
					}
					keys[string(key)] = true
				}
			}
		}
	})
}

// FS-6, hpke-rs/sequence: what is encrypted by HPKE has an encapsulated key of its
// own each time: no context counts what it encrypts.
func TestHPKEContextSealsOnce(t *testing.T) {
	t.Parallel()
	eachSuite(t, func(t *testing.T, suite core.Suite) {
		key := must(suite.GenerateKeyPair())
		seen := map[string]bool{}
		for range 3 {
			ct := must(encryptWithLabel(suite, "label", nil)(key.Public(), []byte("secret")))
			if seen[string(ct.KEMOutput)] || seen[string(ct.Ciphertext)] {
				t.Error("a ciphertext comes twice")
			}
			seen[string(ct.KEMOutput)], seen[string(ct.Ciphertext)] = true, true
		}
	})
}
