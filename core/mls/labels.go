// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// The labelled functions of RFC 9420 sections 5.1.2, 5.1.3, 5.2 and 8.

const labelPrefix = "MLS 1.0 "

func appendLabel(b []byte, label string) []byte {
	b = vlbytes.AppendLength(b, len(labelPrefix)+len(label))
	return append(append(b, labelPrefix...), label...)
}

func signContent(label string, content []byte) []byte {
	return appendOpaque(appendLabel(nil, label), content)
}

// signWithLabel is SignWithLabel: the key may live in a token, hence the context.
func signWithLabel(ctx context.Context, key core.Signer, label string, content []byte) ([]byte, error) {
	return key.Sign(ctx, signContent(label, content))
}

// verifyWithLabel is VerifyWithLabel; ErrAuthentication if it does not hold.
func verifyWithLabel(suite core.Suite, public []byte, label string, content, signature []byte) error {
	if suite.Verify(public, signContent(label, content), signature) != nil {
		return ErrAuthentication
	}
	return nil
}

// expandWithLabel is ExpandWithLabel. Lengths beyond 65535 do not fit the label (CS-4).
func expandWithLabel(suite core.Suite, secret core.Secret, label string, context []byte, length int) (core.Secret, error) {
	if length < 0 || length > 0xFFFF {
		return core.Secret{}, core.ErrTooLarge
	}
	var buf [128]byte
	info := appendU16(buf[:0], uint16(length))
	info = appendOpaque(appendLabel(info, label), context)
	return suite.Expand(secret, info, length)
}

// deriveSecret is DeriveSecret: Nh bytes, empty context.
func deriveSecret(suite core.Suite, secret core.Secret, label string) (core.Secret, error) {
	return expandWithLabel(suite, secret, label, nil, suite.Parameters().Nh)
}

// deriveTreeSecret is DeriveTreeSecret: the context is the generation.
func deriveTreeSecret(suite core.Suite, secret core.Secret, label string, generation uint32, length int) (core.Secret, error) {
	var context [4]byte
	return expandWithLabel(suite, secret, label, appendU32(context[:0], generation), length)
}

// refHash is RefHash; its labels carry the prefix themselves.
func refHash(suite core.Suite, label string, value []byte) []byte {
	return suite.Hash(appendOpaque(appendOpaque(nil, []byte(label)), value))
}

func encryptContext(label string, context []byte) []byte {
	return appendOpaque(appendLabel(nil, label), context)
}

// encryptWithLabel is EncryptWithLabel, to any number of public keys.
func encryptWithLabel(suite core.Suite, label string, context []byte) func(public, plaintext []byte) (core.HPKECiphertext, error) {
	sealer := suite.Sealer(encryptContext(label, context))
	return func(public, plaintext []byte) (core.HPKECiphertext, error) {
		return sealer.Seal(public, nil, plaintext)
	}
}

// decryptWithLabel is DecryptWithLabel.
func decryptWithLabel(ctx context.Context, key core.Recipient, label string, context []byte, ct core.HPKECiphertext) ([]byte, error) {
	return key.Open(ctx, encryptContext(label, context), nil, ct)
}
