// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/conclave-mls/conclave/core"
)

// A conn is one connection with its prepared statements, used by one goroutine
// at a time. It speaks to the driver directly: database/sql would add its own
// pool, locks and conversions to every row, several times the cost of reading one.
type conn struct {
	db      connection
	path    string // of the file
	args    []driver.NamedValue
	broken  bool  // it may still be in a transaction
	marked  bool  // the file has the open mark
	hasty   bool  // it waits for no lock: see apply
	written int64 // about as many bytes since it looked at the log

	begin, beginWrite, commit, rollback  statement
	scan, scanKeys, version, remove, put statement
}

type connection interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	sqlite.FileControl
	IsReadOnly(schema string) (bool, error)
}

type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// busyTimeout is how long a connection waits for another process.
const busyTimeout = 10 * time.Second

// dial opens a connection. Statements are prepared when they are first used:
// when the file is new, there is no table yet.
func dial(ctx context.Context, path string) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	db, err := new(sqlite.Driver).Open(dsn(path))
	if err != nil {
		return nil, err
	}
	c := &conn{db: db.(connection), path: path}
	// Whoever is last would remove the log: only unmark may allow that.
	if _, err := c.db.FileControlPersistWAL("main", 1); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// dsn asks for an existing file and sets what every connection needs. A limit of
// the log's size is not among it: closing would cut the log to nothing (mark.go).
func dsn(path string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // a drive letter
	}
	u := url.URL{Scheme: "file", Path: path, RawQuery: url.Values{
		"mode": {"rw"},
		"_pragma": {
			waitSQL(busyTimeout),
			"synchronous(FULL)",
			"fullfsync(ON)", // macOS: fsync alone does not reach the medium
			"secure_delete(ON)",
			"trusted_schema(OFF)",
			"cell_size_check(ON)",
		},
	}.Encode()}
	return u.String()
}

// close closes the connection; nil has none.
func (c *conn) close() error {
	if c == nil {
		return nil
	}
	for _, s := range []statement{c.begin, c.beginWrite, c.commit, c.rollback, c.scan, c.scanKeys, c.version, c.remove, c.put} {
		if s != nil {
			_ = s.Close() // repeats the error of its last run
		}
	}
	return c.db.Close()
}

// bind sets the arguments of the next statement. An empty slice is NULL.
func (c *conn) bind(values ...driver.Value) []driver.NamedValue {
	c.args = c.args[:0]
	for i, v := range values {
		if b, ok := v.([]byte); ok && len(b) == 0 {
			v = nil
		}
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return c.args
}

func (c *conn) prepared(s *statement, query string) (statement, error) {
	if *s == nil {
		made, err := c.db.PrepareContext(context.Background(), query)
		if err != nil {
			return nil, err
		}
		*s = made.(statement)
	}
	return *s, nil
}

// exec runs a statement to its end. The context matters where a lock is waited
// for: elsewhere nothing takes long, and watching one costs a goroutine.
func (c *conn) exec(ctx context.Context, s *statement, query string, values ...driver.Value) error {
	stmt, err := c.prepared(s, query)
	if err != nil {
		return err
	}
	_, err = stmt.ExecContext(ctx, c.bind(values...))
	return err
}

// waitSQL sets how long a lock is waited for.
func waitSQL(d time.Duration) string { return fmt.Sprintf("busy_timeout(%d)", d.Milliseconds()) }

// wait sets how long this connection waits for a lock.
func (c *conn) wait(d time.Duration) error {
	c.hasty = d == 0
	return c.all("PRAGMA " + waitSQL(d))
}

// all runs statements that are rarely needed.
func (c *conn) all(statements ...string) error {
	for _, sql := range statements {
		if _, err := c.db.ExecContext(context.Background(), sql, nil); err != nil {
			return err
		}
	}
	return nil
}

// rows runs a query and calls each with every row. The slices are each's to keep.
func (c *conn) rows(s *statement, query string, columns int, each func(row []driver.Value) error, values ...driver.Value) (err error) {
	stmt, err := c.prepared(s, query)
	if err != nil {
		return err
	}
	rows, err := stmt.QueryContext(context.Background(), c.bind(values...))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	row := make([]driver.Value, columns)
	for {
		if err := rows.Next(row); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := each(row); err != nil {
			return err
		}
	}
}

// inTransaction runs f between the given begin and a commit, or a rollback if f
// or the commit fails.
func (c *conn) inTransaction(ctx context.Context, begin *statement, query string, f func() error) error {
	if err := c.exec(ctx, begin, query); err != nil {
		return err
	}
	return c.toTheEnd(f)
}

// toTheEnd is inTransaction in one that has begun.
func (c *conn) toTheEnd(f func() error) error {
	err := f()
	if err == nil {
		if err = c.exec(context.Background(), &c.commit, "COMMIT"); err == nil {
			return nil
		}
		err = &commitError{err}
	}
	if c.exec(context.Background(), &c.rollback, "ROLLBACK") != nil {
		c.broken = true // or the error has rolled back already: it is not worth telling apart
	}
	return err
}

// read answers the queries from one state: a single one is a state of its own.
func (c *conn) read(ctx context.Context, queries []core.Query) (answers [][]core.Record, err error) {
	if len(queries) <= 1 {
		return c.answer(ctx, queries)
	}
	// It begins with the first query: there is nothing to wait for here.
	err = c.inTransaction(context.Background(), &c.begin, "BEGIN", func() error {
		answers, err = c.answer(ctx, queries)
		return err
	})
	return answers, err
}

func (c *conn) answer(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	answers := make([][]core.Record, len(queries))
	room := core.MaxBatch
	for i := range queries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var err error
		if answers[i], err = c.records(&queries[i], &room); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

func (c *conn) records(q *core.Query, room *int) (found []core.Record, err error) {
	from, to := bounds(q.Prefix)
	if after := append(bytes.Clone(q.After), 0); bytes.Compare(after, from) > 0 {
		from = after // the least key greater than After
	}
	limit := int64(-1)
	if q.Limit > 0 {
		limit = int64(q.Limit)
	}
	each := func(row []driver.Value) error {
		r := core.Record{}
		r.Key, _ = row[0].([]byte)
		version, _ := row[1].([]byte)
		if len(row) == 3 {
			r.Value, _ = row[2].([]byte)
		}
		if copy(r.Version[:], version) != len(r.Version) || len(version) != len(r.Version) {
			return core.ErrDamaged
		}
		if *room -= len(r.Key) + len(r.Value); *room < 0 {
			return core.ErrTooLarge
		}
		found = append(found, r)
		return nil
	}
	if q.KeysOnly {
		err = c.rows(&c.scanKeys, scanKeysSQL, 2, each, int64(q.Table), from, to, limit)
	} else {
		err = c.rows(&c.scan, scanSQL, 3, each, int64(q.Table), from, to, limit)
	}
	return found, err
}

// lock takes the write lock. Another process rarely has it, so that is found out first:
// to wait with a context costs a goroutine.
func (c *conn) lock(ctx context.Context) error {
	const begin = "BEGIN IMMEDIATE"
	if !c.hasty {
		if err := c.wait(0); err != nil {
			return err
		}
	}
	err := c.exec(context.Background(), &c.beginWrite, begin)
	if !isCode(err, lib.SQLITE_BUSY) {
		return err
	}
	if err = c.wait(busyTimeout); err == nil {
		err = c.exec(ctx, &c.beginWrite, begin)
	}
	return err
}

// apply is one transaction. The write lock is taken at once, so that what the
// expectations see is what the puts replace.
func (c *conn) apply(ctx context.Context, b *core.Batch) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	err := c.toTheEnd(func() error { return c.change(b) })
	if err == nil {
		c.count(b)
		c.limitLog()
	}
	return err
}

// change writes a batch in the transaction of the caller, or nothing if it conflicts.
func (c *conn) change(b *core.Batch) error {
	background := context.Background()
	for i := range b.Expect {
		var have core.Version
		each := func(row []driver.Value) error {
			version, _ := row[0].([]byte)
			copy(have[:], version)
			return nil
		}
		if err := c.rows(&c.version, versionSQL, 1, each, int64(b.Expect[i].Table), b.Expect[i].Key); err != nil {
			return err
		}
		if have != b.Expect[i].Version {
			return core.ErrConflict
		}
	}
	for i := range b.Dels {
		from, to := bounds(b.Dels[i].Prefix)
		if err := c.exec(background, &c.remove, removeSQL, int64(b.Dels[i].Table), from, to); err != nil {
			return err
		}
	}
	for i := range b.Puts {
		if err := c.putRecord(&b.Puts[i]); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) putRecord(p *core.Put) error {
	return c.exec(context.Background(), &c.put, putSQL, int64(p.Table), p.Key, p.Version[:], p.Value)
}

// bounds gives the least key with a prefix and the least key above all of them.
// Keys have 1 to MaxKey bytes.
func bounds(prefix []byte) (from, to []byte) {
	from = prefix
	if len(from) == 0 {
		from = []byte{0}
	}
	n := len(prefix)
	for n > 0 && prefix[n-1] == 0xff {
		n--
	}
	if n == 0 {
		return from, aboveAll
	}
	to = bytes.Clone(prefix[:n])
	to[n-1]++
	return from, to
}

var aboveAll = bytes.Repeat([]byte{0xff}, core.MaxKey+1)
