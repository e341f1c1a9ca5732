// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/conclave-mls/conclave/core"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// A rival signs with the same module as package hsm, by the bare calls.
type rival struct {
	bare
	key pkcs11.ObjectHandle
}

// newRivals gives a key in a token, and it once more by the bare calls, as many times as
// there are to be sessions.
func newRivals(b *testing.B, n int) (core.Signer, []rival) {
	b.Helper()
	k := softhsmtest.New(b)
	token := open(b, k.URI()+"&x-max-sessions="+strconv.Itoa(n))
	key := makeKey(b, token, core.ECDSAP256).(core.Signer)
	// The provider has initialised the module and is logged in; these take part in that.
	rivals := make([]rival, n)
	for i := range rivals {
		r := rival{bare: bare{Ctx: pkcs11.New(k.ModulePath)}}
		slots, err := r.GetSlotList(true)
		for _, slot := range slots {
			if info, e := r.GetTokenInfo(slot); e == nil && info.Label == k.Label {
				r.slot = slot
			}
		}
		if err == nil {
			r.session, err = r.OpenSession(r.slot, pkcs11.CKF_SERIAL_SESSION)
		}
		if err == nil {
			err = r.FindObjectsInit(r.session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)})
		}
		if err != nil {
			b.Fatal(err)
		}
		found, _, err := r.FindObjects(r.session, 2)
		if err != nil || len(found) != 1 || r.FindObjectsFinal(r.session) != nil {
			b.Fatal(found, err)
		}
		r.key = found[0]
		rivals[i] = r
	}
	return key, rivals
}

// BenchmarkSign gives the time of a signature by the provider, that of a hash, C_SignInit
// and C_Sign without it, and the ratio, on a fast token: for callers that never give up,
// for such as could, and for as many of those as there are sessions and processors. They
// take turns in short rounds; the median of the rounds counts.
func BenchmarkSign(b *testing.B) {
	b.Run("without deadline", func(b *testing.B) { sign(b, context.Background(), 1) })
	b.Run("with deadline", func(b *testing.B) { sign(b, b.Context(), 1) })
	b.Run("with deadline, several", func(b *testing.B) { sign(b, b.Context(), runtime.GOMAXPROCS(0)) })
}

func sign(b *testing.B, ctx context.Context, callers int) {
	key, rivals := newRivals(b, callers)
	message := bytes.Repeat([]byte{1}, 200)
	round := func(sign func(caller int) error) time.Duration {
		const each = 50
		begin := time.Now()
		var wg sync.WaitGroup
		for caller := range callers {
			wg.Go(func() {
				for range each {
					if err := sign(caller); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		return time.Since(begin) / time.Duration(each*callers)
	}
	by := [2]func(caller int) error{
		func(int) error { _, err := key.Sign(ctx, message); return err },
		func(caller int) error {
			digest := sha256.Sum256(message)
			_, err := rivals[caller].sign(rivals[caller].key, digest[:])
			return err
		},
	}
	round(by[0]) // the first ones verify signatures
	var times [2][]time.Duration
	for b.Loop() {
		for i := range by {
			times[i] = append(times[i], round(by[i]))
		}
	}
	median := func(d []time.Duration) float64 { slices.Sort(d); return float64(d[len(d)/2].Nanoseconds()) }
	b.ReportMetric(median(times[0]), "ns/provider")
	b.ReportMetric(median(times[1]), "ns/bare")
	b.ReportMetric(median(times[0])/median(times[1]), "ratio")
	b.ReportMetric(0, "ns/op")
}
