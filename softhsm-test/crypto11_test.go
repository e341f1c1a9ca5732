// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/base64"
	"os"
	"strings"
	"testing"

	"github.com/ThalesIgnite/crypto11"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// What the reader gets: of each key its algorithm, id and public key.
const (
	readModule = "SOFTHSMTEST_READ_MODULE"
	readLabel  = "SOFTHSMTEST_READ_LABEL"
	readPIN    = "SOFTHSMTEST_READ_PIN"
	readKeys   = "SOFTHSMTEST_READ_KEYS"
)

// Another library, in a process of its own, finds our keys by label and id and signs with
// them, while we have the token open. It can ECDSA, and fails on a token with other keys.
func TestCrypto11(t *testing.T) {
	t.Parallel()
	if os.Getenv(childTest) == t.Name() {
		readByCrypto11(t)
		return
	}
	k := softhsmtest.New(t)
	token := open(t, k.URI())
	var keys []string
	var signers []core.Signer
	for _, alg := range []core.KeyAlgorithm{core.ECDSAP256, core.ECDSAP384, core.ECDSAP521} {
		key := makeKey(t, token, alg)
		u, err := hsm.ParseReference(key.Ref())
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, key.(core.Signer))
		keys = append(keys, string(alg)+" "+base64.StdEncoding.EncodeToString(u.ID)+" "+base64.StdEncoding.EncodeToString(key.Public()))
	}
	child(t, t.Name(), readModule+"="+k.ModulePath, readLabel+"="+k.Label, readPIN+"="+k.PIN, readKeys+"="+strings.Join(keys, "\n"))
	for _, key := range signers {
		if err := signsOnce(t, key); err != nil {
			t.Errorf("%s afterwards: %v", key.Ref(), err)
		}
	}
}

func readByCrypto11(t *testing.T) {
	c, err := crypto11.Configure(&crypto11.Config{Path: os.Getenv(readModule), TokenLabel: os.Getenv(readLabel), Pin: os.Getenv(readPIN), MaxSessions: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hashes := map[string]crypto.Hash{string(core.ECDSAP256): crypto.SHA256, string(core.ECDSAP384): crypto.SHA384, string(core.ECDSAP521): crypto.SHA512}
	n := 0
	for line := range strings.Lines(os.Getenv(readKeys)) {
		f := strings.Fields(line)
		id, _ := base64.StdEncoding.DecodeString(f[1])
		public, _ := base64.StdEncoding.DecodeString(f[2])
		key, err := c.FindKeyPair(id, []byte("a key"))
		if err != nil || key == nil {
			t.Fatalf("%s: found %v, %v", f[0], key, err)
		}
		got, ok := key.Public().(*ecdsa.PublicKey)
		if !ok {
			t.Fatalf("%s is a %T", f[0], key.Public())
		}
		if b, err := got.Bytes(); err != nil || string(b) != string(public) {
			t.Fatalf("%s has the public key %x, want %x (%v)", f[0], b, public, err)
		}
		h := hashes[f[0]].New()
		h.Write([]byte("message"))
		signature, err := key.Sign(rand.Reader, h.Sum(nil), hashes[f[0]])
		if err != nil || !ecdsa.VerifyASN1(got, h.Sum(nil), signature) {
			t.Errorf("%s: its signature is wrong (%v)", f[0], err)
		}
		n++
	}
	all, err := c.FindAllKeyPairs()
	if err != nil || len(all) != n || n != 3 {
		t.Errorf("it finds %d keys of %d (%v)", len(all), n, err)
	}
}
