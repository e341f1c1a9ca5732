// SPDX-License-Identifier: Apache-2.0

package acme_test

import (
	"crypto/x509"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// What is needed, and in which order; a renewal needs nobody at a login page.
func TestNeeds(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	i := f.issuer(t, nil)
	alice := newClient(t, f, core.ECDSAP256)
	step, through := alice.to(i, alice.begin(i), "done")
	if want := []string{"wire.nonce", "wire.access-token", "visit", "wait", "sign", "done"}; !slices.Equal(through, want) {
		t.Errorf("needs %q, want %q", through, want)
	}
	first := step.Need.Done
	if len(first.Credential.Certificates) != 2 || first.Credential.Type != core.CredentialX509 || !f.refresh[string(first.Carry)] || step.State != nil {
		t.Fatalf("issued %+v, state %x", first, step.State)
	}
	leaf, err := x509.ParseCertificate(first.Credential.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	if leaf.NotAfter.Sub(leaf.NotBefore) != 90*24*60*60*1e9 {
		t.Errorf("a certificate from %v to %v", leaf.NotBefore, leaf.NotAfter)
	}

	alice.request.Action, alice.request.Previous, alice.request.Carry = core.ActionRenew, first.Credential, first.Carry
	alice.request.Handle, alice.request.Display = "", "" // those of the certificate
	step, through = alice.to(i, alice.begin(i), "done")
	if want := []string{"wire.nonce", "wire.access-token", "wait", "sign", "done"}; !slices.Equal(through, want) {
		t.Errorf("needs of a renewal %q, want %q", through, want)
	}
	second := step.Need.Done
	if !f.refresh[string(second.Carry)] || string(second.Carry) == string(first.Carry) || f.refresh[string(first.Carry)] {
		t.Error("the refresh token is not the new one")
	}
	if slices.Equal(second.Credential.Certificates[0], first.Credential.Certificates[0]) {
		t.Error("the same certificate")
	}

	alice.request.Action, alice.request.Previous, alice.request.Carry = core.ActionRevoke, second.Credential, nil
	step, through = alice.to(i, alice.begin(i), "done")
	if want := []string{"sign", "done"}; !slices.Equal(through, want) {
		t.Errorf("needs of a revocation %q, want %q", through, want)
	}
	if got := step.Need.Done.Credential; len(got.Certificates) != 2 || !slices.Equal(got.Certificates[0], second.Credential.Certificates[0]) {
		t.Error("it is not told which was revoked")
	}
}
