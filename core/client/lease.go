// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
)

// Of several processes on one store, one at a time sends from an outbox, so that
// the order is kept: who holds the lease. A lease ends by itself, because its
// holder may be dead; so two may send for a moment, which the idempotency key
// makes harmless.

// A leaseRecord tells who sends, until when. The time is the system's, not the
// client's Clock.
type leaseRecord struct {
	owner   [16]byte
	expires time.Time
	version core.Version // zero: nobody
}

func (l leaseRecord) encode() []byte {
	return newEncoder().raw(l.owner[:]).u64(uint64(l.expires.UnixMilli()))
}

func decodeLease(records []seal.Record) (l leaseRecord, err error) {
	if len(records) == 0 || len(records[0].Value) == 0 {
		return l, nil
	}
	err = decodeRecord("a lease", records[0].Value, func(d *decoder) {
		d.raw(l.owner[:])
		l.expires = time.UnixMilli(int64(d.u64()))
	})
	l.version = records[0].Version
	return l, err
}

// free says that anybody may take the lease.
func (l leaseRecord) free() bool {
	return l.version == (core.Version{}) || !time.Now().Before(l.expires)
}

func (c *Client) newLease() leaseRecord {
	return leaseRecord{owner: c.process, expires: time.Now().Add(c.cfg.Lease)}
}

// takeLease takes a free lease with the open segment.
func (t *Transaction) takeLease(ctx context.Context, id core.ConversationID) error {
	p := ofConversation(tableLease, id)
	if t.segment.changes[p] != nil {
		return nil
	}
	answers, err := t.segment.read(ctx, one(p, theOnly))
	if err != nil {
		return err
	}
	l, err := decodeLease(answers[0])
	if err != nil || !l.free() {
		return err
	}
	t.segment.expect(p, theOnly, l.version)
	t.segment.put(p, theOnly, t.client.newLease().encode())
	return nil
}
