// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// The tables. A key begins with the scope of a client or of a group, 16 bytes;
// all keys of one table have the same length.
const (
	tableClient    core.Table = iota + 1 // client: who it is, how it authenticates
	tablePackage                         // client, package id: a key package to be claimed
	tableSpent                           // client, package id: one that was claimed
	tableGroup                           // group: epoch and last sequence number
	tableRoster                          // group, client: from where to where it reads
	tableLog                             // group, sequence, chunk: a message
	tableWelcome                         // group, sequence, chunk: the Welcome of a commit
	tableInfo                            // group, chunk: the newest GroupInfo
	tableInbox                           // client, group, sequence: a Welcome to take
	tableCommit                          // group, epoch: which commit was accepted
	tableDelivered                       // group, idempotency key: under which sequence
)

// Every value begins with its format, so that a later release can tell.
const format1 = 1

// chunk is how much of a long value goes into one record: small enough that a
// page of records stays below core.MaxBatch.
const chunk = 256 << 10

// A scope is the first part of a key: a hash, because identifiers have any length.
type scope [16]byte

func scopeOf(kind string, parts ...string) scope {
	b := append([]byte("conclave delivery "), kind...)
	for _, p := range parts {
		b = vlbytes.Append(b, []byte(p))
	}
	sum := sha256.Sum256(b)
	return scope(sum[:16])
}

func clientScope(id core.ClientID) scope      { return scopeOf("client", string(id)) }
func groupScope(id core.ConversationID) scope { return scopeOf("group", string(id)) }

// key joins a scope with what follows it in clear.
func (s scope) key(parts ...[]byte) []byte { return slices.Concat(append([][]byte{s[:]}, parts...)...) }

// damaged says that a record is not what this package wrote.
func damaged(what string) error {
	return fmt.Errorf("delivery: record of %s: %w", what, core.ErrDamaged)
}

func put(table core.Table, key, value []byte) core.Put {
	return core.Put{Table: table, Key: key, Value: value, Version: core.NewVersion()}
}

// clientRecord: the token is known by its hash only.
type clientRecord struct {
	salt  [16]byte
	token [32]byte // SHA-256 of the secret part
	id    core.ClientID
}

func (r clientRecord) encode() []byte {
	b := append([]byte{format1}, r.salt[:]...)
	return vlbytes.Append(append(b, r.token[:]...), []byte(r.id))
}

func decodeClient(value []byte) (r clientRecord, err error) {
	s := cryptobyte.String(value)
	var format uint8
	var id []byte
	if !s.ReadUint8(&format) || format != format1 || !s.CopyBytes(r.salt[:]) || !s.CopyBytes(r.token[:]) ||
		!vlbytes.ReadBytes(&s, &id) || !s.Empty() {
		return r, damaged("a client")
	}
	r.id = core.ClientID(id)
	return r, nil
}

// groupRecord is the head of a group: whatever changes the group expects it.
type groupRecord struct {
	epoch, seq uint64
}

func (r groupRecord) encode() []byte {
	return slices.Concat([]byte{format1}, be64(r.epoch), be64(r.seq))
}

func decodeGroup(value []byte) (r groupRecord, err error) {
	if !readNumbers(value, &r.epoch, &r.seq) {
		return r, damaged("a group")
	}
	return r, nil
}

// memberRecord: a member reads what comes after start, up to and including end,
// which is 0 while it is a member; read is how far it has confirmed.
type memberRecord struct {
	start, end, read uint64
}

func (r memberRecord) encode() []byte {
	return slices.Concat([]byte{format1}, be64(r.start), be64(r.end), be64(r.read))
}

func decodeMember(value []byte) (r memberRecord, err error) {
	if !readNumbers(value, &r.start, &r.end, &r.read) {
		return r, damaged("a member")
	}
	return r, nil
}

// acceptedRecord: what was accepted, under which sequence number.
type acceptedRecord struct {
	seq  uint64
	hash [32]byte
}

func (r acceptedRecord) encode() []byte {
	return slices.Concat([]byte{format1}, be64(r.seq), r.hash[:])
}

func decodeAccepted(value []byte) (r acceptedRecord, err error) {
	s := cryptobyte.String(value)
	var format uint8
	if !s.ReadUint8(&format) || format != format1 || !s.ReadUint64(&r.seq) || !s.CopyBytes(r.hash[:]) || !s.Empty() {
		return r, damaged("an accepted message")
	}
	return r, nil
}

func readNumbers(value []byte, out ...*uint64) bool {
	s := cryptobyte.String(value)
	var format uint8
	if !s.ReadUint8(&format) || format != format1 {
		return false
	}
	for _, n := range out {
		if !s.ReadUint64(n) {
			return false
		}
	}
	return s.Empty()
}

// putLong cuts a long value into records under prefix: the first begins with
// the format and the whole length.
func putLong(table core.Table, prefix, value []byte) (puts []core.Put) {
	value = slices.Concat([]byte{format1}, binary.BigEndian.AppendUint32(nil, uint32(len(value))), value)
	for i, part := range slices.Collect(slices.Chunk(value, chunk)) {
		puts = append(puts, put(table, binary.BigEndian.AppendUint16(slices.Clone(prefix), uint16(i)), part))
	}
	return puts
}

// joinLong takes the records of one long value off the front. It returns nil if
// the page ends before the value does.
func joinLong(records []core.Record) (value []byte, rest []core.Record, err error) {
	s := cryptobyte.String(records[0].Value)
	var format uint8
	var length uint32
	if !s.ReadUint8(&format) || format != format1 || !s.ReadUint32(&length) {
		return nil, nil, damaged("a message")
	}
	value = append(make([]byte, 0, len(s)), s...)
	for i := 1; ; i++ {
		if len(value) == int(length) {
			return value, records[i:], nil
		}
		if i == len(records) {
			return nil, nil, nil
		}
		if len(value) > int(length) {
			return nil, nil, damaged("a message")
		}
		value = append(value, records[i].Value...)
	}
}

// get reads single records from one consistent state; an absent one is zero.
func (s *Server) get(ctx context.Context, queries ...core.Query) ([]core.Record, error) {
	answers, err := s.store.Read(ctx, queries)
	if err != nil {
		return nil, err
	}
	records := make([]core.Record, len(queries))
	for i, a := range answers {
		if len(a) > 0 {
			records[i] = a[0]
		}
	}
	return records, nil
}

// one asks for one record.
func one(table core.Table, key []byte) core.Query {
	return core.Query{Table: table, Prefix: key, Limit: 1}
}

// absent says that a record was not found.
func absent(r core.Record) bool { return r.Version == core.Version{} }

// same expects a record to be still what get returned for its query.
func same(q core.Query, r core.Record) core.Expectation {
	return core.Expectation{Table: q.Table, Key: q.Prefix, Version: r.Version}
}
