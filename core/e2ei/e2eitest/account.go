// SPDX-License-Identifier: Apache-2.0

package e2eitest

import (
	"context"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"

	"github.com/go-jose/go-jose/v4"

	"github.com/conclave-mls/conclave/core"
)

// An Account asks an ACME server for whatever the caller likes, with whatever key. The
// engine makes no wrong request: this one does.
type Account struct {
	Peer  *Peer
	Key   core.Signer
	URL   string // names the key in requests; empty: the key itself stands in them
	Nonce string // for the next request

	Directory struct{ NewNonce, NewAccount, NewOrder, RevokeCert string }
}

// Account is a key without an account yet.
func (p *Peer) Account(ctx context.Context, key core.Signer) (*Account, error) {
	a := &Account{Peer: p, Key: key}
	body, _, err := p.Do(ctx, http.MethodGet, p.Directory, nil)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(body, &a.Directory); err != nil {
		return nil, err
	}
	_, header, err := p.Do(ctx, http.MethodHead, a.Directory.NewNonce, nil)
	if err != nil {
		return nil, err
	}
	a.Nonce = header.Get("Replay-Nonce")
	return a, nil
}

// Post sends a payload (nil: POST-as-GET) and keeps the nonce of the reply. An error of the
// server is an [e2ei.Problem].
func (a *Account) Post(ctx context.Context, address string, payload any) ([]byte, http.Header, error) {
	text := []byte{}
	if payload != nil {
		var err error
		if text, err = json.Marshal(payload); err != nil {
			return nil, nil, err
		}
	}
	key, err := newJWSKey(ctx, a.Key)
	if err != nil {
		return nil, nil, err
	}
	options := &jose.SignerOptions{NonceSource: fixedNonce(a.Nonce), EmbedJWK: a.URL == ""}
	signing := jose.SigningKey{Algorithm: key.algorithm, Key: key}
	if a.URL != "" {
		signing.Key = jose.JSONWebKey{Key: key, KeyID: a.URL}
	}
	signer, err := jose.NewSigner(signing, options.WithHeader("url", address))
	if err != nil {
		return nil, nil, err
	}
	signed, err := signer.Sign(text)
	if err != nil {
		return nil, nil, err
	}
	body, header, err := a.Peer.Do(ctx, http.MethodPost, address, []byte(signed.FullSerialize()), "Content-Type", "application/jose+json")
	if nonce := header.Get("Replay-Nonce"); nonce != "" {
		a.Nonce = nonce
	}
	return body, header, err
}

// Revoke revokes a certificate (DER) by its own key: RFC 8555 section 7.6.
func (p *Peer) Revoke(ctx context.Context, certificate []byte, key core.Signer) error {
	a, err := p.Account(ctx, key)
	if err != nil {
		return err
	}
	return a.Revoke(ctx, certificate)
}

// Revoke revokes a certificate (DER) by the key of the account that ordered it or, without a
// URL, by its own.
func (a *Account) Revoke(ctx context.Context, certificate []byte) error {
	_, _, err := a.Post(ctx, a.Directory.RevokeCert, map[string]any{"certificate": base64.RawURLEncoding.EncodeToString(certificate)})
	return err
}

type fixedNonce string

func (n fixedNonce) Nonce() (string, error) { return string(n), nil }

// A jwsKey signs for go-jose with a key of the contract (RFC 7518 section 3.4, RFC 8037).
type jwsKey struct {
	ctx       context.Context
	key       core.Signer
	public    *jose.JSONWebKey
	algorithm jose.SignatureAlgorithm
}

func newJWSKey(ctx context.Context, key core.Signer) (*jwsKey, error) {
	public, err := core.X509PublicKey(key.Algorithm(), key.Public())
	if err != nil {
		return nil, err
	}
	algorithm := map[core.KeyAlgorithm]jose.SignatureAlgorithm{
		core.Ed25519: jose.EdDSA, core.ECDSAP256: jose.ES256, core.ECDSAP384: jose.ES384, core.ECDSAP521: jose.ES512,
	}[key.Algorithm()]
	return &jwsKey{ctx, key, &jose.JSONWebKey{Key: public}, algorithm}, nil
}

// Public implements jose.OpaqueSigner.
func (k *jwsKey) Public() *jose.JSONWebKey { return k.public }

// Algs implements jose.OpaqueSigner.
func (k *jwsKey) Algs() []jose.SignatureAlgorithm { return []jose.SignatureAlgorithm{k.algorithm} }

// SignPayload implements jose.OpaqueSigner.
func (k *jwsKey) SignPayload(payload []byte, _ jose.SignatureAlgorithm) ([]byte, error) {
	signature, err := k.key.Sign(k.ctx, payload)
	if err != nil || k.algorithm == jose.EdDSA {
		return signature, err
	}
	var der struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(signature, &der); err != nil {
		return nil, fmt.Errorf("signature of %d bytes: %w", len(signature), err)
	}
	size := (len(k.key.Public()) - 1) / 2
	raw := make([]byte, 2*size)
	der.R.FillBytes(raw[:size])
	der.S.FillBytes(raw[size:])
	return raw, nil
}
