// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// A CA that has changed its key, and not its name, signs its one list by the new key. It speaks
// of those that the old key certified, too, unless it is another CA of that name.
func TestKeyRollover(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	named := func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "issuing CA"} }
	before, now := root.newCA(t, "key of before", named), root.newCA(t, "key of now", named)
	partner := root.newCA(t, "partner")
	namesake := partner.newCA(t, "namesake", named)
	env := withCRL(t, environment(t, root, before, now, partner, namesake), before.newCRL(t, nil))
	alice := leaf(t, before.newLeaf(t))
	later := noon.Add(3 * day)
	of := func(l *x509.RevocationList) { l.ThisUpdate, l.NextUpdate = later.Add(-day), later.Add(day) }

	if got := env.Overdue(later); len(got) != 1 {
		t.Errorf("overdue: %v", got)
	}
	next, _, done, err := env.AddCRL(listURL, now.newCRL(t, []int64{0x99}, of), later)
	if err != nil || !done.Dirty {
		t.Fatalf("%+v, %v", done, err)
	}
	if err := next.Verify(alice, later); !isOnly(err, ErrRevoked) {
		t.Errorf("whom the list has: %v", err)
	}
	if got := next.Overdue(later); len(got) != 0 {
		t.Errorf("overdue: %v", got)
	}
	if _, _, done, err = env.AddCRL(listURL, now.newCRL(t, nil, of), later); err != nil || done.Dirty {
		t.Errorf("%+v, %v", done, err)
	}
	if next, _, _, err = env.AddCRL("http://other.example", now.newCRL(t, nil, of, withPoint(t)), later); err != nil || len(next.Overdue(later)) != 1 {
		t.Errorf("a list of another address: %v, %v", next.Overdue(later), err)
	}
	if next, _, _, err = env.AddCRL(listURL, namesake.newCRL(t, []int64{0x99}, of), later); err != nil {
		t.Fatal(err)
	}
	if err := next.Verify(alice, later); !isOnly(err, ErrRevocationUnknown) {
		t.Errorf("of a namesake: %v", err)
	}
}

// Whoever answers in the place of a distribution point has other lists of the CA, too.
func TestListOfAnotherScope(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	env := withCRL(t, environment(t, root), root.newCRL(t, []int64{0x99}, withPoint(t)))
	next := func(l *x509.RevocationList) { l.Number.SetInt64(6) }
	for tag := 1; tag <= 2; tag++ {
		narrow := root.newCRL(t, nil, withPoint(t, field(tag, false, []byte{0xff})), next)
		if n, item, _, err := env.AddCRL(listURL, narrow, noon); !errors.Is(err, ErrCRL) || n != nil || item != nil {
			t.Errorf("field %d: %v", tag, err)
		}
		wide, _, _, err := environment(t, root).AddCRL(listURL, narrow, noon)
		if err == nil {
			_, _, _, err = wide.AddCRL(listURL, root.newCRL(t, nil, withPoint(t), func(l *x509.RevocationList) { l.Number.SetInt64(7) }), noon)
		}
		if err != nil {
			t.Errorf("field %d, the other way round: %v", tag, err)
		}
	}
}

// A member whose certificate begins in a moment, by our clock, is let in, and not verified yet.
func TestSlowClock(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	env := environment(t, root)
	for ahead, want := range map[time.Duration]error{memberSkew: nil, memberSkew + time.Second: ErrNotYetValid} {
		m := member(t, root.newLeaf(t, func(c *x509.Certificate) { c.NotBefore = noon.Add(ahead) }))
		if err := env.Accept(m, noon); !errors.Is(err, want) {
			t.Errorf("%v ahead: %v", ahead, err)
		}
		if got := wire(env).State(slices.Values([]Member{m}), noon); got != NotVerified {
			t.Errorf("%v ahead: %v", ahead, got)
		}
	}
}

// The CAs of a member's credential need not be registered, if an anchor vouches for them.
func TestOwnIntermediates(t *testing.T) {
	t.Parallel()
	suite := core.SuiteParameters{Hash: "SHA-256", Signature: core.ECDSAP256}
	root := newRoot(t, "root")
	ca := root.newCA(t, "ca")
	below := ca.newCA(t, "below")
	alice := below.newLeaf(t)
	with := func(chain ...*node) Member {
		m := member(t, alice)
		for _, c := range chain {
			m.Credential.Certificates = append(m.Credential.Certificates, c.Raw)
		}
		return m
	}
	renamed := root.newCA(t, "below of another key", func(c *x509.Certificate) { c.Subject = below.Subject })
	stranger := member(t, newRoot(t, "other root").newLeaf(t))
	stranger.Credential.Certificates = append(stranger.Credential.Certificates, ca.Raw)
	var far []*node
	for range maxChain {
		far = append(far, below)
	}
	for _, c := range []struct {
		name string
		env  *Environment
		m    Member
		want error
	}{
		{"all", environment(t, root), with(below, ca), nil},
		{"one, and the other is registered", environment(t, root, ca), with(below), nil},
		{"beside one of that name", environment(t, root, renamed), with(below, ca), nil},
		{"an anchor behind", environment(t, root), with(below, ca, root), nil},
		{"nonsense among them", environment(t, root), with(below, alice, ca), nil},
		{"somebody else's", environment(t, root), stranger, ErrNoPath},
		{"none", environment(t, root), with(), ErrNoPath},
		{"one is missing", environment(t, root), with(below), ErrNoPath},
		{"too far behind", environment(t, root), with(append(far, ca)...), ErrNoPath},
		{"of another anchor", environment(t, newRoot(t, "other root")), with(below, ca, root), ErrNoPath},
	} {
		before := len(c.env.intermediates)
		if err := c.env.Accept(c.m, noon); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		state, status := Verified, StatusValid
		if c.want != nil {
			state, status = NotVerified, StatusRevoked
		}
		if got := wire(c.env).State(slices.Values([]Member{c.m}), noon); got != state {
			t.Errorf("%s: %v", c.name, got)
		}
		if id, err := wire(c.env).Identity(c.m, suite, noon); err != nil || id.Status != status {
			t.Errorf("%s: %v, %v", c.name, id.Status, err)
		}
		if got := c.env.MissingLists(slices.Values([]Member{c.m}), noon); (len(got) == 1) != (c.want == nil) {
			t.Errorf("%s: %v", c.name, got)
		}
		missing, known := c.env.MissingCAs(slices.Values([]Member{c.m, c.m}), noon), c.env
		if (len(missing) > 0) != (c.want == nil) {
			t.Errorf("%s: %d CAs are missing", c.name, len(missing))
		}
		for _, der := range missing {
			next, item, err := known.AddIntermediate(der, noon)
			if err != nil || item == nil {
				t.Fatalf("%s: %+v, %v", c.name, item, err)
			}
			known = next
		}
		if err := known.Verify(leaf(t, alice), noon); c.want == nil && !isOnly(err, ErrRevocationUnknown) {
			t.Errorf("%s: with what was missing: %v", c.name, err)
		}
		if again := known.MissingCAs(slices.Values([]Member{c.m}), noon); len(again) > 0 {
			t.Errorf("%s: %d CAs are still missing", c.name, len(again))
		}
		if len(c.env.intermediates) != before {
			t.Errorf("%s: the environment has changed", c.name)
		}
	}
}

// Members do not fill the environment with their CAs.
func TestMissingCAsBound(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	var members []Member
	for i := range MaxIntermediates {
		ca := root.newCA(t, fmt.Sprint("ca ", i))
		m := member(t, ca.newLeaf(t))
		m.Credential.Certificates = append(m.Credential.Certificates, ca.Raw)
		members = append(members, m)
	}
	env := environment(t, root)
	for rounds := 0; ; rounds++ {
		missing := env.MissingCAs(slices.Values(members), noon)
		if len(missing) > maxChain || rounds > MaxIntermediates {
			t.Fatalf("%d at once", len(missing))
		}
		if len(missing) == 0 {
			break
		}
		for _, der := range missing {
			next, _, err := env.AddIntermediate(der, noon)
			if err != nil {
				t.Fatal(err)
			}
			env = next
		}
	}
	if len(env.intermediates) != MaxIntermediates/2 {
		t.Errorf("%d intermediates", len(env.intermediates))
	}
	if got := (*Environment)(nil).MissingCAs(slices.Values(members), noon); got != nil {
		t.Errorf("%d without an anchor", len(got))
	}
}
