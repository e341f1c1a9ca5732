// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

const wrongPIN = "4 wrong PIN"

func writePIN(t *testing.T, k *softhsmtest.Token, pin string) {
	t.Helper()
	if err := os.WriteFile(k.PINFile, []byte(pin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What the process gets that comes after the first.
const (
	pinURI   = "SOFTHSMTEST_PIN_URI"
	pinLatch = "SOFTHSMTEST_PIN_LATCH"
)

// A wrong PIN reaches the module once: not again when it is opened again, nor by many at
// once, nor after a restart. The right one is tried.
func TestWrongPIN(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			if os.Getenv(childTest) == t.Name() {
				for range 3 {
					if _, err := hsm.Open(t.Context(), hsm.Config{URI: os.Getenv(pinURI), Latch: os.Getenv(pinLatch)}); !errors.Is(err, hsm.ErrPINRejected) {
						t.Errorf("a PIN that another process was refused: %v", err)
					}
				}
				return
			}
			spy := softhsmtest.Spy(t, kind.make(t))
			var log bytes.Buffer
			cfg := hsm.Config{URI: spy.URI(), Latch: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&log, nil))}
			if kind.name == "opencryptoki" { // which is locked by three: see TestLocked
				cfg.URI += "&x-final-try=yes"
			}
			refused := func() {
				t.Helper()
				token, err := hsm.Open(t.Context(), cfg)
				if err == nil {
					_ = token.Close()
				}
				if !errors.Is(err, hsm.ErrPINRejected) || !errors.Is(err, core.ErrDenied) || strings.Contains(err.Error(), wrongPIN) {
					t.Errorf("a wrong PIN: %v", err)
				}
			}
			logins := func(want int) {
				t.Helper()
				if calls := spy.Calls(t, "C_Login"); len(calls) != want {
					t.Fatalf("%d logins reached the module, want %d", len(calls), want)
				}
			}
			writePIN(t, spy, wrongPIN)
			var all sync.WaitGroup
			for range 10 {
				all.Go(refused)
			}
			all.Wait()
			refused()
			logins(1)

			before := len(spy.Calls(t, "C_Initialize"))
			child(t, t.Name(), pinURI+"="+cfg.URI, pinLatch+"="+cfg.Latch)
			if len(spy.Calls(t, "C_Initialize")) == before {
				t.Fatal("the other process has not come as far as the module")
			}
			logins(1)

			writePIN(t, spy, wrongPIN+"2")
			refused()
			logins(2)
			writePIN(t, spy, wrongPIN)
			refused()
			logins(2)
			writePIN(t, spy, spy.PIN)
			token := open(t, cfg.URI)
			logins(3)
			if _, err := token.Provider().OpenKey(t.Context(), "pkcs11:object=none", core.Secret{}); err == nil {
				t.Error("a key of no name")
			}
			for _, secret := range []string{wrongPIN, spy.PIN} {
				if strings.Contains(log.String(), secret) {
					t.Errorf("the log has a PIN:\n%s", &log)
				}
			}
		})
	}
}

// A token that comes back is logged in to with the PIN that this process has used, and
// with no other.
func TestPINAfterReturn(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	k := softhsmtest.New(t)
	spy := softhsmtest.Spy(t, k)
	token := open(t, spy.URI())
	key := makeKey(t, token, core.ECDSAP256).(core.Signer)
	vanish := func() {
		t.Helper()
		k.Remove(t)
		if _, err := key.Sign(t.Context(), []byte("message")); !errors.Is(err, hsm.ErrTokenUnavailable) {
			t.Fatal(err)
		}
		k.Restore(t)
	}
	signs := func() (err error) {
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if _, err = key.Sign(t.Context(), []byte("message")); err == nil || errors.Is(err, core.ErrDenied) {
				return err
			}
		}
		return err
	}
	vanish()
	if err := signs(); err != nil {
		t.Fatal(err)
	}
	if calls := spy.Calls(t, "C_Login"); len(calls) != 2 {
		t.Fatalf("%d logins for two", len(calls))
	}
	writePIN(t, spy, wrongPIN)
	vanish()
	time.Sleep(2 * time.Second) // several tries
	if err := signsOnce(t, key); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("a token that is not logged in to: %v", err)
	}
	if calls := spy.Calls(t, "C_Login"); len(calls) != 2 {
		t.Errorf("%d logins with a PIN that was never proven", len(calls)-2)
	}
}

func signsOnce(t *testing.T, key core.Signer) error {
	_, err := key.Sign(t.Context(), []byte("message"))
	return err
}
