// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"errors"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// A signer signs in the token: what it gets is a hash (ECDSA) or the message (EdDSA).
type signer struct{ *key }

var _ core.Signer = (*signer)(nil)

// verifiedSignatures is how many signatures are verified after each login, with the
// public key that was there when the key was opened: a token that computes something
// else must not be noticed by others first.
const verifiedSignatures = 16

// errBadSignature: the token is well, and signs with another key or wrongly.
var errBadSignature = errors.New("the token's signature does not verify")

// Sign implements core.Signer. The message of an EdDSA key goes to the token whole:
// ErrTooLarge if it does not take it.
func (k *signer) Sign(ctx context.Context, message []byte) (signature []byte, err error) {
	message = bytes.Clone(message) // a call may go on after the deadline
	mechanism, data := k.input(message)
	result := make(chan []byte, 2) // one of each try
	err = k.run(ctx, "sign", retryOnce, func(s *session, o cryptoki.Object) error {
		out, err := s.p.Sign(s.handle, mechanism, o, data)
		if err != nil {
			return err
		}
		encoded, err := k.encode(out)
		if err != nil {
			return err
		}
		if err := k.check(s, message, data, out, encoded); err != nil {
			return err
		}
		result <- encoded
		return nil
	})
	if err != nil {
		return nil, err
	}
	return <-result, nil
}

// input is what the token gets to sign.
func (k *signer) input(message []byte) (cryptoki.Mechanism, []byte) {
	if k.curve.hash == 0 {
		return cryptoki.EdDSA, message
	}
	h := k.curve.hash.New()
	h.Write(message)
	return cryptoki.ECDSA, h.Sum(nil)
}

// encode gives the MLS form. CKM_ECDSA has r and s side by side, MLS and X.509 want DER.
func (k *signer) encode(out []byte) ([]byte, error) {
	want := 2 * k.curve.scalar // of EdDSA, too
	if len(out) != want {
		return nil, k.t.fail("sign", ErrTokenUnavailable, "the token gives a signature of another size")
	}
	if k.curve.hash == 0 {
		return out, nil
	}
	r, s := new(big.Int).SetBytes(out[:want/2]), new(big.Int).SetBytes(out[want/2:])
	if r.Sign() == 0 || s.Sign() == 0 {
		return nil, k.t.fail("sign", ErrTokenUnavailable, errBadSignature.Error())
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(r)
		b.AddASN1BigInt(s)
	})
	return b.Bytes()
}

// check verifies the first signatures after a login.
func (k *signer) check(s *session, message, data, raw, encoded []byte) error {
	k.mu.Lock()
	due := k.checked < verifiedSignatures
	k.mu.Unlock()
	if !due {
		return nil
	}
	good := false
	switch k.algorithm {
	case core.Ed25519:
		good = ed25519.Verify(k.public, message, raw)
	case core.Ed448: // the standard library has no Ed448: the token itself
		err := k.verifyInToken(s, message, raw)
		if good = err == nil; err != nil && kindOf(resultOf(err)) == nil {
			return err
		}
	default:
		c := map[core.KeyAlgorithm]elliptic.Curve{core.ECDSAP256: elliptic.P256(), core.ECDSAP384: elliptic.P384(), core.ECDSAP521: elliptic.P521()}[k.algorithm]
		public, err := ecdsa.ParseUncompressedPublicKey(c, k.public)
		good = err == nil && ecdsa.VerifyASN1(public, data, encoded)
	}
	if !good {
		return k.t.fail("sign", ErrKeyMismatch, errBadSignature.Error())
	}
	k.mu.Lock()
	k.checked++
	k.mu.Unlock()
	return nil
}

func (k *signer) verifyInToken(s *session, message, signature []byte) error {
	all, err := s.p.Find(s.handle, cryptoki.Template{{Attribute: cryptoki.CKAClass, Value: cryptoki.ClassPublicKey}, {Attribute: cryptoki.CKAID, Value: k.publicID}}, 1)
	// Without a public object there is nothing to verify it with, and the signature of an
	// Ed448 key passes unseen: its public key is then from a certificate or from the private
	// object, and others who verify are the first to notice a token that signs wrongly.
	if err != nil || len(all) == 0 {
		return err
	}
	return s.p.Verify(s.handle, cryptoki.EdDSA, all[0], message, signature)
}
