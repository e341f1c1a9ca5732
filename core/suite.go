// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"crypto/cipher"
)

// A SuiteSource offers cipher suites. Suites are registered descriptors, not a
// switch, because code points beyond RFC 9420 still move.
type SuiteSource interface {
	// Suites lists the supported suites, most preferred first.
	Suites() []SuiteID
	// Suite returns ErrUnsupported for a suite it does not have.
	Suite(id SuiteID) (Suite, error)
}

// SignatureScheme is a TLS SignatureScheme code point.
type SignatureScheme uint16

// The signature schemes of RFC 9420.
const (
	SchemeECDSAP256 SignatureScheme = 0x0403
	SchemeECDSAP384 SignatureScheme = 0x0503
	SchemeECDSAP521 SignatureScheme = 0x0603
	SchemeEd25519   SignatureScheme = 0x0807
	SchemeEd448     SignatureScheme = 0x0808
)

// SuiteParameters are the sizes (bytes) and names of a suite.
type SuiteParameters struct {
	Name         string // registry name
	Hash         string // "SHA-256", ...
	Nh           int    // hash and KDF output
	Nk, Nn, Nt   int    // AEAD key, nonce and tag
	KEM, KDF     uint16 // HPKE registry
	AEAD         uint16 // HPKE registry
	Npk, Nenc    int    // KEM public key and encapsulated key
	KEMAlgorithm KeyAlgorithm
	Signature    KeyAlgorithm
	Scheme       SignatureScheme
}

// A Suite is the stateless half of the cryptography: in process, no context,
// safe for concurrent use. A SoftwareKey that it returns is also an [Agreer] or
// a [Decapsulator].
type Suite interface {
	ID() SuiteID
	Parameters() SuiteParameters
	// Hash hashes the concatenation of the parts.
	Hash(parts ...[]byte) []byte
	// MAC is HMAC with the suite's hash, never truncated.
	MAC(key Secret, message []byte) []byte
	// Extract and Expand are HKDF. Expand refuses more than 255*Nh bytes.
	Extract(salt, ikm Secret) Secret
	Expand(prk Secret, info []byte, length int) (Secret, error)
	// AEAD returns a reusable AEAD for a key of Nk bytes.
	AEAD(key Secret) (cipher.AEAD, error)
	// GenerateKeyPair, DeriveKeyPair and OpenKeyPair make HPKE key pairs. The
	// ikm of DeriveKeyPair has Nh bytes whatever the KEM.
	GenerateKeyPair() (SoftwareKey, error)
	DeriveKeyPair(ikm Secret) (SoftwareKey, error)
	OpenKeyPair(material Secret) (SoftwareKey, error)
	// ValidatePublic checks an HPKE public key: length, on the curve, not the
	// identity or of small order. ErrInvalid if not.
	ValidatePublic(public []byte) error
	// ValidateSignaturePublic does the same for a signature key.
	ValidateSignaturePublic(public []byte) error
	// Sealer is single-shot HPKE in base mode (RFC 9180) with this info, which is hashed
	// once for all recipients: in a Welcome it is as long as the group is large.
	Sealer(info []byte) Sealer
	// SetupSender is for export only (external init, RFC 9420 section 8.3).
	SetupSender(public, info []byte) (enc []byte, export Exporter, err error)
	// Recipient turns an Agreer or a Decapsulator into HPKE. ErrUnsupported for
	// other keys or another curve.
	Recipient(key PrivateKey) (Recipient, error)
	// Verify checks a signature in MLS encoding; ErrInvalid if it does not hold.
	Verify(public, message, signature []byte) error
}

// An HPKECiphertext is RFC 9420 section 7.6's structure of that name.
type HPKECiphertext struct {
	KEMOutput  []byte
	Ciphertext []byte
}

// A Sealer makes HPKE ciphertexts, each for the holder of a public key. It is safe for
// concurrent use.
type Sealer interface {
	Seal(public, aad, plaintext []byte) (HPKECiphertext, error)
}

// A Recipient opens HPKE ciphertexts. Any failure to open is ErrInvalid, unless
// the key itself failed.
type Recipient interface {
	Open(ctx context.Context, info, aad []byte, ct HPKECiphertext) ([]byte, error)
	Setup(ctx context.Context, enc, info []byte) (Exporter, error)
}

// An Exporter is the export interface of an HPKE context. Lengths beyond the
// KDF's limit or 65535 are ErrTooLarge.
type Exporter interface {
	Export(exporterContext []byte, length int) (Secret, error)
}
