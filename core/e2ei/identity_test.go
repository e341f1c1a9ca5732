// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

func TestIdentity(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	subject := func(names ...pkix.AttributeTypeAndValue) change {
		return func(c *x509.Certificate) { c.Subject = pkix.Name{ExtraNames: names} }
	}
	cn := func(v any) pkix.AttributeTypeAndValue {
		return pkix.AttributeTypeAndValue{Type: oidCommonName, Value: v}
	}
	o := func(v any) pkix.AttributeTypeAndValue {
		return pkix.AttributeTypeAndValue{Type: oidOrganization, Value: v}
	}
	named := func(names ...string) change {
		return func(c *x509.Certificate) {
			c.URIs = nil
			var content []byte
			for _, n := range names {
				content = append(content, marshal(t, field(6, false, []byte(n)))...)
			}
			c.ExtraExtensions = []pkix.Extension{{Id: oidSubjectAlternative, Value: marshal(t, asn1.RawValue{Tag: 16, IsCompound: true, Bytes: content})}}
		}
	}
	const handle = "wireapp://%40alice_wire@example.com"
	const encoded = "wireapp://SvPfLlwBQi-6oddVRrkqpw%214c7@example.com"
	for _, c := range []struct {
		name   string
		change change
		fault  string // empty: it is Alice
	}{
		{"as Go writes it", func(*x509.Certificate) {}, ""},
		{"as it is asked for", named(aliceURI, handle), ""},
		{"encoded", named(handle, encoded), ""},
		{"other names beside", named("https://example.com/x", handle, "wireapp://x@example.com", aliceURI), ""},
		{"other attributes", func(c *x509.Certificate) { c.Subject.Country = []string{"DE"} }, ""},
		{"domain in upper case", subject(cn("Alice Smith"), o("EXAMPLE.com")), ""},
		{"a URI for another kind of name", func(c *x509.Certificate) { c.DNSNames, c.URIs = []string{aliceURI}, c.URIs[:1] }, "no value: invalid: client id"},
		{"no names", func(c *x509.Certificate) { c.URIs = nil }, "no alternative names"},
		{"something after the names", func(c *x509.Certificate) {
			named(aliceURI, handle)(c)
			c.ExtraExtensions[0].Value = append(c.ExtraExtensions[0].Value, 5, 0)
		}, "malformed names"},
		{"no client id", named(handle), "no value: invalid: client id"},
		{"no handle", named(aliceURI), "no value: invalid: handle"},
		{"two client ids", named(aliceURI, handle, encoded), "several: invalid: client id"},
		{"two handles", named(handle, handle, aliceURI), "several: invalid: handle"},
		{"no display name", subject(o("example.com")), "no value: invalid: display name"},
		{"empty display name", subject(cn(""), o("example.com")), "its display name is"},
		{"empty display name beside another", subject(cn(""), cn("Alice Smith"), o("example.com")), "several: invalid: display name"},
		{"two display names", subject(cn("Alice Smith"), cn("Bob"), o("example.com")), "several: invalid: display name"},
		{"no domain", subject(cn("Alice Smith")), "no value: invalid: domain"},
		{"two domains", subject(cn("Alice Smith"), o("example.com"), o("example.com")), "several: invalid: domain"},
		{"NUL in the display name", subject(cn("Alice\x00 Smith"), o("example.com")), "its display name is"},
		{"an escape in the display name", subject(cn("Alice\u009b2J"), o("example.com")), "its display name is"},
		{"domain of another script", func(c *x509.Certificate) {
			named("wireapp://SvPfLlwBQi-6oddVRrkqpw!4c7@kim.example", "wireapp://%40alice_wire@kim.example")(c)
			subject(cn("Alice Smith"), o("\u212aim.example"))(c) // a Kelvin sign, which folds to k
		}, "several domains"},
		{"another domain", subject(cn("Alice Smith"), o("example.org")), "several domains"},
		{"handle of another domain", named(aliceURI, "wireapp://%40alice_wire@example.org"), "several domains"},
		{"client id of another domain", named(strings.Replace(aliceURI, ".com", ".org", 1), handle), "several domains"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := leaf(t, root.newLeaf(t, c.change))
			id, err := l.Identity()
			if c.fault != "" {
				if !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), c.fault) || id != (X509Identity{}) {
					t.Errorf("%+v, %v", id, err)
				}
				return
			}
			if err != nil || id.ClientID != alice || id.Handle.Name() != "alice_wire" || id.Handle.URI() != handle || id.DisplayName != "Alice Smith" || !strings.EqualFold(id.Domain, "example.com") ||
				!id.NotBefore.Equal(noon.Add(-10*day)) || !id.NotAfter.Equal(noon.Add(10*day)) || id.SerialNumber != "0099" {
				t.Errorf("%+v, %v", id, err)
			}
			if ders, err := ParsePEM([]byte(id.Certificate)); err != nil || !slices.Equal(ders[0], l.cert.Raw) {
				t.Errorf("PEM: %v", err)
			}
		})
	}
	// The handle is as it was written, not as package url writes it.
	odd := "wireapp://%40al!c%65@example.com"
	if id, err := leaf(t, root.newLeaf(t, named(odd, aliceURI))).Identity(); err != nil || id.Handle.URI() != odd || id.Handle.Name() != "al!ce" {
		t.Errorf("%q, %v", id.Handle.URI(), err)
	}
}

func TestSerialNumber(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		serial int64
		want   string
	}{{0, "00"}, {1, "01"}, {0x7f, "7f"}, {0x80, "0080"}, {0x1ff, "01ff"}, {0x8000, "008000"}} {
		if got := serialNumber(&x509.Certificate{SerialNumber: big.NewInt(c.serial)}); got != c.want {
			t.Errorf("%x: %s", c.serial, got)
		}
	}
}

func TestParseLeaf(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := func(public any) []byte {
		template := root.newLeaf(t).Certificate
		template.PublicKeyAlgorithm, template.ExtraExtensions = 0, nil
		der, err := x509.CreateCertificate(rand.Reader, template, root.Certificate, public, root.key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	good := root.newLeaf(t).Raw
	twice := root.newLeaf(t).Certificate
	for _, x := range twice.Extensions {
		if x.Id.Equal(oidSubjectAlternative) {
			twice.ExtraExtensions = []pkix.Extension{x, x}
		}
	}
	twoNames, err := x509.CreateCertificate(rand.Reader, twice, root.Certificate, twice.PublicKey, root.key)
	if err != nil {
		t.Fatal(err)
	}
	edPublic, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		der  []byte
		want error
	}{
		{"good", good, nil},
		{"Ed25519", of(edPublic), nil},
		{"RSA", of(&rsaKey.PublicKey), ErrUnsupportedKey},
		{"P-224", of(&p224.PublicKey), ErrUnsupportedKey},
		{"small order", of(ed25519.PublicKey(make([]byte, 32))), ErrCertificate},
		{"names twice", twoNames, ErrCertificate},
		{"empty", nil, ErrCertificate},
		{"cut", good[:100], ErrCertificate},
		{"something follows", append(slices.Clone(good), 0), ErrCertificate},
		{"too long", make([]byte, MaxCertificate+1), core.ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if l, err := ParseLeaf(c.der); !errors.Is(err, c.want) || (err == nil) != (l != nil) {
				t.Error(err)
			}
		})
	}
	// What is read does not change with the memory it was read from, nor with what is given out.
	der := slices.Clone(good)
	l, err := ParseLeaf(der)
	if err != nil {
		t.Fatal(err)
	}
	clear(der)
	l.Public()[1] ^= 1
	if id, err := l.Identity(); err != nil || id.ClientID != alice {
		t.Errorf("%+v, %v", id, err)
	}
	if m := member(t, &node{Certificate: l.cert}); !slices.Equal(l.Public(), m.SignatureKey) || l.Algorithm() != core.ECDSAP256 {
		t.Error("the key changed")
	}
}

// The example of RFC 8037 appendix A.3, which is that of RFC 7638 for an Ed25519 key.
func TestThumbprint(t *testing.T) {
	t.Parallel()
	key, err := base64.RawURLEncoding.DecodeString("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
	if err != nil {
		t.Fatal(err)
	}
	suite := core.SuiteParameters{Hash: "SHA-256", Signature: core.Ed25519}
	if got, err := Thumbprint(suite, key); err != nil || got != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" {
		t.Errorf("%q, %v", got, err)
	}
	for _, c := range []struct {
		hash      string
		algorithm core.KeyAlgorithm
		size      int
		first     byte
		want      error
	}{
		{"SHA-512", core.Ed448, 57, 0, nil},
		{"SHA-512", core.Ed448, 56, 0, core.ErrInvalid},
		{"SHA-256", core.Ed25519, 31, 0, core.ErrInvalid},
		{"SHA-256", core.Ed25519, 0, 0, core.ErrInvalid},
		{"SHA-256", core.ECDSAP256, 65, 4, nil},
		{"SHA-256", core.ECDSAP256, 65, 2, core.ErrInvalid},
		{"SHA-256", core.ECDSAP256, 64, 4, core.ErrInvalid},
		{"SHA-256", core.ECDSAP256, 0, 0, core.ErrInvalid},
		{"SHA-384", core.ECDSAP384, 97, 4, nil},
		{"SHA-512", core.ECDSAP521, 133, 4, nil},
		{"SHA-512", core.ECDSAP521, 97, 4, core.ErrInvalid},
		{"SHA-256", "ML-DSA-65", 1952, 0, core.ErrUnsupported},
		{"MD5", core.Ed25519, 32, 0, core.ErrUnsupported},
	} {
		public := make([]byte, c.size)
		if c.size > 0 {
			public[0] = c.first
		}
		if got, err := Thumbprint(core.SuiteParameters{Hash: c.hash, Signature: c.algorithm}, public); !errors.Is(err, c.want) || (err == nil) != (got != "") {
			t.Errorf("%s %s of %d bytes: %q, %v", c.hash, c.algorithm, c.size, got, err)
		}
	}
}

func TestIdentityOfMember(t *testing.T) {
	t.Parallel()
	suite := core.SuiteParameters{Hash: "SHA-256", Signature: core.ECDSAP256}
	root := newRoot(t, "root")
	good := member(t, root.newLeaf(t))
	thumbprint, err := Thumbprint(suite, good.SignatureKey)
	if err != nil {
		t.Fatal(err)
	}
	basic := Member{core.BasicCredential(core.ClientID(aliceText)), good.SignatureKey}
	id, err := wire(environment(t, root)).Identity(basic, suite, noon)
	if want := (WireIdentity{aliceText, StatusValid, thumbprint, core.CredentialBasic, nil}); err != nil || id != want {
		t.Errorf("basic: %+v, %v", id, err)
	}
	id, err = wire(environment(t, root)).Identity(Member{core.BasicCredential("\xff"), nil}, suite, noon)
	if want := (WireIdentity{"", StatusValid, "", core.CredentialBasic, nil}); err != nil || id != want {
		t.Errorf("basic, no text: %+v, %v", id, err)
	}
	for _, c := range []struct {
		env  *Environment
		at   time.Time
		want DeviceStatus
	}{
		{environment(t, root), noon, StatusValid},
		{environment(t, root), noon.Add(11 * day), StatusExpired},
		{environment(t, newRoot(t, "other root")), noon, StatusRevoked},
		{nil, noon, StatusValid},
	} {
		id, err := wire(c.env).Identity(good, suite, c.at)
		if err != nil || id.ClientID != aliceText || id.Status != c.want || id.Thumbprint != thumbprint || id.CredentialType != core.CredentialX509 || id.X509 == nil || id.X509.ClientID != alice {
			t.Errorf("%+v, %v", id, err)
		}
	}
	bad := []struct {
		name string
		m    Member
		want error
	}{
		{"no certificate", Member{core.Credential{Type: core.CredentialX509}, good.SignatureKey}, ErrCertificate},
		{"no leaf", Member{core.Credential{Type: core.CredentialX509, Certificates: [][]byte{{1}}}, good.SignatureKey}, ErrCertificate},
		{"another key", Member{good.Credential, append([]byte{4}, make([]byte, 64)...)}, ErrWrongKey},
		{"no key", Member{good.Credential, nil}, ErrWrongKey},
		{"no identity", member(t, root.newLeaf(t, func(c *x509.Certificate) { c.URIs = []*url.URL{address(t, aliceURI)} })), ErrIdentity},
		{"another type", Member{core.Credential{Type: 9}, good.SignatureKey}, core.ErrUnsupported},
	}
	for _, c := range bad {
		for _, env := range []*Environment{nil, environment(t, root)} {
			if id, err := wire(env).Identity(c.m, suite, noon); !errors.Is(err, c.want) || id != (WireIdentity{}) {
				t.Errorf("%s: %+v, %v", c.name, id, err)
			}
			_, err := wire(env).Validate(c.m.Credential, c.m.SignatureKey, noon, core.PurposeMember)
			if !errors.Is(err, core.ErrDenied) {
				t.Errorf("%s: validate %v", c.name, err)
			}
			// Who is not named may still be trusted; all else may not.
			if err := env.Accept(c.m, noon); (err == nil) != (c.want == ErrIdentity) {
				t.Errorf("%s: accept %v", c.name, err)
			}
			if got := wire(env).State(slices.Values([]Member{c.m}), noon); c.m.Credential.Type == core.CredentialX509 && got != NotVerified {
				t.Errorf("%s: %v", c.name, got)
			}
		}
	}
}
