// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"errors"
	"time"

	"github.com/conclave-mls/conclave/core"
)

const (
	// idleAfter is how long after the last batch the log is cut.
	idleAfter = 2 * time.Second
	// logLimit is the size of the log, in bytes, above which a batch makes sure
	// that it can begin anew. SQLite begins it anew from 4 MB, but only in a
	// moment without any reader, which may never come by itself.
	logLimit = 8 << 20
)

// trimLog copies the log into the file and leaves one page of it: the log of an
// open file is not empty, see mark.go. It waits for readers as long as it may,
// and writers wait for it.
func (c *conn) trimLog(wait time.Duration) error {
	err := c.wait(wait)
	if err == nil {
		if err = c.checkpoint(context.Background(), "RESTART"); err == nil {
			// The first frame of a log that begins anew cuts off the old one.
			err = c.all("PRAGMA journal_size_limit(0)", "UPDATE mark SET turn = turn + 1")
		}
	}
	if errors.Join(c.all("PRAGMA journal_size_limit(-1)"), c.wait(busyTimeout)) != nil {
		c.broken = true
	}
	return err
}

// count notes about how many bytes a batch has added to the log.
func (c *conn) count(b *core.Batch) {
	for i := range b.Puts {
		c.written += int64(len(b.Puts[i].Value)) + 4096
	}
	c.written += 4096
}

// limitLog is called after each transaction. It looks at the log when about as much
// was written as a log may hold, because to ask for its size costs half as much
// as a batch. A reader that stays is tried again as rarely.
func (c *conn) limitLog() {
	if c.written < logLimit/2 {
		return
	}
	c.written = 0
	size, err := c.logSize()
	if err == nil && size > logLimit {
		err = c.trimLog(250 * time.Millisecond)
	}
	if err != nil && sentinel(err) != core.ErrUnavailable {
		c.broken = true // the batch is safe; the next one will say what is wrong
	}
}
