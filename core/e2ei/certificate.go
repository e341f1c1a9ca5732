// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// maxChain is how many certificates a reply has at most.
const maxChain = 10

// A Verifier says whether a path leads from the leaf by way of the intermediates to a trust
// anchor, at a time. It need not ask for revocation, nor for what [Enrollment] checks itself.
type Verifier func(leaf *x509.Certificate, intermediates []*x509.Certificate, now time.Time) error

// Issued is a certificate that was accepted.
type Issued struct {
	Credential   core.Credential // leaf first, then the intermediates as delivered
	RefreshToken core.Secret     // for the next enrolment, if any
}

// CertificateResponse takes the certificate chain, in PEM. It is accepted if the order is
// still good, the leaf is for the MLS key and for the names that were asked for, and verify
// finds a path. Then the account key is wiped; if anything is refused, nothing is.
// ErrMismatch, ErrMissing, ErrWrongKey; else what verify gives.
func (e *Enrollment) CertificateResponse(body []byte, now time.Time, verify Verifier) (Issued, error) {
	const s = StepCertificate
	if err := e.need(s, toCertificate...); err != nil {
		return Issued{}, err
	}
	if verify == nil {
		return Issued{}, &StepError{s, ErrNoVerifier}
	}
	if err := e.order.current(now); err != nil {
		return Issued{}, &StepError{s, err}
	}
	chain, err := parseChain(body)
	if err != nil {
		return Issued{}, &StepError{s, err}
	}
	if err := e.checkLeaf(chain[0]); err != nil {
		return Issued{}, &StepError{s, err}
	}
	if err := verify(chain[0], chain[1:], now); err != nil {
		return Issued{}, &StepError{s, err}
	}
	issued := Issued{core.Credential{Type: core.CredentialX509}, e.cfg.RefreshToken.Clone()}
	for _, c := range chain {
		issued.Credential.Certificates = append(issued.Credential.Certificates, c.Raw)
	}
	e.Wipe()
	return issued, nil
}

// parseChain reads the reply of RFC 8555 section 9.1: certificates and nothing else.
func parseChain(body []byte) ([]*x509.Certificate, error) {
	if len(body) > MaxReply {
		return nil, fmt.Errorf("reply of %d bytes: %w", len(body), core.ErrTooLarge)
	}
	var chain []*x509.Certificate
	for rest := bytes.TrimSpace(body); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		if len(chain) == maxChain {
			return nil, fmt.Errorf("over %d certificates: %w", maxChain, core.ErrTooLarge)
		}
		var block *pem.Block
		if !bytes.HasPrefix(rest, []byte("-----BEGIN CERTIFICATE-----")) {
			return nil, fmt.Errorf("%w: no certificate", ErrMalformed)
		}
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, fmt.Errorf("%w: no certificate", ErrMalformed)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if len(c.SubjectKeyId) == 0 {
			return nil, &FieldError{"subject key identifier", ErrMissing}
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("%w: no certificate", ErrMalformed)
	}
	return chain, nil
}

// checkLeaf says whether a certificate is for our key and names, and what it may be used for.
func (e *Enrollment) checkLeaf(leaf *x509.Certificate) error {
	want, err := core.X509PublicKey(e.cfg.Algorithm, e.cfg.PublicKey)
	if err != nil {
		return err
	}
	if key, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(want) {
		return ErrWrongKey
	}
	switch {
	case leaf.IsCA:
		return &FieldError{"key usage", ErrMismatch} // of an authority
	case leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return &FieldError{"key usage", ErrMismatch}
	case bytes.Equal(leaf.RawIssuer, leaf.RawSubject):
		return &FieldError{"issuer", ErrMismatch}
	}
	var ids, handles int
	for _, u := range leaf.URIs {
		if c, err := ParseClientIDURI(u.String()); err == nil {
			if ids++; c != e.cfg.ClientID {
				return &FieldError{"client id", ErrMismatch}
			}
		} else if h, err := ParseHandleURI(u.String()); err == nil {
			if handles++; !h.same(e.handle) {
				return &FieldError{"handle", ErrMismatch}
			}
		}
	}
	if ids == 0 {
		return &FieldError{"client id", ErrMissing}
	}
	if handles == 0 {
		return &FieldError{"handle", ErrMissing}
	}
	if err := one(leaf, "display name", oidCommonName, e.cfg.DisplayName); err != nil {
		return err
	}
	return one(leaf, "domain", oidOrganization, e.cfg.ClientID.Domain)
}

// one asks for exactly one attribute of a type in the subject: where there are more, others
// may read another one.
func one(leaf *x509.Certificate, field string, oid asn1.ObjectIdentifier, want string) error {
	n := 0
	for _, a := range leaf.Subject.Names {
		if a.Type.Equal(oid) {
			if n++; a.Value != want || n > 1 {
				return &FieldError{field, ErrMismatch}
			}
		}
	}
	if n == 0 {
		return &FieldError{field, ErrMissing}
	}
	return nil
}
