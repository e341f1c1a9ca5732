// SPDX-License-Identifier: Apache-2.0

// Package sqlite is the [core.Keystore] in a SQLite file: the default store of
// one machine. Start with [Open].
//
// A batch is in one transaction in a write-ahead log, synced before Apply returns
// (synchronous=FULL), so what was applied survives a crash and a power cut. Batches that
// come at the same time may share the transaction. What
// is deleted is overwritten with zeros in the file, and the log is cut to one page
// when the store has been idle for a moment, and removed when the last process
// closes it. Several processes may have the same file open; each sees the other's
// batches. The file is made readable by its owner only.
//
// The store gets sealed records (core/seal) and adds no encryption of its own.
// Do not put it on a network file system: locks and the shared memory beside the
// log need a local one.
//
// The file in use and its log belong together. A copy of the file alone, or a file
// whose log was deleted after a crash, is a state from the past: Open refuses it
// with ErrRolledBack, see [OpenRolledBack]. It cannot know of a file that was
// copied while nobody had it open, nor whether another program (the sqlite3 shell,
// say) has put the log away properly after a crash: leave that to this package.
//
// A page that is lost, or an end that is missing, is ErrDamaged at Open or when it
// is met. A part of a page, lost in the index, can hide records until [Store.Check]
// is asked, which reads the whole file.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	lib "modernc.org/sqlite/lib"

	"github.com/conclave-mls/conclave/core"
)

// readers is how many reads can be under way at once.
const readers = 4

// A Store is a keystore in a SQLite file.
type Store struct {
	path    string
	writer  chan *conn // the one connection that writes, nil if it has to be opened
	readers chan *conn // the connections that read, nil those that are not open
	queue   queue
	idle    *time.Timer
	closing chan struct{}
	close   sync.Once
	err     error // of Close

	mu        sync.Mutex
	snapshots map[*snapshot]bool // nil when closed
}

var _ core.Snapshotter = (*Store)(nil)

// Open opens the store in a file, and makes the file if there is none; the
// folder must exist. ErrDamaged: the file is no database or is broken.
// ErrRolledBack: it was in use when its log was lost, or it is a copy made
// without the log while it was in use; see [OpenRolledBack]. ErrInvalid: it is
// the database of another program. ErrUnsupported: a newer version of this
// package wrote it. ErrDenied: it cannot be written. ErrUnavailable: another
// process holds it locked for too long, or the disk is full.
//
// A file with an older schema is brought to the newest one; programs that know
// only the older one must not have it open meanwhile.
func Open(ctx context.Context, path string) (*Store, error) {
	return open(ctx, path, func(c *conn) error {
		lost, err := c.examine(ctx)
		if err == nil && lost {
			err = fmt.Errorf("the file was in use, and the log that belongs to it (%s-wal) is missing or empty: %w",
				filepath.Base(path), core.ErrRolledBack)
		}
		return err
	})
}

// OpenRolledBack opens a store for which Open says ErrRolledBack, or whose owner
// knows that it is a state from the past, and puts a new incarnation into it
// ([core.NewIncarnation]): every client in it learns that it has to recover.
// From then on Open opens it too.
func OpenRolledBack(ctx context.Context, path string) (*Store, error) {
	known := false // that the log is lost
	for end := time.Now().Add(busyTimeout); ; {
		s, err := open(ctx, path, func(c *conn) error {
			lost, err := c.examine(ctx)
			switch {
			case err != nil:
			case lost:
				known = true
				err = c.acceptLoss(ctx)
			case !known: // else somebody has just done it: one accident is one incarnation
				err = c.putIncarnation(ctx, markOpening)
			}
			if err == nil {
				err = c.mark(ctx) // from here on the file has a log
			}
			return err
		})
		// Of several that do this at once, each has to let go before it tries again.
		if !errors.Is(err, errNotAlone) || time.Now().After(end) {
			return s, err
		}
		select {
		case <-time.After(rand.N(50 * time.Millisecond)):
		case <-ctx.Done():
			return nil, fail("open", ctx.Err())
		}
	}
}

func open(ctx context.Context, path string, admit func(*conn) error) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fail("open", err)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = create(ctx, path)
	case err == nil && info.Size() <= 1:
		// SQLite would take it for a new database, one byte too.
		err = fmt.Errorf("the file is empty: %w", core.ErrDamaged)
	}
	if err != nil {
		return nil, fail("open", err)
	}
	c, err := dial(ctx, path)
	if err == nil {
		if err = prepareFile(ctx, c); err == nil {
			err = admit(c)
		}
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}
	if isCode(err, lib.SQLITE_CANTOPEN) {
		// SQLite does not say why. As this process could not open the file, there
		// is no lock that closing it could drop.
		f, why := os.OpenFile(path, os.O_RDWR, 0)
		if why == nil {
			why = f.Close()
		}
		if sentinel(why) == core.ErrDenied {
			err = why
		}
	}
	if err != nil {
		return nil, fail("open", err)
	}
	s := &Store{
		path:      path,
		writer:    make(chan *conn, 1),
		readers:   make(chan *conn, readers),
		closing:   make(chan struct{}),
		snapshots: map[*snapshot]bool{},
	}
	s.writer <- c
	for range readers {
		s.readers <- nil
	}
	s.idle = time.AfterFunc(idleAfter, s.trimWhenIdle)
	return s, nil
}

// create makes the file whole or not at all: an empty one is damage, not a
// store that is new. Of several that try, one succeeds.
func create(ctx context.Context, path string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	made := f.Name()
	defer func() { _ = os.Remove(made) }()
	if err := f.Close(); err != nil {
		return err
	}
	c, err := dial(ctx, made)
	if err != nil {
		return err
	}
	err = c.all("PRAGMA journal_mode = WAL")
	if err == nil {
		err = c.inTransaction(ctx, &c.beginWrite, "BEGIN IMMEDIATE", func() error { return c.migrate(0) })
	}
	if err == nil {
		err = c.unmark()
	}
	if err = errors.Join(err, c.close()); err != nil {
		return err
	}
	if err := os.Link(made, path); err == nil || errors.Is(err, fs.ErrExist) {
		return nil
	}
	// A file system without links: of two that make the same store at the same
	// moment here, one would lose it.
	return os.Rename(made, path)
}

// take waits for a connection of a pool and opens it if need be. Whoever took it
// gives it back: itself, or nil when it may be unfit. It is nil if until is closed first.
func (s *Store) take(ctx context.Context, pool chan *conn, until <-chan struct{}) (*conn, error) {
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
	case <-until:
		return nil, nil
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
	c, err := dial(ctx, s.path)
	if err != nil {
		pool <- nil
	}
	return c, err
}

// give returns a connection to its pool. After an error that says nothing about
// the state of the connection it is closed instead.
func give(pool chan *conn, c *conn, err error) {
	if !fit(c, err) {
		_ = c.close() // a transaction still open is rolled back
		c = nil
	}
	pool <- c
}

func fit(c *conn, err error) bool {
	return !c.broken && (err == nil || errors.Is(err, core.ErrConflict) || errors.Is(err, core.ErrTooLarge))
}

// Read implements [core.Keystore].
func (s *Store) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	for i := range queries {
		if err := queries[i].Check(); err != nil {
			return nil, fail("read", err)
		}
	}
	c, err := s.take(ctx, s.readers, nil)
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
	if err := s.applyQueued(ctx, &b); err != nil {
		return fail("apply", err)
	}
	return nil
}

// trimWhenIdle leaves the log as small as it can be, unless somebody is writing
// now, who will start the clock again.
func (s *Store) trimWhenIdle() {
	select {
	case c := <-s.writer:
		if c == nil || !c.marked {
			s.writer <- c // nothing was written
			return
		}
		err := c.trimLog(0)
		if sentinel(err) == core.ErrUnavailable {
			s.idle.Reset(idleAfter) // somebody is reading, or the disk is full
			err = nil
		}
		give(s.writer, c, err)
	default:
	}
}

// Close implements [core.Keystore], and ends snapshots. The last process to close
// the file leaves no log beside it.
func (s *Store) Close() error {
	s.close.Do(func() {
		close(s.closing)
		s.mu.Lock()
		snapshots := s.snapshots
		s.snapshots = nil
		s.mu.Unlock()
		for x := range snapshots {
			s.err = errors.Join(s.err, x.end())
		}
		// Whoever holds a connection gives it back. The writer goes last, so
		// that it can empty the log.
		for range readers {
			s.err = errors.Join(s.err, (<-s.readers).close())
		}
		c := <-s.writer
		s.idle.Stop()
		if c == nil { // after an error
			var err error
			if c, err = dial(context.Background(), s.path); err != nil {
				s.err = errors.Join(s.err, err)
				return
			}
		}
		s.err = errors.Join(s.err, c.unmark(), c.close())
	})
	if s.err != nil {
		return fail("close", s.err)
	}
	return nil
}
