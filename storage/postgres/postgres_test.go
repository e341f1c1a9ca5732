// SPDX-License-Identifier: Apache-2.0

package postgres_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/storage/postgres"
	"github.com/conclave-mls/conclave/storage/postgres/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore(t *testing.T) {
	dsn := pgtest.Shared(t)
	coretest.TestDurableKeystore(t, func(ctx context.Context, location string) (core.Keystore, error) {
		return postgres.Open(ctx, at(dsn, location))
	})
}

func TestFaults(t *testing.T) {
	dsn := pgtest.Shared(t)
	coretest.TestFaultyKeystore(t, func(t *testing.T) core.Keystore { return open(t, at(dsn, t.TempDir())) })
}

func Example() {
	// A call waits a few seconds for a server that is away, unless told otherwise.
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	// PGHOST, PGPASSFILE and so on count as well.
	store, err := postgres.Open(ctx, "postgres://conclave@127.0.0.1:1/conclave?sslmode=verify-full")
	if err != nil {
		fmt.Println("no server:", errors.Is(err, context.DeadlineExceeded))
		return
	}
	defer store.Close()
	// Output:
	// no server: true
}

// at is a store of its own for each name.
func at(dsn, name string) string {
	return fmt.Sprintf("%s&schema=s%x", dsn, sha256.Sum256([]byte(name)))[:len(dsn)+30]
}

// open opens a store until the end of the test.
func open(t testing.TB, dsn string) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// connect is a connection beside the store.
func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	dsn, _, _ = strings.Cut(dsn, "&schema=")
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func exec(t testing.TB, c *pgx.Conn, sql string) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// put puts a record, and returns its version.
func put(t testing.TB, s core.Keystore, key, value string) core.Version {
	t.Helper()
	p := core.Put{Table: 1, Key: []byte(key), Value: []byte(value), Version: core.NewVersion()}
	if err := s.Apply(t.Context(), core.Batch{Puts: []core.Put{p}}); err != nil {
		t.Fatalf("apply: %v", err)
	}
	return p.Version
}

// values reads what begins with a prefix.
func values(t testing.TB, s interface {
	Read(context.Context, []core.Query) ([][]core.Record, error)
}, prefix string) string {
	t.Helper()
	answers, err := s.Read(t.Context(), []core.Query{{Table: 1, Prefix: []byte(prefix)}})
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	var text []string
	for _, r := range answers[0] {
		text = append(text, string(r.Value))
	}
	return strings.Join(text, " ")
}

func schemaOf(dsn string) string { return dsn[strings.LastIndex(dsn, "=")+1:] }

// Stores in one database know nothing of one another, and any name will do.
func TestSchemas(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Shared(t)
	a, b, plain := open(t, at(dsn, "one")), open(t, dsn+"&schema=%22od%25d.%27n%C3%A4me"), open(t, dsn)
	put(t, a, "k", "of a")
	put(t, b, "k", "of b")
	if got := values(t, a, "k") + values(t, b, "k") + values(t, plain, "k"); got != "of aof b" {
		t.Errorf("got %q", got)
	}
	var n int
	if err := connect(t, dsn).QueryRow(t.Context(), `SELECT count(*) FROM "conclave".store`).Scan(&n); err != nil || n != 1 {
		t.Errorf("the default schema: %d, %v", n, err)
	}
}

// Several processes may make the schema at the same moment: the first does, and the
// others find it done.
func TestOpenTogether(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	dsn := at(shared, t.Name())
	admin := connect(t, strings.Replace(shared, "conclave@", "postgres@", 1))
	exec(t, admin, "BEGIN; LOCK TABLE pg_catalog.pg_namespace IN EXCLUSIVE MODE")
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			s, err := postgres.Open(t.Context(), dsn)
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			defer s.Close()
			put(t, s, fmt.Sprint(i), "x")
		})
	}
	time.Sleep(300 * time.Millisecond) // all of them have come as far as they can
	exec(t, admin, "COMMIT")
	wg.Wait()
	if got := values(t, open(t, dsn), ""); got != "x x x x x x" {
		t.Errorf("there is %q", got)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t)
	admin := connect(t, s.AdminDSN())
	exec(t, admin, "CREATE ROLE nobody LOGIN PASSWORD 'hunter2'; REVOKE CREATE ON DATABASE conclave FROM PUBLIC")
	newer := at(s.DSN(), "newer")
	put(t, open(t, newer), "k", "v")
	exec(t, admin, "UPDATE "+schemaOf(newer)+".store SET version = 2")
	broken := at(s.DSN(), "broken")
	put(t, open(t, broken), "k", "v")
	exec(t, admin, "ALTER TABLE "+schemaOf(broken)+".store DROP COLUMN timeline")
	host := fmt.Sprintf("127.0.0.1:%d/", s.Port)

	for name, c := range map[string]struct {
		dsn  string
		want error
	}{
		"newer":                        {newer, core.ErrUnsupported},
		"broken":                       {broken, core.ErrDamaged},
		"no password":                  {"postgres://conclave@" + host + "conclave?sslmode=disable", core.ErrDenied},
		"wrong password":               {"postgres://conclave:hunter2@" + host + "conclave?sslmode=disable", core.ErrDenied},
		"no role":                      {"postgres://somebody:hunter2@" + host + "conclave?sslmode=disable", core.ErrDenied},
		"no privilege":                 {"postgres://nobody:hunter2@" + host + "conclave?sslmode=disable", core.ErrDenied},
		"no database":                  {"postgres://conclave:secret@" + host + "nothing?sslmode=disable", core.ErrNotFound},
		"no database, TLS tried first": {"postgres://conclave:secret@" + host + "nothing", core.ErrNotFound},
		"no TLS":                       {"postgres://conclave:hunter2@" + host + "conclave?sslmode=require", core.ErrDenied},
		"nobody listens":               {"postgres://conclave:hunter2@127.0.0.1:1/conclave", core.ErrUnavailable},
		"no name":                      {"postgres://conclave:hunter2@127.0.0.1:port/conclave", core.ErrInvalid},
		"odd password":                 {"postgres://conclave:hunter2%@" + host + "conclave", core.ErrInvalid},
		"password outside":             {"postgres://" + host + "conclave?password=hunter2&sslmode=sometimes", core.ErrInvalid},
		"words":                        {"host=127.0.0.1 password=hunter2 sslmode=sometimes", core.ErrInvalid},
		"words apart":                  {"host=127.0.0.1 password = hunter2 sslmode=sometimes", core.ErrInvalid},
		"word with a space":            {"host=127.0.0.1 password=x\\ hunter2 sslmode=sometimes", core.ErrInvalid},
		"space in a word":              {"host=127.0.0.1 password=x hunter2", core.ErrInvalid},
		"odd port":                     {"postgres://conclave:12/hunter2@127.0.0.1/conclave?sslmode=sometimes", core.ErrInvalid},
		"long schema":                  {s.DSN() + "&schema=" + strings.Repeat("s", 64), core.ErrInvalid},
		"neither":                      {s.DSN() + "&lossless_failover=perhaps", core.ErrInvalid},
		"bad parameter":                {s.DSN() + "&statement_timeout=long", core.ErrInvalid},
		"no parameter":                 {s.DSN() + "&patience=long", core.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, err := postgres.Open(t.Context(), c.dsn)
			if err == nil {
				store.Close()
			}
			if !errors.Is(err, c.want) {
				t.Fatalf("got error %v, want %v", err, c.want)
			}
			var where *core.ProviderError
			if !errors.As(err, &where) || where.Provider != "postgres" || where.Op != "open" {
				t.Errorf("error %v does not say where it is from", err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the password is in %v", err)
			}
		})
	}
	// A server whose advisory locks are words: what shows them is empty.
	exec(t, admin, "CREATE SCHEMA pretends; GRANT USAGE ON SCHEMA pretends TO PUBLIC; CREATE VIEW pretends.pg_locks AS SELECT '' AS locktype, 0 AS pid WHERE false; GRANT SELECT ON pretends.pg_locks TO PUBLIC")
	refused(t, "no locks", s.DSN()+"&schema=locks&search_path=pretends,pg_catalog", core.ErrUnsupported)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := postgres.Open(ctx, s.DSN()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got error %v", err)
	}
}

// The role needs no more than this, once the schema is there.
func TestPrivileges(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t)
	put(t, open(t, s.DSN()), "k", "v")
	exec(t, connect(t, s.AdminDSN()), `CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA conclave TO reader;
		GRANT SELECT, INSERT, UPDATE, DELETE ON conclave.record TO reader; GRANT SELECT ON conclave.store TO reader;
		REVOKE ALL ON DATABASE conclave FROM PUBLIC; GRANT CONNECT ON DATABASE conclave TO reader`)
	store := open(t, strings.Replace(s.DSN(), "conclave@", "reader@", 1))
	put(t, store, "k", "w")
	if got := values(t, store, "k"); got != "w" {
		t.Errorf("got %q", got)
	}
	if w, err := store.Warnings(t.Context()); err != nil || len(w) > 0 {
		t.Errorf("warnings %q, %v", w, err)
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, "fsync = off", "full_page_writes = off", "synchronous_commit = off")
	for parameters, want := range map[string][]string{
		"":                          {"fsync is off", "full_page_writes is off"}, // and our commits are synchronous
		"&synchronous_commit=off":   {"synchronous_commit is off", "fsync", "full_page_writes"},
		"&synchronous_commit=local": {"fsync", "full_page_writes"},
		"&lossless_failover=true":   {"fsync", "full_page_writes", "lossless_failover is set"},
	} {
		got, err := open(t, s.DSN()+parameters).Warnings(t.Context())
		if err != nil || len(got) != len(want) {
			t.Errorf("%q: %q, %v", parameters, got, err)
			continue
		}
		for i := range want {
			if !strings.HasPrefix(got[i], want[i]) {
				t.Errorf("%q: got %q, want %q", parameters, got[i], want[i])
			}
		}
	}
}

// A snapshot stays as it was, whatever happens to the store.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	s, err := postgres.Open(t.Context(), at(pgtest.Shared(t), t.Name()))
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a", "1")
	put(t, s, "b", "1")
	shot, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "b", "2")
	if got := values(t, s, ""); got != "1 2" {
		t.Errorf("the store has %q", got)
	}
	if err := s.Close(); err != nil { // does not wait
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if got := values(t, shot, ""); got != "1 1" {
				t.Errorf("the snapshot has %q", got)
			}
		})
	}
	wg.Wait()
	for range 2 {
		if err := shot.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := shot.Read(t.Context(), nil); !errors.Is(err, core.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	if _, err := s.Snapshot(t.Context()); !errors.Is(err, core.ErrClosed) {
		t.Errorf("snapshot of a closed store: %v", err)
	}
}

// An answer that is too large is not read to its end.
func TestUnboundedAnswer(t *testing.T) {
	t.Parallel()
	dsn := at(pgtest.Shared(t), t.Name())
	s := open(t, dsn+"&pool_max_conns=1")
	// 66 records of a megabyte come at once, the others take ten seconds.
	exec(t, connect(t, dsn), "SET search_path = "+schemaOf(dsn)+`; ALTER TABLE record ALTER COLUMN value SET STORAGE EXTENDED;
		INSERT INTO record SELECT 1, int4send(n), gen_random_uuid(), decode(repeat('ab', 1048576), 'hex') FROM generate_series(1, 166) n;
		ALTER TABLE record RENAME TO stored;
		CREATE VIEW record AS SELECT * FROM stored WHERE pg_sleep(CASE WHEN key > int4send(66) THEN 0.1 ELSE 0 END) IS NOT NULL`)
	start := time.Now()
	if _, err := s.Read(t.Context(), []core.Query{{Table: 1}}); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("got error %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if _, err := s.Read(t.Context(), []core.Query{{Table: 1, Limit: 1}}); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

// A snapshot still stands after an answer that is too large, and after a call that was
// cancelled: whoever copies a store asks again for less.
func TestSnapshotAfterFailure(t *testing.T) {
	t.Parallel()
	dsn := at(pgtest.Shared(t), t.Name())
	s := open(t, dsn)
	exec(t, connect(t, dsn), "INSERT INTO "+schemaOf(dsn)+`.record
		SELECT 1, int4send(n), gen_random_uuid(), decode(repeat('ab', 1048576), 'hex') FROM generate_series(1, 66) n`)
	shot, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer shot.Close()
	if err := s.Apply(t.Context(), core.Batch{Dels: []core.Range{{Table: 1}}}); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	for _, ctx := range []context.Context{t.Context(), cancelled, t.Context()} {
		if _, err := shot.Read(ctx, []core.Query{{Table: 1}}); !errors.Is(err, core.ErrTooLarge) && !errors.Is(err, context.Canceled) {
			t.Errorf("all: got error %v", err)
		}
		answers, err := shot.Read(t.Context(), []core.Query{{Table: 1, Limit: 32}, {Table: 1, KeysOnly: true}})
		if err != nil || len(answers[0]) != 32 || len(answers[1]) != 66 {
			t.Fatalf("less: %v, %v", err, answers)
		}
	}
}
