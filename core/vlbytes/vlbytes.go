// SPDX-License-Identifier: Apache-2.0

// Package vlbytes reads and writes the variable-length vectors of MLS, written
// opaque<V> and T<V> in RFC 9420 section 2.1.2, on top of cryptobyte.
//
// A vector is its length in bytes and then its content. The top two bits of the
// first byte say how wide the length is: 00 one byte (up to 63), 01 two bytes
// (up to 16383), 10 four bytes (up to [MaxLength]); 11 is refused (COD-1). Only the
// shortest form is valid (COD-2, COD-3).
//
// Start with [Read] and [Append]; for content whose length is known only once it
// is written, [AppendVector]. What Read accepts, Append writes back byte for byte.
// A length is compared with the bytes that are there before anything is done with
// it, so no peer can make this package allocate (COD-7).
//
// Reading reports malformed input by false, as cryptobyte does, and then leaves
// the string where it was. Writing more than MaxLength bytes is a mistake of the
// program and panics with a [LengthError]: whoever takes content from outside
// compares it with MaxLength first, or recovers.
package vlbytes

import (
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

// MaxLength is the length in bytes of the longest vector, 2^30-1.
const MaxLength = 1<<30 - 1

// A LengthError is what this package panics with: a length that no vector has. A
// program that builds vectors of what others give it recovers from nothing else.
type LengthError int

func (e LengthError) Error() string { return fmt.Sprintf("a vector of %d bytes", int(e)) }

const (
	max1 = 1<<6 - 1
	max2 = 1<<14 - 1
)

// Read reads a vector into out, which shares the memory of s. It returns false,
// with s and out unchanged, if the length is malformed or runs past the end.
func Read(s, out *cryptobyte.String) bool {
	rest := *s
	n, ok := ReadLength(&rest)
	if !ok || n > len(rest) {
		return false
	}
	*out, *s = rest[:n], rest[n:]
	return true
}

// ReadBytes is [Read] into a slice of its own: it stays valid when the memory of
// s is used again. An empty vector gives an empty slice that is not nil.
func ReadBytes(s *cryptobyte.String, out *[]byte) bool {
	var v cryptobyte.String
	if !Read(s, &v) {
		return false
	}
	*out = append(make([]byte, 0, len(v)), v...)
	return true
}

// ReadLength reads the 1, 2 or 4 bytes of a length, which must have its shortest
// form. It does not ask whether the content is there: [Read] does.
func ReadLength(s *cryptobyte.String) (int, bool) {
	b := *s
	if len(b) == 0 {
		return 0, false
	}
	switch b[0] >> 6 {
	case 0:
		*s = b[1:]
		return int(b[0]), true
	case 1:
		if len(b) < 2 {
			return 0, false
		}
		n := int(b[0]&0x3f)<<8 | int(b[1])
		*s = b[2:]
		return n, n > max1
	case 2:
		if len(b) < 4 {
			return 0, false
		}
		n := int(b[0]&0x3f)<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3])
		*s = b[4:]
		return n, n > max2
	}
	return 0, false
}

// Size returns how many bytes a vector with n bytes of content takes, its length
// included. It panics unless 0 <= n <= MaxLength.
func Size(n int) int {
	switch {
	case n < 0 || n > MaxLength:
		panic(LengthError(n))
	case n <= max1:
		return n + 1
	case n <= max2:
		return n + 2
	}
	return n + 4
}

// AppendLength appends the length of a vector whose n bytes of content the
// caller appends next. It panics unless 0 <= n <= MaxLength.
func AppendLength(b []byte, n int) []byte {
	switch {
	case n < 0 || n > MaxLength:
		panic(LengthError(n))
	case n <= max1:
		return append(b, byte(n))
	case n <= max2:
		return append(b, 0x40|byte(n>>8), byte(n))
	}
	return append(b, 0x80|byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// Append appends v as a vector. It panics if v is longer than MaxLength.
func Append(b, v []byte) []byte {
	return append(AppendLength(b, len(v)), v...)
}

// AppendVector appends a vector whose content f appends to the slice it is given.
// f may itself use AppendVector. It panics if the content is longer than MaxLength.
func AppendVector(b []byte, f func([]byte) []byte) []byte {
	start := len(b)
	// Most vectors are short: leave room for one byte, and move the content
	// over when the length turns out to need more.
	b = f(append(b, 0))
	n := len(b) - start - 1
	if n <= max1 {
		b[start] = byte(n)
		return b
	}
	width := Size(n) - n
	b = append(b, 0, 0, 0)[:len(b)+width-1]
	copy(b[start+width:], b[start+1:start+1+n])
	AppendLength(b[:start], n) // in place: the room is there
	return b
}
