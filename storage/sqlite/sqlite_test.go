// SPDX-License-Identifier: Apache-2.0

package sqlite_test

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	modernc "modernc.org/sqlite"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

func TestMain(m *testing.M) {
	if job := os.Getenv(childOf); job != "" {
		childMain(job)
	}
	goleak.VerifyTestMain(m)
}

func TestStore(t *testing.T) {
	coretest.TestDurableKeystore(t, func(ctx context.Context, folder string) (core.Keystore, error) {
		return sqlite.Open(ctx, filepath.Join(folder, "store"))
	})
}

func TestFaults(t *testing.T) {
	coretest.TestFaultyKeystore(t, func(t *testing.T) core.Keystore { return open(t, filepath.Join(t.TempDir(), "store")) })
}

func Example() {
	folder, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)

	ctx := context.Background()
	store, err := sqlite.Open(ctx, filepath.Join(folder, "store"))
	if err != nil {
		panic(err)
	}
	defer store.Close()

	first := core.Put{Table: 1, Key: []byte("key"), Value: []byte("value"), Version: core.NewVersion()}
	fmt.Println(store.Apply(ctx, core.Batch{Puts: []core.Put{first}}))
	absent := core.Expectation{Table: 1, Key: first.Key}
	fmt.Println(store.Apply(ctx, core.Batch{Expect: []core.Expectation{absent}}))
	// Output:
	// <nil>
	// sqlite: apply: conflict
}

// A path may hold anything that a file system allows, and what a URI would read
// as something else.
func TestPaths(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", "with space", "a?mode=memory", "b#c", "100%25", "ünïcödé", "quote'\"", ":memory:"} {
		folder := t.TempDir()
		path := filepath.Join(folder, name)
		s := open(t, path)
		apply(t, s, "a", "b")
		for _, suffix := range []string{"", "-wal", "-shm"} {
			info, err := os.Stat(path + suffix)
			if err != nil {
				t.Fatalf("%q: %v", name, err)
			}
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%q%s: mode %v, want 0600", name, suffix, info.Mode())
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if files, _ := os.ReadDir(folder); len(files) != 1 {
			t.Errorf("%q: %d files are left, want one", name, len(files))
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	ours := filepath.Join(folder, "ours")
	s := open(t, ours)
	for i := range 200 {
		apply(t, s, fmt.Sprint("key ", i), strings.Repeat("v", 1000))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(ours)
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(folder, "foreign")
	raw(t, foreign, "CREATE TABLE t (x); INSERT INTO t VALUES ('kept')")
	newer := write(t, folder, "newer", good)
	raw(t, newer, "PRAGMA user_version = 3")
	older := write(t, folder, "older", good)
	raw(t, older, "PRAGMA user_version = 0")

	for _, c := range []struct {
		name string
		path string
		want error
	}{
		{"text", write(t, folder, "text", []byte(strings.Repeat("this is not a database\n", 500))), core.ErrDamaged},
		{"two bytes", write(t, folder, "two", []byte("xy")), core.ErrDamaged},
		{"one byte cut off", write(t, folder, "cut", good[:len(good)-1]), core.ErrDamaged},
		{"half the first page", write(t, folder, "half", good[:2000]), core.ErrDamaged},
		{"no schema", write(t, folder, "hole", append(append(bytes.Clone(good[:100]), make([]byte, 4096-100)...), good[4096:]...)), core.ErrDamaged},
		{"another program's", foreign, core.ErrInvalid},
		{"newer", newer, core.ErrUnsupported},
		{"no version", older, core.ErrDamaged},
		{"no folder", filepath.Join(folder, "absent", "store"), core.ErrNotFound},
		{"a folder", folder, core.ErrUnavailable},
	} {
		before, _ := os.ReadFile(c.path)
		s, err := sqlite.Open(t.Context(), c.path)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got error %v, want %v", c.name, err, c.want)
		}
		if err == nil {
			s.Close()
		}
		var where *core.ProviderError
		if !errors.As(err, &where) || where.Provider != "sqlite" || where.Op != "open" {
			t.Errorf("%s: error %v does not say where it is from", c.name, err)
		}
		if after, _ := os.ReadFile(c.path); !bytes.Equal(before, after) {
			t.Errorf("%s: Open changed the file that it refused", c.name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sqlite.Open(ctx, filepath.Join(folder, "new")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got error %v", err)
	}

	// Damage in the middle shows when it is met.
	damaged := bytes.Clone(good)
	copy(damaged[40960:], bytes.Repeat([]byte{0x5a}, len(good)-40960))
	s = open(t, write(t, folder, "damaged", damaged))
	defer s.Close()
	if _, err := s.Read(t.Context(), []core.Query{{Table: 1}}); !errors.Is(err, core.ErrDamaged) {
		t.Errorf("read of a damaged file: got error %v, want ErrDamaged", err)
	}
	err = s.Apply(t.Context(), core.Batch{Dels: []core.Range{{Table: 1}}})
	if !errors.Is(err, core.ErrDamaged) {
		t.Errorf("apply to a damaged file: got error %v, want ErrDamaged", err)
	}
}

// Several processes may open a new file at the same moment.
func TestOpenTogether(t *testing.T) {
	t.Parallel()
	for range 5 {
		path := filepath.Join(t.TempDir(), "store")
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				s, err := sqlite.Open(t.Context(), path)
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				defer s.Close()
				apply(t, s, fmt.Sprint(i), "x")
			})
		}
		wg.Wait()
		s := open(t, path)
		if got, err := s.Read(t.Context(), []core.Query{{Table: 1}}); err != nil || len(got[0]) != 6 {
			t.Errorf("%d of 6 records, error %v", len(got[0]), err)
		}
		s.Close()
	}
}

// What was deleted or replaced is in neither file once the log is empty.
func TestErased(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	defer s.Close()
	short, long := "SHORTSECRET", strings.Repeat("LONGSECRET", 2000)
	for i := range 50 {
		apply(t, s, fmt.Sprint("key ", i), short+long)
	}
	if !holds(t, path, short) || !holds(t, path, "LONGSECRET") {
		t.Fatal("the test does not see what is stored")
	}
	for i := range 25 {
		apply(t, s, fmt.Sprint("key ", i), "replaced")
	}
	if err := s.Apply(t.Context(), core.Batch{Dels: []core.Range{{Table: 1, Prefix: []byte("key ")}}}); err != nil {
		t.Fatal(err)
	}
	awaitShortLog(t, path)
	if holds(t, path, short) || holds(t, path, "LONGSECRET") {
		t.Error("a deleted value is still there")
	}
	apply(t, s, "a", "still usable")
}

// awaitShortLog waits until the log is cut to one page, as it is when the store
// has been idle for a moment.
func awaitShortLog(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		info, err := os.Stat(path + "-wal")
		if err != nil || info.Size() == 0 {
			t.Fatalf("an open store without a log: %v", err)
		}
		if info.Size() <= 32+24+4096 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the log still has %d bytes", info.Size())
		}
	}
}

// A lock of another process is waited for as long as the context allows.
func TestLockedByAnother(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	defer s.Close()
	apply(t, s, "a", "before")
	other := connect(t, path)
	execute(t, other, "BEGIN IMMEDIATE")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := s.Apply(ctx, core.Batch{Puts: []core.Put{{Table: 1, Key: []byte("a"), Version: core.NewVersion()}}})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 5*time.Second {
		t.Errorf("got error %v after %v", err, time.Since(start))
	}
	if got, err := s.Read(t.Context(), []core.Query{{Table: 1}}); err != nil || string(got[0][0].Value) != "before" {
		t.Errorf("a reader does not pass a writer: %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { execute(t, other, "COMMIT") })
	apply(t, s, "a", "after")
}

func open(t *testing.T, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func apply(t *testing.T, s *sqlite.Store, key, value string) {
	t.Helper()
	p := core.Put{Table: 1, Key: []byte(key), Value: []byte(value), Version: core.NewVersion()}
	if err := s.Apply(t.Context(), core.Batch{Puts: []core.Put{p}}); err != nil {
		t.Errorf("apply: %v", err)
	}
}

func write(t *testing.T, folder, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// holds reads the files under an open store: with no other process about, the
// locks that this drops protect nothing.
func holds(t *testing.T, path, text string) bool {
	t.Helper()
	for _, suffix := range []string{"", "-wal"} {
		content, err := os.ReadFile(path + suffix)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if bytes.Contains(content, []byte(text)) {
			return true
		}
	}
	return false
}

// connect opens a file as another program would.
func connect(t *testing.T, path string) driver.Conn {
	t.Helper()
	c, err := new(modernc.Driver).Open("file:" + path + "?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func execute(t *testing.T, c driver.Conn, sql string) {
	t.Helper()
	if _, err := c.(driver.ExecerContext).ExecContext(context.Background(), sql, nil); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
}

// raw runs SQL on a file in a connection of its own.
func raw(t *testing.T, path, sql string) {
	t.Helper()
	c, err := new(modernc.Driver).Open(path)
	if err != nil {
		t.Fatal(err)
	}
	execute(t, c, sql)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}
