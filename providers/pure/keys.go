// SPDX-License-Identifier: Apache-2.0

package pure

import (
	"context"
	"fmt"
	"io"

	"github.com/conclave-mls/conclave/core"
)

// namedKey is a key of this package before it gets its reference.
type namedKey interface {
	core.SoftwareKey
	name(core.KeyRef)
}

// A signatureKey is a core.Signer in software.
type signatureKey struct {
	alg core.KeyAlgorithm
	ref core.KeyRef
	k   signKey
}

// An agreementKey is a core.Agreer in software. One made by a suite has no
// reference: whoever stores its material knows which suite opens it.
type agreementKey struct {
	alg core.KeyAlgorithm
	ref core.KeyRef
	k   groupKey
}

var (
	_ core.Signer = (*signatureKey)(nil)
	_ core.Agreer = (*agreementKey)(nil)
)

func (k *signatureKey) name(ref core.KeyRef)         { k.ref = ref }
func (k *signatureKey) Ref() core.KeyRef             { return k.ref }
func (k *signatureKey) Algorithm() core.KeyAlgorithm { return k.alg }
func (k *signatureKey) Public() []byte               { return k.k.public() }
func (k *signatureKey) Material() core.Secret        { return core.NewSecret(k.k.secret()) }
func (k *signatureKey) Format(f fmt.State, _ rune)   { redact(f, k.alg) }

// Wipe zeroes what can be zeroed; the key must not be used any more, nor be in
// use.
func (k *signatureKey) Wipe() { k.k.wipe() }

func (k *signatureKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fail("sign", err)
	}
	sig, err := k.k.sign(message)
	if err != nil {
		return nil, fail("sign", err)
	}
	return sig, nil
}

func (k *agreementKey) name(ref core.KeyRef)         { k.ref = ref }
func (k *agreementKey) Ref() core.KeyRef             { return k.ref }
func (k *agreementKey) Algorithm() core.KeyAlgorithm { return k.alg }
func (k *agreementKey) Public() []byte               { return k.k.public() }
func (k *agreementKey) Material() core.Secret        { return core.NewSecret(k.k.secret()) }
func (k *agreementKey) Format(f fmt.State, _ rune)   { redact(f, k.alg) }

// Wipe zeroes what can be zeroed; the key must not be used any more, nor be in
// use.
func (k *agreementKey) Wipe() { k.k.wipe() }

func (k *agreementKey) Agree(ctx context.Context, peer []byte) (core.Secret, error) {
	if err := ctx.Err(); err != nil {
		return core.Secret{}, fail("agree", err)
	}
	shared, err := k.k.agree(peer)
	if err != nil {
		return core.Secret{}, fail("agree", err)
	}
	return core.NewSecret(shared), nil
}

// redact is what every verb prints of a private key.
func redact(f fmt.State, alg core.KeyAlgorithm) {
	_, _ = io.WriteString(f, "pure.PrivateKey("+string(alg)+")")
}
