// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// tool runs pkcs11-tool, another program, as the user of the token.
func tool(t *testing.T, k *softhsmtest.Token, args ...string) string {
	t.Helper()
	return k.Run(t, "pkcs11-tool", append([]string{"--module", k.ModulePath, "--token-label", k.Label, "--login", "--pin", k.PIN}, args...)...)
}

// Somebody else deletes a key that is open, and makes another of the same label and id.
func TestReplacedKey(t *testing.T) {
	t.Parallel()
	k := softhsmtest.New(t)
	token := open(t, k.URI())
	key := makeKey(t, token, core.ECDSAP256).(core.Signer)
	if err := signsOnce(t, key); err != nil {
		t.Fatal(err)
	}
	u, err := hsm.ParseReference(key.Ref())
	if err != nil {
		t.Fatal(err)
	}
	id := hex.EncodeToString(u.ID)
	tool(t, k, "--delete-object", "--type", "privkey", "--id", id)
	for range 2 {
		if err := signsOnce(t, key); !errors.Is(err, hsm.ErrKeyNotFound) {
			t.Errorf("a key that was deleted: %v", err)
		}
	}
	if _, err := token.Provider().OpenKey(t.Context(), key.Ref(), core.Secret{}); !errors.Is(err, hsm.ErrKeyNotFound) {
		t.Errorf("to open a key that was deleted: %v", err)
	}
	tool(t, k, "--delete-object", "--type", "pubkey", "--id", id)
	tool(t, k, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "a key", "--id", id, "--usage-sign")
	for range 2 {
		if err := signsOnce(t, key); !errors.Is(err, hsm.ErrKeyMismatch) {
			t.Errorf("a key that was replaced: %v", err)
		}
	}
	other, err := token.Provider().OpenKey(t.Context(), key.Ref(), core.Secret{})
	if err != nil || string(other.Public()) == string(key.Public()) {
		t.Fatalf("the key that took the name: %v", err)
	}
	tool(t, k, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "a key", "--id", id, "--usage-sign")
	if _, err := token.Provider().OpenKey(t.Context(), key.Ref(), core.Secret{}); !errors.Is(err, hsm.ErrKeyAmbiguous) {
		t.Errorf("two keys of one name: %v", err)
	}
	if err := signsOnce(t, other.(core.Signer)); err != nil {
		t.Errorf("a key that is open, beside another of its name: %v", err)
	}
}

// A key of another program is used; it need not have an id of ours.
func TestForeignKeys(t *testing.T) {
	t.Parallel()
	k := softhsmtest.New(t)
	for alg, curve := range map[core.KeyAlgorithm]string{
		core.ECDSAP256: "EC:prime256v1", core.ECDSAP384: "EC:secp384r1", core.ECDSAP521: "EC:secp521r1", core.Ed25519: "EC:edwards25519",
	} {
		tool(t, k, "--keypairgen", "--key-type", curve, "--label", string(alg), "--id", hex.EncodeToString([]byte(alg)), "--usage-sign")
	}
	token := open(t, k.URI())
	for _, alg := range []core.KeyAlgorithm{core.ECDSAP256, core.ECDSAP384, core.ECDSAP521, core.Ed25519} {
		ref := hsm.URI{Token: k.Label, Object: string(alg)}.Reference()
		key, err := token.Provider().OpenKey(t.Context(), ref, core.Secret{})
		if err != nil || key.Algorithm() != alg {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		if err := signsOnce(t, key.(core.Signer)); err != nil { // which verifies it
			t.Errorf("%s: %v", alg, err)
		}
	}
}

// Who deletes by a label deletes no public keys that only share it.
func TestDeleteByLabel(t *testing.T) {
	t.Parallel()
	k := softhsmtest.New(t)
	token := open(t, k.URI())
	for _, id := range []string{"01", "02"} {
		tool(t, k, "--keypairgen", "--key-type", "EC:prime256v1", "--id", id, "--label", "shared")
	}
	tool(t, k, "--delete-object", "--type", "privkey", "--id", "02")
	ref := hsm.URI{Token: k.Label, Object: "shared"}.Reference()
	for range 2 {
		if err := token.Provider().DeleteKey(t.Context(), ref); err != nil {
			t.Error(err)
		}
		if out := tool(t, k, "--list-objects"); strings.Count(out, "Public Key Object") != 1 || strings.Contains(out, "Private Key Object") || !strings.Contains(out, " 02\n") {
			t.Error("not what is to be left:", out)
		}
	}
}
