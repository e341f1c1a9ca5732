// SPDX-License-Identifier: Apache-2.0

package pure

import (
	"crypto/ecdh"
	"crypto/rand"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// A group is a Diffie-Hellman group as DHKEM sees it (RFC 9180 section 4.1).
type group interface {
	generate() (groupKey, error)
	// open takes a private key of exact length; ErrInvalid if it is not one.
	open(secret []byte) (groupKey, error)
	// validate refuses wrong lengths, points off the curve, the identity and
	// points of small order.
	validate(public []byte) error
}

// A groupKey is a parsed private key: parsing computes the public key, which
// costs as much as using it.
type groupKey interface {
	public() []byte // a copy
	secret() []byte // a copy
	agree(peer []byte) ([]byte, error)
	wipe()
}

var errPublic = fmt.Errorf("public key: %w", core.ErrInvalid)

// nist is a group over a NIST curve: uncompressed points, full-width scalars.
type nist struct{ curve ecdh.Curve }

type nistKey struct{ priv *ecdh.PrivateKey }

func (g nist) generate() (groupKey, error) {
	priv, err := g.curve.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return nistKey{priv}, nil
}

func (g nist) open(secret []byte) (groupKey, error) {
	priv, err := g.curve.NewPrivateKey(secret)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", core.ErrInvalid)
	}
	return nistKey{priv}, nil
}

func (g nist) validate(public []byte) error {
	if _, err := g.curve.NewPublicKey(public); err != nil {
		return errPublic
	}
	return nil
}

func (k nistKey) public() []byte { return k.priv.PublicKey().Bytes() }
func (k nistKey) secret() []byte { return k.priv.Bytes() }
func (k nistKey) wipe()          {} // crypto/ecdh gives no access to its bytes

func (k nistKey) agree(peer []byte) ([]byte, error) {
	pub, err := k.priv.Curve().NewPublicKey(peer)
	if err != nil {
		return nil, errPublic
	}
	shared, err := k.priv.ECDH(pub)
	if err != nil {
		return nil, errPublic
	}
	return shared, nil
}
