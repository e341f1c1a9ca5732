// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vectors"
)

type cryptoBasicsVector struct {
	Suite   core.SuiteID `json:"cipher_suite"`
	RefHash struct {
		Label string   `json:"label"`
		Value hexBytes `json:"value"`
		Out   hexBytes `json:"out"`
	} `json:"ref_hash"`
	ExpandWithLabel struct {
		Secret  hexBytes `json:"secret"`
		Label   string   `json:"label"`
		Context hexBytes `json:"context"`
		Length  int      `json:"length"`
		Out     hexBytes `json:"out"`
	} `json:"expand_with_label"`
	DeriveSecret struct {
		Secret hexBytes `json:"secret"`
		Label  string   `json:"label"`
		Out    hexBytes `json:"out"`
	} `json:"derive_secret"`
	DeriveTreeSecret struct {
		Secret     hexBytes `json:"secret"`
		Label      string   `json:"label"`
		Generation uint32   `json:"generation"`
		Length     int      `json:"length"`
		Out        hexBytes `json:"out"`
	} `json:"derive_tree_secret"`
	SignWithLabel    signVector    `json:"sign_with_label"`
	EncryptWithLabel encryptVector `json:"encrypt_with_label"`
}

func runCryptoBasics(ctx context.Context, env *vectorEnv, v *cryptoBasicsVector) error {
	suite, err := env.suite(v.Suite)
	if err != nil {
		return err
	}
	if err := sameBytes("RefHash", refHash(suite, v.RefHash.Label, v.RefHash.Value), v.RefHash.Out); err != nil {
		return err
	}
	expand := v.ExpandWithLabel
	out, err := expandWithLabel(suite, expand.Secret.secret(), expand.Label, expand.Context, expand.Length)
	if err := sameSecret("ExpandWithLabel", out, err, expand.Out); err != nil {
		return err
	}
	derive := v.DeriveSecret
	out, err = deriveSecret(suite, derive.Secret.secret(), derive.Label)
	if err := sameSecret("DeriveSecret", out, err, derive.Out); err != nil {
		return err
	}
	tree := v.DeriveTreeSecret
	out, err = deriveTreeSecret(suite, tree.Secret.secret(), tree.Label, tree.Generation, tree.Length)
	if err := sameSecret("DeriveTreeSecret", out, err, tree.Out); err != nil {
		return err
	}
	signed := v.SignWithLabel.run(ctx, env, suite)
	if _, skip := signed.(vectors.Skip); signed != nil && !skip {
		return signed
	}
	return cmp.Or(v.EncryptWithLabel.run(ctx, env, suite), signed)
}

type signVector struct {
	Private   hexBytes `json:"priv"`
	Public    hexBytes `json:"pub"`
	Content   hexBytes `json:"content"`
	Label     string   `json:"label"`
	Signature hexBytes `json:"signature"`
}

// run checks the signature of the file and one of our own. Old files have signatures
// of suites 5 and 7 that are made with SHA-256; that this is so is checked as well.
func (v *signVector) run(ctx context.Context, env *vectorEnv, suite core.Suite) error {
	if err := suite.ValidateSignaturePublic(v.Public); err != nil {
		return fmt.Errorf("signature key: %w", err)
	}
	var stale error
	if err := verifyWithLabel(suite, v.Public, v.Label, v.Content, v.Signature); err != nil {
		if !v.signedWithSHA256(suite) {
			return fmt.Errorf("VerifyWithLabel of the given signature: %w", err)
		}
		stale = vectors.Skip("the file is stale: its signature is made with SHA-256, where RFC 9420 section 17.1 has " +
			suite.Parameters().Hash + "; all else of the case holds")
	}
	if verifyWithLabel(suite, v.Public, v.Label+" ", v.Content, v.Signature) == nil {
		return fmt.Errorf("VerifyWithLabel ignores the label")
	}
	key, err := env.signer(ctx, suite, v.Private)
	if err != nil {
		return err
	}
	if err := sameBytes("public signature key", key.Public(), v.Public); err != nil {
		return err
	}
	signature, err := signWithLabel(ctx, key, v.Label, v.Content)
	if err != nil {
		return fmt.Errorf("SignWithLabel: %w", err)
	}
	if err := verifyWithLabel(suite, v.Public, v.Label, v.Content, signature); err != nil {
		return fmt.Errorf("VerifyWithLabel of our own signature: %w", err)
	}
	return stale
}

// signedWithSHA256 proves for the larger curves that a signature is of this hash.
func (v *signVector) signedWithSHA256(suite core.Suite) bool {
	curve, ok := map[core.KeyAlgorithm]elliptic.Curve{core.ECDSAP384: elliptic.P384(), core.ECDSAP521: elliptic.P521()}[suite.Parameters().Signature]
	if !ok {
		return false
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, v.Public)
	if err != nil {
		return false
	}
	digest := sha256.Sum256(signContent(v.Label, v.Content))
	return ecdsa.VerifyASN1(public, digest[:], v.Signature)
}

type encryptVector struct {
	Private    hexBytes `json:"priv"`
	Public     hexBytes `json:"pub"`
	Label      string   `json:"label"`
	Context    hexBytes `json:"context"`
	Plaintext  hexBytes `json:"plaintext"`
	KEMOutput  hexBytes `json:"kem_output"`
	Ciphertext hexBytes `json:"ciphertext"`
}

// run opens the ciphertext of the file and one of our own.
func (v *encryptVector) run(ctx context.Context, env *vectorEnv, suite core.Suite) error {
	key, err := env.keyPair(suite, v.Private)
	if err != nil {
		return fmt.Errorf("HPKE key: %w", err)
	}
	if err := sameBytes("public HPKE key", key.Public(), v.Public); err != nil {
		return err
	}
	recipient, err := suite.Recipient(key)
	if err != nil {
		return fmt.Errorf("HPKE key: %w", err)
	}
	given := core.HPKECiphertext{KEMOutput: v.KEMOutput, Ciphertext: v.Ciphertext}
	plaintext, err := decryptWithLabel(ctx, recipient, v.Label, v.Context, given)
	if err != nil {
		return fmt.Errorf("DecryptWithLabel of the given ciphertext: %w", err)
	}
	if err := sameBytes("plaintext", plaintext, v.Plaintext); err != nil {
		return err
	}
	own, err := encryptWithLabel(suite, v.Label, v.Context)(v.Public, v.Plaintext)
	if err != nil {
		return fmt.Errorf("EncryptWithLabel: %w", err)
	}
	if plaintext, err = decryptWithLabel(ctx, recipient, v.Label, v.Context, own); err != nil {
		return fmt.Errorf("DecryptWithLabel of our own ciphertext: %w", err)
	}
	return sameBytes("plaintext", plaintext, v.Plaintext)
}

// A pathSecretVector lists path secrets from the leaf towards the root.
type pathSecretVector struct {
	Suite       core.SuiteID `json:"cipher_suite"`
	Generations []hexBytes   `json:"generations"`
}

func runPathSecret(_ context.Context, env *vectorEnv, v *pathSecretVector) error {
	suite, err := env.suite(v.Suite)
	if err != nil {
		return err
	}
	if len(v.Generations) < 2 {
		return fmt.Errorf("%d generations: %w", len(v.Generations), core.ErrInvalid)
	}
	for i, want := range v.Generations[1:] {
		next, err := deriveSecret(suite, v.Generations[i].secret(), "path")
		if err := sameSecret("next path secret", next, err, want); err != nil {
			return err
		}
	}
	return nil
}

// sameSecret is nil if a derivation worked and gave what the file says.
func sameSecret(what string, got core.Secret, err error, want []byte) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return sameBytes(what, got.Bytes(), want)
}
