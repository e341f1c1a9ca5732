// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"bytes"
	"encoding/pem"
	"errors"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// Whatever the bytes are: no panic, typed errors, the input as it was, nobody trusted who is
// not, and what is taken is what is stored.

func typed(err error) bool { return core.Kind(err) != nil }

func FuzzLeaf(f *testing.F) {
	root := newRoot(f, "root")
	f.Add(root.newLeaf(f).Raw)
	f.Add(root.Raw)
	env := environment(f, newRoot(f, "another root"))
	f.Fuzz(func(t *testing.T, der []byte) {
		before := bytes.Clone(der)
		l, err := ParseLeaf(der)
		if !bytes.Equal(before, der) {
			t.Fatal("the input was changed")
		}
		env.NewDistributionPoints(der)
		if err != nil {
			if !typed(err) {
				t.Fatal(err)
			}
			return
		}
		if err := env.Verify(l, noon); err == nil || !typed(err) || errors.Is(err, ErrExpired) || errors.Is(err, ErrRevoked) || errors.Is(err, ErrRevocationUnknown) {
			t.Fatalf("of a stranger: %v", err)
		}
		m := Member{core.Credential{Type: core.CredentialX509, Certificates: [][]byte{der}}, l.Public()}
		if env.Accept(m, noon) == nil || wire(env).State(slices.Values([]Member{m}), noon) != NotVerified || env.Status(l, noon) != StatusRevoked {
			t.Fatal("a stranger is trusted")
		}
		id, err := l.Identity()
		if err != nil {
			if !errors.Is(err, ErrIdentity) {
				t.Fatal(err)
			}
			return
		}
		if ders, err := ParsePEM([]byte(id.Certificate)); err != nil || !bytes.Equal(ders[0], der) {
			t.Fatalf("PEM: %v", err)
		}
		if again, err := ParseClientIDURI(id.ClientID.URI()); err != nil || again != id.ClientID {
			t.Fatalf("%+v: %v", id.ClientID, err)
		}
	})
}

func FuzzCRL(f *testing.F) {
	root := newRoot(f, "root")
	f.Add(root.newCRL(f, nil))
	f.Add(root.newCRL(f, []int64{1, 1 << 40}))
	f.Add(root.newCRL(f, []int64{5}, withPoint(f, fullName(f, listURL, "ldap:x"), field(1, false, []byte{0xff}))))
	env := environment(f, newRoot(f, "another root"))
	f.Fuzz(func(t *testing.T, der []byte) {
		before := bytes.Clone(der)
		l, err := parseCRL(listURL, der)
		if !bytes.Equal(before, der) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			if !typed(err) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(l.der, der) {
			t.Fatal("what was verified is not what was received")
		}
		if _, _, _, err := env.AddCRL(listURL, der, noon); !errors.Is(err, ErrCRLSignature) {
			t.Fatalf("of a stranger: %v", err)
		}
		if _, err := NewEnvironment([]Item{{ItemCRL, l.key(), der}}); !errors.Is(err, core.ErrDamaged) {
			t.Fatalf("stored: %v", err)
		}
	})
}

func FuzzPEM(f *testing.F) {
	root := newRoot(f, "root")
	one := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
	f.Add(one)
	f.Add(append(one, one...))
	f.Add(append([]byte("text\n"), one[:40]...))
	f.Fuzz(func(t *testing.T, text []byte) {
		ders, err := ParsePEM(text)
		if err != nil {
			if !typed(err) || ders != nil {
				t.Fatal(err)
			}
			return
		}
		var again []byte
		for _, der := range ders {
			again = append(again, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
			if _, _, err := (*Environment)(nil).AddAnchor(der, noon); err != nil && !typed(err) {
				t.Fatal(err)
			}
		}
		if back, err := ParsePEM(again); err != nil || !slices.EqualFunc(back, ders, bytes.Equal) {
			t.Fatalf("written again: %v", err)
		}
	})
}

// A stored item is an environment with that item alone, or damage.
func FuzzItem(f *testing.F) {
	root := newRoot(f, "root")
	f.Add(uint8(ItemAnchor), anchorKey(root.Certificate), root.Raw)
	f.Add(uint8(ItemIntermediate), intermediateKey(root.Certificate, keyDigest(root.Certificate)), root.Raw)
	f.Add(uint8(ItemCRL), "00 "+listURL, root.newCRL(f, nil))
	f.Fuzz(func(t *testing.T, kind uint8, key string, der []byte) {
		e, err := NewEnvironment([]Item{{ItemKind(kind), key, der}})
		if err != nil {
			if !errors.Is(err, core.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		anchors, intermediates, lists := e.Dump()
		if len(anchors)+len(intermediates) != 1 || len(lists) != 0 {
			t.Fatalf("%d anchors, %d intermediates, %d lists", len(anchors), len(intermediates), len(lists))
		}
		if ders, err := ParsePEM([]byte(append(anchors, intermediates...)[0])); err != nil || !bytes.Equal(ders[0], der) {
			t.Fatalf("not what was stored: %v", err)
		}
	})
}
