// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"errors"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// Issuer is that of an instance; "" is the unnamed one. ErrNotFound: the plugin does not
// offer it.
func (p *Plugin) Issuer(instance string) (core.CredentialIssuer, error) {
	if _, err := p.offer(wire.Part_PART_CREDENTIAL_ISSUER, instance); err != nil {
		return nil, err
	}
	return &issuer{p: p, instance: instance}, nil
}

type issuer struct {
	p        *Plugin
	instance string
}

func (i *issuer) Describe(ctx context.Context) (core.IssuerInfo, error) {
	const op = "describe"
	ask := &wire.IssuerDescribeRequest{Instance: i.instance}
	a, err := call(ctx, i.p, op, wire.NewCredentialIssuerClient, wire.CredentialIssuerClient.Describe, ask)
	if err != nil {
		return core.IssuerInfo{}, err
	}
	info, err := wire.FromIssuerInfo(a.GetInfo())
	if err == nil && !areNames(info.Algorithms) {
		err = errors.New("algorithms that have no names, or too many of them")
	}
	if err != nil {
		return core.IssuerInfo{}, i.p.lied(op, err)
	}
	return info, nil
}

func (i *issuer) Begin(ctx context.Context, req core.IssueRequest) (core.Step, error) {
	const op = "begin"
	ask := &wire.BeginRequest{Instance: i.instance, Request: wire.ToIssueRequest(&req)}
	a, err := call(ctx, i.p, op, wire.NewCredentialIssuerClient, wire.CredentialIssuerClient.Begin, ask)
	return i.step(op, a, err)
}

func (i *issuer) Advance(ctx context.Context, state []byte, in core.Input) (core.Step, error) {
	const op = "advance"
	ask := &wire.AdvanceRequest{Instance: i.instance, State: state, Input: wire.ToInput(&in)}
	a, err := call(ctx, i.p, op, wire.NewCredentialIssuerClient, wire.CredentialIssuerClient.Advance, ask)
	return i.step(op, a, err)
}

func (i *issuer) step(op string, a *wire.StepResponse, err error) (core.Step, error) {
	if err != nil {
		return core.Step{}, err
	}
	step, err := wire.FromStep(a.GetStep())
	if err != nil {
		return core.Step{}, i.p.lied(op, err)
	}
	return step, nil
}
