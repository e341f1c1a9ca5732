// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// A module gives new keys the handles of others, as tpm2-pkcs11 does when the oldest key
// was deleted. Each key is its own all the same, and none is deleted for another.
func TestCrossedHandles(t *testing.T) {
	f := newFake(t)
	f.stays, f.crosses = true, true
	token := f.open()
	key := func(id byte, a core.KeyAlgorithm) core.Signer {
		t.Helper()
		key, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{id}, Algorithm: a, Use: core.UseSign})
		if err != nil {
			t.Fatal(err)
		}
		return key.(core.Signer)
	}
	remove := func(key core.Signer) {
		t.Helper()
		if err := token.Provider().DeleteKey(t.Context(), key.Ref()); err != nil {
			t.Fatal(err)
		}
	}
	first, second := key(1, core.ECDSAP256), key(2, core.ECDSAP256)
	remove(first)
	third := key(3, core.ECDSAP256)
	f.holds(2, 2, 3, 3)
	if bytes.Equal(third.Public(), second.Public()) {
		t.Error("the new key is an old one")
	}
	f.signs(second)
	f.signs(third)
	remove(second)
	fourth := key(4, core.ECDSAP384) // which is tried with keys that go again
	f.holds(3, 3, 4, 4)
	remove(third)

	f.extractable = true // of which the other key says nothing
	_, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{5}, Algorithm: core.ECDSAP256, Use: core.UseSign})
	if !errors.Is(err, ErrUnsupported) {
		t.Error("a key that could leave the token: ", err)
	}
	f.holds(4, 4)
	f.signs(fourth)
}

// The same for keys that are there: nothing is read of another, and no other is deleted.
func TestCrossedKeys(t *testing.T) {
	for name, crossed := range map[string][2]int{"private": {3, 1}, "private with public": {3, 0}, "public": {2, 0}, "public with private": {2, 1}} {
		f := newFake(t)
		token := f.open()
		f.signer(token)
		key := f.signer(token)
		ids := [2]byte{f.objects[0].attributes[cryptoki.CKAID][0], f.objects[2].attributes[cryptoki.CKAID][0]}
		f.objects[crossed[0]].handle = f.objects[crossed[1]].handle
		again, err := token.Provider().OpenKey(t.Context(), key.Ref(), core.Secret{})
		if err != nil || !bytes.Equal(again.Public(), key.Public()) {
			t.Errorf("%s: another key is opened, %v", name, err)
		}
		f.holds(ids[0], ids[0], ids[1], ids[1])
		f.objects[crossed[0]].handle = f.objects[crossed[1]].handle
		if err := token.Provider().DeleteKey(t.Context(), key.Ref()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		f.holds(ids[0], ids[0])
	}
}

// holds checks what is on the token, by the first bytes of the ids.
func (f *fake) holds(ids ...byte) {
	f.t.Helper()
	var got []byte
	for _, o := range f.objects {
		got = append(got, o.attributes[cryptoki.CKAID][0])
	}
	if !bytes.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(ids))) {
		f.t.Errorf("the token has objects of the ids %v, want %v", got, ids)
	}
}
