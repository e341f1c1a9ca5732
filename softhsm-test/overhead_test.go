// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"bytes"
	"crypto/sha256"
	"slices"
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

// overhead gives the time of a signature by the provider, and that of a hash, C_SignInit
// and C_Sign without it: of calls that take turns, the time within which a tenth ends, which
// a busy machine changes least.
func overhead(t testing.TB, signatures int) (provider, direct time.Duration) {
	t.Helper()
	k := softhsmtest.New(t)
	token := open(t, k.URI())
	key := makeKey(t, token, core.ECDSAP256).(core.Signer)
	// The provider has initialised the module and is logged in; this one takes part in that.
	b := rival{bare: bare{Ctx: pkcs11.New(k.ModulePath)}}
	slots, err := b.GetSlotList(true)
	for _, slot := range slots {
		if info, e := b.GetTokenInfo(slot); e == nil && info.Label == k.Label {
			b.slot = slot
		}
	}
	if err == nil {
		b.session, err = b.OpenSession(b.slot, pkcs11.CKF_SERIAL_SESSION)
	}
	if err == nil {
		err = b.FindObjectsInit(b.session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)})
	}
	if err != nil {
		t.Fatal(err)
	}
	found, _, err := b.FindObjects(b.session, 2)
	if err != nil || len(found) != 1 || b.FindObjectsFinal(b.session) != nil {
		t.Fatal(found, err)
	}
	b.key = found[0]
	message := bytes.Repeat([]byte{1}, 200)
	runs := [2]func() error{
		func() error { _, err := key.Sign(t.Context(), message); return err },
		func() error {
			digest := sha256.Sum256(message)
			_, err := b.sign(b.key, digest[:])
			return err
		},
	}
	var times [2][]time.Duration
	for n := range 2 * signatures {
		begin := time.Now()
		if err := runs[n%2](); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); n >= 100 { // the first ones verify signatures
			times[n%2] = append(times[n%2], took)
		}
	}
	tenth := func(d []time.Duration) time.Duration { slices.Sort(d); return d[len(d)/10] }
	return tenth(times[0]), tenth(times[1])
}

// BenchmarkSign gives the ratio of the two on a fast token.
func BenchmarkSign(b *testing.B) {
	for b.Loop() {
		provider, direct := overhead(b, 20000)
		b.ReportMetric(float64(provider.Nanoseconds()), "ns/provider")
		b.ReportMetric(float64(direct.Nanoseconds()), "ns/bare")
		b.ReportMetric(float64(provider)/float64(direct), "ratio")
		b.ReportMetric(0, "ns/op")
	}
}
