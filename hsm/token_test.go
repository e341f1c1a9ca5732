// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// In these tests time is that of testing/synctest, and a goroutine that stays behind is a
// failure. What waits for a mutex stops that clock, so the others have a real one.

// soon is a context that ends in a moment, long after what is not held up.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// late checks the error of a call that hung.
func late(t *testing.T, what string, err error, kinds ...error) {
	t.Helper()
	for _, kind := range append(kinds, context.DeadlineExceeded, core.ErrUnavailable) {
		if !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", what, err, kind)
		}
	}
}

// Many goroutines, two sessions: the fake sees to it that none is shared.
func TestSessionsAreNotShared(t *testing.T) {
	f := newFake(t)
	f.slow = 50 * time.Microsecond
	token, err := Open(t.Context(), Config{URI: f.uri("&x-max-sessions=2")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = token.Close() }()
	keys := []core.Signer{f.signer(token), f.key(token, core.ECDSAP256).(core.Signer)}
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			for range 3 {
				f.signs(keys[i%2])
			}
		})
	}
	all.Wait()
	if f.most > 3 {
		t.Errorf("%d sessions at once, with one for the login", f.most)
	}
}

// The same, while the module is lost again and again. Restarts wait for what is under way.
func TestRestartsWait(t *testing.T) {
	f := newFake(t)
	f.slow = 50 * time.Microsecond
	token := f.open()
	key := f.signer(token)
	before := f.counts()
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			for n := range 10 {
				if i == 0 && n%3 == 0 {
					f.next("Sign", answer{err: cryptoki.ErrDeviceError})
					f.next("Random", answer{err: cryptoki.ErrDeviceError})
				}
				// Who meets the second loss in the second try gives up.
				if _, err := key.Sign(t.Context(), []byte("m")); err != nil && !errors.Is(err, ErrTokenUnavailable) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	f.mu.Lock()
	clear(f.script)
	f.mu.Unlock()
	for token.health.trouble() != nil { // the last loss
		time.Sleep(10 * time.Millisecond)
	}
	f.signs(key)
	if f.count("Finalize") == before["Finalize"] {
		t.Error("the module was never restarted")
	}
}

// Whatever hangs, the caller is back at its deadline, and when it does not hang any more
// everything works.
func TestHangingCalls(t *testing.T) {
	sign := func(ctx context.Context, f *fake, k *Token, ref core.KeyRef) error {
		key, err := k.Provider().OpenKey(context.Background(), ref, core.Secret{})
		if err != nil {
			f.t.Fatal(err)
		}
		_, err = key.(core.Signer).Sign(ctx, []byte("m"))
		return err
	}
	open := func(ctx context.Context, f *fake, k *Token, ref core.KeyRef) error {
		_, err := k.Provider().OpenKey(ctx, ref, core.Secret{})
		return err
	}
	for call, do := range map[string]func(context.Context, *fake, *Token, core.KeyRef) error{
		"Sign": sign, "Find": open, "Attribute": open, "OpenSession": open,
		"CloseSession": func(ctx context.Context, f *fake, k *Token, ref core.KeyRef) error {
			f.next("Find", answer{err: cryptoki.ErrDeviceError})
			return open(ctx, f, k, ref)
		},
		"TokenInfo": func(ctx context.Context, f *fake, k *Token, ref core.KeyRef) error { // of the examination
			f.next("Sign", answer{err: cryptoki.ErrGeneralError})
			return sign(ctx, f, k, ref)
		},
		"Login": func(ctx context.Context, f *fake, k *Token, ref core.KeyRef) error { // of the recovery
			f.next("Sign", answer{err: cryptoki.ErrDeviceError})
			f.next("Random", answer{err: cryptoki.ErrDeviceError})
			return sign(ctx, f, k, ref)
		},
		"Finalize": func(ctx context.Context, f *fake, k *Token, ref core.KeyRef) error {
			f.next("Sign", answer{err: cryptoki.ErrDeviceError})
			f.next("Random", answer{err: cryptoki.ErrDeviceError})
			return sign(ctx, f, k, ref)
		},
	} {
		t.Run(call, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				token := f.open()
				key := f.signer(token)
				if call == "OpenSession" { // none that could be used again
					closeIdle(token)
				}
				begun, release := f.hang(call)
				start := time.Now()
				late(t, "the call that hangs", do(soon(t), f, token, key.Ref()), ErrTokenUnavailable)
				if took := time.Since(start); took != 50*time.Millisecond {
					t.Errorf("the caller waited %v", took)
				}
				<-begun
				release()
				synctest.Wait()
				f.signs(key)
			})
		})
	}
}

func closeIdle(t *Token) {
	now := t.m.generation.Load()
	for _, rw := range []bool{false, true} {
		for s := t.pool.reuse(now, rw); s != nil; s = t.pool.reuse(now, rw) {
			_ = s.p.CloseSession(s.handle)
		}
	}
}

// One that hangs does not hold up others who have no use for it.
func TestHangingCallHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		key := f.signer(token)
		begun, release := f.hang("Sign")
		_, err := key.Sign(soon(t), []byte("m"))
		late(t, "the call that hangs", err)
		<-begun
		f.signs(key)
		release()
	})
}

func TestOpenHangs(t *testing.T) {
	for _, call := range []string{"Initialize", "Slots", "TokenInfo", "OpenSession", "Login"} {
		t.Run(call, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				begun, release := f.hang(call)
				_, err := Open(soon(t), Config{URI: f.uri("")})
				late(t, "Open", err, ErrTokenUnavailable)
				<-begun
				release()
				synctest.Wait()
				if f.initialized {
					t.Error("what was opened for nobody was not closed")
				}
				f.signs(f.signer(f.open()))
			})
		})
	}
}

// What waited too long for its session is not begun: nobody would have the result.
func TestLateCallIsNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		key := f.signer(token)
		closeIdle(token)
		before := f.counts()
		begun, release := f.hang("OpenSession")
		_, err := key.Sign(soon(t), []byte("m"))
		late(t, "the call", err, ErrTokenUnavailable)
		<-begun
		release()
		synctest.Wait()
		f.is(before, map[string]int{"OpenSession": 1, "Sign": 0, "CloseSession": 0})
	})
}

// All sessions hang: the next caller is told that this will not end.
func TestAllHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token, err := Open(t.Context(), Config{URI: f.uri("&x-max-sessions=2")})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = token.Close() }()
		key := f.signer(token)
		_, release1 := f.hang("Sign")
		_, release2 := f.hang("Sign")
		_, err = key.Sign(soon(t), []byte("m"))
		late(t, "the first", err, ErrTokenUnavailable)
		var all sync.WaitGroup
		for _, c := range []struct {
			patience time.Duration
			want     error
		}{{time.Second, ErrTokenUnavailable}, {time.Millisecond, ErrSessionsExhausted}} {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), c.patience)
				defer cancel()
				_, err := key.Sign(ctx, []byte("m"))
				late(t, "beside one that hangs", err, c.want)
			})
			synctest.Wait()
		}
		all.Wait()
		_, err = key.Sign(soon(t), []byte("m"))
		late(t, "one that waits when all hang", err, ErrPoisoned)
		release1()
		release2()
		synctest.Wait()
		f.signs(key)
	})
}

// A caller that cancels gets its own error and no other.
func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		key := f.signer(f.open())
		begun, release := f.hang("Sign")
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			<-begun
			cancel()
		}()
		if _, err := key.Sign(ctx, []byte("m")); !errors.Is(err, context.Canceled) || errors.Is(err, core.ErrUnavailable) {
			t.Errorf("%v", err)
		}
		before := f.count("Sign")
		if _, err := key.Sign(ctx, []byte("m")); !errors.Is(err, context.Canceled) || f.count("Sign") != before {
			t.Errorf("a call that was cancelled before: %v", err)
		}
		release()
	})
}

// Close waits for what is under way, ends the login, and leaves nothing open. What is left
// of the Token does not reach the module that somebody opens after that.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		key := f.signer(token)
		begun, release := f.hang("Sign")
		signed := make(chan error)
		go func() {
			_, err := key.Sign(context.Background(), []byte("m"))
			signed <- err
		}()
		<-begun
		closed := make(chan error)
		go func() { closed <- token.Close() }()
		time.Sleep(time.Second)
		select {
		case err := <-closed:
			t.Fatalf("closed beside a call: %v", err)
		default:
		}
		waits := make(chan error)
		go func() {
			_, err := key.Sign(context.Background(), []byte("m"))
			waits <- err
		}()
		synctest.Wait()
		release()
		if err := <-signed; err != nil {
			t.Errorf("the call that was under way: %v", err)
		}
		if err := <-waits; !errors.Is(err, core.ErrClosed) {
			t.Errorf("a call that came while it was closed: %v", err)
		}
		if err := <-closed; err != nil || f.initialized {
			t.Errorf("Close: %v", err)
		}
		if f.left != 0 {
			t.Errorf("%d sessions were open when the module was finalised", f.left)
		}

		again := f.open()
		if again == token {
			t.Fatal("a closed Token was opened")
		}
		before := f.counts()
		if _, err := key.Sign(context.Background(), []byte("m")); !errors.Is(err, core.ErrClosed) {
			t.Errorf("a key of a closed Token: %v", err)
		}
		if _, err := token.Provider().OpenKey(context.Background(), key.Ref(), core.Secret{}); !errors.Is(err, core.ErrClosed) {
			t.Errorf("a closed Token: %v", err)
		}
		if err := token.recover(context.Background(), token.m.generation.Load()); !errors.Is(err, core.ErrUnavailable) {
			t.Errorf("a closed Token that recovers: %v", err)
		}
		synctest.Wait()
		f.is(before, map[string]int{"Sign": 0, "OpenSession": 0, "Finalize": 0, "Find": 0})
		other, err := again.Provider().OpenKey(context.Background(), key.Ref(), core.Secret{})
		if err != nil {
			t.Fatal(err)
		}
		f.signs(other.(core.Signer))
	})
}

// A call that hangs for ever keeps the module from being finalised, by anybody.
func TestCloseBesideHangingCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		key := f.signer(token)
		before := f.counts()
		begun, release := f.hang("Sign")
		_, err := key.Sign(soon(t), []byte("m"))
		late(t, "the call", err)
		<-begun
		start := time.Now()
		if err := token.Close(); !errors.Is(err, ErrPoisoned) || time.Since(start) < drainTime || time.Since(start) > 2*drainTime {
			t.Errorf("Close after %v: %v", time.Since(start), err)
		}
		if _, err := Open(context.Background(), Config{URI: f.uri("")}); !errors.Is(err, ErrPoisoned) {
			t.Errorf("Open: %v", err)
		}
		f.is(before, map[string]int{"Finalize": 0, "Initialize": 0})
		release()
		synctest.Wait()
		forget(f)
	})
}

// forget removes a poisoned module from the process, so that the test can be repeated.
func forget(f *fake) {
	modules.Lock()
	defer modules.Unlock()
	path, _ := filepath.EvalSymlinks(f.path)
	delete(modules.byPath, path)
	delete(modules.owner, path)
}

// A recovery cannot finalise beside a call that hangs either, and all are told.
func TestRecoveryBesideHangingCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		key := f.signer(token)
		before := f.counts()
		begun, release := f.hang("Sign")
		_, err := key.Sign(soon(t), []byte("m"))
		late(t, "the call", err)
		<-begun
		f.next("Sign", answer{err: cryptoki.ErrDeviceError})
		f.fails("TokenInfo", cryptoki.ErrDeviceError)
		waits := make(chan error)
		go func() {
			time.Sleep(drainTime / 2)
			_, err := key.Sign(context.Background(), []byte("m"))
			waits <- err
		}()
		if _, err := key.Sign(context.Background(), []byte("m")); !errors.Is(err, ErrPoisoned) && !errors.Is(err, ErrTokenUnavailable) {
			t.Errorf("a recovery beside a call that hangs: %v", err)
		}
		if err := <-waits; !errors.Is(err, core.ErrUnavailable) {
			t.Errorf("who waits for the recovery: %v", err)
		}
		if _, err := key.Sign(context.Background(), []byte("m")); !errors.Is(err, core.ErrUnavailable) {
			t.Errorf("afterwards: %v", err)
		}
		f.is(before, map[string]int{"Finalize": 0, "Initialize": 0})
		_ = token.Close()
		release()
		synctest.Wait()
		forget(f)
	})
}

// Open of the same token is the same Token, and the last Close counts.
func TestOpenTwice(t *testing.T) {
	f := newFake(t)
	a, b := f.open(), f.open()
	if a != b || f.count("Login") != 1 || f.count("Initialize") != 1 {
		t.Errorf("two tokens, or %d logins, %d initialisations", f.count("Login"), f.count("Initialize"))
	}
	link := filepath.Join(t.TempDir(), "other.so")
	if err := os.Symlink(f.path, link); err != nil {
		t.Fatal(err)
	}
	c, err := Open(t.Context(), Config{URI: "pkcs11:serial=" + f.info.Serial + "?module-path=" + link + "&pin-value=" + fakePIN})
	if err != nil || c != a {
		t.Fatalf("by another name of the module: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	f.signs(f.signer(b))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	f.signs(f.signer(b))
}

// A token that is opened while its last user closes it has a login of its own.
func TestOpenBesideClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		other, err := acquire(f.path, "") // the module stays in use
		if err != nil {
			t.Fatal(err)
		}
		begun, release := f.hang("CloseSession")
		var all sync.WaitGroup
		all.Go(func() {
			if err := token.Close(); err != nil {
				t.Error(err)
			}
		})
		<-begun
		_, err = Open(soon(t), Config{URI: f.uri("")})
		late(t, "Open beside a Close that hangs", err, ErrTokenUnavailable)
		all.Go(func() {
			again := f.open()
			if again == token || again.closed.Load() {
				t.Error("it is the one that was closed")
			}
			f.signs(f.signer(again))
		})
		synctest.Wait()
		release()
		all.Wait()
		if err := other.release(); err != nil || f.count("Initialize") != 1 || f.count("Login") != 2 {
			t.Errorf("%d initialisations, %d logins, %v", f.count("Initialize"), f.count("Login"), err)
		}
	})
}

// The module does not check a PIN when somebody is logged in.
func TestOpenWithAnotherPIN(t *testing.T) {
	f := newFake(t)
	f.open()
	before := f.count("Login")
	_, err := Open(t.Context(), Config{URI: "pkcs11:token=acme?module-path=" + f.path + "&pin-value=1111"})
	if !errors.Is(err, ErrPINRejected) || f.count("Login") != before {
		t.Errorf("%v, %d logins", err, f.count("Login")-before)
	}
}
