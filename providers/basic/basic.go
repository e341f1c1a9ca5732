// SPDX-License-Identifier: Apache-2.0

// Package basic is the credential issuer for basic credentials (RFC 9420
// section 5.3): the credential is the client's id and nobody vouches for it.
// Start with [New].
//
// It promises that every enrolment is done at once, without network or state.
// What it cannot promise is that the id is true: an application that uses it
// must know who is who by other means, such as a delivery service that
// authenticates its clients, or people who compare fingerprints.
package basic

import (
	"context"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// An Issuer is a core.CredentialIssuer without state.
type Issuer struct{}

var _ core.CredentialIssuer = (*Issuer)(nil)

// New returns the issuer.
func New() *Issuer { return &Issuer{} }

var info = core.IssuerInfo{
	Name:       "basic",
	Type:       core.CredentialBasic,
	Actions:    []core.IssueAction{core.ActionIssue, core.ActionRenew},
	Algorithms: []core.KeyAlgorithm{core.Ed25519, core.Ed448, core.ECDSAP256, core.ECDSAP384, core.ECDSAP521},
}

// Describe says that it issues and renews, for the signature algorithms of RFC
// 9420. Nothing can be revoked that was never certified.
func (*Issuer) Describe(ctx context.Context) (core.IssuerInfo, error) {
	if err := ctx.Err(); err != nil {
		return core.IssuerInfo{}, fail("describe", err)
	}
	d := info
	d.Actions, d.Algorithms = slices.Clone(info.Actions), slices.Clone(info.Algorithms)
	return d, nil
}

// Begin is done at once: the credential's identity is the client's id. To renew
// the credential of another client is core.ErrInvalid.
func (*Issuer) Begin(ctx context.Context, req core.IssueRequest) (core.Step, error) {
	switch {
	case ctx.Err() != nil:
		return core.Step{}, fail("begin", ctx.Err())
	case !slices.Contains(info.Actions, req.Action):
		return core.Step{}, fail("begin", fmt.Errorf("action %d: %w", req.Action, core.ErrUnsupported))
	case !slices.Contains(info.Algorithms, req.Algorithm):
		return core.Step{}, fail("begin", fmt.Errorf("algorithm %q: %w", req.Algorithm, core.ErrUnsupported))
	case req.ClientID == "":
		return core.Step{}, fail("begin", fmt.Errorf("empty client id: %w", core.ErrInvalid))
	case req.Action == core.ActionRenew && !sameClient(req):
		return core.Step{}, fail("begin", fmt.Errorf("renewal for another client: %w", core.ErrInvalid))
	}
	issued := &core.Issued{Credential: core.BasicCredential(req.ClientID)}
	return core.Step{Need: core.Need{Done: issued}}, nil
}

func sameClient(req core.IssueRequest) bool {
	return req.Previous.Type == core.CredentialBasic && string(req.Previous.Identity) == string(req.ClientID)
}

// Advance has nothing to go on with: no step of this issuer needs an answer.
func (*Issuer) Advance(ctx context.Context, _ []byte, _ core.Input) (core.Step, error) {
	if err := ctx.Err(); err != nil {
		return core.Step{}, fail("advance", err)
	}
	return core.Step{}, fail("advance", fmt.Errorf("no step is open: %w", core.ErrInvalid))
}

func fail(op string, err error) error {
	return &core.ProviderError{Provider: "basic", Op: op, Err: err}
}
