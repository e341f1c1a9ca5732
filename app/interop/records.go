// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"context"
	"slices"

	"github.com/conclave-mls/conclave/core/record"
)

// The records of one group state, each kind in the order of its keys.
type records map[record.Kind][]record.Record

func compareKey(r record.Record, key []byte) int { return bytes.Compare(r.Key, key) }

// fetch implements [record.Fetch].
func (r records) fetch(_ context.Context, queries []record.Query) ([][]record.Record, error) {
	answers := make([][]record.Record, len(queries))
	for i, q := range queries {
		first, _ := slices.BinarySearchFunc(r[q.Kind], q.Prefix, compareKey)
		for _, rec := range r[q.Kind][first:] {
			if !bytes.HasPrefix(rec.Key, q.Prefix) {
				break
			}
			if q.After != nil && bytes.Compare(rec.Key, q.After) <= 0 {
				continue
			}
			// The engine may keep a value, and wipes what it no longer needs.
			answers[i] = append(answers[i], record.Record{Kind: rec.Kind, Key: bytes.Clone(rec.Key), Value: bytes.Clone(rec.Value)})
			if len(answers[i]) == q.Limit {
				break
			}
		}
	}
	return answers, nil
}

// apply makes the changes of a step: what is deleted first, then what is put.
func (r records) apply(ws *record.WriteSet) {
	for _, d := range ws.Dels {
		r[d.Kind] = slices.DeleteFunc(r[d.Kind], func(rec record.Record) bool {
			gone := bytes.HasPrefix(rec.Key, d.Prefix)
			if gone {
				clear(rec.Value)
			}
			return gone
		})
	}
	for _, p := range ws.Puts {
		rec := record.Record{Kind: p.Kind, Key: bytes.Clone(p.Key), Value: bytes.Clone(p.Value)}
		i, found := slices.BinarySearchFunc(r[p.Kind], p.Key, compareKey)
		if found {
			clear(r[p.Kind][i].Value)
			r[p.Kind][i] = rec
		} else {
			r[p.Kind] = slices.Insert(r[p.Kind], i, rec)
		}
	}
	for _, s := range ws.Retired {
		s.Wipe()
	}
}

func (r records) wipe() {
	for kind, list := range r {
		for _, rec := range list {
			clear(rec.Value)
		}
		delete(r, kind)
	}
}
