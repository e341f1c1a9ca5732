// SPDX-License-Identifier: Apache-2.0

package pure_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"math/big"
	"slices"
	"testing"

	circl25519 "github.com/cloudflare/circl/dh/x25519"
	circl448 "github.com/cloudflare/circl/dh/x448"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/providers/pure"
)

// Half of all strings are points of an Edwards curve: those for which x^2 is a
// square, which math/big decides in its own way.
func TestValidateEdwardsAgainstJacobi(t *testing.T) {
	number := func(s string) *big.Int {
		n, ok := new(big.Int).SetString(s, 10)
		if !ok {
			t.Fatal(s)
		}
		return n
	}
	for _, curve := range []struct {
		suite   core.SuiteID
		size    int
		p, a, d *big.Int
	}{
		{core.SuiteX25519AES128Ed25519, 32, number("57896044618658097711785492504343953926634992332820282019728792003956564819949"),
			big.NewInt(-1), number("37095705934669439343138083508754565189542113879843219016388785533085940283555")},
		{core.SuiteX448AES256Ed448, 57, number("726838724295606890549323807888004534353641360687318060281490199180612328166730772686396383698676545930088884461843637361053498018365439"),
			big.NewInt(1), big.NewInt(-39081)},
	} {
		s := must(pure.New().Suite(curve.suite))
		onCurve := 0
		for range 400 {
			public := make([]byte, curve.size)
			_, _ = rand.Read(public)
			if curve.size == 57 {
				public[56] &= 0x80
			}
			b := slices.Clone(public)
			b[curve.size-1] &= 0x7f
			slices.Reverse(b)
			y := new(big.Int).SetBytes(b)
			yy := new(big.Int).Mul(y, y)
			// a*x^2 + y^2 = 1 + d*x^2*y^2, so x^2 = (1 - y^2) / (a - d*y^2).
			u := new(big.Int).Sub(big.NewInt(1), yy)
			v := new(big.Int).Mul(curve.d, yy)
			u.Mul(u, v.Sub(curve.a, v))
			want := big.Jacobi(u.Mod(u, curve.p), curve.p) == 1
			err := s.ValidateSignaturePublic(public)
			if want != (err == nil) || err != nil && !errors.Is(err, core.ErrInvalid) {
				t.Errorf("suite %s: %x: %v, but on the curve: %v", curve.suite, public, err, want)
			}
			if want {
				onCurve++
			}
		}
		if onCurve < 100 || onCurve > 300 {
			t.Errorf("suite %s: %d of 400 strings are points", curve.suite, onCurve)
		}
	}
}

// ValidatePublic refuses by a list what the ladder finds by computing zero.
func TestValidateMontgomeryAgainstLadder(t *testing.T) {
	x25519, x448 := must(pure.New().Suite(core.SuiteX25519AES128Ed25519)), must(pure.New().Suite(core.SuiteX448AES256Ed448))
	priv := must(ecdh.X25519().GenerateKey(rand.Reader))
	check := func(s core.Suite, u []byte, valid bool) {
		if err := s.ValidatePublic(u); valid != (err == nil) {
			t.Errorf("suite %s: %x: %v, but the ladder's result is not zero: %v", s.ID(), u, err, valid)
		}
	}
	// All strings near 0, p, 2p and 2^255, where those of small order lie.
	for _, fill := range []byte{0x00, 0xff} {
		for low := range 256 {
			for _, top := range []byte{0x00, 0x7f, 0x80, 0xff} {
				var u, secret, shared circl25519.Key
				for i := range u {
					u[i] = fill
				}
				u[0], u[31] = byte(low), top
				copy(secret[:], priv.Bytes())
				pub := must(ecdh.X25519().NewPublicKey(u[:]))
				_, err := priv.ECDH(pub)
				if ok := circl25519.Shared(&shared, &secret, &u); ok != (err == nil) {
					t.Errorf("circl and crypto/ecdh disagree about %x", u)
				}
				check(x25519, u[:], err == nil)
			}
			for _, mid := range []byte{0x00, 0xfe, 0xff} {
				var u, secret, shared circl448.Key
				for i := range u {
					u[i] = fill
				}
				u[0], u[28] = byte(low), mid
				for i := 29; i < 56; i++ {
					u[i] = mid | 1
				}
				if mid == 0 {
					clear(u[28:])
				}
				_, _ = rand.Read(secret[:])
				check(x448, u[:], circl448.Shared(&shared, &secret, &u) && shared != circl448.Key{})
			}
		}
	}
}

// CS-1, ts-mls/p521: a P-521 scalar without its leading zero byte is not a key:
// whoever has one pads it.
func TestScalarWidth(t *testing.T) {
	s := must(pure.New().Suite(core.SuiteP521AES256P521))
	for {
		key := must(s.GenerateKeyPair())
		m := key.Material().Bytes()
		if len(m) != 66 {
			t.Fatalf("a scalar of %d bytes", len(m))
		}
		if m[0] != 0 {
			continue
		}
		if _, err := s.OpenKeyPair(core.NewSecret(m[1:])); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("65 bytes: %v, want ErrInvalid", err)
		}
		return
	}
}
