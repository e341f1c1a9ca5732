// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"

	lib "modernc.org/sqlite/lib"

	"github.com/conclave-mls/conclave/core"
)

// The open mark. What the last batches wrote is in the log beside the file, and
// nowhere else. Without the log the file is a state from the past, which SQLite
// takes for the present. So the file itself says whether it is whole:
//
//   - No batch is acknowledged before the mark is in the file, not only in the log.
//   - While the file has the mark, the log is never empty: no connection truncates
//     it to nothing or removes it. This holds for whoever is killed, too.
//   - The mark is taken away by a process that has the file to itself, in a
//     transaction that reaches the file after all others.
//
// A marked file with an empty log or none is therefore an accident, whenever one
// looks. A process that has seen the mark need not look again as long as it stays
// connected, so the mark costs a batch nothing.
const (
	markClosed  = 0
	markOpening = 1 // the log says that the file is open; the file does not yet
	markOpen    = 2 // the file itself has the mark, or markOpening
)

const markSQL = "SELECT state FROM mark"

func (c *conn) markState(ctx context.Context) (int64, error) {
	state, err := c.number(ctx, markSQL)
	if err == nil && (state < markClosed || state > markOpen) {
		err = fmt.Errorf("open mark %d: %w", state, core.ErrDamaged)
	}
	return state, err
}

func (c *conn) setMark(state int) error {
	_, err := c.db.ExecContext(context.Background(), fmt.Sprint("UPDATE mark SET state = ", state), nil)
	return err
}

// mark makes sure that the file has the open mark. The one checkpoint for it
// waits for no reader that takes long: those have waited for the mark, too.
func (c *conn) mark(ctx context.Context) error {
	if c.marked {
		return nil
	}
	state, err := c.advanceMark(ctx, markClosed, markOpening)
	if err == nil && state != markOpen {
		if err = c.awaitCheckpoint(ctx); err == nil {
			_, err = c.advanceMark(ctx, markOpening, markOpen)
		}
	}
	if failed := (*commitError)(nil); errors.As(err, &failed) {
		err = failed.err // whether this one happened makes no difference
	}
	c.marked = err == nil
	return err
}

// advanceMark returns the state that was there.
func (c *conn) advanceMark(ctx context.Context, from int64, to int) (state int64, err error) {
	err = c.inTransaction(ctx, &c.beginWrite, "BEGIN IMMEDIATE", func() error {
		if state, err = c.markState(ctx); err == nil && state == from {
			err = c.setMark(to)
		}
		return err
	})
	return state, err
}

// unmark takes the mark away and lets the log be removed, if no other connection
// to the file exists. Otherwise whoever closes last does it, or nobody does, and
// the log stays and is complete.
func (c *conn) unmark() error {
	background := context.Background()
	if err := errors.Join(c.wait(0), c.all("PRAGMA locking_mode = EXCLUSIVE")); err != nil {
		return err
	}
	// Of several that close at once, each gives up at another time.
	for end := time.Now().Add(rand.N(50 * time.Millisecond)); ; time.Sleep(time.Millisecond) {
		err := c.all("BEGIN IMMEDIATE", "COMMIT") // from here on the file is ours
		if err == nil {
			break
		}
		if !isCode(err, lib.SQLITE_BUSY) {
			return err
		}
		if time.Now().After(end) {
			return nil
		}
	}
	state, err := c.markState(background)
	if err != nil {
		return err
	}
	if state != markClosed {
		if err := c.checkpoint(background, "FULL"); err != nil {
			return err
		}
		if err := c.setMark(markClosed); err != nil {
			return err
		}
	}
	_, err = c.db.FileControlPersistWAL("main", 0)
	return err
}

// awaitCheckpoint copies the log into the file. SQLite waits for readers and
// writers, not for another checkpoint.
func (c *conn) awaitCheckpoint(ctx context.Context) error {
	for end := time.Now().Add(busyTimeout); ; {
		err := c.checkpoint(ctx, "FULL")
		if err == nil || sentinel(err) != core.ErrUnavailable || isFull(err) || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(rand.N(5 * time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// checkpoint copies the log into the file, all of it or it is an error.
func (c *conn) checkpoint(ctx context.Context, mode string) error {
	busy, err := c.number(ctx, "PRAGMA wal_checkpoint("+mode+")")
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && busy != 0 {
		err = fmt.Errorf("the log is in use: %w", core.ErrUnavailable)
	}
	return err
}

// logSize is 0 if there is no log. It asks by name: opening and closing a file
// of the database would drop the locks that SQLite has on it.
func (c *conn) logSize() (int64, error) {
	info, err := os.Stat(c.path + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

const (
	logHeader   = 32 // bytes of a log before its frames
	frameHeader = 24 // bytes of a frame before the page
)

// examine looks for accidents: a log that is gone, a file that was cut off.
func (c *conn) examine(ctx context.Context) (lost bool, err error) {
	// From the first read on this connection keeps the log from being removed,
	// and none that is in use is ever empty. So if it is empty after the mark was
	// read, then the mark is that of the file itself, and nobody is writing.
	state, err := c.markState(ctx)
	if err != nil {
		return false, err
	}
	page, err := c.number(ctx, "PRAGMA page_size")
	if err != nil {
		return false, err
	}
	// A log has at least one whole frame when its file gets the mark, and keeps it.
	size, err := c.logSize()
	if err != nil || size >= logHeader+frameHeader+page {
		return false, err
	}
	cut := size > 0
	info, err := os.Stat(c.path)
	if err != nil {
		return false, err
	}
	// SQLite takes what is missing of the last page for zeros. Somebody may have
	// begun to write meanwhile.
	if size, err = c.logSize(); err == nil && size == 0 && !cut && info.Size()%page != 0 {
		err = fmt.Errorf("the file has %d bytes, which is no number of whole pages: %w", info.Size(), core.ErrDamaged)
	}
	return state != markClosed, err
}

// errNotAlone: others have the file open, too.
var errNotAlone = fmt.Errorf("another process has the file open: %w", core.ErrUnavailable)

// acceptLoss puts a new incarnation into a file that has lost its log, and takes away
// the mark, in the file itself: a log that is begun for it would make the file look
// whole, to others and after a crash, before the incarnation is there.
func (c *conn) acceptLoss(ctx context.Context) (err error) {
	if _, err := c.db.FileControlPersistWAL("main", 0); err != nil {
		return err
	}
	defer func() {
		_, again := c.db.FileControlPersistWAL("main", 1)
		err = errors.Join(err, again)
	}()
	// Nobody may give it a log between this and the new incarnation.
	if err := c.all("PRAGMA locking_mode = EXCLUSIVE"); err != nil {
		return err
	}
	mode, err := c.value(ctx, "PRAGMA journal_mode = DELETE")
	if isCode(err, lib.SQLITE_BUSY) || err == nil && mode != "delete" {
		return errNotAlone
	}
	if err != nil {
		return err
	}
	if err := c.putIncarnation(ctx, markClosed); err != nil {
		return err
	}
	if err := c.all("PRAGMA locking_mode = NORMAL", markSQL); err != nil { // reading lets go
		return err
	}
	return useLog(ctx, c)
}

// putIncarnation puts a new incarnation, and the mark with it.
func (c *conn) putIncarnation(ctx context.Context, mark int) error {
	p := core.NewIncarnation()
	return c.inTransaction(ctx, &c.beginWrite, "BEGIN IMMEDIATE", func() error {
		if err := c.setMark(mark); err != nil {
			return err
		}
		return c.putRecord(&p)
	})
}
