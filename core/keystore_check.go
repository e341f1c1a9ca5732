// SPDX-License-Identifier: Apache-2.0

package core

import "fmt"

// Check is what a [Keystore] refuses a batch for before it looks at its state:
// ErrInvalid for an empty key, a key that is put twice or a zero version to put,
// ErrTooLarge for anything over a limit. MaxBatch counts the keys of all three
// parts and the values.
func (b Batch) Check() error {
	size := 0
	for i := range b.Expect {
		if err := checkKey(b.Expect[i].Key); err != nil {
			return fmt.Errorf("batch: expectation %d: %w", i, err)
		}
		size += len(b.Expect[i].Key)
	}
	for i := range b.Dels {
		if len(b.Dels[i].Prefix) > MaxKey {
			return fmt.Errorf("batch: range %d: prefix: %w", i, ErrTooLarge)
		}
		size += len(b.Dels[i].Prefix)
	}
	type name struct {
		table Table
		key   string
	}
	seen := make(map[name]struct{}, len(b.Puts))
	for i := range b.Puts {
		p := &b.Puts[i]
		if err := checkKey(p.Key); err != nil {
			return fmt.Errorf("batch: put %d: %w", i, err)
		}
		if p.Version == (Version{}) {
			return fmt.Errorf("batch: put %d: zero version: %w", i, ErrInvalid)
		}
		if len(p.Value) > MaxValue {
			return fmt.Errorf("batch: put %d: value: %w", i, ErrTooLarge)
		}
		size += len(p.Key) + len(p.Value)
		seen[name{p.Table, string(p.Key)}] = struct{}{}
		if len(seen) != i+1 {
			return fmt.Errorf("batch: put %d: the key is put twice: %w", i, ErrInvalid)
		}
	}
	if size > MaxBatch {
		return fmt.Errorf("batch of %d bytes: %w", size, ErrTooLarge)
	}
	return nil
}

// Check is what a [Keystore] refuses a query for: ErrInvalid for a negative
// limit, ErrTooLarge for a Prefix or After that no key can have.
func (q Query) Check() error {
	if q.Limit < 0 {
		return fmt.Errorf("query: negative limit: %w", ErrInvalid)
	}
	if len(q.Prefix) > MaxKey || len(q.After) > MaxKey {
		return fmt.Errorf("query: key: %w", ErrTooLarge)
	}
	return nil
}

func checkKey(key []byte) error {
	if len(key) == 0 {
		return fmt.Errorf("empty key: %w", ErrInvalid)
	}
	if len(key) > MaxKey {
		return fmt.Errorf("key: %w", ErrTooLarge)
	}
	return nil
}
