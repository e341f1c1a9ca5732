// SPDX-License-Identifier: Apache-2.0

package pure

import (
	"bytes"
	"crypto/fips140"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"fmt"
	"hash"
	"sync"

	"github.com/conclave-mls/conclave/core"
)

// A kdf is a hash function with the HMAC and HKDF (RFC 2104, RFC 5869) built on
// it. Deriving a message key takes half a dozen expansions, so the state is
// pooled: crypto/hkdf allocates two hashes and re-reads the key each time.
type kdf struct {
	id    uint16 // HPKE registry
	name  string
	size  int // Nh
	block int
	new   func() hash.Hash
	pool  sync.Pool // of *macState
}

var (
	hkdfSHA256 = newKDF(1, "SHA-256", sha256.New)
	hkdfSHA384 = newKDF(2, "SHA-384", sha512.New384)
	hkdfSHA512 = newKDF(3, "SHA-512", sha512.New)
)

func newKDF(id uint16, name string, newHash func() hash.Hash) *kdf {
	h := newHash()
	k := &kdf{id: id, name: name, size: h.Size(), block: h.BlockSize(), new: newHash}
	k.pool.New = func() any { return &macState{h: newHash()} }
	return k
}

// A macState is the scratch space of one HMAC; it holds no secret while pooled,
// save what the hash keeps of its last block.
type macState struct {
	h       hash.Hash
	pad     [128]byte // largest block size
	sum     [64]byte  // largest digest
	counter [1]byte
}

// What HMAC adds to the key: ipad, and ipad plus opad.
var (
	innerPad     = bytes.Repeat([]byte{0x36}, 128)
	innerToOuter = bytes.Repeat([]byte{0x36 ^ 0x5c}, 128)
)

func (k *kdf) get() *macState { return k.pool.Get().(*macState) }

func (k *kdf) put(m *macState) {
	clear(m.pad[:])
	clear(m.sum[:])
	m.h.Reset()
	k.pool.Put(m)
}

// hash hashes the concatenation of the parts.
func (k *kdf) hash(parts ...[]byte) []byte {
	m := k.get()
	m.h.Reset()
	for _, p := range parts {
		m.h.Write(p)
	}
	out := m.h.Sum(make([]byte, 0, k.size))
	k.put(m)
	return out
}

// mac leaves HMAC(key, parts) in m.sum.
func (k *kdf) mac(m *macState, key []byte, parts ...[]byte) {
	if fips140.Enabled() { // HMAC inside the validated module
		h := hmac.New(k.new, key)
		for _, p := range parts {
			h.Write(p)
		}
		h.Sum(m.sum[:0])
		return
	}
	pad := m.pad[:k.block]
	clear(pad)
	if len(key) > k.block {
		m.h.Reset()
		m.h.Write(key)
		m.h.Sum(pad[:0])
	} else {
		copy(pad, key)
	}
	subtle.XORBytes(pad, pad, innerPad[:k.block])
	m.h.Reset()
	m.h.Write(pad)
	for _, p := range parts {
		m.h.Write(p)
	}
	inner := m.h.Sum(m.sum[:0])
	subtle.XORBytes(pad, pad, innerToOuter[:k.block])
	m.h.Reset()
	m.h.Write(pad)
	m.h.Write(inner)
	m.h.Sum(m.sum[:0])
}

// extract is HKDF-Extract over the concatenation of the parts; an absent salt
// is Nh zero bytes, which HMAC pads an empty key to anyway.
func (k *kdf) extract(salt []byte, parts ...[]byte) []byte {
	m := k.get()
	k.mac(m, salt, parts...)
	out := append(make([]byte, 0, k.size), m.sum[:k.size]...)
	k.put(m)
	return out
}

// expand is HKDF-Expand; info is the concatenation of the three parts.
func (k *kdf) expand(prk []byte, length int, info0, info1, info2 []byte) ([]byte, error) {
	if length < 0 {
		return nil, fmt.Errorf("expand to %d bytes: %w", length, core.ErrInvalid)
	}
	if length > 255*k.size {
		return nil, fmt.Errorf("expand to %d bytes, the limit is %d: %w", length, 255*k.size, core.ErrTooLarge)
	}
	out := make([]byte, 0, length)
	m := k.get()
	for m.counter[0] = 1; len(out) < length; m.counter[0]++ {
		var previous []byte
		if n := len(out); n > 0 {
			previous = out[n-k.size:]
		}
		k.mac(m, prk, previous, info0, info1, info2, m.counter[:])
		out = append(out, m.sum[:min(k.size, length-len(out))]...)
	}
	k.put(m)
	return out, nil
}
