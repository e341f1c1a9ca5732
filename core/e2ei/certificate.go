// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"crypto/x509"
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
// ErrCertificate, ErrWrongKey, ErrIdentity, ErrMismatch, ErrMissing, ErrConstraint,
// ErrUnsupportedKey; else what verify gives.
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
	if err := e.subject().Check(chain[0], e.cfg.Algorithm, e.cfg.PublicKey); err != nil {
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
	chain, err := readPEM(body, true)
	if err != nil {
		return nil, err
	}
	if len(chain) > maxChain {
		return nil, fmt.Errorf("over %d certificates: %w", maxChain, core.ErrTooLarge)
	}
	for _, c := range chain {
		if len(c.SubjectKeyId) == 0 {
			return nil, &FieldError{"subject key identifier", ErrMissing}
		}
	}
	return chain, nil
}
