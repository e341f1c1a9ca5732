// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"strings"
)

// A CryptoProvider makes and opens private keys: in software, in a token, in a
// plugin. Symmetric work and public-key operations never leave the process, so
// they are not here; see [Suite].
type CryptoProvider interface {
	// Algorithms lists what GenerateKey can make.
	Algorithms(ctx context.Context) ([]KeyAlgorithm, error)
	// GenerateKey makes a key. A provider that keeps its keys returns the same
	// key for the same ID, and ErrConflict if algorithm or use differ; one whose
	// keys are SoftwareKeys keeps nothing and makes a new one each time.
	// ErrUnsupported: not this algorithm or use.
	GenerateKey(ctx context.Context, spec KeySpec) (PrivateKey, error)
	// OpenKey returns the key of a reference. The material is what Material gave
	// for a SoftwareKey, else empty. ErrNotFound: the key is gone. ErrDenied: not
	// a reference of this provider. ErrInvalid: the material is not that key's.
	OpenKey(ctx context.Context, ref KeyRef, material Secret) (PrivateKey, error)
}

// A KeyRef is the public name of a private key, safe to print: "pure:<id>",
// "pkcs11:token=...;id=...", "plugin:NAME/...". It is a name, not a secret.
type KeyRef string

// Scheme is what stands before the first colon; it chooses the provider.
func (r KeyRef) Scheme() string {
	scheme, _, _ := strings.Cut(string(r), ":")
	return scheme
}

// KeyAlgorithm names what a key is for, signatures and key exchange alike.
type KeyAlgorithm string

// The algorithms that the seven RFC 9420 suites use.
const (
	Ed25519   KeyAlgorithm = "Ed25519"
	Ed448     KeyAlgorithm = "Ed448"
	ECDSAP256 KeyAlgorithm = "ECDSA-P256"
	ECDSAP384 KeyAlgorithm = "ECDSA-P384"
	ECDSAP521 KeyAlgorithm = "ECDSA-P521"
	X25519    KeyAlgorithm = "X25519"
	X448      KeyAlgorithm = "X448"
	ECDHP256  KeyAlgorithm = "ECDH-P256"
	ECDHP384  KeyAlgorithm = "ECDH-P384"
	ECDHP521  KeyAlgorithm = "ECDH-P521"
)

// KeyUse says what a key may do; a key has one use, never two.
type KeyUse uint8

// The uses of a key.
const (
	UseSign KeyUse = iota + 1
	UseDecrypt
)

// A KeySpec describes the key to make.
type KeySpec struct {
	ID        [16]byte // chosen by core first; becomes CKA_ID in a token
	Algorithm KeyAlgorithm
	Use       KeyUse
	Label     string
}

// A PrivateKey is a handle. What it can do is found by type assertion to
// [Signer], [Agreer], [Decapsulator] or [SoftwareKey].
type PrivateKey interface {
	Ref() KeyRef
	Algorithm() KeyAlgorithm
	Public() []byte // MLS encoding: RFC 9420 section 5.1.1 and 5.1.2
}

// A Signer signs whole messages, not digests. The signature has the MLS
// encoding: raw for EdDSA, DER for ECDSA.
type Signer interface {
	PrivateKey
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// An Agreer does the raw Diffie-Hellman of its curve: X coordinate or u
// coordinate. A peer key that is not a valid public key is ErrInvalid.
type Agreer interface {
	PrivateKey
	Agree(ctx context.Context, peer []byte) (Secret, error)
}

// A Decapsulator opens an encapsulated key of a KEM that is not a Diffie-Hellman.
type Decapsulator interface {
	PrivateKey
	Decapsulate(ctx context.Context, enc []byte) (Secret, error)
}

// A SoftwareKey can be stored: core seals the material, in the encoding that
// OpenKey (or Suite.OpenKeyPair) takes: EdDSA seed, ECDSA and ECDH big-endian
// scalar of full width, X25519 and X448 the 32 and 56 bytes.
type SoftwareKey interface {
	PrivateKey
	Material() Secret
}

// A KeyDeleter is a provider that keeps its keys and can delete them. Deleting
// an absent key is not an error. ErrDenied: not a reference of this provider.
type KeyDeleter interface {
	DeleteKey(ctx context.Context, ref KeyRef) error
}

// A KeyAttester is a provider that can prove where a key lives.
type KeyAttester interface {
	AttestKey(ctx context.Context, ref KeyRef, nonce []byte) ([]byte, error)
}

// A KeyImporter is a provider that takes a private key made elsewhere, such as
// those of test vectors. ErrInvalid: the material is not a key of the algorithm;
// ErrUnsupported: not this algorithm or use.
type KeyImporter interface {
	ImportKey(ctx context.Context, spec KeySpec, material Secret) (PrivateKey, error)
}

// A KeyChooser is a provider that stands for others, such as a [KeyRouter], and what is
// put around one. What the others can do besides is found by [ProviderOf].
type KeyChooser interface {
	// Provider returns who has the key of a reference; of an empty one, who makes new keys.
	Provider(ref KeyRef) CryptoProvider
}

// ProviderOf returns who has the key of a reference, and of an empty one who makes new
// keys: what p chooses if it is a [KeyChooser], else p itself. It is the one to ask
// whether it is a [KeyDeleter].
func ProviderOf(p CryptoProvider, ref KeyRef) CryptoProvider {
	if c, ok := p.(KeyChooser); ok {
		return c.Provider(ref)
	}
	return p
}

// A KeyRouter picks the provider by the scheme of the reference, so that one
// client may mix software and token keys. New keys come from Default.
type KeyRouter struct {
	Default   CryptoProvider            // always needed; all other schemes are its own
	Providers map[string]CryptoProvider // by KeyRef.Scheme
}

// Provider is that of the reference's scheme, else the default one. It implements
// [KeyChooser].
func (r *KeyRouter) Provider(ref KeyRef) CryptoProvider {
	p, ok := r.Providers[ref.Scheme()]
	if !ok {
		p = r.Default
	}
	return ProviderOf(p, ref)
}

// Algorithms are those of the default provider.
func (r *KeyRouter) Algorithms(ctx context.Context) ([]KeyAlgorithm, error) {
	return r.Default.Algorithms(ctx)
}

// GenerateKey asks the default provider.
func (r *KeyRouter) GenerateKey(ctx context.Context, spec KeySpec) (PrivateKey, error) {
	return r.Default.GenerateKey(ctx, spec)
}

// OpenKey asks the provider of the reference, which refuses what is not its own:
// ErrDenied.
func (r *KeyRouter) OpenKey(ctx context.Context, ref KeyRef, material Secret) (PrivateKey, error) {
	return r.Provider(ref).OpenKey(ctx, ref, material)
}
