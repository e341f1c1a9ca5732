// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// valid checks a P-256 signature in the form of MLS.
func valid(key core.PrivateKey, message, signature []byte) bool {
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), key.Public())
	digest := sha256.Sum256(message)
	return err == nil && ecdsa.VerifyASN1(public, digest[:], signature)
}

// Two sessions and 200 goroutines, half of which have little time. Nobody waits longer
// than that, nobody gets a wrong signature, the process lives, and nothing is left over.
func TestManyGoroutines(t *testing.T) {
	t.Parallel()
	for _, kind := range everywhere() {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			if apart(t) {
				manyGoroutines(t, kind.make(t))
			}
		})
	}
}

func manyGoroutines(t *testing.T, k *softhsmtest.Token) {
	others := goleak.IgnoreCurrent()
	token, err := hsm.Open(t.Context(), hsm.Config{URI: k.URI() + "&x-max-sessions=2", Latch: latch(t)})
	if err != nil {
		t.Fatal(err)
	}
	key := makeKey(t, token, core.ECDSAP256).(core.Signer)
	var signed, expired, exhausted atomic.Int64
	var all sync.WaitGroup
	end := time.Now().Add(*load)
	for i := range 200 {
		all.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
				patience := time.Minute
				if i%2 == 1 {
					patience = time.Duration(1+(i+n)%20) * time.Millisecond
				}
				message := fmt.Appendf(nil, "message %d of %d", n, i)
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				begin := time.Now()
				signature, err := key.Sign(ctx, message)
				took := time.Since(begin)
				cancel()
				switch {
				case err == nil:
					signed.Add(1)
					if n%16 == 0 && !valid(key, message, signature) {
						t.Errorf("a wrong signature of %q", message)
						return
					}
				case errors.Is(err, hsm.ErrSessionsExhausted) && errors.Is(err, context.DeadlineExceeded):
					exhausted.Add(1)
				case errors.Is(err, context.DeadlineExceeded): // in the module, or before anything
					expired.Add(1)
				default:
					t.Errorf("after %v: %v", took, err)
					return
				}
				if took > patience+5*time.Second { // the machine may be busy
					t.Errorf("who has %v waits %v", patience, took)
					return
				}
			}
		})
	}
	all.Wait()
	if signed.Load() < 200 || exhausted.Load() == 0 {
		t.Errorf("%d calls signed, %d had no session, %d expired", signed.Load(), exhausted.Load(), expired.Load())
	}
	deleteKey(t, token, key)
	if err := token.Close(); err != nil {
		t.Error(err)
	}
	goleak.VerifyNone(t, others)
	t.Logf("%d calls signed, %d had no session, %d expired in %v", signed.Load(), exhausted.Load(), expired.Load(), *load)
}

// Never more sessions than the pool has, and one for the login. All are closed. In
// p11-kit's client calls hang for ever where the other side ends while several are under
// way, so there is one.
func TestSessions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, limit string
		make        func(testing.TB) *softhsmtest.Token
		most        int
	}{
		{"softhsm", "", softhsmtest.New, 9},
		{"three of softhsm", "&x-max-sessions=3", softhsmtest.New, 4},
		{"p11-kit", "", softhsmtest.P11Kit, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			spy := softhsmtest.Spy(t, c.make(t))
			token, err := hsm.Open(t.Context(), hsm.Config{URI: spy.URI() + c.limit})
			if err != nil {
				t.Fatal(err)
			}
			key := makeKey(t, token, core.ECDSAP256).(core.Signer)
			var all sync.WaitGroup
			for range 50 {
				all.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					for range 4 {
						if _, err := key.Sign(ctx, []byte("message")); err != nil {
							t.Error(err)
						}
					}
				})
			}
			all.Wait()
			if err := token.Close(); err != nil {
				t.Error(err)
			}
			now, most := 0, 0
			calls := spy.Calls(t, "C_OpenSession", "C_CloseSession", "C_CloseAllSessions", "C_Finalize")
			for _, call := range calls {
				switch call {
				case "C_OpenSession":
					now++
				case "C_CloseSession":
					now--
				default:
					now = 0
				}
				most = max(most, now)
			}
			if most > c.most || most < 2 || now != 0 || calls[len(calls)-1] != "C_Finalize" {
				t.Errorf("%d sessions at once and %d at the end, want at most %d: %v", most, now, c.most, calls)
			}
		})
	}
}
