// SPDX-License-Identifier: Apache-2.0

package core_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// A namedProvider knows its own keys only, refuses others, and tells what it was asked for.
type namedProvider struct {
	name  string
	asked []string
}

type namedKey struct{ ref core.KeyRef }

func (k namedKey) Ref() core.KeyRef           { return k.ref }
func (namedKey) Algorithm() core.KeyAlgorithm { return core.Ed25519 }
func (namedKey) Public() []byte               { return nil }

func (p *namedProvider) Algorithms(context.Context) ([]core.KeyAlgorithm, error) {
	return []core.KeyAlgorithm{core.KeyAlgorithm(p.name)}, nil
}

func (p *namedProvider) GenerateKey(_ context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	p.asked = append(p.asked, "generate "+spec.Label)
	return namedKey{core.KeyRef(p.name + ":new")}, nil
}

func (p *namedProvider) OpenKey(_ context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
	if ref.Scheme() != p.name {
		return nil, core.ErrDenied
	}
	p.asked = append(p.asked, "open "+string(ref)+" "+string(material.Bytes()))
	return namedKey{ref}, nil
}

func TestKeyRouter(t *testing.T) {
	ctx := t.Context()
	soft, token := &namedProvider{name: "pure"}, &namedProvider{name: "pkcs11"}
	router := &core.KeyRouter{Default: token, Providers: map[string]core.CryptoProvider{"pure": soft, "pkcs11": token}}
	var _ core.CryptoProvider = router

	if algs, err := router.Algorithms(ctx); err != nil || !slices.Equal(algs, []core.KeyAlgorithm{"pkcs11"}) {
		t.Errorf("algorithms %v, %v: want those of the default", algs, err)
	}
	if key, err := router.GenerateKey(ctx, core.KeySpec{Label: "mine"}); err != nil || key.Ref() != "pkcs11:new" {
		t.Errorf("new key %v, %v: want one of the default", key, err)
	}
	for _, ref := range []core.KeyRef{"pure:a:b", "pkcs11:token=x;id=%01"} {
		if key, err := router.OpenKey(ctx, ref, core.NewSecret([]byte("material"))); err != nil || key.Ref() != ref {
			t.Errorf("%s opened as %v, %v", ref, key, err)
		}
	}
	for _, ref := range []core.KeyRef{"", "pure", "plugin:x", "PURE:a", ":a", "pkcs11 :a"} {
		if ref.Scheme() == "pure" {
			continue // "pure" alone: for its provider to refuse
		}
		if _, err := router.OpenKey(ctx, ref, core.Secret{}); !errors.Is(err, core.ErrDenied) {
			t.Errorf("OpenKey(%q): %v, want ErrDenied", ref, err)
		}
	}
	if want := []string{"open pure:a:b material"}; !slices.Equal(soft.asked, want) {
		t.Errorf("the software provider was asked %q, want %q", soft.asked, want)
	}
	if want := []string{"generate mine", "open pkcs11:token=x;id=%01 material"}; !slices.Equal(token.asked, want) {
		t.Errorf("the token was asked %q, want %q", token.asked, want)
	}

	// The default opens what it has made, listed or not.
	alone := &core.KeyRouter{Default: token}
	made, err := alone.GenerateKey(ctx, core.KeySpec{})
	if err != nil {
		t.Fatal(err)
	}
	if key, err := alone.OpenKey(ctx, made.Ref(), core.Secret{}); err != nil || key.Ref() != made.Ref() {
		t.Errorf("a key of the default: %v, %v", key, err)
	}
}

// Who has a key is found through everything that chooses.
func TestProviderOf(t *testing.T) {
	soft, token := &namedProvider{name: "pure"}, &namedProvider{name: "pkcs11"}
	router := &core.KeyRouter{Default: token, Providers: map[string]core.CryptoProvider{"pure": soft}}
	nested := &core.KeyRouter{Default: router}
	for _, c := range []struct {
		p    core.CryptoProvider
		ref  core.KeyRef
		want core.CryptoProvider
	}{
		{soft, "", soft}, {soft, "pkcs11:a", soft},
		{router, "", token}, {router, "pure:a", soft}, {router, "pkcs11:a", token}, {router, "plugin:a", token},
		{nested, "", token}, {nested, "pure:a", soft}, {nested, "plugin:a", token},
	} {
		if got := core.ProviderOf(c.p, c.ref); got != c.want {
			t.Errorf("%T: %q is of %v, want %v", c.p, c.ref, got, c.want)
		}
	}
}
