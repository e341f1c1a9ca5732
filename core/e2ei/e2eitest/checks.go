// SPDX-License-Identifier: Apache-2.0

package e2eitest

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// checks has, for each check of the proof of the peer (e2ei-peer/run.sh), the test that is its
// twin, in the order of the proof; some are the twin of several. Where the engine makes the
// request, it is the engine that is tested; a wrong request it does not make is made by hand.
// Enrolment, renewal and revocation by a client with an issuer are in softhsm-test, and what
// others in a conversation see of them in core/client.
var checks = []struct {
	names []string // in the source of the proof, up to what is put in
	twin  func(*check)
}{
	{[]string{"enrol"}, (*check).enrol},
	{[]string{"keyauth thumbprint SHA-384, P-384 account"}, func(c *check) { c.wrongThumbprint(crypto.SHA384) }},
	{[]string{"keyauth thumbprint SHA-512, P-521 account"}, func(c *check) { c.wrongThumbprint(crypto.SHA512) }},
	{[]string{"acme_aud is another URL"}, (*check).otherAudience},
	{[]string{"OIDC challenge before DPoP challenge"}, (*check).personFirst},
	{[]string{"DPoP challenge answered twice"}, (*check).deviceTwice},
	{[]string{"identifiers in the other order"}, (*check).identifiersSwapped},
	{[]string{"CSR carries a CN"}, func(c *check) {
		c.badRequest("badCSR", func(r *x509.CertificateRequest) {
			r.Subject.ExtraNames = append(r.Subject.ExtraNames, attribute(oidCommonName, "Alice"))
		})
	}},
	{[]string{"CSR lacks the display-name attribute"}, func(c *check) {
		c.badRequest("serverInternal", func(r *x509.CertificateRequest) { r.Subject.ExtraNames = r.Subject.ExtraNames[:1] })
	}},
	{[]string{"CSR O is another domain"}, func(c *check) {
		c.badRequest("serverInternal", func(r *x509.CertificateRequest) {
			r.Subject.ExtraNames[0] = attribute(oidOrganization, "other.test")
		})
	}},
	{[]string{"CSR O differs only in case"}, func(c *check) {
		c.goodRequest(func(r *x509.CertificateRequest) {
			r.Subject.ExtraNames[0] = attribute(oidOrganization, strings.ToUpper(c.peer.Domain))
		})
	}},
	{[]string{"CSR has only the client id"}, func(c *check) {
		c.badRequest("badCSR", func(r *x509.CertificateRequest) { r.URIs = r.URIs[:1] })
	}},
	{[]string{"CSR SANs in the other order"}, func(c *check) { c.goodRequest(func(r *x509.CertificateRequest) { slices.Reverse(r.URIs) }) }},
	{[]string{"CSR handle differs from the order"}, func(c *check) {
		c.badRequest("badCSR", func(r *x509.CertificateRequest) {
			r.URIs[1] = &url.URL{Scheme: "wireapp", User: url.User("@mallory"), Host: c.peer.Domain}
		})
	}},
	{[]string{"client id spelled with %21"}, func(c *check) {
		c.otherSpelling(func(uri string) string { return strings.Replace(uri, "!", "%21", 1) })
	}},
	{[]string{"order handle is not the ID token's"}, (*check).otherHandle},
	{[]string{"DPoP proof valid for 2 h"}, (*check).longProof},
	{[]string{"CSR signed by the account key"}, (*check).accountKey},
	{[]string{"account key P-256, MLS key Ed25519"}, (*check).accountOfP256},
	{[]string{"MLS key is an opaque crypto.Signer (P-384)", "MLS key is an opaque crypto.Signer (Ed25519)"}, (*check).opaqueKey},
	{[]string{"certificate for 5 s"}, (*check).fiveSeconds},
	{[]string{"certificate for 100 years"}, (*check).hundredYears},
	{[]string{"notBefore 1 h ahead: issued, not yet valid here"}, (*check).notYetValid},
	{[]string{"notBefore 1 h in the past"}, func(c *check) { c.since(time.Hour) }},
	{[]string{"notBefore 40 d in the past"}, func(c *check) { c.since(40 * 24 * time.Hour) }},
	{[]string{"ID token name differs from the order"}, func(c *check) { c.otherPerson(func(p *Person) { p.DisplayName = "Mallory" }) }},
	{[]string{"ID token handle differs from the order"}, func(c *check) { c.otherPerson(func(p *Person) { p.Handle = "mallory" }) }},
	{[]string{"upper-case device id in the client id"}, func(c *check) {
		c.otherSpelling(func(uri string) string {
			head, tail, _ := strings.Cut(uri, "!")
			device, domain, _ := strings.Cut(tail, "@")
			return head + "!" + strings.ToUpper(device) + "@" + domain
		})
	}},
	{[]string{"new account"}, (*check).newAccount},
	{[]string{"same key again: same account"}, (*check).accountAgain},
	{[]string{"stale nonce", "retry with the nonce of the error reply"}, (*check).staleNonce},
	{[]string{"second order opened on the account first"}, (*check).secondOrder},
	{[]string{"first enrolment of a user", "re-enrolment through the refresh token"}, (*check).again},
	{[]string{"CRL before revocation"}, (*check).listBefore},
	{[]string{"revoke with the account key"}, (*check).revokeByAccount},
	{[]string{"revoke the same certificate again"}, (*check).revokeTwice},
	{[]string{"another enrolment", "revoke with the certificate key (jwk)", "CRL lists the revoked serial, signed by issuer"}, (*check).revokeByKey},
	{[]string{"federation endpoint"}, (*check).federation},
}

// Checks runs what the proof of the peer checks, with MLS keys as newKey makes them, for each
// scheme that a certificate can have; with -short for one. A check that calls newKey twice needs
// two keys; those of another check may come again.
func Checks(t *testing.T, newKey func(t testing.TB, algorithm core.KeyAlgorithm) core.Signer) {
	for _, algorithm := range []core.KeyAlgorithm{core.Ed25519, core.ECDSAP256, core.ECDSAP384, core.ECDSAP521} {
		if testing.Short() && algorithm != core.ECDSAP256 {
			continue
		}
		t.Run(string(algorithm), func(t *testing.T) {
			for _, c := range checks {
				t.Run(c.names[0], func(t *testing.T) {
					c.twin(&check{t, Start(t), func() core.Signer { return newKey(t, algorithm) }})
				})
			}
		})
	}
}

type check struct {
	*testing.T
	peer   *Peer
	newKey func() core.Signer
}

func (c *check) ctx() context.Context { return c.T.Context() }

func (c *check) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// refused asks for a problem of the server, of one of these types.
func (c *check) refused(err error, status int, types ...string) {
	c.Helper()
	var p *e2ei.Problem
	if !errors.As(err, &p) || p.Status != status || !slices.Contains(types, strings.TrimPrefix(p.Type, "urn:ietf:params:acme:error:")) {
		c.Errorf("got %v, want HTTP status %d and %q", err, status, types)
	}
}

// enrolling is an enrolment of somebody new, for an hour, before its first step.
func (c *check) enrolling(change ...func(*e2ei.Config)) *Session {
	c.Helper()
	key := c.newKey()
	config := c.peer.config(c.peer.Person(c), key, time.Hour)
	for _, f := range change {
		f(&config)
	}
	s, err := c.peer.enroll(config, key, c.peer.Environment(c, time.Now()).VerifyIssued)
	c.must(err)
	return s
}

// issued judges what a session came to, as whoever meets the client in a group does.
func (c *check) issued(s *Session) *e2ei.Leaf {
	c.Helper()
	config := s.Enrollment.Config()
	return c.judge(s.Issued.Credential.Certificates, s.Key, Person{config.ClientID, config.Handle, config.DisplayName, config.Team})
}

func (c *check) judge(chain [][]byte, key core.Signer, who Person) *e2ei.Leaf {
	c.Helper()
	if len(chain) != 2 {
		c.Fatalf("a chain of %d", len(chain))
	}
	leaf, err := e2ei.ParseLeaf(chain[0])
	c.must(err)
	if string(leaf.Public()) != string(key.Public()) {
		c.Error("the certificate is of another key")
	}
	id, err := leaf.Identity()
	c.must(err)
	if id.ClientID != who.ClientID || id.Handle.Name() != who.Handle || id.DisplayName != who.DisplayName || !strings.EqualFold(id.Domain, c.peer.Domain) {
		c.Errorf("the certificate is of %+v", id)
	}
	if err := c.environment(chain).Verify(leaf, time.Now()); err != nil {
		c.Error(err)
	}
	return leaf
}

// environment has the list as it is now, and the intermediate of a chain.
func (c *check) environment(chain [][]byte) *e2ei.Environment {
	c.Helper()
	now := time.Now()
	e, _, err := c.peer.Environment(c, now).AddIntermediate(chain[1], now)
	c.must(err)
	e, _, _, err = e.AddCRL(c.peer.CRL, c.peer.FetchCRL(c), now)
	c.must(err)
	return e
}

// enrol goes on from a stash after each step, as a process that ended does.
func (c *check) enrol() {
	s := c.enrolling(func(config *e2ei.Config) { config.Validity = 90 * 24 * time.Hour })
	for {
		c.must(s.Advance(c.ctx()))
		if s.Enrollment.Next() == "" {
			break
		}
		stash, err := s.Enrollment.Stash()
		c.must(err)
		s.Enrollment.Wipe()
		s.Enrollment, err = e2ei.Pop(stash.Bytes())
		c.must(err)
	}
	leaf := c.issued(s)
	if id, _ := leaf.Identity(); id.NotAfter.Sub(id.NotBefore) != 90*24*time.Hour {
		c.Errorf("valid from %v to %v", id.NotBefore, id.NotAfter)
	}
	if s.Issued.Credential.Type != core.CredentialX509 || s.Issued.RefreshToken.IsZero() {
		c.Error("no X.509 credential, or no refresh token")
	}
	if _, err := s.Enrollment.CertificateRequest("x"); !errors.Is(err, core.ErrClosed) {
		c.Errorf("after the end: %v", err)
	}
}

// The hash of the thumbprint is SHA-256, whichever the account key is.
func (c *check) wrongThumbprint(hash crypto.Hash) {
	o, err := c.peer.order(c.ctx(), c.newKey(), want(c.peer.Person(c)))
	c.must(err)
	c.must(o.answerDPoP(c.ctx(), 5*time.Minute))
	if err := o.answerOIDC(c.ctx(), hash); !errors.Is(err, errRefused) {
		c.Error(err)
	}
	if status, err := o.status(c.ctx()); err != nil || status != "pending" {
		c.Errorf("order %q, %v", status, err)
	}
}

// A challenge that was answered wrongly is lost: the right answer does not help.
func (c *check) otherAudience() {
	s := c.enrolling()
	c.must(s.RunTo(c.ctx(), e2ei.StepOIDCChallenge))
	challenge, err := s.Enrollment.OIDCChallenge()
	c.must(err)
	challenge.URL += "/elsewhere"
	id, _, err := c.peer.IDToken(c.ctx(), challenge, s.Login)
	c.must(err)
	body, _, err := s.Post(c.ctx(), func(nonce string) (e2ei.Request, error) { return s.Enrollment.OIDCChallengeRequest(id, nonce) })
	c.must(err)
	c.lost(s, s.Enrollment.OIDCChallengeResponse(body))
	c.lost(s, s.AnswerOIDC(c.ctx()))
}

// lost asks for a refused ID token, after which the enrolment stays where it is.
func (c *check) lost(s *Session, err error) {
	c.Helper()
	var p *e2ei.Problem
	var step *e2ei.StepError
	if !errors.Is(err, e2ei.ErrChallenge) || !errors.As(err, &p) || p.Type == "" || p.Detail == "" || !errors.As(err, &step) {
		c.Errorf("got %v, want a refused challenge", err)
	}
	if s.Enrollment.Next() != e2ei.StepOIDCChallenge {
		c.Errorf("next is %s", s.Enrollment.Next())
	}
	if _, err := s.Enrollment.OrderRequest(s.Nonce); !errors.Is(err, e2ei.ErrOutOfOrder) {
		c.Error(err)
	}
}

func (c *check) personFirst() {
	s := c.enrolling()
	c.must(s.RunTo(c.ctx(), e2ei.StepDPoPChallenge))
	c.must(s.AnswerOIDC(c.ctx()))
	c.must(s.Run(c.ctx()))
	c.issued(s)
}

func (c *check) deviceTwice() {
	s := c.enrolling()
	c.must(s.RunTo(c.ctx(), e2ei.StepDPoPChallenge))
	c.must(s.AnswerDPoP(c.ctx()))
	c.must(s.AnswerDPoP(c.ctx()))
	c.must(s.Run(c.ctx()))
	c.issued(s)
}

func (c *check) identifiersSwapped() {
	w := want(c.peer.Person(c))
	w.swapped = true
	c.byHand(w, c.newKey(), c.newKey(), func(*x509.CertificateRequest) {})
}

// byHand enrols a key with the account of another.
func (c *check) byHand(w wanted, account, key core.Signer, change func(*x509.CertificateRequest)) (o *order, leaf []byte) {
	c.Helper()
	o, err := c.peer.order(c.ctx(), account, w)
	c.must(err)
	chain, err := o.issue(c.ctx(), key, change)
	c.must(err)
	c.judge(chain, key, w.who)
	return o, chain[0]
}

func (c *check) goodRequest(change func(*x509.CertificateRequest)) {
	c.byHand(want(c.peer.Person(c)), c.newKey(), c.newKey(), change)
}

func (c *check) badRequest(problem string, change func(*x509.CertificateRequest)) {
	o, err := c.peer.order(c.ctx(), c.newKey(), want(c.peer.Person(c)))
	c.must(err)
	_, err = o.issue(c.ctx(), c.newKey(), change)
	c.refused(err, map[string]int{"badCSR": http.StatusBadRequest, "serverInternal": http.StatusInternalServerError}[problem], problem)
}

// The backend wants one spelling of the client id, that of the engine.
func (c *check) otherSpelling(spell func(uri string) string) {
	w := want(c.peer.Person(c))
	uri := w.clientID
	if w.clientID = spell(uri); w.clientID == uri {
		c.Fatal("that is the same spelling")
	}
	o, err := c.peer.order(c.ctx(), c.newKey(), w)
	c.must(err)
	c.refused(o.answerDPoP(c.ctx(), 5*time.Minute), http.StatusForbidden, "")
}

// The backend does not vouch for a handle of somebody else. If it does, the identity provider
// does not.
func (c *check) otherHandle() {
	s := c.enrolling(func(config *e2ei.Config) { config.Handle = "mallory_" + config.Handle })
	s.Login = strings.TrimPrefix(s.Login, "mallory_")
	c.must(s.RunTo(c.ctx(), e2ei.StepDPoPChallenge))
	c.refused(s.AnswerDPoP(c.ctx()), http.StatusForbidden, "")

	config := s.Enrollment.Config()
	c.must(c.peer.Register(c.ctx(), Person{config.ClientID, config.Handle, config.DisplayName, config.Team}))
	c.must(s.AnswerDPoP(c.ctx()))
	c.lost(s, s.AnswerOIDC(c.ctx()))
}

// The engine makes no such proof; the server does not take it.
func (c *check) longProof() {
	s := c.enrolling()
	c.must(s.RunTo(c.ctx(), e2ei.StepDPoPChallenge))
	if _, err := s.Enrollment.DPoPToken(time.Now(), 2*time.Hour, "nonce"); !errors.Is(err, core.ErrInvalid) {
		c.Error(err)
	}
	o, err := c.peer.order(c.ctx(), c.newKey(), want(c.peer.Person(c)))
	c.must(err)
	if err := o.answerDPoP(c.ctx(), 2*time.Hour); !errors.Is(err, errRefused) {
		c.Error(err)
	}
}

func (c *check) accountKey() {
	key := c.newKey()
	c.byHand(want(c.peer.Person(c)), key, key, func(*x509.CertificateRequest) {})
}

// The account of the engine has a key of P-256, whichever the MLS key is.
func (c *check) accountOfP256() {
	s := c.enrolling()
	c.must(s.RunTo(c.ctx(), e2ei.StepDPoPChallenge))
	proof, err := s.Enrollment.DPoPToken(time.Now(), time.Minute, "nonce")
	c.must(err)
	if head, _, _ := strings.Cut(proof, "."); !strings.Contains(decode(head), `"alg":"ES256"`) {
		c.Errorf("proof of %s", decode(head))
	}
	c.must(s.Run(c.ctx()))
	c.issued(s)
}

// An opaque key can do nothing but sign.
type opaque struct{ core.Signer }

func (c *check) opaqueKey() {
	s := c.enrolling()
	s.Key = opaque{s.Key}
	c.must(s.Run(c.ctx()))
	c.issued(s)
}

// The identity provider knows who logs in otherwise than the order.
func (c *check) otherPerson(change func(*Person)) {
	s := c.enrolling()
	c.must(s.RunTo(c.ctx(), e2ei.StepOIDCChallenge))
	config := s.Enrollment.Config()
	who := Person{config.ClientID, config.Handle, config.DisplayName, config.Team}
	change(&who)
	c.must(c.peer.Register(c.ctx(), who))
	s.Login = who.Handle
	c.lost(s, s.AnswerOIDC(c.ctx()))
}

func (c *check) newAccount() {
	s := c.enrolling()
	c.must(s.RunTo(c.ctx(), e2ei.StepNewOrder))
}

// Whoever was interrupted before the reply asks for the account a second time.
func (c *check) accountAgain() {
	s := c.enrolling()
	c.must(s.RunTo(c.ctx(), e2ei.StepNewAccount))
	before, err := s.Enrollment.Stash()
	c.must(err)
	_, first, err := s.Post(c.ctx(), s.Enrollment.NewAccountRequest)
	c.must(err)
	s.Enrollment, err = e2ei.Pop(before.Bytes())
	c.must(err)
	body, second, err := s.Post(c.ctx(), s.Enrollment.NewAccountRequest)
	c.must(err)
	if first == "" || first != second {
		c.Errorf("accounts %s and %s", first, second)
	}
	c.must(s.Enrollment.NewAccountResponse(body, second))
	c.must(s.Run(c.ctx()))
	c.issued(s)
}

func (c *check) staleNonce() {
	s := c.enrolling()
	c.must(s.RunTo(c.ctx(), e2ei.StepNewAccount))
	stale := s.Nonce
	c.must(s.Advance(c.ctx()))
	r, err := s.Enrollment.NewOrderRequest(time.Now(), stale)
	c.must(err)
	_, header, err := c.peer.Do(c.ctx(), http.MethodPost, r.URL, r.Body, "Content-Type", "application/jose+json")
	c.refused(err, http.StatusBadRequest, "badNonce")
	var p *e2ei.Problem
	if !errors.As(err, &p) || !p.BadNonce() || !errors.Is(err, core.ErrUnavailable) {
		c.Error(err)
	}
	if s.Nonce = header.Get("Replay-Nonce"); s.Nonce == "" || s.Nonce == stale {
		c.Errorf("nonce %q", s.Nonce)
	}
	r, err = s.Enrollment.NewOrderRequest(time.Now(), s.Nonce)
	c.must(err)
	body, header, err := c.peer.Do(c.ctx(), http.MethodPost, r.URL, r.Body, "Content-Type", "application/jose+json")
	c.must(err)
	s.Nonce = header.Get("Replay-Nonce")
	c.must(s.Enrollment.NewOrderResponse(body, header.Get("Location"), time.Now()))
	c.must(s.Run(c.ctx()))
	c.issued(s)
}

// The server keeps the tokens with the newest order of an account. The engine makes an account
// for each order; only one stash that is used twice comes to this.
func (c *check) secondOrder() {
	s := c.enrolling()
	c.must(s.RunTo(c.ctx(), e2ei.StepNewOrder))
	stash, err := s.Enrollment.Stash()
	c.must(err)
	c.must(s.Advance(c.ctx()))
	other, err := e2ei.Pop(stash.Bytes())
	c.must(err)
	second := *s
	second.Enrollment = other
	c.must(second.Advance(c.ctx()))
	s.Nonce = second.Nonce
	c.must(s.RunTo(c.ctx(), e2ei.StepFinalize))
	c.refused(s.Advance(c.ctx()), http.StatusBadRequest, "malformed")
}

// A second enrolment needs nobody who logs in, and uses its refresh token up.
func (c *check) again() {
	s := c.enrolling()
	c.must(s.Run(c.ctx()))
	c.issued(s)
	config := s.Enrollment.Config()
	config.RefreshToken = s.Issued.RefreshToken
	for _, want := range []error{nil, core.ErrDenied} {
		again, err := c.peer.enroll(config, s.Key, s.Verify)
		c.must(err)
		again.Login = "nobody"
		err = again.Run(c.ctx())
		if !errors.Is(err, want) {
			c.Fatalf("got %v, want %v", err, want)
		}
		if want == nil {
			c.issued(again)
			if string(again.Issued.RefreshToken.Bytes()) == string(s.Issued.RefreshToken.Bytes()) {
				c.Error("the refresh token is the same")
			}
		}
	}
}

// decode reads base64url, or gives nothing.
func decode(s string) string {
	text, _ := base64.RawURLEncoding.DecodeString(s)
	return string(text)
}
