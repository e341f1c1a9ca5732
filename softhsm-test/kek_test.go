// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/hsm"
)

// kekMethods are those that the kinds of tokens have.
var kekMethods = map[string][]string{
	"softhsm": {"aes-gcm", "aes-kw", "aes-cbc-hmac"},
	"nss":     {"aes-kw", "aes-cbc-hmac"},
	"p11-kit": {},
}

func generateKEK(t testing.TB, token *hsm.Token, label, method string) string {
	t.Helper()
	uri, err := token.GenerateKEK(t.Context(), label, method)
	if err != nil {
		t.Fatal(err)
	}
	return uri
}

func wrapper(t testing.TB, token *hsm.Token, uri string) core.KeyWrapper {
	t.Helper()
	w, err := token.Wrapper(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestKEK: the conformance suite of key wrappers, by each method of each token.
func TestKEK(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			token := open(t, kind.make(t).URI())
			for _, method := range kekMethods[kind.name] {
				t.Run(method, func(t *testing.T) {
					uris := make([]string, 2)
					for i := range uris {
						uris[i] = generateKEK(t, token, fmt.Sprint(method, i), method)
					}
					coretest.TestKeyWrapper(t, func(t *testing.T, key int) core.KeyWrapper { return wrapper(t, token, uris[key]) })
				})
			}
			t.Run("the best", func(t *testing.T) {
				uri, err := token.GenerateKEK(t.Context(), "kek", "")
				if len(kekMethods[kind.name]) == 0 {
					if !errors.Is(err, hsm.ErrUnsupported) {
						t.Fatalf("a token without a method makes %q, error %v", uri, err)
					}
					return
				}
				if u, e := hsm.ParseURI(uri); errors.Join(e, err) != nil || u.KEKMethod != kekMethods[kind.name][0] {
					t.Fatalf("%q, %v", uri, err)
				}
			})
		})
	}
}
