// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/go-jose/go-jose/v4"

	"github.com/conclave-mls/conclave/core"
)

// The account key is of P-256 whatever the MLS key is: servers take any, and its thumbprint
// is of SHA-256 for every kind (RFC 8555 section 8.1).
func newAccountKey() (core.Secret, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return core.Secret{}, fmt.Errorf("e2ei: account key: %w", err)
	}
	scalar, err := key.Bytes()
	if err != nil {
		return core.Secret{}, fmt.Errorf("e2ei: account key: %w", err)
	}
	return core.NewSecret(scalar), nil
}

func (e *Enrollment) accountKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), e.account.Bytes())
	if err != nil {
		return nil, fmt.Errorf("%w: account key: %w", ErrMalformed, err)
	}
	return key, nil
}

// thumbprint is that of RFC 7638 for the account key, in base64url.
func (e *Enrollment) thumbprint() (string, error) {
	key, err := e.accountKey()
	if err != nil {
		return "", err
	}
	sum, err := (&jose.JSONWebKey{Key: key.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

type fixedNonce string

func (n fixedNonce) Nonce() (string, error) { return string(n), nil }

// request signs a payload for an address of the server (RFC 8555 section 6.2): nil is that of
// POST-as-GET. The key stands in it until there is an account.
func (e *Enrollment) request(s Step, address, nonce string, payload any) (Request, error) {
	body := []byte{}
	if payload != nil {
		var err error
		if body, err = json.Marshal(payload); err != nil {
			return Request{}, &StepError{s, err}
		}
	}
	// RFC 8555 section 6.5.1.
	if nonce == "" || len(nonce) > maxNonce || !base64url(nonce) {
		return Request{}, &StepError{s, fmt.Errorf("%w: nonce of %d bytes", ErrMalformed, len(nonce))}
	}
	key, err := e.accountKey()
	if err != nil {
		return Request{}, &StepError{s, err}
	}
	signing := jose.SigningKey{Algorithm: jose.ES256, Key: key}
	options := &jose.SignerOptions{NonceSource: fixedNonce(nonce), EmbedJWK: true}
	if e.accountURL != "" {
		signing.Key, options.EmbedJWK = jose.JSONWebKey{Key: key, KeyID: e.accountURL}, false
	}
	signed, err := signJWS(signing, options.WithHeader("url", address), body)
	if err != nil {
		return Request{}, &StepError{s, err}
	}
	return Request{address, []byte(signed.FullSerialize())}, nil
}

func signJWS(key jose.SigningKey, options *jose.SignerOptions, payload []byte) (*jose.JSONWebSignature, error) {
	signer, err := jose.NewSigner(key, options)
	if err != nil {
		return nil, err
	}
	return signer.Sign(payload)
}

// base64url says whether all characters are of that alphabet.
func base64url(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}
