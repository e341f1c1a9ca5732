// SPDX-License-Identifier: Apache-2.0

package postgres_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/postgres"
	"github.com/conclave-mls/conclave/storage/postgres/pgtest"
)

func incarnation(t *testing.T, s *postgres.Store) core.Version {
	t.Helper()
	answers, err := s.Read(t.Context(), []core.Query{core.IncarnationQuery()})
	if err != nil {
		t.Fatal(err)
	}
	if len(answers[0]) == 0 {
		return core.Version{}
	}
	return answers[0][0].Version
}

func refused(t *testing.T, what, dsn string, want error) {
	t.Helper()
	s, err := postgres.Open(t.Context(), dsn)
	if err == nil {
		s.Close()
	}
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

// A standby that becomes primary may lack commits: nobody goes on as if nothing had
// happened, but who says that it cannot lack any.
func TestFailover(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t)
	put(t, open(t, primary.DSN()), "a", "1")
	lossless := primary.DSN() + "&schema=lossless"
	put(t, open(t, lossless), "a", "1")
	standby := primary.Standby(t)
	refused(t, "a standby", standby.DSN(), core.ErrUnavailable)

	// One name for both, the standby first.
	both := fmt.Sprintf("postgres://conclave@/conclave?host=%s,%s&port=%d,%d", standby.Folder, primary.Folder, standby.Port, primary.Port)
	before, unlucky := open(t, both), open(t, both+"&lossless_failover=true&schema=lossless")
	for _, s := range []*postgres.Store{before, unlucky} {
		if got := values(t, s, ""); got != "1" {
			t.Errorf("through two hosts: got %q", got)
		}
	}
	primary.Stop(t)
	standby.Promote(t)

	if _, err := before.Read(t.Context(), []core.Query{{Table: 1}}); !errors.Is(err, core.ErrRolledBack) || !strings.Contains(err.Error(), "timeline 2") {
		t.Errorf("a store that was open: got error %v", err)
	}
	refused(t, "the new primary", standby.DSN(), core.ErrRolledBack)
	recovered, err := postgres.OpenRolledBack(t.Context(), standby.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer recovered.Close()
	first := incarnation(t, recovered)
	if got := values(t, recovered, ""); got != "1" || first == (core.Version{}) {
		t.Errorf("recovered: %q, incarnation %x", got, first)
	}
	if again := open(t, standby.DSN()); incarnation(t, again) != first {
		t.Error("Open made another incarnation")
	}
	if err := before.Apply(t.Context(), core.Batch{}); !errors.Is(err, core.ErrRolledBack) {
		t.Errorf("a store that was open before somebody recovered: got error %v", err)
	}

	// Where commits wait for the standby, a failover is none of our business.
	put(t, unlucky, "a", "2")
	if s := open(t, strings.Replace(lossless, primary.DSN(), standby.DSN(), 1)); values(t, s, "") != "2" || incarnation(t, s) != (core.Version{}) {
		t.Error("after a lossless failover")
	}
	// But the old primary that comes back is from the past.
	standby.Stop(t)
	primary.Run(t)
	if _, err := unlucky.Read(t.Context(), []core.Query{{Table: 1}}); !errors.Is(err, core.ErrRolledBack) {
		t.Errorf("the old primary: got error %v", err)
	}
}

// A dump that is restored elsewhere is an older state, whatever is said of failovers.
func TestRestoredDump(t *testing.T) {
	t.Parallel()
	a, b := pgtest.Start(t), pgtest.Start(t)
	put(t, open(t, a.DSN()), "a", "1")
	file := filepath.Join(a.Folder, "dump")
	in := func(s *pgtest.Server) []string {
		return []string{"-h", s.Folder, "-p", fmt.Sprint(s.Port), "-U", "conclave", "-d", "conclave", "-f", file}
	}
	a.Tool(t, "pg_dump", in(a)...)
	b.Tool(t, "psql", append(in(b), "-v", "ON_ERROR_STOP=1")...)
	refused(t, "a restored dump", b.DSN(), core.ErrRolledBack)
	exec(t, connect(t, b.AdminDSN()), "UPDATE conclave.store SET timeline = 0")
	refused(t, "a restored dump, of an earlier timeline", b.DSN()+"&lossless_failover=true", core.ErrRolledBack)
	refused(t, "an empty schema beside it", b.DSN()+"&schema=other", nil)
	s, err := postgres.OpenRolledBack(t.Context(), b.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := values(t, open(t, b.DSN()), ""); got != "1" {
		t.Errorf("got %q", got)
	}
	// It may be told of an accident that the server cannot know.
	first := incarnation(t, s)
	again, err := postgres.OpenRolledBack(t.Context(), b.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if incarnation(t, again) == first {
		t.Error("OpenRolledBack did not put a new incarnation")
	}
}

// A dump that is loaded where it was made, and a copy of a database that takes its name,
// are older states too.
func TestRestoredHere(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t)
	dsn := s.DSN() + "&lossless_failover=true"
	first, err := postgres.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	put(t, first, "a", "1")
	in := []string{"-h", s.Folder, "-p", fmt.Sprint(s.Port), "-U", "conclave", "-d", "conclave", "-f", filepath.Join(s.Folder, "dump")}
	s.Tool(t, "pg_dump", in...)
	put(t, first, "a", "2")
	first.Close()
	refused(t, "the store itself", dsn, nil)
	admin := func(database, sql string) {
		t.Helper()
		c, err := pgx.Connect(t.Context(), strings.Replace(s.AdminDSN(), "/conclave?", "/"+database+"?", 1))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	admin("conclave", "DROP SCHEMA conclave CASCADE")
	s.Tool(t, "psql", append(in, "-v", "ON_ERROR_STOP=1")...)
	refused(t, "a restored dump", dsn, core.ErrRolledBack)
	hold := connect(t, s.DSN())
	exec(t, hold, "BEGIN; LOCK conclave.record IN EXCLUSIVE MODE")
	var wg sync.WaitGroup
	var seen [4]core.Version
	for i := range seen {
		wg.Go(func() {
			again, err := postgres.OpenRolledBack(t.Context(), dsn)
			if err != nil {
				t.Error(err)
				return
			}
			defer again.Close()
			seen[i] = incarnation(t, again)
		})
	}
	time.Sleep(300 * time.Millisecond) // until all of them know of the accident
	exec(t, hold, "COMMIT")
	hold.Close(t.Context())
	wg.Wait()
	if seen[0] == (core.Version{}) || seen[1] != seen[0] || seen[2] != seen[0] || seen[3] != seen[0] {
		t.Errorf("one accident is several incarnations: %x", seen)
	}
	refused(t, "once accepted", dsn, nil)
	admin("postgres", "CREATE DATABASE other TEMPLATE conclave")
	admin("postgres", "ALTER DATABASE conclave RENAME TO old")
	admin("postgres", "ALTER DATABASE other RENAME TO conclave")
	refused(t, "a copy of the database", dsn, core.ErrRolledBack)
}
