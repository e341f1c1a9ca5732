// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

func TestAddAnchor(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	env := environment(t, root)
	other := newRoot(t, "other root")
	for _, c := range []struct {
		name string
		env  *Environment
		der  []byte
		at   time.Time
		want error
	}{
		{"first", nil, root.Raw, noon, nil},
		{"second", env, other.Raw, noon, nil},
		{"again", env, root.Raw, noon, ErrRegistered},
		{"empty", nil, nil, noon, ErrCertificate},
		{"something follows", nil, append(slices.Clone(root.Raw), 0), noon, ErrCertificate},
		{"too long", nil, make([]byte, MaxCertificate+1), noon, core.ErrTooLarge},
		{"expired", nil, root.Raw, noon.Add(101 * day), ErrExpired},
		{"not yet valid", nil, root.Raw, noon.Add(-101 * day), ErrNotYetValid},
		{"signature changed", nil, flipped(t, root).Raw, noon, ErrBadSignature},
		{"of another's name", nil, root.newCA(t, "ca").Raw, noon, ErrCertificate},
		{"a leaf", nil, sign(t, selfSigned(t), "alice", nil).Raw, noon, ErrCertificate},
		{"no basic constraints", nil, newRoot(t, "root", func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = false, false }).Raw, noon, ErrCertificate},
		{"may not sign certificates", nil, newRoot(t, "root", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }).Raw, noon, ErrCertificate},
		{"any key usage", nil, newRoot(t, "root", func(c *x509.Certificate) { c.KeyUsage = 0 }).Raw, noon, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n, item, err := c.env.AddAnchor(c.der, c.at)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err != nil && (n != nil || item != nil) || err == nil && (!n.Ready() || item.Kind != ItemAnchor || !bytes.Equal(item.DER, c.der)) {
				t.Errorf("%+v, %+v", n, item)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	var e *Environment
	for i := range MaxAnchors {
		root := newRoot(t, "root", func(c *x509.Certificate) { c.SerialNumber = big.NewInt(int64(100 + i)) })
		n, _, err := e.AddAnchor(root.Raw, noon)
		if err != nil {
			t.Fatal(err)
		}
		e = n
	}
	root := newRoot(t, "root")
	if _, _, err := e.AddAnchor(root.Raw, noon); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("anchors: %v", err)
	}
	var ca *node
	for i := range MaxIntermediates + 1 {
		ca = root.newCA(t, "ca", func(c *x509.Certificate) { c.SubjectKeyId = []byte{byte(i)} })
		n, _, err := e.AddIntermediate(ca.Raw, noon)
		if i == MaxIntermediates {
			if !errors.Is(err, core.ErrTooLarge) {
				t.Errorf("intermediates: %v", err)
			}
		} else if err != nil {
			t.Fatal(err)
		} else {
			e = n
		}
	}
	renewed := root.newCA(t, "ca", func(c *x509.Certificate) { c.SubjectKeyId, c.NotAfter = []byte{0}, noon.Add(101*day) })
	if _, item, err := e.AddIntermediate(renewed.Raw, noon); err != nil || item == nil {
		t.Errorf("in the place of another: %v", err)
	}
	// A key so long that a signature takes too long to check.
	long := *root.Certificate
	long.PublicKey = &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), maxRSA, 1), E: 65537}
	der, err := x509.CreateCertificate(nil, caTemplate(t, "long", 3), root.Certificate, long.PublicKey, root.key)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := environment(t, root).AddIntermediate(der, noon); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("long RSA key: %v", err)
	}
}

func TestAddIntermediate(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	ca := root.newCA(t, "ca")
	env := environment(t, root, ca)
	listed := root.newCA(t, "listed", func(c *x509.Certificate) { c.CRLDistributionPoints = []string{listURL} })
	revoking := withCRL(t, env, root.newCRL(t, []int64{2}, withPoint(t)))
	// A CA chooses its identifiers: here those of another, with its name or its key.
	thief := root.newCA(t, "thief", func(c *x509.Certificate) {
		c.Subject.CommonName, c.SubjectKeyId, c.NotAfter = "ca", ca.SubjectKeyId, noon.Add(101*day)
	})
	renamed := root.newCA(t, "ca", func(c *x509.Certificate) {
		c.Subject.CommonName, c.NotAfter = "renamed", noon.Add(101*day)
	})
	for _, c := range []struct {
		name  string
		env   *Environment
		der   []byte
		at    time.Time
		want  error
		added bool
	}{
		{"no environment", nil, ca.Raw, noon, ErrNotReady, false},
		{"first", environment(t, root), ca.Raw, noon, nil, true},
		{"again", env, ca.Raw, noon, nil, false},
		{"the anchor", env, root.Raw, noon, nil, false},
		{"no list at hand", env, listed.Raw, noon, nil, true},
		{"below another", env, ca.newCA(t, "below").Raw, noon, nil, true},
		{"below one that is not there", environment(t, root), ca.newCA(t, "below").Raw, noon, ErrNoPath, false},
		{"another anchor", env, newRoot(t, "other root").Raw, noon, ErrNoPath, false},
		{"of a stranger", env, newRoot(t, "other root").newCA(t, "ca").Raw, noon, ErrNoPath, false},
		{"signature changed", environment(t, root), flipped(t, ca).Raw, noon, ErrBadSignature, false},
		{"expired", environment(t, root), root.newCA(t, "ca", func(c *x509.Certificate) { c.NotAfter = noon.Add(-day) }).Raw, noon, ErrExpired, false},
		{"not yet valid", environment(t, root), root.newCA(t, "ca", func(c *x509.Certificate) { c.NotBefore = noon.Add(day) }).Raw, noon, ErrNotYetValid, false},
		{"revoked", revoking, root.newCA(t, "again").Raw, noon, ErrRevoked, false},
		{"a leaf", env, ca.newLeaf(t).Raw, noon, ErrCertificate, false},
		{"renewed", env, root.newCA(t, "ca", func(c *x509.Certificate) { c.NotAfter = noon.Add(101 * day) }).Raw, noon, nil, true},
		{"shorter than it was", env, root.newCA(t, "ca", func(c *x509.Certificate) { c.NotAfter = noon.Add(99 * day) }).Raw, noon, nil, false},
		{"of another's identifiers", env, thief.Raw, noon, core.ErrDenied, false},
		{"of another's key", env, renamed.Raw, noon, core.ErrDenied, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n, item, err := c.env.AddIntermediate(c.der, c.at)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			switch {
			case err != nil:
				if n != nil || item != nil {
					t.Errorf("%+v, %+v", n, item)
				}
			case !c.added:
				if n != c.env || item != nil {
					t.Errorf("it was added: %+v", item)
				}
			case n == c.env || item.Kind != ItemIntermediate || !bytes.Equal(item.DER, c.der):
				t.Errorf("%+v", item)
			}
		})
	}
}

func items(t *testing.T) (e *Environment, all []Item, ca *node) {
	t.Helper()
	root := newRoot(t, "root")
	ca = root.newCA(t, "ca")
	e, one, err1 := (*Environment)(nil).AddAnchor(root.Raw, noon)
	e, two, err2 := e.AddIntermediate(ca.Raw, noon)
	e, three, _, err3 := e.AddCRL(listURL, ca.newCRL(t, []int64{7}), noon)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return e, []Item{*three, *two, *one}, ca
}

// What was stored gives the same environment, long after its dates, too.
func TestStored(t *testing.T) {
	t.Parallel()
	e, all, ca := items(t)
	again, err := NewEnvironment(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []*Leaf{leaf(t, ca.newLeaf(t)), leaf(t, ca.newLeaf(t, func(c *x509.Certificate) { c.SerialNumber.SetInt64(7) }))} {
		a, b := e.Verify(l, noon), again.Verify(l, noon)
		if (a == nil) != (b == nil) || errors.Is(a, ErrRevoked) != errors.Is(b, ErrRevoked) {
			t.Errorf("%v and then %v", a, b)
		}
	}
	a1, i1, c1 := e.Dump()
	a2, i2, c2 := again.Dump()
	if len(a1) != 1 || len(i1) != 1 || len(c1) != 1 || !slices.Equal(a1, a2) || !slices.Equal(i1, i2) || !slices.Equal(c1, c2) {
		t.Errorf("%q %q %q, %q %q %q", a1, i1, c1, a2, i2, c2)
	}
	if block, _ := pem.Decode([]byte(c1[0])); block == nil || block.Type != "X509 CRL" || !bytes.Equal(block.Bytes, all[0].DER) {
		t.Error("the list is dumped as another")
	}
	if empty, err := NewEnvironment(nil); err != nil || empty.Ready() {
		t.Errorf("of nothing: %v", err)
	}
	for i, name := range []string{"list", "intermediate", "anchor"} {
		for _, c := range []struct {
			name   string
			change func(*Item)
		}{
			{"cut", func(it *Item) { it.DER = it.DER[:len(it.DER)-1] }},
			{"other key", func(it *Item) { it.Key = "z" + it.Key[1:] }},
			{"longer key", func(it *Item) { it.Key += "0" }},
			{"other kind", func(it *Item) { it.Kind = 9 }},
			{"of another kind", func(it *Item) { it.Kind = it.Kind%3 + 1 }},
		} {
			t.Run(name+" "+c.name, func(t *testing.T) {
				t.Parallel()
				bad := slices.Clone(all)
				c.change(&bad[i])
				if _, err := NewEnvironment(bad); !errors.Is(err, core.ErrDamaged) {
					t.Error(err)
				}
			})
		}
	}
	t.Run("list of nobody", func(t *testing.T) {
		t.Parallel()
		if _, err := NewEnvironment(all[:1]); !errors.Is(err, core.ErrDamaged) || !errors.Is(err, ErrCRLSignature) {
			t.Error(err)
		}
	})
	t.Run("twice", func(t *testing.T) {
		t.Parallel()
		if _, err := NewEnvironment(append(all, all[2])); !errors.Is(err, core.ErrDamaged) {
			t.Error(err)
		}
	})
}

func TestNewDistributionPoints(t *testing.T) {
	t.Parallel()
	e, _, ca := items(t)
	named := func(urls ...string) []byte {
		return ca.newLeaf(t, func(c *x509.Certificate) { c.CRLDistributionPoints = urls }).Raw
	}
	long := "http://" + strings.Repeat("a", MaxURL)
	got := e.NewDistributionPoints(named("ldap:a", "http://b", listURL), []byte("none"), named("http://b", "relative", long, "http://\x00", ""), named(), named("http://a"))
	if want := []string{"ldap:a", "http://b", "http://a"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := (*Environment)(nil).NewDistributionPoints(named(listURL)); !slices.Equal(got, []string{listURL}) {
		t.Errorf("without an environment: %q", got)
	}
}

func TestParsePEM(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	one := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
	for _, c := range []struct {
		name string
		text []byte
		n    int
		want error
	}{
		{"one", one, 1, nil},
		{"two", slices.Concat([]byte("a root\n"), one, []byte("and again\r\n"), one, []byte("\n")), 2, nil},
		{"none", []byte("hello"), 0, ErrCertificate},
		{"empty", nil, 0, ErrCertificate},
		{"a key", slices.Concat(one, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: root.Raw})), 0, ErrCertificate},
		{"with headers", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"A": "b"}, Bytes: root.Raw}), 0, ErrCertificate},
		{"no certificate", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}), 0, ErrCertificate},
		{"cut", slices.Concat(one, one[:len(one)-20]), 0, ErrCertificate},
		{"damaged", slices.Concat(one, bytes.Replace(one, []byte("M"), []byte("*"), 1)), 0, ErrCertificate},
		{"too long", bytes.Repeat([]byte("\n"), MaxPEM+1), 0, core.ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParsePEM(c.text)
			if !errors.Is(err, c.want) || len(got) != c.n {
				t.Errorf("%d certificates, %v", len(got), err)
			}
			for _, der := range got {
				if !bytes.Equal(der, root.Raw) {
					t.Error("another certificate")
				}
			}
		})
	}
}

// Go gives every CA a key identifier: the tag of the extension is changed, and who signed it
// does not matter any more.
func TestIntermediateWithoutKeyIdentifier(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	der := bytes.Replace(root.newCA(t, "ca").Raw, []byte{0x55, 0x1d, 0x0e}, []byte{0x55, 0x1d, 0x7e}, 1)
	if _, _, err := environment(t, root).AddIntermediate(der, noon); !errors.Is(err, ErrCertificate) {
		t.Error(err)
	}
}

func TestVerifyIssued(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	ca := root.newCA(t, "ca")
	below := ca.newCA(t, "below")
	env := environment(t, root)
	var _ Verifier = env.VerifyIssued
	chain := []*x509.Certificate{below.Certificate, ca.Certificate}
	for _, c := range []struct {
		name  string
		env   *Environment
		leaf  *node
		chain []*x509.Certificate
		want  error
	}{
		{"good", env, below.newLeaf(t), chain, nil},
		{"with the anchor", env, below.newLeaf(t), append(slices.Clone(chain), root.Certificate), nil},
		{"with what an old root has signed", env, below.newLeaf(t), append(slices.Clone(chain), newRoot(t, "old").newCA(t, "root").Certificate), nil},
		{"nothing asked for but the anchor", env, root.newLeaf(t, func(c *x509.Certificate) { c.CRLDistributionPoints = nil }), nil, nil},
		{"no environment", nil, root.newLeaf(t), nil, ErrNotReady},
		{"an intermediate is missing", env, below.newLeaf(t), chain[1:], ErrNoPath},
		{"first to last", env, below.newLeaf(t), []*x509.Certificate{ca.Certificate, below.Certificate}, ErrNoPath},
		{"swapped", env, newRoot(t, "other root").newLeaf(t), chain, ErrNoPath},
		{"expired", env, below.newLeaf(t, func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) }), chain, ErrExpired},
		{"a CA", env, below, chain, ErrConstraint},
		{"a leaf for an intermediate", env, below.newLeaf(t), []*x509.Certificate{below.newLeaf(t).Certificate}, ErrCertificate},
	} {
		if err := c.env.VerifyIssued(c.leaf.Certificate, c.chain, noon); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if err := env.Verify(leaf(t, below.newLeaf(t)), noon); !isOnly(err, ErrNoPath) {
		t.Errorf("the environment changed: %v", err)
	}
}
