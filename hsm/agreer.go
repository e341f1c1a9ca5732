// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// An agreer does Diffie-Hellman in the token. The shared secret, one for each peer key,
// is read out of it: HPKE feeds it to HKDF as input, which no token does inside. The
// private key cannot be.
type agreer struct{ *key }

var _ core.Agreer = (*agreer)(nil)

// Agree implements core.Agreer. A peer key is checked here: what comes from the network
// does not reach the token unless it is a public key.
func (k *agreer) Agree(ctx context.Context, peer []byte) (core.Secret, error) {
	if err := k.checkPeer(peer); err != nil {
		return core.Secret{}, err
	}
	peer = bytes.Clone(peer)
	c := &custody{}
	defer c.end() // a call that is late may still give one
	err := k.t.use(ctx, "derive", false, retryInput, c.work(func(s *session) error {
		return k.with(s, func(o cryptoki.Object) error {
			shared, err := k.derive(s, o, peer)
			if err == nil {
				c.give(shared.Bytes())
			}
			return err
		})
	}))
	if err != nil {
		return core.Secret{}, err
	}
	shared := c.take()
	if shared.Equal(core.NewSecret(make([]byte, shared.Len()))) {
		return core.Secret{}, k.t.fail("derive", ErrInvalidInput, "the shared secret is all zero")
	}
	return shared, nil
}

func (k *agreer) checkPeer(peer []byte) error {
	bad := func() error {
		return k.t.fail("derive", ErrInvalidInput, "the peer's key is no public key of the curve")
	}
	if len(peer) != k.curve.point {
		return bad()
	}
	if k.curve.ecdh == nil {
		return nil
	}
	c := k.curve.ecdh()
	public, err := c.NewPublicKey(peer)
	if err != nil {
		return bad()
	}
	if c != ecdh.X25519() {
		return nil
	}
	any, err := c.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if _, err := any.ECDH(public); err != nil { // of low order: with every private key
		return bad()
	}
	return nil
}

// derive makes the secret an object of the session, reads it and destroys it.
func (k *agreer) derive(s *session, o cryptoki.Object, peer []byte) (core.Secret, error) {
	template := cryptoki.Template{
		{Attribute: cryptoki.CKAClass, Value: cryptoki.ClassSecretKey},
		{Attribute: cryptoki.CKAKeyType, Value: cryptoki.KeyGenericSecret},
		{Attribute: cryptoki.CKAToken, Value: false},
		{Attribute: cryptoki.CKASensitive, Value: false},
		{Attribute: cryptoki.CKAExtractable, Value: true},
	}
	asDER := k.t.wrapped.Load()
	form := peer
	if asDER {
		form = wrapped(peer)
	}
	secret, err := s.p.Derive(s.handle, o, form, template)
	if r := resultOf(err); !asDER && (r == cryptoki.ErrMechanismParamInvalid || r == cryptoki.ErrArgumentsBad) {
		if secret, err = s.p.Derive(s.handle, o, wrapped(peer), template); err == nil {
			k.t.wrapped.Store(true)
		}
	}
	if err != nil {
		return core.Secret{}, err
	}
	value, err := s.p.Attribute(s.handle, secret, cryptoki.CKAValue)
	if destroyed := s.p.Destroy(s.handle, secret); err == nil {
		err = destroyed
	}
	if err != nil {
		return core.Secret{}, err
	}
	if len(value) > k.curve.scalar {
		clear(value)
		return core.Secret{}, k.t.fail("derive", ErrUnsupported, "the token gives a secret of another size")
	}
	padded := make([]byte, k.curve.scalar) // leading zeros may be missing
	copy(padded[k.curve.scalar-len(value):], value)
	clear(value)
	return core.NewSecret(padded), nil
}

// proves agrees with a key of our own and compares.
func (k *agreer) proves(s *session) error {
	var peer, want []byte
	if k.curve.ecdh == nil { // X448: the token with itself
		peer = k.public
	} else {
		own, err := k.curve.ecdh().GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		public, err := k.curve.ecdh().NewPublicKey(k.public)
		if err != nil {
			return k.disproved(err)
		}
		if want, err = own.ECDH(public); err != nil {
			return k.disproved(err)
		}
		peer = own.PublicKey().Bytes()
	}
	got, err := k.derive(s, k.handle, peer)
	if err != nil {
		return k.disproved(err)
	}
	defer got.Wipe()
	if want != nil && !got.Equal(core.NewSecret(want)) {
		return k.disproved(ErrKeyMismatch)
	}
	return nil
}
