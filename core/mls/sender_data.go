// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"crypto/rand"

	"github.com/conclave-mls/conclave/core"
)

// A senderData says which key a PrivateMessage is encrypted with (RFC 9420
// section 6.3.2).
type senderData struct {
	leaf       LeafIndex
	generation uint32
	reuseGuard [4]byte
}

// newSenderData draws a fresh reuse guard (FR-8).
func newSenderData(leaf LeafIndex, generation uint32) senderData {
	d := senderData{leaf: leaf, generation: generation}
	_, _ = rand.Read(d.reuseGuard[:]) // never fails, see crypto/rand
	return d
}

func (d senderData) append(b []byte) []byte {
	return append(appendU32(appendU32(b, uint32(d.leaf)), d.generation), d.reuseGuard[:]...)
}

func readSenderData(r *reader) senderData {
	d := senderData{leaf: LeafIndex(r.u32()), generation: r.u32()}
	copy(d.reuseGuard[:], r.take(4))
	return d
}

// guard mixes the reuse guard into the first bytes of a nonce; the result is a
// new slice.
func (d senderData) guard(nonce core.Secret) []byte {
	b := append([]byte(nil), nonce.Bytes()...)
	for i, g := range d.reuseGuard {
		b[i] ^= g
	}
	return b
}

// senderDataKeyNonce derives the key from a sample of the message's ciphertext:
// its first Nh bytes, or all of it if it is shorter.
func senderDataKeyNonce(suite core.Suite, secret core.Secret, ciphertext []byte) (key, nonce core.Secret, err error) {
	return keyNonce(suite, secret, ciphertext[:min(len(ciphertext), suite.Parameters().Nh)])
}

// senderDataAAD leaves out the authenticated data (FR-14).
func (m *PrivateMessage) senderDataAAD() []byte {
	b := make([]byte, 0, len(m.GroupID)+16)
	return append(appendU64(appendOpaque(b, m.GroupID), m.Epoch), byte(m.ContentType))
}

// sealSenderData fills in EncryptedSenderData; the message has its ciphertext.
func (m *PrivateMessage) sealSenderData(suite core.Suite, secret core.Secret, d senderData) error {
	key, nonce, err := senderDataKeyNonce(suite, secret, m.Ciphertext)
	if err != nil {
		return err
	}
	defer key.Wipe()
	aead, err := suite.AEAD(key)
	if err != nil {
		return err
	}
	m.EncryptedSenderData = aead.Seal(nil, nonce.Bytes(), d.append(nil), m.senderDataAAD())
	return nil
}

// openSenderData is the first step of receiving a PrivateMessage. Leaves is the
// number of leaves of the tree of the message's epoch; whether the leaf is
// occupied and whether it is our own is for the caller to see (FR-6, FR-9).
func (m *PrivateMessage) openSenderData(suite core.Suite, secret core.Secret, leaves uint32) (senderData, error) {
	key, nonce, err := senderDataKeyNonce(suite, secret, m.Ciphertext)
	if err != nil {
		return senderData{}, err
	}
	defer key.Wipe()
	aead, err := suite.AEAD(key)
	if err != nil {
		return senderData{}, err
	}
	plaintext, err := aead.Open(nil, nonce.Bytes(), m.EncryptedSenderData, m.senderDataAAD())
	if err != nil {
		return senderData{}, ErrAuthentication
	}
	d, err := decode("SenderData", plaintext, readSenderData)
	if err != nil {
		return senderData{}, err
	}
	if uint32(d.leaf) >= leaves {
		return senderData{}, breach("FR-9", "sender leaf %d of %d", d.leaf, leaves)
	}
	return d, nil
}
