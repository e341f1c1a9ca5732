// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// An application that is not Wire says itself whose a certificate is. All else is as it is
// for Wire: the path, the dates, the key.
func TestIdentify(t *testing.T) {
	t.Parallel()
	suite := core.SuiteParameters{Hash: "SHA-256", Signature: core.ECDSAP256}
	root := newRoot(t, "root")
	plain := func(c *x509.Certificate) {
		c.URIs, c.DNSNames = nil, []string{"laptop.alice.example"}
		c.Subject.CommonName, c.Subject.Organization = "Alice Smith", nil
	}
	a := Authenticator{environment(t, root), func(c *x509.Certificate) (core.ClientID, error) {
		if len(c.DNSNames) == 0 {
			return "", errors.New("no host")
		}
		return core.ClientID(strings.TrimSuffix(c.DNSNames[0], "nobody.example")), nil
	}}
	leaf := root.newLeaf(t, plain)
	m := member(t, leaf)
	id, err := a.Identity(m, suite, noon)
	if err != nil || id.ClientID != "laptop.alice.example" || id.Status != StatusValid || id.X509 == nil {
		t.Fatalf("%+v, %v", id, err)
	}
	if x := *id.X509; x.ClientID != (ClientID{}) || x.Handle.Name() != "" || x.Domain != "" || x.DisplayName != "Alice Smith" ||
		x.SerialNumber != serialNumber(leaf.Certificate) || !x.NotAfter.Equal(leaf.NotAfter) || !strings.HasPrefix(x.Certificate, "-----BEGIN CERTIFICATE-----") {
		t.Errorf("%+v", x)
	}
	for _, p := range []core.Purpose{core.PurposeMember, core.PurposeIdentify} {
		if id, err := a.Validate(m.Credential, m.SignatureKey, noon, p); err != nil || id.ClientID != "laptop.alice.example" {
			t.Errorf("purpose %d: %q, %v", p, id.ClientID, err)
		}
	}
	if got := a.State(slices.Values([]Member{m}), noon); got != Verified {
		t.Error(got)
	}
	// What Wire calls it is there beside it.
	both := member(t, root.newLeaf(t, func(c *x509.Certificate) { c.DNSNames = []string{"laptop.alice.example"} }))
	if id, err := a.Identity(both, suite, noon); err != nil || id.ClientID != "laptop.alice.example" || id.X509.ClientID != alice {
		t.Errorf("%+v, %v", id, err)
	}

	// What cannot be shown, or is there twice, is not shown.
	for _, name := range []pkix.Name{{CommonName: "Alice\x00"}, {CommonName: "Alice", ExtraNames: []pkix.AttributeTypeAndValue{{Type: oidCommonName, Value: "Bob"}, {Type: oidCommonName, Value: "Alice"}}}} {
		odd := member(t, root.newLeaf(t, plain, func(c *x509.Certificate) { c.Subject = name }))
		if id, err := a.Identity(odd, suite, noon); err != nil || id.X509.DisplayName != "" {
			t.Errorf("%+v, %v", id.X509, err)
		}
	}

	names := wire(a.Environment)
	other := Authenticator{environment(t, newRoot(t, "other root")), a.Identify}
	nobody := member(t, root.newLeaf(t, func(c *x509.Certificate) { c.DNSNames = []string{"nobody.example"} }))
	for _, c := range []struct {
		name string
		a    Authenticator
		m    Member
		want error
	}{
		{"no Wire names", names, m, ErrIdentity},
		{"refused by Identify", a, member(t, root.newLeaf(t)), ErrIdentity},
		{"an empty client id", a, nobody, ErrIdentity},
		{"another key", a, Member{m.Credential, append([]byte{4}, make([]byte, 64)...)}, ErrWrongKey},
		{"a stranger", other, m, nil},
	} {
		id, err := c.a.Identity(c.m, suite, noon)
		if c.want != nil && (!errors.Is(err, c.want) || id != (WireIdentity{})) || c.want == nil && (err != nil || id.Status != StatusRevoked) {
			t.Errorf("%s: %+v, %v", c.name, id, err)
		}
		if _, err := c.a.Validate(c.m.Credential, c.m.SignatureKey, noon, core.PurposeMember); !errors.Is(err, core.ErrDenied) {
			t.Errorf("%s: validate %v", c.name, err)
		}
		if got := c.a.State(slices.Values([]Member{c.m}), noon); got != NotVerified {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// A client id may be any bytes; what is shown is text.
func TestIdentifyBytes(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	a := Authenticator{environment(t, root), func(*x509.Certificate) (core.ClientID, error) { return "\xff", nil }}
	m := member(t, root.newLeaf(t))
	if id, err := a.Identity(m, core.SuiteParameters{}, noon); err != nil || id.ClientID != "" || id.X509 == nil {
		t.Errorf("%+v, %v", id, err)
	}
	if id, err := a.Validate(m.Credential, m.SignatureKey, noon, core.PurposeMember); err != nil || id.ClientID != "\xff" {
		t.Errorf("%q, %v", id.ClientID, err)
	}
}

// wire is the authenticator of Wire's clients.
func wire(env *Environment) Authenticator { return Authenticator{Environment: env} }
