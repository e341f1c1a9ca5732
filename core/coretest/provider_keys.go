// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// A provider is a CryptoProvider under test that cleans up the keys it made.
type provider struct {
	testing.TB
	core.CryptoProvider
	ctx context.Context
}

func providerOf(t testing.TB, open func() core.CryptoProvider) *provider {
	return &provider{t, open(), t.Context()}
}

// keySpec describes a fresh key of an algorithm, for the only use it has.
func keySpec(alg core.KeyAlgorithm) core.KeySpec {
	s := core.KeySpec{Algorithm: alg, Use: core.UseDecrypt, Label: "conformance"}
	if isSignature(alg) {
		s.Use = core.UseSign
	}
	_, _ = rand.Read(s.ID[:])
	return s
}

func (k *provider) algorithms() []core.KeyAlgorithm {
	k.Helper()
	algs, err := k.Algorithms(k.ctx)
	if err != nil {
		k.Fatalf("Algorithms: %v", err)
	}
	return algs
}

// forEach makes a key of each listed algorithm for which pick holds.
func (k *provider) forEach(pick func(core.KeyAlgorithm) bool, run func(alg core.KeyAlgorithm, key core.PrivateKey)) {
	k.Helper()
	for _, alg := range k.algorithms() {
		if pick(alg) {
			run(alg, k.make(keySpec(alg)))
		}
	}
}

func everyAlgorithm(core.KeyAlgorithm) bool { return true }

func (k *provider) make(s core.KeySpec) core.PrivateKey {
	k.Helper()
	key, err := k.GenerateKey(k.ctx, s)
	if err != nil {
		k.Fatalf("GenerateKey(%s): %v", s.Algorithm, err)
	}
	k.forget(key)
	return key
}

// forget has the key deleted at the end, if the provider can.
func (k *provider) forget(key core.PrivateKey) {
	if d, ok := k.CryptoProvider.(core.KeyDeleter); ok {
		k.Cleanup(func() {
			if err := d.DeleteKey(context.WithoutCancel(k.ctx), key.Ref()); err != nil {
				k.Errorf("DeleteKey(%s): %v", key.Ref(), err)
			}
		})
	}
}

func (k *provider) signer(key core.PrivateKey) core.Signer {
	k.Helper()
	s, ok := key.(core.Signer)
	if !ok {
		k.Fatalf("%s key %T is no core.Signer", key.Algorithm(), key)
	}
	return s
}

func (k *provider) agreer(key core.PrivateKey) core.Agreer {
	k.Helper()
	a, ok := key.(core.Agreer)
	if !ok {
		k.Fatalf("%s key %T is no core.Agreer", key.Algorithm(), key)
	}
	return a
}

// material is what OpenKey takes for a key: empty if the provider keeps it.
func material(key core.PrivateKey) core.Secret {
	if s, ok := key.(core.SoftwareKey); ok {
		return s.Material()
	}
	return core.Secret{}
}

// works proves that a key does what its public key says.
func (k *provider) works(key core.PrivateKey, public []byte) {
	k.Helper()
	alg := key.Algorithm()
	if isSignature(alg) {
		message := []byte("a message")
		sig, err := k.signer(key).Sign(k.ctx, message)
		if err != nil {
			k.Fatalf("%s: Sign: %v", alg, err)
		}
		if err := verify(alg, public, message, sig); err != nil {
			k.Errorf("%s: signature does not verify: %v", alg, err)
		}
	} else if isAgreement(alg) {
		peer, want, err := peerOf(alg, public)
		if errors.Is(err, errNoReference) {
			return
		}
		if err != nil {
			k.Fatalf("%s: public key %x: %v", alg, public, err)
		}
		got, err := k.agreer(key).Agree(k.ctx, peer)
		if err != nil || !bytes.Equal(got.Bytes(), want) {
			k.Errorf("%s: agreement differs from the peer's (%v)", alg, err)
		}
	}
}

// useKey uses a key once and checks the result; unlike works it may run in any
// goroutine.
func useKey(ctx context.Context, key core.PrivateKey, text string) error {
	switch alg := key.Algorithm(); {
	case isSignature(alg):
		signer, ok := key.(core.Signer)
		if !ok {
			return fmt.Errorf("%s key %T is no core.Signer", alg, key)
		}
		sig, err := signer.Sign(ctx, []byte(text))
		if err != nil {
			return err
		}
		return verify(alg, key.Public(), []byte(text), sig)
	case isAgreement(alg):
		peer, want, err := peerOf(alg, key.Public())
		if errors.Is(err, errNoReference) {
			return nil
		}
		if err != nil {
			return err
		}
		agreer, ok := key.(core.Agreer)
		if !ok {
			return fmt.Errorf("%s key %T is no core.Agreer", alg, key)
		}
		got, err := agreer.Agree(ctx, peer)
		if err == nil && !bytes.Equal(got.Bytes(), want) {
			err = errors.New("agreement differs from the peer's")
		}
		return err
	}
	return nil
}
