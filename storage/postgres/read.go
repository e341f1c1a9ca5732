// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"bytes"
	"context"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/conclave-mls/conclave/core"
)

const (
	readSQL = `SELECT key, version, value FROM %[1]s.record WHERE tbl = $1 AND key >= $2 AND key < $3 ORDER BY key LIMIT $4`
	keysSQL = `SELECT key, version FROM %[1]s.record WHERE tbl = $1 AND key >= $2 AND key < $3 ORDER BY key LIMIT $4`

	beginRead = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
	commit    = "COMMIT"
)

func check(queries []core.Query) error {
	for i := range queries {
		if err := queries[i].Check(); err != nil {
			return err
		}
	}
	return nil
}

// read answers queries in one round trip, from one state if apart: a single query is a
// transaction of its own.
func read(ctx context.Context, c *pgx.Conn, sql *statements, queries []core.Query, apart bool) ([][]core.Record, error) {
	apart = apart && len(queries) > 1
	var batch pgx.Batch
	if apart {
		batch.Queue(beginRead)
	}
	for i := range queries {
		q := &queries[i]
		first, last := bounds(q.Prefix)
		if after := append(bytes.Clone(q.After), 0); bytes.Compare(after, first) > 0 {
			first = after // the least key greater than After
		}
		var limit *int64
		if q.Limit > 0 {
			n := int64(q.Limit)
			limit = &n
		}
		text := sql.read
		if q.KeysOnly {
			text = sql.keys
		}
		batch.Queue(text, int16(q.Table), first, last, limit)
	}
	if apart {
		batch.Queue(commit)
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	results := c.SendBatch(ctx, &batch)
	answers, err := receive(results, len(queries), apart)
	if err != nil {
		stop() // the server need not send the rest
	}
	if end := results.Close(); err == nil {
		err = end
	}
	return answers, err
}

func receive(results pgx.BatchResults, queries int, apart bool) ([][]core.Record, error) {
	if apart {
		if _, err := results.Exec(); err != nil {
			return nil, err
		}
	}
	answers := make([][]core.Record, queries)
	room := core.MaxBatch
	for i := range answers {
		rows, err := results.Query()
		if err != nil {
			return nil, err
		}
		for rows.Next() {
			row := rows.RawValues()
			r := core.Record{Key: bytes.Clone(row[0])}
			if len(row[1]) != len(r.Version) {
				return nil, core.ErrDamaged
			}
			copy(r.Version[:], row[1])
			if len(row) == 3 {
				r.Value = bytes.Clone(row[2])
			}
			if room -= len(r.Key) + len(r.Value); room < 0 {
				return nil, core.ErrTooLarge
			}
			answers[i] = append(answers[i], r)
		}
		if err := rows.Err(); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// A snapshot is a transaction that only reads, on a connection of its own.
type snapshot struct {
	mu   sync.Mutex // a connection does one thing at a time
	conn *pgx.Conn
	sql  *statements
}

// Snapshot implements [core.Snapshotter]. The server keeps what is deleted meanwhile,
// and ends a snapshot that nobody reads for ten minutes.
func (s *Store) Snapshot(ctx context.Context) (core.Snapshot, error) {
	c, err := s.snapshot(ctx)
	if err != nil {
		return nil, fail(ctx, "snapshot", err)
	}
	return &snapshot{conn: c, sql: &s.sql}, nil
}

func (s *Store) snapshot(ctx context.Context) (*pgx.Conn, error) {
	// The pool knows best how to get a connection.
	pooled, err := s.acquire(ctx)
	if err != nil {
		return nil, err
	}
	c := pooled.Hijack()
	var batch pgx.Batch
	batch.Queue(beginRead)
	batch.Queue("SET LOCAL idle_in_transaction_session_timeout = '10min'")
	batch.Queue(s.sql.keys, int16(0), []byte{0}, []byte{0}, nil) // from now on the state stands still
	batch.Queue("SAVEPOINT held")
	if err := c.SendBatch(ctx, &batch).Close(); err != nil {
		_ = c.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return c, nil
}

func (s *snapshot) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	answers, err := s.read(ctx, queries)
	if err != nil {
		return nil, fail(ctx, "read", err)
	}
	return answers, nil
}

func (s *snapshot) read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	if err := check(queries); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return nil, core.ErrClosed
	}
	answers, err := read(ctx, s.conn, s.sql, queries, false)
	if s.conn.PgConn().TxStatus() == 'E' { // an answer that is broken off ends all after the savepoint
		ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), cancelling)
		defer stop()
		_, _ = s.conn.Exec(ctx, "ROLLBACK TO SAVEPOINT held")
	}
	return answers, err
}

// Close ends the transaction.
func (s *snapshot) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.Close(context.Background()) // there is nothing to lose
		s.conn = nil
	}
	return nil
}

// bounds gives the least key with a prefix and the least key above all of them. Keys
// have 1 to MaxKey bytes.
func bounds(prefix []byte) (first, last []byte) {
	first = prefix
	if len(first) == 0 {
		first = []byte{0}
	}
	n := len(prefix)
	for n > 0 && prefix[n-1] == 0xff {
		n--
	}
	if n == 0 {
		return first, aboveAll
	}
	last = bytes.Clone(prefix[:n])
	last[n-1]++
	return first, last
}

var aboveAll = bytes.Repeat([]byte{0xff}, core.MaxKey+1)
