// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"time"
)

// A CredentialIssuer vouches for a client. An enrolment is a resumable
// conversation expressed as data: it can wait for a person in a browser and
// survive a restart, and the issuer never sees a private key.
type CredentialIssuer interface {
	// Describe says what the issuer can do. Its anchors are advice, never trusted.
	Describe(ctx context.Context) (IssuerInfo, error)
	// Begin starts an enrolment. ErrUnsupported: not this action or algorithm.
	Begin(ctx context.Context, req IssueRequest) (Step, error)
	// Advance answers the Need of the step whose State is given. The same state
	// and input may come twice; an issuer that cannot make that harmless starts a
	// new order. ErrInvalid: the state is not one of this issuer's, or the input
	// does not answer its need.
	Advance(ctx context.Context, state []byte, in Input) (Step, error)
}

// IssuerInfo describes an issuer.
type IssuerInfo struct {
	Name       string
	Type       CredentialType
	Actions    []IssueAction
	Algorithms []KeyAlgorithm
	Anchors    [][]byte // DER certificates
}

// IssueAction is what is asked of an issuer.
type IssueAction uint8

// The actions.
const (
	ActionIssue IssueAction = iota + 1
	ActionRenew
	ActionRevoke
)

// An IssueRequest begins an enrolment.
type IssueRequest struct {
	Action    IssueAction
	ClientID  ClientID
	Handle    string // "" where the issuer has no use for it
	Display   string
	Algorithm KeyAlgorithm
	PublicKey []byte            // MLS encoding
	Previous  Credential        // renew and revoke
	Carry     []byte            // the last one that this issuer gave, of Issued or a Refusal
	Extra     map[string]string // issuer's own options
}

// A Step is a state to keep and what the issuer needs next. The whole Step is
// stored before the Need is acted on.
type Step struct {
	State []byte // opaque; it may have secrets in it
	Need  Need
}

// A Need has exactly one field set.
type Need struct {
	Sign    *SignNeed
	Visit   *VisitNeed
	Call    *CallNeed
	Show    *ShowNeed
	Wait    *WaitNeed
	Done    *Issued
	Refused *Refusal
}

// SignNeed asks for a signature by the enrolling key (for a revocation, the
// certificate's).
type SignNeed struct{ Message []byte }

// VisitNeed asks a person to open URL; the answer is the whole redirect query.
type VisitNeed struct{ URL, RedirectURI string }

// CallNeed asks a hook of the application ("wire.nonce", "wire.access-token", ...).
type CallNeed struct {
	Kind string
	Args map[string]string
}

// ShowNeed hands something to a person (a CSR for a CA by ticket) and waits for a file.
type ShowNeed struct {
	Text string
	File []byte
}

// WaitNeed asks to come back later.
type WaitNeed struct{ After time.Duration }

// Issued ends an enrolment well. Carry is kept with the credential for renewal. It is a
// secret, and for the issuer that gave it alone.
type Issued struct {
	Credential Credential
	Carry      []byte
}

// Refusal ends an enrolment badly; a final one must not be tried again. Carry, if it is not
// empty, takes the place of the request's: it is for the next try, and for a renewal it is kept
// with the credential, as the one there may have been used up (a refresh token that is good once).
type Refusal struct {
	Reason string
	Final  bool
	Carry  []byte
}

// An Input answers a Need; exactly one field is set. An answer to Wait is
// Result with no bytes.
type Input struct {
	Signature     []byte
	RedirectQuery string
	Result        []byte
	File          []byte
	Error         string // the need could not be met
}
