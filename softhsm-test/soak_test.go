// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"bytes"
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
func on(t *testing.T, token string, command func(testing.TB, string, ...string) *exec.Cmd, tests ...string) {
	t.Helper()
	for _, name := range tests {
		t.Run(name, func(t *testing.T) { childBy(t, command, name, soakToken+"="+token) })
	}
}

// A TPM is slow, has 1024 sessions and few algorithms: the tables have P-256 and P-384, no
// agreement, and nothing that encrypts, so no KEK.
func TestTPM(t *testing.T) {
	if !*soak {
		return
	}
	on(t, "tpm", plain, "TestProbe", "TestProvider", "TestSuites", "TestLocalCA/tpm/p11", "TestLocalCA/tpm/crypto11", "TestKEK",
		"TestManyGoroutines", "TestFewSessions", "TestWrongPIN", "TestLocked", "TestTokens/tpm", "TestSpy", "TestRemove", "TestVanish",
		"TestConversationWithoutToken/tpm,_handshake_1", "TestConversationWithoutToken/tpm,_handshake_2", "TestFaultsOfTPM")
}

// What is wrong with the module of the TPM, by bare calls: why package hsm does as it does,
// and why not all tests can be run. A version that is better fails here.
func TestFaultsOfTPM(t *testing.T) {
	if kinds[0].name != "tpm" {
		return
	}
	k := softhsmtest.TPM(t)
	b := login(t, k)

	// New keys have the handles of others once the first one is deleted, until a restart.
	public, private, _ := b.pair(t, oidP256, "first", []byte{1})
	second, _, point := b.pair(t, oidP256, "second", []byte{2})
	if err := errors.Join(b.DestroyObject(b.session, private), b.DestroyObject(b.session, public)); err != nil {
		t.Fatal(err)
	}
	third, _, same := b.pair(t, oidP256, "third", []byte{3})
	if third != second || !bytes.Equal(same, point) {
		t.Errorf("keys have the handles %d and %d: it is well now", second, third)
	}

	// A restart helps, and shows keys that another process has made.
	tool(t, k, "--keypairgen", "--key-type", "EC:prime256v1", "--id", "04", "--label", "fourth")
	if ids := b.ids(t, pkcs11.CKO_PRIVATE_KEY); slices.Contains(ids, "04") {
		t.Errorf("keys of another process are seen at once: it is well now: %v", ids)
	}
	if err := b.Finalize(); err != nil {
		t.Fatal(err)
	}
	b = login(t, k)
	if ids := b.ids(t, pkcs11.CKO_PRIVATE_KEY); !slices.Equal(ids, []string{"02", "03", "04"}) {
		t.Errorf("after a restart the keys are %v", ids)
	}

	// Of P-521 the length of the point is wrong, no such key signs, and one that was to sign
	// cannot be deleted.
	_, private, point = b.pair(t, oidP521, "P-521", []byte{5})
	if len(point) != 135 || point[0] != 4 || point[1] != 0x85 {
		t.Errorf("the point is %x: it is well now", point)
	}
	if _, err := b.sign(private, make([]byte, 64)); !errors.Is(err, pkcs11.Error(pkcs11.CKR_HOST_MEMORY)) {
		t.Errorf("a signature of P-521: %v", err)
	}
	if err := b.DestroyObject(b.session, private); !errors.Is(err, pkcs11.Error(pkcs11.CKR_FUNCTION_FAILED)) {
		t.Errorf("to delete a key that could not sign: %v", err)
	}
}

// The software token of opencryptoki has no elliptic curves in Debian 12, thus no key of MLS
// for the other tests; it has RSA for a CA, and a KEK in the oldest way.
func TestOpenCryptoki(t *testing.T) {
	if !*soak {
		return
	}
	on(t, "opencryptoki", softhsmtest.Isolated, "TestProbe", "TestSuites", "TestLocalCA", "TestKEK", "TestKEKForged", "TestKEKTemplate", "TestWrongPIN", "TestLocked")
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
