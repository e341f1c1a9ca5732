// SPDX-License-Identifier: Apache-2.0

// Package sqlite is the [core.Keystore] in a SQLite file: the default store of
// one machine. Start with [Open].
//
// A batch is one transaction in a write-ahead log, synced before Apply returns
// (synchronous=FULL), so what was applied survives a crash and a power cut. What
// is deleted is overwritten with zeros in the file, and the log is emptied when
// the store has been idle for a moment and when it is closed. Several processes
// may have the same file open; each sees the other's batches. The file is made
// readable by its owner only.
//
// The store gets sealed records (core/seal) and adds no encryption of its own.
// Do not copy the file alone while a process has it open: the log beside it
// belongs to it. Do not put it on a network file system: locks and the shared
// memory beside the log need a local one.
package sqlite

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/conclave-mls/conclave/core"
)

const (
	// readers is how many reads can be under way at once.
	readers = 4
	// idleAfter is how long after the last batch the log is emptied.
	idleAfter = 2 * time.Second
)

// A Store is a keystore in a SQLite file.
type Store struct {
	dsn     string
	writer  chan *conn // the one connection that writes, nil if it has to be opened
	readers chan *conn // the connections that read, nil those that are not open
	idle    *time.Timer
	closing chan struct{}
	close   sync.Once
	err     error // of Close
}

var _ core.Keystore = (*Store)(nil)

// Open opens the store in a file, and makes the file if there is none; the
// folder must exist. ErrDamaged: the file is no database or is broken.
// ErrInvalid: it is the database of another program. ErrUnsupported: a newer
// version of this package wrote it. ErrDenied: it cannot be written.
// ErrUnavailable: another process holds it locked for too long.
func Open(ctx context.Context, path string) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fail("open", err)
	}
	// An existing file is left to SQLite alone: in this process it may be open
	// already, and closing any descriptor of it would drop that one's locks.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fail("open", err)
	}

	s := &Store{
		dsn:     dsn(path),
		writer:  make(chan *conn, 1),
		readers: make(chan *conn, readers),
		closing: make(chan struct{}),
	}
	c, err := dial(ctx, s.dsn)
	if err != nil {
		return nil, fail("open", err)
	}
	if err := prepareFile(ctx, c); err != nil {
		return nil, fail("open", errors.Join(err, c.close()))
	}
	s.writer <- c
	for range readers {
		s.readers <- nil
	}
	s.idle = time.AfterFunc(idleAfter, s.truncateLog)
	return s, nil
}

// dsn asks for an existing file and sets what every connection needs.
func dsn(path string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // a drive letter
	}
	u := url.URL{Scheme: "file", Path: path, RawQuery: url.Values{
		"mode": {"rw"},
		"_pragma": {
			"busy_timeout(" + busyTimeout + ")",
			"synchronous(FULL)",
			"fullfsync(ON)", // macOS: fsync alone does not reach the medium
			"secure_delete(ON)",
			"trusted_schema(OFF)",
			"cell_size_check(ON)",
			"journal_size_limit(4194304)", // what a large batch leaves of the log
		},
	}.Encode()}
	return u.String()
}

// take waits for a connection of a pool and opens it if need be. Whoever took it
// gives it back: itself, or nil when it may be unfit.
func (s *Store) take(ctx context.Context, pool chan *conn) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case c := <-pool: // the common case, without the other two
		return s.opened(ctx, pool, c)
	default:
	}
	select {
	case c := <-pool:
		return s.opened(ctx, pool, c)
	case <-s.closing:
		return nil, core.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *Store) opened(ctx context.Context, pool chan *conn, c *conn) (*conn, error) {
	if c != nil {
		return c, nil
	}
	c, err := dial(ctx, s.dsn)
	if err != nil {
		pool <- nil
	}
	return c, err
}

// give returns a connection to its pool. After an error that says nothing about
// the state of the connection it is closed instead.
func give(pool chan *conn, c *conn, err error) {
	if c.broken || err != nil && !errors.Is(err, core.ErrConflict) && !errors.Is(err, core.ErrTooLarge) {
		_ = c.close() // a transaction still open is rolled back
		c = nil
	}
	pool <- c
}

// Read implements [core.Keystore].
func (s *Store) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	for i := range queries {
		if err := queries[i].Check(); err != nil {
			return nil, fail("read", err)
		}
	}
	c, err := s.take(ctx, s.readers)
	if err != nil {
		return nil, fail("read", err)
	}
	answers, err := c.read(ctx, queries)
	give(s.readers, c, err)
	if err != nil {
		return nil, fail("read", err)
	}
	return answers, nil
}

// Apply implements [core.Keystore].
func (s *Store) Apply(ctx context.Context, b core.Batch) error {
	if err := b.Check(); err != nil {
		return fail("apply", err)
	}
	c, err := s.take(ctx, s.writer)
	if err != nil {
		return fail("apply", err)
	}
	err = c.apply(ctx, b)
	s.idle.Reset(idleAfter)
	give(s.writer, c, err)
	if err != nil {
		return fail("apply", err)
	}
	return nil
}

// truncateLog moves the log into the database and empties it, unless somebody is
// busy: whoever is writing now will start the clock again.
func (s *Store) truncateLog() {
	select {
	case c := <-s.writer:
		if c != nil {
			give(s.writer, c, c.truncateLog())
			return
		}
		s.writer <- nil
	default:
	}
}

// Close implements [core.Keystore]. The last process to close the file leaves no
// log beside it.
func (s *Store) Close() error {
	s.close.Do(func() {
		close(s.closing)
		// Whoever holds a connection gives it back. The writer goes last, so
		// that it can empty the log.
		for range readers {
			s.err = errors.Join(s.err, (<-s.readers).close())
		}
		c := <-s.writer
		s.idle.Stop()
		s.err = errors.Join(s.err, c.close())
	})
	if s.err != nil {
		return fail("close", s.err)
	}
	return nil
}
