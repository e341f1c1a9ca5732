// SPDX-License-Identifier: Apache-2.0

package sqlite_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// What is copied of a store in use: the file alone, with its log, with an empty
// log. (Reading the files drops locks of this process; there is no other.)
func TestLostLog(t *testing.T) {
	t.Parallel()
	const whole, alone, emptied = "with its log", "without its log", "with an empty log"
	copyOf := func(t *testing.T, path, what string) string {
		t.Helper()
		folder := t.TempDir()
		to := write(t, folder, "copy", contentOf(t, path))
		switch what {
		case whole:
			if log, err := os.ReadFile(path + "-wal"); err == nil {
				write(t, folder, "copy-wal", log)
			}
		case emptied:
			write(t, folder, "copy-wal", nil)
		}
		return to
	}
	used := func(t *testing.T) (*sqlite.Store, string) {
		path := filepath.Join(t.TempDir(), "store")
		s := open(t, path)
		t.Cleanup(func() { s.Close() })
		return s, path
	}
	for name, c := range map[string]struct {
		use  func(*testing.T) string
		lost bool // the file alone is a state from the past, or may be
	}{
		"new": {func(t *testing.T) string {
			_, path := used(t)
			return path
		}, false},
		"only read": {func(t *testing.T) string {
			s, path := used(t)
			apply(t, s, "a", "1")
			s.Close()
			s = open(t, path)
			t.Cleanup(func() { s.Close() })
			value(t, s, "a")
			return path
		}, false},
		"closed": {func(t *testing.T) string {
			s, path := used(t)
			apply(t, s, "a", "1")
			s.Close()
			return path
		}, false},
		"one batch": {func(t *testing.T) string {
			s, path := used(t)
			apply(t, s, "a", "1")
			return path
		}, true},
		"many batches": {func(t *testing.T) string {
			s, path := used(t)
			for i := range 3000 {
				apply(t, s, fmt.Sprint(i%10), strings.Repeat("v", 5000))
			}
			return path
		}, true},
		"idle": {func(t *testing.T) string {
			s, path := used(t)
			apply(t, s, "a", "1")
			apply(t, s, "a", strings.Repeat("2", 100_000))
			awaitShortLog(t, path)
			return path
		}, true},
		"closed by another": {func(t *testing.T) string {
			s, path := used(t)
			apply(t, s, "a", "1")
			other := open(t, path)
			apply(t, other, "a", "2")
			other.Close()
			return path
		}, true},
		"closed by the first": {func(t *testing.T) string {
			s, path := used(t)
			apply(t, s, "a", "1")
			other := open(t, path)
			t.Cleanup(func() { other.Close() })
			s.Close()
			apply(t, other, "a", "2")
			return path
		}, true},
		"opened again": {func(t *testing.T) string {
			s, path := used(t)
			apply(t, s, "a", "1")
			s.Close()
			s = open(t, path)
			t.Cleanup(func() { s.Close() })
			apply(t, s, "a", "2")
			return path
		}, true},
		"after a failure": {func(t *testing.T) string {
			s, path := used(t)
			apply(t, s, "a", "1")
			other := connect(t, path)
			execute(t, other, "BEGIN IMMEDIATE")
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			_ = s.Apply(ctx, core.Batch{Puts: []core.Put{{Table: 1, Key: []byte("b"), Version: core.NewVersion()}}})
			execute(t, other, "COMMIT")
			other.Close()
			s.Close() // opens a connection again for it
			return path
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := c.use(t)
			for _, what := range []string{whole, alone, emptied} {
				want := error(nil)
				if c.lost && what != whole {
					want = core.ErrRolledBack
				}
				damagedCopy := copyOf(t, path, what)
				for range 2 { // the first attempt changes nothing
					s, err := sqlite.Open(t.Context(), damagedCopy)
					if !errors.Is(err, want) || (err == nil) != (want == nil) {
						t.Fatalf("%s: got error %v, want %v", what, err, want)
					}
					if err == nil {
						if err := s.Close(); err != nil {
							t.Errorf("%s: close: %v", what, err)
						}
					}
				}
			}
		})
	}
}

// Whoever opens a store after a kill and fails leaves the log where it is.
func TestFailedOpenKeepsLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	defer s.Close()
	apply(t, s, "a", "1")
	other := connect(t, path)
	execute(t, other, "PRAGMA user_version = 3")
	copied := write(t, t.TempDir(), "copy", contentOf(t, path))
	log := contentOf(t, path+"-wal")
	write(t, filepath.Dir(copied), "copy-wal", log)
	execute(t, other, "PRAGMA user_version = 2")
	if _, err := sqlite.Open(t.Context(), copied); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("got error %v", err)
	}
	if !bytes.Equal(contentOf(t, copied+"-wal"), log) {
		t.Error("the log is another")
	}
}

// The open mark waits for the checkpoints of others, for which SQLite does not.
func TestMarkBesideCheckpoints(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	defer s.Close()
	other := connect(t, path)
	execute(t, other, "CREATE TABLE other (x)")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			execute(t, other, "BEGIN IMMEDIATE; DELETE FROM other; INSERT INTO other VALUES (randomblob(1000000)); UPDATE mark SET state = 0; COMMIT")
			execute(t, other, "PRAGMA wal_checkpoint(PASSIVE)")
		}
	}()
	for range 30 {
		s := open(t, path)
		apply(t, s, "a", "1")
		s.Close()
	}
	close(stop)
	<-stopped
	execute(t, other, "DROP TABLE other")
}

// Who opens a store that was rolled back finds it usable, in a new incarnation.
func TestOpenRolledBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	apply(t, s, "a", "1")
	lost := write(t, t.TempDir(), "lost", contentOf(t, path))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var seen []core.Version
	for _, path := range []string{lost, path} { // the second is one that nothing happened to
		s, err := sqlite.OpenRolledBack(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, incarnation(t, s))
		// If it is killed now, its log must not be lost either.
		copied := filepath.Dir(write(t, t.TempDir(), "copied", contentOf(t, path)))
		if s, err := sqlite.Open(t.Context(), filepath.Join(copied, "copied")); !errors.Is(err, core.ErrRolledBack) {
			t.Errorf("lost again: got error %v", err)
			s.Close()
		}
		write(t, copied, "copied-wal", contentOf(t, path+"-wal"))
		again := open(t, filepath.Join(copied, "copied"))
		if incarnation(t, again) != seen[len(seen)-1] {
			t.Error("the incarnation is not durable")
		}
		again.Close()

		apply(t, s, "b", "2")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, path)
		if incarnation(t, s) != seen[len(seen)-1] || value(t, s, "b") != "2" {
			t.Error("what was written is gone")
		}
		s.Close()
	}
	if seen[0] == seen[1] || seen[0] == (core.Version{}) || seen[1] == (core.Version{}) {
		t.Errorf("incarnations %x", seen)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sqlite.OpenRolledBack(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got error %v", err)
	}
}

func incarnation(t *testing.T, s *sqlite.Store) core.Version {
	t.Helper()
	found, err := s.Read(t.Context(), []core.Query{core.IncarnationQuery()})
	if err != nil {
		t.Fatal(err)
	}
	if len(found[0]) == 0 {
		return core.Version{}
	}
	return found[0][0].Version
}

// Whenever the file is copied alone while processes use it: either Open sees it,
// or the copy has all that was acknowledged before.
func TestFileAloneAtAnyTime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	c := startChild(t, path, "one")
	defer c.kill()
	refused, whole := 0, 0
	for end := time.Now().Add(soakTime(3 * time.Second)); time.Now().Before(end); time.Sleep(rand.N(5 * time.Millisecond)) {
		before := c.acknowledged.Load()
		content, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		copied := write(t, t.TempDir(), "copy", content)
		s, err := sqlite.Open(t.Context(), copied)
		switch {
		case errors.Is(err, core.ErrRolledBack):
			refused++
		case errors.Is(err, core.ErrDamaged): // written to while it was copied
		case err != nil:
			t.Fatal(err)
		default:
			whole++
			if n, _ := strconv.Atoi(value(t, s, "one")); int64(n) < before {
				t.Fatalf("the copy opens, and has batch %d, though %d had been acknowledged", n, before)
			}
			s.Close()
		}
	}
	if refused == 0 || whole == 0 {
		t.Errorf("%d copies were refused, %d whole: the test sees one kind only", refused, whole)
	}
	t.Logf("%d copies were refused, %d whole", refused, whole)
}

// Processes open, write, close and are killed at any moment: nothing that was
// acknowledged is lost, and nobody is told that anything was.
func TestManyProcesses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	var total, kills atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(soakTime(6 * time.Second))
	for i := range 3 {
		wg.Go(func() {
			name := fmt.Sprint("child ", i)
			last := int64(0)
			for time.Now().Before(end) && !t.Failed() {
				c := startChild(t, path, name)
				time.Sleep(rand.N(400 * time.Millisecond))
				c.kill()
				kills.Add(1)
				if n := c.acknowledged.Load(); n > 0 {
					total.Add(n - last)
					last = n
				}
				// Sometimes nobody else is there, and the next one has to pick up.
				s, err := sqlite.Open(t.Context(), path)
				if err != nil {
					t.Errorf("open after a kill: %v", err)
					return
				}
				if n, _ := strconv.Atoi(value(t, s, name)); int64(n) < last {
					t.Errorf("%s: batch %d is there, %d was acknowledged", name, n, last)
				}
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}
		})
	}
	wg.Wait()
	s := open(t, path)
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 && !strayOnly(files) {
		t.Errorf("%v is left", files)
	}
	t.Logf("%d kills, %d batches", kills.Load(), total.Load())
	if total.Load() == 0 {
		t.Error("no child got to write")
	}
}

// strayOnly: who was killed while it made the store leaves what it had made.
func strayOnly(files []os.DirEntry) bool {
	for _, f := range files {
		if f.Name() != "store" && !strings.Contains(f.Name(), ".new-") {
			return false
		}
	}
	return true
}

// childOf tells a process of the test binary what to be: a name and a file.
const childOf = "SQLITE_TEST_CHILD"

func childMain(job string) {
	name, path, _ := strings.Cut(job, ":")
	ctx := context.Background()
	fatal := func(err error) {
		fmt.Println("failed", err)
		os.Exit(1)
	}
	for {
		s, err := sqlite.Open(ctx, path)
		if err != nil {
			fatal(err)
		}
		found, err := s.Read(ctx, []core.Query{{Table: 1, Prefix: []byte(name)}})
		if err != nil {
			fatal(err)
		}
		n := 0
		if len(found[0]) > 0 {
			n, _ = strconv.Atoi(string(found[0][0].Value))
		}
		for range rand.IntN(6) {
			n++
			p := core.Put{Table: 1, Key: []byte(name), Value: []byte(strconv.Itoa(n)), Version: core.NewVersion()}
			big := core.Put{Table: 2, Key: []byte(name), Value: make([]byte, rand.IntN(30_000)), Version: core.NewVersion()}
			if err := s.Apply(ctx, core.Batch{Puts: []core.Put{p, big}}); err != nil {
				fatal(err)
			}
			fmt.Println("acknowledged", n)
		}
		time.Sleep(rand.N(3 * time.Millisecond))
		if err := s.Close(); err != nil {
			fatal(err)
		}
	}
}

type child struct {
	cmd          *exec.Cmd
	acknowledged atomic.Int64
	done         chan struct{}
}

func startChild(t *testing.T, path, name string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0]), done: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), childOf+"="+name+":"+path)
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stderr = c.cmd.Stdout
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var n int64
			if _, err := fmt.Sscanf(lines.Text(), "acknowledged %d", &n); err == nil {
				c.acknowledged.Store(n)
			} else {
				t.Errorf("%s: %s", name, lines.Text())
			}
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	return c
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
	_ = c.cmd.Wait()
}

// soakTime is how long a test with processes runs: longer in make soak.
func soakTime(usual time.Duration) time.Duration {
	if d, err := time.ParseDuration(os.Getenv("CONCLAVE_SOAK")); err == nil {
		return d
	}
	if testing.Short() {
		return usual / 3
	}
	return usual
}

func value(t *testing.T, s *sqlite.Store, key string) string {
	t.Helper()
	found, err := s.Read(t.Context(), []core.Query{{Table: 1, Prefix: []byte(key)}})
	if err != nil {
		t.Errorf("read: %v", err)
		return ""
	}
	if len(found[0]) == 0 {
		return ""
	}
	return string(found[0][0].Value)
}

func contentOf(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
