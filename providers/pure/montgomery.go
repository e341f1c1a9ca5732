// SPDX-License-Identifier: Apache-2.0

package pure

import (
	"crypto/rand"
	"fmt"

	circl25519 "github.com/cloudflare/circl/dh/x25519"
	circl448 "github.com/cloudflare/circl/dh/x448"

	"github.com/conclave-mls/conclave/core"
)

// x25519 and x448 are the groups of RFC 7748. Any string of the right length is
// a private key, and any that is not of small order a public key: coordinates
// that are not reduced are accepted, as that RFC demands.
type (
	x25519 struct{}
	x448   struct{}

	x25519Key struct{ priv, pub circl25519.Key }
	x448Key   struct{ priv, pub circl448.Key }
)

func (x25519) generate() (groupKey, error) {
	k := new(x25519Key)
	_, _ = rand.Read(k.priv[:]) // never fails, see crypto/rand (CS-7)
	circl25519.KeyGen(&k.pub, &k.priv)
	return k, nil
}

func (x25519) open(secret []byte) (groupKey, error) {
	k := new(x25519Key)
	if len(secret) != len(k.priv) {
		return nil, fmt.Errorf("X25519 private key of %d bytes: %w", len(secret), core.ErrInvalid)
	}
	copy(k.priv[:], secret)
	circl25519.KeyGen(&k.pub, &k.priv)
	return k, nil
}

func (x25519) validate(public []byte) error {
	var u circl25519.Key
	if len(public) != len(u) {
		return errPublic
	}
	copy(u[:], public)
	u[31] &= 0x7f // RFC 7748 section 5: the top bit is ignored
	for i := range smallOrder25519 {
		if u == smallOrder25519[i] {
			return errPublic
		}
	}
	return nil
}

func (k *x25519Key) public() []byte { return append([]byte(nil), k.pub[:]...) }
func (k *x25519Key) secret() []byte { return append([]byte(nil), k.priv[:]...) }
func (k *x25519Key) wipe()          { clear(k.priv[:]) }

func (k *x25519Key) agree(peer []byte) ([]byte, error) {
	var shared, u circl25519.Key
	if len(peer) != len(u) {
		return nil, errPublic
	}
	copy(u[:], peer)
	if !circl25519.Shared(&shared, &k.priv, &u) {
		return nil, errPublic
	}
	return shared[:], nil
}

func (x448) generate() (groupKey, error) {
	k := new(x448Key)
	_, _ = rand.Read(k.priv[:])
	circl448.KeyGen(&k.pub, &k.priv)
	return k, nil
}

func (x448) open(secret []byte) (groupKey, error) {
	k := new(x448Key)
	if len(secret) != len(k.priv) {
		return nil, fmt.Errorf("X448 private key of %d bytes: %w", len(secret), core.ErrInvalid)
	}
	copy(k.priv[:], secret)
	circl448.KeyGen(&k.pub, &k.priv)
	return k, nil
}

func (x448) validate(public []byte) error {
	var u circl448.Key
	if len(public) != len(u) {
		return errPublic
	}
	copy(u[:], public)
	for i := range smallOrder448 {
		if u == smallOrder448[i] {
			return errPublic
		}
	}
	return nil
}

func (k *x448Key) public() []byte { return append([]byte(nil), k.pub[:]...) }
func (k *x448Key) secret() []byte { return append([]byte(nil), k.priv[:]...) }
func (k *x448Key) wipe()          { clear(k.priv[:]) }

func (k *x448Key) agree(peer []byte) ([]byte, error) {
	var shared, u circl448.Key
	if len(peer) != len(u) {
		return nil, errPublic
	}
	copy(u[:], peer)
	if !circl448.Shared(&shared, &k.priv, &u) {
		return nil, errPublic
	}
	return shared[:], nil
}

// The u coordinates of small order on the curve and on its twist, little-endian,
// with the representatives that are not reduced: 0, 1, p-1, p, p+1, and for
// Curve25519 the two of order 8.
var (
	smallOrder25519 = [7]circl25519.Key{
		{},
		{0: 1},
		fill25519(0xec),
		fill25519(0xed),
		fill25519(0xee),
		{
			0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
			0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
		},
		{
			0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
			0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
		},
	}
	smallOrder448 = [5]circl448.Key{{}, {0: 1}, fill448(0xfe, 0xff), fill448(0xff, 0xff), fill448(0x00, 0x00)}
)

// fill25519 is 2^255 - 256 + low; p is 2^255 - 19.
func fill25519(low byte) (k circl25519.Key) {
	for i := range k {
		k[i] = 0xff
	}
	k[0], k[31] = low, 0x7f
	return k
}

// fill448 has the bytes of p = 2^448 - 2^224 - 1 around p-1, p and p+1: low is
// the lowest byte, mid the 27 above it; p+1 carries into byte 28.
func fill448(low, mid byte) (k circl448.Key) {
	for i := range k {
		k[i] = 0xff
	}
	k[0] = low
	for i := 1; i < 28; i++ {
		k[i] = mid
	}
	if mid == 0xff {
		k[28] = 0xfe
	}
	return k
}
