// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"
	"crypto"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/localca"
)

func localCA(c config.Config, log *slog.Logger) Opener[core.CredentialIssuer] {
	return Opener[core.CredentialIssuer]{"localca", func(_ context.Context, u config.URI) (core.CredentialIssuer, error) {
		ca, err := parseLocalCA(u)
		if err != nil {
			return nil, err
		}
		return &onDemand{open: func(ctx context.Context) (core.CredentialIssuer, error) { return ca.open(ctx, c, log) }}, nil
	}}
}

// LocalCA opens "localca:CERTIFICATES?key=KEY": a CA with its certificates in a file, and its
// key in a file of PKCS #8 or in a token. The URI of a token's key stands as it is, at the
// end, and the issuer is then an io.Closer; before it may be "lifetime=TIME", such as 720h,
// of a certificate, and "crl=URL", of revocation lists that somebody makes.
func LocalCA(ctx context.Context, c config.Config, log *slog.Logger, u config.URI) (core.CredentialIssuer, error) {
	ca, err := parseLocalCA(u)
	if err != nil {
		return nil, err
	}
	return ca.open(ctx, c, log)
}

// A caURI is the URI, read.
type caURI struct {
	certificates, key string
	lifetime          time.Duration
	lists             []string
}

func parseLocalCA(u config.URI) (ca caURI, err error) {
	_, query, _ := strings.Cut(u.Text(), "?")
	options, key, _ := strings.Cut("&"+query, "&key=")
	if key == "" {
		return ca, fmt.Errorf(`no key: write "localca:ca.pem?key=ca.key": %w`, core.ErrInvalid)
	}
	q, err := url.ParseQuery(options)
	if err != nil {
		return ca, fmt.Errorf("options: %w: %w", core.ErrInvalid, err)
	}
	for name, values := range q {
		if name == "crl" && !slices.Contains(values, "") {
			ca.lists = values
			continue
		}
		if name != "lifetime" || len(values) != 1 {
			return ca, fmt.Errorf("option %q before key: there are lifetime, once, and crl: %w", name, core.ErrInvalid)
		}
		if ca.lifetime, err = time.ParseDuration(values[0]); err != nil || ca.lifetime <= 0 {
			return ca, fmt.Errorf("lifetime %q is no time such as 720h: %w", values[0], core.ErrInvalid)
		}
	}
	ca.key = key
	ca.certificates, err = u.File()
	return ca, err
}

func (ca caURI) open(ctx context.Context, c config.Config, log *slog.Logger) (core.CredentialIssuer, error) {
	certificates, err := os.ReadFile(ca.certificates)
	if err != nil {
		return nil, fmt.Errorf("certificate of the CA: %w: %w", core.ErrNotFound, err)
	}
	cfg := localca.Config{Certificates: certificates, Lifetime: ca.lifetime, DistributionPoints: ca.lists}
	if !strings.HasPrefix(ca.key, hsm.Scheme+":") {
		key, state, err := softwareCAKey(c.File(ca.key))
		if err != nil {
			return nil, fmt.Errorf("key of the CA: %w", err)
		}
		cfg.Key, cfg.StateKey = func(context.Context) (crypto.Signer, error) { return key, nil }, state
		return localca.New(ctx, cfg)
	}
	key, err := hsm.OpenCAKey(ctx, hsm.Config{URI: ca.key, Latch: LatchFolder(c), Logger: log})
	if err != nil {
		return nil, err
	}
	cfg.Key = key.Signer
	issuer, err := localca.New(ctx, cfg)
	if err != nil {
		return nil, errors.Join(err, key.Close())
	}
	return &tokenCA{issuer, key}, nil
}

// softwareCAKey also gives the secret by which every process with the key knows the states
// of the others.
func softwareCAKey(path string) (key crypto.Signer, state core.Secret, err error) {
	text, err := readPrivate(path, core.ErrNotFound)
	if err != nil {
		return nil, state, err
	}
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, state, fmt.Errorf("%s is not PEM of a PKCS #8 key that is not encrypted: %w", path, core.ErrInvalid)
	}
	defer clear(block.Bytes)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, state, errors.Join(fmt.Errorf("%s has no key that signs: %w", path, core.ErrInvalid), err)
	}
	derived, err := hkdf.Key(sha256.New, block.Bytes, nil, "Conclave localca state", localca.StateKeySize)
	return key, core.NewSecret(derived), err
}

// tokenCA is an issuer with its key in a token, which it closes.
type tokenCA struct {
	core.CredentialIssuer
	key *hsm.CAKey
}

// Close implements io.Closer.
func (i *tokenCA) Close() error { return i.key.Close() }
