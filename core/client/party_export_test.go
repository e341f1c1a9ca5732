// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/binary"

	"github.com/conclave-mls/conclave/core"
)

// A Tally is a party as simple as there can be: its head is a number, and each use of it
// burns a number.
type Tally struct {
	at      place
	Version core.Version
	Count   uint64
	used    uint64
}

var burntKey = []byte{1} // beside a tally's head

// Use burns a number.
func (y *Tally) Use() { y.Count++; y.used = y.Count }

func (y *Tally) changed() bool { return y.used > 0 }

func (y *Tally) write(s *segment) {
	s.expect(y.at, theOnly, y.Version)
	s.put(y.at, theOnly, be64(y.Count))
}

func (y *Tally) landed(_ *Client, versions versions) {
	if y.changed() {
		y.Version = versions.head(y.at)
	}
}

func (y *Tally) undone(*Client) (burnt []raise) {
	if y.used == 0 {
		return nil
	}
	used := y.used
	return []raise{{y.at, burntKey, func(stored []byte) ([]byte, error) { return be64(max(numberIn(stored), used)), nil }}}
}

func numberIn(value []byte) uint64 {
	if len(value) == 0 {
		return 0
	}
	return binary.BigEndian.Uint64(value)
}

// TallyAt is the place of one, and PSKAt one of another table.
func TallyAt(scope string) Place { return at(tableData, scope) }

func PSKAt(scope string) Place { return at(tablePSK, scope) }

// A Place is where a tally is.
type Place = place

// Tallies holds some of them.
func Tallies(ctx context.Context, t *Transaction, places ...place) (list []*Tally, err error) {
	err = t.take(ctx, func(missing []place) (parties []party, err error) {
		var queries []query
		for _, p := range missing {
			queries = append(queries, one(p, theOnly), one(p, burntKey))
		}
		answers, err := t.segment.read(ctx, queries...)
		if err != nil {
			return nil, err
		}
		for i, p := range missing {
			y := &Tally{at: p}
			for _, r := range answers[2*i] {
				y.Version, y.Count = r.Version, numberIn(r.Value)
			}
			for _, r := range answers[2*i+1] {
				y.Count = max(y.Count, numberIn(r.Value))
			}
			parties = append(parties, y)
		}
		return parties, nil
	}, places...)
	for _, p := range places {
		y, _ := t.segment.held[p].party.(*Tally)
		list = append(list, y)
	}
	return list, err
}

// WriteTally is another process.
func WriteTally(ctx context.Context, c *Client, p Place, count uint64) error {
	s := newSegment(c.store)
	s.put(p, theOnly, be64(count))
	_, err := s.apply(ctx)
	return err
}

// TryLock locks a place if it is free; nil if not.
func TryLock(c *Client, p Place) (release func()) { return c.locks.try(p) }

// Lockers counts who holds a place or waits for it.
func Lockers(c *Client, p Place) int {
	c.locks.mu.Lock()
	defer c.locks.mu.Unlock()
	return c.locks.locks[p].users
}

// Unchanged says that the open segment did nothing yet.
func Unchanged(t *Transaction) bool { return t.unchanged() }
