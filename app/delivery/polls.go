// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// polls wakes those who wait for news of a scope.
type polls struct {
	mu      sync.Mutex
	waiting map[scope]map[chan struct{}]bool
}

// watch returns a channel that is closed with the next wake of the scope.
func (p *polls) watch(sc scope) (news <-chan struct{}, cancel func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == nil {
		p.waiting = map[scope]map[chan struct{}]bool{}
	}
	if p.waiting[sc] == nil {
		p.waiting[sc] = map[chan struct{}]bool{}
	}
	ch := make(chan struct{})
	p.waiting[sc][ch] = true
	return ch, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if delete(p.waiting[sc], ch); len(p.waiting[sc]) == 0 {
			delete(p.waiting, sc)
		}
	}
}

func (p *polls) wake(scopes ...scope) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, sc := range scopes {
		for ch := range p.waiting[sc] {
			close(ch)
		}
		delete(p.waiting, sc)
	}
}

// poll calls read until it found something, the time is up, the caller left or
// the service closes; then it answers with what read said last.
func (s *Server) poll(ctx context.Context, sc scope, wait time.Duration, read func() (found bool, err error)) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		news, cancel := s.polls.watch(sc) // before reading, or news would be missed
		found, err := read()
		if err != nil || found || wait <= 0 {
			cancel()
			return err
		}
		select {
		case <-news:
			cancel()
			continue
		case <-timer.C:
		case <-s.closing:
		case <-ctx.Done():
		}
		cancel()
		return nil
	}
}

// waitOf reads how many seconds the caller is ready to wait, 0 if it does not say.
func waitOf(r *http.Request) (time.Duration, error) {
	text := r.URL.Query().Get("wait")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n >= 0) {
		return 0, refuse(CodeInvalid, "wait is a number of seconds")
	}
	return time.Duration(min(n, maxWait) * float64(time.Second)), nil
}
