// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// Objects get new handles, as after a logout that somebody else has undone: the key is
// looked for again, and no more than that is done.
func TestStaleHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		key := f.signer(token)
		agreer := f.key(token, core.ECDHP256).(core.Agreer)
		f.signs(key)
		f.mu.Lock()
		f.renumber()
		f.mu.Unlock()
		before := f.counts()
		f.signs(key)
		f.is(before, map[string]int{"Sign": 2, "Finalize": 0, "Login": 0})
		if _, err := agreer.Agree(t.Context(), peerOf(t, ecdh.P256())); err != nil {
			t.Errorf("an agreement with a stale handle: %v", err)
		}
		// It is tried once more, not for ever.
		before = f.counts()
		f.fails("Sign", cryptoki.ErrObjectHandleInvalid)
		if _, err := key.Sign(t.Context(), []byte("m")); !errors.Is(err, ErrTokenUnavailable) {
			t.Errorf("%v", err)
		}
		f.is(before, map[string]int{"Sign": 2, "Finalize": 0})
	})
}

func peerOf(t *testing.T, c ecdh.Curve) []byte {
	t.Helper()
	k, err := c.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k.PublicKey().Bytes()
}

// What a token says of bad input must not look like a lost token: others could choose it.
func TestInputDoesNotRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		key := f.key(token, core.X25519).(core.Agreer)
		for _, result := range []cryptoki.Error{
			cryptoki.ErrGeneralError, cryptoki.ErrFunctionFailed, cryptoki.ErrDeviceError, cryptoki.ErrArgumentsBad,
			cryptoki.ErrMechanismParamInvalid, cryptoki.ErrKeySizeRange, cryptoki.ErrDataInvalid, 0x80000001,
		} {
			f.fails("Derive", result)
			before := f.counts()
			if _, err := key.Agree(t.Context(), peerOf(t, ecdh.X25519())); !errors.Is(err, ErrInvalidInput) || !errors.Is(err, core.ErrInvalid) {
				t.Errorf("%v: %v", result, err)
			}
			f.is(before, map[string]int{"Finalize": 0, "Initialize": 0, "Login": 0})
		}
		f.fails("Derive", nil)
		if _, err := key.Agree(t.Context(), peerOf(t, ecdh.X25519())); err != nil {
			t.Error(err)
		}
	})
}

// Many callers, one restart, one login.
func TestRecoveryOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		key := f.signer(f.open())
		f.signs(key)
		before := f.counts()
		f.foreignFinalize()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { f.signs(key) })
		}
		all.Wait()
		f.is(before, map[string]int{"Initialize": 1, "Login": 1})
	})
}

// Two tokens of a module may both want the same restart.
func TestRestartOnce(t *testing.T) {
	f := newFake(t)
	token := f.open()
	key := f.signer(token)
	before, since := f.counts(), token.m.generation.Load()
	for range 2 {
		if err := token.m.restart(since); err != nil {
			t.Error(err)
		}
	}
	f.is(before, map[string]int{"Initialize": 1, "Finalize": 1})
	f.signs(key)
}

// What else brings a token back.
func TestRecovery(t *testing.T) {
	for name, lose := range map[string]func(f *fake){
		"finalised by others":  func(f *fake) { f.foreignFinalize() },
		"logged out by others": func(f *fake) { f.foreignLogout() },
		"initialised by others": func(f *fake) {
			f.foreignFinalize()
			f.mu.Lock()
			f.initialized, f.foreign = true, false
			f.mu.Unlock()
		},
		"gone until it is initialised": func(f *fake) {
			f.vanish(cryptoki.ErrDeviceError)
			f.next("Initialize", answer{do: func() { f.gone = nil }})
		},
		"without its sessions": func(f *fake) { f.mu.Lock(); clear(f.sessions); f.loggedIn = false; f.mu.Unlock() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				token := f.open()
				key := f.signer(token)
				before := f.counts()
				lose(f)
				f.signs(key)
				f.is(before, map[string]int{"Initialize": 1, "Finalize": 1, "Login": 1})
				if err := token.health.trouble(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A token that stays away: calls fail at once, it is looked for less and less often, and
// when it is back, so is everything.
func TestAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		key := f.signer(token)
		f.vanish(cryptoki.ErrDeviceError)
		if _, err := key.Sign(t.Context(), []byte("m")); !errors.Is(err, ErrTokenUnavailable) {
			t.Fatalf("%v", err)
		}
		synctest.Wait()
		before, start := f.counts(), time.Now()
		for range 100 {
			if _, err := key.Sign(t.Context(), []byte("m")); !errors.Is(err, ErrTokenUnavailable) {
				t.Fatalf("%v", err)
			}
		}
		if time.Since(start) != 0 {
			t.Errorf("calls waited %v", time.Since(start))
		}
		f.is(before, map[string]int{"Sign": 0, "OpenSession": 0, "Random": 0, "Slots": 0})

		var tries []time.Duration
		for last := f.count("Initialize"); len(tries) < 12; {
			time.Sleep(time.Millisecond)
			if n := f.count("Initialize"); n != last {
				tries, last = append(tries, time.Since(start)), n
			}
		}
		want, at := firstPause, time.Duration(0)
		for i, now := range tries {
			pause := now - at
			at = now
			if pause < want/2-time.Millisecond || pause > want+want/2+10*time.Millisecond {
				t.Errorf("pause %d is %v, want about %v", i, pause, want)
			}
			want = min(2*want, lastPause)
		}
		if n := f.count("Login") - before["Login"]; n != 0 {
			t.Errorf("%d logins", n)
		}
		f.comeBack()
		time.Sleep(2 * lastPause)
		before = f.counts()
		f.signs(key)
		f.is(before, map[string]int{"Initialize": 0, "Sign": 1})

		// The next time it begins with short pauses again.
		f.vanish(cryptoki.ErrDeviceError)
		_, _ = key.Sign(t.Context(), []byte("m"))
		f.comeBack()
		time.Sleep(2 * firstPause)
		f.signs(key)
		f.foreignFinalize()
		f.signs(key)
	})
}

// Between two tries a module may be left that is not initialised: nobody calls into it, not
// even who has waited for the try to end.
func TestInitializeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		key := f.signer(token)
		f.vanish(cryptoki.ErrDeviceError)
		begun, release := make(chan struct{}), make(chan struct{})
		f.next("Initialize", answer{begun: begun, release: release, err: cryptoki.ErrGeneralError})
		sign := func() {
			if _, err := key.Sign(context.Background(), []byte("m")); !errors.Is(err, ErrTokenUnavailable) {
				t.Errorf("%v", err)
			}
		}
		var all sync.WaitGroup
		all.Go(sign)
		<-begun
		for range 5 {
			all.Go(sign)
		}
		all.Go(func() {
			if _, err := Tokens(context.Background(), f.path, ""); !errors.Is(err, ErrTokenUnavailable) {
				t.Errorf("a list: %v", err)
			}
		})
		synctest.Wait()
		close(release)
		all.Wait()
		f.comeBack()
		time.Sleep(2 * lastPause)
		f.signs(key)

		f.vanish(cryptoki.ErrDeviceError)
		f.fails("Initialize", cryptoki.ErrGeneralError)
		sign()
		if err := token.Close(); err != nil {
			t.Errorf("Close of a module that is not initialised: %v", err)
		}
		f.fails("Initialize", nil)
	})
}

// comesBack waits, by the real clock.
func comesBack(f *fake, key core.Signer) {
	f.t.Helper()
	for range 200 {
		if _, err := key.Sign(context.Background(), []byte("m")); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	f.t.Error("the token does not come back")
}

// Close ends the search for a token.
func TestCloseWhileAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		key := f.signer(token)
		f.vanish(cryptoki.ErrDeviceError)
		if _, err := key.Sign(t.Context(), []byte("m")); !errors.Is(err, ErrTokenUnavailable) {
			t.Fatalf("%v", err)
		}
		start := time.Now()
		if err := token.Close(); err != nil || time.Since(start) != 0 {
			t.Errorf("Close took %v: %v", time.Since(start), err)
		}
		before := f.counts()
		time.Sleep(time.Hour)
		f.is(before, map[string]int{"Initialize": 0, "Finalize": 0})
	})
}

// A key may be there after a call that failed: a second one would stay behind.
func TestGenerateIsNotRepeated(t *testing.T) {
	for _, result := range []cryptoki.Error{cryptoki.ErrDeviceError, cryptoki.ErrSessionHandleInvalid, cryptoki.ErrFunctionFailed} {
		for _, lost := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				token := f.open()
				f.signer(token) // the algorithm has been tried
				before := f.counts()
				f.next("GenerateKeyPair", answer{err: result})
				if lost {
					f.next("Random", answer{err: cryptoki.ErrDeviceError})
				}
				_, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{9}, Algorithm: core.Ed25519, Use: core.UseSign})
				if lost && !errors.Is(err, ErrTokenUnavailable) || err == nil {
					t.Errorf("%v: %v", result, err)
				}
				f.is(before, map[string]int{"GenerateKeyPair": 1})
				f.signer(token)
			})
		}
	}
}

// While a login fails, each restart has one, and it is with a PIN that was right before.
func TestOneLoginForEachRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		key := f.signer(f.open())
		before := f.counts()
		f.fails("Login", cryptoki.ErrDeviceError)
		f.foreignFinalize()
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if _, err := key.Sign(t.Context(), []byte("m")); !errors.Is(err, ErrTokenUnavailable) {
					t.Errorf("%v", err)
				}
			})
		}
		all.Wait()
		time.Sleep(10 * firstPause)
		f.fails("Login", nil)
		comesBack(f, key)
		now := f.counts()
		if logins, restarts := now["Login"]-before["Login"], now["Initialize"]-before["Initialize"]; logins > restarts || logins < 2 {
			t.Errorf("%d logins in %d restarts", logins, restarts)
		}
	})
}

// A PIN that is refused in a recovery is not tried again, and the token stays away.
func TestPINRefusedInRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		key := f.signer(f.open())
		before := f.counts()
		f.mu.Lock()
		f.pin = "changed"
		f.mu.Unlock()
		f.foreignFinalize()
		for range 3 {
			_, err := key.Sign(t.Context(), []byte("m"))
			if !errors.Is(err, ErrTokenUnavailable) || !strings.Contains(err.Error(), "PIN rejected") {
				t.Errorf("%v", err)
			}
			if err != nil && strings.Contains(err.Error(), fakePIN) {
				t.Errorf("the PIN is in the error: %v", err)
			}
			time.Sleep(time.Hour)
		}
		f.is(before, map[string]int{"Login": 1, "Initialize": 1})
	})
}

// A recovery logs in with the PIN that was right in this process, and with no other.
func TestOtherPINInRecovery(t *testing.T) {
	f := newFake(t)
	file := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(file, []byte(fakePIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	token, err := Open(t.Context(), Config{URI: "pkcs11:token=acme?module-path=" + f.path + "&pin-source=" + file})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = token.Close() }()
	key := f.signer(token)
	before := f.counts()
	if err := os.WriteFile(file, []byte("1111\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.foreignFinalize()
	if _, err := key.Sign(t.Context(), []byte("m")); !errors.Is(err, ErrTokenUnavailable) {
		t.Errorf("%v", err)
	}
	f.is(before, map[string]int{"Login": 0})
}

// Others in this process may have the module, or the login. Then nobody has checked the PIN.
func TestModuleOfOthers(t *testing.T) {
	t.Run("initialised", func(t *testing.T) {
		f := newFake(t)
		f.initialized = true
		if _, err := Open(t.Context(), Config{URI: f.uri("")}); !errors.Is(err, ErrModuleOwned) {
			t.Errorf("%v", err)
		}
		f.is(nil, map[string]int{"Finalize": 0, "Login": 0})
		f.initialized = false
		f.open()
	})
	t.Run("logged in", func(t *testing.T) {
		f := newFake(t)
		f.next("Slots", answer{do: func() { f.loggedIn = true }})
		if _, err := Open(t.Context(), Config{URI: f.uri("")}); !errors.Is(err, ErrModuleOwned) {
			t.Errorf("%v", err)
		}
		f.open()
	})
	t.Run("other arguments", func(t *testing.T) {
		f := newFake(t)
		f.open()
		if _, err := Open(t.Context(), Config{URI: f.uri("&x-init-args=other")}); !errors.Is(err, ErrModuleOwned) {
			t.Errorf("%v", err)
		}
	})
}

// Another token in the slot is not this one.
func TestOtherTokenInTheSlot(t *testing.T) {
	for name, restarted := range map[string]bool{"after a restart": true, "while it is open": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				key := f.signer(f.open())
				before := f.counts()
				f.mu.Lock()
				serial := f.info.Serial
				f.info.Serial = "other"
				f.mu.Unlock()
				if restarted {
					f.foreignFinalize()
				} else {
					f.next("Sign", answer{err: cryptoki.ErrDeviceError})
				}
				if _, err := key.Sign(t.Context(), []byte("m")); !errors.Is(err, ErrTokenUnavailable) {
					t.Errorf("%v", err)
				}
				synctest.Wait()
				f.is(before, map[string]int{"Login": 0})
				f.mu.Lock()
				f.info.Serial = serial
				f.mu.Unlock()
				time.Sleep(2 * lastPause)
				f.signs(key)
			})
		})
	}
}

// A key of the same name that is another one is not used.
func TestKeyReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		for _, algorithm := range []core.KeyAlgorithm{core.Ed25519, core.X25519} {
			f.objects = nil
			key := f.key(token, algorithm)
			f.key(token, algorithm)
			f.mu.Lock()
			for i, o := range f.objects[2:] {
				o.attributes[cryptoki.CKAID] = f.objects[i].attributes[cryptoki.CKAID]
			}
			f.objects = f.objects[2:]
			f.mu.Unlock()
			var err error
			before := f.counts()
			switch k := key.(type) {
			case core.Signer:
				_, err = k.Sign(t.Context(), []byte("m"))
			case core.Agreer:
				_, err = k.Agree(t.Context(), peerOf(t, ecdh.X25519()))
			}
			if !errors.Is(err, ErrKeyMismatch) {
				t.Errorf("%s: %v", algorithm, err)
			}
			// Only the call with the old handle came to the token.
			f.is(before, map[string]int{"Sign": one(algorithm == core.Ed25519), "Derive": one(algorithm == core.X25519)})
		}
	})
}

func one(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// A key is gone if the token says so while it is well and we are logged in. Otherwise it
// is the token that is gone.
func TestKeyGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		key := f.signer(token)
		open := func() error {
			_, err := token.Provider().OpenKey(t.Context(), key.Ref(), core.Secret{})
			return err
		}
		f.mu.Lock()
		all := f.objects
		f.mu.Unlock()
		put := func(objects []*object) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.objects = objects
		}
		put(nil)
		before := f.counts()
		if _, err := key.Sign(t.Context(), []byte("m")); !errors.Is(err, ErrKeyNotFound) || !errors.Is(err, core.ErrNotFound) {
			t.Errorf("%v", err)
		}
		if err := open(); !errors.Is(err, ErrKeyNotFound) {
			t.Errorf("%v", err)
		}
		if err := token.Provider().DeleteKey(t.Context(), key.Ref()); err != nil {
			t.Errorf("deleting it: %v", err)
		}
		f.is(before, map[string]int{"Finalize": 0})

		// SoftHSM finds nothing, without an error, when its files are gone.
		f.fails("TokenInfo", cryptoki.ErrGeneralError)
		for name, err := range map[string]error{"open": open(), "delete": token.Provider().DeleteKey(t.Context(), key.Ref())} {
			if !errors.Is(err, ErrTokenUnavailable) || errors.Is(err, core.ErrNotFound) {
				t.Errorf("%s while the token is gone: %v", name, err)
			}
		}
		f.fails("TokenInfo", nil)
		put(all)
		time.Sleep(2 * lastPause)
		f.signs(key)

		f.foreignLogout()
		if err := open(); err != nil {
			t.Errorf("open, logged out by others: %v", err)
		}
		f.foreignLogout()
		if err := token.Provider().DeleteKey(t.Context(), key.Ref()); err != nil || len(f.objects) != 0 {
			t.Errorf("delete, logged out by others: %v, %d objects", err, len(f.objects))
		}
	})
}
