// SPDX-License-Identifier: Apache-2.0

// Package record is the language in which an engine and whoever has the store speak
// of what is to be kept. An engine has no store of its own: it asks for records with a
// [Fetch] when an operation needs them, and hands out a [WriteSet] beside each next
// value of its state. The client seals and applies both sides, for every protocol
// alike.
//
// Each engine numbers its own kinds of records and says what their keys are. Record
// keys are at most 32 bytes, keep their order, and are prefix-free within a kind.
// Values are secret: nothing here shows one, however it is printed.
package record

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// A Kind separates the records of one state: of one group, or of one session. An
// engine counts its kinds from 1.
type Kind uint8

// A Record is stored under its kind and key.
type Record struct {
	Kind  Kind
	Key   []byte
	Value []byte
}

// Format shows no byte of the value, by whatever verb.
func (r Record) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.redacted()) }

// MarshalText does not show the value either.
func (r Record) MarshalText() ([]byte, error) { return []byte(r.redacted()), nil }

func (r Record) redacted() string {
	return fmt.Sprintf("Record(%d, %x, %d bytes)", r.Kind, r.Key, len(r.Value))
}

// A Query asks for the records of a kind whose keys begin with Prefix and are
// greater than After, ascending, at most Limit of them (0: all).
type Query struct {
	Kind          Kind
	Prefix, After []byte
	Limit         int
}

// A Fetch answers all queries from one consistent state, each in its place. It is
// called with everything that the step needs, so that one round trip is enough. The
// values belong to the caller.
type Fetch func(ctx context.Context, queries []Query) ([][]Record, error)

// One asks for one record by its whole key; the value is nil if there is none.
func (f Fetch) One(ctx context.Context, kind Kind, key []byte) ([]byte, error) {
	answers, err := f(ctx, []Query{{Kind: kind, Prefix: key, Limit: 1}})
	if err != nil {
		return nil, err
	}
	if len(answers) != 1 || len(answers[0]) == 0 {
		return nil, nil
	}
	return answers[0][0].Value, nil
}

// A Range names all records of a kind whose keys begin with Prefix.
type Range struct {
	Kind   Kind
	Prefix []byte
}

// A WriteSet is what changed between a value of a state and the next: ranges to
// delete first, then records to put. Retired secrets are to be wiped once the
// write is durable and nobody holds the old value.
type WriteSet struct {
	Dels    []Range
	Puts    []Record
	Retired []core.Secret
}

// Put adds a record; the key and the value are taken over.
func (w *WriteSet) Put(kind Kind, key, value []byte) {
	w.Puts = append(w.Puts, Record{Kind: kind, Key: key, Value: value})
}

// Del adds a range to delete. It does not take back what the set puts: for a step
// after it there is [WriteSet.Follow].
func (w *WriteSet) Del(kind Kind, prefix []byte) {
	w.Dels = append(w.Dels, Range{Kind: kind, Prefix: prefix})
}

// Retire adds secrets that are of no use once this is durable.
func (w *WriteSet) Retire(secrets ...core.Secret) {
	w.Retired = append(w.Retired, secrets...)
}

// Follow adds the changes of a step that comes after w, so that w says what both
// do together: what the step deletes or writes again is no longer put by w. No
// used-up secret can come back this way, and no key is put twice.
func (w *WriteSet) Follow(step *WriteSet) {
	w.Puts = slices.DeleteFunc(w.Puts, func(p Record) bool {
		return slices.ContainsFunc(step.Puts, func(q Record) bool {
			return p.Kind == q.Kind && bytes.Equal(p.Key, q.Key)
		}) || slices.ContainsFunc(step.Dels, func(d Range) bool {
			return p.Kind == d.Kind && bytes.HasPrefix(p.Key, d.Prefix)
		})
	})
	w.Dels = append(w.Dels, step.Dels...)
	w.Puts = append(w.Puts, step.Puts...)
	w.Retired = append(w.Retired, step.Retired...)
}
