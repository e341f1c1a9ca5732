// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/conclave-mls/conclave/core"
)

const (
	// applicationID marks the file as ours ("CNCL"), in the header of the file.
	applicationID = 0x434e434c
	// schemaVersion is the newest schema that this package knows.
	schemaVersion = 1
)

// One rowid table holds all records: WITHOUT ROWID would write twice the bytes.
// The version stands before the value, so that reading it never touches the
// pages that a long value overflows into.
const (
	schemaSQL = `
CREATE TABLE record (tbl INTEGER NOT NULL, key BLOB NOT NULL, version BLOB NOT NULL, value BLOB, UNIQUE (tbl, key));
PRAGMA application_id = 1129202508;
PRAGMA user_version = 1;`

	scanSQL     = "SELECT key, version, value FROM record WHERE tbl = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?"
	scanKeysSQL = "SELECT key, version FROM record WHERE tbl = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?"
	versionSQL  = "SELECT version FROM record WHERE tbl = ? AND key = ?"
	removeSQL   = "DELETE FROM record WHERE tbl = ? AND key >= ? AND key < ?"
	// The row stays where it is: fewer pages change than with REPLACE.
	putSQL = "INSERT INTO record (tbl, key, version, value) VALUES (?, ?, ?, ?)" +
		" ON CONFLICT (tbl, key) DO UPDATE SET version = excluded.version, value = excluded.value"
)

// prepareFile makes the schema in a new file, and else refuses, without changing
// anything, what this package did not write or does not understand.
func prepareFile(ctx context.Context, c *conn) error {
	// In a transaction, because another process may make the schema meanwhile.
	var fresh bool
	err := c.inTransaction(ctx, &c.begin, "BEGIN", func() (err error) {
		fresh, err = isNew(c)
		return err
	})
	if err != nil {
		return err
	}
	// The mode is kept in the file, but a copy made by VACUUM INTO has lost it.
	if err := useLog(ctx, c); err != nil || !fresh {
		return err
	}
	// Whoever comes second finds it done.
	return c.inTransaction(ctx, &c.beginWrite, "BEGIN IMMEDIATE", func() error {
		fresh, err := isNew(c)
		if err != nil || !fresh {
			return err
		}
		_, err = c.db.ExecContext(context.Background(), schemaSQL, nil)
		return err
	})
}

// isNew reports whether the file is an empty database, and refuses foreign ones.
func isNew(c *conn) (bool, error) {
	id, err := c.pragma("application_id")
	if err != nil {
		return false, err
	}
	version, err := c.pragma("user_version")
	if err != nil {
		return false, err
	}
	objects, err := c.value("SELECT count(*) FROM sqlite_schema")
	if err != nil {
		return false, err
	}
	switch {
	case id == int64(0) && version == int64(0) && objects == int64(0):
		return true, nil
	case id != int64(applicationID):
		return false, fmt.Errorf("the file is the database of another program: %w", core.ErrInvalid)
	case version.(int64) > schemaVersion:
		return false, fmt.Errorf("the file has schema version %d, this program knows %d: %w", version, schemaVersion, core.ErrUnsupported)
	case version != int64(schemaVersion):
		return false, fmt.Errorf("the file has schema version %d: %w", version, core.ErrDamaged)
	}
	return false, nil
}

// useLog switches the file to a write-ahead log. SQLite does not wait for
// another connection that is about to do the same, so this does.
func useLog(ctx context.Context, c *conn) error {
	for delay := time.Millisecond; ; delay *= 2 {
		mode, err := c.pragma("journal_mode = WAL")
		switch {
		case err == nil && mode != "wal":
			return fmt.Errorf("the file has journal mode %v and cannot have a write-ahead log here: %w", mode, core.ErrUnsupported)
		case err == nil, sentinel(err) != core.ErrUnavailable, delay > 2*time.Second:
			return err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *conn) pragma(name string) (driver.Value, error) { return c.value("PRAGMA " + name) }

// value runs a query that gives one value.
func (c *conn) value(query string) (_ driver.Value, err error) {
	rows, err := c.db.QueryContext(context.Background(), query, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	row := make([]driver.Value, 1)
	if err := rows.Next(row); err != nil {
		if errors.Is(err, io.EOF) {
			err = core.ErrDamaged
		}
		return nil, err
	}
	return row[0], nil
}
