// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/localca"
)

func localCA(c config.Config, log *slog.Logger) Opener[core.CredentialIssuer] {
	return Opener[core.CredentialIssuer]{"localca", func(ctx context.Context, u config.URI) (core.CredentialIssuer, error) {
		return LocalCA(ctx, c, log, u)
	}}
}

// LocalCA opens "localca:CERTIFICATES?key=KEY": a CA with its certificates in a file, and
// its key in a file of PKCS #8 or in a token. The URI of a token's key stands as it is, at
// the end, and the issuer is then an io.Closer.
func LocalCA(ctx context.Context, c config.Config, log *slog.Logger, u config.URI) (core.CredentialIssuer, error) {
	_, name, _ := strings.Cut(u.Text(), "?key=")
	if name == "" {
		return nil, fmt.Errorf(`no key: write "localca:ca.pem?key=ca.key": %w`, core.ErrInvalid)
	}
	path, err := u.File()
	if err != nil {
		return nil, err
	}
	certificates, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("certificate of the CA: %w: %w", core.ErrNotFound, err)
	}
	if !strings.HasPrefix(name, hsm.Scheme+":") {
		key, err := softwareCAKey(c.File(name))
		if err != nil {
			return nil, fmt.Errorf("key of the CA: %w", err)
		}
		return localca.New(ctx, localca.Config{Certificates: certificates, Key: func(context.Context) (crypto.Signer, error) { return key, nil }})
	}
	key, err := hsm.OpenCAKey(ctx, hsm.Config{URI: name, Latch: LatchFolder(c), Logger: log})
	if err != nil {
		return nil, err
	}
	issuer, err := localca.New(ctx, localca.Config{Certificates: certificates, Key: key.Signer})
	if err != nil {
		return nil, errors.Join(err, key.Close())
	}
	return &tokenCA{issuer, key}, nil
}

func softwareCAKey(path string) (crypto.Signer, error) {
	text, err := readPrivate(path, core.ErrNotFound)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s is not PEM of a PKCS #8 key that is not encrypted: %w", path, core.ErrInvalid)
	}
	defer clear(block.Bytes)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if signer, ok := key.(crypto.Signer); ok {
		return signer, nil
	}
	return nil, errors.Join(fmt.Errorf("%s has no key that signs: %w", path, core.ErrInvalid), err)
}

// tokenCA is an issuer with its key in a token, which it closes.
type tokenCA struct {
	core.CredentialIssuer
	key *hsm.CAKey
}

// Close implements io.Closer.
func (i *tokenCA) Close() error { return i.key.Close() }
