// SPDX-License-Identifier: Apache-2.0

package e2eitest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// A Session leads an enrolment of the engine.
type Session struct {
	Peer       *Peer
	Enrollment *e2ei.Enrollment
	Key        core.Signer
	Verify     e2ei.Verifier // whom the client trusts
	Login      string        // at the identity provider
	// Clock is what the client takes for now, but for the proof; nil: the time.
	Clock func() time.Time

	Nonce  string      // the server's newest
	Issued e2ei.Issued // once the enrolment is over
}

// Enroll begins the enrolment of somebody's key at the peer.
func (p *Peer) Enroll(who Person, key core.Signer, validity time.Duration, verify e2ei.Verifier) (*Session, error) {
	return p.enroll(p.config(who, key, validity), key, verify)
}

func (p *Peer) config(who Person, key core.Signer, validity time.Duration) e2ei.Config {
	return e2ei.Config{
		ClientID: who.ClientID, DisplayName: who.DisplayName, Handle: who.Handle, Team: who.Team, Validity: validity,
		Algorithm: key.Algorithm(), PublicKey: key.Public(), KeyRef: key.Ref(), Directory: p.Directory, AllowHTTP: true,
	}
}

func (p *Peer) enroll(config e2ei.Config, key core.Signer, verify e2ei.Verifier) (*Session, error) {
	e, err := e2ei.New(config)
	if err != nil {
		return nil, err
	}
	return &Session{Peer: p, Enrollment: e, Key: key, Verify: verify, Login: config.Handle}, nil
}

func (s *Session) now() time.Time {
	if s.Clock != nil {
		return s.Clock()
	}
	return time.Now()
}

// Run does all the steps that are left.
func (s *Session) Run(ctx context.Context) error { return s.RunTo(ctx, "") }

// RunTo does the steps before that one.
func (s *Session) RunTo(ctx context.Context, step e2ei.Step) error {
	for s.Enrollment.Next() != step {
		if err := s.Advance(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Post sends one request of the enrolment, once more if the nonce was stale.
func (s *Session) Post(ctx context.Context, make func(nonce string) (e2ei.Request, error)) (body []byte, location string, err error) {
	for retry := false; ; retry = true {
		r, err := make(s.Nonce)
		if err != nil {
			return nil, "", err
		}
		body, header, err := s.Peer.Do(ctx, http.MethodPost, r.URL, r.Body, "Content-Type", "application/jose+json")
		if nonce := header.Get("Replay-Nonce"); nonce != "" {
			s.Nonce = nonce
		}
		var problem *e2ei.Problem
		if errors.As(err, &problem) && problem.BadNonce() && !retry {
			continue
		}
		return body, header.Get("Location"), err
	}
}

// Advance does the next step. With the last one, the certificate is in Issued.
func (s *Session) Advance(ctx context.Context) error {
	e := s.Enrollment
	switch e.Next() {
	case e2ei.StepDirectory:
		body, _, err := s.Peer.Do(ctx, http.MethodGet, e.Config().Directory, nil)
		if err != nil {
			return err
		}
		if err := e.DirectoryResponse(body); err != nil {
			return err
		}
		return s.FirstNonce(ctx)
	case e2ei.StepNewAccount:
		return s.respond(ctx, e.NewAccountRequest, e.NewAccountResponse)
	case e2ei.StepNewOrder:
		return s.respond(ctx, func(nonce string) (e2ei.Request, error) { return e.NewOrderRequest(s.now(), nonce) },
			func(body []byte, location string) error { return e.NewOrderResponse(body, location, s.now()) })
	case e2ei.StepDeviceAuthorization, e2ei.StepUserAuthorization:
		addresses, err := e.Authorizations()
		if err != nil {
			return err
		}
		return s.respond(ctx, func(nonce string) (e2ei.Request, error) { return e.AuthorizationRequest(addresses[0], nonce) },
			func(body []byte, _ string) error { return e.AuthorizationResponse(addresses[0], body, s.now()) })
	case e2ei.StepDPoPChallenge:
		return s.AnswerDPoP(ctx)
	case e2ei.StepOIDCChallenge:
		return s.AnswerOIDC(ctx)
	case e2ei.StepCheckOrder:
		return s.respond(ctx, e.OrderRequest, s.timed(e.CheckOrderResponse))
	case e2ei.StepFinalize:
		message, err := e.CSRMessage()
		if err != nil {
			return err
		}
		signature, err := s.Key.Sign(ctx, message)
		if err != nil {
			return err
		}
		return s.respond(ctx, func(nonce string) (e2ei.Request, error) { return e.FinalizeRequest(signature, nonce) }, s.timed(e.FinalizeResponse))
	case e2ei.StepCertificate:
		return s.respond(ctx, e.CertificateRequest, func(body []byte, _ string) (err error) {
			s.Issued, err = e.CertificateResponse(body, s.now(), s.Verify)
			return err
		})
	}
	return errors.New("nothing is left to do")
}

// FirstNonce asks the server for one.
func (s *Session) FirstNonce(ctx context.Context) error {
	address, err := s.Enrollment.NonceURL()
	if err != nil {
		return err
	}
	_, header, err := s.Peer.Do(ctx, http.MethodHead, address, nil)
	s.Nonce = header.Get("Replay-Nonce")
	return err
}

// AnswerDPoP answers the challenge of the device, in the order of the caller.
func (s *Session) AnswerDPoP(ctx context.Context) error {
	e := s.Enrollment
	c, err := e.DPoPChallenge()
	if err != nil {
		return err
	}
	nonce, err := s.Peer.Nonce(ctx, c.Target)
	if err != nil {
		return err
	}
	proof, err := e.DPoPToken(time.Now(), 5*time.Minute, nonce)
	if err != nil {
		return err
	}
	token, err := s.Peer.AccessToken(ctx, c.Target, proof)
	if err != nil {
		return err
	}
	return s.respond(ctx, func(nonce string) (e2ei.Request, error) { return e.DPoPChallengeRequest(token, nonce) },
		plain(e.DPoPChallengeResponse))
}

// AnswerOIDC answers the challenge of the person: with the refresh token, if there is one.
func (s *Session) AnswerOIDC(ctx context.Context) error {
	e := s.Enrollment
	c, err := e.OIDCChallenge()
	if err != nil {
		return err
	}
	var id, refresh string
	if old := e.Config().RefreshToken; old.IsZero() {
		id, refresh, err = s.Peer.IDToken(ctx, c, s.Login)
	} else {
		id, refresh, err = s.Peer.Refresh(ctx, c, string(old.Bytes()))
	}
	if err != nil {
		return err
	}
	if err := e.SetRefreshToken(core.NewSecret([]byte(refresh))); err != nil {
		return err
	}
	return s.respond(ctx, func(nonce string) (e2ei.Request, error) { return e.OIDCChallengeRequest(id, nonce) },
		plain(e.OIDCChallengeResponse))
}

// respond sends what make gives and hands the reply on.
func (s *Session) respond(ctx context.Context, make func(string) (e2ei.Request, error), take func(body []byte, location string) error) error {
	step := s.Enrollment.Next()
	body, location, err := s.Post(ctx, make)
	if err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	return take(body, location)
}

func plain(take func([]byte) error) func([]byte, string) error {
	return func(body []byte, _ string) error { return take(body) }
}

func (s *Session) timed(take func([]byte, time.Time) error) func([]byte, string) error {
	return func(body []byte, _ string) error { return take(body, s.now()) }
}
