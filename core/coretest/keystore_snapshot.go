// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// hangs is how long a call may take beside a snapshot, which must not stop the store.
var hangs = 20 * time.Second

// keystoreStates is for a store that implements [core.Snapshotter]; others pass.
func keystoreStates(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	s, ok := k.store.(core.Snapshotter)
	if !ok {
		t.Log("this store has no snapshots")
		return
	}
	within := func(what string, f func(ctx context.Context)) {
		t.Helper()
		if t.Failed() {
			return // else one hang would follow another
		}
		ctx, cancel := context.WithTimeout(t.Context(), hangs)
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			f(ctx)
		}()
		select {
		case <-done:
		case <-time.After(2 * hangs):
			t.Errorf("%s takes for ever", what)
		}
	}
	// Generation n of the data: some records go, some come, all change.
	write := func(n int) {
		value := fmt.Sprint(n)
		b := core.Batch{Dels: []core.Range{del(1, "m")}, Puts: []core.Put{put(1, "a", value), put(2, "a", value), put(1, "z", value)}}
		for i := range 5 {
			b.Puts = append(b.Puts, put(1, fmt.Sprintf("m%d.%s", i, value), value))
		}
		within("Apply beside a snapshot", func(ctx context.Context) {
			if err := retry(func() error { return k.store.Apply(ctx, b) }); err != nil {
				t.Errorf("apply beside a snapshot: %v", err)
			}
		})
	}
	take := func() (snap core.Snapshot) {
		t.Helper()
		within("Snapshot", func(ctx context.Context) {
			// What ends here is the call: the snapshot lasts until it is closed.
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			var err error
			if snap, err = s.Snapshot(ctx); err != nil {
				t.Errorf("snapshot: %v", err)
			}
		})
		if snap == nil {
			t.FailNow()
		}
		return snap
	}
	// shows walks the pages of a snapshot, each a call of its own.
	shows := func(snap core.Snapshot, n int) {
		t.Helper()
		within("a snapshot's Read", func(ctx context.Context) {
			var all []core.Record
			var after []byte
			for {
				answers, err := snap.Read(ctx, []core.Query{{Table: 1, After: after, Limit: 2}, query(2, "a")})
				if err != nil {
					t.Errorf("a snapshot's read: %v", err)
					return
				}
				if len(answers) != 2 || len(answers[1]) != 1 {
					t.Errorf("a snapshot's read lacks an answer")
					return
				}
				all = append(all, answers[0]...)
				if len(answers[0]) < 2 {
					all = append(all, answers[1]...)
					break
				}
				after = answers[0][1].Key
			}
			if len(all) != 8 {
				t.Errorf("a snapshot of generation %d shows %s", n, keysOf(all))
				return
			}
			for _, r := range all {
				if !bytes.Equal(r.Value, fmt.Append(nil, n)) {
					t.Errorf("a snapshot of generation %d shows record %q of generation %s", n, r.Key, r.Value)
					return
				}
			}
		})
	}
	closes := func(snap core.Snapshot) {
		t.Helper()
		within("a snapshot's Close", func(context.Context) {
			if err := snap.Close(); err != nil {
				t.Errorf("close a snapshot: %v", err)
			}
		})
	}

	// Several at once, each with its own state, however much is written and read
	// beside them.
	write(1)
	first := take()
	write(2)
	second, third := take(), take()
	shows(first, 1)
	var writer sync.WaitGroup
	writer.Go(func() {
		defer caught(t)
		for n := 3; n < 30 && !t.Failed(); n++ {
			write(n)
		}
	})
	for range 5 {
		shows(first, 1)
		shows(second, 2)
		within("Read beside a snapshot", func(ctx context.Context) {
			if _, err := k.store.Read(ctx, []core.Query{query(1, ""), query(2, "")}); err != nil {
				t.Errorf("read beside a snapshot: %v", err)
			}
		})
	}
	writer.Wait()
	closes(first)
	shows(second, 2)
	shows(third, 2)
	if _, err := first.Read(t.Context(), []core.Query{query(1, "a")}); !errors.Is(err, core.ErrClosed) {
		t.Errorf("read of a closed snapshot: got error %v, want ErrClosed", err)
	}
	closes(second)
	closes(third)

	// The rules of Read are those of the store.
	last := take()
	shows(last, 29)
	for _, c := range []struct {
		q    core.Query
		want error
	}{
		{core.Query{Table: 1, Prefix: make([]byte, core.MaxKey+1)}, core.ErrTooLarge},
		{core.Query{Table: 1, Limit: -1}, core.ErrInvalid},
	} {
		if _, err := last.Read(t.Context(), []core.Query{c.q}); !errors.Is(err, c.want) {
			t.Errorf("a snapshot's read: got error %v, want %v", err, c.want)
		}
	}
	closes(last)
	for range 20 { // what a snapshot holds is given back
		closes(take())
	}

	// A store that is closed does not wait for snapshots: they are not calls.
	left := take()
	within("Close of the store with a snapshot open", func(context.Context) {
		if err := k.store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	within("a snapshot's Read after the store was closed", func(ctx context.Context) {
		switch answers, err := left.Read(ctx, []core.Query{query(1, "a")}); {
		case errors.Is(err, core.ErrClosed):
		case err != nil:
			t.Errorf("a snapshot's read after the store was closed: got error %v, want ErrClosed or none", err)
		case len(answers) != 1 || len(answers[0]) != 1 || string(answers[0][0].Value) != "29":
			t.Errorf("a snapshot shows something else after the store was closed: %v", answers)
		}
	})
	closes(left)
	closes(left)
	if _, err := s.Snapshot(t.Context()); !errors.Is(err, core.ErrClosed) {
		t.Errorf("snapshot of a closed store: got error %v, want ErrClosed", err)
	}
}
