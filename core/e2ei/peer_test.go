// SPDX-License-Identifier: Apache-2.0

package e2ei_test

import (
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/core/e2ei/e2eitest"
	"github.com/conclave-mls/conclave/providers/pure"
)

// An opaqueKey is a key of which nothing is known but that it signs, as one in a token.
type opaqueKey struct{ core.Signer }

func newKey(t *testing.T, algorithm core.KeyAlgorithm) core.Signer {
	t.Helper()
	key, err := pure.New().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{1}, Algorithm: algorithm, Use: core.UseSign})
	if err != nil {
		t.Fatal(err)
	}
	return opaqueKey{key.(core.Signer)}
}

// A whole enrolment at a real server, by a process that ends after each step: what it has is
// a stash.
func TestPeer(t *testing.T) {
	p := e2eitest.Start(t)
	for _, algorithm := range []core.KeyAlgorithm{core.Ed25519, core.ECDSAP256, core.ECDSAP384, core.ECDSAP521} {
		t.Run(string(algorithm), func(t *testing.T) {
			who := p.Person(t)
			const validity = 90 * 24 * time.Hour
			s, err := p.Enroll(who, newKey(t, algorithm), validity, p.Environment(t, time.Now()).VerifyIssued)
			if err != nil {
				t.Fatal(err)
			}
			for {
				if err := s.Advance(t.Context()); err != nil {
					t.Fatal(err)
				}
				if s.Enrollment.Next() == "" {
					break
				}
				stash, err := s.Enrollment.Stash()
				if err != nil {
					t.Fatal(err)
				}
				s.Enrollment.Wipe()
				if s.Enrollment, err = e2ei.Pop(stash.Bytes()); err != nil {
					t.Fatal(err)
				}
			}
			if len(s.Issued.Credential.Certificates) != 2 || s.Issued.Credential.Type != core.CredentialX509 || s.Issued.RefreshToken.IsZero() {
				t.Fatalf("issued %d certificates", len(s.Issued.Credential.Certificates))
			}
			leaf, err := x509.ParseCertificate(s.Issued.Credential.Certificates[0])
			if err != nil {
				t.Fatal(err)
			}
			if leaf.Subject.CommonName != who.DisplayName || leaf.NotAfter.Sub(leaf.NotBefore) != validity {
				t.Errorf("leaf of %v from %v to %v", leaf.Subject, leaf.NotBefore, leaf.NotAfter)
			}
			if _, err := s.Enrollment.CertificateRequest("x"); !errors.Is(err, core.ErrClosed) {
				t.Errorf("after the end: %v", err)
			}
		})
	}
}

// What the real server says of an answer that is not good enough ends the order; a nonce that
// was used does not.
func TestPeerRefuses(t *testing.T) {
	p := e2eitest.Start(t)
	s, err := p.Enroll(p.Person(t), newKey(t, core.Ed25519), time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	e := s.Enrollment
	for e.Next() != e2ei.StepDPoPChallenge {
		used := s.Nonce
		if err := s.Advance(t.Context()); err != nil {
			t.Fatal(err)
		}
		if used != "" {
			s.Nonce = used
		}
	}
	c, err := e.OIDCChallenge()
	if err != nil {
		t.Fatal(err)
	}
	c.KeyAuth += "x"
	id, _, err := p.IDToken(t.Context(), c, s.Login)
	if err != nil {
		t.Fatal(err)
	}
	body, _, err := s.Post(t.Context(), func(nonce string) (e2ei.Request, error) { return e.OIDCChallengeRequest(id, nonce) })
	if err != nil {
		t.Fatal(err)
	}
	err = e.OIDCChallengeResponse(body)
	var problem *e2ei.Problem
	if !errors.Is(err, e2ei.ErrChallenge) || !errors.As(err, &problem) || problem.Type == "" || problem.Detail == "" {
		t.Errorf("an ID token for another key: %v\n%s", err, body)
	}
	if err := s.Advance(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e.Next() != e2ei.StepOIDCChallenge {
		t.Errorf("next is %q", e.Next())
	}
	if _, err := e.OrderRequest(s.Nonce); !errors.Is(err, e2ei.ErrOutOfOrder) {
		t.Error(err)
	}
}

// A certificate is revoked by its own key, whichever that is, and the list says so.
func TestPeerRevokes(t *testing.T) {
	p := e2eitest.Start(t)
	for _, algorithm := range []core.KeyAlgorithm{core.Ed25519, core.ECDSAP256, core.ECDSAP384, core.ECDSAP521} {
		t.Run(string(algorithm), func(t *testing.T) {
			environment, key := p.Environment(t, time.Now()), newKey(t, algorithm)
			s, err := p.Enroll(p.Person(t), key, time.Hour, environment.VerifyIssued)
			if err == nil {
				err = s.Run(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			chain := s.Issued.Credential.Certificates
			if environment, _, err = environment.AddIntermediate(chain[1], time.Now()); err != nil {
				t.Fatal(err)
			}
			if err := p.Revoke(t.Context(), chain[0], key); err != nil {
				t.Fatal(err)
			}
			if environment, _, _, err = environment.AddCRL(p.CRL, p.FetchCRL(t), time.Now()); err != nil {
				t.Fatal(err)
			}
			leaf, err := e2ei.ParseLeaf(chain[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := environment.Verify(leaf, time.Now()); !errors.Is(err, e2ei.ErrRevoked) {
				t.Error(err)
			}
		})
	}
}
