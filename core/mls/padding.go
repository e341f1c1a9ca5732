// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"math"
	"math/bits"
)

// A Padding says how much of a message's length its ciphertext hides (FR-12). It
// counts whole ciphertexts, AEAD tag included. A number from 2 up pads to a
// multiple of itself.
type Padding uint32

// The policies that are not a plain multiple, and what peers in the field use.
const (
	PaddingNone  Padding = 0              // as is 1
	Padding128   Padding = 128            // multiples of 128 bytes
	PaddingPadme Padding = math.MaxUint32 // at most 12 % more, and O(log log n) bits told of the length
)

// length returns the padded length of a ciphertext of n bytes.
func (p Padding) length(n int) int {
	switch {
	case p <= 1 || n < 2:
		return n
	case p == PaddingPadme:
		// Keep as many of the leading bits of the length as its exponent has bits.
		exponent := bits.Len(uint(n)) - 1
		last := exponent - bits.Len(uint(exponent))
		mask := 1<<max(last, 0) - 1
		return (n + mask) &^ mask
	}
	block := int(p)
	return (n + block - 1) / block * block
}
