// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"filippo.io/edwards25519"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vectors"
)

type (
	keyPairVector struct {
		Seed, Secret, Public []byte
		X25519Public         []byte `json:"x25519_public"`
		Fingerprint          string
	}
	agreementVector struct{ Secret, Public, Shared []byte }
	signatureVector struct{ Secret, Message, Signature []byte }
	identityVector  struct{ Secret, Public, Serialised []byte }
	preKeyVector    struct {
		ID                         uint16
		Secret, Public, Serialised []byte
	}
	bundleVector struct {
		ID                          uint16 `json:"prekey_id"`
		Public, Identity, Signature []byte
		Serialised                  []byte
		Auth                        string
	}
)

func runKeyVectors(_ context.Context, file []byte, report *vectors.Report) error {
	var v struct {
		KeyPairs   []keyPairVector
		Agreements []agreementVector
		Signatures []signatureVector
		Identities []identityVector
		PreKeys    []preKeyVector
		Bundles    []bundleVector
	}
	if err := decodeVectors(file, &v); err != nil {
		return err
	}
	runCases(report, "key pair", v.KeyPairs, keyPairVector.run)
	runCases(report, "agreement", v.Agreements, agreementVector.run)
	runCases(report, "signature", v.Signatures, signatureVector.run)
	runCases(report, "identity", v.Identities, identityVector.run)
	runCases(report, "prekey", v.PreKeys, preKeyVector.run)
	runCases(report, "bundle", v.Bundles, bundleVector.run)
	return nil
}

// pairOf makes a key pair of a secret key, seed and public key.
func pairOf(secret []byte) (keyPair, error) {
	if len(secret) != 64 {
		return keyPair{}, fmt.Errorf("secret key of %d bytes", len(secret))
	}
	return keyPair{core.NewSecret(bytes.Clone(secret[:32])), PublicKey(secret[32:])}, nil
}

func publicKeyOf(b []byte) (PublicKey, error) {
	if len(b) != len(PublicKey{}) {
		return PublicKey{}, fmt.Errorf("public key of %d bytes", len(b))
	}
	return PublicKey(b), nil
}

func (v keyPairVector) run() error {
	k, err := generate(bytes.NewReader(v.Seed))
	if err != nil {
		return err
	}
	r := &reader{rest: k.appendSecret(nil)}
	var secret [64]byte
	r.wrapped(secret[:])
	x25519, err := new(edwards25519.Point).SetBytes(k.public[:])
	if err != nil {
		return err
	}
	return errors.Join(r.err,
		want("secret key", secret[:], v.Secret), want("public key", k.public[:], v.Public),
		want("fingerprint", []byte(k.public.Fingerprint()), []byte(v.Fingerprint)),
		want("X25519 key", x25519.BytesMontgomery(), v.X25519Public))
}

func (v agreementVector) run() error {
	k, err := pairOf(v.Secret)
	if err != nil {
		return err
	}
	p, err := publicKeyOf(v.Public)
	if err != nil {
		return err
	}
	shared, err := k.agree(p)
	return errors.Join(err, want("shared secret", shared.Bytes(), v.Shared))
}

func (v signatureVector) run() error {
	k, err := pairOf(v.Secret)
	if err != nil {
		return err
	}
	if !ed25519.Verify(k.public[:], v.Message, v.Signature) {
		return errors.New("the signature does not verify")
	}
	return want("signature", k.sign(v.Message), v.Signature)
}

func (v identityVector) run() error {
	i, err := UnmarshalIdentity(v.Serialised)
	if err != nil {
		return err
	}
	k, err := pairOf(v.Secret)
	if err != nil {
		return err
	}
	return errors.Join(want("seed", i.pair.seed.Bytes(), k.seed.Bytes()), want("public key", i.pair.public[:], v.Public),
		want("encoding", i.Marshal(), v.Serialised))
}

func (v preKeyVector) run() error {
	k, err := UnmarshalPreKey(v.Serialised)
	if err != nil {
		return err
	}
	pair, err := pairOf(v.Secret)
	if err != nil {
		return err
	}
	if k.ID != v.ID {
		return fmt.Errorf("id %d, want %d", k.ID, v.ID)
	}
	return errors.Join(want("seed", k.pair.seed.Bytes(), pair.seed.Bytes()), want("public key", k.pair.public[:], v.Public),
		want("encoding", k.Marshal(), v.Serialised))
}

func (v bundleVector) run() error {
	b, err := UnmarshalPreKeyBundle(v.Serialised)
	if err != nil {
		return err
	}
	auth := "unknown"
	if len(b.Signature) > 0 {
		auth = "valid"
		if err := b.Verify(); err != nil {
			auth = "invalid"
		}
	}
	if auth == "valid" && v.Auth == "valid (TypeScript)" {
		auth = v.Auth
	}
	if b.ID != v.ID || auth != v.Auth {
		return fmt.Errorf("id %d, %s, want %d, %s", b.ID, auth, v.ID, v.Auth)
	}
	return errors.Join(want("public key", b.Key[:], v.Public), want("identity", b.Identity[:], v.Identity),
		want("signature", b.Signature, v.Signature), want("encoding", b.Marshal(), v.Serialised))
}
