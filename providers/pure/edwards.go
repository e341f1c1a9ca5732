// SPDX-License-Identifier: Apache-2.0

package pure

import (
	"math/big"
	"slices"
)

// An edwards is what is needed to judge a public key of an Edwards curve
// a*x^2 + y^2 = 1 + d*x^2*y^2 (RFC 8032 sections 5.1 and 5.2). Public keys are
// no secret, so math/big serves.
type edwards struct {
	size       int // bytes of an encoding
	p, a, d    *big.Int
	smallOrder []*big.Int // y of the points whose order divides the cofactor
}

var (
	edwards25519 = newEdwards(32, "57896044618658097711785492504343953926634992332820282019728792003956564819949", -1,
		"37095705934669439343138083508754565189542113879843219016388785533085940283555",
		"2707385501144840649318225287225658788936804267575313519463743609750303402022") // and p minus it: order 8
	edwards448 = newEdwards(57, "726838724295606890549323807888004534353641360687318060281490199180612328166730772686396383698676545930088884461843637361053498018365439", 1,
		"-39081")
)

func newEdwards(size int, p string, a int64, d string, order8 ...string) *edwards {
	e := &edwards{size: size, p: number(p), a: big.NewInt(a), d: number(d)}
	e.smallOrder = []*big.Int{big.NewInt(0), big.NewInt(1), new(big.Int).Sub(e.p, big.NewInt(1))}
	for _, y := range order8 {
		e.smallOrder = append(e.smallOrder, number(y), new(big.Int).Sub(e.p, number(y)))
	}
	return e
}

func number(decimal string) *big.Int {
	n, _ := new(big.Int).SetString(decimal, 10)
	return n
}

// validate refuses encodings of the wrong length, not reduced, off the curve, or
// of small order.
func (e *edwards) validate(public []byte) error {
	if len(public) != e.size {
		return errPublic
	}
	b := slices.Clone(public)
	b[e.size-1] &= 0x7f // the sign of x
	slices.Reverse(b)
	y := new(big.Int).SetBytes(b)
	if y.Cmp(e.p) >= 0 {
		return errPublic
	}
	for _, s := range e.smallOrder { // x = 0 is among them, so its sign needs no look
		if y.Cmp(s) == 0 {
			return errPublic
		}
	}
	// x^2 = (1 - y^2) / (a - d*y^2) must be a square: so must be the product.
	yy := new(big.Int).Mul(y, y)
	u := new(big.Int).Sub(big.NewInt(1), yy)
	v := new(big.Int).Mul(e.d, yy.Mod(yy, e.p))
	v.Sub(e.a, v)
	u.Mul(u, v)
	if big.Jacobi(u.Mod(u, e.p), e.p) != 1 {
		return errPublic
	}
	return nil
}
