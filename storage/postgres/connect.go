// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/conclave-mls/conclave/core"
)

const (
	// patience is how long a call waits for a server that cannot be reached.
	patience = 5 * time.Second
	// attempts is how often a call is tried that was broken off without effect.
	attempts = 4
	// cancelling is how long the server may take to answer when a call is cancelled.
	cancelling = 2 * time.Second
)

// settings are run-time parameters, where the data source name does not say otherwise.
var settings = map[string]string{
	"application_name":                    "conclave",
	"statement_timeout":                   "60s",
	"lock_timeout":                        "20s",
	"idle_in_transaction_session_timeout": "60s",
	// Statements are simple, their arguments are not known beforehand, and a table
	// that was empty when a plan was made may have grown.
	"plan_cache_mode": "force_generic_plan",
	"enable_seqscan":  "off",
	"jit":             "off",
}

// musts are run-time parameters that Apply relies on.
var musts = map[string]string{
	"default_transaction_isolation": "read committed", // each statement sees the newest state
	"default_transaction_read_only": "off",
	"client_min_messages":           "warning", // one says that a commit may be lost yet
}

// connect makes the pool and its first connection.
func (s *Store) connect(ctx context.Context, dsn string) error {
	config, err := s.configure(dsn)
	if err != nil {
		return err
	}
	// The context is of the pool's first connections only.
	if s.pool, err = pgxpool.NewWithConfig(context.WithoutCancel(ctx), config); err != nil {
		return err
	}
	c, err := s.acquire(ctx)
	if err != nil {
		s.pool.Close()
		return err
	}
	c.Release()
	return nil
}

func (s *Store) configure(dsn string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("%w: data source name: %s", core.ErrInvalid, reason(err))
	}
	cc := config.ConnConfig
	own := func(name string) string {
		value := cc.RuntimeParams[name]
		delete(cc.RuntimeParams, name)
		return value
	}
	if s.schema = own("schema"); s.schema == "" {
		s.schema = "conclave"
	}
	if len(s.schema) > 63 {
		return nil, fmt.Errorf("schema %q is longer than 63 bytes: %w", s.schema, core.ErrInvalid)
	}
	if text := own("lossless_failover"); text != "" {
		if s.lossless, err = strconv.ParseBool(text); err != nil {
			return nil, fmt.Errorf("lossless_failover=%q, it is true or false: %w", text, core.ErrInvalid)
		}
	}
	// An acknowledged commit is durable, unless this data source name says otherwise.
	_, said := cc.RuntimeParams["synchronous_commit"]
	s.sql = statementsOf(s.schema, !said)
	s.locks = lockSpaceOf(s.schema)
	for name, value := range settings {
		if _, said := cc.RuntimeParams[name]; !said {
			cc.RuntimeParams[name] = value
		}
	}
	for name, value := range musts {
		cc.RuntimeParams[name] = value
	}
	cc.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	if cc.ValidateConnect == nil {
		cc.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	if cc.ConnectTimeout == 0 {
		cc.ConnectTimeout = 10 * time.Second
	}
	// A server that vanished is noticed within half a minute.
	alive := net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
	cc.DialFunc = (&net.Dialer{KeepAliveConfig: alive}).DialContext
	// A call that is cancelled asks the server to stop, and hears whether it did.
	cc.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: cancelling}
	}
	cc.OnNotice = func(c *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			c.CustomData()[warned] = n.Message
		}
	}
	config.AfterConnect = s.connected
	return config, nil
}

// reason is what is wrong with a data source name, without the name: where that is
// broken, nobody can say for sure which part of it is the password.
func reason(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		text = text[i+len("`: "):]
	}
	if strings.HasPrefix(text, "failed to parse as") { // and what it stumbled over
		text, _, _ = strings.Cut(text, " (")
	}
	return text
}

// warned is where a connection keeps the last warning of the server.
const warned = "warned"

// acquire takes a connection of the pool. If the server cannot be reached, it tries
// again for a while, less and less often.
func (s *Store) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	end := time.Now().Add(patience)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if s.closed.Load() {
			return nil, core.ErrClosed
		}
		c, err := s.pool.Acquire(ctx)
		if err == nil {
			return c, nil
		}
		if s.closed.Load() {
			return nil, core.ErrClosed
		}
		if ctx.Err() != nil || sentinel(err) != core.ErrUnavailable || time.Now().Add(wait).After(end) {
			return nil, err
		}
		// Not all at once, when the server is back.
		if err := sleep(ctx, wait/2+rand.N(wait)); err != nil {
			return nil, err
		}
	}
}

// again runs f on a connection, and once more on another as long as f says that nothing
// has happened and that it may go better. Connections of a server that has ended are
// found out one by one, when they are used: the first takes the others with it.
func (s *Store) again(ctx context.Context, f func(*pgx.Conn) (retry bool, err error)) error {
	for n := 1; ; n++ {
		c, err := s.acquire(ctx)
		if err != nil {
			return err
		}
		retry, err := f(c.Conn())
		if lost(err) && ctx.Err() == nil {
			s.pool.Reset()
		}
		c.Release()
		if !retry || n == attempts || ctx.Err() != nil {
			return err
		}
		if err := sleep(ctx, rand.N(time.Duration(n)*10*time.Millisecond)); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
