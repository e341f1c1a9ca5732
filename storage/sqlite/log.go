// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"time"

	"github.com/conclave-mls/conclave/core"
)

const (
	// idleAfter is how long after the last batch the log is emptied.
	idleAfter = 2 * time.Second
	// logLimit is the size of the log, in bytes, above which a batch makes sure
	// that it can begin anew. SQLite begins it anew from 4 MB, but only in a
	// moment without any reader, which may never come by itself.
	logLimit = 8 << 20
)

// trimLog copies the log into the file and leaves one page of it: the log of an
// open file is not empty, see mark.go. It waits for readers as long as it may,
// and writers wait for it.
func (c *conn) trimLog(wait string) error {
	err := c.all("PRAGMA busy_timeout(" + wait + ")")
	if err == nil {
		if err = c.checkpoint(context.Background(), "RESTART"); err == nil {
			// The first frame of a log that begins anew cuts off the old one.
			err = c.all("PRAGMA journal_size_limit(0)", "UPDATE mark SET turn = turn + 1")
		}
	}
	for _, sql := range []string{"PRAGMA journal_size_limit(-1)", "PRAGMA busy_timeout(" + busyTimeout + ")"} {
		if again := c.all(sql); again != nil {
			c.broken = true
		}
	}
	return err
}

// limitLog is called after each batch. A reader that stays is tried again when
// the log has grown by as much again.
func (c *conn) limitLog() {
	size, err := c.logSize()
	if err != nil || size < max(c.nextTrim, logLimit) {
		return
	}
	c.nextTrim = 0
	if err := c.trimLog("250"); err != nil {
		c.nextTrim = size + logLimit
		if sentinel(err) != core.ErrUnavailable {
			c.broken = true // the batch is safe; the next one will say what is wrong
		}
	}
}
