// SPDX-License-Identifier: Apache-2.0

package modules_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app"
	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/providers/pure"
)

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeCA writes the files of a CA.
func writeCA(t *testing.T, folder, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(folder, name+".pem"), "CERTIFICATE", der)
	if der, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(folder, name+".key"), "PRIVATE KEY", der)
	writePEM(t, filepath.Join(folder, name+".encrypted"), "ENCRYPTED PRIVATE KEY", der)
}

// newSigner is a key to be certified.
func newSigner(t *testing.T) core.Signer {
	t.Helper()
	key, err := pure.New().GenerateKey(t.Context(), core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
	if err != nil {
		t.Fatal(err)
	}
	return key.(core.Signer)
}

func TestLocalCA(t *testing.T) {
	folder := t.TempDir()
	writeCA(t, folder, "ca")
	writeCA(t, folder, "other")
	writePEM(t, filepath.Join(folder, "empty.key"), "PRIVATE KEY", nil)
	use := func(uri string, f func(core.CredentialIssuer)) error {
		c := config.Default(folder)
		c.Keystore, c.Key, c.Issuer = "memory:", "random:", uri
		var issuer core.CredentialIssuer
		return app.Run(t.Context(), app.New(c, fx.Populate(&issuer)), func(ctx context.Context) error {
			if _, err := issuer.Describe(ctx); err != nil {
				return err
			}
			f(issuer)
			return nil
		})
	}
	err := use("localca:ca.pem?key=ca.key", func(issuer core.CredentialIssuer) {
		coretest.TestCredentialIssuer(t, func(*testing.T) core.CredentialIssuer { return issuer })
	})
	if err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(filepath.Join(folder, "open.key"), []byte("anything"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(folder, "open.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	for uri, want := range map[string]error{
		"localca:ca.pem":                          core.ErrInvalid,
		"localca:ca.pem?key=":                     core.ErrInvalid,
		"localca:?key=ca.key":                     core.ErrInvalid,
		"localca:ca.pem?keys=ca.key":              core.ErrInvalid,
		"localca:ca.pem?life=1h&key=ca.key":       core.ErrInvalid,
		"localca:ca.pem?lifetime=&key=ca.key":     core.ErrInvalid,
		"localca:ca.pem?crl=&key=ca.key":          core.ErrInvalid,
		"localca:ca.pem?lifetime=0s&key=ca.key":   core.ErrInvalid,
		"localca:ca.pem?lifetime=%zz&key=ca.key":  core.ErrInvalid,
		"localca:ca.pem?lifetime=1h&key=none.key": core.ErrNotFound,
		"localca:none.pem?key=ca.key":             core.ErrNotFound,
		"localca:ca.pem?key=none.key":             core.ErrNotFound,
		"localca:ca.pem?key=open.key":             core.ErrDenied,
		"localca:ca.pem?key=ca.encrypted":         core.ErrInvalid,
		"localca:ca.pem?key=ca.pem":               core.ErrInvalid,
		"localca:ca.pem?key=empty.key":            core.ErrInvalid,
		"localca:ca.pem?key=other.key":            core.ErrInvalid,
		"localca:ca.pem?key=pkcs11:object=ca":     core.ErrInvalid,
		"localca:ca.pem?key=pkcs11:token=a?pin=x": core.ErrInvalid,
	} {
		if err := use(uri, func(core.CredentialIssuer) {}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", uri, err, want)
		}
	}
}
