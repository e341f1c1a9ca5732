// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// work signs in eight goroutines until the test is over. What fails has to be
// ErrTokenUnavailable, in time.
type work struct {
	signed, failed atomic.Int64
	stop           context.CancelFunc
	all            sync.WaitGroup
}

const patience = 2 * time.Second

func startWork(t *testing.T, key core.Signer) *work {
	w := &work{}
	var ctx context.Context
	ctx, w.stop = context.WithCancel(context.Background())
	for range 8 {
		w.all.Go(func() {
			for message := []byte("a message"); ctx.Err() == nil; message[0]++ {
				in, cancel := context.WithTimeout(context.Background(), patience)
				begin := time.Now()
				signature, err := key.Sign(in, message)
				took := time.Since(begin)
				cancel()
				switch {
				case err == nil:
					w.signed.Add(1)
					if !valid(key, message, signature) {
						t.Error("a wrong signature")
						return
					}
				case !errors.Is(err, hsm.ErrTokenUnavailable) || !errors.Is(err, core.ErrUnavailable):
					t.Error("while the token is away: ", err)
					return
				default:
					w.failed.Add(1)
					time.Sleep(time.Millisecond)
				}
				if took > patience+2*time.Second {
					t.Errorf("a call takes %v", took)
					return
				}
			}
		})
	}
	return w
}

// end stops the work.
func (w *work) end() {
	w.stop()
	w.all.Wait()
}

// grows waits until the counter has grown by n.
func grows(t *testing.T, what string, counter *atomic.Int64, n int64) {
	t.Helper()
	from, begin := counter.Load(), time.Now()
	for counter.Load() < from+n {
		if time.Since(begin) > 40*time.Second {
			t.Fatalf("%s: %d in 40 s", what, counter.Load()-from)
		}
		time.Sleep(time.Millisecond)
	}
}

// A token is taken away while many use it, and brought back. Calls fail in time and by
// name, nothing says that the key is gone, and work goes on in the same process.
func TestVanish(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		if kind.name == "nss" { // it has no way to vanish
			continue
		}
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			if apart(t) {
				vanish(t, kind.make(t))
			}
		})
	}
}

func vanish(t *testing.T, k *softhsmtest.Token) {
	token := open(t, k.URI())
	key := makeKey(t, token, core.ECDSAP256).(core.Signer)
	w := startWork(t, key)
	defer w.end()
	for range 2 {
		grows(t, "signatures", &w.signed, 50)
		k.Remove(t)
		grows(t, "failures", &w.failed, 16)
		before := w.signed.Load()
		grows(t, "failures", &w.failed, 16)
		if n := w.signed.Load() - before; n > 0 {
			t.Errorf("%d signatures of a token that is away", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := token.Provider().OpenKey(ctx, key.Ref(), core.Secret{})
		if !errors.Is(err, hsm.ErrTokenUnavailable) || errors.Is(err, core.ErrNotFound) {
			t.Error("to open a key of a token that is away:", err)
		}
		if err := token.Provider().DeleteKey(ctx, key.Ref()); !errors.Is(err, hsm.ErrTokenUnavailable) {
			t.Error("to delete a key of a token that is away:", err)
		}
		_, err = token.Provider().GenerateKey(ctx, core.KeySpec{ID: [16]byte{1}, Algorithm: core.ECDSAP256, Use: core.UseSign})
		if !errors.Is(err, hsm.ErrTokenUnavailable) {
			t.Error("to make a key on a token that is away:", err)
		}
		cancel()
		k.Restore(t)
	}
	grows(t, "signatures after the return", &w.signed, 50)
	w.end()
	again, err := token.Provider().OpenKey(t.Context(), key.Ref(), core.Secret{})
	if err != nil || again.Ref() != key.Ref() {
		t.Error("the key after the return:", err)
	}
	t.Logf("%d signatures, %d failures", w.signed.Load(), w.failed.Load())
}

// The process behind p11-kit is killed; the next is there at once.
func TestKilledWorker(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	k := softhsmtest.P11Kit(t)
	token := open(t, k.URI())
	w := startWork(t, makeKey(t, token, core.ECDSAP256).(core.Signer))
	defer w.end()
	for range 3 {
		grows(t, "signatures", &w.signed, 50)
		k.KillWorker(t)
	}
	grows(t, "signatures after three kills", &w.signed, 50)
	w.end()
	if n := k.Workers(); n != 1 {
		t.Errorf("%d connections at the end", n)
	}
	t.Logf("%d signatures, %d failures", w.signed.Load(), w.failed.Load())
}
