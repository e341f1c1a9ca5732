// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/seal"
)

// Messages, and what peers put into a group with them, may be longer than a store
// takes in one value. Records that may hold such begin with a byte: 0, and the value
// follows; 1, and what follows is a random tag, the length of the whole and its first part. The other parts lie
// in a table of their own under the same key and a number, each with the tag, so
// that a part of another time is noticed.
const (
	shortValue = 0
	longValue  = 1
	tagLen     = 8
	partLen    = seal.MaxValue - 1 - tagLen - 4
)

// mayBeLong says whether records of a place whose keys begin with a prefix, or a
// part of them, may be long: those of the engine unless they are surely short.
func mayBeLong(p place, prefix []byte) bool {
	switch p.table {
	case tableBuffered, tableBufferedCommit, tableOutbox, tableJoin, tableIntention:
		return true
	case tableGroup:
		return len(prefix) == 0 || !slices.Contains(shortRecords, prefix[0])
	}
	return false
}

// shortRecords are the kinds whose size no peer can choose; those that every
// message writes are among them.
var shortRecords = []byte{byte(mls.RecordPathKeys), byte(mls.RecordRatchet), byte(mls.RecordTreeNode)}

// partsOf is where the other parts of a place's long values lie.
func partsOf(p place) place { return place{tableParts, string(p.table) + p.scope} }

// split encodes a value for a place that may hold long ones.
func split(value []byte) (first []byte, parts [][]byte) {
	if len(value) < seal.MaxValue {
		return append([]byte{shortValue}, value...), nil
	}
	var tag [tagLen]byte
	_, _ = rand.Read(tag[:])
	first = append([]byte{longValue}, tag[:]...)
	first = binary.BigEndian.AppendUint32(first, uint32(len(value)))
	first = append(first, value[:partLen]...)
	for rest := value[partLen:]; len(rest) > 0; {
		n := min(len(rest), partLen)
		parts = append(parts, append(bytes.Clone(tag[:]), rest[:n]...))
		rest = rest[n:]
	}
	return first, parts
}

func partKey(key []byte, i int) []byte {
	return binary.BigEndian.AppendUint16(bytes.Clone(key), uint16(i))
}

// whole replaces the first parts that were read by the whole values.
func (s *segment) whole(ctx context.Context, queries []query, answers [][]seal.Record) error {
	type long struct {
		record *seal.Record
		tag    []byte
		length int
	}
	var found []long
	var asked []seal.Query
	for i, q := range queries {
		if q.keysOnly {
			continue
		}
		for j := range answers[i] {
			r := &answers[i][j]
			if !mayBeLong(q.place, r.Key) {
				continue
			}
			damaged := fmt.Errorf("value in table %d: %w", q.table, core.ErrDamaged)
			if len(r.Value) == 0 {
				return damaged
			}
			kind := r.Value[0]
			r.Value = r.Value[1:]
			if kind == shortValue {
				continue
			}
			if len(r.Value) < tagLen+4 {
				return damaged
			}
			l := long{record: r, tag: r.Value[:tagLen], length: int(binary.BigEndian.Uint32(r.Value[tagLen:]))}
			r.Value = bytes.Clone(r.Value[tagLen+4:])
			found = append(found, l)
			p := partsOf(q.place)
			asked = append(asked, seal.Query{Table: p.table, Scope: []byte(p.scope), Prefix: r.Key})
		}
	}
	if len(found) == 0 {
		return nil
	}
	parts, err := s.store.Read(ctx, asked)
	if err != nil {
		return err
	}
	for i, l := range found {
		for _, part := range parts[i] {
			if bytes.HasPrefix(part.Value, l.tag) {
				l.record.Value = append(l.record.Value, part.Value[tagLen:]...)
			}
		}
		if len(l.record.Value) != l.length {
			return fmt.Errorf("a long value changed while it was read: %w", core.ErrConflict)
		}
	}
	return nil
}
