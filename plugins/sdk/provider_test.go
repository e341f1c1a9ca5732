// SPDX-License-Identifier: Apache-2.0

package sdk

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// counting keeps its keys, one for each reference, and counts how often one is opened.
type counting struct {
	core.CryptoProvider
	opened int
	fails  error
}

func (c *counting) OpenKey(_ context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
	c.opened++
	if ref == "none" {
		return nil, core.ErrNotFound
	}
	key := countingKey{c, ref}
	if !material.IsZero() {
		return softKey{key}, nil
	}
	return key, nil
}

func (c *counting) DeleteKey(context.Context, core.KeyRef) error { return nil }

type countingKey struct {
	c   *counting
	ref core.KeyRef
}

func (k countingKey) Ref() core.KeyRef             { return k.ref }
func (k countingKey) Algorithm() core.KeyAlgorithm { return core.Ed25519 }
func (k countingKey) Public() []byte               { return []byte("public") }

func (k countingKey) Sign(_ context.Context, message []byte) ([]byte, error) {
	return append([]byte(k.ref), message...), k.c.fails
}

type softKey struct{ countingKey }

func (softKey) Material() core.Secret { return core.NewSecret([]byte("material")) }

// A key that its provider keeps is opened once for many uses, and again when somebody asks
// for it, when it is deleted or has failed, and after a minute. One that the provider does
// not keep is opened each time, as nothing of it may stay here.
func TestKeysStayOpen(t *testing.T) { synctest.Test(t, keysStayOpen) }

func keysStayOpen(t *testing.T) {
	c, other := &counting{}, &counting{}
	s, err := newServer(Plugin{CryptoProvider: c, Instances: map[string]Plugin{"other": {CryptoProvider: other}}})
	if err != nil {
		t.Fatal(err)
	}
	p := providerServer{server: s}
	sign := func(instance, ref, material string) (string, error) {
		a, err := p.Sign(t.Context(), &wire.UseKeyRequest{Instance: instance, Ref: ref, Material: []byte(material), Input: []byte("!")})
		if err == nil && a.GetError() != nil {
			err = wire.FromError(a.GetError())
		}
		return string(a.GetBytes()), err
	}
	signs := func(what, instance, ref, material string, count *int, want int) {
		t.Helper()
		before := *count
		for range 3 {
			if got, err := sign(instance, ref, material); err != nil || got != ref+"!" {
				t.Errorf("%s: %q, %v", what, got, err)
			}
		}
		if n := *count - before; n != want {
			t.Errorf("%s: opened %d times for three signatures, want %d", what, n, want)
		}
	}
	signs("a key", "", "a", "", &c.opened, 1)
	signs("the same again", "", "a", "", &c.opened, 0)
	signs("another", "", "b", "", &c.opened, 1)
	signs("one of another instance", "other", "a", "", &other.opened, 1)
	signs("a software key", "", "a", "material", &c.opened, 3)
	signs("after a software key of its name", "", "a", "", &c.opened, 1)

	before := c.opened
	if _, err := p.OpenKey(t.Context(), &wire.OpenKeyRequest{Ref: "a"}); err != nil || c.opened != before+1 {
		t.Errorf("who asks for a key is told what was once so (%v)", err)
	}
	if _, err := p.DeleteKey(t.Context(), &wire.DeleteKeyRequest{Ref: "a"}); err != nil {
		t.Error(err)
	}
	signs("a deleted key", "", "a", "", &c.opened, 1)
	c.fails = core.ErrUnavailable
	if _, err := sign("", "a", ""); !errors.Is(err, core.ErrUnavailable) {
		t.Error(err)
	}
	c.fails = nil
	signs("a key that failed", "", "a", "", &c.opened, 1)
	for range 2 {
		before := c.opened
		if _, err := sign("", "none", ""); !errors.Is(err, core.ErrNotFound) || c.opened != before+1 {
			t.Errorf("no key: %v", err)
		}
	}
	time.Sleep(openFor - time.Second)
	signs("a key of almost a minute", "", "a", "", &c.opened, 0)
	time.Sleep(time.Second)
	signs("a key of a minute", "", "a", "", &c.opened, 1)
	for i := range 3 * maxOpenKeys {
		if _, err := sign("", fmt.Sprint(i), ""); err != nil {
			t.Fatal(err)
		}
		if n := len(s.keys.all); n > maxOpenKeys {
			t.Fatalf("%d keys are open", n)
		}
	}
}
