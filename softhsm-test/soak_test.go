// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

var soak = flag.Bool("soak", false, "test on a TPM in software and on opencryptoki as well, which takes minutes")

// others are the tokens that only "make soak" has. A process has one of them, and nothing
// beside it: it is named in its environment.
var others = []kind{{"tpm", softhsmtest.TPM}, {"opencryptoki", softhsmtest.OpenCryptoki}}

const soakToken = "SOFTHSMTEST_TOKEN"

// chosen gives the one that is named there, or, if there is none, these.
func chosen(or ...kind) []kind {
	if i := slices.IndexFunc(others, func(k kind) bool { return k.name == os.Getenv(soakToken) }); i >= 0 {
		return others[i : i+1]
	}
	return or
}

// on runs tests on one of the others, each in a process of its own.
func on(t *testing.T, token string, command func(string, ...string) *exec.Cmd, tests ...string) {
	t.Helper()
	for _, name := range tests {
		t.Run(name, func(t *testing.T) { childBy(t, command, name, soakToken+"="+token) })
	}
}

// A TPM is slow, has 1024 sessions and few algorithms: no P-521, of which the module writes
// the public key wrongly; no Ed25519; no agreement; and nothing that encrypts.
func TestTPM(t *testing.T) {
	if !*soak {
		return
	}
	on(t, "tpm", exec.Command, "TestProbe", "TestSuites", "TestLocalCA/tpm/p11", "TestLocalCA/tpm/crypto11", "TestKEK",
		"TestManyGoroutines", "TestFewSessions", "TestWrongPIN", "TestLocked", "TestSpy", "TestRemove", "TestVanish",
		"TestConversationWithoutToken/tpm,_handshake_1", "TestConversationWithoutToken/tpm,_handshake_2")
}

// The software token of opencryptoki has no elliptic curves in Debian 12, thus no key of MLS
// for the other tests; it has RSA for a CA, and a KEK in the oldest way.
func TestOpenCryptoki(t *testing.T) {
	if !*soak {
		return
	}
	on(t, "opencryptoki", func(program string, args ...string) *exec.Cmd { return softhsmtest.Isolated(t, program, args...) },
		"TestProbe", "TestSuites", "TestLocalCA", "TestKEK", "TestKEKForged", "TestKEKTemplate", "TestWrongPIN", "TestLocked")
}

// Others have all the sessions of a token that has few.
func TestFewSessions(t *testing.T) {
	if kinds[0].name != "tpm" {
		return // the others have no limit
	}
	k := softhsmtest.TPM(t)
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

// Three wrong PINs lock these tokens. Before the third one says so, and is left alone
// unless the last try is to be taken. Then the right one is another refusal.
func TestLocked(t *testing.T) {
	for _, kind := range chosen() {
		spy := softhsmtest.Spy(t, kind.make(t))
		cfg := hsm.Config{URI: spy.URI() + "&x-final-try=yes", Latch: t.TempDir()}
		for i := range 3 {
			writePIN(t, spy, fmt.Sprint("wrong ", i))
			if i == 2 && kind.name == "opencryptoki" {
				if _, err := hsm.Open(t.Context(), hsm.Config{URI: spy.URI(), Latch: cfg.Latch}); !errors.Is(err, hsm.ErrPINLocked) {
					t.Errorf("the last try: %v", err)
				}
			}
			for range 2 {
				if _, err := hsm.Open(t.Context(), cfg); !errors.Is(err, core.ErrDenied) {
					t.Errorf("wrong PIN %d: %v", i, err)
				}
			}
		}
		writePIN(t, spy, spy.PIN)
		for range 2 {
			if _, err := hsm.Open(t.Context(), cfg); !errors.Is(err, hsm.ErrPINLocked) {
				t.Errorf("the right PIN of a locked token: %v", err)
			}
		}
		if calls := spy.Calls(t, "C_Login"); len(calls) != 4 {
			t.Errorf("%d logins for four PINs", len(calls))
		}
	}
}
