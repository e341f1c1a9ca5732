// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
)

// maxData is what the application may keep as its checkpoint.
const maxData = core.MaxValue / 2

// SetData keeps one value of the application, durable with the transaction: for
// example the number of the last message that it processed. Up to 512 KiB, else
// core.ErrTooLarge.
func (t *Transaction) SetData(ctx context.Context, data []byte) error {
	return t.do(ctx, func() error {
		if len(data) > maxData {
			return fmt.Errorf("%d bytes of data: %w", len(data), core.ErrTooLarge)
		}
		t.segment.put(at(tableData, ""), theOnly, newEncoder().bytes(data))
		return nil
	})
}

// Data is what SetData kept, in this transaction or before; false if nothing. A
// transaction that has read it and writes anything is core.ErrConflict if somebody
// else has set it meanwhile, so that what is read can be changed and set again.
func (t *Transaction) Data(ctx context.Context) (data []byte, found bool, err error) {
	err = t.do(ctx, func() error {
		data, found, err = decodeData(t.segment.getExpected(ctx, at(tableData, ""), theOnly))
		return err
	})
	return data, found, err
}

// Data is what is durable of [Transaction.SetData].
func (c *Client) Data(ctx context.Context) ([]byte, bool, error) {
	if err := c.open(); err != nil {
		return nil, false, err
	}
	defer c.done()
	return data(ctx, newSegment(c.store))
}

func data(ctx context.Context, s *segment) ([]byte, bool, error) {
	return decodeData(s.get(ctx, at(tableData, ""), theOnly))
}

func decodeData(r seal.Record, found bool, err error) (v []byte, _ bool, _ error) {
	if err != nil || !found {
		return nil, false, err
	}
	err = decodeRecord("the application's data", r.Value, func(d *decoder) { v = d.bytes() })
	return v, err == nil, err
}
