// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// The tests' own PKI: all certificates are made for the moment noon.

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

const (
	day     = 24 * time.Hour
	listURL = "http://crl.example.com/list"
)

// keys are made once for each name; the PKI has no other secrets.
var (
	keysMu sync.Mutex
	keys   = map[string]*ecdsa.PrivateKey{}
)

func keyOf(t testing.TB, name string) *ecdsa.PrivateKey {
	t.Helper()
	keysMu.Lock()
	defer keysMu.Unlock()
	if keys[name] == nil {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = k
	}
	return keys[name]
}

func keyID(t testing.TB, name string) []byte {
	public, err := keyOf(t, name).PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(public)
	return digest[:20]
}

// A node is a certificate and its key.
type node struct {
	*x509.Certificate
	key crypto.Signer
}

type change = func(*x509.Certificate)

func caTemplate(t testing.TB, name string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: noon.Add(-100 * day), NotAfter: noon.Add(100 * day),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
		SubjectKeyId: keyID(t, name),
	}
}

// sign makes the certificate of a template for the key of a name.
func sign(t testing.TB, template *x509.Certificate, name string, issuer *node, changes ...change) *node {
	t.Helper()
	for _, c := range changes {
		c(template)
	}
	key := keyOf(t, name)
	by := issuer
	if by == nil {
		by = &node{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.Certificate, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &node{c, key}
}

func newRoot(t testing.TB, name string, changes ...change) *node {
	t.Helper()
	return sign(t, caTemplate(t, name, 1), name, nil, changes...)
}

func (n *node) newCA(t testing.TB, name string, changes ...change) *node {
	t.Helper()
	return sign(t, caTemplate(t, name, 2), name, n, changes...)
}

func address(t testing.TB, s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// newLeaf is Alice's.
func (n *node) newLeaf(t testing.TB, changes ...change) *node {
	t.Helper()
	return sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(0x99), Subject: pkix.Name{CommonName: "Alice Smith", Organization: []string{"example.com"}},
		NotBefore: noon.Add(-10 * day), NotAfter: noon.Add(10 * day), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, SubjectKeyId: keyID(t, "alice"),
		URIs:                  []*url.URL{address(t, "wireapp://%40alice_wire@example.com"), address(t, aliceURI)},
		CRLDistributionPoints: []string{listURL},
	}, "alice", n, changes...)
}

type crlChange = func(*x509.RevocationList)

// newCRL is list number 5, with an IssuingDistributionPoint as step-ca writes it.
func (n *node) newCRL(t testing.TB, revoked []int64, changes ...crlChange) []byte {
	t.Helper()
	list := &x509.RevocationList{
		Number: big.NewInt(5), ThisUpdate: noon.Add(-time.Hour), NextUpdate: noon.Add(day),
		ExtraExtensions: []pkix.Extension{issuingPoint(t, fullName(t, listURL))},
	}
	for _, serial := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(serial), RevocationTime: noon.Add(-2 * time.Hour)})
	}
	for _, c := range changes {
		c(list)
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, n.Certificate, n.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func field(tag int, compound bool, content []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: compound, Bytes: content}
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// fullName is the field of an IssuingDistributionPoint with addresses.
func fullName(t testing.TB, urls ...string) asn1.RawValue {
	var names []byte
	for _, u := range urls {
		names = append(names, marshal(t, field(6, false, []byte(u)))...)
	}
	return field(0, true, marshal(t, field(0, true, names)))
}

func issuingPoint(t testing.TB, fields ...asn1.RawValue) pkix.Extension {
	return pkix.Extension{Id: oidIssuingPoint, Critical: true, Value: marshal(t, fields)}
}

// withPoint gives a list another IssuingDistributionPoint; none without fields.
func withPoint(t testing.TB, fields ...asn1.RawValue) crlChange {
	return func(l *x509.RevocationList) {
		l.ExtraExtensions = nil
		if len(fields) > 0 {
			l.ExtraExtensions = []pkix.Extension{issuingPoint(t, fields...)}
		}
	}
}

// environment has the first as anchor and the others as intermediates.
func environment(t testing.TB, anchor *node, intermediates ...*node) *Environment {
	t.Helper()
	e, _, err := (*Environment)(nil).AddAnchor(anchor.Raw, noon)
	for _, n := range intermediates {
		if err != nil {
			break
		}
		e, _, err = e.AddIntermediate(n.Raw, noon)
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// withCRL adds a list that must be taken.
func withCRL(t testing.TB, e *Environment, der []byte) *Environment {
	t.Helper()
	n, _, _, err := e.AddCRL(listURL, der, noon)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func leaf(t testing.TB, n *node) *Leaf {
	t.Helper()
	l, err := ParseLeaf(n.Raw)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func member(t testing.TB, n *node) Member {
	t.Helper()
	public, err := keyOf(t, "alice").PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return Member{core.Credential{Type: core.CredentialX509, Certificates: [][]byte{n.Raw}}, slices.Clone(public)}
}

// flipped is the certificate with another signature.
func flipped(t testing.TB, n *node) *node {
	t.Helper()
	var c struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}
	if _, err := asn1.Unmarshal(slices.Clone(n.Raw), &c); err != nil {
		t.Fatal(err)
	}
	c.Signature.Bytes[len(c.Signature.Bytes)-1] ^= 1
	parsed, err := x509.ParseCertificate(marshal(t, c))
	if err != nil {
		t.Fatal(err)
	}
	return &node{parsed, n.key}
}
