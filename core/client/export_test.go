// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"sync"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/seal"
)

// DelayAt and the bounds are for tests.
var DelayAt = delayAt

const (
	MaxBuffered      = maxBuffered
	MaxBufferedBytes = maxBufferedBytes

	TableGroup   = tableGroup
	TableFloors  = tableFloors
	TableLease   = tableLease
	TableJournal = tableJournal
	TableKey     = tableSignatureKey
	TableParts   = tableParts
	TableRefused = tableRefused
	TablePreKey  = tablePreKey
	TableSession = tableSession
	PartLen      = partLen
)

// KeyTrouble and StoreTrouble are what a provider and the store say.
func KeyTrouble(err error) error   { return troubleWith(err) }
func StoreTrouble(err error) error { return troubleWithStore(err) }

// A Buffer is a segment on some places, for the test against a model.
type Buffer struct{ s *segment }

// bufferPlaces are its places: two of one table, one more, and two whose values may be
// long, of which the last has keys whose first byte tells.
var bufferPlaces = [...]place{
	at(tableData, "one"), at(tableData, "two"), at(tablePSK, "one"),
	ofConversation(tableOutbox, "model"), ofGroup("model", 1),
}

// BufferPlaces is how many there are; from LongPlaces on, values may be long.
const (
	BufferPlaces = len(bufferPlaces)
	LongPlaces   = 3
)

// A BufferQuery is a query of a segment.
type BufferQuery struct {
	Place         int
	Prefix, After []byte
	Limit         int
	KeysOnly      bool
}

// NewBuffer opens one.
func NewBuffer(store *seal.Store) *Buffer { return &Buffer{newSegment(&guardedStore{Store: store})} }

// Put, Del, Read, Get, GetExpected and Apply are those of the segment.
func (b *Buffer) Put(place int, key, value []byte) { b.s.put(bufferPlaces[place], key, value) }

// Del deletes by prefix.
func (b *Buffer) Del(place int, prefix []byte) { b.s.del(bufferPlaces[place], prefix) }

// Read answers all queries.
func (b *Buffer) Read(ctx context.Context, queries ...BufferQuery) ([][]seal.Record, error) {
	var asked []query
	for _, q := range queries {
		asked = append(asked, query{place: bufferPlaces[q.Place], prefix: q.Prefix, after: q.After, limit: q.Limit, keysOnly: q.KeysOnly})
	}
	return b.s.read(ctx, asked...)
}

// Get reads one record.
func (b *Buffer) Get(ctx context.Context, place int, key []byte) (seal.Record, bool, error) {
	return b.s.get(ctx, bufferPlaces[place], key)
}

// GetExpected reads one record and makes Apply conditional.
func (b *Buffer) GetExpected(ctx context.Context, place int, key []byte) (seal.Record, bool, error) {
	return b.s.getExpected(ctx, bufferPlaces[place], key)
}

// Expect makes Apply conditional.
func (b *Buffer) Expect(place int, key []byte, v core.Version) {
	b.s.expect(bufferPlaces[place], key, v)
}

// Set opens a set, puts an item into it under its next number, and takes others out.
func (b *Buffer) Set(ctx context.Context, place int, put []byte, remove ...uint64) error {
	x, err := b.s.set(ctx, bufferPlaces[place])
	if err != nil {
		return err
	}
	if put != nil {
		x.put(be64(x.next), put)
	}
	for _, n := range remove {
		x.remove(be64(n))
	}
	return nil
}

// Items are the values in a set.
func (b *Buffer) Items(ctx context.Context, place int) ([]string, error) {
	return items(ctx, b.s, bufferPlaces[place], nil, func(_, value []byte) (string, error) { return string(value), nil })
}

// Apply makes it durable.
func (b *Buffer) Apply(ctx context.Context) error {
	_, err := b.s.apply(ctx)
	return err
}

// ResumptionPSK is what the engine asks a transaction for.
func ResumptionPSK(ctx context.Context, t *Transaction, id core.ConversationID, epoch uint64) (core.Secret, error) {
	return t.resumptionPSK(ctx, id, epoch)
}

// SpoilCache puts a value that is as good as wiped in the place of a cached group.
func SpoilCache(c *Client, id core.ConversationID) {
	c.cache.entries[cacheKey{c, id}].group = &mls.Group{}
}

// Kept tells of how many groups and leaves there are in a cache.
func (c *Cache) Kept() (groups, leaves int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries), c.leaves
}

// Cache is where a client has its groups.
func (c *Client) Cache() *Cache { return c.cache }

// Kept tells of how many conversations a client knows how far they were read, and what
// else it keeps of them beside groups.
func (c *Client) Kept() (read, others int) {
	for _, m := range []*sync.Map{&c.moreToSend, &c.signers, &c.fresh, &c.committing} {
		m.Range(func(any, any) bool { others++; return true })
	}
	c.locks.mu.Lock()
	defer c.locks.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.read), others + len(c.locks.locks) + len(c.burnt)
}

const (
	CacheSize = cacheSize
	MaxRead   = maxRead
)

// HaveRead notes that the messages of a conversation before an epoch were read.
func (c *Client) HaveRead(id core.ConversationID, epoch uint64) { c.haveRead(id, epoch) }
