// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"sync"

	"github.com/conclave-mls/conclave/core"
)

// A lockTable has a lock for each conversation, in this process; between
// processes the versions in the store decide. A lock is a channel with room for
// one, so that waiting ends with a context.
type lockTable struct {
	mu    sync.Mutex
	locks map[core.ConversationID]*lock
}

type lock struct {
	held  chan struct{}
	users int // holders and waiters; the entry goes with the last
}

func (t *lockTable) join(id core.ConversationID) *lock {
	t.mu.Lock()
	defer t.mu.Unlock()
	l, ok := t.locks[id]
	if !ok {
		if t.locks == nil {
			t.locks = map[core.ConversationID]*lock{}
		}
		l = &lock{held: make(chan struct{}, 1)}
		t.locks[id] = l
	}
	l.users++
	return l
}

func (t *lockTable) leave(id core.ConversationID, l *lock) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(t.locks, id)
	}
}

// acquire waits for the lock. The result gives it back, once.
func (t *lockTable) acquire(ctx context.Context, id core.ConversationID) (release func(), err error) {
	l := t.join(id)
	select {
	case l.held <- struct{}{}:
		return t.release(id, l), nil
	default:
	}
	select {
	case l.held <- struct{}{}:
		return t.release(id, l), nil
	case <-ctx.Done():
		t.leave(id, l)
		return nil, ctx.Err()
	}
}

// try takes the lock if it is free; nil if not.
func (t *lockTable) try(id core.ConversationID) (release func()) {
	l := t.join(id)
	select {
	case l.held <- struct{}{}:
		return t.release(id, l)
	default:
		t.leave(id, l)
		return nil
	}
}

func (t *lockTable) release(id core.ConversationID, l *lock) func() {
	return func() {
		<-l.held
		t.leave(id, l)
	}
}
