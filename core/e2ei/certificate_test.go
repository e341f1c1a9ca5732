// SPDX-License-Identifier: Apache-2.0

package e2ei_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// An authority issues what the server of these tests delivers.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: noon, NotAfter: noon.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key, cert}
}

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// leaf is the PEM of a certificate for a configuration, as a change makes it.
func (a *authority) leaf(t testing.TB, config e2ei.Config, change func(*x509.Certificate)) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: config.DisplayName, Organization: []string{config.ClientID.Domain}},
		NotBefore: noon, NotAfter: noon.Add(config.Validity), KeyUsage: x509.KeyUsageDigitalSignature,
		URIs: []*url.URL{mustURL(t, config.ClientID.URI()), mustURL(t, "wireapp://%40"+config.Handle+"@"+config.ClientID.Domain)}, SubjectKeyId: []byte{1},
	}
	public, err := core.X509PublicKey(config.Algorithm, config.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(template)
		if template.PublicKey != nil {
			public = template.PublicKey
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) verify(leaf *x509.Certificate, intermediates []*x509.Certificate, now time.Time) error {
	if len(intermediates) != 1 || !now.Equal(noon) {
		return fmt.Errorf("%d intermediates at %v", len(intermediates), now)
	}
	return leaf.CheckSignatureFrom(intermediates[0])
}

// A certificate that is not the one that was asked for is refused, and the right one still
// is accepted then.
func TestCertificate(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	config, _ := configOf(t, core.ECDSAP256)
	config.RefreshToken = core.NewSecret([]byte("refresh"))
	good := append(a.leaf(t, config, nil), a.pem()...)
	with := func(change func(*x509.Certificate)) []byte { return append(a.leaf(t, config, change), a.pem()...) }
	name := func(id asn1.ObjectIdentifier, value string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: id, Value: value})
		}
	}
	uri := func(i int, s string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.URIs[i] = mustURL(t, s) }
	}
	failed := errors.New("no path")
	for _, c := range []struct {
		name   string
		body   []byte
		field  string
		want   error
		verify e2ei.Verifier
	}{
		{"no verifier", good, "", e2ei.ErrNoVerifier, nil},
		{"no path", good, "", failed, func(*x509.Certificate, []*x509.Certificate, time.Time) error { return failed }},
		{"empty", nil, "", e2ei.ErrCertificate, a.verify},
		{"JSON", []byte("{}"), "", e2ei.ErrCertificate, a.verify},
		{"huge", bytes.Repeat([]byte(" "), e2ei.MaxReply+1), "", core.ErrTooLarge, a.verify},
		{"many", bytes.Repeat(a.pem(), 11), "", core.ErrTooLarge, a.verify},
		{"text before", append([]byte("x\n"), good...), "", e2ei.ErrCertificate, a.verify},
		{"text between", slices.Concat(a.leaf(t, config, nil), []byte("x\n"), a.pem()), "", e2ei.ErrCertificate, a.verify},
		{"text after", slices.Concat(good, []byte("x\n")), "", e2ei.ErrCertificate, a.verify},
		{"cut", good[:len(good)-9], "", e2ei.ErrCertificate, a.verify},
		{"a key", slices.Concat(good, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte{1}})), "", e2ei.ErrCertificate, a.verify},
		{"headers", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw, Headers: map[string]string{"a": "b"}}), "", e2ei.ErrCertificate, a.verify},
		{"no DER", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}), "", e2ei.ErrCertificate, a.verify},
		{"swapped", slices.Concat(a.pem(), a.leaf(t, config, nil)), "", e2ei.ErrWrongKey, a.verify},
		{"another key", with(func(c *x509.Certificate) { c.PublicKey = a.key.Public() }), "", e2ei.ErrWrongKey, a.verify},
		{"no key identifier", with(func(c *x509.Certificate) { c.SubjectKeyId = nil }), "subject key identifier", e2ei.ErrMissing, a.verify},
		{"an authority", with(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), "", e2ei.ErrConstraint, a.verify},
		{"not for signatures", with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), "", e2ei.ErrConstraint, a.verify},
		{"its own issuer", with(func(c *x509.Certificate) { c.Subject = a.cert.Subject }), "", e2ei.ErrConstraint, a.verify},
		{"another device", with(uri(0, "wireapp://SvPfLlwBQi-6oddVRrkqpw!4c8@example.com")), "client id", e2ei.ErrMismatch, a.verify},
		{"another domain in the id", with(uri(0, "wireapp://SvPfLlwBQi-6oddVRrkqpw!4c7@example.org")), "", e2ei.ErrIdentity, a.verify},
		{"another handle", with(uri(1, "wireapp://%40mallory@example.com")), "handle", e2ei.ErrMismatch, a.verify},
		{"another domain in the handle", with(uri(1, "wireapp://%40alice_wire@example.org")), "", e2ei.ErrIdentity, a.verify},
		{"another handle, too", with(func(c *x509.Certificate) { c.URIs = append(c.URIs, mustURL(t, "wireapp://%40mallory@example.com")) }), "handle", e2ei.ErrMismatch, a.verify},
		{"another device, too", with(func(c *x509.Certificate) {
			c.URIs = append(c.URIs, mustURL(t, "wireapp://SvPfLlwBQi-6oddVRrkqpw!4c8@example.com"))
		}), "client id", e2ei.ErrMismatch, a.verify},
		{"no client id", with(uri(0, "https://example.com")), "client id", e2ei.ErrMissing, a.verify},
		{"no handle", with(uri(1, "https://example.com")), "handle", e2ei.ErrMissing, a.verify},
		{"no URI", with(func(c *x509.Certificate) { c.URIs = nil }), "", e2ei.ErrIdentity, a.verify},
		{"another name", with(func(c *x509.Certificate) { c.Subject.CommonName = "Mallory" }), "display name", e2ei.ErrMismatch, a.verify},
		{"no name", with(func(c *x509.Certificate) { c.Subject.CommonName = "" }), "display name", e2ei.ErrMissing, a.verify},
		{"the name twice", with(func(c *x509.Certificate) {
			c.Subject.CommonName = ""
			name(asn1.ObjectIdentifier{2, 5, 4, 3}, config.DisplayName)(c)
			name(asn1.ObjectIdentifier{2, 5, 4, 3}, config.DisplayName)(c)
		}), "display name", e2ei.ErrMismatch, a.verify},
		{"another domain", with(func(c *x509.Certificate) { c.Subject.Organization = []string{"example.org"} }), "", e2ei.ErrIdentity, a.verify},
		{"the domain in upper case", with(func(c *x509.Certificate) { c.Subject.Organization = []string{"EXAMPLE.com"} }), "domain", e2ei.ErrMismatch, a.verify},
		{"all of another domain", with(func(c *x509.Certificate) {
			uri(0, "wireapp://SvPfLlwBQi-6oddVRrkqpw!4c7@example.org")(c)
			uri(1, "wireapp://%40alice_wire@example.org")(c)
			c.Subject.Organization = []string{"example.org"}
		}), "client id", e2ei.ErrMismatch, a.verify},
		{"no domain", with(func(c *x509.Certificate) { c.Subject.Organization = nil }), "domain", e2ei.ErrMissing, a.verify},
		{"two domains", with(func(c *x509.Certificate) { c.Subject.Organization = []string{"example.com", "example.org"} }), "domain", e2ei.ErrMismatch, a.verify},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := at(t, config, e2ei.StepCertificate)
			before := stashOf(t, e)
			_, err := e.CertificateResponse(c.body, noon, c.verify)
			var field *e2ei.FieldError
			var step *e2ei.StepError
			if !errors.Is(err, c.want) || errors.As(err, &field) != (c.field != "") || field != nil && field.Field != c.field || !errors.As(err, &step) {
				t.Errorf("%v, want %v of %q", err, c.want, c.field)
			}
			if !bytes.Equal(before, stashOf(t, e)) {
				t.Error("something has changed")
			}
			issued, err := e.CertificateResponse(good, noon, a.verify)
			if err != nil {
				t.Fatal(err)
			}
			if chain := issued.Credential.Certificates; len(chain) != 2 || !bytes.Equal(chain[1], a.cert.Raw) || issued.Credential.Type != core.CredentialX509 {
				t.Errorf("credential %v", issued.Credential)
			}
			if string(issued.RefreshToken.Bytes()) != "refresh" || !e.Config().RefreshToken.IsZero() || e.Next() != "" {
				t.Errorf("refresh token of %d bytes, next is %q", issued.RefreshToken.Len(), e.Next())
			}
			if _, err := e.CertificateResponse(good, noon, a.verify); !errors.Is(err, core.ErrClosed) {
				t.Errorf("a second time: %v", err)
			}
		})
	}
	e := at(t, config, e2ei.StepCertificate)
	for _, now := range []time.Time{noon.Add(time.Hour + time.Second), noon.Add(-time.Second)} {
		if _, err := e.CertificateResponse(good, now, a.verify); !errors.Is(err, e2ei.ErrOrderExpired) && !errors.Is(err, e2ei.ErrOrderEarly) {
			t.Errorf("at %v: %v", now, err)
		}
	}
	if string(config.RefreshToken.Bytes()) != "refresh" {
		t.Error("the caller's token is wiped")
	}
}

// A handle of characters that net/url writes otherwise than other clients is still ours.
func TestCertificateSpelling(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	config, _ := configOf(t, core.Ed25519)
	config.Handle = "a!b;c'(d)*"
	e, err := e2ei.New(config)
	if err != nil {
		t.Fatal(err)
	}
	handle, err := e2ei.NewHandle(config.Handle, "example.com")
	if err != nil {
		t.Fatal(err)
	}
	for e.Next() != e2ei.StepCertificate {
		body := strings.ReplaceAll(replies[e.Next()], "wireapp://%40alice_wire@example.com", handle.URI())
		if err := take(e, e.Next(), []byte(body), noon, nil); err != nil {
			t.Fatal(err)
		}
	}
	body := a.leaf(t, config, func(c *x509.Certificate) {
		if c.URIs[1] = mustURL(t, handle.URI()); c.URIs[1].String() == handle.URI() {
			t.Fatal("it is written alike")
		}
	})
	if _, err := e.CertificateResponse(slices.Concat(body, a.pem()), noon, a.verify); err != nil {
		t.Error(err)
	}
}
