// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/conclave-mls/conclave/core"
)

// The outcomes of an enrolment that an application branches on. Each also matches the core
// sentinel that says what to do next.
var (
	// ErrRefreshToken: an empty refresh token, or one that cannot be.
	ErrRefreshToken = fmt.Errorf("e2ei: invalid refresh token: %w", core.ErrInvalid)
	// ErrOutOfOrder: a step that another must come before. See [OutOfOrderError].
	ErrOutOfOrder = fmt.Errorf("e2ei: out of order: %w", core.ErrInvalid)
	// ErrMalformed: a reply, or a stored enrolment, is not what it has to be.
	ErrMalformed = fmt.Errorf("e2ei: malformed: %w", core.ErrInvalid)
	// ErrForeignURL: a server names an address that this enrolment must not use.
	ErrForeignURL = fmt.Errorf("e2ei: address refused: %w", core.ErrDenied)

	// ErrAccount: the account was deactivated or revoked.
	ErrAccount = fmt.Errorf("e2ei: account refused: %w", core.ErrDenied)
	// ErrOrder: the order failed. Start a new enrolment.
	ErrOrder = fmt.Errorf("e2ei: order refused: %w", core.ErrDenied)
	// ErrIdentifiers: the order is not for the names that were asked for.
	ErrIdentifiers = fmt.Errorf("e2ei: order has wrong identifiers: %w", core.ErrInvalid)
	// ErrOrderExpired: an order or an authorization is too old. Start a new enrolment.
	ErrOrderExpired = fmt.Errorf("e2ei: expired: %w", core.ErrDenied)
	// ErrOrderEarly: an order begins in the future.
	ErrOrderEarly = fmt.Errorf("e2ei: not yet valid: %w", core.ErrUnavailable)
	// ErrFinalized: the order was finalized before this step: ask for it with
	// [Enrollment.OrderRequest] and hand it to [Enrollment.FinalizeResponse].
	ErrFinalized = fmt.Errorf("e2ei: order is finalized already: %w", core.ErrConflict)
	// ErrAuthorization: the authorization is invalid, deactivated or revoked.
	ErrAuthorization = fmt.Errorf("e2ei: authorization refused: %w", core.ErrDenied)
	// ErrToken: the token of a challenge is not base64url.
	ErrToken = fmt.Errorf("e2ei: bad challenge token: %w", core.ErrInvalid)
	// ErrTokenEntropy: the token of a challenge is too short to be random.
	ErrTokenEntropy = fmt.Errorf("e2ei: challenge token of low entropy: %w", core.ErrInvalid)
	// ErrChallengeType: an authorization has another challenge than its identifier asks for.
	ErrChallengeType = fmt.Errorf("e2ei: wrong challenge type: %w", core.ErrInvalid)
	// ErrChallenge: the answer to a challenge was refused, which ends the order; the error
	// also is the server's [Problem], if it gave one. Start a new enrolment.
	ErrChallenge = fmt.Errorf("e2ei: challenge failed: %w", core.ErrDenied)
	// ErrProcessing: the server is at work. Ask again later.
	ErrProcessing = fmt.Errorf("e2ei: processing: %w", core.ErrUnavailable)
	// ErrPending: the server still waits for a step of ours.
	ErrPending = fmt.Errorf("e2ei: pending: %w", core.ErrConflict)

	// ErrMismatch: the certificate is not for what was asked, or says it twice. See [FieldError].
	ErrMismatch = fmt.Errorf("e2ei: certificate has another value, or several: %w", core.ErrInvalid)
	// ErrMissing: the certificate lacks what it has to say. See [FieldError].
	ErrMissing = fmt.Errorf("e2ei: certificate has no value: %w", core.ErrInvalid)
	// ErrNoVerifier: certificates cannot be judged, as there is no PKI environment.
	ErrNoVerifier = fmt.Errorf("e2ei: no PKI environment: %w", core.ErrDenied)
)

// A Step is a stage of an enrolment.
type Step string

// The steps, in the order in which [Enrollment.Next] gives them. The two authorizations may
// come in any order, and so may the two challenges.
const (
	StepDirectory           Step = "directory"
	StepNewAccount          Step = "new account"
	StepNewOrder            Step = "new order"
	StepDeviceAuthorization Step = "device authorization"
	StepUserAuthorization   Step = "user authorization"
	StepDPoPChallenge       Step = "DPoP challenge"
	StepOIDCChallenge       Step = "OIDC challenge"
	StepCheckOrder          Step = "check order"
	StepFinalize            Step = "finalize"
	StepCertificate         Step = "certificate"
)

// A StepError says at which step something went wrong, which often is the only clue: an ACME
// server hides causes on purpose.
type StepError struct {
	Step Step
	Err  error
}

func (e *StepError) Error() string { return "enrolment: " + string(e.Step) + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *StepError) Unwrap() error { return e.Err }

// An OutOfOrderError says which step has to come before. It matches [ErrOutOfOrder].
type OutOfOrderError struct {
	Step    Step // what was asked for
	Missing Step // what has to be done first; "" if Step is done and cannot be repeated
}

func (e *OutOfOrderError) Error() string {
	if e.Missing == "" {
		return fmt.Sprintf("%v: %s was done already", ErrOutOfOrder, e.Step)
	}
	return fmt.Sprintf("%v: %s needs %s first", ErrOutOfOrder, e.Step, e.Missing)
}

// Unwrap gives the sentinel.
func (e *OutOfOrderError) Unwrap() error { return ErrOutOfOrder }

// A StatusError says that an object of the server is in a state in which the enrolment
// cannot go on. It matches what that state means, such as [ErrOrder].
type StatusError struct {
	Object string // "account", "order", "authorization" or "challenge"
	Status string // as the server writes it, cut to 80 bytes
	Err    error
}

func (e *StatusError) Error() string { return fmt.Sprintf("%v (%s is %q)", e.Err, e.Object, e.Status) }

// Unwrap gives what the status means.
func (e *StatusError) Unwrap() error { return e.Err }

// A FieldError names what a certificate lacks ([ErrMissing]) or has otherwise than asked
// ([ErrMismatch]).
type FieldError struct {
	Field string // "client id", "handle", "display name", "domain" or "subject key identifier"
	Err   error
}

func (e *FieldError) Error() string { return e.Err.Error() + ": " + e.Field }

// Unwrap gives [ErrMissing] or [ErrMismatch].
func (e *FieldError) Unwrap() error { return e.Err }

// A Problem is what an ACME server says of a failure (RFC 7807, RFC 8555 section 6.7). It
// matches core.ErrUnavailable where another try may help, else core.ErrDenied.
type Problem struct {
	Type        string // a URN, most often urn:ietf:params:acme:error:...
	Detail      string
	Status      int // of HTTP
	Subproblems []Problem
}

// The limits of a problem document: what is longer is cut.
const (
	maxProblemText = 1024 // bytes, of each text
	maxSubproblems = 16
)

// ParseProblem reads the body of a reply with an HTTP status of failure. It never fails: what
// is no problem document gives one with the status alone.
func ParseProblem(status int, body []byte) *Problem {
	var p problem
	if len(body) <= MaxReply {
		_ = json.Unmarshal(body, &p) // what was read is kept
	}
	out := p.problem(status)
	for _, sub := range p.Subproblems[:min(len(p.Subproblems), maxSubproblems)] {
		out.Subproblems = append(out.Subproblems, sub.problem(0))
	}
	return &out
}

// problem is the JSON; subproblems have none of their own.
type problem struct {
	plainProblem
	Subproblems []plainProblem
}

type plainProblem struct{ Type, Detail string }

func (p plainProblem) problem(status int) Problem {
	return Problem{Type: cut(p.Type, maxProblemText), Detail: cut(p.Detail, maxProblemText), Status: status}
}

// cut shortens what a server wrote for a person or a log.
func cut(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "\uFFFD") }

func (p *Problem) Error() string {
	text := "ACME problem"
	if p.Status != 0 {
		text += fmt.Sprintf(", HTTP status %d", p.Status)
	}
	if p.Type != "" {
		text += fmt.Sprintf(", %q", p.Type)
	}
	if p.Detail != "" {
		text += fmt.Sprintf(": %q", p.Detail)
	}
	for _, sub := range p.Subproblems {
		text += fmt.Sprintf("; %q: %q", sub.Type, sub.Detail)
	}
	return text
}

// BadNonce says that the same request may be made again with the nonce of this reply.
func (p *Problem) BadNonce() bool { return p.Type == "urn:ietf:params:acme:error:badNonce" }

// Unwrap gives the core sentinel.
func (p *Problem) Unwrap() error {
	if p.BadNonce() || p.Type == "urn:ietf:params:acme:error:rateLimited" || p.Status == 429 || p.Status == 503 {
		return core.ErrUnavailable
	}
	return core.ErrDenied
}
