// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"errors"
	"sync"

	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// A session belongs to one operation at a time: two at once end the process.
type session struct {
	p          cryptoki.Module
	handle     cryptoki.Session
	generation uint64 // of the module; it is worth nothing in another
	readWrite  bool
}

// A pool bounds the sessions of a token that operations use. The newest is used first.
type pool struct {
	free chan struct{} // one for each session that may still be taken

	mu    sync.Mutex
	limit int
	idle  []*session
	stuck int // taken by calls whose callers have given up
}

func newPool(limit int) *pool {
	p := &pool{free: make(chan struct{}, limit), limit: limit}
	for range limit {
		p.free <- struct{}{}
	}
	return p
}

// take waits for the right to use one session. give must follow. ErrSessionsExhausted: it
// did not come in time; ErrPoisoned: it will not.
func (p *pool) take(ctx context.Context) error {
	select {
	case <-p.free:
		return nil
	default:
	}
	select {
	case <-p.free:
		return nil
	case <-ctx.Done():
		return errors.Join(p.why(), ctx.Err())
	}
}

func (p *pool) give() { p.free <- struct{}{} }

// errFewerSessions: the token has fewer sessions than the pool. The place is gone.
var errFewerSessions = errors.New("the token has fewer sessions")

// session is for who has taken: an idle session of the generation, or one that open makes.
// After an error there is nothing to give. errFewerSessions: take again, and wait for
// somebody else's. ErrSessionsExhausted: it would have been the only one.
func (p *pool) session(generation uint64, readWrite bool, open func() (*session, error)) (*session, error) {
	for {
		if s := p.reuse(generation, readWrite); s != nil {
			return s, nil
		}
		p.trim()
		s, err := open()
		switch {
		case err == nil:
			return s, nil
		case !errors.Is(err, cryptoki.ErrSessionCount):
			p.give()
			return nil, err
		case p.closeIdle():
		case p.shrink():
			return nil, errFewerSessions
		default:
			p.give()
			return nil, ErrSessionsExhausted
		}
	}
}

func (p *pool) reuse(generation uint64, readWrite bool) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.idle) - 1; i >= 0; i-- {
		s := p.idle[i]
		if s.generation != generation || s.readWrite == readWrite {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
		}
		if s.generation == generation && s.readWrite == readWrite {
			return s
		}
	}
	return nil
}

// trim makes room for a session, where those that are idle are of the other kind.
func (p *pool) trim() {
	p.mu.Lock()
	var oldest *session
	if len(p.idle) > len(p.free) { // who has taken has one, or is about to
		oldest, p.idle = p.idle[0], p.idle[1:]
	}
	p.mu.Unlock()
	if oldest != nil {
		_ = oldest.p.CloseSession(oldest.handle)
	}
}

// closeIdle closes an idle session, of the other kind, for one to be opened.
func (p *pool) closeIdle() bool {
	p.mu.Lock()
	if len(p.idle) == 0 {
		p.mu.Unlock()
		return false
	}
	last := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	p.mu.Unlock()
	_ = last.p.CloseSession(last.handle)
	return true
}

// shrink takes one away for good: the token has fewer than it says, or others use them.
func (p *pool) shrink() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit == 1 {
		return false
	}
	p.limit--
	return true
}

// put gives a session back; one that has seen an error is closed first.
func (p *pool) put(s *session, well bool) {
	if well {
		p.mu.Lock()
		p.idle = append(p.idle, s)
		p.mu.Unlock()
	} else {
		_ = s.p.CloseSession(s.handle)
	}
	p.give()
}

// abandoned counts calls whose callers have given up.
func (p *pool) abandoned(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stuck += n
}

func (p *pool) why() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stuck >= p.limit {
		return ErrPoisoned
	}
	return ErrSessionsExhausted
}
