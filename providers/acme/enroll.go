// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

const (
	// maxRounds is how many steps one call does at most: two orders have twenty.
	maxRounds = 24
	// maxTries is how often an enrolment waits for a server, with growing pauses of up to
	// maxPause unless a server asks for more.
	maxTries = 60
	maxPause = time.Minute
	// maxProofs is how often a backend is asked again that gave no access token.
	maxProofs = 2
	// anyNonce is for requests that are made to see whether they can be, and not sent.
	anyNonce = "AAAA"
)

var (
	errPatience  = errors.New("the server was waited for long enough")
	errWrongKind = fmt.Errorf("the answer does not fit what is needed: %w", core.ErrInvalid)
)

// advance takes the answer to what the state needs.
func (i *Issuer) advance(ctx context.Context, s *state, in core.Input) (core.Step, error) {
	given, fits := 0, s.need == needWait
	for _, kind := range []struct{ given, fits bool }{
		{len(in.Signature) > 0, s.need == needSign},
		{in.RedirectQuery != "", s.need == needVisit},
		{len(in.Result) > 0, s.need == needNonce || s.need == needAccess},
		{len(in.File) > 0, false},
		{in.Error != "", true},
	} {
		if kind.given {
			given, fits = given+1, kind.fits
		}
	}
	switch {
	case given > 1 || !fits:
		return core.Step{}, errWrongKind
	case in.Error != "" && s.need == needAccess && s.proofs < maxProofs:
		// The backend takes a nonce once, and somebody may have been interrupted after that.
		s.proofs++
		return i.run(ctx, s)
	case in.Error != "":
		return s.refused(in.Error), nil
	}
	e := s.enrollment
	switch s.need {
	case needNonce:
		c, err := e.DPoPChallenge()
		if err != nil {
			return core.Step{}, err
		}
		proof, err := e.DPoPToken(i.cfg.Clock(), i.cfg.ProofValidity, string(in.Result))
		if err != nil {
			return core.Step{}, err
		}
		return i.keep(s, core.Need{Call: &core.CallNeed{
			Kind: "wire.access-token", Args: map[string]string{"device": e.Config().ClientID.DeviceID(), "target": c.Target, "proof": proof},
		}})
	case needAccess:
		s.token = string(in.Result)
		if _, err := e.DPoPChallengeRequest(s.token, anyNonce); err != nil {
			return core.Step{}, err
		}
	case needVisit:
		code, err := s.login.code(in.RedirectQuery)
		if err != nil {
			return core.Step{}, &e2ei.StepError{Step: e2ei.StepOIDCChallenge, Err: err}
		}
		if err := i.redeem(ctx, &session{Issuer: i}, s, code); err != nil {
			return core.Step{}, &e2ei.StepError{Step: e2ei.StepOIDCChallenge, Err: err}
		}
		return i.keep(s, core.Need{Wait: &core.WaitNeed{}})
	case needSign:
		s.signature = slices.Clone(in.Signature)
		if err := s.checkSignature(); err != nil {
			return core.Step{}, err
		}
	}
	i.grants.forget(s.grant)
	s.grant = nil
	return i.run(ctx, s)
}

// checkSignature: one that is kept can be sent.
func (s *state) checkSignature() error {
	if s.revoke != nil {
		return s.checkRevocation()
	}
	_, err := s.enrollment.FinalizeRequest(s.signature, anyNonce)
	return err
}

// run goes on until something is needed.
func (i *Issuer) run(ctx context.Context, s *state) (core.Step, error) {
	x := &session{Issuer: i}
	for range maxRounds {
		need, err := i.next(ctx, x, s)
		switch {
		case err != nil && (errors.Is(err, e2ei.ErrProcessing) || errors.Is(err, e2ei.ErrPending) || x.wait > 0 && errors.Is(err, core.ErrUnavailable)):
			if s.tries++; s.tries > maxTries {
				return core.Step{}, fmt.Errorf("%w: %w", errPatience, err)
			}
			pause := min(time.Second<<min(s.tries-1, 6), maxPause)
			return i.keep(s, core.Need{Wait: &core.WaitNeed{After: max(pause, x.wait)}})
		case err != nil && expired(err) && !s.renewed && s.canRefresh():
			// Another order needs no login.
			if err := s.again(); err != nil {
				return core.Step{}, err
			}
		case err != nil:
			return core.Step{}, err
		case need.Done != nil:
			return core.Step{Need: need}, nil
		case need != core.Need{}:
			return i.keep(s, need)
		}
	}
	return core.Step{}, fmt.Errorf("%w: %d steps without an end", e2ei.ErrMalformed, maxRounds)
}

// expired: the order is of no use, but another may be.
func expired(err error) bool {
	return errors.Is(err, e2ei.ErrOrderExpired) || errors.Is(err, e2ei.ErrOrder) || errors.Is(err, e2ei.ErrAuthorization)
}

// over: the enrolment cannot come to its end.
func over(err error) bool {
	if expired(err) || errors.Is(err, e2ei.ErrChallenge) || errors.Is(err, e2ei.ErrAccount) || errors.Is(err, errPatience) {
		return true
	}
	// What a server says to a request that it understood, and no proxy before it.
	var p *e2ei.Problem
	return errors.As(err, &p) && strings.HasPrefix(p.Type, "urn:ietf:params:acme:error:") && p.Status >= 400 && p.Status < 500 &&
		!errors.Is(p, core.ErrUnavailable)
}

// keep is the step that asks for something.
func (i *Issuer) keep(s *state, need core.Need) (core.Step, error) {
	switch {
	case need.Sign != nil:
		s.need = needSign
	case need.Visit != nil:
		s.need = needVisit
	case need.Wait != nil:
		s.need = needWait
	case need.Call.Kind == "wire.nonce":
		s.need = needNonce
	default:
		s.need = needAccess
	}
	state, err := s.encode()
	if err != nil {
		return core.Step{}, err
	}
	return core.Step{State: state, Need: need}, nil
}

// next does one step. Without an error and a need, the enrolment has gone on.
func (i *Issuer) next(ctx context.Context, x *session, s *state) (core.Need, error) {
	e := s.enrollment
	step, now := e.Next(), i.cfg.Clock
	if step == e2ei.StepDirectory {
		return core.Need{}, x.directory(ctx, e)
	}
	if s.revoke != nil {
		return x.revoke(ctx, s)
	}
	ask := func(make func(string) (e2ei.Request, error), take func(reply) error) error {
		r, err := x.post(ctx, e, step, make)
		if err != nil {
			return err
		}
		return take(r)
	}
	switch step {
	case e2ei.StepNewAccount:
		return core.Need{}, ask(e.NewAccountRequest, func(r reply) error {
			return e.NewAccountResponse(r.body, r.header.Get("Location"))
		})
	case e2ei.StepNewOrder:
		return core.Need{}, ask(
			func(nonce string) (e2ei.Request, error) { return e.NewOrderRequest(now(), nonce) },
			func(r reply) error { return e.NewOrderResponse(r.body, r.header.Get("Location"), now()) })
	case e2ei.StepDeviceAuthorization, e2ei.StepUserAuthorization:
		addresses, err := e.Authorizations()
		if err != nil {
			return core.Need{}, err
		}
		if len(addresses) == 0 {
			return core.Need{}, &e2ei.StepError{Step: step, Err: e2ei.ErrMalformed}
		}
		return core.Need{}, ask(
			func(nonce string) (e2ei.Request, error) { return e.AuthorizationRequest(addresses[0], nonce) },
			func(r reply) error { return e.AuthorizationResponse(addresses[0], r.body, now()) })
	case e2ei.StepDPoPChallenge:
		if s.token == "" {
			c, err := e.DPoPChallenge()
			return core.Need{Call: &core.CallNeed{
				Kind: "wire.nonce", Args: map[string]string{"device": e.Config().ClientID.DeviceID(), "target": c.Target},
			}}, err
		}
		err := ask(
			func(nonce string) (e2ei.Request, error) { return e.DPoPChallengeRequest(s.token, nonce) },
			func(r reply) error { return e.DPoPChallengeResponse(r.body) })
		if err == nil {
			s.token = ""
		}
		return core.Need{}, err
	case e2ei.StepOIDCChallenge:
		if s.token == "" || x.outdated(s) {
			need, err := x.logIn(ctx, s)
			if err != nil {
				err = &e2ei.StepError{Step: step, Err: err}
			}
			return need, err
		}
		err := ask(
			func(nonce string) (e2ei.Request, error) { return e.OIDCChallengeRequest(s.token, nonce) },
			func(r reply) error { return e.OIDCChallengeResponse(r.body) })
		if err == nil {
			s.token = ""
		}
		return core.Need{}, err
	case e2ei.StepCheckOrder:
		return core.Need{}, ask(e.OrderRequest, func(r reply) error {
			err := e.CheckOrderResponse(r.body, now())
			if errors.Is(err, e2ei.ErrFinalized) { // by who was interrupted then
				err = e.FinalizeResponse(r.body, now())
			}
			return err
		})
	case e2ei.StepFinalize:
		return x.finalize(ctx, s)
	case e2ei.StepCertificate:
		return x.certificate(ctx, s)
	}
	return core.Need{}, &e2ei.StepError{Step: step, Err: core.ErrClosed}
}

// finalize asks for a signature, sends the request that has it, and then asks how the order is.
func (x *session) finalize(ctx context.Context, s *state) (core.Need, error) {
	const step = e2ei.StepFinalize
	e := s.enrollment
	if s.signature == nil {
		message, err := e.CSRMessage()
		return core.Need{Sign: &core.SignNeed{Message: message}}, err
	}
	take := func(r reply) error { return e.FinalizeResponse(r.body, x.cfg.Clock()) }
	if s.sent {
		r, err := x.post(ctx, e, step, e.OrderRequest)
		if err == nil {
			err = take(r)
		}
		return core.Need{}, err
	}
	r, err := x.post(ctx, e, step, func(nonce string) (e2ei.Request, error) { return e.FinalizeRequest(s.signature, nonce) })
	if err == nil {
		s.sent = true
		return core.Need{}, take(r)
	}
	var problem *e2ei.Problem
	if !errors.As(err, &problem) || errors.Is(problem, core.ErrUnavailable) {
		return core.Need{}, err
	}
	// A call that was interrupted may have finalized the order.
	r, failed := x.post(ctx, e, step, e.OrderRequest)
	if failed == nil {
		failed = take(r)
	}
	if failed == nil || errors.Is(failed, e2ei.ErrProcessing) || expired(failed) {
		s.sent = true
		return core.Need{}, failed
	}
	return core.Need{}, err
}

// certified is a Verifier.
func certified(leaf *x509.Certificate, intermediates []*x509.Certificate, _ time.Time) error {
	if len(intermediates) > 0 && leaf.CheckSignatureFrom(intermediates[0]) != nil {
		return &e2ei.FieldError{Field: "issuer", Err: e2ei.ErrMismatch}
	}
	return nil
}

// certificate fetches the chain. Whether it leads to an anchor is for the client; see [certified].
func (x *session) certificate(ctx context.Context, s *state) (core.Need, error) {
	e := s.enrollment
	r, err := x.post(ctx, e, e2ei.StepCertificate, e.CertificateRequest)
	if err != nil {
		return core.Need{}, err
	}
	issued, err := e.CertificateResponse(r.body, x.cfg.Clock(), certified)
	if err != nil {
		return core.Need{}, err
	}
	defer issued.RefreshToken.Wipe()
	return core.Need{Done: &core.Issued{Credential: issued.Credential, Carry: s.carry(issued.RefreshToken)}}, nil
}
