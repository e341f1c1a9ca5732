// SPDX-License-Identifier: Apache-2.0

package pure

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"

	"github.com/cloudflare/circl/sign/ed448"

	"github.com/conclave-mls/conclave/core"
)

// A signature is a signature scheme of RFC 9420 section 5.1.2. It refuses signatures
// of another length or form (CS-3) and private keys that are none (CS-5).
type signature struct {
	alg      core.KeyAlgorithm
	scheme   core.SignatureScheme
	generate func() (signKey, error)
	open     func(secret []byte) (signKey, error)
	validate func(public []byte) error
	verify   func(public, message, sig []byte) bool
}

// A signKey is a parsed private signature key.
type signKey interface {
	public() []byte // a copy
	secret() []byte // a copy
	sign(message []byte) ([]byte, error)
	wipe()
}

var (
	ed25519Signature = &signature{
		alg: core.Ed25519, scheme: core.SchemeEd25519,
		generate: func() (signKey, error) {
			_, priv, err := ed25519.GenerateKey(nil)
			return ed25519Key(priv), err
		},
		open: func(seed []byte) (signKey, error) {
			if len(seed) != ed25519.SeedSize {
				return nil, fmt.Errorf("Ed25519 seed of %d bytes: %w", len(seed), core.ErrInvalid)
			}
			return ed25519Key(ed25519.NewKeyFromSeed(seed)), nil
		},
		validate: validateEd25519,
		verify: func(public, message, sig []byte) bool {
			return len(public) == ed25519.PublicKeySize && ed25519.Verify(public, message, sig)
		},
	}
	ed448Signature = &signature{
		alg: core.Ed448, scheme: core.SchemeEd448,
		generate: func() (signKey, error) {
			seed := make([]byte, ed448.SeedSize)
			_, _ = rand.Read(seed) // never fails, see crypto/rand (CS-7)
			defer clear(seed)
			return ed448Key(ed448.NewKeyFromSeed(seed)), nil
		},
		open: func(seed []byte) (signKey, error) {
			if len(seed) != ed448.SeedSize {
				return nil, fmt.Errorf("Ed448 seed of %d bytes: %w", len(seed), core.ErrInvalid)
			}
			return ed448Key(ed448.NewKeyFromSeed(seed)), nil
		},
		validate: validateEd448,
		verify: func(public, message, sig []byte) bool {
			return ed448.Verify(public, message, sig, "")
		},
	}
	ecdsaP256Signature = newECDSA(core.ECDSAP256, core.SchemeECDSAP256, elliptic.P256(), crypto.SHA256, hkdfSHA256)
	ecdsaP384Signature = newECDSA(core.ECDSAP384, core.SchemeECDSAP384, elliptic.P384(), crypto.SHA384, hkdfSHA384)
	ecdsaP521Signature = newECDSA(core.ECDSAP521, core.SchemeECDSAP521, elliptic.P521(), crypto.SHA512, hkdfSHA512)
)

type (
	ed25519Key ed25519.PrivateKey
	ed448Key   ed448.PrivateKey
	ecdsaKey   struct {
		priv   *ecdsa.PrivateKey
		hash   crypto.Hash
		hasher *kdf
	}
)

func (k ed25519Key) public() []byte { return append([]byte(nil), k[ed25519.SeedSize:]...) }
func (k ed25519Key) secret() []byte { return append([]byte(nil), k[:ed25519.SeedSize]...) }
func (k ed25519Key) wipe()          { clear(k) }
func (k ed25519Key) sign(message []byte) ([]byte, error) {
	return ed25519.Sign(ed25519.PrivateKey(k), message), nil
}

func (k ed448Key) public() []byte { return append([]byte(nil), k[ed448.SeedSize:]...) }
func (k ed448Key) secret() []byte { return append([]byte(nil), k[:ed448.SeedSize]...) }
func (k ed448Key) wipe()          { clear(k) }
func (k ed448Key) sign(message []byte) ([]byte, error) {
	return ed448.Sign(ed448.PrivateKey(k), message, ""), nil
}

// newECDSA is ECDSA with DER signatures, uncompressed public points and scalars
// of the full width of the curve's order (CS-1).
func newECDSA(alg core.KeyAlgorithm, scheme core.SignatureScheme, curve elliptic.Curve, h crypto.Hash, hasher *kdf) *signature {
	return &signature{
		alg: alg, scheme: scheme,
		generate: func() (signKey, error) {
			priv, err := ecdsa.GenerateKey(curve, rand.Reader)
			if err != nil {
				return nil, err
			}
			return &ecdsaKey{priv, h, hasher}, nil
		},
		open: func(secret []byte) (signKey, error) {
			priv, err := ecdsa.ParseRawPrivateKey(curve, secret)
			if err != nil {
				return nil, fmt.Errorf("%s private key: %w", alg, core.ErrInvalid)
			}
			return &ecdsaKey{priv, h, hasher}, nil
		},
		validate: func(public []byte) error {
			if _, err := ecdsa.ParseUncompressedPublicKey(curve, public); err != nil {
				return errPublic
			}
			return nil
		},
		verify: func(public, message, sig []byte) bool {
			pub, err := ecdsa.ParseUncompressedPublicKey(curve, public)
			return err == nil && ecdsa.VerifyASN1(pub, hasher.hash(message), sig)
		},
	}
}

func (k *ecdsaKey) public() []byte {
	b, err := k.priv.PublicKey.Bytes()
	if err != nil { // only for a curve that crypto/ecdsa does not know
		return nil
	}
	return b
}

func (k *ecdsaKey) secret() []byte {
	b, err := k.priv.Bytes()
	if err != nil {
		return nil
	}
	return b
}

func (k *ecdsaKey) wipe() {} // crypto/ecdsa gives no access to its bytes

func (k *ecdsaKey) sign(message []byte) ([]byte, error) {
	return k.priv.Sign(rand.Reader, k.hasher.hash(message), k.hash)
}
