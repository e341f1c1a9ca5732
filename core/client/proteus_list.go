// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"

	"github.com/conclave-mls/conclave/core"
)

type nameList struct {
	t *Transaction
	p place
}

func (t *Transaction) sessions() nameList { return nameList{t, at(tableSessions, "")} }

func (l nameList) next(ctx context.Context) (next uint64, err error) {
	r, found, err := l.t.segment.getExpected(ctx, l.p, theOnly)
	if err != nil || !found {
		return 0, err
	}
	err = decodeRecord("a list", r.Value, func(d *decoder) { next = d.u64() })
	return next, err
}

func (l nameList) add(ctx context.Context, name []byte) (uint64, error) {
	next, err := l.next(ctx)
	if err != nil {
		return 0, err
	}
	l.t.segment.put(l.p, item(be64(next)), newEncoder().bytes(name))
	l.t.segment.put(l.p, theOnly, newEncoder().u64(next+1))
	return next, nil
}

func (l nameList) remove(ctx context.Context, sequence uint64) error {
	next, err := l.next(ctx)
	if err != nil {
		return err
	}
	l.t.segment.del(l.p, item(be64(sequence)))
	l.t.segment.put(l.p, theOnly, newEncoder().u64(next))
	return nil
}

func (l nameList) list(ctx context.Context) (names [][]byte, err error) {
	answers, err := l.t.segment.read(ctx, query{place: l.p, prefix: item()})
	if err != nil {
		return nil, err
	}
	for _, r := range answers[0] {
		if err := decodeRecord("a list", r.Value, func(d *decoder) { names = append(names, d.bytes()) }); err != nil {
			return nil, err
		}
	}
	return names, nil
}

var _ = core.ErrDamaged
