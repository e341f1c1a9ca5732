// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

func TestSessionsThatSawAnErrorAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		key := f.signer(f.open())
		f.signs(key)
		f.signs(key)
		n := len(f.used)
		if f.used[n-1] != f.used[n-2] {
			t.Fatal("sessions are not used again")
		}
		bad := f.used[n-1]
		f.next("Sign", answer{err: cryptoki.ErrDataLenRange})
		if _, err := key.Sign(t.Context(), []byte("m")); !errors.Is(err, core.ErrTooLarge) {
			t.Errorf("a message that the token does not take: %v", err)
		}
		if _, open := f.sessions[bad]; open {
			t.Error("the session stays open")
		}
		f.signs(key)
		if slices.Contains(f.used[n+1:], bad) {
			t.Error("the session was used again")
		}
	})
}

// A token may have fewer sessions than it says: the others are waited for.
func TestFewerSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		key := f.signer(token)
		f.mu.Lock()
		f.sessionLimit = 3 // with the one of the login
		f.slow = time.Millisecond
		f.mu.Unlock()
		var all sync.WaitGroup
		for range 40 {
			all.Go(func() { f.signs(key) })
		}
		all.Wait()
		if got := token.pool.limit; got != 2 {
			t.Errorf("a ceiling of %d sessions", got)
		}
		before := f.count("OpenSession")
		f.signs(key)
		if n := f.count("OpenSession") - before; n != 0 {
			t.Errorf("%d sessions were tried again", n)
		}
		begun1, release1 := f.hang("Sign")
		begun2, release2 := f.hang("Sign")
		for _, b := range []<-chan struct{}{begun1, begun2} {
			all.Go(func() { _, _ = key.Sign(context.Background(), []byte("m")) })
			<-b
		}
		_, err := key.Sign(soon(t), []byte("m"))
		late(t, "no session", err, ErrSessionsExhausted)
		release1()
		release2()
		all.Wait()
	})
}

// Others have all of them.
func TestNoSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		key := f.signer(token)
		closeIdle(token)
		f.mu.Lock()
		f.sessionLimit = 1
		f.mu.Unlock()
		for range 3 {
			if _, err := key.Sign(soon(t), []byte("m")); !errors.Is(err, ErrSessionsExhausted) {
				t.Errorf("%v", err)
			}
		}
		f.mu.Lock()
		f.sessionLimit = 0
		f.mu.Unlock()
		f.signs(key)
	})
}

// The sessions of a token that are idle and for reading make room for one for writing.
func TestSessionsOfTwoKinds(t *testing.T) {
	f := newFake(t)
	f.info.MaxSessions = 3
	token := f.open()
	key := f.signer(token)
	var all sync.WaitGroup
	f.slow = time.Millisecond
	for range 8 {
		all.Go(func() { f.signs(key) })
	}
	all.Wait()
	f.signer(token)
	f.signs(key)
	f.signer(token)
	if f.most > 3 || token.pool.limit != 2 {
		t.Errorf("%d sessions, ceiling %d", f.most, token.pool.limit)
	}
}

// A token may count more sessions than an int can.
func TestSessionsWithoutNumber(t *testing.T) {
	f := newFake(t)
	f.info.MaxSessions = math.MaxUint
	if token := f.open(); token.pool.limit != maxSessions {
		t.Errorf("ceiling %d", token.pool.limit)
	}
}

func TestPoolIsLIFO(t *testing.T) {
	p := newPool(3)
	var all []*session
	for i := range 3 {
		if err := p.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := p.session(1, false, func() (*session, error) { return &session{handle: cryptoki.Session(i), generation: 1}, nil })
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	for _, s := range all {
		p.put(s, true)
	}
	for i := 2; i >= 0; i-- {
		if s := p.reuse(1, false); s != all[i] {
			t.Errorf("session %v, want %d", s, i)
		}
	}
	p.idle = all
	if s := p.reuse(2, false); s != nil || len(p.idle) != 0 {
		t.Errorf("session %v of a module that was finalised since, %d others", s, len(p.idle))
	}
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		for range 2 {
			if err := g.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		g.leave()
		if g.close(time.Second) {
			t.Error("closed with somebody inside")
		}
		if err := g.enter(soon(t)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("entered while it was closed: %v", err)
		}
		entered := make(chan error)
		go func() { entered <- g.enter(t.Context()) }()
		synctest.Wait()
		g.open()
		if err := <-entered; err != nil {
			t.Error(err)
		}
		go func() {
			time.Sleep(time.Second)
			g.leave()
			g.leave()
		}()
		start := time.Now()
		if !g.close(time.Minute) || time.Since(start) != time.Second {
			t.Errorf("closed after %v", time.Since(start))
		}
		g.open()
		if !g.close(0) {
			t.Error("an empty one does not close")
		}
		g.open()
	})
}
