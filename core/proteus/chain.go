// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"golang.org/x/crypto/chacha20"

	"github.com/conclave-mls/conclave/core"
)

// derive is HKDF with SHA-256 (RFC 5869) to two keys of 32 bytes.
func derive(input, salt []byte, info string) (cipherKey, macKey core.Secret) {
	out, err := hkdf.Key(sha256.New, input, salt, info, 64)
	if err != nil {
		panic(err) // of the length alone
	}
	return core.NewSecret(out[:32:32]), core.NewSecret(out[32:])
}

func hmacSHA256(key, message []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(message)
	return h.Sum(nil)
}

// A chainKey is the key of a chain of messages, each of which has a key that is derived
// from it.
type chainKey struct {
	key   core.Secret // 32 bytes
	index uint64      // of the next message; 2^32 when all are used
}

// maxIndex is the last counter that a message can have.
const maxIndex = 1<<32 - 1

func (c chainKey) next() chainKey {
	return chainKey{core.NewSecret(hmacSHA256(c.key.Bytes(), []byte("1"))), c.index + 1}
}

// step is next for a chain key of the caller's own, which it wipes.
func (c *chainKey) step() {
	next := c.next()
	c.key.Wipe()
	*c = next
}

func (c chainKey) messageKeys() messageKeys {
	input := hmacSHA256(c.key.Bytes(), []byte("0"))
	defer clear(input)
	m := messageKeys{counter: uint32(c.index)}
	m.cipher, m.mac = derive(input, nil, "hash_ratchet")
	return m
}

// messageKeys encrypt and authenticate one message.
type messageKeys struct {
	cipher, mac core.Secret // 32 bytes each
	counter     uint32
}

func (m messageKeys) wipe() {
	m.cipher.Wipe()
	m.mac.Wipe()
}

func wipeKeys(keys []messageKeys) {
	for _, m := range keys {
		m.wipe()
	}
}

// crypt encrypts or decrypts to what is as long, by ChaCha20 as its author defined it: a
// nonce of 8 bytes, which has the counter, and a block counter of 8. With the nonce of RFC
// 8439 it is the same if that begins with four zeros, up to 256 GiB.
func (m messageKeys) crypt(to, data []byte) {
	nonce := make([]byte, chacha20.NonceSize)
	binary.BigEndian.PutUint32(nonce[4:], m.counter)
	c, err := chacha20.NewUnauthenticatedCipher(m.cipher.Bytes(), nonce)
	if err != nil {
		panic(err) // of the lengths alone
	}
	c.XORKeyStream(to, data)
}

func (m messageKeys) authenticate(message []byte) []byte { return hmacSHA256(m.mac.Bytes(), message) }

// verifies compares in constant time.
func (m messageKeys) verifies(e *envelope) bool {
	return hmac.Equal(m.authenticate(e.message), e.mac[:])
}
