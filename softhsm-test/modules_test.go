// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// through is the token by another path of its module.
func through(k *softhsmtest.Token, path string) softhsmtest.Token {
	other := *k
	other.ModulePath = path
	return other
}

// Modules do not know of one another: each is opened, used and closed beside the others.
func TestModules(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	var tokens []*hsm.Token
	var keys []core.Signer
	for _, kind := range kinds {
		token, err := hsm.Open(t.Context(), hsm.Config{URI: kind.make(t).URI()})
		if err != nil {
			t.Fatal(kind.name, ": ", err)
		}
		tokens = append(tokens, token)
		keys = append(keys, makeKey(t, token, core.ECDSAP256).(core.Signer))
	}
	for i := range tokens {
		for j, key := range keys[i:] {
			if err := signsOnce(t, key); err != nil {
				t.Errorf("%s beside %d others: %v", kinds[i+j].name, len(keys)-i-1, err)
			}
		}
		if err := tokens[i].Close(); err != nil {
			t.Error(err)
		}
		if err := signsOnce(t, keys[i]); !errors.Is(err, core.ErrClosed) {
			t.Errorf("%s after Close: %v", kinds[i].name, err)
		}
	}
}

// A module by a symbolic link is the same module; there is one token, logged in once.
func TestSymlink(t *testing.T) {
	t.Parallel()
	k := softhsmtest.Spy(t, softhsmtest.New(t))
	link := filepath.Join(t.TempDir(), "link.so")
	if err := os.Symlink(k.ModulePath, link); err != nil {
		t.Fatal(err)
	}
	linked := through(k, link)
	one, err := hsm.Open(t.Context(), hsm.Config{URI: k.URI()})
	if err != nil {
		t.Fatal(err)
	}
	key := makeKey(t, one, core.ECDSAP256).(core.Signer)
	two := open(t, linked.URI())
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := two.Provider().OpenKey(t.Context(), key.Ref(), core.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	if err := signsOnce(t, again.(core.Signer)); err != nil {
		t.Error(err)
	}
	if calls := k.Calls(t, "C_Initialize", "C_Login", "C_Finalize"); strings.Join(calls, " ") != "C_Initialize C_Login" {
		t.Errorf("the module was called: %v", calls)
	}
}

// A copy of the module's file is another module, here one that has the same token.
func TestCopy(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	k := softhsmtest.New(t)
	code, err := os.ReadFile(k.ModulePath)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "copy.so")
	if err := os.WriteFile(path, code, 0o700); err != nil {
		t.Fatal(err)
	}
	copied := through(k, path)
	one, two := open(t, k.URI()).Provider(), open(t, copied.URI()).Provider()
	for _, spec := range []core.KeySpec{
		{ID: [16]byte{1}, Algorithm: core.ECDSAP256, Use: core.UseSign},
		{ID: [16]byte{2}, Algorithm: core.Ed448, Use: core.UseSign}, // a signature of which only the token can verify here
		{ID: [16]byte{3}, Algorithm: core.ECDHP256, Use: core.UseDecrypt},
	} {
		key, err := one.GenerateKey(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		again, err := two.OpenKey(t.Context(), key.Ref(), core.Secret{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(works(t, key), works(t, again)); err != nil {
			t.Errorf("%s: %v", spec.Algorithm, err)
		}
		if err := two.DeleteKey(t.Context(), key.Ref()); err != nil {
			t.Fatal(err)
		}
		for _, k := range []core.PrivateKey{key, again} {
			if err := works(t, k); !errors.Is(err, hsm.ErrKeyNotFound) {
				t.Errorf("%s: a key that was deleted through the other module: %v", spec.Algorithm, err)
			}
		}
		other, err := two.GenerateKey(t.Context(), spec)
		if err != nil || other.Ref() != key.Ref() {
			t.Fatal(err)
		}
		if err := works(t, key); !errors.Is(err, hsm.ErrKeyMismatch) {
			t.Errorf("%s: a key that was replaced through the other module: %v", spec.Algorithm, err)
		}
	}
}

// works uses a key.
func works(t *testing.T, key core.PrivateKey) error {
	if signer, ok := key.(core.Signer); ok {
		return signsOnce(t, signer)
	}
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err == nil {
		_, err = key.(core.Agreer).Agree(t.Context(), peer.PublicKey().Bytes())
	}
	return err
}

// A module that other code of the process has initialised is not ours to finalise, and
// its login tells nothing about our PIN.
func TestForeignOwner(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	k := softhsmtest.New(t)
	b := login(t, k)
	if _, err := hsm.Open(t.Context(), hsm.Config{URI: k.URI()}); !errors.Is(err, hsm.ErrModuleOwned) {
		t.Fatalf("a module that is initialised: %v", err)
	}
	b.use(t) // they still have it
	if err := b.Finalize(); err != nil {
		t.Fatal(err)
	}
	token := open(t, k.URI())
	key := makeKey(t, token, core.ECDSAP256).(core.Signer)

	// They cannot have it now, and what they do to it all the same is made good.
	if err := b.Initialize(); !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		t.Errorf("they initialise our module: %v", err)
	}
	session, err := b.OpenSession(b.slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Logout(session); err != nil {
		t.Fatal(err)
	}
	if err := signsOnce(t, key); err != nil {
		t.Errorf("after they have logged out: %v", err)
	}
	if err := b.CloseAllSessions(b.slot); err != nil {
		t.Fatal(err)
	}
	if err := signsOnce(t, key); err != nil {
		t.Errorf("after they have closed all sessions: %v", err)
	}
	if err := b.Finalize(); err != nil {
		t.Fatal(err)
	}
	if err := signsOnce(t, key); err != nil {
		t.Errorf("after they have finalised it: %v", err)
	}
}
