// SPDX-License-Identifier: Apache-2.0

package sqlite_test

import (
	"context"
	"database/sql/driver"
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

// Without a moment in which nobody reads, SQLite by itself lets the log grow for
// ever.
func TestLogStaysSmall(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	defer s.Close()
	apply(t, s, "a", "1")
	const read = "BEGIN; SELECT count(*) FROM record"
	readers := []driver.Conn{connect(t, path), connect(t, path)}
	execute(t, readers[0], read)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(120 * time.Millisecond):
			}
			execute(t, readers[i%2], read) // before the other one ends
			execute(t, readers[(i+1)%2], "COMMIT")
		}
	}()
	most := int64(0)
	for i := range 600 {
		apply(t, s, fmt.Sprint(i%100), string(sealed(100_000))) // no page stays as it was
		most = max(most, logSize(t, path))
	}
	close(stop)
	<-stopped
	for _, r := range readers {
		r.Close()
	}
	// It is looked at after every 4 MB or so, and cut from 8 MB on.
	if most > 20<<20 {
		t.Errorf("60 MB of batches made a log of %d bytes", most)
	}
	t.Logf("60 MB of batches made a log of at most %d bytes", most)
	awaitShortLog(t, path)
}

// A large batch does not leave a large log.
func TestLogAfterLargeBatch(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	defer s.Close()
	b := core.Batch{}
	for i := range 30 {
		b.Puts = append(b.Puts, core.Put{Table: 1, Key: []byte{byte(i + 1)}, Value: make([]byte, 1<<20), Version: core.NewVersion()})
	}
	if err := s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if n := logSize(t, path); n > 8<<20 {
		t.Errorf("the log has %d bytes", n)
	}
}

// A snapshot shows one state, whoever writes; the log shrinks when it is closed.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	apply(t, s, "a", "before")
	s.Close()

	s = open(t, path)
	defer s.Close()
	shot, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// A reader that stays keeps nobody from beginning to write.
	other := open(t, path)
	defer other.Close()
	start := time.Now()
	apply(t, other, "b", "after")
	apply(t, s, "a", "after")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the first batch beside a snapshot took %v", took)
	}
	for i := range 300 {
		apply(t, s, "c", string(make([]byte, 100_000+i)))
	}
	all := []core.Query{{Table: 1}, {Table: 1, Prefix: []byte("b")}}
	for range 3 {
		found, err := shot.Read(t.Context(), all)
		if err != nil || len(found[0]) != 1 || string(found[0][0].Value) != "before" || len(found[1]) != 0 {
			t.Fatalf("the snapshot shows %v, error %v", found, err)
		}
	}
	if n := logSize(t, path); n < 20<<20 {
		t.Errorf("the log has %d bytes: where does the snapshot read from?", n)
	}
	time.Sleep(2500 * time.Millisecond) // it is idle, and the log cannot be cut yet
	if _, err := shot.Read(t.Context(), []core.Query{{Table: 1, Prefix: make([]byte, core.MaxKey+1)}}); !errors.Is(err, core.ErrInvalid) && !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("a malformed query: error %v", err)
	}
	for range 2 {
		if err := shot.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := shot.Read(t.Context(), all); !errors.Is(err, core.ErrClosed) {
		t.Errorf("a closed snapshot: error %v", err)
	}
	awaitShortLog(t, path)

	last, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(other.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := last.Read(t.Context(), all); !errors.Is(err, core.ErrClosed) {
		t.Errorf("a snapshot of a closed store: error %v", err)
	}
	if err := last.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Snapshot(t.Context()); !errors.Is(err, core.ErrClosed) {
		t.Errorf("a new snapshot of a closed store: error %v", err)
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
		t.Errorf("%d files are left", len(files))
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"nothing":          "",
		"a long key":       "INSERT INTO record VALUES (1, zeroblob(49), randomblob(16), NULL)",
		"a text as key":    "INSERT INTO record VALUES (1, 'a', randomblob(16), NULL)",
		"a short version":  "INSERT INTO record VALUES (1, x'01', randomblob(15), NULL)",
		"no version":       "INSERT INTO record VALUES (1, x'01', zeroblob(16), NULL)",
		"a foreign table":  "INSERT INTO record VALUES (256, x'01', randomblob(16), NULL)",
		"a large value":    "INSERT INTO record VALUES (1, x'01', randomblob(16), zeroblob(1048577))",
		"another table":    "CREATE TABLE other (x)",
		"no mark":          "DELETE FROM mark",
		"an unknown mark":  "UPDATE mark SET state = 3",
		"index incomplete": "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'mark') WHERE name LIKE 'sqlite_autoindex%'",
	} {
		path := filepath.Join(t.TempDir(), "store")
		s := open(t, path)
		apply(t, s, "a", "1")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if sql != "" {
			raw(t, path, sql)
		}
		s, err := sqlite.Open(t.Context(), path)
		if err == nil {
			err = s.Check(t.Context())
			s.Close()
		}
		if want := map[bool]error{false: core.ErrDamaged}[sql == ""]; !errors.Is(err, want) {
			t.Errorf("%s: got error %v, want %v", name, err, want)
		}
	}
	s := open(t, filepath.Join(t.TempDir(), "store"))
	apply(t, s, "a", "1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Check(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v", err)
	}
	s.Close()
	if err := s.Check(t.Context()); !errors.Is(err, core.ErrClosed) {
		t.Errorf("closed: error %v", err)
	}
}

// testdata/schema1.sqlite was written by the first version of this package: five
// records, number i of them in table i%2 under "key i", with version i+1 0 0 ...
func TestOlderSchema(t *testing.T) {
	t.Parallel()
	old := contentOf(t, filepath.Join("testdata", "schema1.sqlite"))
	path := write(t, t.TempDir(), "store", old)
	var opened sync.WaitGroup
	for range 4 {
		opened.Go(func() {
			s, err := sqlite.Open(t.Context(), path)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := s.Check(t.Context()); err != nil {
				t.Error(err)
			}
			for i := range 5 {
				q := core.Query{Table: core.Table(i % 2), Prefix: fmt.Appendf(nil, "key %d", i)}
				found, err := s.Read(t.Context(), []core.Query{q})
				if err != nil || len(found[0]) != 1 || string(found[0][0].Value) != fmt.Sprint("value ", i) || found[0][0].Version != (core.Version{byte(i + 1)}) {
					t.Errorf("record %d is %v, error %v", i, found, err)
				}
			}
			apply(t, s, "new", "value")
		})
	}
	opened.Wait()
	s := open(t, path) // now it has the mark
	apply(t, s, "new", "again")
	alone := write(t, t.TempDir(), "alone", contentOf(t, path))
	s.Close()
	if _, err := sqlite.Open(t.Context(), alone); !errors.Is(err, core.ErrRolledBack) {
		t.Errorf("a migrated file without its log: error %v", err)
	}
}

func logSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
