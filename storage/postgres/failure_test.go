// SPDX-License-Identifier: Apache-2.0

package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/postgres/pgtest"
)

// fails has the server fail what is put under the key "bad", with this code, the first
// n times.
func fails(t *testing.T, dsn, code string, n int) {
	t.Helper()
	exec(t, connect(t, dsn), "SET search_path = "+schemaOf(dsn)+fmt.Sprintf(`; CREATE SEQUENCE failures;
		CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF new.key = 'bad' AND nextval('%s.failures') <= %d THEN RAISE EXCEPTION 'so it is' USING ERRCODE = '%s'; END IF; RETURN new;
		END $$;
		CREATE TRIGGER fail BEFORE INSERT ON record FOR EACH ROW EXECUTE FUNCTION fail()`, schemaOf(dsn), n, code))
}

func bad() core.Batch {
	return core.Batch{Puts: []core.Put{
		{Table: 1, Key: []byte("good"), Version: core.NewVersion()}, {Table: 1, Key: []byte("bad"), Version: core.NewVersion()}}}
}

// What the server answers tells the caller what to do; nothing has happened.
func TestServerErrors(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Shared(t)
	for code, want := range map[string]error{
		"40001": core.ErrUnavailable, // again and again
		"40P01": core.ErrUnavailable,
		"53100": core.ErrUnavailable, // disk full
		"53200": core.ErrUnavailable,
		"57014": core.ErrUnavailable, // statement_timeout
		"55P03": core.ErrUnavailable, // lock_timeout
		"25006": core.ErrUnavailable, // read only
		"42501": core.ErrDenied,
		"XX001": core.ErrDamaged,
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			dsn := at(dsn, t.Name())
			s := open(t, dsn)
			fails(t, dsn, code, 100)
			err := s.Apply(t.Context(), bad())
			if !errors.Is(err, want) || errors.Is(err, core.ErrUnknownOutcome) || errors.Is(err, core.ErrConflict) {
				t.Errorf("got error %v, want %v", err, want)
			}
			put(t, s, "other", "fine") // the connection is of use, or another is
			if got := values(t, s, ""); got != "fine" {
				t.Errorf("got %q", got)
			}
		})
	}
}

// A batch that the server gave up for another's sake is tried again.
func TestSerialisationFailures(t *testing.T) {
	t.Parallel()
	dsn := at(pgtest.Shared(t), t.Name())
	s := open(t, dsn)
	fails(t, dsn, "40001", 2)
	if err := s.Apply(t.Context(), bad()); err != nil {
		t.Error(err)
	}
}

// A lock is waited for as long as the data source name, or the context, allows. In
// neither case has anything happened.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	dsn := at(pgtest.Shared(t), t.Name())
	s := open(t, dsn)
	put(t, s, "a", "before")
	other := connect(t, dsn)
	exec(t, other, "BEGIN; LOCK TABLE "+schemaOf(dsn)+".record IN ACCESS EXCLUSIVE MODE")
	for _, parameter := range []string{"lock_timeout", "statement_timeout"} {
		impatient := open(t, dsn+"&"+parameter+"=200")
		b := core.Batch{Puts: []core.Put{{Table: 1, Key: []byte("a"), Version: core.NewVersion()}}}
		if err := impatient.Apply(t.Context(), b); !errors.Is(err, core.ErrUnavailable) || errors.Is(err, core.ErrUnknownOutcome) {
			t.Errorf("%s: got error %v", parameter, err)
		}
		if _, err := impatient.Read(t.Context(), []core.Query{{Table: 1}, {Table: 2}}); !errors.Is(err, core.ErrUnavailable) {
			t.Errorf("%s: got error %v", parameter, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := s.Apply(ctx, core.Batch{Puts: []core.Put{{Table: 1, Key: []byte("a"), Version: core.NewVersion()}}})
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, core.ErrUnknownOutcome) || time.Since(start) > 5*time.Second {
		t.Errorf("got error %v after %v", err, time.Since(start))
	}
	exec(t, other, "COMMIT")
	if got := values(t, s, ""); got != "before" {
		t.Errorf("got %q", got)
	}
}

// A proxy is what stands between a store and its server.
type proxy struct {
	net.Listener
	to string

	mute    atomic.Bool // keeps the server's answers back
	refuse  atomic.Bool // accepts nobody
	pending sync.WaitGroup
	mu      sync.Mutex
	open    []net.Conn
}

func startProxy(t *testing.T, s *pgtest.Server) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, to: fmt.Sprintf("127.0.0.1:%d", s.Port)}
	p.pending.Go(p.serve)
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		p.pending.Wait()
	})
	return p
}

func (p *proxy) serve() {
	for {
		c, err := p.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.to)
		if err != nil || p.refuse.Load() {
			_ = c.Close()
			continue
		}
		p.mu.Lock()
		p.open = append(p.open, c, server)
		p.mu.Unlock()
		p.pending.Go(func() { _, _ = io.Copy(server, c) })
		p.pending.Go(func() {
			defer c.Close()
			buffer := make([]byte, 1<<16)
			for {
				n, err := server.Read(buffer)
				if err != nil {
					return
				}
				if !p.mute.Load() {
					_, _ = c.Write(buffer[:n])
				}
			}
		})
	}
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		_ = c.Close()
	}
	p.open = nil
}

func (p *proxy) dsn() string {
	return fmt.Sprintf("postgres://conclave:secret@%s/conclave?sslmode=disable", p.Addr())
}

// A connection that breaks in the middle of Apply leaves it open what has happened, and
// never lies about it.
func TestLostConnection(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	p := startProxy(t, server)
	s, direct := open(t, p.dsn()), open(t, server.DSN())
	put(t, s, "a", "1")

	p.mute.Store(true)
	after := core.Put{Table: 1, Key: []byte("a"), Value: []byte("2"), Version: core.NewVersion()}
	result := make(chan error)
	go func() { result <- s.Apply(t.Context(), core.Batch{Puts: []core.Put{after}}) }()
	for end := time.Now().Add(10 * time.Second); values(t, direct, "a") != "2" && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	p.cut()
	if err := <-result; !errors.Is(err, core.ErrUnknownOutcome) {
		t.Errorf("the answer was lost: got error %v", err)
	}
	p.mute.Store(false)
	if got := values(t, s, ""); got != "2" {
		t.Errorf("then there is %q", got)
	}

	// Reads are repeated on another connection.
	for range 3 {
		p.cut()
		if got := values(t, s, ""); got != "2" {
			t.Errorf("then there is %q", got)
		}
	}

	// Where nothing could be sent, nothing has happened.
	p.refuse.Store(true)
	p.cut()
	soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	_, _ = s.Read(soon, []core.Query{{Table: 1}}) // finds it out
	cancel()
	start := time.Now()
	err := s.Apply(t.Context(), core.Batch{Puts: []core.Put{after}})
	if !errors.Is(err, core.ErrUnavailable) || errors.Is(err, core.ErrUnknownOutcome) {
		t.Errorf("nobody listens: got error %v", err)
	}
	if took := time.Since(start); took < time.Second || took > 10*time.Second {
		t.Errorf("it was tried for %v", took)
	}
	p.refuse.Store(false)
	put(t, s, "a", "3")
}

// A server that is restarted is back for the next call: many connections were broken,
// and no call fails for it.
func TestRestart(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	s := open(t, server.TCP("sslmode=disable&pool_max_conns=8")) // where what is sent to a dead server is not refused at once
	use := func(what string) (failed int) {
		t.Helper()
		var wg sync.WaitGroup
		var mu sync.Mutex
		for i := range 8 {
			wg.Go(func() {
				err := s.Apply(t.Context(), core.Batch{Puts: []core.Put{{Table: 1, Key: fmt.Append(nil, i), Version: core.NewVersion()}}})
				if err != nil {
					mu.Lock()
					failed++
					mu.Unlock()
					if !errors.Is(err, core.ErrUnknownOutcome) {
						t.Errorf("%s: %v", what, err)
					}
				}
				if _, err := s.Read(t.Context(), []core.Query{{Table: 1}}); err != nil {
					t.Errorf("%s: read: %v", what, err)
				}
			})
		}
		wg.Wait()
		return failed
	}
	use("before")
	server.Restart(t)
	if n := use("restarted"); n != 0 {
		t.Errorf("after the server was restarted %d calls failed", n)
	}
	if n := use("restarted, again"); n != 0 {
		t.Errorf("then %d calls failed", n)
	}
	// At once, while nobody has looked whether connections still live.
	exec(t, connect(t, server.AdminDSN()), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'conclave'")
	if n := use("terminated"); n != 0 {
		t.Errorf("after connections were ended %d calls failed", n)
	}
	server.Kill(t)
	server.Run(t)
	use("killed") // nobody said goodbye: each connection may have lost a call
	if n := use("killed, again"); n != 0 {
		t.Errorf("after the server was killed %d calls failed", n)
	}

	// While it is away, a call waits for it.
	server.Stop(t)
	result := make(chan error)
	go func() {
		_, err := s.Read(t.Context(), []core.Query{{Table: 1}})
		result <- err
	}()
	time.Sleep(300 * time.Millisecond)
	server.Run(t)
	if err := <-result; err != nil {
		t.Errorf("a call while the server was away: %v", err)
	}
}

// What a batch did is durable if it says so, also when the server is killed.
func TestKilledServer(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	s := open(t, server.DSN())
	for round := range 3 {
		var wg sync.WaitGroup
		sure := make([]atomic.Int64, 4)
		stop := make(chan struct{})
		for who := range sure {
			wg.Go(func() {
				for n := 1; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					err := s.Apply(t.Context(), core.Batch{Puts: []core.Put{
						{Table: 1, Key: fmt.Appendf(nil, "%d.a", who), Value: fmt.Append(nil, n), Version: core.NewVersion()},
						{Table: 1, Key: fmt.Appendf(nil, "%d.b", who), Value: fmt.Append(nil, n), Version: core.NewVersion()},
					}})
					if err != nil {
						if !errors.Is(err, core.ErrUnknownOutcome) && !errors.Is(err, core.ErrUnavailable) {
							t.Errorf("apply: %v", err)
						}
						return
					}
					sure[who].Store(int64(n))
				}
			})
		}
		for who := range sure { // all are at it
			for end := time.Now().Add(10 * time.Second); sure[who].Load() < 5 && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
		}
		server.Kill(t)
		close(stop)
		server.Run(t)
		wg.Wait()
		for who := range sure {
			n := sure[who].Load()
			now := values(t, s, fmt.Sprint(who))
			if now != fmt.Sprint(n, " ", n) && now != fmt.Sprint(n+1, " ", n+1) {
				t.Errorf("round %d: %d batches were acknowledged, and the store has %q", round, n, now)
			}
		}
	}
}

// The server commits before it waits for its standbys. If it gives up waiting, the
// batch is there, and may be lost with the server: that is for the caller to know.
func TestSynchronousReplication(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	s := open(t, server.DSN()+"&pool_max_conns=1&client_min_messages=error")
	put(t, s, "a", "1")
	exec(t, connect(t, server.AdminDSN()), "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
	exec(t, connect(t, server.AdminDSN()), "SELECT pg_reload_conf()")
	time.Sleep(200 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	b := core.Batch{Puts: []core.Put{{Table: 1, Key: []byte("a"), Value: []byte("2"), Version: core.NewVersion()}}}
	err := s.Apply(ctx, b)
	if !errors.Is(err, core.ErrUnknownOutcome) || !strings.Contains(err.Error(), "replicat") {
		t.Errorf("got error %v", err)
	}
	exec(t, connect(t, server.AdminDSN()), "ALTER SYSTEM RESET synchronous_standby_names")
	exec(t, connect(t, server.AdminDSN()), "SELECT pg_reload_conf()")
	time.Sleep(200 * time.Millisecond)
	if got := values(t, s, ""); got != "2" {
		t.Errorf("got %q", got)
	}
	put(t, s, "a", "3") // and the warning is forgotten
}
