// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/conclave-mls/conclave/core"
)

// applySQL is a batch in one statement. All parts see the state before it, so what is
// put is left out of what is deleted: a row can be changed once only. If an expectation
// fails, nothing is done, and the server logs no error.
const applySQL = `
WITH holds AS MATERIALIZED (
	SELECT NOT EXISTS (
		SELECT FROM unnest($1::smallint[], $2::bytea[], $3::uuid[]) AS e (tbl, key, version)
		LEFT JOIN %[1]s.record r ON r.tbl = e.tbl AND r.key = e.key
		WHERE coalesce(r.version, '00000000-0000-0000-0000-000000000000') <> e.version
	) AS holds
), deleted AS (
	DELETE FROM %[1]s.record r USING unnest($4::smallint[], $5::bytea[], $6::bytea[]) AS d (tbl, first, last)
	WHERE (SELECT holds FROM holds) AND r.tbl = d.tbl AND r.key >= d.first AND r.key < d.last
	AND NOT EXISTS (SELECT FROM unnest($7::smallint[], $8::bytea[]) AS p (tbl, key) WHERE p.tbl = r.tbl AND p.key = r.key)
), put AS (
	INSERT INTO %[1]s.record (tbl, key, version, value)
	SELECT tbl, key, version, value FROM unnest($7::smallint[], $8::bytea[], $9::uuid[], $10::bytea[]) AS p (tbl, key, version, value)
	WHERE (SELECT holds FROM holds)
	ON CONFLICT (tbl, key) DO UPDATE SET version = excluded.version, value = excluded.value
)
SELECT holds FROM holds`

const lockSQL = `SELECT CASE WHEN l.alone THEN pg_advisory_xact_lock(l.number) ELSE pg_advisory_xact_lock_shared(l.number) END
FROM unnest($1::bigint[], $2::boolean[]) AS l (number, alone)`

// apply sends two statements at once, which the server takes as one transaction and
// commits when it has done both. It reports whether a failed one should be tried again.
func (s *Store) apply(ctx context.Context, c *pgx.Conn, b *core.Batch) (retry bool, err error) {
	delete(c.PgConn().CustomData(), warned)
	var batch pgx.Batch
	numbers, alone := s.locks.of(b)
	batch.Queue(lockSQL, numbers, alone)
	batch.Queue(s.sql.apply, arguments(b)...)
	results := c.SendBatch(ctx, &batch)
	_, err = results.Exec()
	locked := err == nil
	var holds, answered bool
	if locked {
		err = results.QueryRow().Scan(&holds)
		answered = err == nil
	}
	if end := results.Close(); err == nil {
		err = end // of the commit
	}
	e := (*pgconn.PgError)(nil)
	switch {
	case answered && !holds:
		return false, core.ErrConflict
	case err == nil:
		// The server commits, and then waits for its standbys. If it is told to stop
		// waiting, it has committed here, and warns.
		if text, ok := c.PgConn().CustomData()[warned]; ok {
			return false, fmt.Errorf("%w: the server warns: %v", core.ErrUnknownOutcome, text)
		}
		return false, nil
	case errors.As(err, &e) && (e.SeverityUnlocalized == "ERROR" || !locked):
		// The server says that it has done nothing, or ended before it did anything.
		return e.Code == "40001" || e.Code == "40P01" || lost(err), err
	case pgconn.SafeToRetry(err):
		return true, err
	}
	return false, fmt.Errorf("%w: %w", core.ErrUnknownOutcome, err)
}

// arguments are those of applySQL.
func arguments(b *core.Batch) []any {
	type keys struct {
		tables   []int16
		keys     [][]byte
		versions [][16]byte
	}
	var e, p keys
	for i := range b.Expect {
		e.tables = append(e.tables, int16(b.Expect[i].Table))
		e.keys = append(e.keys, b.Expect[i].Key)
		e.versions = append(e.versions, b.Expect[i].Version)
	}
	var d struct {
		tables      []int16
		first, last [][]byte
	}
	for i := range b.Dels {
		first, last := bounds(b.Dels[i].Prefix)
		d.tables = append(d.tables, int16(b.Dels[i].Table))
		d.first, d.last = append(d.first, first), append(d.last, last)
	}
	var values [][]byte
	for i := range b.Puts {
		p.tables = append(p.tables, int16(b.Puts[i].Table))
		p.keys = append(p.keys, b.Puts[i].Key)
		p.versions = append(p.versions, b.Puts[i].Version)
		value := b.Puts[i].Value
		if value == nil {
			value = []byte{} // else NULL
		}
		values = append(values, value)
	}
	return []any{
		some(e.tables), some(e.keys), some(e.versions),
		some(d.tables), some(d.first), some(d.last),
		some(p.tables), some(p.keys), some(p.versions), some(values),
	}
}

// some is an array, where nil would be NULL.
func some[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
