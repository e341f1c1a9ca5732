// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// An algorithm is what the suites know of a core.KeyAlgorithm: the sizes in MLS
// encoding and the standard library's implementation, if it has one.
type algorithm struct {
	public, material int
	signature        int // of EdDSA
	shared           int
	ecdsa            elliptic.Curve
	ecdh             ecdh.Curve
}

// The algorithms of RFC 9420. A provider may list others: what the contract says
// of every key is checked for them too.
var algorithms = map[core.KeyAlgorithm]algorithm{
	core.Ed25519:   {public: 32, material: 32, signature: 64},
	core.Ed448:     {public: 57, material: 57, signature: 114},
	core.ECDSAP256: {public: 65, material: 32, ecdsa: elliptic.P256()},
	core.ECDSAP384: {public: 97, material: 48, ecdsa: elliptic.P384()},
	core.ECDSAP521: {public: 133, material: 66, ecdsa: elliptic.P521()},
	core.X25519:    {public: 32, material: 32, shared: 32, ecdh: ecdh.X25519()},
	core.X448:      {public: 56, material: 56, shared: 56},
	core.ECDHP256:  {public: 65, material: 32, shared: 32, ecdh: ecdh.P256()},
	core.ECDHP384:  {public: 97, material: 48, shared: 48, ecdh: ecdh.P384()},
	core.ECDHP521:  {public: 133, material: 66, shared: 66, ecdh: ecdh.P521()},
}

func publicSize(alg core.KeyAlgorithm) int   { return algorithms[alg].public }
func materialSize(alg core.KeyAlgorithm) int { return algorithms[alg].material }
func sharedSize(alg core.KeyAlgorithm) int   { return algorithms[alg].shared }
func isAgreement(alg core.KeyAlgorithm) bool { return algorithms[alg].shared != 0 }
func isSignature(alg core.KeyAlgorithm) bool {
	a := algorithms[alg]
	return a.signature != 0 || a.ecdsa != nil
}

// verify checks a signature in MLS encoding: of Ed448 the length only.
func verify(alg core.KeyAlgorithm, public, message, sig []byte) error {
	a := algorithms[alg]
	if a.signature != 0 && len(sig) != a.signature {
		return fmt.Errorf("%d bytes, want %d", len(sig), a.signature)
	}
	valid := true
	switch {
	case alg == core.Ed25519:
		valid = ed25519.Verify(public, message, sig)
	case a.ecdsa != nil:
		pub, err := ecdsa.ParseUncompressedPublicKey(a.ecdsa, public)
		if err != nil {
			return err
		}
		valid = ecdsa.VerifyASN1(pub, digest(alg, message), sig)
	}
	if !valid {
		return errors.New("invalid signature")
	}
	return nil
}

// digest is the hash that RFC 9420 section 17.1 pairs with an ECDSA curve.
func digest(alg core.KeyAlgorithm, message []byte) []byte {
	switch alg {
	case core.ECDSAP256:
		sum := sha256.Sum256(message)
		return sum[:]
	case core.ECDSAP384:
		sum := sha512.Sum384(message)
		return sum[:]
	default:
		sum := sha512.Sum512(message)
		return sum[:]
	}
}

var errNoReference = errors.New("the standard library has no such curve")

// peerOf makes the other side of an agreement: its public key, and the secret
// that the holder of public must compute.
func peerOf(alg core.KeyAlgorithm, public []byte) (peer, shared []byte, err error) {
	curve := algorithms[alg].ecdh
	if curve == nil {
		return nil, nil, errNoReference
	}
	pub, err := curve.NewPublicKey(public)
	if err != nil {
		return nil, nil, err
	}
	priv, err := curve.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	shared, err = priv.ECDH(pub)
	return priv.PublicKey().Bytes(), shared, err
}

// newMaterial makes a private key in the encoding of core.SoftwareKey; nil if the
// standard library lacks the algorithm.
func newMaterial(t testing.TB, alg core.KeyAlgorithm) (secret, public []byte) {
	t.Helper()
	try := func(b []byte, err error) []byte {
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		return b
	}
	switch a := algorithms[alg]; {
	case alg == core.Ed25519:
		public, priv, err := ed25519.GenerateKey(nil)
		return try(priv.Seed(), err), public
	case a.ecdsa != nil:
		priv, err := ecdsa.GenerateKey(a.ecdsa, rand.Reader)
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		return try(priv.Bytes()), try(priv.PublicKey.Bytes())
	case a.ecdh != nil:
		priv, err := a.ecdh.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		return priv.Bytes(), priv.PublicKey().Bytes()
	}
	return nil, nil
}

// peerWithLeadingZero looks for a peer with which the secret begins with a zero
// byte: one in 256 does (P-521: one in two).
func peerWithLeadingZero(alg core.KeyAlgorithm, public []byte) (peer, shared []byte, err error) {
	for range 3000 { // misses once in 10^5 runs, and then the check is vacuous
		if peer, shared, err = peerOf(alg, public); err != nil || shared[0] == 0 {
			return peer, shared, err
		}
	}
	return nil, nil, errNoReference
}

// badPublicKeys are strings that are no public keys of an algorithm; good is one.
func badPublicKeys(alg core.KeyAlgorithm, good []byte) map[string][]byte {
	bad := map[string][]byte{
		"empty":         nil,
		"one byte less": good[:len(good)-1],
		"one byte more": append(bytes.Clone(good), 0),
		"all zero":      make([]byte, len(good)),
	}
	switch alg {
	case core.X25519:
		for i, u := range smallOrderX25519 {
			bad[fmt.Sprint("small order ", i)] = unhex(u)
			masked := unhex(u)
			masked[31] |= 0x80 // which X25519 ignores
			bad[fmt.Sprint("small order, top bit set ", i)] = masked
		}
	case core.X448:
		for i, u := range smallOrderX448 {
			bad[fmt.Sprint("small order ", i)] = unhex(u)
		}
	case core.Ed25519:
		for i, y := range badEd25519 {
			bad[fmt.Sprint("bad point ", i)] = unhex(y)
		}
	case core.Ed448:
		for i, y := range badEd448 {
			bad[fmt.Sprint("bad point ", i)] = unhex(y)
		}
	default: // uncompressed points of NIST curves
		off := bytes.Clone(good)
		off[len(off)-1] ^= 1
		bad["off the curve"] = off
		size := len(good) / 2
		compressed := bytes.Clone(good[:1+size])
		compressed[0] = 2 + good[len(good)-1]&1
		bad["compressed"] = compressed
		bad["identity"] = []byte{0}
		hybrid := bytes.Clone(good)
		hybrid[0] = 6 + good[len(good)-1]&1
		bad["hybrid form"] = hybrid
		big := bytes.Repeat([]byte{0xff}, len(good))
		big[0] = 4
		bad["coordinates beyond the field"] = big
	}
	return bad
}

// oo and ff are n bytes in hexadecimal.
func oo(n int) string { return strings.Repeat("00", n) }
func ff(n int) string { return strings.Repeat("ff", n) }

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

var (
	// u = 1, p-1, p, p+1 and the two of order 8 (RFC 7748 section 6.1, security
	// considerations); zero is a case of its own.
	smallOrderX25519 = []string{
		"01" + oo(31),
		"ec" + ff(30) + "7f",
		"ed" + ff(30) + "7f",
		"ee" + ff(30) + "7f",
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	}
	// u = 1, p-1, p, p+1.
	smallOrderX448 = []string{
		"01" + oo(55),
		"fe" + ff(27) + "fe" + ff(27),
		"ff" + ff(27) + "fe" + ff(27),
		"00" + oo(27) + "ff" + ff(27),
	}
	// Points of order 1, 2, 4 and 8; 1 and -1 with the sign of x = 0 set; y = p
	// and p+1; y = 2, which is not on the curve.
	badEd25519 = []string{
		"01" + oo(31),
		"01" + oo(30) + "80",
		"ec" + ff(30) + "7f",
		"ec" + ff(31),
		"00" + oo(30) + "80",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
		"ed" + ff(30) + "7f",
		"ee" + ff(30) + "7f",
		"02" + oo(31),
	}
	// Points of order 1, 2 and 4, the signs likewise; y = p and p+1; a last byte
	// that is more than a sign.
	badEd448 = []string{
		"01" + oo(55) + "00",
		"01" + oo(55) + "80",
		"fe" + ff(27) + "fe" + ff(27) + "00",
		"fe" + ff(27) + "fe" + ff(27) + "80",
		"00" + oo(55) + "80",
		"ff" + ff(27) + "fe" + ff(27) + "00",
		"00" + oo(27) + "ff" + ff(27) + "00",
		"03" + oo(55) + "01",
	}
)
