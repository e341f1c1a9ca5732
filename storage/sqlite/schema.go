// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/conclave-mls/conclave/core"
)

const (
	// applicationID marks the file as ours ("CNCL"), in the header of the file.
	applicationID = 0x434e434c
	// schemaVersion is the newest schema that this package knows: the number of
	// files in the folder schema, each of which leads from one version to the next.
	schemaVersion = 2
)

//go:embed schema/*.sql
var schemas embed.FS

// "+?" and not "?": SQLite plans with a limit that is a parameter, and would plan again for each
// query with another one.
const (
	scanSQL     = "SELECT key, version, value FROM record WHERE tbl = ? AND key >= ? AND key < ? ORDER BY key LIMIT +?"
	scanKeysSQL = "SELECT key, version FROM record WHERE tbl = ? AND key >= ? AND key < ? ORDER BY key LIMIT +?"
	versionSQL  = "SELECT version FROM record WHERE tbl = ? AND key = ?"
	removeSQL   = "DELETE FROM record WHERE tbl = ? AND key >= ? AND key < ?"
	// The row stays where it is: fewer pages change than with REPLACE.
	putSQL = "INSERT INTO record (tbl, key, version, value) VALUES (?, ?, ?, ?)" +
		" ON CONFLICT (tbl, key) DO UPDATE SET version = excluded.version, value = excluded.value"
)

// prepareFile brings the file to the newest schema, and refuses, without changing
// anything, what this package did not write or does not understand.
func prepareFile(ctx context.Context, c *conn) error {
	version, err := c.schemaVersion(ctx)
	if err != nil {
		return err
	}
	if readOnly, err := c.db.IsReadOnly("main"); err != nil {
		return err
	} else if readOnly {
		return fmt.Errorf("the file is read-only: %w", core.ErrDenied)
	}
	// The mode is kept in the file, but a copy made by VACUUM INTO has lost it.
	if err := useLog(ctx, c); err != nil || version == schemaVersion {
		return err
	}
	return c.inTransaction(ctx, &c.beginWrite, "BEGIN IMMEDIATE", func() error {
		version, err := c.schemaVersion(ctx) // another process may have been faster
		if err != nil {
			return err
		}
		return c.migrate(version)
	})
}

// migrate leads from a version to the newest, in the transaction of the caller.
func (c *conn) migrate(version int64) error {
	for ; version < schemaVersion; version++ {
		sql, err := schemas.ReadFile(fmt.Sprintf("schema/%d.sql", version+1))
		if err != nil {
			return err
		}
		sql = fmt.Appendf(sql, "PRAGMA user_version = %d;", version+1)
		if _, err := c.db.ExecContext(context.Background(), string(sql), nil); err != nil {
			return err
		}
	}
	return nil
}

// schemaVersion reads the version of the file and refuses foreign and newer ones.
func (c *conn) schemaVersion(ctx context.Context) (int64, error) {
	// The schema is read too: without it, the header says nothing.
	id, err := c.number(ctx, "SELECT application_id FROM pragma_application_id, (SELECT count(*) FROM sqlite_schema)")
	if err != nil {
		return 0, err
	}
	version, err := c.number(ctx, "PRAGMA user_version")
	switch {
	case err != nil:
		return 0, err
	case id != applicationID:
		return 0, fmt.Errorf("the file is the database of another program: %w", core.ErrInvalid)
	case version > schemaVersion:
		return 0, fmt.Errorf("the file has schema version %d, this program knows %d: %w", version, schemaVersion, core.ErrUnsupported)
	case version < 1:
		return 0, fmt.Errorf("the file has schema version %d: %w", version, core.ErrDamaged)
	}
	return version, nil
}

// useLog switches the file to a write-ahead log. SQLite does not wait for
// another connection that is about to do the same, so this does.
func useLog(ctx context.Context, c *conn) error {
	for delay := time.Millisecond; ; delay *= 2 {
		mode, err := c.value(ctx, "PRAGMA journal_mode = WAL")
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

// value runs a query and gives the first value of its first row.
func (c *conn) value(ctx context.Context, query string) (_ driver.Value, err error) {
	rows, err := c.db.QueryContext(ctx, query, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	row := make([]driver.Value, len(rows.Columns()))
	if err := rows.Next(row); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("no row: %w", core.ErrDamaged)
		}
		return nil, err
	}
	return row[0], nil
}

func (c *conn) number(ctx context.Context, query string) (int64, error) {
	v, err := c.value(ctx, query)
	if err != nil {
		return 0, err
	}
	n, ok := v.(int64)
	if !ok {
		return 0, fmt.Errorf("%T for a number: %w", v, core.ErrDamaged)
	}
	return n, nil
}
