// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// keystoreBigBatches has batches that do not fit into one message or page. All records of one
// have the same version, so that a reader need not read them.
func keystoreBigBatches(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	const records, batches = 6, 6
	value := bytes.Repeat([]byte("big "), 225_000)
	write := func() error {
		b := core.Batch{}
		for i := range records {
			p := put(1, fmt.Sprint(i), "")
			p.Value = value
			if i > 0 {
				p.Version = b.Puts[0].Version
			}
			b.Puts = append(b.Puts, p)
		}
		return k.store.Apply(t.Context(), b)
	}
	if err := write(); err != nil {
		t.Fatalf("apply: %v", err)
	}
	var done atomic.Bool
	var reader sync.WaitGroup
	reader.Go(func() {
		defer caught(t)
		for !done.Load() {
			answers, err := k.store.Read(t.Context(), []core.Query{{Table: 1, KeysOnly: true}})
			if err != nil {
				t.Errorf("read: %v", err)
				return
			}
			for _, r := range answers[0] {
				if len(answers[0]) != records || r.Version != answers[0][0].Version {
					t.Errorf("a reader saw parts of two batches, or %d records, want the %d of one batch", len(answers[0]), records)
					return
				}
			}
			runtime.Gosched()
		}
	})
	for range batches {
		if err := write(); err != nil {
			t.Errorf("apply: %v", err)
			break
		}
	}
	done.Store(true)
	reader.Wait()
}

// keystoreSnapshots has readers compare records that one writer always changes
// together, over two tables and several queries.
func keystoreSnapshots(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	write := func(n int) error {
		value := fmt.Sprint(n)
		// The record with the changing key is replaced by delete and put.
		return k.store.Apply(t.Context(), core.Batch{
			Dels: []core.Range{del(1, "m")},
			Puts: []core.Put{put(1, "a", value), put(1, "m"+value, value), put(1, "z", value), put(2, "a", value), put(2, "z", value)},
		})
	}
	if err := write(0); err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			defer caught(t)
			for !done.Load() {
				answers, err := k.store.Read(t.Context(), []core.Query{query(1, "a"), query(2, "a"), query(1, "m"), query(2, "z"), query(1, "")})
				if err != nil {
					t.Errorf("read: %v", err)
					return
				}
				var all []core.Record
				for _, answer := range answers {
					all = append(all, answer...)
				}
				if len(all) != 7 {
					t.Errorf("a reader saw %s", keysOf(all))
					return
				}
				for _, r := range all {
					if !bytes.Equal(r.Value, all[0].Value) {
						t.Errorf("a reader saw parts of two batches: %s and %s", all[0].Value, r.Value)
						return
					}
				}
				runtime.Gosched()
			}
		})
	}
	// Batches until enough time has passed for readers to fall between them.
	for n, end := 1, time.Now().Add(300*time.Millisecond); n < 50 || time.Now().Before(end); n++ {
		if err := write(n); err != nil {
			t.Errorf("apply: %v", err)
			break
		}
		runtime.Gosched()
	}
	done.Store(true)
	readers.Wait()
}

// keystoreCounter increments one counter from many goroutines.
func keystoreCounter(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	counter := func(n uint64) core.Put {
		return core.Put{Table: 1, Key: []byte("n"), Value: binary.BigEndian.AppendUint64(nil, n), Version: core.NewVersion()}
	}
	k.puts(counter(0))
	const writers, each = 4, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			defer caught(t)
			for range each {
				err := retry(func() error { return increment(t.Context(), k.store, counter) })
				if err != nil {
					t.Errorf("increment: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if r := k.one(1, "n"); r == nil || binary.BigEndian.Uint64(r.Value) != writers*each {
		t.Errorf("%d increments gave %x", writers*each, r)
	}
}

func increment(ctx context.Context, store core.Keystore, counter func(n uint64) core.Put) error {
	answers, err := store.Read(ctx, []core.Query{query(1, "n")})
	if err != nil {
		return err
	}
	if len(answers) != 1 || len(answers[0]) != 1 {
		return errors.New("the counter is gone")
	}
	r := answers[0][0]
	if len(r.Value) != 8 {
		return fmt.Errorf("the counter has %d bytes, want 8", len(r.Value))
	}
	runtime.Gosched()
	return store.Apply(ctx, core.Batch{
		Expect: []core.Expectation{{Table: 1, Key: r.Key, Version: r.Version}},
		Puts:   []core.Put{counter(binary.BigEndian.Uint64(r.Value) + 1)},
	})
}

// keystoreCreate has many goroutines create the same record.
func keystoreCreate(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	for round := range 5 {
		key := fmt.Sprintf("lock %d", round)
		var won atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				defer caught(t)
				err := k.store.Apply(t.Context(), core.Batch{
					Expect: []core.Expectation{expect(1, key, core.Version{})},
					Puts:   []core.Put{put(1, key, "mine")},
				})
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, core.ErrConflict) && !errors.Is(err, core.ErrUnavailable):
					t.Errorf("create: %v", err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d of 8 goroutines created the record", won.Load())
		}
	}
}

func keystoreCancelled(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	k.puts(put(1, "a", "before"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancelLate := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancelLate()
	for _, c := range []struct {
		ctx  context.Context
		want error
	}{{ctx, context.Canceled}, {late, context.DeadlineExceeded}} {
		if _, err := k.store.Read(c.ctx, []core.Query{query(1, "a")}); !errors.Is(err, c.want) {
			t.Errorf("read: got error %v, want %v", err, c.want)
		}
		p := put(1, "a", "after")
		if err := k.store.Apply(c.ctx, core.Batch{Puts: []core.Put{p}}); !errors.Is(err, c.want) {
			t.Errorf("apply: got error %v, want %v", err, c.want)
		}
		if r := k.one(1, "a"); r == nil || string(r.Value) != "before" {
			t.Error("a cancelled batch was applied")
		}
	}
}

// keystoreCancelledMidway cancels at all sorts of moments: what the error says
// must be what happened.
func keystoreCancelledMidway(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	k.puts(put(1, "a", "0"), put(1, "b", "0"))
	for i := range 40 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i*i)*3*time.Microsecond)
		a, b := put(1, "a", fmt.Sprint(i)), put(1, "b", fmt.Sprint(i))
		err := k.store.Apply(ctx, core.Batch{Puts: []core.Put{a, b}})
		cancel()
		answer := k.read(query(1, "a"), query(1, "b"))
		if len(answer[0]) != 1 || len(answer[1]) != 1 || !bytes.Equal(answer[0][0].Value, answer[1][0].Value) {
			t.Fatalf("after %v the store holds half a batch", err)
		}
		switch now := answer[0][0].Version; {
		case err == nil && now != a.Version:
			t.Fatal("Apply returned nil, but nothing was applied")
		case err != nil && !errors.Is(err, core.ErrUnknownOutcome) && now == a.Version:
			t.Fatalf("Apply returned %v, but the batch was applied", err)
		}
		// A read is whole or ends with the context's error.
		ctx, cancel = context.WithTimeout(t.Context(), time.Duration(i)*10*time.Microsecond)
		answer, err = k.store.Read(ctx, []core.Query{query(1, "a"), query(1, "b")})
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) ||
			err == nil && (len(answer) != 2 || len(answer[0]) != 1 || len(answer[1]) != 1) {
			t.Fatalf("a read with little time: error %v, %v", err, answer)
		}
	}
}

func keystoreClose(t testing.TB, open func() core.Keystore) {
	store := open()
	for range 2 {
		if err := store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if _, err := store.Read(t.Context(), []core.Query{query(1, "a")}); !errors.Is(err, core.ErrClosed) {
			t.Errorf("read after close: got error %v, want ErrClosed", err)
		}
		if err := store.Apply(t.Context(), core.Batch{Puts: []core.Put{put(1, "a", "")}}); !errors.Is(err, core.ErrClosed) {
			t.Errorf("apply after close: got error %v, want ErrClosed", err)
		}
	}
}

// keystoreCloseWaits closes under way: each call is whole or ErrClosed.
func keystoreCloseWaits(t testing.TB, open func() core.Keystore) {
	for range 3 {
		store := open()
		var wg sync.WaitGroup
		var started atomic.Int32
		var closed atomic.Bool
		for i := range 4 {
			wg.Go(func() {
				defer caught(t)
				for n := 0; ; n++ {
					started.Add(1)
					late := closed.Load()
					err := store.Apply(t.Context(), core.Batch{Puts: []core.Put{put(1, fmt.Sprintf("%d-%06d", i, n), "x")}})
					if err == nil {
						_, err = store.Read(t.Context(), []core.Query{query(1, fmt.Sprint(i)), query(2, "")})
					}
					if err != nil {
						if !errors.Is(err, core.ErrClosed) {
							t.Errorf("during close: got error %v, want ErrClosed", err)
						}
						return
					}
					if late {
						t.Error("a call after close succeeded")
						return
					}
				}
			})
		}
		for started.Load() < 8 {
			runtime.Gosched()
		}
		for range 2 {
			wg.Go(func() {
				defer caught(t)
				if err := store.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
				closed.Store(true)
			})
		}
		wg.Wait()
	}
}
