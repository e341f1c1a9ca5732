// SPDX-License-Identifier: Apache-2.0

//go:build unix

package softhsmtest_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app"
	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/pure"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// inUse says whether something in this process has the module.
func inUse(t *testing.T, k *softhsmtest.Token) bool {
	t.Helper()
	_, err := hsm.Tokens(t.Context(), k.ModulePath, "somebody else's")
	return errors.Is(err, hsm.ErrModuleOwned)
}

// A program whose parts are in one token opens it once for all of them, opens keys in
// software too, makes new ones in the token only, and has let it go when it is over, also
// if a part could not be made.
func TestPartsInToken(t *testing.T) {
	t.Parallel()
	k := softhsmtest.Spy(t, softhsmtest.New(t))
	token, err := hsm.Open(t.Context(), hsm.Config{URI: k.URI()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = token.GenerateKEK(t.Context(), "kek", "")
	if err = errors.Join(err, token.Close()); err != nil {
		t.Fatal(err)
	}
	logins := len(k.Calls(t, "C_Login"))
	c := config.Default(t.TempDir())
	c.Keystore, c.Crypto, c.Key = "memory:", k.URI(), strings.Replace(k.URI(), "?", ";object=kek?", 1)
	var keys core.CryptoProvider
	var opened *client.Client
	err = app.Run(t.Context(), app.New(c, fx.Populate(&keys, &opened)), func(ctx context.Context) error {
		if !inUse(t, k) {
			t.Error("the token is not in use")
		}
		key, err := keys.GenerateKey(ctx, core.KeySpec{ID: [16]byte{1}, Algorithm: core.ECDSAP256, Use: core.UseSign})
		if err != nil {
			return err
		}
		if _, soft := key.(core.SoftwareKey); soft || key.Ref().Scheme() != hsm.Scheme {
			t.Errorf("a new key is %s", key.Ref())
		}
		if _, err := keys.GenerateKey(ctx, core.KeySpec{ID: [16]byte{2}, Algorithm: "RSA", Use: core.UseSign}); !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("what the token cannot make: %v", err)
		}
		soft, err := pure.New().GenerateKey(ctx, core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
		if err != nil {
			return err
		}
		again, err := keys.OpenKey(ctx, soft.Ref(), soft.(core.SoftwareKey).Material())
		if err != nil || again.Ref() != soft.Ref() {
			t.Errorf("a key in software: %v", err)
		}
		_, err = keys.OpenKey(ctx, key.Ref(), core.Secret{})
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if n := len(k.Calls(t, "C_Login")) - logins; n != 1 {
		t.Errorf("%d logins for two parts", n)
	}
	if inUse(t, k) {
		t.Error("the token is in use after the end")
	}

	c.Key = strings.Replace(k.URI(), "?", ";object=another?", 1)
	err = app.Run(t.Context(), app.New(c, fx.Populate(&keys, &opened)), nil)
	if !errors.Is(err, modules.ErrNoKEK) || !errors.Is(err, hsm.ErrKeyNotFound) || inUse(t, k) {
		t.Errorf("no KEK: %v; in use: %v", err, inUse(t, k))
	}
	c.Key, c.Crypto = strings.Replace(k.URI(), "?", ";object=kek?", 1), strings.Replace(k.URI(), "?", ";type=private?", 1)
	if err := app.Run(t.Context(), app.New(c, fx.Populate(&keys, &opened)), nil); !errors.Is(err, core.ErrInvalid) || inUse(t, k) {
		t.Errorf("a key where a token belongs: %v; in use: %v", err, inUse(t, k))
	}
	if err := os.WriteFile(k.PINFile, []byte("87654321"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Crypto = k.URI()
	if err := app.Run(t.Context(), app.New(c, fx.Populate(&keys)), nil); !errors.Is(err, hsm.ErrPINRejected) || inUse(t, k) {
		t.Errorf("a wrong PIN: %v; in use: %v", err, inUse(t, k))
	}
	if left, err := filepath.Glob(filepath.Join(c.Folder, "latch", "*.latch")); err != nil || len(left) != 1 {
		t.Errorf("latched beside the configuration: %v, %v", left, err)
	}
}

// What a token gives out is noticed, and what is not there or not clear.
func TestReadBack(t *testing.T) {
	t.Parallel()
	k := softhsmtest.New(t)
	tool := func(args ...string) {
		k.Run(t, "pkcs11-tool", append([]string{"--module", k.ModulePath, "--token-label", k.Label, "--login", "--pin", k.PIN}, args...)...)
	}
	tool("--keygen", "--key-type", "AES:32", "--label", "open", "--id", "01", "--extractable")
	tool("--keygen", "--key-type", "AES:32", "--label", "kept", "--id", "02", "--sensitive")
	tool("--keygen", "--key-type", "AES:32", "--label", "two", "--id", "03", "--sensitive")
	tool("--keypairgen", "--key-type", "EC:prime256v1", "--label", "two", "--id", "04", "--usage-sign")
	token, err := hsm.Open(t.Context(), hsm.Config{URI: k.URI()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	r, err := token.ReadBack(t.Context(), "pkcs11:object=kept")
	if err != nil || r.Value != "CKR_ATTRIBUTE_SENSITIVE" || r.Sensitive != "yes" || r.Extractable != "no" || r.Local != "yes" {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := token.ReadBack(t.Context(), "pkcs11:id=%04"); err != nil || r.Key.Scheme() != hsm.Scheme {
		t.Errorf("%+v, %v", r, err)
	}
	for uri, want := range map[string]error{
		"pkcs11:object=open": hsm.ErrUnsupported, "pkcs11:object=none": hsm.ErrKeyNotFound,
		"pkcs11:object=two": hsm.ErrKeyAmbiguous, "pkcs11:token=x": hsm.ErrInvalidInput,
	} {
		if r, err := token.ReadBack(t.Context(), uri); !errors.Is(err, want) {
			t.Errorf("%s: %+v, %v", uri, r, err)
		}
	}
}
