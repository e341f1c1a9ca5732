// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/hex"
	"fmt"
	"io"
)

// X509PublicKey is the public key of a signature algorithm, in its MLS encoding, as
// crypto/x509 has it. ErrInvalid: it is none, or one with which anybody signs.
// ErrUnsupported: crypto/x509 does not know the algorithm, such as Ed448.
func X509PublicKey(algorithm KeyAlgorithm, public []byte) (crypto.PublicKey, error) {
	key, _, err := x509Key(algorithm, public)
	return key, err
}

// x509Key also gives the hash that a certificate names beside a signature by the key.
func x509Key(algorithm KeyAlgorithm, public []byte) (crypto.PublicKey, crypto.Hash, error) {
	var curve elliptic.Curve
	var hash crypto.Hash
	switch algorithm {
	case Ed25519:
		if len(public) != ed25519.PublicKeySize {
			return nil, 0, fmt.Errorf("%s key of %d bytes: %w", algorithm, len(public), ErrInvalid)
		}
		if smallOrder(public) {
			return nil, 0, fmt.Errorf("%s key of small order: %w", algorithm, ErrInvalid)
		}
		return append(ed25519.PublicKey(nil), public...), 0, nil
	case ECDSAP256:
		curve, hash = elliptic.P256(), crypto.SHA256
	case ECDSAP384:
		curve, hash = elliptic.P384(), crypto.SHA384
	case ECDSAP521:
		curve, hash = elliptic.P521(), crypto.SHA512
	default:
		return nil, 0, fmt.Errorf("%s key in a certificate: %w", algorithm, ErrUnsupported)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, public)
	if err != nil {
		return nil, 0, fmt.Errorf("%s key: %w: %w", algorithm, ErrInvalid, err)
	}
	return key, hash, nil
}

// smallOrder says whether an Ed25519 key is a point of order 8 or less: for such a key there
// are signatures that verify, and nobody needs a private key for them.
func smallOrder(public []byte) bool {
	y := append([]byte(nil), public...)
	y[31] &= 0x7f // the other bit is the sign of x
	switch hex.EncodeToString(y) {
	case "0000000000000000000000000000000000000000000000000000000000000000", // order 4
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // the same, not reduced
		"0100000000000000000000000000000000000000000000000000000000000000", // order 1
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // the same, not reduced
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 2
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a": // order 8
		return true
	}
	return false
}

// X509Signer lets a key sign certificates, certificate requests and revocation lists with
// crypto/x509, which hands messages to a [crypto.MessageSigner]. A Signer takes no digest,
// so the method Sign always fails. The context is that of each signature, because the
// methods have none: make one for each piece of work. ErrUnsupported: Ed448.
func X509Signer(ctx context.Context, key Signer) (crypto.MessageSigner, error) {
	public, hash, err := x509Key(key.Algorithm(), key.Public())
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", key.Ref(), err)
	}
	return &x509Signer{ctx, key, public, hash}, nil
}

type x509Signer struct {
	ctx    context.Context
	key    Signer
	public crypto.PublicKey
	hash   crypto.Hash
}

// Public implements crypto.Signer.
func (s *x509Signer) Public() crypto.PublicKey { return s.public }

// Sign implements crypto.Signer, as one that cannot sign a digest does.
func (s *x509Signer) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, fmt.Errorf("key %s signs messages, not digests: %w", s.key.Ref(), ErrUnsupported)
}

// SignMessage implements crypto.MessageSigner. The key has its one hash; a certificate
// that names another would not verify.
func (s *x509Signer) SignMessage(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if hash, ok := opts.(crypto.Hash); !ok || hash != s.hash {
		return nil, fmt.Errorf("key %s does not sign with %v: %w", s.key.Ref(), opts, ErrUnsupported)
	}
	return s.key.Sign(s.ctx, message)
}
