// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// twoTokens is a module with two tokens, "a" and "b".
type twoTokens struct {
	cryptoki.Module
	mu         sync.Mutex
	next       cryptoki.Session
	open       map[cryptoki.Session]cryptoki.Slot
	loggedIn   map[cryptoki.Slot]bool
	initialize func() error
	openHook   func(slot cryptoki.Slot, n int) error
	opened     int
	random     func(n int) error
	randoms    int
	gone       map[cryptoki.Slot]bool
	inits      int
	loginErr   error
	slow       time.Duration
}

func (m *twoTokens) Initialize(string) error {
	m.mu.Lock()
	m.inits++
	m.open, m.loggedIn, m.next = map[cryptoki.Session]cryptoki.Slot{}, map[cryptoki.Slot]bool{}, 0
	m.mu.Unlock()
	if m.initialize != nil {
		return m.initialize()
	}
	return nil
}
func (m *twoTokens) Finalize() error                 { return nil }
func (m *twoTokens) Info() (cryptoki.Info, error)    { return cryptoki.Info{}, nil }
func (m *twoTokens) Slots() ([]cryptoki.Slot, error) { return []cryptoki.Slot{0, 1}, nil }
func (m *twoTokens) TokenInfo(s cryptoki.Slot) (cryptoki.TokenInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone[s] {
		return cryptoki.TokenInfo{}, cryptoki.ErrTokenNotPresent
	}
	name := string(rune('a' + s))
	return cryptoki.TokenInfo{Label: name, Serial: name, Flags: cryptoki.FlagInitialized | cryptoki.FlagLoginRequired | cryptoki.FlagUserPINSet}, nil
}
func (m *twoTokens) OpenSession(slot cryptoki.Slot, _ bool) (cryptoki.Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opened++
	if m.openHook != nil {
		if err := m.openHook(slot, m.opened); err != nil {
			return 0, err
		}
	}
	m.next++
	m.open[m.next] = slot
	return m.next, nil
}
func (m *twoTokens) CloseSession(s cryptoki.Session) error {
	time.Sleep(m.slow)
	m.mu.Lock()
	defer m.mu.Unlock()
	slot := m.open[s]
	delete(m.open, s)
	for _, other := range m.open {
		if other == slot {
			return nil
		}
	}
	m.loggedIn[slot] = false
	return nil
}
func (m *twoTokens) Login(s cryptoki.Session, _ []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.loginErr != nil {
		return m.loginErr
	}
	if m.loggedIn[m.open[s]] {
		return cryptoki.ErrUserAlreadyLoggedIn
	}
	m.loggedIn[m.open[s]] = true
	return nil
}
func (m *twoTokens) LoggedIn(s cryptoki.Session) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.loggedIn[m.open[s]], nil
}
func (m *twoTokens) Random(_ cryptoki.Session, n int) ([]byte, error) {
	m.mu.Lock()
	m.randoms++
	f, i := m.random, m.randoms
	m.mu.Unlock()
	if f != nil {
		if err := f(i); err != nil {
			return nil, err
		}
	}
	return make([]byte, n), nil
}

// loadTwoTokens makes m the module of a path. Not for parallel tests.
func loadTwoTokens(t *testing.T, m *twoTokens) (path string) {
	m.gone = map[cryptoki.Slot]bool{}
	path = filepath.Join(t.TempDir(), "m.so")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path, _ = filepath.EvalSymlinks(path)
	before := load
	load = func(string) (cryptoki.Module, error) { return m, nil }
	t.Cleanup(func() { load = before })
	return path
}

func openOne(t *testing.T, path, token, more string) (*Token, error) {
	t.Helper()
	return Open(t.Context(), Config{URI: "pkcs11:token=" + token + "?module-path=" + path + "&pin-value=1234" + more})
}

// keepOpen is openOne until the test ends.
func keepOpen(t *testing.T, path, token, more string) *Token {
	t.Helper()
	opened, err := openOne(t, path, token, more)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close() })
	return opened
}

// brokenUntilRestart is a C_GenerateRandom.
func (m *twoTokens) brokenUntilRestart(int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.inits == 1 {
		return cryptoki.ErrDeviceError
	}
	return nil
}

// C_Initialize hangs: Open has a deadline, and others open other modules.
func TestTroubleOpenDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &twoTokens{}
		var hangs atomic.Bool
		hangs.Store(true)
		release := make(chan struct{})
		m.initialize = func() error {
			if hangs.Swap(false) {
				<-release
			}
			return nil
		}
		path := loadTwoTokens(t, m)
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		done := make(chan error, 2)
		go func() {
			_, err := Open(ctx, Config{URI: "pkcs11:token=a?module-path=" + path + "&pin-value=1234"})
			done <- err
		}()
		if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if late := time.Since(begin); late > 200*time.Millisecond {
			t.Errorf("Open with a deadline of 0.2 s takes %v", late)
		}
		other := filepath.Join(t.TempDir(), "other.so")
		if err := os.WriteFile(other, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := openOne(t, other, "b", "")
		if err != nil {
			t.Fatal("another module: ", err)
		}
		_ = b.Close()
		close(release)
		synctest.Wait() // who came too late closes again
	})
}

// An operation is under way while its Token is closed; another token holds the module.
func TestTroubleCloseLeavesSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &twoTokens{}
		path := loadTwoTokens(t, m)
		keepOpen(t, path, "b", "")
		a, err := openOne(t, path, "a", "")
		if err != nil {
			t.Fatal(err)
		}
		inside, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			ended <- a.use(t.Context(), "work", false, retryNever, func(*session) error { close(inside); <-goOn; return nil })
		}()
		<-inside
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		close(goOn)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		m.mu.Lock()
		for s, slot := range m.open {
			if slot == 0 {
				t.Errorf("session %d of the closed token is open for ever", s)
			}
		}
		m.mu.Unlock()
		again, err := openOne(t, path, "a", "")
		if err != nil {
			t.Fatal("open again: ", err)
		}
		_ = again.Close()
	})
}

// Those who wait for a session do not hold up the restart that those who have one need.
func TestTroubleWaitsInsideTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &twoTokens{}
		path := loadTwoTokens(t, m)
		m.openHook = func(slot cryptoki.Slot, n int) error {
			if n >= 4 && m.inits == 1 { // control, and two
				return cryptoki.ErrSessionCount
			}
			return nil
		}
		a := keepOpen(t, path, "a", "&x-max-sessions=3")
		broken := make(chan struct{})
		m.random = func(int) error {
			select {
			case <-broken:
				m.mu.Lock()
				defer m.mu.Unlock()
				if m.inits == 1 {
					return cryptoki.ErrDeviceError
				}
			default:
			}
			return nil
		}
		var all sync.WaitGroup
		holds := make(chan struct{}, 2)
		for range 2 { // two have a session, and see it fail
			all.Go(func() {
				_ = a.use(context.Background(), "work", false, retryOnce, func(s *session) error {
					if s.generation > 1 {
						return nil
					}
					holds <- struct{}{}
					<-broken
					time.Sleep(100 * time.Millisecond)
					return cryptoki.ErrDeviceError
				})
			})
		}
		<-holds
		<-holds
		for range 12 { // these want one
			all.Go(func() {
				err := a.use(context.Background(), "work", false, retryOnce, func(s *session) error {
					if s.generation > 1 {
						return nil
					}
					return cryptoki.ErrDeviceError
				})
				if errors.Is(err, ErrPoisoned) {
					t.Error("waiter: ", err)
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		close(broken)
		all.Wait()
		if a.m.poisoned.Load() {
			t.Error("poisoned, though no call hangs")
		}
	})
}

// A token that stays away does not take the module from another, whose calls last longer
// than the restart would wait.
func TestTroubleOtherTokenIsRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &twoTokens{}
		path := loadTwoTokens(t, m)
		a := keepOpen(t, path, "a", "")
		b := keepOpen(t, path, "b", "")
		m.mu.Lock()
		m.gone[0] = true
		m.mu.Unlock()
		_ = a.use(t.Context(), "work", false, retryOnce, func(*session) error { return cryptoki.ErrTokenNotPresent })
		// A healthy call of b that takes longer than the drain, such as an RSA key or a slow line.
		err := b.use(t.Context(), "work", false, retryOnce, func(*session) error { time.Sleep(drainTime * 3 / 2); return nil })
		if err != nil {
			t.Error("a slow call: ", err)
		}
		if err := b.use(t.Context(), "work", false, retryOnce, func(*session) error { return nil }); err != nil {
			t.Error("the other token: ", err)
		}
	})
}

// One closes a token while another opens it.
func TestTroubleOpenDuringClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &twoTokens{}
		path := loadTwoTokens(t, m)
		m.slow = 500 * time.Millisecond // a network
		keepOpen(t, path, "b", "")      // the module stays
		for range 2 {
			a, err := openOne(t, path, "a", "")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() { _ = a.Close(); close(done) }()
			synctest.Wait() // it hangs in C_CloseSession
			again, err := openOne(t, path, "a", "")
			if err != nil {
				t.Fatal("open: ", err)
			}
			<-done
			if err := again.use(t.Context(), "work", false, retryOnce, func(*session) error { return nil }); err != nil {
				t.Fatal(err)
			}
			_ = again.Close()
		}
	})
}

// All sessions are with other programs when a call fails: no reason to restart the module.
func TestTroubleNoSessionIsNoTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &twoTokens{}
		path := loadTwoTokens(t, m)
		m.openHook = func(_ cryptoki.Slot, n int) error {
			if n > 2 {
				return cryptoki.ErrSessionCount
			}
			return nil
		}
		a := keepOpen(t, path, "a", "&x-max-sessions=1")
		// The session that failed is closed, and another program has it now.
		err := a.use(t.Context(), "derive", false, retryInput, func(*session) error { return cryptoki.ErrGeneralError })
		if m.inits > 1 {
			t.Error("the module was restarted: ", err)
		}
	})
}

// The PIN file is away for a moment, just when the token comes back.
func TestTroublePINFileAwayForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &twoTokens{}
		path := loadTwoTokens(t, m)
		pin := filepath.Join(t.TempDir(), "pin")
		_ = os.WriteFile(pin, []byte("1234"), 0o600)
		a, err := Open(t.Context(), Config{URI: "pkcs11:token=a?module-path=" + path + "&pin-source=file:" + pin})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = a.Close() }()
		_ = os.Remove(pin)
		m.random = m.brokenUntilRestart
		_ = a.use(t.Context(), "work", false, retryOnce, func(*session) error { return cryptoki.ErrDeviceError })
		_ = os.WriteFile(pin, []byte("1234"), 0o600)
		time.Sleep(lastPause)
		if err := a.use(t.Context(), "work", false, retryOnce, func(*session) error { return nil }); err != nil {
			t.Error("token and PIN file are back: ", err)
		}
	})
}

// A module that was given up because a call was slow works again when the call is over.
func TestTroublePoisonedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &twoTokens{}
		path := loadTwoTokens(t, m)
		a := keepOpen(t, path, "a", "")
		go func() {
			_ = a.use(context.Background(), "slow", false, retryNever, func(*session) error { time.Sleep(drainTime * 3 / 2); return nil })
		}()
		time.Sleep(50 * time.Millisecond)
		m.random = m.brokenUntilRestart
		_ = a.use(t.Context(), "work", false, retryOnce, func(*session) error { return cryptoki.ErrDeviceError })
		time.Sleep(lastPause)
		if err := a.use(t.Context(), "work", false, retryOnce, func(*session) error { return nil }); err != nil {
			t.Error("no call is under way any more: ", err)
		}
	})
}

// Who closes a token twice takes it from nobody who has opened it since.
func TestTroubleCloseTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &twoTokens{}
		path := loadTwoTokens(t, m)
		first, err := openOne(t, path, "a", "")
		if err != nil {
			t.Fatal(err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := openOne(t, path, "a", "")
		if err != nil {
			t.Fatal(err)
		}
		if err := first.Close(); !errors.Is(err, core.ErrClosed) {
			t.Error(err)
		}
		if err := again.use(t.Context(), "work", false, retryNever, func(*session) error { return nil }); err != nil {
			t.Error(err)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	})
}
