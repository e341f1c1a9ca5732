// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"math/rand/v2"
	"slices"

	"github.com/conclave-mls/conclave/core/proteus"
)

// A proteusWire is a message as bytes, and where its parts are.
type proteusWire struct {
	b                                                 []byte
	mac, kind, preKeyID, base, identity               int // the latter three: 0 without a prekey
	cipher, tag, counter, previous, ratchet, ciphered int
}

// head is the length of the head of a CBOR item.
func head(first byte) int {
	if first &= 31; first < 24 {
		return 1
	}
	return 1 + 1<<(first-24)
}

// number reads one that is shorter than 64 bits.
func number(b []byte) (n int) {
	if n = int(b[0] & 31); n < 24 {
		return n
	}
	n = 0
	for _, c := range b[1:head(b[0])] {
		n = n<<8 | int(c)
	}
	return n
}

// layOut finds the parts of a message that is well-formed.
func layOut(message []byte) proteusWire {
	w := proteusWire{b: slices.Clone(message), mac: 8}
	at := w.mac + 32 + 1
	w.kind = at + head(w.b[at])
	at = w.kind + 1
	if w.b[w.kind] == 2 {
		w.preKeyID = at + 2
		w.base = w.preKeyID + head(w.b[w.preKeyID]) + 5
		w.identity = w.base + 32 + 7
		at = w.identity + 32 + 1
	}
	w.cipher, w.tag = at, at+3
	w.counter = w.tag + 16 + 1
	w.previous = w.counter + head(w.b[w.counter]) + 1
	w.ratchet = w.previous + head(w.b[w.previous]) + 5
	at = w.ratchet + 32 + 1
	w.ciphered = at + head(w.b[at])
	return w
}

// enclose is an envelope with the MAC of another around a message.
func (w proteusWire) enclose(message []byte) []byte {
	b := append(slices.Clone(w.b[:w.mac+32]), 2, 0x5a)
	b = binary.BigEndian.AppendUint32(b, uint32(len(message)))
	return append(b, message...)
}

// alter changes a message on its way, in one of the ways that a device can tell or must not
// mind, and what the model knows of it.
func alter(rng *rand.Rand, n *names, message []byte, m modelMessage) (how string, _ []byte, _ modelMessage) {
	w := layOut(message)
	b := w.b
	flip := func(from, to int) { b[from+rng.IntN(to-from)] ^= 1 << rng.IntN(8) }
	next := func(at int) { b[at+head(b[at])-1] ^= 1 } // the number before or after, of the same length
	key := func(at int) name {
		seed := make([]byte, ed25519.SeedSize)
		binary.BigEndian.PutUint64(seed, rng.Uint64())
		copy(b[at:], ed25519.NewKeyFromSeed(seed)[32:])
		return n.fresh()
	}
	ways := []string{"mac", "mac", "ciphertext", "counter", "previous", "tag", "ratchet key", "type", "no point", "cut", "version", "longer"}
	if m.first {
		ways = append(ways, "prekey id", "base key", "identity", "without prekey")
	}
	how, m.altered = ways[rng.IntN(len(ways))], true
	switch how {
	case "mac":
		flip(w.mac, w.mac+32)
	case "ciphertext":
		if w.ciphered == len(b) { // there is none
			flip(w.mac, w.mac+32)
			break
		}
		flip(w.ciphered, len(b))
	case "counter":
		next(w.counter)
		m.counter ^= 1
	case "previous":
		next(w.previous)
	case "tag":
		flip(w.tag, w.tag+16)
		m.tag = n.fresh()
	case "ratchet key":
		m.ratchet = key(w.ratchet)
	case "type":
		b[w.kind], m.malformed = 3, proteus.CodeMessageType
	case "no point":
		at := w.ratchet
		if m.first {
			at = []int{w.base, w.identity, w.ratchet}[rng.IntN(3)]
		}
		copy(b[at:], append([]byte{2}, make([]byte, 31)...))
		m.malformed = proteus.CodeBadPoint
	case "cut":
		b, m.malformed = b[:rng.IntN(len(b))], proteus.CodeMalformed
	case "version": // nobody reads it
		b[2], m.altered = 2, false
	case "longer": // nobody reads on
		b, m.altered = append(b, bytes.Repeat([]byte{0xff}, 1+rng.IntN(40))...), false
	case "prekey id":
		next(w.preKeyID)
		m.preKey.id ^= 1
	case "base key":
		m.preKey.base = key(w.base)
	case "identity":
		m.identity = key(w.identity)
	case "without prekey":
		b, m.first = w.enclose(append([]byte{1}, b[w.cipher:]...)), false
	}
	return how, b, m
}
