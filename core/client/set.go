// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
)

// A set is what lies beside a head in one place, for who changes some of it or decides on
// all of it: who opens it expects the head, and every change replaces that, so nothing
// comes or goes meanwhile. Who only looks asks for its items.
type set struct {
	s    *segment
	at   place
	next uint64 // a number that no item has had
}

// set opens the set of a place. Its head alone is read.
func (s *segment) set(ctx context.Context, p place) (*set, error) {
	x := &set{s: s, at: p}
	r, found, err := s.getExpected(ctx, p, theOnly)
	if err == nil && found {
		err = decodeRecord("a set", r.Value, func(d *decoder) { x.next = d.u64() })
	}
	if err != nil {
		return nil, err
	}
	return x, nil
}

// put adds an item, which may have the number in its key: that is spent.
func (x *set) put(key, value []byte) {
	x.s.put(x.at, item(key), value)
	x.next++
	x.changed()
}

// remove takes an item out.
func (x *set) remove(key []byte) {
	x.s.del(x.at, item(key))
	x.changed()
}

func (x *set) changed() { x.s.put(x.at, theOnly, newEncoder().u64(x.next)) }

// items lists those of a set whose keys begin with a prefix.
func items[T any](ctx context.Context, s *segment, p place, prefix []byte, decode func(key, value []byte) (T, error)) (list []T, err error) {
	answers, err := s.read(ctx, query{place: p, prefix: item(prefix)})
	if err != nil {
		return nil, err
	}
	for _, r := range answers[0] {
		e, err := decode(r.Key[len(inList):], r.Value)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// names lists the items of a set that are names, in the order in which they came.
func names[T ~string](ctx context.Context, s *segment, p place) ([]T, error) {
	return items(ctx, s, p, nil, func(_, value []byte) (name T, err error) {
		err = decodeRecord("a list of names", value, func(d *decoder) { name = T(d.bytes()) })
		return name, err
	})
}
