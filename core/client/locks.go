// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"sync"
)

// A lockTable has a lock for each place, in this process; between
// processes the versions in the store decide. A lock is a channel with room for
// one, so that waiting ends with a context.
type lockTable struct {
	mu    sync.Mutex
	locks map[place]*lock
}

type lock struct {
	held  chan struct{}
	users int // holders and waiters; the entry goes with the last
}

func (t *lockTable) join(p place) *lock {
	t.mu.Lock()
	defer t.mu.Unlock()
	l, ok := t.locks[p]
	if !ok {
		if t.locks == nil {
			t.locks = map[place]*lock{}
		}
		l = &lock{held: make(chan struct{}, 1)}
		t.locks[p] = l
	}
	l.users++
	return l
}

func (t *lockTable) leave(p place, l *lock) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(t.locks, p)
	}
}

// acquire waits for the lock. The result gives it back, once.
func (t *lockTable) acquire(ctx context.Context, p place) (release func(), err error) {
	l := t.join(p)
	select {
	case l.held <- struct{}{}:
		return t.release(p, l), nil
	default:
	}
	select {
	case l.held <- struct{}{}:
		return t.release(p, l), nil
	case <-ctx.Done():
		t.leave(p, l)
		return nil, ctx.Err()
	}
}

// try takes the lock if it is free; nil if not.
func (t *lockTable) try(p place) (release func()) {
	l := t.join(p)
	select {
	case l.held <- struct{}{}:
		return t.release(p, l)
	default:
		t.leave(p, l)
		return nil
	}
}

func (t *lockTable) release(p place, l *lock) func() {
	return func() {
		<-l.held
		t.leave(p, l)
	}
}
