// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// goroutines says how many have a name in their stack.
func goroutines(name string) int {
	all := make([]byte, 1<<20)
	all = all[:runtime.Stack(all, true)]
	n := 0
	for _, one := range strings.Split(string(all), "\n\n") {
		if strings.Contains(one, name) {
			n++
		}
	}
	return n
}

// A new key is for one use, to be kept, and has the id that was asked for.
func TestGenerate(t *testing.T) {
	f := newFake(t)
	token := f.open()
	for _, algorithm := range []core.KeyAlgorithm{core.Ed25519, core.ECDSAP256, core.ECDHP256, core.X25519} {
		f.objects = nil
		id := [16]byte{1, 2}
		key, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: id, Algorithm: algorithm, Use: useOf(algorithm), Label: "mine"})
		if err != nil {
			t.Fatal(err)
		}
		if len(f.objects) != 2 {
			t.Fatalf("%d objects", len(f.objects))
		}
		private := f.objects[1]
		signs := useOf(algorithm) == core.UseSign
		for a, want := range map[cryptoki.Attribute]bool{
			cryptoki.CKAToken: true, cryptoki.CKAPrivate: true, cryptoki.CKASensitive: true, cryptoki.CKAExtractable: false,
			cryptoki.CKASign: signs, cryptoki.CKADerive: !signs,
		} {
			if private.is(a) != want {
				t.Errorf("%s: attribute %#x is %v", algorithm, a, private.attributes[a])
			}
		}
		for _, o := range f.objects {
			if !bytes.Equal(o.attributes[cryptoki.CKAID], id[:]) || string(o.attributes[cryptoki.CKALabel]) != "mine" || !o.is(cryptoki.CKAToken) {
				t.Errorf("%s: %v", algorithm, o.attributes)
			}
		}
		if f.objects[0].is(cryptoki.CKADerive) || f.objects[0].is(cryptoki.CKAPrivate) {
			t.Errorf("%s: the public key is %v", algorithm, f.objects[0].attributes)
		}
		// The same again is the same, and the id is not for anything else.
		before := f.count("GenerateKeyPair")
		again, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: id, Algorithm: algorithm, Use: useOf(algorithm)})
		if err != nil || !bytes.Equal(again.Public(), key.Public()) {
			t.Errorf("%s again: %v", algorithm, err)
		}
		_, err = token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: id, Algorithm: core.ECDSAP384, Use: core.UseSign})
		if !errors.Is(err, core.ErrConflict) {
			t.Errorf("another algorithm: %v", err)
		}
		if f.count("GenerateKeyPair") != before {
			t.Errorf("%s: a key was made", algorithm)
		}
	}
}

// Many ask for the same key at once: it is made once.
func TestGenerateAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token := f.open()
		f.signer(token)
		before := f.counts()
		begun, release := f.hang("GenerateKeyPair")
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				if _, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{3}, Algorithm: core.Ed25519, Use: core.UseSign}); err != nil {
					t.Error(err)
				}
			})
		}
		<-begun
		synctest.Wait()
		release()
		all.Wait()
		f.is(before, map[string]int{"GenerateKeyPair": 1})
	})
}

// A token that shows private keys gets none to keep.
func TestTokenThatShowsKeys(t *testing.T) {
	f := newFake(t)
	f.shows = true
	token := f.open()
	_, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{3}, Algorithm: core.Ed25519, Use: core.UseSign})
	if !errors.Is(err, core.ErrUnsupported) || strings.Contains(err.Error(), "the key") {
		t.Errorf("%v", err)
	}
	if len(f.objects) != 0 {
		t.Errorf("%d objects stay", len(f.objects))
	}
}

// Tokens differ in how they are asked for a curve.
func TestFormsOfGeneration(t *testing.T) {
	for name, set := range map[string]func(f *fake){
		"names":                func(f *fake) { f.printable = true },
		"Edwards for X25519":   func(f *fake) { f.montgomery = false },
		"both":                 func(f *fake) { f.printable, f.montgomery = true, false },
		"points without DER":   func(f *fake) { f.point = bytes.Clone },
		"a general error":      func(f *fake) { f.next("GenerateKeyPair", answer{err: cryptoki.ErrGeneralError}) },
		"an unknown mechanism": func(f *fake) { f.next("GenerateKeyPair", answer{err: cryptoki.ErrMechanismInvalid}) },
	} {
		f := newFake(t)
		set(f)
		if strings.HasPrefix(name, "a") && f.script["GenerateKeyPair"] != nil { // of several forms, the next is tried
			token := f.open()
			if _, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{1}, Algorithm: core.X25519, Use: core.UseDecrypt}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		token := f.open()
		for _, algorithm := range []core.KeyAlgorithm{core.X25519, core.Ed25519, core.ECDSAP521} {
			key, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{byte(len(algorithm))}, Algorithm: algorithm, Use: useOf(algorithm)})
			if err != nil || key.Algorithm() != algorithm {
				t.Errorf("%s, %s: %v", name, algorithm, err)
			}
		}
	}
}

// A module that writes the public key wrongly is not asked to sign with it.
func TestMalformedPublicKey(t *testing.T) {
	f := newFake(t)
	f.point = func(p []byte) []byte { return append([]byte{4, 0x85}, p...) } // as tpm2-pkcs11 does
	token := f.open()
	before := f.counts()
	_, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{1}, Algorithm: core.ECDSAP521, Use: core.UseSign})
	if !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	f.is(before, map[string]int{"Sign": 0})
	if len(f.objects) != 0 {
		t.Errorf("%d objects stay", len(f.objects))
	}
}

// What a token does not do is unsupported, not a lost token.
func TestGenerateUnsupported(t *testing.T) {
	for _, result := range []cryptoki.Error{cryptoki.ErrMechanismInvalid, cryptoki.ErrGeneralError, cryptoki.ErrFunctionNotSupported} {
		f := newFake(t)
		token := f.open()
		before := f.counts()
		f.fails("GenerateKeyPair", result)
		_, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{1}, Algorithm: core.Ed25519, Use: core.UseSign})
		if !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("%v: %v", result, err)
		}
		f.is(before, map[string]int{"Finalize": 0})
	}
	f := newFake(t)
	token := f.open()
	before := f.counts()
	for _, spec := range []core.KeySpec{{Algorithm: core.Ed25519, Use: core.UseDecrypt}, {Algorithm: "RSA", Use: core.UseSign}, {Use: core.UseSign}} {
		if _, err := token.Provider().GenerateKey(t.Context(), spec); !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("%v: %v", spec, err)
		}
	}
	f.is(before, map[string]int{"Finalize": 0, "GenerateKeyPair": 0})
}

// A reference to another token, or to no key, is not for this one.
func TestOtherReferences(t *testing.T) {
	f := newFake(t)
	token := f.open()
	key := f.signer(token)
	before := f.counts()
	for _, ref := range []core.KeyRef{"pkcs11:token=other;id=%01", "pkcs11:serial=1;id=%01", "pkcs11:id=%01", "pkcs11:token=acme", "pure:1", ""} {
		if _, err := token.Provider().OpenKey(t.Context(), ref, core.Secret{}); !errors.Is(err, core.ErrDenied) {
			t.Errorf("open %q: %v", ref, err)
		}
		if err := token.Provider().DeleteKey(t.Context(), ref); !errors.Is(err, core.ErrDenied) {
			t.Errorf("delete %q: %v", ref, err)
		}
	}
	f.is(before, map[string]int{"Find": 0, "Destroy": 0})
	if err := token.Provider().DeleteKey(t.Context(), key.Ref()); err != nil || len(f.objects) != 0 {
		t.Errorf("delete: %v, %d objects", err, len(f.objects))
	}
}

func TestTokensOfModule(t *testing.T) {
	f := newFake(t)
	list, err := Tokens(t.Context(), f.path, "")
	if err != nil || len(list) != 1 || list[0].Label != "acme" || list[0].Serial != f.info.Serial || list[0].PIN != "set" {
		t.Fatalf("%+v, %v", list, err)
	}
	if f.initialized || f.count("Login") != 0 || f.count("OpenSession") != 0 {
		t.Error("a list is no reason to log in")
	}
	if u, err := ParseURI(list[0].URI); err != nil || !u.Matches(f.info) {
		t.Errorf("%s: %v", list[0].URI, err)
	}
	for _, uri := range []string{"pkcs11:token=other", "pkcs11:token=acme;serial=1"} {
		_, err := Open(t.Context(), Config{URI: uri + "?module-path=" + f.path + "&pin-value=" + fakePIN})
		if !errors.Is(err, ErrTokenNotFound) || !strings.Contains(err.Error(), f.info.Serial) {
			t.Errorf("%s: %v", uri, err)
		}
	}
	if f.initialized {
		t.Error("a failed Open keeps the module")
	}
}

func TestPINState(t *testing.T) {
	const set = cryptoki.FlagUserPINSet
	for flags, want := range map[cryptoki.Flags]string{
		0: "not set", set: "set", set | cryptoki.FlagUserPINLow: "refused before", set | cryptoki.FlagUserPINFinal | cryptoki.FlagUserPINLow: "one try left",
		set | cryptoki.FlagUserPINLocked | cryptoki.FlagUserPINFinal: "locked", set | cryptoki.FlagUserPINExpired: "expired",
	} {
		if got := pinState(flags); got != want {
			t.Errorf("%x: %s, want %s", uint(flags), got, want)
		}
	}
}
