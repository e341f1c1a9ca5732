// SPDX-License-Identifier: Apache-2.0

package proteus

import "encoding/binary"

// Proteus is written in a subset of CBOR (RFC 8949): definite lengths, shortest forms, maps
// whose keys are small numbers. Read is more: any width of a length, and of a number what
// fits its field; keys in any order; unknown keys, however often they come, and tags, which
// are passed over, and only what is passed over may be of indefinite length; whatever follows
// the item. A map that names a known key twice is refused, as RFC 8949 has it.
//
// The codec is our own because of these rules: two items may follow one another without a
// frame, the bytes of an item are what is authenticated, and the width of a number counts.

// The limits of both implementations.
const (
	maxBytes   = 5 << 20 // of a byte string
	maxEntries = 1000    // of an array or map
	maxNesting = 16      // of what is passed over
)

// The major types (RFC 8949 section 3.1).
const (
	majorUint   = 0
	majorNegint = 1
	majorBytes  = 2
	majorText   = 3
	majorArray  = 4
	majorMap    = 5
	majorTag    = 6
	majorSimple = 7
)

const null = 0xf6

func appendHead(b []byte, major byte, n uint64) []byte {
	major <<= 5
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n <= 0xff:
		return append(b, major|24, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n <= 0xffffffff:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

func appendUint(b []byte, n uint64) []byte { return appendHead(b, majorUint, n) }
func appendMap(b []byte, n int) []byte     { return appendHead(b, majorMap, uint64(n)) }
func appendArray(b []byte, n int) []byte   { return appendHead(b, majorArray, uint64(n)) }

func appendBytes(b, s []byte) []byte {
	return append(appendHead(b, majorBytes, uint64(len(s))), s...)
}

// appendWrapped is a map of one byte string, as keys and MACs are.
func appendWrapped(b, s []byte) []byte {
	return appendBytes(append(b, majorMap<<5|1, 0), s)
}

// A reader reads items from the front of rest. After an error it gives zeros.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) fail(c Code, format string, args ...any) {
	if r.err == nil {
		r.err = failed(c, format, args...)
	}
	r.rest = nil
}

// head reads how an item begins, and the tags before it: its type, its argument and how
// many bytes that had besides the first.
func (r *reader) head() (major byte, n uint64, width int) {
	major, n, width = r.anyHead()
	if width == indefinite {
		r.fail(CodeMalformed, "no definite length")
		return 0, 0, 0
	}
	return major, n, width
}

// indefinite is the width where there is no argument: the item goes on until a break.
const indefinite = -1

// anyHead is head for items of indefinite length as well.
func (r *reader) anyHead() (major byte, n uint64, width int) {
	for {
		if len(r.rest) == 0 {
			r.fail(CodeMalformed, "ends too early")
			return 0, 0, 0
		}
		first := r.rest[0]
		r.rest = r.rest[1:]
		major, n, width = first>>5, uint64(first&0x1f), 0
		if n == 31 && major >= majorBytes && major <= majorMap {
			return major, 0, indefinite
		}
		if n >= 28 {
			r.fail(CodeMalformed, "no such item")
			return 0, 0, 0
		}
		if n >= 24 {
			width = 1 << (n - 24)
			if len(r.rest) < width {
				r.fail(CodeMalformed, "ends too early")
				return 0, 0, 0
			}
			var wide [8]byte
			copy(wide[8-width:], r.rest)
			n = binary.BigEndian.Uint64(wide[:])
			r.rest = r.rest[width:]
		}
		if major != majorTag {
			return major, n, width
		}
	}
}

// uint reads a number that has at most width bytes besides the first, however small it is.
func (r *reader) uint(width int) uint64 {
	major, n, wide := r.head()
	if r.err == nil && (major != majorUint || wide > width) {
		r.fail(CodeMalformed, "not a number of %d bits", 8*width)
		return 0
	}
	return n
}

// bytes reads a byte string, which shares memory with what is read.
func (r *reader) bytes() []byte {
	major, n, _ := r.head()
	if r.err == nil && (major != majorBytes || n > maxBytes || n > uint64(len(r.rest))) {
		r.fail(CodeMalformed, "not a byte string within what is left")
	}
	if r.err != nil {
		return nil
	}
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}

// fixed reads a byte string of len(to) bytes.
func (r *reader) fixed(to []byte) {
	s := r.bytes()
	if r.err == nil && len(s) != len(to) {
		r.fail(CodeLength, "%d bytes where %d are due", len(s), len(to))
	}
	copy(to, s)
}

// entries reads the length of an array or a map.
func (r *reader) entries(want byte) int {
	major, n, _ := r.head()
	if r.err == nil && (major != want || n > maxEntries) {
		r.fail(CodeMalformed, "not %s of at most %d entries", map[byte]string{majorArray: "an array", majorMap: "a map"}[want], maxEntries)
		return 0
	}
	return int(n)
}

// fields reads a map. It calls read for each key, which reads the value or says that it does
// not know the key. Those in required must be there.
func (r *reader) fields(required []uint64, read func(key uint64) bool) {
	var seen uint64
	for range r.entries(majorMap) {
		key := r.uint(1)
		if r.err != nil {
			return
		}
		if key >= 64 || !read(key) {
			r.skip(maxNesting)
			continue
		}
		if seen&(1<<key) != 0 {
			r.fail(CodeMalformed, "key %d twice", key)
		}
		seen |= 1 << key
	}
	if r.err != nil {
		return
	}
	for _, key := range required {
		if seen&(1<<key) == 0 {
			r.fail(CodeMalformed, "key %d is missing", key)
		}
	}
}

// wrapped reads a map with one byte string of len(to) bytes under key 0.
func (r *reader) wrapped(to []byte) {
	r.fields([]uint64{0}, func(key uint64) bool {
		if key == 0 {
			r.fixed(to)
		}
		return key == 0
	})
}

// absent reads a null, if that is what comes. TypeScript takes undefined for it as well.
func (r *reader) absent() bool {
	if len(r.rest) > 0 && (r.rest[0] == null || r.rest[0] == null+1) {
		r.rest = r.rest[1:]
		return true
	}
	return false
}

// skip passes over an item.
func (r *reader) skip(nesting int) {
	major, n, width := r.anyHead()
	switch {
	case r.err != nil:
	case width == indefinite:
		r.skipParts(major, nesting)
	case major == majorBytes || major == majorText:
		if n > maxBytes || n > uint64(len(r.rest)) {
			r.fail(CodeMalformed, "a string ends too early")
			return
		}
		r.rest = r.rest[n:]
	case major == majorArray || major == majorMap:
		if n > maxEntries || nesting == 0 {
			r.fail(CodeMalformed, "an unknown value is too large")
			return
		}
		if major == majorMap {
			n *= 2
		}
		for ; n > 0 && r.err == nil; n-- {
			r.skip(nesting - 1)
		}
	}
}

// skipParts passes over the parts of an item of indefinite length and its break (RFC 8949
// section 3.2): of a string those are strings of its type that have a length.
func (r *reader) skipParts(major byte, nesting int) {
	if nesting == 0 {
		r.fail(CodeMalformed, "an unknown value is too large")
	}
	for n := 0; r.err == nil; n++ {
		switch {
		case len(r.rest) == 0:
			r.fail(CodeMalformed, "ends too early")
		case r.rest[0] == 0xff && (major != majorMap || n%2 == 0):
			r.rest = r.rest[1:]
			return
		case major <= majorText && (r.rest[0]>>5 != major || r.rest[0]&31 == 31):
			r.fail(CodeMalformed, "not a part of a string")
		default:
			r.skip(nesting - 1)
		}
	}
}

// end says what went wrong.
func (r *reader) end(what string) error {
	if r.err == nil {
		return nil
	}
	e := *r.err.(*Error)
	e.Detail = what + ": " + e.Detail
	return &e
}
