// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// pointsOf gives a public key of every curve.
func pointsOf(t testing.TB) map[*curve][]byte {
	t.Helper()
	all := map[*curve][]byte{}
	for _, c := range curves {
		point := bytes.Repeat([]byte{4}, c.point) // begins like an OCTET STRING, and is none
		if c.ecdh != nil {
			k, err := c.ecdh().GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			point = k.PublicKey().Bytes()
		}
		all[c] = point
	}
	return all
}

func TestPoints(t *testing.T) {
	for c, point := range pointsOf(t) {
		if c.point != len(point) {
			t.Fatalf("%x: %d bytes", c.oid, len(point))
		}
		for form, given := range map[string][]byte{
			"DER": wrapped(point), "raw": point, "with a wrong length": append([]byte{4, 0x85}, point...),
			"with a wrong length of three bytes": append([]byte{4, 0x81, 1}, point...),
		} {
			if len(given) > len(point) && given[1] != byte(c.point) && c.point < 128 && c.hash == 0 {
				if got := c.publicKey(given); got != nil {
					t.Errorf("%x, %s: guessed %x", c.oid, form, got)
				}
				continue
			}
			before := bytes.Clone(given)
			got := c.publicKey(given)
			if !bytes.Equal(got, point) {
				t.Errorf("%x, %s: %x, want %x", c.oid, form, got, point)
				continue
			}
			got[0] ^= 1
			if !bytes.Equal(given, before) {
				t.Errorf("%x, %s: the key is the token's memory", c.oid, form)
			}
		}
		for form, given := range map[string][]byte{
			"nothing": nil, "short": point[1:], "long": append([]byte{4}, point...), "four more": append([]byte{4, 1, 1, 1}, point...),
			"another tag": append([]byte{3}, wrapped(point)[1:]...), "DER with more": append(wrapped(point), 0),
			"short DER": wrapped(point[1:]), "empty DER": {4, 0},
		} {
			if len(given) == c.point { // of no structure: a point that is as good as any
				continue
			}
			if got := c.publicKey(given); got != nil {
				t.Errorf("%x, %s: %x", c.oid, form, got)
			}
		}
		if c.hash != 0 {
			off := bytes.Clone(point)
			off[len(off)-1] ^= 1
			if c.publicKey(wrapped(off)) != nil || c.publicKey(make([]byte, c.point)) != nil {
				t.Errorf("%x: a point that is not on the curve", c.oid)
			}
		}
	}
}

// The length that tpm2-pkcs11 writes for P-521, as it was measured.
func TestPointOfTPM(t *testing.T) {
	c := curveFor(core.ECDSAP521, core.UseSign)
	k, err := c.ecdh().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	given := append([]byte{4, 0x85}, k.PublicKey().Bytes()...)
	if len(given) != 135 || given[2] != 4 {
		t.Fatalf("%x", given[:3])
	}
	if got := c.publicKey(given); !bytes.Equal(got, k.PublicKey().Bytes()) {
		t.Errorf("%x", got)
	}
}

func TestParams(t *testing.T) {
	for _, c := range curves {
		for _, p := range c.params() {
			if curveOf(p) != c {
				t.Errorf("%x is not curve %x", p, c.oid)
			}
			if curveOf(p[1:]) != nil || curveOf(append(bytes.Clone(p), 0)) != nil {
				t.Errorf("%x with a byte less or more is a curve", p)
			}
		}
		if c.hash == 0 != (len(c.params()) == 2) || !bytes.Equal(c.params()[0], c.oid) {
			t.Errorf("%x is asked for as %x", c.oid, c.params())
		}
	}
	if got := curveOf([]byte("\x13\x0cedwards25519")); got == nil || got.sign != core.Ed25519 {
		t.Error("a PrintableString is not read")
	}
	for name, p := range map[string][]byte{
		"nothing": nil, "P-224": {6, 5, 0x2b, 0x81, 4, 0, 0x21}, "the identifier of GNU": {6, 9, 0x2b, 6, 1, 4, 1, 0xda, 0x47, 0x0f, 1},
		"an empty string": {0x13, 0},
	} {
		if curveOf(p) != nil {
			t.Errorf("%s is a curve", name)
		}
	}
}

func TestCertified(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := k.PublicKey.Bytes()
	for _, c := range curves {
		got := c.certified(der)
		if c.sign == core.ECDSAP256 != bytes.Equal(got, want) || c.sign != core.ECDSAP256 && got != nil {
			t.Errorf("%x: %x", c.oid, got)
		}
		if c.certified(der[1:]) != nil || c.certified(nil) != nil {
			t.Errorf("%x: a key of what is no certificate", c.oid)
		}
	}
}

// Keys of two curves may have the same size.
func TestCertifiedForAnotherCurve(t *testing.T) {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	if got := curveFor(core.Ed25519, core.UseSign).certified(der); !bytes.Equal(got, k.Public().(ed25519.PublicKey)) {
		t.Errorf("%x", got)
	}
	if got := curveFor(core.X25519, core.UseDecrypt).certified(der); got != nil {
		t.Errorf("a key of Ed25519 is taken for X25519: %x", got)
	}
}

func FuzzPoint(f *testing.F) {
	for c, point := range pointsOf(f) {
		i := byte(slices.Index(curves, c))
		f.Add(i, point)
		f.Add(i, wrapped(point))
		f.Add(i, append([]byte{4, 0x85}, point...))
	}
	f.Fuzz(func(t *testing.T, i byte, given []byte) {
		c := curves[int(i)%len(curves)]
		got := c.publicKey(given)
		if got == nil {
			return
		}
		if len(got) != c.point || !bytes.HasSuffix(given, got) || len(given)-len(got) > 3 {
			t.Errorf("%x of %x", got, given)
		}
		if c.ecdh != nil && c.ecdh() != ecdh.X25519() {
			if _, err := c.ecdh().NewPublicKey(got); err != nil {
				t.Error(err)
			}
		}
		if !bytes.Equal(c.publicKey(wrapped(got)), got) {
			t.Errorf("%x is not read back", got)
		}
	})
}

func FuzzParams(f *testing.F) {
	for _, c := range curves {
		for _, p := range c.params() {
			f.Add(p)
		}
	}
	f.Fuzz(func(t *testing.T, params []byte) {
		c := curveOf(params)
		if c != nil && !slices.ContainsFunc(c.params(), func(p []byte) bool { return bytes.Equal(p, params) }) {
			t.Errorf("%x is %x", params, c.oid)
		}
	})
}
