// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// Whoever may issue below an anchor fills the environment with authorities of another's name
// and key identifier. That one's members still are found, and strangers still are not.
func TestManyNamesakes(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	plain := func(c *x509.Certificate) { c.CRLDistributionPoints = nil }
	namesake := func(c *x509.Certificate) { c.Subject.CommonName, c.SubjectKeyId = "ca", keyID(t, "ca") }
	env := environment(t, root)
	add := func(n *node) *node {
		t.Helper()
		next, _, err := env.AddIntermediate(n.Raw, noon)
		if err != nil {
			t.Fatal(err)
		}
		env = next
		return n
	}
	// Of one SKI and AKI there is one certificate; what differs is the AKI.
	above := make([]*node, MaxIntermediates/2-1)
	for i := range above {
		above[i] = add(root.newCA(t, fmt.Sprint("above ", i)))
	}
	for i, a := range above {
		add(a.newCA(t, fmt.Sprint("namesake ", i%4), namesake))
	}
	ca := add(root.newCA(t, "ca"))
	stranger := newRoot(t, "stranger", namesake)
	if err := env.Verify(leaf(t, ca.newLeaf(t, plain)), noon); err != nil {
		t.Error(err)
	}
	if err := env.Verify(leaf(t, stranger.newLeaf(t, plain)), noon); !isOnly(err, ErrBadSignature) {
		t.Errorf("a stranger: %v", err)
	}
}

// A list of many entries, and one of a number that is as long as the list may be.
func TestLongLists(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	env := environment(t, root)
	serials := make([]int64, 30_000)
	for i := range serials {
		serials[i] = int64(i) + 1000
	}
	many := withCRL(t, env, root.newCRL(t, serials))
	of := func(serial int64) *Leaf {
		return leaf(t, root.newLeaf(t, func(c *x509.Certificate) { c.SerialNumber.SetInt64(serial) }))
	}
	if err := many.Verify(of(30_999), noon); !isOnly(err, ErrRevoked) {
		t.Errorf("the last entry: %v", err)
	}
	if err := many.Verify(of(31_000), noon); err != nil {
		t.Errorf("none: %v", err)
	}
	long := new(big.Int).SetBytes(append(slices.Repeat([]byte{0xab}, MaxCRL-1000), 0x99))
	one := withCRL(t, env, root.newCRL(t, nil, func(l *x509.RevocationList) {
		l.RevokedCertificateEntries = []x509.RevocationListEntry{
			{SerialNumber: long, RevocationTime: noon}, {SerialNumber: big.NewInt(-7), RevocationTime: noon},
		}
	}))
	for _, serial := range []int64{0x99, 7} {
		if err := one.Verify(of(serial), noon); err != nil {
			t.Errorf("serial %d: %v", serial, err)
		}
	}
}

// Certificates with the longest names and the farthest dates.
func TestExtremes(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Date(2, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	})
	env := environment(t, root)
	plain := func(c *x509.Certificate) { c.CRLDistributionPoints = nil }
	ever := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = root.NotBefore, root.NotAfter }
	name := strings.Repeat("x", 4000)
	l := leaf(t, root.newLeaf(t, plain, ever, func(c *x509.Certificate) { c.Subject.CommonName = name }))
	for _, at := range []time.Time{root.NotBefore.Add(time.Second), noon, root.NotAfter} {
		if err := env.Verify(l, at); err != nil {
			t.Errorf("%v: %v", at, err)
		}
	}
	for at, want := range map[time.Time]error{{}: ErrNotYetValid, root.NotAfter.Add(time.Second): ErrExpired, time.Unix(1<<55, 0): ErrExpired, time.Unix(-1<<60, 0): ErrNotYetValid} {
		if err := env.Verify(l, at); !isOnly(err, want) {
			t.Errorf("%v: %v, want %v", at, err, want)
		}
	}
	if id, err := l.Identity(); err != nil || id.DisplayName != name {
		t.Errorf("%d bytes, %v", len(id.DisplayName), err)
	}
}

// What is to be fetched is named by somebody who holds, and is not much.
func TestMissingLists(t *testing.T) {
	t.Parallel()
	root, other := newRoot(t, "root"), newRoot(t, "other root")
	points := func(urls ...string) change {
		return func(c *x509.Certificate) { c.CRLDistributionPoints = urls }
	}
	ca := root.newCA(t, "ca", points("http://ca.example/list"))
	env := environment(t, root, ca)
	of := func(n *node, urls ...string) Member { return member(t, n.newLeaf(t, points(urls...))) }
	basic := Member{core.BasicCredential("bob"), nil}
	expired := member(t, root.newLeaf(t, points("http://expired.example"), func(c *x509.Certificate) { c.NotAfter = noon.Add(-day) }))
	wrongKey := of(root, "http://key.example")
	wrongKey.SignatureKey = []byte{4}
	members := []Member{
		basic, of(ca, listURL), of(ca, listURL), of(root, "http://root.example/a", listURL, "http://ca.example/list"),
		of(other, "http://stranger.example"), expired, wrongKey, {Credential: core.Credential{Type: core.CredentialX509}},
	}
	if got := env.MissingLists(slices.Values(members), noon); !slices.Equal(got, []string{"http://ca.example/list", listURL, "http://root.example/a"}) {
		t.Error(got)
	}
	listed := withCRL(t, env, ca.newCRL(t, nil))
	if got := listed.MissingLists(slices.Values(members[:3]), noon); !slices.Equal(got, []string{"http://ca.example/list"}) {
		t.Error(got)
	}
	if got := listed.Lists(); !slices.Equal(got, []string{listURL}) {
		t.Error(got)
	}
	for _, nothing := range []*Environment{nil, {}} {
		if got := append(nothing.MissingLists(slices.Values(members), noon), nothing.Lists()...); len(got) != 0 {
			t.Error(got)
		}
	}
	// One member's certificate does not keep the lists of the others away, nor do a few.
	var mallories []Member
	for n := range 2 * MaxCRLs {
		var many []string
		for i := range 100 {
			many = append(many, fmt.Sprintf("http://m%d/%d", n, i))
		}
		mallories = append(mallories, of(root, many...))
	}
	if got := env.MissingLists(slices.Values(mallories[:1]), noon); len(got) != 1+maxPoints {
		t.Errorf("%d addresses of one member", len(got)-1)
	}
	got := env.MissingLists(slices.Values(append(mallories, of(root, listURL), of(ca, listURL))), noon)
	if len(got) != MaxCRLs || got[0] != "http://ca.example/list" || got[1] != listURL {
		t.Errorf("%d addresses: %v", len(got), got)
	}
}

// A CA that vouches for the key and the name of another one, with its identifiers, does not
// take its place, whoever came first.
func TestCrossCertified(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	good := root.newCA(t, "good")
	evil := root.newCA(t, "evil", func(c *x509.Certificate) { c.PermittedURIDomains = []string{"evil.example"} })
	alice := good.newLeaf(t, func(c *x509.Certificate) { c.CRLDistributionPoints = nil })
	for _, name := range []string{"evil", "root"} {
		lying := *evil.Certificate // an issuer of another name and with another identifier
		lying.SubjectKeyId = good.AuthorityKeyId
		if name == "root" {
			lying.RawSubject = root.RawSubject
		}
		cross := sign(t, caTemplate(t, "good", 4), "good", &node{&lying, evil.key}, func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(day) })
		if !bytes.Equal(cross.AuthorityKeyId, good.AuthorityKeyId) {
			t.Fatal("not what was meant")
		}
		env := environment(t, root, evil)
		if name == "root" {
			namesake := sign(t, caTemplate(t, "evil", 5), "evil", evil, func(c *x509.Certificate) { c.Subject.CommonName = "root" })
			env = environment(t, root, evil, namesake)
		}
		for _, order := range [][]*node{{good, cross}, {cross, good}} {
			e, all := env, []Item(nil)
			for _, n := range order {
				next, item, err := e.AddIntermediate(n.Raw, noon)
				if err != nil || item == nil {
					t.Fatalf("%s: %+v, %v", name, item, err)
				}
				e, all = next, append(all, *item)
			}
			if err := e.Verify(leaf(t, alice), noon); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if all[0].Key == all[1].Key {
				t.Errorf("%s: one record", name)
			}
		}
	}
}

// A CA that may not sign lists any more has signed those that are there.
func TestRenewedWithoutLists(t *testing.T) {
	t.Parallel()
	e, all, _ := items(t)
	root := newRoot(t, "root")
	e, item, err := e.AddIntermediate(root.newCA(t, "ca", func(c *x509.Certificate) {
		c.NotAfter, c.KeyUsage = c.NotAfter.Add(day), x509.KeyUsageCertSign
	}).Raw, noon)
	if err != nil || item == nil || item.Key != all[1].Key {
		t.Fatalf("%+v, %v", item, err)
	}
	all[1] = *item
	again, err := NewEnvironment(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []*Environment{e, again} {
		if got := e.Lists(); len(got) != 1 {
			t.Error(got)
		}
	}
}
