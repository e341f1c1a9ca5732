// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"crypto/elliptic"

	"github.com/conclave-mls/conclave/core"
)

// Uncompressed returns a public signature key in the one form that RFC 9420 allows
// (section 5.1.1): a compressed point of the scheme's NIST curve uncompressed,
// anything else as it is. Peers put the keys of external senders compressed into their
// groups; the bytes of the group stay theirs, and we read the key through this.
func Uncompressed(scheme core.SignatureScheme, key []byte) []byte {
	var curve elliptic.Curve
	switch scheme {
	case core.SchemeECDSAP256:
		curve = elliptic.P256()
	case core.SchemeECDSAP384:
		curve = elliptic.P384()
	case core.SchemeECDSAP521:
		curve = elliptic.P521()
	default:
		return key
	}
	x, y := elliptic.UnmarshalCompressed(curve, key)
	if x == nil {
		return key
	}
	n := (curve.Params().BitSize + 7) / 8
	out := make([]byte, 1+2*n)
	out[0] = 4
	x.FillBytes(out[1 : 1+n])
	y.FillBytes(out[1+n:])
	return out
}

// key is what the sender's signatures are verified with.
func (s ExternalSender) key(suite core.Suite) []byte {
	return Uncompressed(suite.Parameters().Scheme, s.SignatureKey)
}
