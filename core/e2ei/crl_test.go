// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

func TestAddCRLRefused(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	ca, other := root.newCA(t, "ca"), root.newCA(t, "other")
	mute := root.newCA(t, "mute", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })
	late := root.newCA(t, "late", func(c *x509.Certificate) { c.NotAfter = noon.Add(time.Hour) })
	env := environment(t, root, ca, other, mute, late)
	stranger := newRoot(t, "stranger")
	// A list that names the one CA and is signed by another: found by its name, and by its key.
	posing := &node{&x509.Certificate{Subject: ca.Subject, RawSubject: ca.RawSubject, SubjectKeyId: other.SubjectKeyId, KeyUsage: x509.KeyUsageCRLSign}, other.key}
	posing2 := &node{&x509.Certificate{Subject: ca.Subject, RawSubject: ca.RawSubject, SubjectKeyId: ca.SubjectKeyId, KeyUsage: x509.KeyUsageCRLSign}, other.key}
	nameless := &node{&x509.Certificate{Subject: ca.Subject, RawSubject: ca.RawSubject, SubjectKeyId: other.SubjectKeyId, KeyUsage: x509.KeyUsageCRLSign}, ca.key}
	extension := func(id asn1.ObjectIdentifier, critical bool, value []byte) crlChange {
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: value})
		}
	}
	inEntry := func(id asn1.ObjectIdentifier, critical bool) crlChange {
		return func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{{Id: id, Critical: critical, Value: []byte{5, 0}}}
		}
	}
	yes := func(tag int) asn1.RawValue { return field(tag, false, []byte{0xff}) }
	no := func(tag int) asn1.RawValue { return field(tag, false, []byte{0}) }
	uri := marshal(t, field(6, false, []byte(listURL)))
	relative := field(0, true, marshal(t, field(1, true, uri)))
	unheard := field(0, true, marshal(t, asn1.RawValue{Class: asn1.ClassApplication, IsCompound: true, Bytes: uri}))
	directory := field(0, true, marshal(t, field(0, true, marshal(t, field(4, true, marshal(t, pkix.Name{CommonName: "x"}.ToRDNSequence()))))))
	revoked := withCRL(t, env, root.newCRL(t, []int64{2}, withPoint(t)))
	for _, c := range []struct {
		name string
		env  *Environment
		url  string
		der  []byte
		at   time.Time
		want error
	}{
		{"good", env, listURL, ca.newCRL(t, nil), noon, nil},
		{"no environment", nil, listURL, ca.newCRL(t, nil), noon, ErrNotReady},
		{"no anchor", new(Environment), listURL, ca.newCRL(t, nil), noon, ErrNotReady},
		{"no address", env, "", ca.newCRL(t, nil, withPoint(t)), noon, core.ErrInvalid},
		{"long address", env, string(make([]byte, MaxURL+1)), ca.newCRL(t, nil, withPoint(t)), noon, core.ErrInvalid},
		{"empty", env, listURL, nil, noon, ErrCRL},
		{"a certificate", env, listURL, ca.Raw, noon, ErrCRL},
		{"cut", env, listURL, ca.newCRL(t, nil)[:200], noon, ErrCRL},
		{"something follows", env, listURL, append(ca.newCRL(t, nil), 0), noon, ErrCRL},
		{"too long", env, listURL, make([]byte, MaxCRL+1), noon, core.ErrTooLarge},
		{"by nobody known", env, listURL, stranger.newCRL(t, nil), noon, ErrCRLSignature},
		{"by another CA, with its key identifier", env, listURL, posing.newCRL(t, nil), noon, ErrCRLSignature},
		{"by another CA, with that of the issuer", env, listURL, posing2.newCRL(t, nil), noon, ErrCRLSignature},
		{"another key identifier", env, listURL, nameless.newCRL(t, nil), noon, ErrCRLSignature},
		{"signature changed", env, listURL, last(ca.newCRL(t, nil)), noon, ErrCRLSignature},
		{"by a CA that may not", env, listURL, (&node{&x509.Certificate{Subject: mute.Subject, RawSubject: mute.RawSubject, SubjectKeyId: mute.SubjectKeyId, KeyUsage: x509.KeyUsageCRLSign}, mute.key}).newCRL(t, nil), noon, ErrCRLSignature},
		{"by a revoked CA", revoked, listURL, ca.newCRL(t, nil), noon, ErrCRLSignature},
		{"by an expired CA", env, listURL, late.newCRL(t, nil), noon.Add(2 * time.Hour), ErrCRLSignature},
		{"by an expired anchor", env, listURL, root.newCRL(t, nil, func(l *x509.RevocationList) { l.NextUpdate = noon.Add(200 * day) }), noon.Add(150 * day), ErrCRLSignature},
		{"by the anchor", env, listURL, root.newCRL(t, nil), noon, nil},
		{"out of date", env, listURL, ca.newCRL(t, nil), noon.Add(day + time.Second), ErrCRLStale},
		{"in its last second", env, listURL, ca.newCRL(t, nil), noon.Add(day + time.Millisecond), nil},
		{"of tomorrow", env, listURL, ca.newCRL(t, nil), noon.Add(-time.Hour - skew - time.Second), ErrCRLStale},
		{"of another's clock", env, listURL, ca.newCRL(t, nil), noon.Add(-time.Hour - skew), nil},
		{"of another address", env, listURL + "2", ca.newCRL(t, nil), noon, ErrCRL},
		{"of several addresses", env, listURL, ca.newCRL(t, nil, withPoint(t, fullName(t, "ldap:x", listURL))), noon, nil},
		{"of all addresses", env, listURL, ca.newCRL(t, nil, withPoint(t)), noon, nil},
		{"users only", env, listURL, ca.newCRL(t, nil, withPoint(t, fullName(t, listURL), yes(1), no(2))), noon, nil},
		{"some reasons", env, listURL, ca.newCRL(t, nil, withPoint(t, fullName(t, listURL), field(3, false, []byte{0, 0x80}))), noon, ErrCRL},
		{"indirect", env, listURL, ca.newCRL(t, nil, withPoint(t, fullName(t, listURL), yes(4))), noon, ErrCRL},
		{"not indirect", env, listURL, ca.newCRL(t, nil, withPoint(t, fullName(t, listURL), no(4))), noon, nil},
		{"attributes only", env, listURL, ca.newCRL(t, nil, withPoint(t, fullName(t, listURL), yes(5))), noon, ErrCRL},
		{"unknown field", env, listURL, ca.newCRL(t, nil, withPoint(t, fullName(t, listURL), yes(6))), noon, ErrCRL},
		{"fields out of order", env, listURL, ca.newCRL(t, nil, withPoint(t, yes(1), fullName(t, listURL))), noon, ErrCRL},
		{"field twice", env, listURL, ca.newCRL(t, nil, withPoint(t, no(1), no(1))), noon, ErrCRL},
		{"universal field", env, listURL, ca.newCRL(t, nil, withPoint(t, asn1.RawValue{Tag: 1, Bytes: []byte{0}})), noon, ErrCRL},
		{"relative name", env, listURL, ca.newCRL(t, nil, withPoint(t, relative)), noon, ErrCRL},
		{"unheard name", env, listURL, ca.newCRL(t, nil, withPoint(t, unheard)), noon, ErrCRL},
		{"name and more", env, listURL, ca.newCRL(t, nil, withPoint(t, field(0, true, append(marshal(t, field(0, true, uri)), 5, 0)))), noon, ErrCRL},
		{"point and more", env, listURL, ca.newCRL(t, nil, withPoint(t), extension(oidIssuingPoint, true, append(issuingPoint(t, fullName(t, listURL)).Value, 5, 0))), noon, ErrCRL},
		{"directory name", env, listURL, ca.newCRL(t, nil, withPoint(t, directory)), noon, ErrCRL},
		{"names malformed", env, listURL, ca.newCRL(t, nil, withPoint(t, field(0, true, marshal(t, field(0, true, append(marshal(t, field(6, false, []byte(listURL))), 0x86, 5)))))), noon, ErrCRL},
		{"point malformed", env, listURL, ca.newCRL(t, nil, withPoint(t), extension(oidIssuingPoint, true, []byte{5, 0})), noon, ErrCRL},
		{"delta", env, listURL, ca.newCRL(t, nil, extension(oidDeltaCRLIndicator, true, []byte{2, 1, 1})), noon, ErrCRL},
		{"delta, not critical", env, listURL, ca.newCRL(t, nil, extension(oidDeltaCRLIndicator, false, []byte{2, 1, 1})), noon, ErrCRL},
		{"unknown critical extension", env, listURL, ca.newCRL(t, nil, extension(asn1.ObjectIdentifier{1, 2, 3}, true, []byte{5, 0})), noon, ErrCRL},
		{"unknown extension", env, listURL, ca.newCRL(t, nil, extension(asn1.ObjectIdentifier{1, 2, 3}, false, []byte{5, 0})), noon, nil},
		{"extension twice", env, listURL, ca.newCRL(t, nil, extension(oidIssuingPoint, true, issuingPoint(t).Value)), noon, ErrCRL},
		{"entry of another issuer", env, listURL, ca.newCRL(t, []int64{1}, inEntry(oidCertificateIssuer, false)), noon, ErrCRL},
		{"critical extension of an entry", env, listURL, ca.newCRL(t, []int64{1}, inEntry(asn1.ObjectIdentifier{1, 2, 3}, true)), noon, ErrCRL},
		{"extension of an entry", env, listURL, ca.newCRL(t, []int64{1}, inEntry(asn1.ObjectIdentifier{1, 2, 3}, false)), noon, nil},
		{"reason", env, listURL, ca.newCRL(t, []int64{1}, func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ReasonCode = 1 }), noon, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			before := slices.Clone(c.der)
			n, item, _, err := c.env.AddCRL(c.url, c.der, c.at)
			if !errors.Is(err, c.want) || (err == nil) != (n != nil && item != nil) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if !bytes.Equal(before, c.der) {
				t.Error("the input was changed")
			}
			if err == nil && !bytes.Equal(item.DER, c.der) {
				t.Error("not stored as it was received")
			}
		})
	}
}

func last(b []byte) []byte { b[len(b)-1] ^= 1; return b }

// SHA-1 in a list is refused, though crypto/x509 takes it.
func TestCRLOfSHA1(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := caTemplate(t, "rsa", 1)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	root := &node{c, key}
	env := environment(t, root)
	withCRL(t, env, root.newCRL(t, nil))
	list := root.newCRL(t, nil, func(l *x509.RevocationList) { l.SignatureAlgorithm = x509.SHA1WithRSA })
	if _, _, _, err := env.AddCRL(listURL, list, noon); !errors.Is(err, ErrCRL) {
		t.Error(err)
	}
}

func TestCRLReplaced(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	ca, other := root.newCA(t, "ca"), root.newCA(t, "other")
	env := environment(t, root, ca, other)
	numbered := func(n int64, made time.Duration) crlChange {
		return func(l *x509.RevocationList) {
			l.Number, l.ThisUpdate = big.NewInt(n), noon.Add(made)
		}
	}
	first := ca.newCRL(t, []int64{7})
	one, item, done, err := env.AddCRL(listURL, first, noon)
	if err != nil || done.Dirty || !done.Expiration.Equal(noon.Add(day)) || item.Kind != ItemCRL {
		t.Fatalf("%+v, %+v, %v", item, done, err)
	}
	if same, item, done, err := one.AddCRL(listURL, first, noon); err != nil || same != one || item != nil || done.Dirty || !done.Expiration.Equal(noon.Add(day)) {
		t.Errorf("again: %+v, %+v, %v", item, done, err)
	}
	for _, c := range []struct {
		name  string
		der   []byte
		want  error
		dirty bool
	}{
		{"newer", ca.newCRL(t, []int64{7}, numbered(6, -time.Minute)), nil, false},
		{"newer with another entry", ca.newCRL(t, []int64{8}, numbered(6, -time.Minute)), nil, true},
		{"newer with fewer", ca.newCRL(t, nil, numbered(6, -time.Minute)), nil, true},
		{"same number, later", ca.newCRL(t, []int64{7}, numbered(5, -time.Minute)), nil, false},
		{"older number", ca.newCRL(t, nil, numbered(4, -time.Minute)), ErrCRLStale, false},
		{"older date", ca.newCRL(t, nil, numbered(6, -2*time.Hour)), ErrCRLStale, false},
		{"older", ca.newCRL(t, nil, numbered(4, -2*time.Hour)), ErrCRLStale, false},
		{"of another issuer", other.newCRL(t, []int64{7, 9}, numbered(1, -3*time.Hour)), nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n, next, done, err := one.AddCRL(listURL, c.der, noon)
			if !errors.Is(err, c.want) || done.Dirty != c.dirty {
				t.Errorf("%+v, %v", done, err)
			}
			if err == nil && (n == one || (next.Key == item.Key) != (c.name != "of another issuer")) {
				t.Errorf("stored as %q", next.Key)
			}
			// Neither the value before nor another issuer's list has to do with it.
			if revoked, _ := one.revocation(&x509.Certificate{RawIssuer: ca.RawSubject, SerialNumber: big.NewInt(7)}, ca.Certificate, nil, noon); !revoked {
				t.Error("the value before was changed")
			}
			if c.name == "of another issuer" {
				if revoked, _ := n.revocation(&x509.Certificate{RawIssuer: ca.RawSubject, SerialNumber: big.NewInt(7)}, ca.Certificate, nil, noon); !revoked {
					t.Error("another issuer took the list away")
				}
			}
		})
	}
}

// What was taken does not change with the memory it was read from.
func TestCRLIsKept(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	der := root.newCRL(t, nil)
	want := slices.Clone(der)
	_, item, _, err := environment(t, root).AddCRL(listURL, der, noon)
	clear(der)
	if err != nil || !bytes.Equal(item.DER, want) {
		t.Error("the list changed")
	}
}

func TestOverdue(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	ca := root.newCA(t, "ca")
	env := withCRL(t, withCRL(t, environment(t, root, ca), ca.newCRL(t, nil)), root.newCRL(t, nil))
	if got := env.Overdue(noon); got != nil {
		t.Errorf("in date: %q", got)
	}
	if got := env.Overdue(noon.Add(2 * day)); !slices.Equal(got, []string{listURL}) {
		t.Errorf("two lists of an address: %q", got)
	}
	if got := (*Environment)(nil).Overdue(noon); got != nil {
		t.Errorf("nil: %q", got)
	}
}

// A list that is good news covers only what it is for; bad news is always heard.
func TestCRLScope(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	ca := root.newCA(t, "ca")
	env := environment(t, root, ca)
	yes := func(tag int) asn1.RawValue { return field(tag, false, []byte{0xff}) }
	elsewhere := "http://crl.example.com/other"
	for _, c := range []struct {
		name  string
		point []asn1.RawValue
		url   string
		want  error
	}{
		{"all", nil, listURL, nil},
		{"all, from elsewhere", nil, elsewhere, nil},
		{"the address", []asn1.RawValue{fullName(t, listURL)}, listURL, nil},
		{"another address", []asn1.RawValue{fullName(t, elsewhere)}, elsewhere, ErrRevocationUnknown},
		{"users", []asn1.RawValue{yes(1)}, listURL, nil},
		{"CAs", []asn1.RawValue{yes(2)}, listURL, ErrRevocationUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, revoked := range [][]int64{nil, {0x99}} {
				n, _, _, err := env.AddCRL(c.url, ca.newCRL(t, revoked, withPoint(t, c.point...)), noon)
				if err != nil {
					t.Fatal(err)
				}
				want := c.want
				if revoked != nil {
					want = ErrRevoked
				}
				if err := n.Verify(leaf(t, ca.newLeaf(t)), noon); !isOnly(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
			}
		})
	}
	// A CA that has the same key under another name has lists of its own.
	renamed := root.newCA(t, "ca", func(c *x509.Certificate) { c.Subject.CommonName, c.SubjectKeyId = "renamed", []byte{1} })
	both, _, err := withCRL(t, env, ca.newCRL(t, []int64{0x99})).AddIntermediate(renamed.Raw, noon)
	if err != nil {
		t.Fatal(err)
	}
	if err := both.Verify(leaf(t, renamed.newLeaf(t)), noon); !isOnly(err, ErrRevocationUnknown) {
		t.Errorf("the same key under another name: %v", err)
	}
	// So has one of the same name and another key, that another CA certified.
	other := root.newCA(t, "other")
	namesake := other.newCA(t, "namesake", func(c *x509.Certificate) { c.Subject.CommonName = "ca" })
	both = withCRL(t, environment(t, root, ca, other, namesake), ca.newCRL(t, []int64{0x99}))
	if err := both.Verify(leaf(t, namesake.newLeaf(t)), noon); !isOnly(err, ErrRevocationUnknown) {
		t.Errorf("the same name with another key: %v", err)
	}
	// Nor is it the same one if the key has another name there.
	twice := other.newCA(t, "twice", func(c *x509.Certificate) { c.Subject.CommonName = "ca" })
	renamedTwice := root.newCA(t, "twice", func(c *x509.Certificate) { c.Subject.CommonName, c.SubjectKeyId = "renamed", []byte{2} })
	both = withCRL(t, environment(t, root, ca, other, twice, renamedTwice), twice.newCRL(t, []int64{0x99}))
	if err := both.Verify(leaf(t, ca.newLeaf(t)), noon); !isOnly(err, ErrRevocationUnknown) {
		t.Errorf("a namesake that has another name beside it: %v", err)
	}
	// A list of users says nothing of a CA.
	below := sign(t, caTemplate(t, "below", 3), "below", ca, func(c *x509.Certificate) { c.CRLDistributionPoints = []string{listURL} })
	users := withCRL(t, env, ca.newCRL(t, nil, withPoint(t, yes(1))))
	if err := users.path(below.Certificate, noon); !isOnly(err, ErrRevocationUnknown) {
		t.Errorf("a CA by a list of users: %v", err)
	}
}

func TestTooManyCRLs(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	e := environment(t, root)
	list := root.newCRL(t, nil, withPoint(t))
	for i := range MaxCRLs {
		n, _, _, err := e.AddCRL(listURL+string(rune('A'+i)), list, noon)
		if err != nil {
			t.Fatal(err)
		}
		e = n
	}
	if _, _, _, err := e.AddCRL(listURL, list, noon); !errors.Is(err, core.ErrTooLarge) {
		t.Error(err)
	}
	if _, _, _, err := e.AddCRL(listURL+"A", root.newCRL(t, []int64{1}, withPoint(t)), noon); err != nil {
		t.Errorf("in the place of another: %v", err)
	}
}

// Go writes no list without a number; others do.
func TestOlderWithoutNumber(t *testing.T) {
	t.Parallel()
	with := &crl{list: &x509.RevocationList{Number: big.NewInt(5), ThisUpdate: noon}}
	without := &crl{list: &x509.RevocationList{ThisUpdate: noon}}
	if !without.olderThan(with) || with.olderThan(without) || without.olderThan(without) {
		t.Error("a list without a number takes the place of one with a number, or the other way round")
	}
	if !without.inDate(noon.Add(1000*day)) || without.inDate(noon.Add(-day)) {
		t.Error("a list that does not say when the next is due")
	}
}
