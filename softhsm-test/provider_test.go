// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"bytes"
	"crypto/rand"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/pure"
)

// open opens a token by package hsm for the time of the test.
func open(t testing.TB, uri string) *hsm.Token {
	t.Helper()
	token, err := hsm.Open(t.Context(), hsm.Config{URI: uri, Latch: latch(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	return token
}

// makeKey makes a key on a token.
func makeKey(t testing.TB, token *hsm.Token, alg core.KeyAlgorithm) core.PrivateKey {
	t.Helper()
	spec := core.KeySpec{Algorithm: alg, Use: core.UseSign, Label: "a key"}
	if slices.Contains(agreements, alg) {
		spec.Use = core.UseDecrypt
	}
	_, _ = rand.Read(spec.ID[:])
	key, err := token.Provider().GenerateKey(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// deleteKey leaves a token as it was; some are not the test's own.
func deleteKey(t testing.TB, token *hsm.Token, key core.PrivateKey) {
	t.Helper()
	if err := token.Provider().DeleteKey(t.Context(), key.Ref()); err != nil {
		t.Error(err)
	}
}

var (
	signatures = []core.KeyAlgorithm{core.Ed25519, core.Ed448, core.ECDSAP256, core.ECDSAP384, core.ECDSAP521}
	agreements = []core.KeyAlgorithm{core.X25519, core.X448, core.ECDHP256, core.ECDHP384, core.ECDHP521}
	nist       = []core.KeyAlgorithm{core.ECDSAP256, core.ECDSAP384, core.ECDSAP521, core.ECDHP256, core.ECDHP384, core.ECDHP521}
)

// can is what the tokens are known to do.
var can = map[string][]core.KeyAlgorithm{
	"softhsm": slices.Concat(signatures, agreements),
	"nss":     nist,
	"p11-kit": nist[:3],
	"tpm":     {core.ECDSAP256, core.ECDSAP384},
}

// The conformance suite of crypto providers.
func TestProvider(t *testing.T) {
	t.Parallel()
	for _, kind := range everywhere() {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			k := kind.make(t)
			coretest.TestCryptoProvider(t, func(t *testing.T) core.CryptoProvider { return open(t, k.URI()).Provider() })
		})
	}
}

// What a token can do is what works, and what it cannot is ErrUnsupported: signatures in
// the form of MLS, verified by other code, and HPKE with the key in the token.
func TestSuites(t *testing.T) {
	t.Parallel()
	source := pure.New()
	for _, kind := range everywhere() {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			token := open(t, kind.make(t).URI())
			got, err := token.Provider().Algorithms(t.Context())
			want := slices.Sorted(slices.Values(can[kind.name]))
			if kind.name == given {
				want = got
				t.Log(got)
			}
			if slices.Sort(got); err != nil || !slices.Equal(got, want) {
				t.Fatalf("the token has %v (%v), want %v", got, err, want)
			}
			for _, alg := range slices.Concat(signatures, agreements) {
				if slices.Contains(got, alg) {
					continue
				}
				use := core.UseSign
				if slices.Contains(agreements, alg) {
					use = core.UseDecrypt
				}
				if _, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{Algorithm: alg, Use: use}); !errors.Is(err, hsm.ErrUnsupported) {
					t.Errorf("%s: %v", alg, err)
				}
			}
			done := map[core.KeyAlgorithm]bool{}
			for _, id := range source.Suites() {
				suite, err := source.Suite(id)
				if err != nil {
					t.Fatal(err)
				}
				p := suite.Parameters()
				if alg := p.Signature; slices.Contains(got, alg) && !done[alg] {
					done[alg] = true
					key := makeKey(t, token, alg)
					signs(t, suite, key.(core.Signer))
					deleteKey(t, token, key)
				}
				for _, alg := range got {
					if key, ok := sameKEM[id]; ok && key == alg && !done[alg] {
						done[alg] = true
						key := makeKey(t, token, alg)
						decapsulates(t, suite, key)
						deleteKey(t, token, key)
					}
				}
			}
			if len(done) != len(got) {
				t.Errorf("only %v of %v are in suites", done, got)
			}
		})
	}
}

// sameKEM is the algorithm of a suite's HPKE keys.
var sameKEM = map[core.SuiteID]core.KeyAlgorithm{
	1: core.X25519, 2: core.ECDHP256, 3: core.X25519, 4: core.X448, 5: core.ECDHP521, 6: core.X448, 7: core.ECDHP384,
}

func signs(t *testing.T, suite core.Suite, key core.Signer) {
	t.Helper()
	// Many, because the encoding of an integer depends on its value.
	for i := range 40 {
		message := bytes.Repeat([]byte{byte(i)}, i)
		signature, err := key.Sign(t.Context(), message)
		if err != nil {
			t.Fatalf("%s: %v", key.Algorithm(), err)
		}
		if err := suite.Verify(key.Public(), message, signature); err != nil {
			t.Errorf("%s: %v", key.Algorithm(), err)
		}
		if err := suite.Verify(key.Public(), append(message, 0), signature); err == nil {
			t.Errorf("%s: the signature is valid for another message", key.Algorithm())
		}
		if a := key.Algorithm(); a == core.Ed25519 || a == core.Ed448 {
			continue
		}
		var point struct{ R, S *big.Int }
		if rest, err := asn1.Unmarshal(signature, &point); err != nil || len(rest) > 0 {
			t.Fatalf("%s: not DER: %v", key.Algorithm(), err)
		}
		if again, err := asn1.Marshal(point); err != nil || !bytes.Equal(again, signature) {
			t.Errorf("%s: not the shortest DER: %x", key.Algorithm(), signature)
		}
	}
}

func decapsulates(t *testing.T, suite core.Suite, key core.PrivateKey) {
	t.Helper()
	recipient, err := suite.Recipient(key)
	if err != nil {
		t.Fatalf("%s: %v", key.Algorithm(), err)
	}
	info, aad, text := []byte("info"), []byte("aad"), []byte("plaintext")
	sealed, err := suite.Sealer(info).Seal(key.Public(), aad, text)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := recipient.Open(t.Context(), info, aad, sealed); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%s: opened %q, %v", key.Algorithm(), got, err)
	}
	// What comes from the network cannot make the token look as if it failed.
	bad := map[string][]byte{"zero": make([]byte, len(sealed.KEMOutput)), "short": sealed.KEMOutput[1:], "long": append(bytes.Clone(sealed.KEMOutput), 0)}
	bad["off the curve"] = bytes.Clone(sealed.KEMOutput)
	bad["off the curve"][len(sealed.KEMOutput)/2] ^= 1
	for name, enc := range bad {
		wrong := sealed
		wrong.KEMOutput = enc
		if _, err := recipient.Open(t.Context(), info, aad, wrong); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: a peer that is %s: %v", key.Algorithm(), name, err)
		}
	}
	wrong := sealed
	wrong.Ciphertext = append(bytes.Clone(sealed.Ciphertext), 0)
	if _, err := recipient.Open(t.Context(), info, aad, wrong); err == nil || errors.Is(err, core.ErrUnavailable) {
		t.Errorf("%s: a wrong ciphertext: %v", key.Algorithm(), err)
	}
	if got, err := recipient.Open(t.Context(), info, aad, sealed); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%s: afterwards: opened %q, %v", key.Algorithm(), got, err)
	}
}
