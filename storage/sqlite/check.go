// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/conclave-mls/conclave/core"
)

// strangeSQL counts what no version of this package writes.
const strangeSQL = `
SELECT (SELECT count(*) FROM record WHERE typeof(tbl) <> 'integer' OR tbl NOT BETWEEN 0 AND 255
	OR typeof(key) <> 'blob' OR length(key) NOT BETWEEN 1 AND 48
	OR typeof(version) <> 'blob' OR length(version) <> 16 OR version = zeroblob(16)
	OR typeof(value) NOT IN ('blob', 'null') OR length(value) > 1048576)
	+ abs((SELECT count(*) FROM mark WHERE id = 1 AND state IN (0, 1, 2)) - 1)
	+ abs((SELECT count(*) FROM sqlite_schema) - 3)`

// Check reads the whole file and the log: the structure of every page, that the
// index has every record, that every record is one that could have been put.
// Whether values are as they were put is for core/seal to say. ErrDamaged names
// what is wrong. It may take long, and does not keep others from the store.
func (s *Store) Check(ctx context.Context) error {
	c, err := s.take(ctx, s.readers, nil)
	if err != nil {
		return fail("check", err)
	}
	err = c.check(ctx)
	give(s.readers, c, err)
	if err != nil {
		return fail("check", err)
	}
	return nil
}

func (c *conn) check(ctx context.Context) error {
	var found []string
	rows, err := c.db.QueryContext(ctx, "PRAGMA integrity_check(10)", nil)
	if err != nil {
		return err
	}
	row := make([]driver.Value, 1)
	for err = rows.Next(row); err == nil; err = rows.Next(row) {
		found = append(found, strings.TrimSpace(fmt.Sprint(row[0])))
	}
	if err = errors.Join(err, rows.Close()); !errors.Is(err, io.EOF) {
		return err
	}
	if len(found) != 1 || found[0] != "ok" {
		return fmt.Errorf("%s: %w", strings.Join(found, "; "), core.ErrDamaged)
	}
	strange, err := c.number(ctx, strangeSQL)
	if err == nil && strange != 0 {
		err = fmt.Errorf("%d rows that this program does not write: %w", strange, core.ErrDamaged)
	}
	return err
}
