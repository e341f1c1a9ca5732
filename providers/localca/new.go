// SPDX-License-Identifier: Apache-2.0

package localca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// New makes an issuer. core.ErrInvalid: the certificates are not a chain from a CA that is
// valid now, the key is not the first one's, a distribution point is no address, or the
// state key is short.
// core.ErrUnsupported: an Ed448 key.
func New(ctx context.Context, cfg Config) (*Issuer, error) {
	chain, err := parse(cfg.Certificates)
	if err != nil {
		return nil, fail("open", fmt.Errorf("certificate of the CA: %w: %w", core.ErrInvalid, err))
	}
	if cfg.Key == nil || cfg.Lifetime < 0 {
		return nil, fail("open", fmt.Errorf("no key, or a negative lifetime: %w", core.ErrInvalid))
	}
	stateKey := cfg.StateKey.Clone()
	switch n := stateKey.Len(); {
	case n == 0:
		b := make([]byte, StateKeySize)
		_, _ = rand.Read(b) // never fails
		stateKey = core.NewSecret(b)
	case n < StateKeySize:
		return nil, fail("open", fmt.Errorf("state key of %d bytes: %w", n, core.ErrInvalid))
	}
	key, err := cfg.Key(ctx)
	if err != nil {
		return nil, fail("open", err)
	}
	public, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return nil, fail("open", fmt.Errorf("the key is not that of the CA's certificate: %w", core.ErrInvalid))
	}
	if cfg.Lifetime == 0 {
		cfg.Lifetime = DefaultLifetime
	}
	for _, point := range cfg.DistributionPoints {
		if u, err := url.Parse(point); err != nil || !u.IsAbs() || len(point) > e2ei.MaxURL {
			return nil, fail("open", fmt.Errorf("distribution point %.80q: %w", point, core.ErrInvalid))
		}
	}
	return &Issuer{chain, cfg.Key, cfg.Lifetime, stateKey, slices.Clone(cfg.DistributionPoints)}, nil
}

// parse reads the CA's certificate and those above it.
func parse(text []byte) ([]*x509.Certificate, error) {
	der := text
	if rest := text; bytes.Contains(text, []byte("-----BEGIN ")) {
		der = nil
		for block := (*pem.Block)(nil); ; {
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type != "CERTIFICATE" {
				return nil, fmt.Errorf("there is a %s among the certificates", block.Type)
			}
			der = append(der, block.Bytes...)
		}
	}
	chain, err := x509.ParseCertificates(der)
	switch {
	case err != nil:
		return nil, err
	case len(chain) == 0:
		return nil, errors.New("there is none")
	}
	for i, c := range chain {
		if err := certifies(c, time.Now()); err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i+1, err)
		}
		if i > 0 {
			if err := chain[i-1].CheckSignatureFrom(c); err != nil {
				return nil, fmt.Errorf("certificate %d does not certify the one before: %w", i+1, err)
			}
		}
	}
	return chain, nil
}

// certifies checks a certificate that is to be above others. Those must name it, by subject
// and by the id of its key (RFC 5280 sections 4.1.2.4 and 4.2.1.1).
func certifies(c *x509.Certificate, now time.Time) error {
	switch {
	case !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("it is not that of a CA")
	case now.Before(c.NotBefore):
		return errors.New("it is not valid yet")
	case now.After(c.NotAfter):
		return errors.New("it has expired")
	case len(c.SubjectKeyId) == 0 || len(c.Subject.Names) == 0:
		return errors.New("it has no subject or no subject key identifier")
	}
	return nil
}
