// SPDX-License-Identifier: Apache-2.0

package acme_test

import (
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/acme"
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
	if len(first.Credential.Certificates) != 2 || first.Credential.Type != core.CredentialX509 || !f.refreshes(first.Carry) || step.State != nil {
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
	if !f.refreshes(second.Carry) || f.refreshes(first.Carry) {
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

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	good := acme.Config{Directory: "https://ca.example/directory", RedirectURI: "com.example.app:/login"}
	if _, err := acme.New(good); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		change func(*acme.Config)
		want   error
	}{
		"no directory":          {func(c *acme.Config) { c.Directory = "" }, e2ei.ErrForeignURL},
		"a directory in clear":  {func(c *acme.Config) { c.Directory = "http://127.0.0.1/directory" }, e2ei.ErrForeignURL},
		"in clear, and far":     {func(c *acme.Config) { c.Directory, c.AllowHTTP = "http://ca.example/directory", true }, e2ei.ErrForeignURL},
		"a user in the address": {func(c *acme.Config) { c.Directory = "https://a:b@ca.example/directory" }, e2ei.ErrForeignURL},
		"a long directory":      {func(c *acme.Config) { c.Directory += strings.Repeat("x", 2048) }, e2ei.ErrForeignURL},
		"no redirect":           {func(c *acme.Config) { c.RedirectURI = "" }, core.ErrInvalid},
		"half a redirect":       {func(c *acme.Config) { c.RedirectURI = "/login" }, core.ErrInvalid},
		"a fragment":            {func(c *acme.Config) { c.RedirectURI += "#x" }, core.ErrInvalid},
		"a long redirect":       {func(c *acme.Config) { c.RedirectURI += strings.Repeat("x", 2048) }, core.ErrInvalid},
		"no validity":           {func(c *acme.Config) { c.Validity = -1 }, core.ErrInvalid},
		"a proof for ever":      {func(c *acme.Config) { c.ProofValidity = time.Hour + 1 }, core.ErrInvalid},
		"a proof for nothing":   {func(c *acme.Config) { c.ProofValidity = 1 }, core.ErrInvalid},
	} {
		cfg := good
		c.change(&cfg)
		if _, err := acme.New(cfg); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}

// What cannot be is refused before anybody is asked.
func TestBeginRefuses(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	i, alice := f.issuer(t, nil), newClient(t, f, core.ECDSAP256)
	done, _ := alice.to(i, alice.begin(i), "done")
	other := newClient(t, f, core.ECDSAP256)
	good := alice.request
	good.Action, good.Previous = core.ActionRenew, done.Need.Done.Credential
	f.count()
	for what, c := range map[string]struct {
		change func(*core.IssueRequest)
		want   error
	}{
		"another client":      {func(r *core.IssueRequest) { r.ClientID = "4af3df2e-5c01-422f-baa1-d75546b92aa7:4c8@example.com" }, core.ErrInvalid},
		"another key":         {func(r *core.IssueRequest) { r.PublicKey = other.Public() }, core.ErrInvalid},
		"another algorithm":   {func(r *core.IssueRequest) { r.Algorithm = core.Ed25519 }, core.ErrInvalid},
		"no previous":         {func(r *core.IssueRequest) { r.Previous = core.Credential{} }, core.ErrInvalid},
		"a basic one":         {func(r *core.IssueRequest) { r.Previous = core.BasicCredential(clientID) }, core.ErrInvalid},
		"no certificate":      {func(r *core.IssueRequest) { r.Previous.Certificates = nil }, core.ErrInvalid},
		"nonsense":            {func(r *core.IssueRequest) { r.Previous.Certificates = [][]byte{{1}} }, core.ErrInvalid},
		"a CA's":              {func(r *core.IssueRequest) { r.Previous.Certificates = r.Previous.Certificates[1:] }, core.ErrInvalid},
		"no client":           {func(r *core.IssueRequest) { r.ClientID = "" }, e2ei.ErrClientID},
		"no client of Wire's": {func(r *core.IssueRequest) { r.ClientID = "alice/laptop" }, e2ei.ErrClientID},
		"an unknown option":   {func(r *core.IssueRequest) { r.Extra = map[string]string{"teem": "x"} }, core.ErrInvalid},
		"a huge team":         {func(r *core.IssueRequest) { r.Extra = map[string]string{"team": strings.Repeat("x", 1000)} }, core.ErrInvalid},
		"a huge Carry":        {func(r *core.IssueRequest) { r.Carry = carried(f.URL+"/idp", strings.Repeat("x", 1<<17)) }, e2ei.ErrRefreshToken},
		"no handle":           {func(r *core.IssueRequest) { r.Action, r.Handle = core.ActionIssue, "" }, e2ei.ErrHandle},
		"no name":             {func(r *core.IssueRequest) { r.Action, r.Display = core.ActionIssue, "" }, core.ErrInvalid},
		"no key":              {func(r *core.IssueRequest) { r.Action, r.PublicKey = core.ActionIssue, nil }, core.ErrInvalid},
		"Ed448":               {func(r *core.IssueRequest) { r.Algorithm = core.Ed448 }, core.ErrUnsupported},
		"no action":           {func(r *core.IssueRequest) { r.Action = 0 }, core.ErrUnsupported},
	} {
		for _, action := range []core.IssueAction{core.ActionRenew, core.ActionRevoke} {
			if action == core.ActionRevoke && what == "a huge Carry" {
				continue // it has no use for one
			}
			r := good
			r.Action = action
			c.change(&r)
			if _, err := i.Begin(t.Context(), r); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", what, err, c.want)
			}
		}
	}
	if all, each := f.count(); all != 0 {
		t.Errorf("asked %v", each)
	}
}

// Who may have come by a state cannot make much of it, and what is damaged is refused.
func TestStates(t *testing.T) {
	t.Parallel()
	f, elsewhere := newFake(t, false), newFake(t, false)
	i, alice := f.issuer(t, nil), newClient(t, f, core.ECDSAP256)
	issue := alice.begin(i)
	var steps []core.Step
	for ; issue.Need.Done == nil; issue = alice.advance(i, issue) {
		steps = append(steps, issue)
	}
	_, revoke := revocation(t, f, i, core.ECDSAP256)
	steps = append(steps, revoke)
	f.count()
	for _, step := range steps {
		in := alice.input(step.Need)
		invalid := func(what string, i *acme.Issuer, state []byte) {
			if next, err := i.Advance(t.Context(), state, in); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("%s: %s: %s, %v", kind(step.Need), what, kind(next.Need), err)
			}
		}
		for n := 0; n < len(step.State); n += 7 {
			invalid("cut", i, step.State[:n])
		}
		invalid("longer", i, append(slices.Clone(step.State), 0))
		invalid("too long", i, append(slices.Clone(step.State), make([]byte, 1<<20)...))
		if _, err := i.Advance(t.Context(), make([]byte, core.MaxValue), in); !errors.Is(err, core.ErrTooLarge) {
			t.Errorf("huge: %v", err)
		}
		invalid("for another server", elsewhere.issuer(t, nil), step.State)
	}
	if all, each := f.count(); all != 0 {
		t.Errorf("asked %v", each)
	}
}
