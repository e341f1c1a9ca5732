// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"sync"

	"github.com/conclave-mls/conclave/core"
)

// A snapshot is a connection with an open read transaction.
type snapshot struct {
	store *Store
	mu    sync.Mutex
	c     *conn // nil when closed
}

// Snapshot implements [core.Snapshotter]. While it is open the log keeps growing
// with every batch of any process; the file catches up once it is closed. Closing
// the store ends it: its calls are ErrClosed from then on.
func (s *Store) Snapshot(ctx context.Context) (core.Snapshot, error) {
	// A reader that stays would keep the first batch of another process waiting
	// for the open mark. Where the disk is full there will be no such batch.
	w, err := s.take(ctx, s.writer, nil)
	if err != nil {
		return nil, fail("snapshot", err)
	}
	if err = w.mark(ctx); err != nil && !isFull(err) {
		give(s.writer, w, err)
		return nil, fail("snapshot", err)
	}
	c, err := dial(ctx, s.path)
	give(s.writer, w, nil)
	if err != nil {
		return nil, fail("snapshot", err)
	}
	// The state is that of the first read.
	if err := c.all("BEGIN", markSQL); err != nil {
		_ = c.close()
		return nil, fail("snapshot", err)
	}
	shot := &snapshot{store: s, c: c}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snapshots == nil {
		_ = c.close()
		return nil, fail("snapshot", core.ErrClosed)
	}
	s.snapshots[shot] = true
	return shot, nil
}

func (x *snapshot) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	for i := range queries {
		if err := queries[i].Check(); err != nil {
			return nil, fail("read", err)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.c == nil {
		return nil, fail("read", core.ErrClosed)
	}
	answers, err := x.c.answer(ctx, queries)
	if err != nil {
		return nil, fail("read", err)
	}
	return answers, nil
}

func (x *snapshot) Close() error {
	x.store.mu.Lock()
	delete(x.store.snapshots, x)
	x.store.mu.Unlock()
	if err := x.end(); err != nil {
		return fail("close", err)
	}
	return nil
}

// end waits for a read under way.
func (x *snapshot) end() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	c := x.c
	x.c = nil
	return c.close()
}
