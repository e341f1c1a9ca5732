// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// issuedTo is what a CA makes of the names of a subject, for Alice's key.
func issuedTo(t testing.TB, s Subject, changes ...change) *node {
	t.Helper()
	name, uris, err := s.Names()
	if err != nil {
		t.Fatal(err)
	}
	return newRoot(t, "root").newLeaf(t, append([]change{func(c *x509.Certificate) { c.Subject, c.URIs = name, uris }}, changes...)...)
}

// Any bytes are a client id, and come back.
func TestClientURI(t *testing.T) {
	t.Parallel()
	ids := []core.ClientID{"alice/laptop", "//host/path", "/", "*", "a?b#c", "wireapp://u!4c7@example.com", "\x00\xff", "ö", "%41", ".", "a b", "mls-client:x", ":", aliceText}
	for n := range 30 {
		b := make([]byte, 1+n)
		for i := range b {
			b[i] = byte(mathrand.Uint32())
		}
		ids = append(ids, core.ClientID(b))
	}
	for _, id := range append(ids, core.ClientID(strings.Repeat("x", MaxClientID))) {
		if got, err := ClientOf(issuedTo(t, Subject{ClientID: id}).Certificate); err != nil || got != id {
			t.Errorf("%.80q came back as %.80q, %v", id, got, err)
		}
	}
	if got, err := ClientOf(issuedTo(t, Subject{aliceText, "alice_wire", "Alice Smith"}).Certificate); err != nil || got != aliceText {
		t.Errorf("Wire's: %q, %v", got, err)
	}
	other := func(name asn1.RawValue) change {
		return func(c *x509.Certificate) {
			content := slices.Concat(marshal(t, field(6, false, []byte("mls-client:alice"))), marshal(t, name))
			c.URIs = nil
			c.ExtraExtensions = []pkix.Extension{{Id: oidSubjectAlternative, Value: marshal(t, asn1.RawValue{Tag: 16, IsCompound: true, Bytes: content})}}
		}
	}
	for what, change := range map[string]change{
		"no name":             func(c *x509.Certificate) { c.URIs = nil },
		"two":                 func(c *x509.Certificate) { c.URIs = append(c.URIs, address(t, "mls-client:bob")) },
		"a host too":          func(c *x509.Certificate) { c.DNSNames = []string{"alice.example"} },
		"an address too":      func(c *x509.Certificate) { c.EmailAddresses = []string{"alice@alice.example"} },
		"a number too":        func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv6loopback} },
		"a name of X.500 too": other(field(4, true, marshal(t, pkix.Name{CommonName: "Bob"}.ToRDNSequence()))),
		"another scheme":      func(c *x509.Certificate) { c.URIs[0] = address(t, "https://alice.example") },
		"empty":               func(c *x509.Certificate) { c.URIs[0] = &url.URL{Scheme: "mls-client", Opaque: ""} },
		"another spelling":    func(c *x509.Certificate) { c.URIs[0] = address(t, "mls-client:%61lice") },
		"with a query":        func(c *x509.Certificate) { c.URIs[0] = address(t, "mls-client:alice?x") },
		"scheme in capitals": func(c *x509.Certificate) {
			other(field(2, false, []byte("x")))(c)
			c.ExtraExtensions[0].Value = marshal(t, asn1.RawValue{Tag: 16, IsCompound: true, Bytes: marshal(t, field(6, false, []byte("MLS-client:alice")))})
		},
	} {
		if id, err := ClientOf(issuedTo(t, Subject{ClientID: "alice"}, change).Certificate); !errors.Is(err, ErrIdentity) || id != "" {
			t.Errorf("%s: %q, %v", what, id, err)
		}
	}
}

func TestSubject(t *testing.T) {
	t.Parallel()
	plain, wires := Subject{"alice/laptop", "alice", "Alice Smith"}, Subject{aliceText, "alice_wire", "Alice Smith"}
	public := member(t, newRoot(t, "root").newLeaf(t)).SignatureKey
	name, uris, err := plain.Names()
	if err != nil || len(name.ToRDNSequence()) != 0 || len(uris) != 1 || uris[0].String() != "mls-client:alice%2Flaptop" {
		t.Errorf("%v %v, %v", name, uris, err)
	}
	name, uris, err = wires.Names()
	if err != nil || name.String() != "CN=Alice Smith,O=example.com" || fmt.Sprint(uris) != "["+strings.Replace(aliceURI, "!", "%21", 1)+" wireapp://%40alice_wire@example.com]" {
		t.Errorf("%v %v, %v", name, uris, err)
	}
	if _, uris, err := (Subject{ClientID: aliceText}).Names(); err != nil || len(uris) != 1 || uris[0].Scheme != "mls-client" {
		t.Errorf("without a handle: %v, %v", uris, err)
	}
	for _, c := range []struct {
		s    Subject
		want error
	}{
		{Subject{}, core.ErrInvalid},
		{Subject{ClientID: core.ClientID(strings.Repeat("x", MaxClientID+1))}, core.ErrTooLarge},
		{Subject{aliceText, "alice_wire", ""}, core.ErrInvalid},
		{Subject{aliceText, "alice_wire", "Alice\n"}, core.ErrInvalid},
		{Subject{aliceText, "alice_wire", strings.Repeat("x", 257)}, core.ErrTooLarge},
		{Subject{"alice", strings.Repeat("x", 257), ""}, core.ErrTooLarge},
		{Subject{aliceText, "a\x00b", "Alice Smith"}, ErrHandle},
		{Subject{core.ClientID(strings.ToUpper(aliceText[:36]) + aliceText[36:]), "alice_wire", "Alice Smith"}, ErrClientID},
	} {
		if _, _, err := c.s.Names(); !errors.Is(err, c.want) {
			t.Errorf("%.80q: %v, want %v", c.s, err, c.want)
		}
		if err := c.s.Check(issuedTo(t, plain).Certificate, core.ECDSAP256, public); err == nil {
			t.Errorf("%.80q: checked", c.s)
		}
	}
	good := map[*Subject]*node{&plain: issuedTo(t, plain), &wires: issuedTo(t, wires)}
	for s, n := range good {
		if err := s.Check(n.Certificate, core.ECDSAP256, public); err != nil {
			t.Error(err)
		}
		for _, c := range []struct {
			name string
			err  error
			want error
		}{
			{"another key", s.Check(n.Certificate, core.ECDSAP256, append([]byte{4}, make([]byte, 64)...)), ErrWrongKey},
			{"another algorithm", s.Check(n.Certificate, core.Ed25519, public), ErrWrongKey},
			{"a CA", s.Check(issuedTo(t, *s, func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = true, true }).Certificate, core.ECDSAP256, public), ErrConstraint},
			{"no name", s.Check(issuedTo(t, *s, func(c *x509.Certificate) { c.URIs = nil }).Certificate, core.ECDSAP256, public), ErrIdentity},
			{"another's", Subject{"bob", "bob", "Bob"}.Check(n.Certificate, core.ECDSAP256, public), core.ErrInvalid},
		} {
			if !errors.Is(c.err, c.want) {
				t.Errorf("%s: %v", c.name, c.err)
			}
		}
	}
	for _, s := range []Subject{{aliceText, "alice", "Alice Smith"}, {aliceText, "alice_wire", "Alice"}, {core.ClientID(aliceText[:36] + ":4c8@example.com"), "alice_wire", "Alice Smith"}} {
		if err := s.Check(good[&wires].Certificate, core.ECDSAP256, public); !errors.Is(err, ErrMismatch) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// A request is signed by whoever has the key.
func TestCSROfSubject(t *testing.T) {
	t.Parallel()
	key := keyOf(t, "alice")
	public, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	name, uris, err := Subject{aliceText, "alice_wire", "Alice Smith"}.Names()
	if err != nil {
		t.Fatal(err)
	}
	request := &x509.CertificateRequest{Subject: name, URIs: uris}
	message, err := CSRMessage(request, core.ECDSAP256, public)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(message)
	signature, err := key.Sign(rand.Reader, digest[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := CSR(request, core.ECDSAP256, public, signature)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificateRequest(der)
	if err != nil || parsed.CheckSignature() != nil || !bytes.Equal(parsed.RawTBSCertificateRequest, message) || parsed.Subject.String() != name.String() || len(parsed.URIs) != 2 {
		t.Errorf("%+v, %v", parsed, err)
	}
	signature[len(signature)-1] ^= 1
	for what, c := range map[string]struct {
		algorithm core.KeyAlgorithm
		signature []byte
		want      error
	}{
		"a wrong signature": {core.ECDSAP256, signature, core.ErrInvalid},
		"no signature":      {core.ECDSAP256, nil, core.ErrInvalid},
		"another key":       {core.ECDSAP384, signature, core.ErrInvalid},
		"Ed448":             {core.Ed448, signature, core.ErrUnsupported},
	} {
		if _, err := CSR(request, c.algorithm, public, c.signature); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}

func FuzzClientURI(f *testing.F) {
	for _, s := range []string{"mls-client:alice%2Flaptop", "mls-client:%61", aliceURI, "mls-client:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		name, err := asn1.Marshal(field(6, false, []byte(uri)))
		if err != nil {
			t.Fatal(err)
		}
		names, err := asn1.Marshal(asn1.RawValue{Tag: 16, IsCompound: true, Bytes: name})
		if err != nil {
			t.Fatal(err)
		}
		id, err := clientOfURI(&x509.Certificate{Extensions: []pkix.Extension{{Id: oidSubjectAlternative, Value: names}}})
		if err == nil && ClientURI(id) != uri || err != nil && !errors.Is(err, ErrIdentity) {
			t.Fatalf("%q: %v", id, err)
		}
	})
}
