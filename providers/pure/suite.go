// SPDX-License-Identifier: Apache-2.0

package pure

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/conclave-mls/conclave/core"
)

var ecdhP256, ecdhP384, ecdhP521 = ecdh.P256(), ecdh.P384(), ecdh.P521()

// An aead is an AEAD of the HPKE registry; all have 12-byte nonces and 16-byte
// tags.
type aead struct {
	id     uint16
	nk, nn int
	open   func(key []byte) (cipher.AEAD, error)
}

var (
	aes128GCM = &aead{1, 16, 12, openGCM}
	aes256GCM = &aead{2, 32, 12, openGCM}
	chacha    = &aead{3, chacha20poly1305.KeySize, chacha20poly1305.NonceSize, chacha20poly1305.New}
)

func openGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// A suite is one row of the table below, made ready.
type suite struct {
	id        core.SuiteID
	name      string
	kem       *dhkem
	aead      *aead
	kdf       *kdf
	sig       *signature
	prefix    []byte // "HPKE-v1" and the suite_id of HPKE
	pskIDHash []byte // of the empty id: base mode
}

// rfc9420 lists the suites of RFC 9420 section 17.1, most preferred first.
var rfc9420 = []*suite{
	newSuite(core.SuiteX25519AES128Ed25519, "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519", kemX25519, aes128GCM, hkdfSHA256, ed25519Signature),
	newSuite(core.SuiteX25519ChaChaEd25519, "MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519", kemX25519, chacha, hkdfSHA256, ed25519Signature),
	newSuite(core.SuiteP256AES128P256, "MLS_128_DHKEMP256_AES128GCM_SHA256_P256", kemP256, aes128GCM, hkdfSHA256, ecdsaP256Signature),
	newSuite(core.SuiteX448AES256Ed448, "MLS_256_DHKEMX448_AES256GCM_SHA512_Ed448", kemX448, aes256GCM, hkdfSHA512, ed448Signature),
	newSuite(core.SuiteX448ChaChaEd448, "MLS_256_DHKEMX448_CHACHA20POLY1305_SHA512_Ed448", kemX448, chacha, hkdfSHA512, ed448Signature),
	newSuite(core.SuiteP384AES256P384, "MLS_256_DHKEMP384_AES256GCM_SHA384_P384", kemP384, aes256GCM, hkdfSHA384, ecdsaP384Signature),
	newSuite(core.SuiteP521AES256P521, "MLS_256_DHKEMP521_AES256GCM_SHA512_P521", kemP521, aes256GCM, hkdfSHA512, ecdsaP521Signature),
}

func newSuite(id core.SuiteID, name string, kem *dhkem, a *aead, k *kdf, sig *signature) *suite {
	s := &suite{id: id, name: name, kem: kem, aead: a, kdf: k, sig: sig}
	s.prefix = []byte("HPKE-v1HPKE")
	for _, part := range []uint16{kem.id, k.id, a.id} {
		s.prefix = binary.BigEndian.AppendUint16(s.prefix, part)
	}
	s.pskIDHash = k.extract(nil, s.prefix, labelPSKID)
	return s
}

// The methods of core.Suite that are not HPKE's; those are in hpke.go.

func (s *suite) ID() core.SuiteID { return s.id }

func (s *suite) Parameters() core.SuiteParameters {
	return core.SuiteParameters{
		Name: s.name, Hash: s.kdf.name, Nh: s.kdf.size,
		Nk: s.aead.nk, Nn: s.aead.nn, Nt: 16,
		KEM: s.kem.id, KDF: s.kdf.id, AEAD: s.aead.id,
		Npk: s.kem.npk, Nenc: s.kem.npk,
		KEMAlgorithm: s.kem.alg, Signature: s.sig.alg, Scheme: s.sig.scheme,
	}
}

func (s *suite) Hash(parts ...[]byte) []byte { return s.kdf.hash(parts...) }

func (s *suite) MAC(key core.Secret, message []byte) []byte {
	return s.kdf.extract(key.Bytes(), message) // HKDF-Extract is HMAC
}

func (s *suite) Extract(salt, ikm core.Secret) core.Secret {
	return core.NewSecret(s.kdf.extract(salt.Bytes(), ikm.Bytes()))
}

func (s *suite) Expand(prk core.Secret, info []byte, length int) (core.Secret, error) {
	out, err := s.kdf.expand(prk.Bytes(), length, info, nil, nil)
	if err != nil {
		return core.Secret{}, fail("expand", err)
	}
	return core.NewSecret(out), nil
}

func (s *suite) AEAD(key core.Secret) (cipher.AEAD, error) {
	if key.Len() != s.aead.nk {
		return nil, fail("aead", fmt.Errorf("key of %d bytes, not %d: %w", key.Len(), s.aead.nk, core.ErrInvalid))
	}
	return s.aead.open(key.Bytes())
}

func (s *suite) GenerateKeyPair() (core.SoftwareKey, error) {
	return s.key("generate key pair")(s.kem.group.generate())
}

func (s *suite) DeriveKeyPair(ikm core.Secret) (core.SoftwareKey, error) {
	return s.key("derive key pair")(s.kem.derive(ikm.Bytes()))
}

func (s *suite) OpenKeyPair(material core.Secret) (core.SoftwareKey, error) {
	return s.key("open key pair")(s.kem.group.open(material.Bytes()))
}

func (s *suite) key(op string) func(groupKey, error) (core.SoftwareKey, error) {
	return func(k groupKey, err error) (core.SoftwareKey, error) {
		if err != nil {
			return nil, fail(op, err)
		}
		return &agreementKey{alg: s.kem.alg, k: k}, nil
	}
}

func (s *suite) ValidatePublic(public []byte) error {
	if err := s.kem.group.validate(public); err != nil {
		return fail("validate public key", err)
	}
	return nil
}

func (s *suite) ValidateSignaturePublic(public []byte) error {
	if err := s.sig.validate(public); err != nil {
		return fail("validate signature key", err)
	}
	return nil
}

func (s *suite) Verify(public, message, sig []byte) error {
	if !s.sig.verify(public, message, sig) {
		return fail("verify", fmt.Errorf("signature: %w", core.ErrInvalid))
	}
	return nil
}
