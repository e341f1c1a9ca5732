// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"encoding/base64"
	"errors"
	"strconv"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/memory"
)

func TestRegistration(t *testing.T) {
	address, _ := serve(t, memory.New(), delivery.Options{})
	c := dial(t, address, delivery.ClientOptions{})
	if _, err := c.Count(t.Context()); !errors.Is(err, core.ErrDenied) {
		t.Errorf("a call before registration: %v", err)
	}
	token, err := c.Register(t.Context(), "alice\xff", keyOf("alice"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Count(t.Context()); err != nil {
		t.Errorf("a call after registration: %v", err)
	}
	again, err := c.Register(t.Context(), "alice\xff", keyOf("alice"))
	if err != nil || !again.Equal(token) {
		t.Errorf("the same key again does not give the same token: %v", err)
	}
	thief := dial(t, address, delivery.ClientOptions{})
	_, err = thief.Register(t.Context(), "alice\xff", keyOf("mallory"))
	if e := (*delivery.Error)(nil); !errors.As(err, &e) || e.Code != delivery.CodeTaken || !errors.Is(err, core.ErrDenied) {
		t.Errorf("another key for the same id: %v", err)
	}
	for name, bad := range map[string]func() (core.Secret, error){
		"no id": func() (core.Secret, error) { return thief.Register(t.Context(), "", keyOf("x")) },
		"long id": func() (core.Secret, error) {
			return thief.Register(t.Context(), core.ClientID(random(257)), keyOf("x"))
		},
		"short key": func() (core.Secret, error) { return thief.Register(t.Context(), "x", core.NewSecret(random(31))) },
	} {
		if _, err := bad(); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(string(token.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		changed := append([]byte(nil), raw...)
		changed[i] ^= 1
		text := core.NewSecret([]byte(base64.RawURLEncoding.EncodeToString(changed)))
		if _, err := dial(t, address, delivery.ClientOptions{Token: text}).Count(t.Context()); !errors.Is(err, core.ErrDenied) {
			t.Fatalf("token with byte %d changed: %v", i, err)
		}
	}
	if _, err := dial(t, address, delivery.ClientOptions{Token: token}).Count(t.Context()); err != nil {
		t.Errorf("the kept token: %v", err)
	}
}

func TestKeyPackages(t *testing.T) {
	c := people(t, "alice", "bob")
	alice, bob := c[0], c[1]
	claim := func() string {
		t.Helper()
		p, err := bob.Claim(t.Context(), "alice")
		if err != nil {
			t.Fatal(err)
		}
		return string(p)
	}
	if _, err := bob.Claim(t.Context(), "alice"); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("claim from nothing: %v", err)
	}
	batch := [][]byte{[]byte("one"), []byte("two"), []byte("one")}
	for range 2 { // the second time after a lost answer
		if n, err := alice.Upload(t.Context(), batch, []byte("last")); err != nil || n != 2 {
			t.Fatalf("upload: %d, %v", n, err)
		}
	}
	first := claim()
	if n, err := alice.Upload(t.Context(), batch, nil); err != nil || n != 1 {
		t.Errorf("upload of what was claimed: %d left, %v", n, err)
	}
	if second := claim(); first+second != "onetwo" && first+second != "twoone" {
		t.Errorf("claimed %q and %q", first, second)
	}
	for range 3 {
		if p := claim(); p != "last" {
			t.Errorf("claimed %q, want the last resort", p)
		}
	}
	if n, err := alice.Count(t.Context()); err != nil || n != 0 {
		t.Errorf("count: %d, %v", n, err)
	}
	if _, err := alice.Upload(t.Context(), nil, []byte("newer")); err != nil || claim() != "newer" {
		t.Errorf("the last resort was not replaced: %v", err)
	}
	if _, err := alice.Upload(t.Context(), [][]byte{[]byte("three"), []byte("four")}, nil); err != nil {
		t.Fatal(err)
	}
	if n, err := alice.Replace(t.Context(), [][]byte{[]byte("one"), []byte("four")}, nil); err != nil || n != 1 {
		t.Errorf("replace: %d, %v; one of the two was claimed before", n, err)
	}
	if p := claim(); p != "four" {
		t.Errorf("claimed %q after the others were replaced", p)
	}
	if p, err := bob.Claim(t.Context(), "alice"); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("claimed %q, %v: the last resort was replaced by none", p, err)
	}
}

// KP-6: a hundred packages in one upload, a hundred who want one, two services: nobody
// shares.
func TestEachPackageOnce(t *testing.T) {
	store := memory.New()
	one, _ := serve(t, store, delivery.Options{})
	two, _ := serve(t, store, delivery.Options{})
	clients := []*delivery.Client{person(t, one, "alice"), person(t, two, "bob")}
	var batch [][]byte
	for i := range 100 {
		batch = append(batch, []byte(strconv.Itoa(i)))
	}
	if _, err := clients[0].Upload(t.Context(), batch, nil); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	times := map[string]int{}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			p, err := clients[i%2].Claim(t.Context(), "alice")
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			times[string(p)]++
		})
	}
	wg.Wait()
	if len(times) != 100 {
		t.Errorf("%d different packages were claimed, want 100", len(times))
	}
	if _, err := clients[1].Claim(t.Context(), "alice"); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("the 101st: %v", err)
	}
}
