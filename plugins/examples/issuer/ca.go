// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/providers/localca"
)

// openCA gives the certificates and the key of the CA in a folder, and the key of the states
// of its enrolments. Where there is no certificate it makes one, after a key if there is none
// of that either.
func openCA(folder string) (certificates []byte, key localca.Key, state core.Secret, err error) {
	fail := func(err error) ([]byte, localca.Key, core.Secret, error) {
		return nil, nil, core.Secret{}, fmt.Errorf("the CA in %s: %w", folder, err)
	}
	certFile, keyFile := filepath.Join(folder, "ca.pem"), filepath.Join(folder, "ca.key")
	certificates, err = os.ReadFile(certFile)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err != nil && !fresh {
		return fail(err)
	}
	der, err := readKey(keyFile)
	if fresh && errors.Is(err, fs.ErrNotExist) {
		if der, err = newKey(); err == nil {
			err = write(keyFile, "PRIVATE KEY", der)
		}
	}
	if err != nil {
		return fail(err)
	}
	defer clear(der)
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return fail(err)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return fail(fmt.Errorf("ca.key does not sign: %w", core.ErrInvalid))
	}
	if fresh {
		cert, err := selfSigned(signer)
		if err == nil {
			err = write(certFile, "CERTIFICATE", cert)
		}
		if err != nil {
			return fail(err)
		}
		certificates = cert
	}
	derived, err := hkdf.Key(sha256.New, der, nil, "issuer plugin: states", localca.StateKeySize)
	if err != nil {
		return fail(err)
	}
	return certificates, func(context.Context) (crypto.Signer, error) { return signer, nil }, core.NewSecret(derived), nil
}

// readKey reads a key of PKCS #8 that nobody else may read.
func readKey(file string) (der []byte, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("ca.key may be used by others, chmod 600 is needed: %w", core.ErrDenied)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("ca.key is not PEM of a PKCS #8 key that is not encrypted: %w", core.ErrInvalid)
	}
	return block.Bytes, nil
}

func newKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKCS8PrivateKey(key)
}

// selfSigned is the certificate of a new root.
func selfSigned(key crypto.Signer) ([]byte, error) {
	now := time.Now()
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Corporate CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
}

// write makes a file whole or not at all, and never in the place of another.
func write(file, kind string, der []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)) // for nobody else
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	defer clear(text)
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), file)
	}
	if err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(file)) // which a loss of power must not take back
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
