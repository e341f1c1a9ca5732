// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// signerFor makes a signature key: the standard library's, or else one of the
// source, or nil.
func signerFor(t testing.TB, open func() core.SuiteSource, alg core.KeyAlgorithm) (public []byte, sign func(message []byte) []byte) {
	t.Helper()
	switch curve := algorithms[alg].ecdsa; {
	case alg == core.Ed25519:
		public, priv, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		return public, func(message []byte) []byte { return ed25519.Sign(priv, message) }
	case curve != nil:
		priv, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		public, err := priv.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return public, func(message []byte) []byte {
			sig, err := ecdsa.SignASN1(rand.Reader, priv, digest(alg, message))
			if err != nil {
				t.Error(err)
			}
			return sig
		}
	}
	p, ok := open().(core.CryptoProvider)
	if !ok {
		return nil, nil
	}
	key, err := p.GenerateKey(t.Context(), core.KeySpec{Algorithm: alg, Use: core.UseSign})
	if errors.Is(err, core.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		t.Fatalf("%s: %v", alg, err)
	}
	signer, ok := key.(core.Signer)
	if !ok {
		t.Fatalf("%s key %T is no core.Signer", alg, key)
	}
	return key.Public(), func(message []byte) []byte {
		sig, err := signer.Sign(context.WithoutCancel(t.Context()), message)
		if err != nil {
			t.Errorf("%s: Sign: %v", alg, err)
		}
		return sig
	}
}

func checkVerify(t testing.TB, open func() core.SuiteSource) {
	forEachSuite(t, open, func(name string, s core.Suite) {
		alg := s.Parameters().Signature
		public, sign := signerFor(t, open, alg)
		if sign == nil {
			return
		}
		stranger, _ := signerFor(t, open, alg)
		for i := range 16 { // the encoding of an integer depends on its value
			message := bytes.Repeat([]byte{byte(i)}, i*i)
			sig := sign(message)
			if err := s.Verify(public, message, sig); err != nil {
				t.Errorf("%s: signature %x: %v", name, sig, err)
			}
			refuse := func(what string, public, message, sig []byte) {
				if err := s.Verify(public, message, sig); !errors.Is(err, core.ErrInvalid) {
					t.Errorf("%s: %s: %v, want ErrInvalid", name, what, err)
				}
			}
			refuse("another message", public, append([]byte("x"), message...), sig)
			refuse("another key", stranger, message, sig)
			refuse("no key", nil, message, sig)
			refuse("a short key", public[1:], message, sig)
			refuse("no signature", public, message, nil)
			refuse("a short signature", public, message, sig[:len(sig)-1])
			refuse("a byte after the signature", public, message, append(bytes.Clone(sig), 0))
			for _, at := range []int{0, len(sig) / 2, len(sig) - 1} {
				flipped := bytes.Clone(sig)
				flipped[at] ^= 4
				refuse(fmt.Sprint("a flipped bit at ", at), public, message, flipped)
			}
			for what, malleated := range malleate(alg, sig) {
				refuse(what, public, message, malleated)
			}
		}
	})
}

// malleate makes other encodings of a signature that hold mathematically, and
// must be refused all the same (RFC 8032 section 5.1.7, DER).
func malleate(alg core.KeyAlgorithm, sig []byte) map[string][]byte {
	switch {
	case alg == core.Ed25519:
		order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
		return map[string][]byte{"S not reduced": addToS(sig, 32, order)}
	case alg == core.Ed448:
		order, _ := new(big.Int).SetString("181709681073901722637330951972001133588410340171829515070372549795146003961539585716195755291692375963310293709091662304773755859649779", 10)
		return map[string][]byte{"S not reduced": addToS(sig, 57, order)}
	case algorithms[alg].ecdsa != nil:
		var rs struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(sig, &rs); err != nil {
			return nil
		}
		width := (algorithms[alg].ecdsa.Params().BitSize + 7) / 8
		raw := append(rs.R.FillBytes(make([]byte, width)), rs.S.FillBytes(make([]byte, width))...)
		content := sig[2:]
		if sig[1] >= 0x80 { // P-521 needs a long length
			content = sig[3:]
		}
		long := append([]byte{0x30, 0x82, byte(len(content) >> 8), byte(len(content))}, content...)
		return map[string][]byte{"two integers of fixed width": raw, "BER with a long length": long}
	}
	return nil
}

// addToS adds n to the little-endian second half of an EdDSA signature.
func addToS(sig []byte, half int, n *big.Int) []byte {
	s := bytes.Clone(sig[half:])
	slices.Reverse(s)
	sum := new(big.Int).Add(new(big.Int).SetBytes(s), n).FillBytes(make([]byte, half))
	slices.Reverse(sum)
	return append(bytes.Clone(sig[:half]), sum...)
}
