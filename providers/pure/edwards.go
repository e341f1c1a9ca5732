// SPDX-License-Identifier: Apache-2.0

package pure

import (
	"slices"

	"github.com/cloudflare/circl/math/fp25519"
	"github.com/cloudflare/circl/math/fp448"
)

// validateEd25519 refuses encodings (RFC 8032 section 5.1.2) of the wrong length,
// not reduced, off the curve, or of a point whose order divides the cofactor.
func validateEd25519(public []byte) error {
	var y fp25519.Elt
	if len(public) != len(y) {
		return errPublic
	}
	copy(y[:], public)
	y[len(y)-1] &= 0x7f // the sign of x
	reduced := y
	fp25519.Modp(&reduced)
	if reduced != y || slices.Contains(smallOrderEd25519[:], y) {
		return errPublic // x = 0 has small order, so its sign needs no look
	}
	// x^2 = (y^2 - 1) / (d*y^2 + 1) must be a square.
	var one, yy, u, v, x fp25519.Elt
	fp25519.SetOne(&one)
	fp25519.Sqr(&yy, &y)
	fp25519.Sub(&u, &yy, &one)
	fp25519.Mul(&v, &yy, &edwards25519D)
	fp25519.Add(&v, &v, &one)
	if !fp25519.InvSqrt(&x, &u, &v) {
		return errPublic
	}
	return nil
}

// validateEd448 does the same for RFC 8032 section 5.2.2.
func validateEd448(public []byte) error {
	var y fp448.Elt
	if len(public) != len(y)+1 || public[len(y)]&0x7f != 0 {
		return errPublic
	}
	copy(y[:], public)
	reduced := y
	fp448.Modp(&reduced)
	if reduced != y || slices.Contains(smallOrderEd448[:], y) {
		return errPublic
	}
	// x^2 = (1 - y^2) / (1 - d*y^2), with d = -39081, must be a square.
	var one, yy, u, v, x fp448.Elt
	fp448.SetOne(&one)
	fp448.Sqr(&yy, &y)
	fp448.Sub(&u, &one, &yy)
	fp448.Mul(&v, &yy, &fp448.Elt{0xa9, 0x98})
	fp448.Add(&v, &v, &one)
	if !fp448.InvSqrt(&x, &u, &v) {
		return errPublic
	}
	return nil
}

// The y coordinates of points of small order, little-endian: 1 (the identity),
// -1, 0, and for edwards25519 the two of order 8.
var (
	smallOrderEd25519 = [5]fp25519.Elt{
		{1},
		fp25519.Elt(fill25519(0xec)),
		{},
		{
			0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
			0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
		},
		{
			0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
			0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
		},
	}
	smallOrderEd448 = [3]fp448.Elt{{1}, fp448.Elt(fill448(0xfe, 0xff)), {}}

	// d = -121665/121666.
	edwards25519D = fp25519.Elt{
		0xa3, 0x78, 0x59, 0x13, 0xca, 0x4d, 0xeb, 0x75, 0xab, 0xd8, 0x41, 0x41, 0x4d, 0x0a, 0x70, 0x00,
		0x98, 0xe8, 0x79, 0x77, 0x79, 0x40, 0xc7, 0x8c, 0x73, 0xfe, 0x6f, 0x2b, 0xee, 0x6c, 0x03, 0x52,
	}
)
