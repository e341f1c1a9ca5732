// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"slices"
	"sync"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/conclave-mls/conclave/core"
)

// TestSuiteSource is the contract of core.SuiteSource and core.Suite. Results
// are checked against the standard library where it has the algorithm. If the
// source is also a core.CryptoProvider, signatures are made with its keys, so
// that Verify is tried for algorithms that the standard library lacks.
func TestSuiteSource(t *testing.T, open func(t *testing.T) core.SuiteSource) {
	t.Helper()
	runChecks(t, suiteChecks, open)
}

var suiteChecks = []check[core.SuiteSource]{
	{"lists its suites", checkSuites},
	{"has the parameters of RFC 9420", checkParameters},
	{"hashes, macs and derives", checkKDF},
	{"limits Expand", checkExpandLimits},
	{"encrypts", checkAEAD},
	{"makes key pairs", checkKeyPairs},
	{"validates public keys", checkValidate},
	{"seals and opens", checkHPKE},
	{"opens nothing else", checkHPKERefuses},
	{"exports", checkExport},
	{"limits Export", checkExportLimits},
	{"takes any Agreer", checkAgreer},
	{"verifies signatures", checkVerify},
	{"neither keeps nor changes slices", checkSuiteSlices},
	{"works concurrently", checkSuiteConcurrency},
}

// forEachSuite runs a check for each suite that the source lists.
func forEachSuite(t testing.TB, open func() core.SuiteSource, run func(name string, s core.Suite)) {
	t.Helper()
	source := open()
	for _, id := range source.Suites() {
		s, err := source.Suite(id)
		if err != nil {
			t.Fatalf("suite %s: %v", id, err)
		}
		run("suite "+id.String(), s)
	}
}

func checkSuites(t testing.TB, open func() core.SuiteSource) {
	source := open()
	ids := source.Suites()
	if len(ids) == 0 {
		t.Error("no suites")
	}
	for i, id := range ids {
		if s, err := source.Suite(id); err != nil || s.ID() != id {
			t.Errorf("suite %s: %v", id, err)
		}
		if slices.Contains(ids[:i], id) {
			t.Errorf("suite %s is listed twice", id)
		}
	}
	for _, id := range []core.SuiteID{0, 0x0A0A, 0xFFFF} { // reserved, GREASE, private use
		if _, err := source.Suite(id); !slices.Contains(ids, id) && !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("suite %s: %v, want ErrUnsupported", id, err)
		}
	}
}

// rfc9420 is RFC 9420 section 17.1 and RFC 9180 section 7.
var rfc9420 = map[core.SuiteID]core.SuiteParameters{
	1: {Name: "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519", Hash: "SHA-256", Nh: 32, Nk: 16, Nn: 12, Nt: 16, KEM: 0x20, KDF: 1, AEAD: 1, Npk: 32, Nenc: 32, KEMAlgorithm: core.X25519, Signature: core.Ed25519, Scheme: core.SchemeEd25519},
	2: {Name: "MLS_128_DHKEMP256_AES128GCM_SHA256_P256", Hash: "SHA-256", Nh: 32, Nk: 16, Nn: 12, Nt: 16, KEM: 0x10, KDF: 1, AEAD: 1, Npk: 65, Nenc: 65, KEMAlgorithm: core.ECDHP256, Signature: core.ECDSAP256, Scheme: core.SchemeECDSAP256},
	3: {Name: "MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519", Hash: "SHA-256", Nh: 32, Nk: 32, Nn: 12, Nt: 16, KEM: 0x20, KDF: 1, AEAD: 3, Npk: 32, Nenc: 32, KEMAlgorithm: core.X25519, Signature: core.Ed25519, Scheme: core.SchemeEd25519},
	4: {Name: "MLS_256_DHKEMX448_AES256GCM_SHA512_Ed448", Hash: "SHA-512", Nh: 64, Nk: 32, Nn: 12, Nt: 16, KEM: 0x21, KDF: 3, AEAD: 2, Npk: 56, Nenc: 56, KEMAlgorithm: core.X448, Signature: core.Ed448, Scheme: core.SchemeEd448},
	5: {Name: "MLS_256_DHKEMP521_AES256GCM_SHA512_P521", Hash: "SHA-512", Nh: 64, Nk: 32, Nn: 12, Nt: 16, KEM: 0x12, KDF: 3, AEAD: 2, Npk: 133, Nenc: 133, KEMAlgorithm: core.ECDHP521, Signature: core.ECDSAP521, Scheme: core.SchemeECDSAP521},
	6: {Name: "MLS_256_DHKEMX448_CHACHA20POLY1305_SHA512_Ed448", Hash: "SHA-512", Nh: 64, Nk: 32, Nn: 12, Nt: 16, KEM: 0x21, KDF: 3, AEAD: 3, Npk: 56, Nenc: 56, KEMAlgorithm: core.X448, Signature: core.Ed448, Scheme: core.SchemeEd448},
	7: {Name: "MLS_256_DHKEMP384_AES256GCM_SHA384_P384", Hash: "SHA-384", Nh: 48, Nk: 32, Nn: 12, Nt: 16, KEM: 0x11, KDF: 2, AEAD: 2, Npk: 97, Nenc: 97, KEMAlgorithm: core.ECDHP384, Signature: core.ECDSAP384, Scheme: core.SchemeECDSAP384},
}

func checkParameters(t testing.TB, open func() core.SuiteSource) {
	forEachSuite(t, open, func(name string, s core.Suite) {
		p := s.Parameters()
		if want, ok := rfc9420[s.ID()]; ok && p != want {
			t.Errorf("%s: parameters %+v, want %+v", name, p, want)
		}
		if p.Nh == 0 || p.Nk == 0 || p.Nn == 0 || p.Nt == 0 || p.Npk == 0 || p.Nenc == 0 {
			t.Errorf("%s: a size is missing: %+v", name, p)
		}
	})
}

// hashOf is the standard library's hash of a name; nil if it is not one of these.
func hashOf(name string) func() hash.Hash {
	return map[string]func() hash.Hash{"SHA-256": sha256.New, "SHA-384": sha512.New384, "SHA-512": sha512.New}[name]
}

func secretOf(n int) core.Secret {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return core.NewSecret(b)
}

func checkKDF(t testing.TB, open func() core.SuiteSource) {
	forEachSuite(t, open, func(name string, s core.Suite) {
		p, newHash := s.Parameters(), hashOf(s.Parameters().Hash)
		if newHash == nil {
			return
		}
		h := newHash()
		h.Write([]byte("onetwothree"))
		if want := h.Sum(nil); !bytes.Equal(s.Hash([]byte("one"), nil, []byte("two"), []byte("three")), want) {
			t.Errorf("%s: Hash of parts is not that of their concatenation", name)
		}
		if !bytes.Equal(s.Hash(), newHash().Sum(nil)) {
			t.Errorf("%s: Hash of nothing", name)
		}
		for _, n := range []int{0, 1, p.Nh, h.BlockSize(), h.BlockSize() + 1, 300} {
			key, message := secretOf(n), secretOf(n).Bytes()
			m := hmac.New(newHash, key.Bytes())
			m.Write(message)
			if !bytes.Equal(s.MAC(key, message), m.Sum(nil)) {
				t.Errorf("%s: MAC with a key of %d bytes is not HMAC", name, n)
			}
			want, err := hkdf.Extract(newHash, message, key.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			prk := s.Extract(key, core.NewSecret(message))
			if !bytes.Equal(prk.Bytes(), want) {
				t.Errorf("%s: Extract with %d bytes is not HKDF-Extract", name, n)
			}
			for _, length := range []int{0, 1, 12, 16, p.Nh - 1, p.Nh, p.Nh + 1, 5 * p.Nh} {
				got, err := s.Expand(prk, message, length)
				want, _ := hkdf.Expand(newHash, prk.Bytes(), string(message), length)
				if err != nil || !bytes.Equal(got.Bytes(), want) {
					t.Errorf("%s: Expand to %d bytes is not HKDF-Expand (%v)", name, length, err)
				}
			}
		}
	})
}

func checkExpandLimits(t testing.TB, open func() core.SuiteSource) {
	forEachSuite(t, open, func(name string, s core.Suite) {
		prk, limit := secretOf(s.Parameters().Nh), 255*s.Parameters().Nh
		if out, err := s.Expand(prk, nil, limit); err != nil || out.Len() != limit {
			t.Errorf("%s: Expand to 255*Nh: %d bytes, %v", name, out.Len(), err)
		}
		for length, want := range map[int]error{limit + 1: core.ErrTooLarge, 1 << 40: core.ErrTooLarge, -1: core.ErrInvalid} {
			if out, err := s.Expand(prk, nil, length); !errors.Is(err, want) || out.Len() != 0 {
				t.Errorf("%s: Expand to %d: %d bytes, %v, want %v", name, length, out.Len(), err, want)
			}
		}
	})
}

func checkAEAD(t testing.TB, open func() core.SuiteSource) {
	forEachSuite(t, open, func(name string, s core.Suite) {
		p := s.Parameters()
		for _, n := range []int{0, 1, p.Nk - 1, p.Nk + 1, 2 * p.Nk} {
			if _, err := s.AEAD(secretOf(n)); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("%s: AEAD with a key of %d bytes: %v, want ErrInvalid", name, n, err)
			}
		}
		key := secretOf(p.Nk)
		a, err := s.AEAD(key)
		if err != nil {
			t.Fatalf("%s: AEAD: %v", name, err)
		}
		if a.NonceSize() != p.Nn || a.Overhead() != p.Nt {
			t.Errorf("%s: AEAD with nonces of %d and tags of %d bytes", name, a.NonceSize(), a.Overhead())
		}
		nonce, plaintext, aad := make([]byte, p.Nn), []byte("plaintext"), []byte("aad")
		ct := a.Seal(nil, nonce, plaintext, aad)
		if want := referenceAEAD(p.AEAD, key.Bytes()); want != nil && !bytes.Equal(ct, want.Seal(nil, nonce, plaintext, aad)) {
			t.Errorf("%s: AEAD is not number %d of the HPKE registry", name, p.AEAD)
		}
		for range 2 { // reusable
			if got, err := a.Open(nil, nonce, ct, aad); err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%s: AEAD does not open its own: %v", name, err)
			}
		}
		if _, err := a.Open(nil, nonce, ct, []byte("AAD")); err == nil {
			t.Errorf("%s: AEAD opens with other associated data", name)
		}
	})
}

// referenceAEAD is nil for numbers that are not in RFC 9180.
func referenceAEAD(id uint16, key []byte) (a cipher.AEAD) {
	switch id {
	case 1, 2:
		if block, err := aes.NewCipher(key); err == nil {
			a, _ = cipher.NewGCM(block)
		}
	case 3:
		a, _ = chacha20poly1305.New(key)
	}
	return a
}

func checkKeyPairs(t testing.TB, open func() core.SuiteSource) {
	forEachSuite(t, open, func(name string, s core.Suite) {
		p := s.Parameters()
		generated, err := s.GenerateKeyPair()
		if err != nil {
			t.Fatalf("%s: GenerateKeyPair: %v", name, err)
		}
		ikm := secretOf(p.Nh)
		before := ikm.Clone()
		derived, err := s.DeriveKeyPair(ikm)
		if err != nil {
			t.Fatalf("%s: DeriveKeyPair from Nh bytes: %v", name, err)
		}
		if !ikm.Equal(before) {
			t.Errorf("%s: DeriveKeyPair changed the ikm", name)
		}
		again, err := s.DeriveKeyPair(before)
		if err != nil || !bytes.Equal(again.Public(), derived.Public()) {
			t.Errorf("%s: DeriveKeyPair is not deterministic (%v)", name, err)
		}
		other, err := s.DeriveKeyPair(secretOf(p.Nh))
		if err != nil || bytes.Equal(other.Public(), derived.Public()) {
			t.Errorf("%s: another ikm, the same key pair (%v)", name, err)
		}
		another, err := s.GenerateKeyPair()
		if err != nil || bytes.Equal(another.Public(), generated.Public()) {
			t.Errorf("%s: GenerateKeyPair twice, the same key pair (%v)", name, err)
		}
		for _, key := range []core.SoftwareKey{generated, derived} {
			_, agrees := key.(core.Agreer)
			_, decapsulates := key.(core.Decapsulator)
			if !agrees && !decapsulates {
				t.Errorf("%s: %T is neither Agreer nor Decapsulator", name, key)
			}
			if key.Algorithm() != p.KEMAlgorithm || len(key.Public()) != p.Npk {
				t.Errorf("%s: key pair %s with %d public bytes", name, key.Algorithm(), len(key.Public()))
			}
			m := key.Material()
			if want := materialSize(p.KEMAlgorithm); want != 0 && m.Len() != want {
				t.Errorf("%s: material of %d bytes, want %d", name, m.Len(), want)
			}
			for _, bad := range [][]byte{nil, m.Bytes()[1:], append([]byte{0}, m.Bytes()...)} {
				if _, err := s.OpenKeyPair(core.NewSecret(bad)); !errors.Is(err, core.ErrInvalid) {
					t.Errorf("%s: OpenKeyPair of %d bytes: %v, want ErrInvalid", name, len(bad), err)
				}
			}
			opened, err := s.OpenKeyPair(m)
			if err != nil || !bytes.Equal(opened.Public(), key.Public()) {
				t.Fatalf("%s: OpenKeyPair of the material: another key (%v)", name, err)
			}
			m.Wipe() // by its owner: neither key has kept it
			roundTrip(t, name, s, key)
			roundTrip(t, name, s, opened)
		}
		if a := algorithms[p.KEMAlgorithm]; a.ecdh != nil && p.KEMAlgorithm != core.X25519 {
			for _, scalar := range []byte{0x00, 0xff} { // zero, and beyond the order
				if _, err := s.OpenKeyPair(core.NewSecret(bytes.Repeat([]byte{scalar}, a.material))); !errors.Is(err, core.ErrInvalid) {
					t.Errorf("%s: scalar of bytes %#x: %v, want ErrInvalid", name, scalar, err)
				}
			}
		}
	})
}

func checkValidate(t testing.TB, open func() core.SuiteSource) {
	forEachSuite(t, open, func(name string, s core.Suite) {
		p := s.Parameters()
		for range 8 {
			key, err := s.GenerateKeyPair()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := s.ValidatePublic(key.Public()); err != nil {
				t.Errorf("%s: a good key is refused: %v", name, err)
			}
			for what, bad := range badPublicKeys(p.KEMAlgorithm, key.Public()) {
				if err := s.ValidatePublic(bad); !errors.Is(err, core.ErrInvalid) {
					t.Errorf("%s: %s: %v, want ErrInvalid", name, what, err)
				}
				if _, err := s.Sealer(nil).Seal(bad, nil, nil); !errors.Is(err, core.ErrInvalid) {
					t.Errorf("%s: Seal to a bad key: %s: %v, want ErrInvalid", name, what, err)
				}
				if _, _, err := s.SetupSender(bad, nil); !errors.Is(err, core.ErrInvalid) {
					t.Errorf("%s: SetupSender to a bad key: %s: %v, want ErrInvalid", name, what, err)
				}
			}
			public, sign := signerFor(t, open, p.Signature)
			if sign == nil {
				continue
			}
			if err := s.ValidateSignaturePublic(public); err != nil {
				t.Errorf("%s: a good signature key is refused: %v", name, err)
			}
			for what, bad := range badPublicKeys(p.Signature, public) {
				if err := s.ValidateSignaturePublic(bad); !errors.Is(err, core.ErrInvalid) {
					t.Errorf("%s: signature key: %s: %v, want ErrInvalid", name, what, err)
				}
			}
		}
	})
}

func checkSuiteSlices(t testing.TB, open func() core.SuiteSource) {
	forEachSuite(t, open, func(name string, s core.Suite) {
		p := s.Parameters()
		key, err := s.GenerateKeyPair()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r, err := s.Recipient(key)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		public, info, aad, plaintext := key.Public(), []byte("info"), []byte("aad"), []byte("plaintext")
		inputs := [][]byte{public, info, aad, plaintext}
		ct, err := s.Sealer(info).Seal(public, aad, plaintext)
		if err != nil {
			t.Fatalf("%s: Seal: %v", name, err)
		}
		inputs = append(inputs, ct.KEMOutput, ct.Ciphertext)
		_, export, err := s.SetupSender(public, info)
		if err != nil {
			t.Fatalf("%s: SetupSender: %v", name, err)
		}
		salt, ikm, aeadKey := secretOf(p.Nh), secretOf(p.Nh), secretOf(p.Nk)
		inputs = append(inputs, salt.Bytes(), ikm.Bytes(), aeadKey.Bytes())
		var before [][]byte
		for _, in := range inputs {
			before = append(before, bytes.Clone(in))
		}

		if _, err := r.Open(t.Context(), info, aad, ct); err != nil {
			t.Errorf("%s: Open: %v", name, err)
		}
		first, err := export.Export(aad, p.Nh)
		if err != nil {
			t.Fatalf("%s: Export: %v", name, err)
		}
		prk := s.Extract(salt, ikm)
		_, _ = s.Expand(prk, info, p.Nh)
		_, _ = s.Hash(plaintext, aad), s.MAC(ikm, plaintext)
		_ = s.Verify(public, plaintext, aad)
		_ = s.ValidatePublic(public)
		_ = s.ValidateSignaturePublic(public)
		a, err := s.AEAD(aeadKey)
		if err != nil {
			t.Fatalf("%s: AEAD: %v", name, err)
		}
		sealed := a.Seal(nil, make([]byte, p.Nn), plaintext, aad)
		for i := range inputs {
			if !bytes.Equal(inputs[i], before[i]) {
				t.Errorf("%s: input %d was changed", name, i)
			}
		}

		// Whoever owns them wipes the inputs and results; nothing must depend on it.
		clear(info)
		clear(public)
		aeadKey.Wipe()
		kept := first.Clone()
		first.Wipe()
		if second, err := export.Export(aad, p.Nh); err != nil || !second.Equal(kept) {
			t.Errorf("%s: the exporter keeps what it was given or gave (%v)", name, err)
		}
		if got, err := a.Open(nil, make([]byte, p.Nn), sealed, aad); err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("%s: the AEAD keeps the key it was given (%v)", name, err)
		}
		if got, err := r.Open(t.Context(), []byte("info"), aad, ct); err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("%s: the recipient keeps what it was given (%v)", name, err)
		}
	})
}

func checkSuiteConcurrency(t testing.TB, open func() core.SuiteSource) {
	forEachSuite(t, open, func(name string, s core.Suite) {
		key, err := s.GenerateKeyPair()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r, err := s.Recipient(key)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		newHash := hashOf(s.Parameters().Hash)
		ctx := t.Context()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 4 {
					text := []byte(fmt.Sprint(i, j))
					ct, err := s.Sealer(text).Seal(key.Public(), nil, text)
					if err != nil {
						t.Errorf("%s: Seal: %v", name, err)
						return
					}
					if got, err := r.Open(ctx, text, nil, ct); err != nil || !bytes.Equal(got, text) {
						t.Errorf("%s: Open: %q, %v", name, got, err)
					}
				}
				for j := range 500 {
					text := []byte(fmt.Sprint(i, j))
					if newHash == nil {
						break
					}
					m := hmac.New(newHash, text)
					m.Write(text)
					if !bytes.Equal(s.MAC(core.NewSecret(text), text), m.Sum(nil)) {
						t.Errorf("%s: MAC is not HMAC", name)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}
