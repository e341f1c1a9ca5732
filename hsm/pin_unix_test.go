// SPDX-License-Identifier: Apache-2.0

//go:build unix

package hsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// pipeWith gives the number of a descriptor from which text can be read.
func pipeWith(t *testing.T, text string) int {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString(text); err != nil {
		t.Fatal(err)
	}
	n, err := syscall.Dup(int(r.Fd()))
	if err := errors.Join(err, w.Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestADescriptorIsReadOnceAndClosed(t *testing.T) {
	n := pipeWith(t, "1234\n")
	u := URI{PINSource: fmt.Sprintf("fd:%d", n)}
	for range 3 {
		pin, err := u.pin()
		if err != nil || string(pin.Bytes()) != "1234" {
			t.Fatalf("%q, %v", pin.Bytes(), err)
		}
		pin.Wipe()
		// The number may be that of another file by now: it is neither read nor closed.
		var s syscall.Stat_t
		if err := syscall.Fstat(n, &s); !errors.Is(err, syscall.EBADF) {
			t.Fatalf("the descriptor is open: %v", err)
		}
	}
	another := writeFile(t, filepath.Join(t.TempDir(), "another"), "5678")
	for taken := false; !taken; {
		f, err := os.Open(another)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		taken = int(f.Fd()) == n
	}
	if pin, err := u.pin(); err != nil || string(pin.Bytes()) != "1234" {
		t.Errorf("the number means another file now, and %q was read, %v", pin.Bytes(), err)
	}
}

func TestADescriptorThatFailedIsNotClosed(t *testing.T) {
	folder, err := os.Open(t.TempDir()) // reading it fails
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = folder.Close() }()
	n, err := syscall.Dup(int(folder.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	u := URI{PINSource: fmt.Sprintf("fd:%d", n)}
	for range 2 {
		if _, err := u.pin(); !errors.Is(err, ErrPINRequired) {
			t.Errorf("%v", err)
		}
	}
	var s syscall.Stat_t
	if err := syscall.Fstat(n, &s); err != nil {
		t.Errorf("closed: %v", err)
	}
}
