// SPDX-License-Identifier: Apache-2.0

// Package postgres is the [core.Keystore] in a PostgreSQL database, 15 or later: for
// several processes on several machines that share one store. Start with [Open].
//
// All records are in one table of a schema of their own, so that several stores, and
// other programs, can share a database. A Read is one round trip in one snapshot; an
// Apply is one round trip and one transaction, which locks the keys that it names
// before it looks at them (see locks.go): batches that touch different keys do not wait
// for one another, and no batch fails because of one that it has nothing to do with.
// A connection that breaks is replaced; while the server is away, a call waits for it a
// few seconds.
//
// The store must be connected to a primary, directly or through a proxy that keeps a
// session on one server connection. It is as durable as the server is told to be, see
// [Store.Warnings]. What is deleted stays in the server's files until it vacuums, and in
// its log and backups for longer: it is sealed (core/seal), and its keys are not here.
//
// A database that is put back to an older state, or a standby that becomes primary
// before it has everything, shows state from the past. The store writes down on which
// server and timeline it lives, and in which table of which database, and answers
// ErrRolledBack where that changes, see [OpenRolledBack]. A copy of the server's files
// that is simply started again keeps all of that: that accident no database can see.
package postgres

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/conclave-mls/conclave/core"
)

// A Store is a keystore in a PostgreSQL database.
type Store struct {
	pool     *pgxpool.Pool
	schema   string
	lossless bool
	locks    lockSpace
	sql      statements

	recovering bool // the first connection belongs to OpenRolledBack
	mu         sync.Mutex
	mark       *mark // the server that this process uses, nil before the first connection

	closed atomic.Bool
	close  sync.Once
}

var _ core.Snapshotter = (*Store)(nil)

// Open opens the store of a data source name, "postgres://USER@HOST/DATABASE?..." or
// "host=... dbname=...", and makes its schema if there is none. All parameters and
// environment variables of libpq count (PGPASSFILE, sslmode, sslrootcert, several
// hosts), those of a pgxpool (pool_max_conns), run-time parameters of the server
// (statement_timeout), and two of our own:
//
//   - schema: the name of the schema, "conclave" if absent.
//   - lossless_failover=true: whatever standby becomes primary has every commit that
//     was acknowledged, because replication is synchronous: a new timeline is no
//     accident.
//
// ErrInvalid: the name cannot be read. ErrDenied: the server does not let the role in,
// its certificate does not hold, or the role lacks a privilege. ErrNotFound: there is
// no such database. ErrUnsupported: a newer version of this package wrote the schema,
// or the server's advisory locks lock nothing. ErrRolledBack: the database is on
// another server or timeline than it was, or was loaded from a dump. ErrUnavailable: no primary answers.
func Open(ctx context.Context, dsn string) (*Store, error) { return open(ctx, dsn, false) }

// OpenRolledBack opens a store that may show state from the past. In one transaction
// it puts a [core.NewIncarnation], from which every client of the store learns that it
// has to recover, and accepts the server and its timeline: from then on Open works.
// Processes that have it open get ErrRolledBack when they connect anew.
func OpenRolledBack(ctx context.Context, dsn string) (*Store, error) { return open(ctx, dsn, true) }

func open(ctx context.Context, dsn string, recovering bool) (*Store, error) {
	s := &Store{recovering: recovering}
	err := ctx.Err()
	if err == nil {
		err = s.connect(ctx, dsn)
	}
	if err != nil {
		return nil, fail(ctx, "open", err)
	}
	return s, nil
}

// Read implements [core.Keystore].
func (s *Store) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	answers, err := s.read(ctx, queries)
	if err != nil {
		return nil, fail(ctx, "read", err)
	}
	return answers, nil
}

func (s *Store) read(ctx context.Context, queries []core.Query) (answers [][]core.Record, err error) {
	if err := check(queries); err != nil {
		return nil, err
	}
	// Whatever breaks, nothing has happened: it is worth another connection.
	err = s.again(ctx, func(c *pgx.Conn) (bool, error) {
		answers, err = read(ctx, c, &s.sql, queries, true)
		return lost(err), err
	})
	return answers, err
}

// Apply implements [core.Keystore].
func (s *Store) Apply(ctx context.Context, b core.Batch) error {
	err := b.Check()
	if err == nil {
		err = s.again(ctx, func(c *pgx.Conn) (bool, error) { return s.apply(ctx, c, &b) })
	}
	if err != nil {
		return fail(ctx, "apply", err)
	}
	return nil
}

// Close implements [core.Keystore]. Snapshots stay open.
func (s *Store) Close() error {
	s.closed.Store(true)
	s.close.Do(s.pool.Close)
	return nil
}
