// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"errors"
	"flag"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/pure"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

var tpm = flag.Bool("tpm", false, "test on a TPM in software as well, which takes minutes")

// A TPM is slow, has 1024 sessions, and no keys that end with one. Each test has its own,
// in a process of its own: its module is not well after a failure.
func TestTPM(t *testing.T) {
	if !*tpm {
		return // for make soak
	}
	for name, run := range map[string]func(*testing.T, *softhsmtest.Token){
		"signs": tpmSigns, "goroutines": manyGoroutines, "sessions": tpmSessions, "PIN": tpmPIN, "probe": tpmProbe,
	} {
		t.Run(name, func(t *testing.T) {
			if apart(t) {
				run(t, softhsmtest.TPM(t))
			}
		})
	}
}

func tpmSigns(t *testing.T, k *softhsmtest.Token) {
	source, token := pure.New(), open(t, k.URI())
	for id, alg := range map[core.SuiteID]core.KeyAlgorithm{2: core.ECDSAP256, 7: core.ECDSAP384} {
		suite, err := source.Suite(id)
		if err != nil {
			t.Fatal(err)
		}
		key := makeKey(t, token, alg)
		signs(t, suite, key.(core.Signer))
		deleteKey(t, token, key)
		if err := signsOnce(t, key.(core.Signer)); !errors.Is(err, hsm.ErrKeyNotFound) {
			t.Errorf("%s: a key that was deleted: %v", alg, err)
		}
	}
	for _, alg := range []core.KeyAlgorithm{core.Ed25519, core.Ed448, core.ECDSAP521} {
		if _, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{Algorithm: alg, Use: core.UseSign}); !errors.Is(err, hsm.ErrUnsupported) {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

// It would be locked after three.
func tpmPIN(t *testing.T, k *softhsmtest.Token) {
	writePIN(t, k, wrongPIN)
	cfg := hsm.Config{URI: k.URI(), Latch: t.TempDir()}
	for range 6 {
		if _, err := hsm.Open(t.Context(), cfg); !errors.Is(err, hsm.ErrPINRejected) {
			t.Errorf("a wrong PIN: %v", err)
		}
	}
	writePIN(t, k, k.PIN)
	makeKey(t, open(t, cfg.URI), core.ECDSAP256)
}

func tpmProbe(t *testing.T, k *softhsmtest.Token) {
	report, err := open(t, k.URI()).Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", report)
	for _, a := range report.Keys {
		if works := a.State == hsm.Works; works != (a.Name == string(core.ECDSAP256)) && a.Name != string(core.ECDSAP384) {
			t.Errorf("%s works: %v", a.Name, works)
		}
	}
}

// Others have all the sessions.
func tpmSessions(t *testing.T, k *softhsmtest.Token) {
	token := open(t, k.URI())
	key := makeKey(t, token, core.ECDSAP256).(core.Signer)
	b := bare{Ctx: pkcs11.New(k.ModulePath)} // the module is initialised
	slots, err := b.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	var sessions []pkcs11.SessionHandle
	for err == nil && len(sessions) < 5000 {
		var s pkcs11.SessionHandle
		if s, err = b.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION); err == nil {
			sessions = append(sessions, s)
		}
	}
	if !errors.Is(err, pkcs11.Error(pkcs11.CKR_SESSION_COUNT)) {
		t.Fatalf("after %d sessions: %v", len(sessions), err)
	}
	for range 20 { // with what it has
		if err := signsOnce(t, key); err != nil && !errors.Is(err, hsm.ErrSessionsExhausted) {
			t.Fatalf("beside %d sessions of others: %v", len(sessions), err)
		}
	}
	for _, s := range sessions {
		if err := b.CloseSession(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := signsOnce(t, key); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
