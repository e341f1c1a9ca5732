// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/seal"
)

// DelayAt and the bounds are for tests.
var DelayAt = delayAt

const (
	MaxBuffered      = maxBuffered
	MaxBufferedBytes = maxBufferedBytes

	TableGroup  = tableGroup
	TableFloors = tableFloors
	TableLease  = tableLease
)

// A Buffer is a segment on a place of its own, for the test against a model.
type Buffer struct {
	s *segment
	p place
}

// NewBuffer opens one. Long says whether its values may be long.
func NewBuffer(store *seal.Store, long bool) *Buffer {
	table := tableData
	if long {
		table = tableOutbox
	}
	return &Buffer{s: newSegment(store), p: at(table, "model")}
}

// Put, Del, Read and Apply are those of the segment.
func (b *Buffer) Put(key, value []byte) { b.s.put(b.p, key, value) }

// Del deletes by prefix.
func (b *Buffer) Del(prefix []byte) { b.s.del(b.p, prefix) }

// Read answers one query.
func (b *Buffer) Read(ctx context.Context, prefix, after []byte, limit int) ([]seal.Record, error) {
	answers, err := b.s.read(ctx, query{place: b.p, prefix: prefix, after: after, limit: limit})
	if err != nil {
		return nil, err
	}
	return answers[0], nil
}

// Expect makes Apply conditional.
func (b *Buffer) Expect(key []byte, v core.Version) { b.s.expect(b.p, key, v) }

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
func SpoilCache(c *Client, id core.ConversationID) { c.cache.entries[id].group = &mls.Group{} }
