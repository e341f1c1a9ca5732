// SPDX-License-Identifier: Apache-2.0

package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/postgres"
	"github.com/conclave-mls/conclave/storage/postgres/pgtest"
)

// long is a key of more than a scope: all that begin with the same word are in one.
func long(scope, key string) []byte { return []byte((scope + strings.Repeat(".", 16))[:16] + key) }

func absent(key []byte) core.Expectation { return core.Expectation{Table: 1, Key: key} }
func record(key []byte) core.Put {
	return core.Put{Table: 1, Key: key, Value: []byte("x"), Version: core.NewVersion()}
}

// many are more records of a scope than a batch may have locks.
func many(scope string, n int) (puts []core.Put) {
	for i := range n {
		puts = append(puts, record(long(scope, fmt.Sprintf("many %04d", i))))
	}
	return puts
}

// Pairs of batches of which only one can have come first, at every level of locks: if
// both succeed, what is left is what one after the other leaves.
func TestOneAfterTheOther(t *testing.T) {
	t.Parallel()
	dsn := at(pgtest.Shared(t), t.Name())
	// Whatever transactions are by default, for instance because of the role.
	odd := dsn + "&default_transaction_isolation=repeatable%20read&default_transaction_read_only=on"
	one, two := open(t, odd), open(t, odd)
	put(t, two, "warm", "")

	// skew: each expects absent what the other puts, and puts nothing there itself.
	skew := func(x, y []byte, more []core.Put) [2]core.Batch {
		return [2]core.Batch{
			{Expect: []core.Expectation{absent(y)}, Puts: append(more, record(x))},
			{Expect: []core.Expectation{absent(x)}, Puts: []core.Put{record(y)}},
		}
	}
	// ranges: each deletes the range into which the other puts.
	ranges := func(x, y, prefixX, prefixY []byte, more []core.Put) [2]core.Batch {
		return [2]core.Batch{
			{Dels: []core.Range{{Table: 1, Prefix: prefixX}}, Puts: append(more, record(y))},
			{Dels: []core.Range{{Table: 1, Prefix: prefixY}}, Puts: []core.Put{record(x)}},
		}
	}
	for name, pair := range map[string]func(round string) [2]core.Batch{
		"keys": func(r string) [2]core.Batch { return skew(long("a"+r, "x"), long("b"+r, "y"), nil) },
		"keys of one scope, one batch large": func(r string) [2]core.Batch {
			return skew(long("c"+r, "x"), long("c"+r, "y"), many("c"+r, 100))
		},
		"short keys, one batch in many scopes": func(r string) [2]core.Batch {
			var more []core.Put
			for i := range 70 {
				more = append(more, record(long(fmt.Sprint("d", r, ".", i), "")))
			}
			return skew([]byte("x"+r), []byte("y"+r), more)
		},
		"ranges in scopes": func(r string) [2]core.Batch {
			return ranges(long("e"+r, "x"), long("f"+r, "y"), long("e"+r, ""), long("f"+r, ""), nil)
		},
		"short ranges": func(r string) [2]core.Batch {
			return ranges([]byte("gx"+r+"."), []byte("gy"+r+"."), []byte("gx"+r), []byte("gy"+r), nil)
		},
		"ranges, one batch large": func(r string) [2]core.Batch {
			return ranges(long("h"+r, "x"), long("i"+r, "y"), long("h"+r, ""), long("i"+r, ""), many("i"+r, 100))
		},
	} {
		t.Run(name, func(t *testing.T) {
			for round := range 30 {
				b := pair(fmt.Sprintf("%02d", round))
				var errs [2]error
				var wg sync.WaitGroup
				begin := make(chan struct{})
				for i, s := range []*postgres.Store{one, two} {
					wg.Go(func() {
						<-begin
						errs[i] = s.Apply(t.Context(), b[i])
					})
				}
				close(begin)
				wg.Wait()
				for _, err := range errs {
					if err != nil && !errors.Is(err, core.ErrConflict) {
						t.Fatalf("apply: %v", err)
					}
				}
				last := func(b core.Batch) string { return string(b.Puts[len(b.Puts)-1].Key) }
				left := values(t, one, last(b[0])) + values(t, one, last(b[1]))
				if left != "x" {
					t.Fatalf("round %d: %q is left of the two, errors %v", round, left, errs)
				}
			}
		})
	}
}

// A batch does not wait for one that it has nothing to do with, and waits for others.
func TestWaiting(t *testing.T) {
	t.Parallel()
	dsn := at(pgtest.Shared(t), t.Name())
	s := open(t, dsn)
	if err := s.Apply(t.Context(), core.Batch{Puts: []core.Put{record(long("a", "1"))}}); err != nil {
		t.Fatal(err)
	}
	// A batch that deletes the range b* and puts a/1 is stopped in the middle: by a lock
	// on the row a/1, of which it has the advisory locks already.
	other := connect(t, dsn)
	exec(t, other, "BEGIN; SELECT FROM "+schemaOf(dsn)+".record FOR UPDATE")
	done := make(chan error)
	go func() {
		done <- s.Apply(t.Context(), core.Batch{
			Expect: []core.Expectation{absent(long("c", "expected"))},
			Dels:   []core.Range{{Table: 1, Prefix: long("b", "")}},
			Puts:   []core.Put{record(long("a", "1"))},
		})
	}()
	for n, end := 0, time.Now().Add(10*time.Second); n == 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		err := connect(t, dsn).QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%"+schemaOf(dsn)+"%'").Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		b     core.Batch
		waits bool
	}{
		{"another key of the scope", core.Batch{Puts: []core.Put{record(long("a", "2"))}}, false},
		{"another scope", core.Batch{Puts: []core.Put{record(long("d", "1"))}}, false},
		{"a short key", core.Batch{Puts: []core.Put{record([]byte("short"))}}, false},
		{"the same scope of another table", core.Batch{Dels: []core.Range{{Table: 2, Prefix: long("a", "")}}}, false},
		{"what it expects", core.Batch{Expect: []core.Expectation{absent(long("c", "expected"))}}, false},
		{"a large batch elsewhere in the scope", core.Batch{Expect: []core.Expectation{absent(long("d", "3"))}, Puts: many("e", 100)}, false},
		{"the key", core.Batch{Puts: []core.Put{record(long("a", "1"))}}, true},
		{"the key, expected", core.Batch{Expect: []core.Expectation{absent(long("a", "1"))}}, true},
		{"a put where it expects nothing", core.Batch{Puts: []core.Put{record(long("c", "expected"))}}, true},
		{"a put into its range", core.Batch{Puts: []core.Put{record(long("b", "1"))}}, true},
		{"a range with its key", core.Batch{Dels: []core.Range{{Table: 1, Prefix: long("a", "")}}}, true},
		{"a range with what it expects", core.Batch{Dels: []core.Range{{Table: 1, Prefix: long("c", "expected")}}}, true},
		{"a range of all", core.Batch{Dels: []core.Range{{Table: 2}}}, true},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if !c.waits {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
		}
		err := s.Apply(ctx, c.b)
		cancel()
		if c.waits != errors.Is(err, context.DeadlineExceeded) || !c.waits && err != nil {
			t.Errorf("%s: got error %v, waits should be %v", c.name, err, c.waits)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := open(t, at(pgtest.Shared(t), "beside")).Apply(ctx, core.Batch{Puts: []core.Put{record(long("a", "1"))}}); err != nil {
		t.Errorf("another store: %v", err)
	}
	exec(t, other, "COMMIT")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What a large batch expects stays so until it is done, and it keeps nobody from what it
// only expects: core/seal has every batch expect one record, which a rotation replaces.
func TestWaitingForLarge(t *testing.T) {
	t.Parallel()
	for name, large := range map[string]core.Batch{
		"puts":         {Expect: []core.Expectation{absent([]byte("expected, and alone."))}, Puts: many("a", 100)},
		"expectations": {Expect: []core.Expectation{absent([]byte("expected, and alone."))}, Puts: many("a", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "expectations" {
				for i := range 100 {
					large.Expect = append(large.Expect, absent(long("b", fmt.Sprint(i))))
				}
			}
			dsn := at(pgtest.Shared(t), t.Name())
			s := open(t, dsn)
			row := large.Puts[0]
			if err := s.Apply(t.Context(), core.Batch{Puts: []core.Put{row}}); err != nil {
				t.Fatal(err)
			}
			other := connect(t, dsn)
			exec(t, other, "BEGIN; SELECT FROM "+schemaOf(dsn)+".record FOR UPDATE")
			done := make(chan error)
			go func() { done <- s.Apply(t.Context(), large) }()
			for n, end := 0, time.Now().Add(10*time.Second); n == 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				err := connect(t, dsn).QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%"+schemaOf(dsn)+"%'").Scan(&n)
				if err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if err := s.Apply(ctx, core.Batch{Puts: []core.Put{record([]byte("expected, and alone."))}}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a put of what it expects absent: got error %v", err)
			}
			if name == "puts" {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if err := s.Apply(ctx, core.Batch{Expect: []core.Expectation{absent([]byte("expected, and alone."))}, Puts: []core.Put{record(long("c", ""))}}); err != nil {
					t.Errorf("another batch that expects the same: %v", err)
				}
			}
			exec(t, other, "COMMIT")
			if err := <-done; err != nil {
				t.Errorf("the large batch: %v", err)
			}
		})
	}
}
