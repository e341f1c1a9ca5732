// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"

	"github.com/go-jose/go-jose/v4"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// StepRevoke is the one step of a revocation after those to read the directory.
const StepRevoke e2ei.Step = "revocation"

// maxSignatures is how many signatures one revocation asks for: the server's nonce is in what
// is signed, and may be refused.
const maxSignatures = 3

// text is the encoding of JOSE.
func text(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// A revocation is the request of RFC 8555 section 7.6, signed by the certificate's key.
type revocation struct {
	leaf               *x509.Certificate
	protected, payload string
	size               int // of R and of S, in bytes; 0: not ECDSA
	algorithm          x509.SignatureAlgorithm
}

// revocation has to be called once the directory is there.
func (s *state) revocation() (*revocation, error) {
	leaf, err := x509.ParseCertificate(s.revoke[0])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", core.ErrInvalid, err)
	}
	address, err := s.enrollment.RevocationURL()
	if err != nil {
		return nil, err
	}
	kind, ok := map[core.KeyAlgorithm]struct {
		jose jose.SignatureAlgorithm
		x509 x509.SignatureAlgorithm
		size int
	}{
		core.Ed25519:   {jose.EdDSA, x509.PureEd25519, 0},
		core.ECDSAP256: {jose.ES256, x509.ECDSAWithSHA256, 32},
		core.ECDSAP384: {jose.ES384, x509.ECDSAWithSHA384, 48},
		core.ECDSAP521: {jose.ES512, x509.ECDSAWithSHA512, 66},
	}[s.enrollment.Config().Algorithm]
	if !ok {
		return nil, fmt.Errorf("key of %T: %w", leaf.PublicKey, core.ErrUnsupported)
	}
	protected, err := json.Marshal(map[string]any{
		"alg": kind.jose, "nonce": s.nonce, "url": address, "jwk": &jose.JSONWebKey{Key: leaf.PublicKey},
	})
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(map[string]string{"certificate": text(s.revoke[0])})
	if err != nil {
		return nil, err
	}
	return &revocation{leaf, text(protected), text(payload), kind.size, kind.x509}, nil
}

// message is what is signed (RFC 7515 section 5.1).
func (r *revocation) message() []byte { return []byte(r.protected + "." + r.payload) }

// body is the request, with a signature in MLS encoding. ErrInvalid: it is not one.
func (r *revocation) body(signature []byte) ([]byte, error) {
	if err := r.leaf.CheckSignature(r.algorithm, r.message(), signature); err != nil {
		return nil, fmt.Errorf("%w: %w", core.ErrInvalid, err)
	}
	if _, ok := r.leaf.PublicKey.(*ecdsa.PublicKey); ok {
		// RFC 7518 section 3.4.
		var der struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(signature, &der); err != nil {
			return nil, fmt.Errorf("%w: %w", core.ErrInvalid, err)
		}
		signature = make([]byte, 2*r.size)
		der.R.FillBytes(signature[:r.size]) // they fit: the signature is right
		der.S.FillBytes(signature[r.size:])
	}
	return json.Marshal(map[string]string{"protected": r.protected, "payload": r.payload, "signature": text(signature)})
}

func (s *state) checkRevocation() error {
	r, err := s.revocation()
	if err == nil {
		_, err = r.body(s.signature)
	}
	if err != nil {
		return &e2ei.StepError{Step: StepRevoke, Err: err}
	}
	return nil
}

// revoke asks for a signature and sends it. A certificate that is revoked already is revoked.
func (x *session) revoke(ctx context.Context, s *state) (core.Need, error) {
	need, err := x.revokeOrSign(ctx, s)
	if err != nil {
		err = &e2ei.StepError{Step: StepRevoke, Err: err}
	}
	return need, err
}

func (x *session) revokeOrSign(ctx context.Context, s *state) (core.Need, error) {
	if s.signature == nil {
		if err := x.needNonce(ctx, s.enrollment); err != nil {
			return core.Need{}, err
		}
		s.nonce = x.nonce
	}
	r, err := s.revocation()
	if err != nil {
		return core.Need{}, err
	}
	if s.signature == nil {
		return core.Need{Sign: &core.SignNeed{Message: r.message()}}, nil
	}
	body, err := r.body(s.signature)
	if err != nil {
		return core.Need{}, err
	}
	address, err := s.enrollment.RevocationURL()
	if err != nil {
		return core.Need{}, err
	}
	answer, err := x.do(ctx, http.MethodPost, address, "application/jose+json", body)
	if err != nil {
		return core.Need{}, err
	}
	x.nonce = answer.header.Get("Replay-Nonce")
	if answer.status >= 400 {
		problem := e2ei.ParseProblem(answer.status, answer.body)
		switch {
		case problem.Type == "urn:ietf:params:acme:error:alreadyRevoked":
		case problem.BadNonce():
			if s.tries++; s.tries >= maxSignatures {
				return core.Need{}, fmt.Errorf("%w: %w", errPatience, problem)
			}
			s.signature = nil
			return core.Need{}, nil // on to another signature
		default:
			return core.Need{}, problem
		}
	}
	return core.Need{Done: &core.Issued{Credential: core.Credential{Type: core.CredentialX509, Certificates: s.revoke}}}, nil
}
