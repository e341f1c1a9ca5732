// SPDX-License-Identifier: Apache-2.0

package sqlite_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// TestFullDisk runs in a process that has a small file system of its own.
func TestFullDisk(t *testing.T) {
	const inside = "SQLITE_TEST_FULL_DISK"
	if os.Getenv(inside) != "" {
		folder := t.TempDir()
		// Nothing of this is seen outside.
		err := errors.Join(
			syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
			syscall.Mount("none", folder, "tmpfs", 0, "size=2m"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Unmount(folder, syscall.MNT_DETACH) }()
		fullDisk(t, folder)
		readOnlyDisk(t, folder)
		return
	}
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestFullDisk$", "-test.v", "-test.timeout", "100s")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		t.Skipf("this system allows no file system of a test's own: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func fullDisk(t *testing.T, folder string) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	path, filler := filepath.Join(folder, "store"), filepath.Join(folder, "filler")
	m := &sealedModel{key: bytes.Repeat([]byte{7}, 32)}
	var ks *sqlite.Store
	var s *seal.Store
	reopen := func() {
		var err error
		if ks, err = sqlite.Open(ctx, path); err != nil {
			t.Fatal(err)
		}
		if s, err = seal.Open(ctx, ks, m.wrapper(t), "tenant"); err != nil {
			t.Fatal(err)
		}
	}
	reopen()
	kept := map[string][]byte{}
	compare := func(when string) {
		t.Helper()
		found, err := s.Read(ctx, []seal.Query{{Table: 1}})
		if err != nil || len(found[0]) != len(kept) {
			t.Fatalf("%s: %d of %d records, error %v", when, len(found[0]), len(kept), err)
		}
		for _, r := range found[0] {
			if !bytes.Equal(r.Value, kept[string(r.Key)]) {
				t.Fatalf("%s: record %q is not what was put", when, r.Key)
			}
		}
	}
	put := func(size int) error {
		key, value := fmt.Sprint(rand.IntN(10)), make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{byte(size), byte(size >> 8)}).Read(value)
		start := time.Now()
		_, err := s.Apply(ctx, seal.Batch{Puts: []seal.Put{{Table: 1, Key: []byte(key), Value: value}}})
		if err == nil {
			kept[key] = value
			return nil
		}
		if !errors.Is(err, core.ErrUnavailable) || errors.Is(err, core.ErrUnknownOutcome) || !strings.Contains(err.Error(), "full") {
			t.Fatalf("got error %v, want ErrUnavailable that says the disk is full", err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Fatalf("it took %v to say so", took)
		}
		return err
	}
	small, large := 0, 0
	for round := range 40 {
		fill(t, filler, rand.IntN(60_000))
		for range 4 {
			if put(rand.IntN(5000)) != nil { // fails at its commit
				small++
			}
			if put(100_000+rand.IntN(500_000)) != nil { // may fail before
				large++
			}
		}
		compare("full")
		if round%5 == 0 {
			// Neither a close nor an open on a full disk makes it an accident.
			closed := errors.Join(s.Close(), ks.Close())
			again, err := sqlite.Open(ctx, path)
			if err == nil {
				err = again.Close()
			}
			for _, err := range []error{closed, err} {
				if err != nil && !errors.Is(err, core.ErrUnavailable) {
					t.Fatalf("close and open: %v", err)
				}
			}
			empty(t, filler)
			reopen()
		}
		empty(t, filler)
		if err := put(1000); err != nil {
			t.Fatalf("with room again: %v", err)
		}
		compare("with room again")
		if err := ks.Check(ctx); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d small and %d large batches did not fit", small, large)
	if small == 0 || large == 0 {
		t.Error("the disk was never full")
	}
	if err := errors.Join(s.Close(), ks.Close()); err != nil {
		t.Error(err)
	}

	// A store with one connection gives it up, and gets another on a full disk.
	ks, err := sqlite.Open(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	batch := func(size int) error {
		p := core.Put{Table: 1, Key: []byte("alone"), Value: make([]byte, size), Version: core.NewVersion()}
		return ks.Apply(ctx, core.Batch{Puts: []core.Put{p}})
	}
	if err := batch(0); err != nil {
		t.Fatal(err)
	}
	fill(t, filler, 0)
	for range 3 {
		if err := batch(300_000); !errors.Is(err, core.ErrUnavailable) || !strings.Contains(err.Error(), "full") {
			t.Errorf("with one connection: got error %v", err)
		}
	}
	empty(t, filler)
	if err := errors.Join(batch(300_000), ks.Close()); err != nil {
		t.Error(err)
	}
}

func readOnlyDisk(t *testing.T, folder string) {
	if err := syscall.Mount("", folder, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"store", "new"} {
		if _, err := sqlite.Open(t.Context(), filepath.Join(folder, name)); !errors.Is(err, core.ErrDenied) {
			t.Errorf("%s on a read-only disk: got error %v", name, err)
		}
	}
}

// fill leaves so many bytes of the disk.
func fill(t *testing.T, path string, leave int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(0)
	for block := make([]byte, 4096); err == nil; size += 4096 {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(max(0, size-4096-int64(leave))), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func empty(t *testing.T, path string) {
	t.Helper()
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
}

// An error of the system is neither damage nor a full disk.
func TestInputOutputError(t *testing.T) {
	const inside = "SQLITE_TEST_IO_ERROR"
	if os.Getenv(inside) == "" {
		t.Parallel()
		cmd := exec.Command(os.Args[0], "-test.run", "^TestInputOutputError$", "-test.timeout", "60s")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	apply(t, s, "a", "1")
	awaitShortLog(t, path)
	signal.Ignore(syscall.SIGXFSZ) // writes beyond the limit fail
	limit := syscall.Rlimit{}
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 200_000
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &low); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		p := core.Put{Table: 1, Key: []byte("a"), Value: make([]byte, 500_000), Version: core.NewVersion()}
		err := s.Apply(t.Context(), core.Batch{Puts: []core.Put{p}})
		if !errors.Is(err, core.ErrUnavailable) && !errors.Is(err, core.ErrUnknownOutcome) || errors.Is(err, core.ErrDamaged) {
			t.Errorf("got error %v", err)
		}
		// The only connection is given up now. It leaves the log, which a crash would miss.
		if logSize(t, path) == 0 {
			t.Error("the log is empty")
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if value(t, s, "a") != "1" {
		t.Error("a batch that failed happened")
	}
	apply(t, s, "a", "2")
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// What may not be written is ErrDenied.
func TestDenied(t *testing.T) {
	t.Parallel()
	folder, err := os.MkdirTemp("", "denied") // t.TempDir lies in a folder that is the user's own
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	at := func(name string, file, parent os.FileMode) string {
		in := filepath.Join(folder, name)
		if err := os.Mkdir(in, 0o755); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(in, "store")
		if file != 0 {
			s := open(t, path)
			apply(t, s, "a", "1")
			s.Close()
			if err := os.Chmod(path, file); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(in, parent); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Chmod(in, 0o755) })
		return path
	}
	paths := []string{
		at("a file to read", 0o444, 0o777),
		at("a file not to read", 0o111, 0o777),
		at("a folder to read", 0o666, 0o555),
		at("a new file in a folder to read", 0, 0o555),
	}
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if os.Geteuid() == 0 {
			// Permissions bind others only: this thread is somebody else, and ends
			// with the goroutine.
			runtime.LockOSThread()
			if err := syscall.Setfsuid(65534); err != nil {
				t.Error(err)
			}
		}
		for _, path := range paths {
			s, err := sqlite.Open(t.Context(), path)
			if !errors.Is(err, core.ErrDenied) {
				t.Errorf("%s: got error %v, want ErrDenied", path, err)
			}
			if err == nil {
				s.Close()
			}
		}
	}()
	<-done
}
