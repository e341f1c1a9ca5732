// SPDX-License-Identifier: Apache-2.0

//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package hsm

import (
	"errors"
	"io/fs"
	"os"
)

// deadLock is what to say of the lock of a process that died: here it stays.
const deadLock = "; if there is no such process, remove the file"

// tryLock takes a lock, which is that the file exists; nil: another has it.
func tryLock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return func() {
		_ = f.Close()
		_ = os.Remove(path)
	}, nil
}

// syncFolder does nothing: not every system can.
func syncFolder(string) error { return nil }
