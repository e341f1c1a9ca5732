// SPDX-License-Identifier: Apache-2.0

package sdk

import (
	"context"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

type issuerServer struct {
	wire.UnimplementedCredentialIssuerServer
	*server
}

func (s issuerServer) Describe(ctx context.Context, m *wire.IssuerDescribeRequest) (*wire.IssuerDescribeResponse, error) {
	i, err := instance(s.issuers, m.GetInstance())
	var info core.IssuerInfo
	if err == nil {
		info, err = i.Describe(ctx)
	}
	if err != nil {
		return &wire.IssuerDescribeResponse{Error: wire.ToError(err)}, nil
	}
	return &wire.IssuerDescribeResponse{Info: wire.ToIssuerInfo(&info)}, nil
}

func stepResponse(step core.Step, err error) (*wire.StepResponse, error) {
	var m *wire.Step
	if err == nil {
		m, err = wire.ToStep(&step)
	}
	return &wire.StepResponse{Error: wire.ToError(err), Step: m}, nil
}

func (s issuerServer) Begin(ctx context.Context, m *wire.BeginRequest) (*wire.StepResponse, error) {
	i, err := instance(s.issuers, m.GetInstance())
	if err != nil {
		return stepResponse(core.Step{}, err)
	}
	req, err := wire.FromIssueRequest(m.GetRequest())
	if err != nil {
		return stepResponse(core.Step{}, err)
	}
	return stepResponse(i.Begin(ctx, req))
}

func (s issuerServer) Advance(ctx context.Context, m *wire.AdvanceRequest) (*wire.StepResponse, error) {
	i, err := instance(s.issuers, m.GetInstance())
	if err != nil {
		return stepResponse(core.Step{}, err)
	}
	return stepResponse(i.Advance(ctx, m.GetState(), wire.FromInput(m.GetInput())))
}
