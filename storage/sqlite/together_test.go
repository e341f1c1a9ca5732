// SPDX-License-Identifier: Apache-2.0

package sqlite_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// Batches that come while the file is locked are one transaction. Each is whole or not
// there: one conflicts, the context of one ends.
func TestTogether(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	defer s.Close()
	apply(t, s, "first", "x")
	before := commits(t, path)
	other := connect(t, path)
	execute(t, other, "BEGIN IMMEDIATE")

	const n = 20
	errs := make([]error, n)
	var group sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	put := func(i int) core.Batch {
		b := core.Batch{Puts: []core.Put{
			{Table: 1, Key: fmt.Append(nil, "one ", i), Value: []byte("x"), Version: core.NewVersion()},
			{Table: 2, Key: fmt.Append(nil, "two ", i), Value: []byte("x"), Version: core.NewVersion()},
		}}
		if i == 3 {
			b.Expect = []core.Expectation{{Table: 1, Key: []byte("first"), Version: core.NewVersion()}}
		}
		return b
	}
	for i := range n {
		of := t.Context()
		if i == 5 {
			of = ctx
		}
		group.Go(func() { errs[i] = s.Apply(of, put(i)) })
		await(t, s, i+1) // they wait one behind the other
	}
	cancel()
	await(t, s, n-1)
	execute(t, other, "ROLLBACK")
	group.Wait()
	for i, err := range errs {
		want := map[int]error{3: core.ErrConflict, 5: context.Canceled}[i]
		if !errors.Is(err, want) {
			t.Errorf("batch %d: %v, want %v", i, err, want)
		}
	}
	if got := commits(t, path) - before; got != 1 {
		t.Errorf("%d transactions, want 1", got)
	}
	for table := core.Table(1); table <= 2; table++ {
		found, err := s.Read(t.Context(), []core.Query{{Table: table, Prefix: []byte{" ot"[table]}, KeysOnly: true}})
		if err != nil || len(found[0]) != n-2 {
			t.Errorf("%d records in table %d, want %d; error %v", len(found[0]), table, n-2, err)
		}
	}
}

// Of batches that came together, one that is not taken does not stop the others; and many
// more than fit into one transaction all become durable, in order.
func TestTogetherInOrder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	apply(t, s, "first", "x")
	other := connect(t, path)
	execute(t, other, "BEGIN IMMEDIATE")
	const n = 200
	var group sync.WaitGroup
	versions := make([]core.Version, n+1)
	for i := range n { // each expects what the one before it has put
		versions[i+1] = core.NewVersion()
		b := core.Batch{
			Expect: []core.Expectation{{Table: 1, Key: []byte("chain"), Version: versions[i]}},
			Puts:   []core.Put{{Table: 1, Key: []byte("chain"), Value: fmt.Append(nil, i), Version: versions[i+1]}},
		}
		group.Go(func() {
			if err := s.Apply(t.Context(), b); err != nil {
				t.Errorf("batch %d: %v", i, err)
			}
		})
		await(t, s, i+1)
	}
	execute(t, other, "ROLLBACK")
	group.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	defer s.Close()
	got, err := s.Read(t.Context(), []core.Query{{Table: 1, Prefix: []byte("chain")}})
	if err != nil || len(got[0]) != 1 || string(got[0][0].Value) != fmt.Sprint(n-1) || got[0][0].Version != versions[n] {
		t.Errorf("%v, error %v", got, err)
	}
}

// await waits until so many batches wait.
func await(t *testing.T, s *sqlite.Store, n int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); s.Waiting() != n; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatalf("%d batches wait, want %d", s.Waiting(), n)
		}
	}
}

// commits counts the transactions in a log: a frame that ends one says how large the file
// is then.
func commits(t *testing.T, path string) (n int) {
	t.Helper()
	log, err := os.ReadFile(path + "-wal")
	if err != nil || len(log) < 32 {
		t.Fatalf("log of %d bytes, error %v", len(log), err)
	}
	frame := 24 + int(binary.BigEndian.Uint32(log[8:]))
	salts := string(log[16:24])
	for rest := log[32:]; len(rest) >= frame && string(rest[8:16]) == salts; rest = rest[frame:] {
		if binary.BigEndian.Uint32(rest[4:]) != 0 {
			n++
		}
	}
	return n
}
