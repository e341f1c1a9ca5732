// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestIdentityScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/identity",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitfor": waitFor,
			"newca": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(newCA(ts.MkAbs("."), args[0], args[1:]...))
			},
			"sign": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(signRequest(ts.MkAbs("."), args[0], args[1], args[2], args[3:]...))
			},
			"revoke": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(writeList(ts.MkAbs("."), args[0], args[1], args[2:]...))
			},
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
	})
}

// newCA writes NAME.pem and NAME.key, of a root or of a CA below another one.
func newCA(folder, name string, above ...string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	issuer, signer := c, key
	if len(above) > 0 {
		if issuer, signer, err = openCA(folder, above[0]); err != nil {
			return err
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, key.Public(), signer)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(folder, name+".pem"), "CERTIFICATE", der); err != nil {
		return err
	}
	if der, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return err
	}
	return writePEM(filepath.Join(folder, name+".key"), "PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// readPEM reads the first block.
func readPEM(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", path)
	}
	return block.Bytes, nil
}

// openCA reads what newCA wrote.
func openCA(folder, name string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	der, err := readPEM(filepath.Join(folder, name+".pem"))
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	if der, err = readPEM(filepath.Join(folder, name+".key")); err != nil {
		return nil, nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, nil, err
	}
	return cert, key.(*ecdsa.PrivateKey), nil
}

// signRequest does what a CA by ticket does: sign CA REQUEST CERTIFICATE [other-key].
func signRequest(folder, name, request, to string, how ...string) error {
	cert, key, err := openCA(folder, name)
	if err != nil {
		return err
	}
	der, err := readPEM(filepath.Join(folder, request))
	if err != nil {
		return err
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return err
	}
	if err := csr.CheckSignature(); err != nil {
		return err
	}
	public := csr.PublicKey
	if len(how) > 0 {
		public = key.Public()
	}
	der, err = x509.CreateCertificate(rand.Reader, &x509.Certificate{
		Subject: csr.Subject, URIs: csr.URIs, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().AddDate(0, 3, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: []byte{1, 2, 3}, BasicConstraintsValid: true,
	}, cert, public, key)
	if err != nil {
		return err
	}
	return writePEM(filepath.Join(folder, to), "CERTIFICATE", der)
}

var serialLine = regexp.MustCompile(`(?m)^  serial +([0-9a-f]+)$`)

// writeList writes a revocation list with the first certificate that each file, of what
// identity status printed, has.
func writeList(folder, name, to string, files ...string) error {
	cert, key, err := openCA(folder, name)
	if err != nil {
		return err
	}
	l := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now().Add(-time.Second), NextUpdate: time.Now().Add(time.Hour)}
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(folder, file))
		if err != nil {
			return err
		}
		found := serialLine.FindSubmatch(text)
		if found == nil {
			return fmt.Errorf("%s has no serial number", file)
		}
		n, _ := new(big.Int).SetString(string(found[1]), 16)
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, cert, key)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, to), der, 0o600)
}
