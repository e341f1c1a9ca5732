// SPDX-License-Identifier: Apache-2.0

package crl_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/crl"
	"github.com/conclave-mls/conclave/providers/localca"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

const suite = core.SuiteX25519AES128Ed25519

// talking makes a conversation of clients that a CA vouches for, and gives their certificates.
func talking(t *testing.T, chain []authority, points ...string) (alice, bob *clienttest.Device, leaves []*x509.Certificate) {
	t.Helper()
	anchor := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[len(chain)-1].cert.Raw})
	var certificates []byte
	for _, ca := range chain {
		certificates = append(certificates, ca.cert.Raw...)
	}
	issuer, err := localca.New(t.Context(), localca.Config{Certificates: certificates, Key: chain[0].signer, DistributionPoints: points})
	if err != nil {
		t.Fatal(err)
	}
	service := clienttest.NewService(clienttest.Options{})
	person := func(id core.ClientID) *clienttest.Device {
		d := clienttest.NewDevice(t, service, id, memory.New(), client.Config{
			Suites: pure.New(), Keys: pure.New(), Authenticator: e2ei.Authenticator{Identify: e2ei.ClientOf},
		})
		d.Identify(t, suite)
		must(t, d.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error { return tx.RegisterTrustAnchor(ctx, anchor) }))
		return d
	}
	alice, bob = person("alice"), person("bob")
	clienttest.Group(t, "tea", alice, bob)
	enrolled := []*clienttest.Device{alice, bob}
	if len(chain) > 1 { // whoever enrols knows the CA
		enrolled = enrolled[:1]
	}
	for _, d := range enrolled {
		var h client.EnrollmentHandle
		must(t, d.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) (err error) {
			h, err = tx.BeginIssue(ctx, client.IssueParams{Suite: suite})
			return err
		}))
		done, err := d.Issue(t.Context(), h, issuer, nil)
		must(t, err)
		leaf, err := x509.ParseCertificate(done.Credential.Credential.Certificates[0])
		must(t, err)
		leaves = append(leaves, leaf)
		must(t, d.In(t.Context(), "tea", func(ctx context.Context, c *client.Conversation) error {
			_, err := c.Rotate(ctx, core.CredentialX509)
			return err
		}))
		for _, other := range []*clienttest.Device{alice, bob} {
			other.Hear(t, "tea")
		}
	}
	return alice, bob, leaves
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A revocation reaches the state of a conversation, whatever else fails.
func TestUpdate(t *testing.T) {
	t.Parallel()
	p, ca := publish(t), newAuthority()
	f, w := newFetcher(t)
	alice, _, leaves := talking(t, []authority{ca}, p.URL+"/gone", p.URL+"/list")
	update := func(changed bool, want error, state e2ei.ConversationState) {
		t.Helper()
		got, err := f.Update(t.Context(), alice.Client)
		if got != changed || !errors.Is(err, want) {
			t.Errorf("changed %v, %v, want %v, %v", got, err, changed, want)
		}
		if got, err := alice.View("tea").E2EIState(t.Context()); err != nil || got != state {
			t.Errorf("%v, %v, want %v", got, err, state)
		}
	}
	update(false, core.ErrNotFound, e2ei.Verified)
	p.set("/list", newAuthority().list(1))
	update(false, e2ei.ErrCRLSignature, e2ei.Verified)
	p.set("/list", ca.list(1))
	update(true, core.ErrNotFound, e2ei.Verified) // what was refused is not kept
	p.set("/list", ca.list(2, leaves[1].SerialNumber))
	update(false, core.ErrNotFound, e2ei.Verified)
	w.Time = w.Add(crl.DefaultMaxAge)
	update(true, core.ErrNotFound, e2ei.NotVerified)
	p.set("/gone", ca.list(2))
	update(true, nil, e2ei.NotVerified)
	p.requests()
	update(false, nil, e2ei.NotVerified)
	if got := p.requests(); len(got) != 0 {
		t.Errorf("asked %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Update(ctx, alice.Client); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The first list may revoke somebody already; of a client without an anchor nobody is asked.
func TestFirstList(t *testing.T) {
	t.Parallel()
	p, ca := publish(t), newAuthority()
	f, _ := newFetcher(t)
	_, bob, leaves := talking(t, []authority{ca}, p.URL+"/list")
	p.set("/list", ca.list(1, leaves[0].SerialNumber))
	if changed, err := f.Update(t.Context(), bob.Client); err != nil || !changed {
		t.Errorf("changed %v, %v", changed, err)
	}
	if got, err := bob.View("tea").E2EIState(t.Context()); err != nil || got != e2ei.NotVerified {
		t.Errorf("%v, %v", got, err)
	}
	p.requests()
	nobody := clienttest.NewDevice(t, clienttest.NewService(clienttest.Options{}), "carol", memory.New(), client.Config{Suites: pure.New(), Keys: pure.New()})
	if changed, err := f.Update(t.Context(), nobody.Client); err != nil || changed || len(p.requests()) > 0 {
		t.Errorf("changed %v, %v", changed, err)
	}
	must(t, nobody.Close(t.Context()))
	if _, err := f.Update(t.Context(), nobody.Client); !errors.Is(err, core.ErrClosed) {
		t.Error(err)
	}
}

// A list is taken that is signed by a CA which is in a member's credential alone.
func TestMissingCA(t *testing.T) {
	t.Parallel()
	p, root := publish(t), newAuthority()
	middle := newAuthority(root)
	ca := newAuthority(middle)
	f, _ := newFetcher(t)
	_, bob, leaves := talking(t, []authority{ca, middle, root}, p.URL+"/list")
	p.set("/list", ca.list(1, leaves[0].SerialNumber))
	status := func(want e2ei.DeviceStatus) {
		t.Helper()
		if who, err := bob.View("tea").DeviceIdentities(t.Context(), "alice"); err != nil || len(who) != 1 || who[0].Status != want {
			t.Errorf("%+v, %v, want %v", who, err, want)
		}
	}
	status(e2ei.StatusValid)
	if changed, err := f.Update(t.Context(), bob.Client); err != nil || !changed {
		t.Errorf("changed %v, %v", changed, err)
	}
	status(e2ei.StatusRevoked)
}
