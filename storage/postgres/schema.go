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

// migrations[n] makes schema version n+1 of version n. Values are sealed, so the server
// need not try to compress them.
var migrations = []string{`
CREATE TABLE %[1]s.record (
	tbl smallint NOT NULL,
	key bytea NOT NULL,
	version uuid NOT NULL,
	value bytea NOT NULL,
	PRIMARY KEY (tbl, key)
);
ALTER TABLE %[1]s.record ALTER COLUMN value SET STORAGE EXTERNAL;
CREATE TABLE %[1]s.store (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	version integer NOT NULL,
	system bigint NOT NULL,
	timeline bigint NOT NULL,
	place bigint NOT NULL
);
INSERT INTO %[1]s.store (version, system, timeline, place) SELECT 0, 0, 0, 0;
UPDATE %[1]s.store SET (system, timeline, place) = (SELECT ` + serverSQL + `)`,
}

const (
	// serverSQL is which server this is, and its timeline: the first part of the name
	// of the file that it writes its log to. A standby cannot say. And which database
	// and table: a dump that is loaded makes new ones, and so does a copy of a database.
	serverSQL = `(pg_control_system()).system_identifier, ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint,
		((SELECT oid FROM pg_database WHERE datname = current_database())::bigint << 32) + store.tableoid::bigint`

	lookSQL = `SELECT version, system, timeline, place, ` + serverSQL + ` FROM %[1]s.store`
	// synchronousSQL does nothing where commits are synchronous in some way.
	synchronousSQL = ` WHERE CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', false) ELSE '' END IS NOT NULL`
)

// statements are those of a store, with the name of its schema.
type statements struct {
	name                    string // of the schema, quoted
	apply, read, keys, look string
}

func statementsOf(schema string, synchronous bool) statements {
	name := pgx.Identifier{schema}.Sanitize()
	in := func(text string) string { return fmt.Sprintf(text, name) }
	s := statements{name: name, apply: in(applySQL), read: in(readSQL), keys: in(keysSQL), look: in(lookSQL)}
	if synchronous {
		s.look += synchronousSQL
	}
	return s
}

// A mark is a server, its timeline, and where there the store is.
type mark struct{ system, timeline, place int64 }

func (m mark) String() string {
	return fmt.Sprintf("timeline %d of server %d (table %d of database %d)", m.timeline, m.system, uint32(m.place), m.place>>32)
}

// connected looks at every new connection before it is used.
func (s *Store) connected(ctx context.Context, c *pgx.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.mark == nil
	version, was, is, err := s.look(ctx, c)
	if first && (version < len(migrations) || absent(err)) {
		if err = s.prepare(ctx, c); err == nil {
			version, was, is, err = s.look(ctx, c)
		}
	}
	if err != nil {
		return err
	}
	if version > len(migrations) {
		return fmt.Errorf("the store has schema version %d, this program knows %d: %w", version, len(migrations), core.ErrUnsupported)
	}
	forward := func(from mark) bool {
		return s.lossless && is.system == from.system && is.place == from.place && is.timeline > from.timeline
	}
	switch {
	case first && s.recovering:
		err = s.accept(ctx, c, was, is, true)
	case was != is && forward(was):
		err = s.accept(ctx, c, was, is, false)
	case was != is:
		err = fmt.Errorf("the store was on %v, this is %v: %w", was, is, core.ErrRolledBack)
	case !first && *s.mark != is && !forward(*s.mark):
		// Somebody has accepted it, but this process goes on from what it knew before.
		err = fmt.Errorf("this process used the store on %v, this is %v: %w", *s.mark, is, core.ErrRolledBack)
	}
	if err == nil {
		s.mark = &is
	}
	return err
}

// look reads where the store was and where this is.
func (s *Store) look(ctx context.Context, c *pgx.Conn) (version int, was, is mark, err error) {
	err = c.QueryRow(ctx, s.sql.look, pgx.QueryExecModeExec).Scan(&version, &was.system, &was.timeline, &was.place, &is.system, &is.timeline, &is.place)
	return version, was, is, err
}

// absent says that there is no schema or no table.
func absent(err error) bool {
	e := (*pgconn.PgError)(nil)
	return errors.As(err, &e) && (e.Code == "42P01" || e.Code == "3F000")
}

// accept writes down where the store is now, and puts a new incarnation if asked to,
// unless somebody else has just done that: one accident is one incarnation.
func (s *Store) accept(ctx context.Context, c *pgx.Conn, was, is mark, incarnation bool) error {
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if incarnation {
			b := core.Batch{Puts: []core.Put{core.NewIncarnation()}}
			numbers, alone := s.locks.of(&b)
			if _, err := tx.Exec(ctx, lockSQL, numbers, alone); err != nil {
				return err
			}
			if _, now, _, err := s.look(ctx, c); err != nil || was != is && now == is {
				return err
			}
			if _, err := tx.Exec(ctx, s.sql.apply, arguments(&b)...); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, "UPDATE "+s.sql.name+".store SET system = $1, timeline = $2, place = $3", is.system, is.timeline, is.place)
		return err
	})
}

// prepare makes the schema, or brings an older one up to date, and refuses a server on
// which advisory locks lock nothing.
func (s *Store) prepare(ctx context.Context, c *pgx.Conn) error {
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		var locked int
		var schema, store *string
		// Two processes at once: the second finds it done.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", s.locks.store()); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
			to_regnamespace($1)::text, to_regclass($1 || '.store')::text`, s.sql.name).Scan(&locked, &schema, &store)
		if err != nil {
			return err
		}
		if locked == 0 {
			return fmt.Errorf("advisory locks of this server lock nothing: %w", core.ErrUnsupported)
		}
		version := 0
		if store != nil {
			if err := tx.QueryRow(ctx, "SELECT version FROM "+s.sql.name+".store").Scan(&version); err != nil {
				return err
			}
		} else if schema == nil {
			if _, err := tx.Exec(ctx, "CREATE SCHEMA "+s.sql.name); err != nil {
				return err
			}
		}
		if version >= len(migrations) {
			return nil
		}
		for _, m := range migrations[version:] {
			if _, err := tx.Exec(ctx, fmt.Sprintf(m, s.sql.name), pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, "UPDATE "+s.sql.name+".store SET version = $1", len(migrations))
		return err
	})
}
