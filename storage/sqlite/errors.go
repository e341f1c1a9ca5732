// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/conclave-mls/conclave/core"
)

// A commitError is a commit that failed. The log may hold the whole batch, and a
// crash now would bring it to life. Not so where a lock was missing: then nothing
// was written. Nor where the disk was full: the frame that makes the batch count
// is the last one, and a part of it or of one before it is missing.
type commitError struct{ err error }

func (e *commitError) Error() string { return "commit: " + e.err.Error() }
func (e *commitError) Unwrap() error { return e.err }

// fail gives an error its place and its sentinel.
func fail(op string, err error) error {
	if s := sentinel(err); s != nil && !errors.Is(err, s) {
		err = fmt.Errorf("%w: %w", s, err)
	}
	return &core.ProviderError{Provider: "sqlite", Op: op, Err: err}
}

// sentinel says what the caller should do about an error; nil if the error says
// so itself.
func sentinel(err error) error {
	if s := core.Kind(err); s != nil {
		return s
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if e := (*sqlite.Error)(nil); errors.As(err, &e) {
		code := e.Code() & 0xff
		if c := (*commitError)(nil); errors.As(err, &c) && code != lib.SQLITE_BUSY && code != lib.SQLITE_FULL {
			return core.ErrUnknownOutcome
		}
		switch code {
		case lib.SQLITE_NOTADB, lib.SQLITE_CORRUPT:
			return core.ErrDamaged
		case lib.SQLITE_READONLY, lib.SQLITE_PERM, lib.SQLITE_AUTH:
			return core.ErrDenied
		case lib.SQLITE_TOOBIG:
			return core.ErrTooLarge
		}
		return core.ErrUnavailable // busy, disk full, input and output, memory
	}
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return core.ErrDenied
	case errors.Is(err, fs.ErrNotExist):
		return core.ErrNotFound
	}
	return core.ErrUnavailable
}

// isCode reports whether an error is of a kind that SQLite names.
func isCode(err error, code int) bool {
	e := (*sqlite.Error)(nil)
	return errors.As(err, &e) && e.Code()&0xff == code
}

func isFull(err error) bool { return isCode(err, lib.SQLITE_FULL) }
