// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// Structures are encoded by appending to a byte slice and decoded by a reader
// that remembers its first failure, so that a decoder reads like the RFC's
// definition and is checked once at its end. The codec is total: whatever is
// decoded encodes to the same bytes again (mls-conformance COD-8).

// marshaler is implemented by every wire structure.
type marshaler interface{ append(b []byte) []byte }

func marshal(m marshaler) []byte { return m.append(nil) }

// A reader decodes the TLS presentation language (RFC 9420 section 2.1). What it
// returns aliases its input.
type reader struct {
	s   cryptobyte.String
	bad bool
}

// unmarshal copies the input once, decodes it with f and requires that nothing
// is left (COD-5).
func unmarshal(what string, data []byte, f func(*reader)) error {
	if len(data) > vlbytes.MaxLength { // what was decoded fits a vector again
		return fmt.Errorf("%s of %d bytes: %w: %w", what, len(data), ErrMalformed, core.ErrTooLarge)
	}
	r := &reader{s: cryptobyte.String(bytes.Clone(data))}
	f(r)
	if r.bad || !r.s.Empty() {
		return fmt.Errorf("%s: %w", what, ErrMalformed)
	}
	return nil
}

// decode is [unmarshal] for a function that returns what it read; nothing is
// returned beside an error.
func decode[T any](what string, data []byte, read func(*reader) T) (T, error) {
	var v T
	err := unmarshal(what, data, func(r *reader) { v = read(r) })
	if err != nil {
		var none T
		return none, err
	}
	return v, nil
}

// within decodes an opaque field whose content has a known type.
func (r *reader) within(data []byte, f func(*reader)) {
	in := &reader{s: cryptobyte.String(data)}
	f(in)
	if in.bad || !in.s.Empty() {
		r.fail()
	}
}

// fail makes every later read return zero values and ends all loops.
func (r *reader) fail() {
	r.bad = true
	r.s = nil
}

func (r *reader) u8() (v uint8) {
	if !r.s.ReadUint8(&v) {
		r.fail()
	}
	return v
}

func (r *reader) u16() (v uint16) {
	if !r.s.ReadUint16(&v) {
		r.fail()
	}
	return v
}

func (r *reader) u32() (v uint32) {
	if !r.s.ReadUint32(&v) {
		r.fail()
	}
	return v
}

func (r *reader) u64() (v uint64) {
	if !r.s.ReadUint64(&v) {
		r.fail()
	}
	return v
}

// opaque reads opaque<V>. Its capacity is cut, so that appending to a field
// never writes into the next one.
func (r *reader) opaque() []byte {
	var v cryptobyte.String
	if !vlbytes.Read(&r.s, &v) {
		r.fail()
		return nil
	}
	return v[:len(v):len(v)]
}

// take reads n bytes.
func (r *reader) take(n int) (v []byte) {
	if !r.s.ReadBytes(&v, n) {
		r.fail()
		return nil
	}
	return v[:n:n]
}

// list reads T<V>. It ends because every element must consume a byte or fail.
func (r *reader) list(element func(*reader)) {
	in := &reader{s: cryptobyte.String(r.opaque())}
	for !in.s.Empty() && !in.bad {
		before := len(in.s)
		element(in)
		if len(in.s) == before {
			in.fail()
		}
	}
	if in.bad {
		r.fail()
	}
}

// present reads the presence octet of optional<T> (COD-4).
func (r *reader) present() bool {
	switch r.u8() {
	case 0:
		return false
	case 1:
		return !r.bad
	}
	r.fail()
	return false
}

func appendU16(b []byte, v uint16) []byte { return binary.BigEndian.AppendUint16(b, v) }
func appendU32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }
func appendU64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }
func appendOpaque(b, v []byte) []byte     { return vlbytes.Append(b, v) }

func appendPresent(b []byte, present bool) []byte {
	if present {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendCodes[T ~uint16](b []byte, list []T) []byte {
	b = vlbytes.AppendLength(b, 2*len(list))
	for _, v := range list {
		b = appendU16(b, uint16(v))
	}
	return b
}

// appendList writes T<V>.
func appendList[T any](b []byte, list []T, element func(T, []byte) []byte) []byte {
	return vlbytes.AppendVector(b, func(b []byte) []byte {
		for _, v := range list {
			b = element(v, b)
		}
		return b
	})
}

func codesOf[T ~uint16](r *reader) []T {
	var list []T
	r.list(func(r *reader) { list = append(list, T(r.u16())) })
	return list
}
