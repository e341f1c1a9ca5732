// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// outcomes are all that Verify says; an error is exactly one of them.
var outcomes = []error{ErrExpired, ErrNotYetValid, ErrRevoked, ErrRevocationUnknown, ErrNoPath, ErrBadSignature, ErrConstraint, ErrNotReady}

func isOnly(err, want error) bool {
	for _, o := range outcomes {
		if errors.Is(err, o) != (o == want) {
			return false
		}
	}
	return (err == nil) == (want == nil)
}

func TestVerify(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	ca := root.newCA(t, "ca", func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical, c.MaxPathLenZero = []string{"example.com"}, true, true
	})
	open := root.newCA(t, "open") // may have others below
	env := environment(t, root, ca, open)
	clean := withCRL(t, withCRL(t, env, ca.newCRL(t, nil)), open.newCRL(t, nil))
	revoking := withCRL(t, env, ca.newCRL(t, []int64{0x99}))
	noCA := withCRL(t, environment(t, root, ca), root.newCRL(t, []int64{2}, withPoint(t)))
	other := newRoot(t, "other root")
	old := root.newCA(t, "old", func(c *x509.Certificate) { c.NotAfter = noon.Add(time.Hour) })
	future := root.newCA(t, "future", func(c *x509.Certificate) { c.NotBefore = noon.Add(day); c.NotAfter = noon.Add(2 * day) })
	withFuture, _, err := env.AddIntermediate(future.Raw, noon.Add(day))
	if err != nil {
		t.Fatal(err)
	}
	short := newRoot(t, "short root", func(c *x509.Certificate) { c.NotAfter = noon.Add(time.Hour) })
	namesake := newRoot(t, "namesake", func(c *x509.Certificate) { c.Subject.CommonName = "ca" })
	dates := func(from, to time.Duration) change {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon.Add(from), noon.Add(to) }
	}
	for _, c := range []struct {
		name string
		env  *Environment
		leaf *node
		at   time.Time
		want error
	}{
		{"good", clean, ca.newLeaf(t), noon, nil},
		{"no environment", nil, ca.newLeaf(t), noon, ErrNotReady},
		{"no anchor", new(Environment), ca.newLeaf(t), noon, ErrNotReady},
		{"issued by the anchor", withCRL(t, environment(t, root), root.newCRL(t, nil)), root.newLeaf(t), noon, nil},
		{"first second", clean, ca.newLeaf(t, dates(0, day)), noon, nil},
		{"second before", clean, ca.newLeaf(t, dates(time.Second, day)), noon, ErrNotYetValid},
		{"last second", clean, ca.newLeaf(t, dates(-day, 0)), noon.Add(999 * time.Millisecond), nil},
		{"second after", clean, ca.newLeaf(t, dates(-day, -time.Second)), noon, ErrExpired},
		{"expired long ago", clean, ca.newLeaf(t), noon.Add(1000 * day), ErrExpired},
		{"not yet valid", clean, ca.newLeaf(t), noon.Add(-11 * day), ErrNotYetValid},
		{"no list", env, ca.newLeaf(t), noon, ErrRevocationUnknown},
		{"no list, and nobody names one", env, ca.newLeaf(t, func(c *x509.Certificate) { c.CRLDistributionPoints = nil }), noon, nil},
		{"list out of date", clean, ca.newLeaf(t), noon.Add(2 * day), ErrRevocationUnknown},
		{"revoked", revoking, ca.newLeaf(t), noon, ErrRevoked},
		{"revoked, list out of date", revoking, ca.newLeaf(t), noon.Add(2 * day), ErrRevoked},
		{"revoked and expired", revoking, ca.newLeaf(t), noon.Add(11 * day), ErrRevoked},
		{"revoked intermediate", noCA, ca.newLeaf(t), noon, ErrRevoked},
		{"another serial of the issuer", revoking, ca.newLeaf(t, func(c *x509.Certificate) { c.SerialNumber.SetInt64(0x98) }), noon, nil},
		{"same serial of another issuer", revoking, open.newLeaf(t), noon, ErrRevocationUnknown},
		{"another anchor's", clean, other.newLeaf(t), noon, ErrNoPath},
		{"another anchor's, expired", clean, other.newLeaf(t), noon.Add(11 * day), ErrNoPath},
		{"another anchor's, not yet valid", clean, other.newLeaf(t), noon.Add(-11 * day), ErrNoPath},
		{"intermediate unknown", environment(t, root, open), ca.newLeaf(t), noon, ErrNoPath},
		{"wrong intermediate of the name", clean, namesake.newLeaf(t), noon, ErrBadSignature},
		{"signature changed", clean, flipped(t, ca.newLeaf(t)), noon, ErrBadSignature},
		{"signature changed, expired", clean, flipped(t, ca.newLeaf(t)), noon.Add(11 * day), ErrBadSignature},
		{"intermediate expired", environment(t, root, old), old.newLeaf(t), noon.Add(day), ErrExpired},
		{"intermediate expired before it was issued", environment(t, root, old), old.newLeaf(t, dates(day, 2*day)), noon.Add(day), ErrConstraint},
		{"intermediate not yet valid", withFuture, future.newLeaf(t), noon, ErrNotYetValid},
		{"anchor expired", environment(t, short), short.newLeaf(t), noon.Add(day), ErrExpired},
		{"expired, and the intermediate was renewed", withFuture, future.newLeaf(t, dates(0, 36*time.Hour)), noon.Add(40 * time.Hour), ErrExpired},
		{"another host", clean, ca.newLeaf(t, func(c *x509.Certificate) {
			c.URIs = []*url.URL{address(t, "wireapp://%40alice_wire@example.com"), address(t, "wireapp://SvPfLlwBQi-6oddVRrkqpw!4c7@example.org")}
		}), noon, ErrConstraint},
		{"another host, expired", clean, ca.newLeaf(t, func(c *x509.Certificate) { c.URIs[0].Host = "example.org" }), noon.Add(11 * day), ErrConstraint},
		{"a CA", clean, open.newLeaf(t, func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = true, true }), noon, ErrConstraint},
		{"the anchor", clean, root, noon, ErrConstraint},
		{"signed by itself", clean, sign(t, selfSigned(t), "alice", nil), noon, ErrConstraint},
		{"its own issuer's name", clean, namesake.newLeaf(t, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "ca"} }), noon, ErrConstraint},
		{"may not sign", clean, ca.newLeaf(t, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), noon, ErrConstraint},
		{"empty key usage", clean, ca.newLeaf(t, func(c *x509.Certificate) {
			c.KeyUsage = 0
			c.ExtraExtensions = []pkix.Extension{{Id: oidKeyUsage, Critical: true, Value: []byte{3, 1, 0}}}
		}), noon, ErrConstraint},
		{"any key usage", clean, ca.newLeaf(t, func(c *x509.Certificate) { c.KeyUsage = 0 }), noon, nil},
		{"any extended key usage", clean, ca.newLeaf(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }), noon, nil},
		{"unknown critical extension", clean, ca.newLeaf(t, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}), noon, ErrConstraint},
		{"unknown extension", clean, ca.newLeaf(t, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}}}
		}), noon, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if err := c.env.Verify(leaf(t, c.leaf), c.at); !isOnly(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// selfSigned is Alice's certificate, to be signed by her own key.
func selfSigned(t *testing.T) *x509.Certificate {
	c := *newRoot(t, "root").newLeaf(t).Certificate
	return &c
}

func TestPathLength(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	ca := root.newCA(t, "ca", func(c *x509.Certificate) { c.MaxPathLenZero = true })
	below := ca.newCA(t, "below")
	if err := environment(t, root, ca, below).Verify(leaf(t, below.newLeaf(t)), noon); !isOnly(err, ErrConstraint) {
		t.Errorf("got %v", err)
	}
	open := root.newCA(t, "open")
	below = open.newCA(t, "below")
	env := environment(t, root, open, below)
	if err := env.Verify(leaf(t, below.newLeaf(t, func(c *x509.Certificate) { c.CRLDistributionPoints = nil })), noon); err != nil {
		t.Error(err)
	}
}

// Two anchors, of which each has a part: a CA that one revoked holds by the other.
func TestSeveralAnchors(t *testing.T) {
	t.Parallel()
	one, two := newRoot(t, "one"), newRoot(t, "two")
	caOfOne, caOfTwo := one.newCA(t, "ca"), two.newCA(t, "ca")
	env := environment(t, one, caOfOne)
	alice := leaf(t, caOfOne.newLeaf(t))
	stranger := leaf(t, two.newLeaf(t))
	if err := env.Verify(stranger, noon); !isOnly(err, ErrNoPath) {
		t.Errorf("before: %v", err)
	}
	both, _, err := env.AddAnchor(two.Raw, noon)
	if err != nil {
		t.Fatal(err)
	}
	if err := both.Verify(stranger, noon); !isOnly(err, ErrRevocationUnknown) {
		t.Errorf("after: %v", err)
	}
	if err := env.Verify(stranger, noon); !isOnly(err, ErrNoPath) {
		t.Errorf("the old value changed: %v", err)
	}
	revoked := withCRL(t, both, one.newCRL(t, []int64{2}, withPoint(t)))
	if err := revoked.Verify(alice, noon); !isOnly(err, ErrRevoked) {
		t.Errorf("its only path is revoked: %v", err)
	}
	crossed, _, err := revoked.AddIntermediate(caOfTwo.Raw, noon)
	if err != nil {
		t.Fatal(err)
	}
	if err := crossed.Verify(alice, noon); !isOnly(err, ErrRevocationUnknown) {
		t.Errorf("the other path: %v", err)
	}
	if err := withCRL(t, crossed, caOfTwo.newCRL(t, nil)).Verify(alice, noon); err != nil {
		t.Errorf("the other path with a list: %v", err)
	}
}

// Of two CAs of one name the one that signed says what is wrong, whichever is looked at first.
func TestTwoOfOneName(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	future := func(c *x509.Certificate) {
		c.Subject.CommonName, c.NotBefore, c.NotAfter = "future", noon.Add(day), noon.Add(2*day)
	}
	one, two := root.newCA(t, "one", future), root.newCA(t, "two", future)
	env, _, err := environment(t, root).AddIntermediate(one.Raw, noon.Add(day))
	if err == nil {
		env, _, err = env.AddIntermediate(two.Raw, noon.Add(day))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, ca := range []*node{one, two} {
		if err := env.Verify(leaf(t, ca.newLeaf(t)), noon); !isOnly(err, ErrNotYetValid) {
			t.Error(err)
		}
	}
}

// The zero time is no time, and not that of the machine.
func TestNoTime(t *testing.T) {
	t.Parallel()
	always := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	root := newRoot(t, "root", always)
	if err := environment(t, root).Verify(leaf(t, root.newLeaf(t, always)), time.Time{}); !isOnly(err, ErrNotYetValid) {
		t.Error(err)
	}
}

// However many CAs there are of one name that sign one another, an answer comes at once.
func TestManyOfOneName(t *testing.T) {
	t.Parallel()
	e := environment(t, newRoot(t, "root")).clone()
	var last *node
	for i := range MaxIntermediates {
		name := "mesh " + string(rune('A'+i))
		last = sign(t, caTemplate(t, name, int64(i)), name, last, func(c *x509.Certificate) { c.Subject.CommonName = "mesh" })
		e.intermediates[last.SerialNumber.String()] = last.Certificate
	}
	e = e.clone()
	checks := MaxAnchors + MaxIntermediates
	if err := e.diagnose(last.newLeaf(t).Certificate, noon, &checks); !isOnly(err, ErrBadSignature) && !isOnly(err, ErrNoPath) || checks < 0 {
		t.Errorf("%v, %d checks left", err, checks)
	}
	if err := e.Verify(leaf(t, last.newLeaf(t)), noon); err == nil || !errors.Is(err, core.ErrDenied) {
		t.Error(err)
	}
}

func TestStatusAndAccept(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	ca := root.newCA(t, "ca")
	env := environment(t, root, ca)
	clean, revoking := withCRL(t, env, ca.newCRL(t, nil)), withCRL(t, env, ca.newCRL(t, []int64{0x99}))
	good := ca.newLeaf(t)
	for _, c := range []struct {
		name   string
		env    *Environment
		leaf   *node
		at     time.Time
		status DeviceStatus
		state  ConversationState
		accept error
	}{
		{"valid", clean, good, noon, StatusValid, Verified, nil},
		{"revocation unknown", env, good, noon, StatusValid, Verified, nil},
		{"no environment", nil, good, noon, StatusValid, NotVerified, nil},
		{"no anchor", new(Environment), good, noon, StatusValid, NotVerified, nil},
		{"last second", clean, good, noon.Add(10*day + 999*time.Millisecond), StatusValid, Verified, nil},
		{"expired", clean, good, noon.Add(11 * day), StatusExpired, NotVerified, nil},
		{"revoked", revoking, good, noon, StatusRevoked, NotVerified, nil},
		{"not yet valid", clean, good, noon.Add(-11 * day), StatusRevoked, NotVerified, ErrNotYetValid},
		{"no path", environment(t, newRoot(t, "other root")), good, noon, StatusRevoked, NotVerified, ErrNoPath},
		{"no path, expired", environment(t, newRoot(t, "other root")), good, noon.Add(11 * day), StatusRevoked, NotVerified, ErrNoPath},
		{"bad signature", clean, flipped(t, good), noon, StatusRevoked, NotVerified, ErrBadSignature},
		{"constraint", clean, ca.newLeaf(t, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), noon, StatusRevoked, NotVerified, ErrConstraint},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := member(t, c.leaf)
			if got := c.env.Status(leaf(t, c.leaf), c.at); got != c.status {
				t.Errorf("status %v, want %v", got, c.status)
			}
			if got := wire(c.env).State(slices.Values([]Member{m}), c.at); got != c.state {
				t.Errorf("state %v, want %v", got, c.state)
			}
			if err := c.env.Accept(m, c.at); !isOnly(err, c.accept) {
				t.Errorf("accept: %v, want %v", err, c.accept)
			}
			id, err := wire(c.env).Validate(m.Credential, m.SignatureKey, c.at, core.PurposeMember)
			if c.accept == nil && (err != nil || id.ClientID != alice.Core()) || c.accept != nil && (!errors.Is(err, c.accept) || !errors.Is(err, core.ErrDenied)) {
				t.Errorf("validate: %q, %v", id.ClientID, err)
			}
			id, err = wire(c.env).Validate(m.Credential, m.SignatureKey, c.at, core.PurposeIdentify)
			if err != nil || id.ClientID != alice.Core() {
				t.Errorf("identify: %q, %v", id.ClientID, err)
			}
		})
	}
}
