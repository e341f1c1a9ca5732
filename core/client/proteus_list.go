// SPDX-License-Identifier: Apache-2.0

package client

import "context"

// A nameList is a set of names, each under the number with which it came.
type nameList struct {
	t *Transaction
	p place
}

func (t *Transaction) sessions() nameList { return nameList{t, at(tableSessions, "")} }

func (l nameList) add(ctx context.Context, name []byte) (sequence uint64, err error) {
	x, err := l.t.segment.set(ctx, l.p)
	if err != nil {
		return 0, err
	}
	sequence = x.next
	x.put(be64(sequence), newEncoder().bytes(name))
	return sequence, nil
}

func (l nameList) remove(ctx context.Context, sequence uint64) error {
	x, err := l.t.segment.set(ctx, l.p)
	if err == nil {
		x.remove(be64(sequence))
	}
	return err
}

func (l nameList) list(ctx context.Context) ([][]byte, error) {
	return items(ctx, l.t.segment, l.p, nil, func(_, value []byte) (name []byte, err error) {
		err = decodeRecord("a list", value, func(d *decoder) { name = d.bytes() })
		return name, err
	})
}
