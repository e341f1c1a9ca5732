// SPDX-License-Identifier: Apache-2.0

// Package manual is the credential issuer for a certification authority by ticket: a person
// carries a certificate signing request (RFC 2986) to the CA and brings the certificates
// back. Start with [New].
//
// The key signs the request, wherever it is; then the issuer shows the request, in PEM, and
// waits for a file, for as long as the CA takes: its state can be kept for weeks. The request
// has Wire's names if there is a client id of Wire's and a handle, else the client id alone:
// see [e2ei.Subject].
//
// It promises that the certificate in the file is for the key and the names that were asked
// for, may be that of a client, and is followed by its issuers in order. Whether they lead to
// a trust anchor is for the client to judge, and whether the client may have the names for the
// CA.
package manual

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// Config is what an issuer is made of.
type Config struct {
	// Instructions are shown with the request: where to bring it, and whom to ask. None:
	// what the CA has to do.
	Instructions string
}

// MaxCertificates is how many certificates a file has at most.
const MaxCertificates = 10

// An Issuer is a core.CredentialIssuer. It is safe for concurrent use.
type Issuer struct{ cfg Config }

var _ core.CredentialIssuer = (*Issuer)(nil)

// New returns the issuer.
func New(cfg Config) *Issuer { return &Issuer{cfg} }

var (
	actions    = []core.IssueAction{core.ActionIssue, core.ActionRenew}
	algorithms = []core.KeyAlgorithm{core.Ed25519, core.ECDSAP256, core.ECDSAP384, core.ECDSAP521}
)

// Describe says that it issues and renews. A certificate is revoked at the CA; no credential
// can have an Ed448 key, which Go's crypto/x509 does not know.
func (*Issuer) Describe(ctx context.Context) (core.IssuerInfo, error) {
	if err := ctx.Err(); err != nil {
		return core.IssuerInfo{}, fail("describe", err)
	}
	return core.IssuerInfo{Name: "manual", Type: core.CredentialX509, Actions: slices.Clone(actions), Algorithms: slices.Clone(algorithms)}, nil
}

// Begin asks for a signature over the request. A renewal is a request as the first one was: of
// the same client, which the CA recognizes by its names.
func (i *Issuer) Begin(ctx context.Context, req core.IssueRequest) (core.Step, error) {
	switch {
	case ctx.Err() != nil:
		return core.Step{}, fail("begin", ctx.Err())
	case !slices.Contains(actions, req.Action):
		return core.Step{}, fail("begin", fmt.Errorf("action %d: %w", req.Action, core.ErrUnsupported))
	case req.Action == core.ActionRenew && !sameClient(req):
		return core.Step{}, fail("begin", fmt.Errorf("renewal for another client: %w", core.ErrInvalid))
	}
	o := order{e2ei.Subject{ClientID: req.ClientID, Handle: req.Handle, DisplayName: req.Display}, req.Algorithm, req.PublicKey, nil}
	message, err := o.message()
	if err != nil {
		return core.Step{}, fail("begin", err)
	}
	return core.Step{State: o.encode(), Need: core.Need{Sign: &core.SignNeed{Message: message}}}, nil
}

func sameClient(req core.IssueRequest) bool {
	if req.Previous.Type != core.CredentialX509 || len(req.Previous.Certificates) == 0 {
		return false
	}
	previous, err := x509.ParseCertificate(req.Previous.Certificates[0])
	if err != nil {
		return false
	}
	id, _ := e2ei.ClientOf(previous)
	return id == req.ClientID
}

// Advance takes the signature and shows the request, or takes the file. A wrong signature, or
// a file without the right certificate, is core.ErrInvalid and says why; the right one may
// still follow. For the errors of a certificate see [e2ei.Subject.Check].
func (i *Issuer) Advance(ctx context.Context, state []byte, in core.Input) (core.Step, error) {
	if err := ctx.Err(); err != nil {
		return core.Step{}, fail("advance", err)
	}
	o, err := decode(state)
	if err != nil {
		return core.Step{}, fail("advance", err)
	}
	if in.Error != "" {
		return core.Step{Need: core.Need{Refused: &core.Refusal{Reason: in.Error}}}, nil
	}
	signed := o.signature != nil
	if in.RedirectQuery != "" || in.Result != nil || (in.Signature != nil) == signed || (in.File != nil) != signed {
		return core.Step{}, fail("advance", fmt.Errorf("another answer than was asked for: %w", core.ErrInvalid))
	}
	var step core.Step
	if signed {
		step, err = o.done(in.File)
	} else {
		o.signature = in.Signature
		step, err = i.show(o)
	}
	if err != nil {
		return core.Step{}, fail("advance", fmt.Errorf("%w: %w", core.ErrInvalid, err))
	}
	return step, nil
}

func (i *Issuer) show(o order) (core.Step, error) {
	der, err := o.csr()
	if err != nil {
		return core.Step{}, err
	}
	text := i.cfg.Instructions
	if text == "" {
		text = "Have this request certified, for digital signatures and for clients. " +
			"Bring the certificate and those of its issuers, in PEM, each one after what it has signed."
	}
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	return core.Step{State: o.encode(), Need: core.Need{Show: &core.ShowNeed{Text: text, File: request}}}, nil
}

// done takes the certificates.
func (o order) done(file []byte) (core.Step, error) {
	certificates, err := e2ei.ParsePEM(file)
	if err != nil {
		return core.Step{}, err
	}
	if len(certificates) > MaxCertificates {
		return core.Step{}, fmt.Errorf("%d certificates: %w", len(certificates), core.ErrTooLarge)
	}
	var chain []*x509.Certificate
	for n, der := range certificates {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return core.Step{}, err
		}
		if n == 0 {
			err = o.subject.Check(c, o.algorithm, o.public)
		} else if chain[n-1].CheckSignatureFrom(c) != nil {
			err = errors.New("it has not signed the one before")
		}
		if err != nil {
			return core.Step{}, fmt.Errorf("certificate %d: %w", n+1, err)
		}
		chain = append(chain, c)
	}
	// A root is not sent: who trusts it has it.
	if last := chain[len(chain)-1]; last.CheckSignatureFrom(last) == nil {
		certificates = certificates[:len(certificates)-1]
	}
	issued := &core.Issued{Credential: core.Credential{Type: core.CredentialX509, Certificates: certificates}}
	return core.Step{Need: core.Need{Done: issued}}, nil
}

func fail(op string, err error) error {
	return &core.ProviderError{Provider: "manual", Op: op, Err: err}
}
