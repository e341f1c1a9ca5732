// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// Why a certificate does not hold. Only ErrRevocationUnknown, ErrRevoked and ErrExpired say
// that it was issued by somebody who is trusted.
var (
	// ErrExpired: the certificate, or one on every path to an anchor, is past its last date.
	ErrExpired = fmt.Errorf("e2ei: the certificate has expired: %w", core.ErrDenied)
	// ErrNotYetValid: the same before the first date.
	ErrNotYetValid = fmt.Errorf("e2ei: the certificate is not yet valid: %w", core.ErrDenied)
	// ErrRevoked: the certificate, or one on every path, was revoked.
	ErrRevoked = fmt.Errorf("e2ei: the certificate is revoked: %w", core.ErrDenied)
	// ErrRevocationUnknown: there is a path, but a certificate on it names a distribution
	// point of which no list is there that is in date and covers it. A warning.
	ErrRevocationUnknown = fmt.Errorf("e2ei: no revocation list is at hand: %w", core.ErrUnavailable)
	// ErrNoPath: nobody who is known issued the certificate.
	ErrNoPath = fmt.Errorf("e2ei: no path to a trust anchor: %w", core.ErrDenied)
	// ErrBadSignature: it names somebody who is known, and is not signed by them.
	ErrBadSignature = fmt.Errorf("e2ei: the certificate has a bad signature: %w", core.ErrDenied)
	// ErrConstraint: it was issued, but not within what the CA may or what a leaf may be:
	// names, path length, key usage, critical extensions.
	ErrConstraint = fmt.Errorf("e2ei: the certificate breaks a constraint: %w", core.ErrDenied)
)

// Verify checks that a leaf is issued under an anchor, by RFC 5280: signatures, dates, basic
// constraints, path length, key usage of the CAs, name constraints, critical extensions and
// revocation. Its own key usage must have digitalSignature, and it must not be a CA nor its
// own issuer. Any extended key usage will do: Wire asks for none. Nil: it holds. Errors: those
// of this file, and ErrNotReady. A leaf that is both expired and revoked is revoked. The time
// is cut to seconds.
func (e *Environment) Verify(l *Leaf, at time.Time) error {
	if !e.Ready() {
		return ErrNotReady
	}
	if err := l.checkUse(); err != nil {
		return err
	}
	return e.path(l.cert, at)
}

// path checks everything but what a leaf must be.
func (e *Environment) path(c *x509.Certificate, at time.Time) error {
	at = at.Truncate(time.Second)
	chains, err := e.chains(c, at)
	if err == nil {
		return e.checkRevocation(chains, at)
	}
	// Is it the dates alone? That is so if there was a path at another time: when the
	// certificate expired, for CAs are renewed meanwhile, or when it was issued. What has
	// no path at any time is not expired, but a stranger's: expired members are kept.
	times := []time.Time{c.NotBefore}
	if at.After(c.NotAfter) {
		times = []time.Time{c.NotAfter, c.NotBefore}
	}
	for _, then := range times {
		if chains, err := e.chains(c, then); err == nil {
			if at.Before(c.NotBefore) {
				return fmt.Errorf("%w: valid from %s", ErrNotYetValid, c.NotBefore.UTC().Format(time.RFC3339))
			}
			if err := e.checkRevocation(chains, at); errors.Is(err, ErrRevoked) {
				return err
			}
			return fmt.Errorf("%w: it, or who issued it, was valid until before %s", ErrExpired, at.UTC().Format(time.RFC3339))
		}
	}
	budget := MaxAnchors + MaxIntermediates
	if why := e.diagnose(c, at, &budget); why != nil {
		return why
	}
	return fmt.Errorf("%w: %w", ErrConstraint, err)
}

func (e *Environment) chains(c *x509.Certificate, at time.Time) ([][]*x509.Certificate, error) {
	if at.IsZero() { // which crypto/x509 takes for now
		return nil, fmt.Errorf("%w: no time is given", ErrNotYetValid)
	}
	return c.Verify(x509.VerifyOptions{
		Roots: e.roots, Intermediates: e.pool, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
}

// diagnose says why a certificate that had no path at any time has none; nil: the signatures
// are good up to an anchor. It never says that something has expired. It checks no more
// signatures than the budget has.
func (e *Environment) diagnose(c *x509.Certificate, at time.Time, budget *int) error {
	best := ErrNoPath
	for ca := range e.cas() {
		if !bytes.Equal(ca.RawSubject, c.RawIssuer) || *budget <= 0 {
			continue
		}
		*budget--
		switch {
		case c.CheckSignatureFrom(ca) != nil:
			if best == ErrNoPath {
				best = ErrBadSignature
			}
		case at.Before(ca.NotBefore):
			best = fmt.Errorf("%w: an issuer is valid from %s", ErrNotYetValid, ca.NotBefore.UTC().Format(time.RFC3339))
		case e.anchors[anchorKey(ca)] != nil:
			return nil
		default:
			if best = e.diagnose(ca, at, budget); best == nil {
				return nil
			}
		}
	}
	return best
}

func checkDates(c *x509.Certificate, at time.Time) error {
	at = at.Truncate(time.Second)
	switch {
	case at.Before(c.NotBefore):
		return fmt.Errorf("%w: valid from %s", ErrNotYetValid, c.NotBefore.UTC().Format(time.RFC3339))
	case at.After(c.NotAfter):
		return fmt.Errorf("%w: valid until %s", ErrExpired, c.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkRevocation takes the best of the paths: a CA that one anchor revoked may still be
// vouched for by another.
func (e *Environment) checkRevocation(chains [][]*x509.Certificate, at time.Time) error {
	var best error
	for _, chain := range chains {
		err := e.checkChain(chain, at)
		if err == nil {
			return nil
		}
		if best == nil || errors.Is(err, ErrRevocationUnknown) {
			best = err
		}
	}
	return best
}

// checkChain asks for each certificate but the anchor.
func (e *Environment) checkChain(chain []*x509.Certificate, at time.Time) error {
	var unknown error
	for i, c := range chain[:len(chain)-1] {
		var parent *x509.Certificate
		if i+2 < len(chain) {
			parent = chain[i+2]
		}
		revoked, known := e.revocation(c, chain[i+1], parent, at)
		switch {
		case revoked:
			return fmt.Errorf("%w: %d of the chain", ErrRevoked, i)
		case !known && len(c.CRLDistributionPoints) > 0:
			unknown = fmt.Errorf("%w: for %d of the chain", ErrRevocationUnknown, i)
		}
	}
	return unknown
}
