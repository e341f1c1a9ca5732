// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"crypto/ed25519"
	"fmt"
	"io"
)

// LastResortPreKeyID is the id of the prekey that stays when it was used. All others are
// for one session each.
const LastResortPreKeyID = 65535

// A PreKey is a key pair by which others open sessions with us while we are away.
type PreKey struct {
	ID   uint16
	pair keyPair
}

// GeneratePreKey draws 32 bytes from random; nil is crypto/rand.
func GeneratePreKey(random io.Reader, id uint16) (*PreKey, error) {
	k, err := generate(random)
	if err != nil {
		return nil, err
	}
	return &PreKey{id, k}, nil
}

// Wipe erases the secret key.
func (k *PreKey) Wipe() { k.pair.seed.Wipe() }

// Format shows the id only, by whatever verb.
func (k *PreKey) Format(f fmt.State, _ rune) { _, _ = fmt.Fprintf(f, "PreKey(%d)", k.ID) }

// Marshal encodes the prekey, secret key included.
func (k *PreKey) Marshal() []byte {
	b := appendUint(append(appendMap(nil, 3), 0), version)
	b = appendUint(append(b, 1), uint64(k.ID))
	return k.pair.append(append(b, 2))
}

// UnmarshalPreKey reads what Marshal writes.
func UnmarshalPreKey(data []byte) (*PreKey, error) {
	r, k := &reader{rest: data}, new(PreKey)
	r.fields([]uint64{0, 1, 2}, func(key uint64) bool {
		switch key {
		case 0:
			r.uint(1)
		case 1:
			k.ID = uint16(r.uint(2))
		case 2:
			k.pair = r.keyPair()
		default:
			return false
		}
		return true
	})
	if err := r.end("prekey"); err != nil {
		return nil, err
	}
	return k, nil
}

// A PreKeyBundle is what others get of a prekey.
type PreKeyBundle struct {
	ID        uint16
	Key       PublicKey
	Identity  PublicKey
	Signature []byte // 64 bytes, Ed25519 by Identity over Key; empty: unsigned, as is usual

	bare bool // the signature is written as TypeScript does
}

// Bundle is the public part of a prekey.
func (k *PreKey) Bundle(identity *IdentityKeyPair) *PreKeyBundle {
	return &PreKeyBundle{ID: k.ID, Key: k.pair.public, Identity: identity.Public()}
}

// SignedBundle is Bundle with a signature, as Rust writes it: TypeScript cannot read it.
func (k *PreKey) SignedBundle(identity *IdentityKeyPair) *PreKeyBundle {
	b := k.Bundle(identity)
	b.Signature = identity.pair.sign(b.Key[:])
	return b
}

// Verify checks the signature, if there is one: ErrInvalidSignature.
func (b *PreKeyBundle) Verify() error {
	if len(b.Signature) != 0 && !ed25519.Verify(b.Identity[:], b.Key[:], b.Signature) {
		return failed(CodeBadSignature, "prekey bundle %d of %s", b.ID, b.Identity.Fingerprint())
	}
	return nil
}

// Marshal encodes the bundle.
func (b *PreKeyBundle) Marshal() []byte {
	out := appendUint(append(appendMap(nil, 5), 0), version)
	out = appendUint(append(out, 1), uint64(b.ID))
	out = appendWrapped(append(out, 2), b.Key[:])
	out = b.Identity.appendIdentity(append(out, 3))
	switch out = append(out, 4); {
	case len(b.Signature) == 0:
		return append(out, null)
	case b.bare:
		return appendBytes(out, b.Signature)
	}
	return appendWrapped(out, b.Signature)
}

// UnmarshalPreKeyBundle reads a bundle as either implementation writes it. Neither its
// signature nor its keys are checked: [SessionFromPreKey] does that.
func UnmarshalPreKeyBundle(data []byte) (*PreKeyBundle, error) {
	r, b := &reader{rest: data}, new(PreKeyBundle)
	r.fields([]uint64{0, 1, 2, 3}, func(key uint64) bool {
		switch key {
		case 0:
			r.uint(1)
		case 1:
			b.ID = uint16(r.uint(2))
		case 2:
			b.Key = r.public()
		case 3:
			b.Identity = r.identity()
		case 4:
			b.Signature, b.bare = r.signature()
		default:
			return false
		}
		return true
	})
	if err := r.end("prekey bundle"); err != nil {
		return nil, err
	}
	return b, nil
}

// signature reads one in its map, as Rust writes it, or bare.
func (r *reader) signature() (signature []byte, bare bool) {
	if r.absent() {
		return nil, false
	}
	signature = make([]byte, ed25519.SignatureSize)
	if bare = len(r.rest) > 0 && r.rest[0]>>5 == majorBytes; bare {
		r.fixed(signature)
	} else {
		r.wrapped(signature)
	}
	return signature, bare
}
