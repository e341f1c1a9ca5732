// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"fmt"
	"io"

	"github.com/conclave-mls/conclave/core"
)

// The engine has no store. It asks for records with a [Fetch] when an operation
// needs them and hands out a [WriteSet] beside each next value of a group; the
// client seals and applies both sides. Record keys are at most 32 bytes, keep
// their order, and are prefix-free within a kind.

// RecordKind separates the records of one group.
type RecordKind uint8

// The kinds, with their keys. Integers are big-endian, epochs of pages inverted
// so that the newest version comes first.
const (
	RecordHeader    RecordKind = iota + 1 // no key: context, epoch secrets, own leaf, configuration
	RecordPathKeys                        // no key: private keys of own leaf, direct path and pending updates
	RecordPage                            // level u8, index u32, ^epoch u64: a tree page
	RecordPastEpoch                       // epoch u64
	RecordRatchet                         // epoch u64, leaf u32, content u8 (0 handshake, 1 application)
	RecordTreeNode                        // epoch u64, node u32: a secret-tree frontier node
	RecordFloors                          // epoch u64: generations that were burnt
	RecordPending                         // no key: the pending commit
	RecordProposal                        // sequence u32: a proposal received or sent in the current epoch
)

// A Record is stored under its kind and key. Values are secret.
type Record struct {
	Kind  RecordKind
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

// A RecordQuery asks for the records of a kind whose keys begin with Prefix and
// are greater than After, ascending, at most Limit of them (0: all).
type RecordQuery struct {
	Kind          RecordKind
	Prefix, After []byte
	Limit         int
}

// A Fetch answers all queries from one consistent state of the group. It is
// called with everything that the step needs, so that one round trip is enough.
type Fetch func(ctx context.Context, queries []RecordQuery) ([][]Record, error)

// A RecordRange names all records of a kind whose keys begin with Prefix.
type RecordRange struct {
	Kind   RecordKind
	Prefix []byte
}

// A WriteSet is what changed between a value of a group and the next: ranges to
// delete first, then records to put. Retired secrets are to be wiped once the
// write is durable and nobody holds the old value.
type WriteSet struct {
	Dels    []RecordRange
	Puts    []Record
	Retired []core.Secret
}

// recordFormat is the format version that every stored record begins with.
const recordFormat = 1

// unmarshalRecord decodes a stored record after its format byte. Damage is
// core.ErrDamaged: the store authenticates what it returns, so it is not a peer's doing.
func unmarshalRecord(what string, data []byte, f func(*reader)) error {
	if len(data) == 0 || data[0] != recordFormat {
		return fmt.Errorf("%s: unknown format: %w", what, core.ErrDamaged)
	}
	if err := unmarshal(what, data[1:], f); err != nil {
		return fmt.Errorf("%s: %w", what, core.ErrDamaged)
	}
	return nil
}

// one asks for exactly one record; nil if it is absent.
func (f Fetch) one(ctx context.Context, kind RecordKind, key []byte) ([]byte, error) {
	answers, err := f(ctx, []RecordQuery{{Kind: kind, Prefix: key, Limit: 1}})
	if err != nil {
		return nil, err
	}
	if len(answers) != 1 || len(answers[0]) == 0 {
		return nil, nil
	}
	return answers[0][0].Value, nil
}

func epochKey(epoch uint64) []byte { return appendU64(nil, epoch) }

func (w *WriteSet) put(kind RecordKind, key, value []byte) {
	w.Puts = append(w.Puts, Record{Kind: kind, Key: key, Value: value})
}

func (w *WriteSet) del(kind RecordKind, prefix []byte) {
	w.Dels = append(w.Dels, RecordRange{Kind: kind, Prefix: prefix})
}

func (w *WriteSet) retire(secrets ...core.Secret) {
	w.Retired = append(w.Retired, secrets...)
}
