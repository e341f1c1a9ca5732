// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/miekg/pkcs11"

	"github.com/conclave-mls/conclave/hsm"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// A kind of tokens.
type kind struct {
	name string
	make func(testing.TB) *softhsmtest.Token
}

// kinds are the tokens that "make test" has, or the one that was chosen.
var kinds = chosen([]kind{
	{"softhsm", softhsmtest.New},
	{"nss", softhsmtest.NSS},
	{"p11-kit", softhsmtest.P11Kit},
}...)

const given = "given"

// everywhere is for tests that are safe on a token with other keys, which is used if there
// is one.
func everywhere() []kind {
	uri := os.Getenv("CONCLAVE_HSM")
	if uri == "" {
		return kinds
	}
	return []kind{{given, func(testing.TB) *softhsmtest.Token { return softhsmtest.Given(uri) }}}
}

// A bare token is used without package hsm.
type bare struct {
	*pkcs11.Ctx
	slot    uint
	session pkcs11.SessionHandle
}

// initialize loads the module and initialises it, for the time of the test.
func initialize(t testing.TB, k *softhsmtest.Token) *pkcs11.Ctx {
	t.Helper()
	c := pkcs11.New(k.ModulePath)
	if c == nil {
		t.Fatalf("%s cannot be loaded", k.ModulePath)
	}
	t.Cleanup(c.Destroy)
	var options []pkcs11.InitializeOption
	if k.InitArgs != "" {
		args := append([]byte(k.InitArgs), 0)
		options = append(options, pkcs11.InitializeWithReserved(unsafe.Pointer(&args[0])))
	}
	if err := hsm.InitializeAlone(func() error { return c.Initialize(options...) }); err != nil {
		t.Fatal("initialize: ", err)
	}
	t.Cleanup(func() { _ = c.Finalize() })
	return c
}

// login finds the token by its label and logs in.
func login(t testing.TB, k *softhsmtest.Token) bare {
	t.Helper()
	b := bare{Ctx: initialize(t, k)}
	slots, err := b.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, slot := range slots {
		info, err := b.GetTokenInfo(slot)
		if err == nil && strings.TrimRight(info.Label, " \x00") == k.Label {
			b.slot, found = slot, true
		}
	}
	if !found {
		t.Fatalf("no slot has the token %q", k.Label)
	}
	if b.session, err = b.OpenSession(b.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
		t.Fatal("open a session: ", err)
	}
	if err := b.Login(b.session, pkcs11.CKU_USER, k.PIN); err != nil {
		t.Fatal("log in: ", err)
	}
	return b
}

var (
	oidP256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}
	oidP521 = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23}
)

// pair makes a key on the token and gives its halves, and the point as it is read.
func (b bare) pair(t testing.TB, curve []byte, label string, id []byte) (public, private pkcs11.ObjectHandle, point []byte) {
	t.Helper()
	attribute := pkcs11.NewAttribute
	public, private, err := b.GenerateKeyPair(b.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
		[]*pkcs11.Attribute{
			attribute(pkcs11.CKA_TOKEN, true), attribute(pkcs11.CKA_VERIFY, true), attribute(pkcs11.CKA_EC_PARAMS, curve),
			attribute(pkcs11.CKA_LABEL, label), attribute(pkcs11.CKA_ID, id),
		},
		[]*pkcs11.Attribute{
			attribute(pkcs11.CKA_TOKEN, true), attribute(pkcs11.CKA_PRIVATE, true), attribute(pkcs11.CKA_SENSITIVE, true),
			attribute(pkcs11.CKA_EXTRACTABLE, false), attribute(pkcs11.CKA_SIGN, true),
			attribute(pkcs11.CKA_LABEL, label), attribute(pkcs11.CKA_ID, id),
		})
	if err != nil {
		t.Fatal(err)
	}
	values, err := b.GetAttributeValue(b.session, public, []*pkcs11.Attribute{attribute(pkcs11.CKA_EC_POINT, nil)})
	if err != nil {
		t.Fatal(err)
	}
	return public, private, values[0].Value
}

// generate makes a P-256 key on the token and gives its public key, which is read from it.
func (b bare) generate(t testing.TB, label string, id []byte) (pkcs11.ObjectHandle, *ecdsa.PublicKey) {
	t.Helper()
	_, private, point := b.pair(t, oidP256, label, id)
	if len(point) != 67 || point[0] != 4 || point[1] != 65 {
		t.Fatalf("the point is %x", point)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point[2:])
	if err != nil {
		t.Fatal(err)
	}
	return private, key
}

// sign signs a digest with the bare calls.
func (b bare) sign(key pkcs11.ObjectHandle, digest []byte) ([]byte, error) {
	if err := b.SignInit(b.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, key); err != nil {
		return nil, err
	}
	return b.Sign(b.session, digest)
}

// use makes a key and signs with it.
func (b bare) use(t testing.TB) {
	t.Helper()
	private, public := b.generate(t, "key", []byte{1, 2})
	digest := sha256.Sum256([]byte("message"))
	signature, err := b.sign(private, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	if !verifies(public, digest[:], signature) {
		t.Fatalf("the signature %x is wrong", signature)
	}
	digest[0]++
	if verifies(public, digest[:], signature) {
		t.Fatal("the signature is valid for anything")
	}
}

func verifies(public *ecdsa.PublicKey, digest, signature []byte) bool {
	half := len(signature) / 2
	return ecdsa.Verify(public, digest, new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:]))
}

// Two tokens of each kind at once, and by different modules: none sees another's.
func TestTokens(t *testing.T) {
	for _, kind := range kinds {
		for _, name := range []string{kind.name, kind.name + " again"} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				k := kind.make(t)
				if k.Kind != kind.name || !strings.Contains(k.URI(), "pin-source=file:/") || strings.Contains(k.URI(), k.PIN) {
					t.Fatalf("%s: %s", k.Kind, k.URI())
				}
				b := login(t, k)
				b.use(t)
				if found := b.find(t, pkcs11.CKO_PRIVATE_KEY); found != 1 {
					t.Fatalf("the new token has %d private keys", found)
				}
			})
		}
	}
}

// find counts the objects of a class.
func (b bare) find(t testing.TB, class uint) int {
	t.Helper()
	if err := b.FindObjectsInit(b.session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class)}); err != nil {
		t.Fatal(err)
	}
	found, _, err := b.FindObjects(b.session, 100)
	if err := errors.Join(err, b.FindObjectsFinal(b.session)); err != nil {
		t.Fatal(err)
	}
	return len(found)
}

func TestSpy(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			spy := softhsmtest.Spy(t, kind.make(t))
			if calls := spy.Calls(t); calls != nil {
				t.Fatal("calls before any:", calls)
			}
			b := login(t, spy)
			b.use(t)
			if err := b.Login(b.session, pkcs11.CKU_USER, "wrong"); !errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
				t.Fatal(err)
			}
			want := []string{"C_Login", "C_GenerateKeyPair", "C_SignInit", "C_Login"}
			if calls := spy.Calls(t, "C_Login", "C_GenerateKeyPair", "C_SignInit"); !slices.Equal(calls, want) {
				t.Errorf("the spy saw %v", calls)
			}
			if all := spy.Calls(t); len(all) < 10 || all[0] == "C_Login" {
				t.Errorf("the spy saw %v", all)
			}
		})
	}
}

// What is removed fails and is the same afterwards.
func TestRemove(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		if kind.name == "nss" {
			continue
		}
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			k := kind.make(t)
			b := login(t, k)
			key, public := b.generate(t, "key", []byte{1})
			digest := make([]byte, 32)
			k.Remove(t)
			if _, err := b.sign(key, digest); err == nil {
				t.Fatal("a token that is gone signs")
			}
			k.Restore(t)
			if err := b.Finalize(); err != nil {
				t.Fatal(err)
			}
			b = login(t, k)
			if found := b.find(t, pkcs11.CKO_PRIVATE_KEY); found != 1 {
				t.Fatalf("the token that is back has %d private keys", found)
			}
			if key, _ = b.generate(t, "other", []byte{2}); key == 0 {
				t.Fatal("no key")
			}
			if signature, err := b.sign(key, digest); err != nil || verifies(public, digest, signature) {
				t.Fatal("the other key is the same:", err)
			}
		})
	}
}

func TestKillWorker(t *testing.T) {
	t.Parallel()
	k := softhsmtest.P11Kit(t)
	if n := k.Workers(); n != 0 {
		t.Fatalf("%d workers before anybody has connected", n)
	}
	b := login(t, k)
	key, _ := b.generate(t, "key", []byte{1})
	if n := k.Workers(); n != 1 {
		t.Fatalf("%d workers for one connection", n)
	}
	k.KillWorker(t)
	if _, err := b.sign(key, make([]byte, 32)); !errors.Is(err, pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)) {
		t.Fatal(err)
	}
	if err := b.Finalize(); err != nil {
		t.Fatal(err)
	}
	if found := login(t, k).find(t, pkcs11.CKO_PRIVATE_KEY); found != 1 {
		t.Fatalf("a new worker has %d private keys", found)
	}
}

// The programs of the packages find the token, from a process of their own.
func TestRun(t *testing.T) {
	t.Parallel()
	k := softhsmtest.New(t)
	tool, err := exec.LookPath("pkcs11-tool")
	if err != nil {
		t.Fatal("the spy's package has it: ", err)
	}
	k.Run(t, tool, "--module", k.ModulePath, "--token-label", k.Label, "--login", "--pin", k.PIN,
		"--keypairgen", "--key-type", "EC:prime256v1", "--label", "by the tool", "--usage-sign")
	if found := login(t, k).find(t, pkcs11.CKO_PRIVATE_KEY); found != 1 {
		t.Fatalf("the tool made %d keys", found)
	}
}

// Nothing is left over.
func TestGone(t *testing.T) {
	t.Parallel()
	var module string
	t.Run("token", func(t *testing.T) {
		k := softhsmtest.P11Kit(t)
		module = k.ModulePath
		if _, err := os.Stat(module); err != nil {
			t.Fatal(err)
		}
		login(t, k)
	})
	if _, err := os.Stat(module); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the files of a token are there after its test:", err)
	}
}
