// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"
	"io"
	"sync"

	"github.com/conclave-mls/conclave/core"
)

// onDemand is an issuer that is opened when it is first asked: whoever only reads messages
// needs neither the CA's key nor its certificates.
type onDemand struct {
	open func(context.Context) (core.CredentialIssuer, error)

	mu     sync.Mutex
	issuer core.CredentialIssuer
}

func (o *onDemand) get(ctx context.Context) (core.CredentialIssuer, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.issuer != nil {
		return o.issuer, nil
	}
	issuer, err := o.open(ctx)
	if err == nil {
		o.issuer = issuer
	}
	return issuer, err
}

// Describe implements core.CredentialIssuer.
func (o *onDemand) Describe(ctx context.Context) (core.IssuerInfo, error) {
	issuer, err := o.get(ctx)
	if err != nil {
		return core.IssuerInfo{}, err
	}
	return issuer.Describe(ctx)
}

// Begin implements core.CredentialIssuer.
func (o *onDemand) Begin(ctx context.Context, req core.IssueRequest) (core.Step, error) {
	issuer, err := o.get(ctx)
	if err != nil {
		return core.Step{}, err
	}
	return issuer.Begin(ctx, req)
}

// Advance implements core.CredentialIssuer.
func (o *onDemand) Advance(ctx context.Context, state []byte, in core.Input) (core.Step, error) {
	issuer, err := o.get(ctx)
	if err != nil {
		return core.Step{}, err
	}
	return issuer.Advance(ctx, state, in)
}

// Close implements io.Closer.
func (o *onDemand) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if closer, ok := o.issuer.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}
