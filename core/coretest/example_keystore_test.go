// SPDX-License-Identifier: Apache-2.0

package coretest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/conclave-mls/conclave/core"
)

// A boltStore is a whole keystore over bbolt: a file with a B+ tree, in which table and
// key are the key, version and value the value.
type boltStore struct{ db *bbolt.DB }

var bucket = []byte("records")

// openBolt opens a file. bbolt lets one have it: to others it is ErrUnavailable.
func openBolt(file string) (core.Keystore, error) {
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: 100 * time.Millisecond})
	if err != nil {
		return nil, failed("open", err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucketIfNotExists(bucket); return err }); err != nil {
		return nil, failed("open", errors.Join(err, db.Close()))
	}
	return &boltStore{db}, nil
}

// Read answers all queries in one transaction, which sees one state.
func (s *boltStore) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	answers := make([][]core.Record, len(queries))
	room := core.MaxBatch
	err := s.db.View(func(tx *bbolt.Tx) error {
		for i, q := range queries {
			if err := errors.Join(q.Check(), ctx.Err()); err != nil {
				return err
			}
			prefix, from := at(q.Table, q.Prefix), at(q.Table, q.Prefix)
			if next := append(at(q.Table, q.After), 0); len(q.After) > 0 && bytes.Compare(next, from) > 0 {
				from = next // the least key that comes after After
			}
			c := tx.Bucket(bucket).Cursor()
			more := func() bool { return q.Limit == 0 || len(answers[i]) < q.Limit }
			for k, v := c.Seek(from); bytes.HasPrefix(k, prefix) && more(); k, v = c.Next() {
				r := core.Record{Key: bytes.Clone(k[1:]), Version: version(v)} // k and v end with the transaction
				if !q.KeysOnly {
					r.Value = bytes.Clone(v[len(r.Version):])
				}
				if room -= len(r.Key) + len(r.Value); room < 0 {
					return core.ErrTooLarge
				}
				answers[i] = append(answers[i], r)
			}
		}
		return nil
	})
	if err != nil {
		return nil, failed("read", err)
	}
	return answers, nil
}

// Apply is one transaction that writes, and there is one of these at a time.
func (s *boltStore) Apply(ctx context.Context, b core.Batch) error {
	if err := b.Check(); err != nil {
		return failed("apply", err)
	}
	tx, err := s.db.Begin(true)
	if err != nil {
		return failed("apply", err)
	}
	if err := errors.Join(ctx.Err(), change(tx.Bucket(bucket), b)); err != nil {
		return failed("apply", errors.Join(err, tx.Rollback()))
	}
	if err := tx.Commit(); err != nil { // it may be in the file, or half of it where nobody looks
		return failed("apply", fmt.Errorf("%w: %w", core.ErrUnknownOutcome, err))
	}
	return nil
}

func change(records *bbolt.Bucket, b core.Batch) error {
	for _, e := range b.Expect {
		if version(records.Get(at(e.Table, e.Key))) != e.Version {
			return core.ErrConflict
		}
	}
	for _, d := range b.Dels {
		prefix, c := at(d.Table, d.Prefix), records.Cursor()
		for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Seek(prefix) {
			if err := c.Delete(); err != nil {
				return err
			}
		}
	}
	for _, p := range b.Puts {
		if err := records.Put(at(p.Table, p.Key), append(p.Version[:], p.Value...)); err != nil {
			return err
		}
	}
	return nil
}

// Close waits for transactions.
func (s *boltStore) Close() error { return s.db.Close() }

func at(table core.Table, key []byte) []byte { return append([]byte{byte(table)}, key...) }

func version(v []byte) (found core.Version) {
	copy(found[:], v)
	return found
}

// failed gives an error the sentinel that says what the caller should do about it.
func failed(op string, err error) error {
	says := []error{core.ErrConflict, core.ErrInvalid, core.ErrTooLarge, core.ErrUnknownOutcome, context.Canceled, context.DeadlineExceeded}
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		err = core.ErrClosed
	} else if !slices.ContainsFunc(says, func(e error) bool { return errors.Is(err, e) }) {
		err = fmt.Errorf("%w: %w", core.ErrUnavailable, err) // the file is locked, the disk is full
	}
	return &core.ProviderError{Provider: "bolt", Op: op, Err: err}
}

func Example() {
	file := filepath.Join(os.TempDir(), fmt.Sprint("example-", time.Now().UnixNano()))
	store, err := openBolt(file)
	if err != nil {
		panic(err)
	}
	defer os.Remove(file)
	defer store.Close()
	ctx := context.Background()
	first := core.Put{Table: 1, Key: []byte("key"), Value: []byte("value"), Version: core.NewVersion()}
	fmt.Println(store.Apply(ctx, core.Batch{Puts: []core.Put{first}}))
	fmt.Println(store.Apply(ctx, core.Batch{Expect: []core.Expectation{{Table: 1, Key: first.Key}}})) // absent?
	// Output:
	// <nil>
	// bolt: apply: conflict
}
