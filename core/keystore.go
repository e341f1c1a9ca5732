// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"crypto/rand"
)

// Limits that every Keystore must take, and above which it answers ErrTooLarge.
const (
	MaxKey   = 48       // bytes: 16 blinded, up to 32 clear
	MaxValue = 1 << 20  // bytes
	MaxBatch = 64 << 20 // bytes of keys and values in one Batch or one answer
)

// A Table separates kinds of records; the numbers are core's.
type Table uint8

// A Version is chosen by core at random for every value and names it for good: no
// other value has the same one. (What is sealed anew under another key is still the
// same value, and put with the same version.) Zero means absent.
type Version [16]byte

// NewVersion draws a fresh version.
func NewVersion() (v Version) {
	_, _ = rand.Read(v[:]) // never fails, see crypto/rand
	return v
}

// A Query asks for the records of a table whose key begins with Prefix,
// ascending by key.
type Query struct {
	Table    Table
	Prefix   []byte // of the key; a full key asks for one record
	After    []byte // exclusive: only keys greater than this one
	Limit    int    // 0 is no limit
	KeysOnly bool   // leave Value empty
}

// A Record is what a Keystore holds under a key.
type Record struct {
	Key, Value []byte
	Version    Version
}

// An Expectation holds if the record has exactly this version before the batch.
type Expectation struct {
	Table   Table
	Key     []byte
	Version Version // zero: the record must be absent
}

// A Range names every record of a table whose key begins with Prefix.
type Range struct {
	Table  Table
	Prefix []byte
}

// A Put writes one record, new or not.
type Put struct {
	Table      Table
	Key, Value []byte
	Version    Version
}

// A Batch is applied whole or not at all: expectations are tried against the
// state before it, then ranges are deleted, then records put. A key is put at
// most once.
type Batch struct {
	Expect []Expectation
	Dels   []Range
	Puts   []Put
}

// A Keystore is a versioned map with one consistent read and one atomic write.
// Keys of one table within a scope are prefix-free. The store is trusted for
// durability, atomicity and freshness, not for secrecy or integrity: core/seal
// seals what it is given. On slices, contexts and concurrent use: see the package.
type Keystore interface {
	// Read answers all queries from one consistent state, each ascending by key
	// (bytewise). ErrTooLarge: an answer over MaxBatch, a key over MaxKey. ErrInvalid:
	// a negative limit.
	Read(ctx context.Context, queries []Query) ([][]Record, error)
	// Apply is all or nothing, and durable when it returns nil. ErrConflict: an
	// expectation failed, nothing changed. ErrUnknownOutcome: the batch happened
	// whole or not at all, perhaps later. ErrInvalid: a malformed batch (empty
	// key, key put twice, zero version). ErrTooLarge: over a limit.
	Apply(ctx context.Context, b Batch) error
	// Close waits for calls under way; calls after it are ErrClosed. Closing
	// twice is not an error.
	Close() error
}

// A Snapshotter is a Keystore that can show one state for as long as somebody
// reads it: what is copied from it while it is in use is whole. It is not needed:
// without it a copy is made twice as slowly, and refused if the store changed
// meanwhile.
type Snapshotter interface {
	Keystore
	// Snapshot holds the state of this moment; the context is that of the call alone.
	// Close it soon: the store may have to keep what is deleted meanwhile.
	Snapshot(ctx context.Context) (Snapshot, error)
}

// A Snapshot is a state of a Keystore.
type Snapshot interface {
	// Read is as that of the Keystore, and every call answers from the same state.
	// When the store is closed it may be ErrClosed.
	Read(ctx context.Context, queries []Query) ([][]Record, error)
	// Close lets the state go. Closing twice, or after the store, is not an error.
	Close() error
}

// A KeyWrapper protects the data keys of a store: raw bytes, a passphrase, a
// token, a cloud KMS.
type KeyWrapper interface {
	// ID names the wrapping key; it is stored in clear beside the blob.
	ID() string
	Wrap(ctx context.Context, dek Secret, aad []byte) ([]byte, error)
	// Unwrap: ErrWrongKey if the blob was wrapped by another key or changed.
	Unwrap(ctx context.Context, blob, aad []byte) (Secret, error)
}
