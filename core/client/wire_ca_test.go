// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// listURL is the distribution point of what a wireCA issues.
const listURL = "http://crl.example.com/list"

// A wireCA issues the certificates of Wire: a root, and an intermediate that it does it with.
type wireCA struct {
	testing.TB
	root, ca *x509.Certificate
	key      *ecdsa.PrivateKey // of both
	serial   int64
}

func newWireCA(t testing.TB, name string) *wireCA {
	t.Helper()
	c := &wireCA{TB: t}
	var err error
	if c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := func(part string) *x509.Certificate {
		return &x509.Certificate{
			Subject: pkix.Name{CommonName: name + " " + part}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, SubjectKeyId: []byte(name + part),
		}
	}
	c.root = c.sign(template("root"), nil, c.key.Public())
	c.ca = c.sign(template("ca"), c.root, c.key.Public())
	return c
}

func (c *wireCA) sign(template, parent *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	c.Helper()
	c.serial++
	template.SerialNumber = big.NewInt(c.serial)
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, c.key)
	if err != nil {
		c.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		c.Fatal(err)
	}
	return made
}

// leaf is a certificate of a signature key, valid from an hour ago.
func (c *wireCA) leaf(id e2ei.ClientID, handle string, own client.Credential, validity time.Duration) *x509.Certificate {
	c.Helper()
	algorithm := core.Ed25519
	if len(own.SignatureKey) == 65 {
		algorithm = core.ECDSAP256
	}
	public, err := core.X509PublicKey(algorithm, own.SignatureKey)
	if err != nil {
		c.Fatal(err)
	}
	name, err := e2ei.NewHandle(handle, id.Domain)
	if err != nil {
		c.Fatal(err)
	}
	var uris []*url.URL
	for _, text := range []string{id.URI(), name.URI()} {
		u, err := url.Parse(text)
		if err != nil {
			c.Fatal(err)
		}
		uris = append(uris, u)
	}
	return c.sign(&x509.Certificate{
		Subject:   pkix.Name{CommonName: "Person " + handle, Organization: []string{id.Domain}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(validity), KeyUsage: x509.KeyUsageDigitalSignature,
		SubjectKeyId: own.SignatureKey[:20], URIs: uris, CRLDistributionPoints: []string{listURL},
	}, c.ca, public)
}

// list is the revocation list of a number.
func (c *wireCA) list(number int64, revoked ...*x509.Certificate) []byte {
	c.Helper()
	template := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, r := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: r.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, c.ca, c.key)
	if err != nil {
		c.Fatal(err)
	}
	return der
}

func pemOf(certificates ...*x509.Certificate) (text []byte) {
	for _, c := range certificates {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

// wireID is the n-th device of the tests' people.
func wireID(n byte) e2ei.ClientID {
	return e2ei.ClientID{User: [16]byte{0: n, 6: 0x40, 8: 0x80}, Device: 0x1000 + uint64(n), Domain: "example.com"}
}

// trust makes devices trust a CA.
func (w *world) trust(c *wireCA, devices ...*clienttest.Device) {
	w.Helper()
	for _, d := range devices {
		w.do(d, func(ctx context.Context, tx *client.Transaction) error {
			if err := tx.RegisterTrustAnchor(ctx, pemOf(c.root)); err != nil {
				return err
			}
			_, err := tx.RegisterIntermediate(ctx, pemOf(c.ca))
			return err
		})
	}
}

// certify gives a device a certificate for a fresh key.
func (w *world) certify(c *wireCA, d *clienttest.Device, n byte, validity time.Duration) (own client.Credential, leaf *x509.Certificate) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) error {
		basic, err := tx.NewCredential(ctx, suite1)
		if err != nil {
			return err
		}
		leaf = c.leaf(wireID(n), "person_"+string('a'+rune(n)), basic, validity)
		own, err = tx.AddCredential(ctx, core.Credential{Type: core.CredentialX509, Certificates: [][]byte{leaf.Raw, c.ca.Raw}}, basic.SignatureKey)
		return err
	})
	return own, leaf
}
