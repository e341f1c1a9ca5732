// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	_ "crypto/sha256" // the hashes of the schemes
	_ "crypto/sha512"
	"crypto/x509"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// A curve is how a token names a curve, and what the sizes on it are.
type curve struct {
	oid    []byte // CKA_EC_PARAMS as DER: an object identifier
	name   string // or a PrintableString; "" if only the identifier is in use
	point  int    // bytes of a public key
	scalar int    // bytes of a private key, of half an ECDSA signature, of a shared secret
	makers []maker
	sign   core.KeyAlgorithm // "": not for signatures
	agree  core.KeyAlgorithm // "": not for key exchange
	hash   crypto.Hash       // of the scheme of RFC 9420; 0: the message itself is signed
	ecdh   func() ecdh.Curve // nil: the standard library lacks it
}

// A maker is one way to have a key pair made. Tokens differ.
type maker struct {
	mechanism cryptoki.Mechanism
	keyType   uint
}

var (
	nist       = []maker{{cryptoki.ECKeyPairGen, cryptoki.KeyEC}}
	edwards    = []maker{{cryptoki.EdwardsKeyPairGen, cryptoki.KeyECEdwards}}
	montgomery = []maker{{cryptoki.MontgomeryKeyPairGen, cryptoki.KeyECMontgomery}, {cryptoki.EdwardsKeyPairGen, cryptoki.KeyECEdwards}}
)

// Object identifiers: SEC 2 for the NIST curves, RFC 8410 for the others.
var curves = []*curve{
	{oid: []byte("\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"), point: 65, scalar: 32, makers: nist, sign: core.ECDSAP256, agree: core.ECDHP256, hash: crypto.SHA256, ecdh: ecdh.P256},
	{oid: []byte("\x06\x05\x2b\x81\x04\x00\x22"), point: 97, scalar: 48, makers: nist, sign: core.ECDSAP384, agree: core.ECDHP384, hash: crypto.SHA384, ecdh: ecdh.P384},
	{oid: []byte("\x06\x05\x2b\x81\x04\x00\x23"), point: 133, scalar: 66, makers: nist, sign: core.ECDSAP521, agree: core.ECDHP521, hash: crypto.SHA512, ecdh: ecdh.P521},
	{oid: []byte("\x06\x03\x2b\x65\x70"), name: "edwards25519", point: 32, scalar: 32, makers: edwards, sign: core.Ed25519},
	{oid: []byte("\x06\x03\x2b\x65\x71"), name: "edwards448", point: 57, scalar: 57, makers: edwards, sign: core.Ed448},
	{oid: []byte("\x06\x03\x2b\x65\x6e"), name: "curve25519", point: 32, scalar: 32, makers: montgomery, agree: core.X25519, ecdh: ecdh.X25519},
	{oid: []byte("\x06\x03\x2b\x65\x6f"), name: "curve448", point: 56, scalar: 56, makers: montgomery, agree: core.X448},
}

// algorithms in the order in which they are offered.
var algorithms = []core.KeyAlgorithm{
	core.Ed25519, core.ECDSAP256, core.Ed448, core.ECDSAP521, core.ECDSAP384,
	core.X25519, core.ECDHP256, core.X448, core.ECDHP521, core.ECDHP384,
}

// curveFor is the curve of an algorithm in its only use, or nil.
func curveFor(a core.KeyAlgorithm, use core.KeyUse) *curve {
	i := slices.IndexFunc(curves, func(c *curve) bool {
		return a != "" && (use == core.UseSign && c.sign == a || use == core.UseDecrypt && c.agree == a)
	})
	if i < 0 {
		return nil
	}
	return curves[i]
}

func useOf(a core.KeyAlgorithm) core.KeyUse {
	if curveFor(a, core.UseSign) != nil {
		return core.UseSign
	}
	return core.UseDecrypt
}

// curveOf reads CKA_EC_PARAMS, in which both forms are met; nil: of no curve that is ours.
func curveOf(params []byte) *curve {
	for _, c := range curves {
		if bytes.Equal(params, c.oid) || c.name != "" && bytes.Equal(params, c.printable()) {
			return c
		}
	}
	return nil
}

func (c *curve) printable() []byte { return append([]byte{0x13, byte(len(c.name))}, c.name...) }

// params are the forms of CKA_EC_PARAMS to try, the standard one first.
func (c *curve) params() [][]byte {
	if c.name == "" {
		return [][]byte{c.oid}
	}
	return [][]byte{c.oid, c.printable()}
}

// publicKey reads CKA_EC_POINT: by the standard an OCTET STRING around the point; some
// tokens give the point itself, one writes a wrong length, which is only guessed at where a
// wrong guess is seen: few strings are a point of a NIST curve. Nil: it is no point of the
// curve. A raw point may begin like an OCTET STRING, so the size decides.
func (c *curve) publicKey(point []byte) []byte {
	in := cryptobyte.String(point)
	var inner cryptobyte.String
	extra := len(point) - c.point
	switch {
	case in.ReadASN1(&inner, asn1.OCTET_STRING) && in.Empty() && len(inner) == c.point:
		point = inner
	case extra == 0:
	case c.hash != 0 && (extra == 2 || extra == 3) && point[0] == byte(asn1.OCTET_STRING):
		point = point[extra:]
	default:
		return nil
	}
	if c.ecdh != nil {
		if _, err := c.ecdh().NewPublicKey(point); err != nil {
			return nil
		}
	}
	return bytes.Clone(point)
}

// wrapped is a point as the standard wants it in an attribute.
func wrapped(point []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddBytes(point) })
	return b.BytesOrPanic()
}

// certified is the key in a certificate, in the form of MLS; nil: none of the curve.
func (c *curve) certified(certificate []byte) []byte {
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil
	}
	var algorithm cryptobyte.String
	in := cryptobyte.String(cert.RawSubjectPublicKeyInfo)
	var bits []byte
	if !in.ReadASN1(&in, asn1.SEQUENCE) || !in.ReadASN1(&algorithm, asn1.SEQUENCE) || !in.ReadASN1BitStringAsBytes(&bits) {
		return nil
	}
	if !bytes.Contains(algorithm, c.oid) {
		return nil
	}
	return c.publicKey(bits)
}
