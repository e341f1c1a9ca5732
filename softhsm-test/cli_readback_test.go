// SPDX-License-Identifier: Apache-2.0

//go:build unix

package softhsmtest_test

import (
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/hsm"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

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
