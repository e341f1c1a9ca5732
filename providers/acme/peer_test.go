// SPDX-License-Identifier: Apache-2.0

package acme_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/core/e2ei/e2eitest"
	"github.com/conclave-mls/conclave/providers/acme"
	"github.com/conclave-mls/conclave/providers/pure"
)

const redirectURI = "http://127.0.0.1:1/callback"

func atPeer(t testing.TB, p *e2eitest.Peer) *acme.Issuer {
	t.Helper()
	issuer, err := acme.New(acme.Config{Directory: p.Directory, RedirectURI: redirectURI, HTTP: p.HTTP, AllowHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	return issuer
}

func TestCredentialIssuer(t *testing.T) {
	p := e2eitest.Start(t)
	coretest.TestCredentialIssuer(t, func(t *testing.T) core.CredentialIssuer { return p.Strangers(atPeer(t, p)) })
}

// Somebody enrols at a real CA with each kind of key, renews without a login, and revokes;
// each step by another issuer, as after a restart.
func TestPeer(t *testing.T) {
	p := e2eitest.Start(t)
	for _, algorithm := range []core.KeyAlgorithm{core.Ed25519, core.ECDSAP256, core.ECDSAP384, core.ECDSAP521} {
		t.Run(string(algorithm), func(t *testing.T) {
			who := p.Person(t)
			key, err := pure.New().GenerateKey(t.Context(), core.KeySpec{ID: who.ClientID.User, Algorithm: algorithm, Use: core.UseSign})
			if err != nil {
				t.Fatal(err)
			}
			environment := p.Environment(t, time.Now())
			run := func(req core.IssueRequest) (done *core.Issued, visits int) {
				t.Helper()
				req.ClientID, req.Algorithm, req.PublicKey = who.ClientID.Core(), algorithm, key.Public()
				step, err := atPeer(t, p).Begin(t.Context(), req)
				for range 10 {
					if err != nil {
						t.Fatal(err)
					}
					var in core.Input
					switch {
					case step.Need.Done != nil:
						return step.Need.Done, visits
					case step.Need.Sign != nil:
						in.Signature, err = key.(core.Signer).Sign(t.Context(), step.Need.Sign.Message)
					case step.Need.Wait != nil:
					default:
						if step.Need.Visit != nil {
							visits++
						}
						in, err = p.Answer(who)(t.Context(), step.Need)
					}
					if err == nil {
						step, err = atPeer(t, p).Advance(t.Context(), step.State, in)
					}
				}
				t.Fatal("no end")
				return nil, 0
			}
			judge := func(c core.Credential) (*e2ei.Leaf, *e2ei.Environment) {
				t.Helper()
				leaf, err := e2ei.ParseLeaf(c.Certificates[0])
				if err != nil {
					t.Fatal(err)
				}
				id, err := leaf.Identity()
				if err != nil || id.ClientID != who.ClientID || id.Handle.Name() != who.Handle || id.DisplayName != who.DisplayName || !bytes.Equal(leaf.Public(), key.Public()) {
					t.Fatalf("%+v, %v", id, err)
				}
				trusted, _, err := environment.AddIntermediate(c.Certificates[1], time.Now())
				if err != nil {
					t.Fatal(err)
				}
				if got := trusted.Status(leaf, time.Now()); got != e2ei.StatusValid {
					t.Errorf("status %v", got)
				}
				return leaf, trusted
			}
			first, visits := run(core.IssueRequest{
				Action: core.ActionIssue, Handle: who.Handle, Display: who.DisplayName, Extra: map[string]string{"team": who.Team},
			})
			if visits != 1 || len(first.Carry) == 0 {
				t.Errorf("%d visits, Carry of %d bytes", visits, len(first.Carry))
			}
			judge(first.Credential)
			second, visits := run(core.IssueRequest{Action: core.ActionRenew, Previous: first.Credential, Carry: first.Carry})
			if visits != 0 || len(second.Carry) == 0 || bytes.Equal(first.Carry, second.Carry) {
				t.Errorf("renewal: %d visits, Carry of %d bytes", visits, len(second.Carry))
			}
			leaf, trusted := judge(second.Credential)
			for range 2 { // what is revoked is revoked
				if _, visits := run(core.IssueRequest{Action: core.ActionRevoke, Previous: second.Credential}); visits != 0 {
					t.Error("a revocation with a login")
				}
			}
			trusted, _, _, err = trusted.AddCRL(p.CRL, p.FetchCRL(t), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if got := trusted.Status(leaf, time.Now()); got != e2ei.StatusRevoked {
				t.Errorf("after the revocation: %v", got)
			}
			// The old refresh token was used up: a person is asked.
			if _, visits := run(core.IssueRequest{Action: core.ActionRenew, Previous: first.Credential, Carry: first.Carry}); visits != 1 {
				t.Errorf("with a used refresh token: %d visits", visits)
			}
		})
	}
}

// What the real server refuses: another's login.
func TestPeerRefuses(t *testing.T) {
	p := e2eitest.Start(t)
	alice, mallory := p.Person(t), p.Person(t)
	key, err := pure.New().GenerateKey(t.Context(), core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
	if err != nil {
		t.Fatal(err)
	}
	i := atPeer(t, p)
	step, err := i.Begin(t.Context(), core.IssueRequest{
		Action: core.ActionIssue, ClientID: alice.ClientID.Core(), Handle: alice.Handle, Display: alice.DisplayName, Algorithm: core.Ed25519, PublicKey: key.Public(),
	})
	for range 10 {
		if err != nil {
			t.Fatal(err)
		}
		if r := step.Need.Refused; r != nil {
			if r.Final || !strings.Contains(r.Reason, "OIDC challenge") {
				t.Errorf("%+v", r)
			}
			return
		}
		var in core.Input
		if step.Need.Visit != nil {
			in, err = p.Answer(mallory)(t.Context(), step.Need)
		} else if step.Need.Wait == nil {
			in, err = p.Answer(alice)(t.Context(), step.Need)
		}
		if err == nil {
			step, err = i.Advance(t.Context(), step.State, in)
		}
	}
	t.Fatal("no end")
}
