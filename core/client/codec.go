// SPDX-License-Identifier: Apache-2.0

package client

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// recordFormat is the version that every record of this package begins with.
const recordFormat = 1

// An encoder appends fields to a record: numbers big-endian, bytes as vectors.
type encoder []byte

func newEncoder() encoder { return encoder{recordFormat} }

func (e encoder) u8(v uint8) encoder   { return append(e, v) }
func (e encoder) u16(v uint16) encoder { return binary.BigEndian.AppendUint16(e, v) }
func (e encoder) u32(v uint32) encoder { return binary.BigEndian.AppendUint32(e, v) }
func (e encoder) u64(v uint64) encoder { return binary.BigEndian.AppendUint64(e, v) }

func (e encoder) bytes(v []byte) encoder { return vlbytes.Append(e, v) }

func (e encoder) raw(v []byte) encoder { return append(e, v...) }

func (e encoder) flag(v bool) encoder {
	if v {
		return append(e, 1)
	}
	return append(e, 0)
}

// A decoder reads a record back. Our own records are authenticated by the store,
// so anything wrong with one is damage.
type decoder struct {
	s   cryptobyte.String
	bad bool
}

// decodeRecord reads a record whole.
func decodeRecord(what string, value []byte, f func(*decoder)) error {
	d := &decoder{s: value}
	if d.u8() != recordFormat {
		return fmt.Errorf("record of %s: unknown format: %w", what, core.ErrDamaged)
	}
	f(d)
	if d.bad || !d.s.Empty() {
		return fmt.Errorf("record of %s: %w", what, core.ErrDamaged)
	}
	return nil
}

func (d *decoder) need(ok bool) {
	if !ok {
		d.bad, d.s = true, nil
	}
}

func (d *decoder) u8() (v uint8)   { d.need(d.s.ReadUint8(&v)); return v }
func (d *decoder) u16() (v uint16) { d.need(d.s.ReadUint16(&v)); return v }
func (d *decoder) u32() (v uint32) { d.need(d.s.ReadUint32(&v)); return v }
func (d *decoder) u64() (v uint64) { d.need(d.s.ReadUint64(&v)); return v }
func (d *decoder) flag() bool      { return d.u8() == 1 }

func (d *decoder) bytes() (v []byte) { d.need(vlbytes.ReadBytes(&d.s, &v)); return v }

// rest is all that is left.
func (d *decoder) rest() (v []byte) { v, d.s = d.s, nil; return v }

func (d *decoder) raw(out []byte) { d.need(d.s.CopyBytes(out)) }

// be64 and be32 are the order-preserving forms of numbers in keys.
func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
func be16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
