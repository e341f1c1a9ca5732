// SPDX-License-Identifier: Apache-2.0

// Package localca is a credential issuer with a key of its own: it signs X.509 credentials
// (RFC 9420 section 5.3) with the key of a certification authority that this process can
// use, in software or in a token. Start with [New].
//
// A certificate says that a client id and a signature key belong together, and no more: the
// id is the one subject alternative name, a URI (see [e2ei.ClientURI]); the subject is empty.
// If the request has a client id of Wire's and a handle, the certificate has the names that
// Wire's have instead: see [e2ei.Leaf.Identity]. Clients read both by [e2ei.ClientOf]. It is
// for digital signatures and for clients, has a random serial number, and names the key of its
// issuer.
//
// It promises that whoever gets a certificate has signed with its key, that it is for the
// client for whom the enrolment began and within an hour of that, that a certificate
// does not outlive those above it, and that it verifies under them. It does not ask
// whether the client may have the id, the handle and the name: that is for whoever lets it be
// called. Nor does it keep a list of what it has issued, so it revokes nothing; let
// certificates be short-lived.
package localca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// A Key gives the CA's key for one certificate, signing within the context. For a
// core.Signer it is core.X509Signer; see [Signer]. Another crypto.Signer, such as one of
// RSA, is given as it is.
type Key func(ctx context.Context) (crypto.Signer, error)

// Signer is the Key of a signature key, in software or in a token.
func Signer(key core.Signer) Key {
	return func(ctx context.Context) (crypto.Signer, error) { return core.X509Signer(ctx, key) }
}

// Config is what an issuer is made of.
type Config struct {
	// Certificates are the CA's, then the one that certifies it, and so on as far as known
	// to the verifiers' anchor: PEM, or DER one after the other.
	Certificates []byte
	// Key is the private key of the first of them.
	Key Key
	// Lifetime is how long a new certificate is valid; 0: [DefaultLifetime].
	Lifetime time.Duration
	// DistributionPoints are the addresses that certificates name for revocation lists of
	// the CA, which are made elsewhere. None: whoever verifies asks for no list.
	DistributionPoints []string
	// StateKey is a secret by which the issuer knows its own states, of [StateKeySize] bytes
	// or more. Issuers with the same one take over each other's enrolments, as after a
	// restart. None: a random one, so that what was begun before a restart begins again.
	StateKey core.Secret
}

// DefaultLifetime of a certificate.
const DefaultLifetime = 90 * 24 * time.Hour

// StateKeySize is the size of the shortest Config.StateKey.
const StateKeySize = 32

// skew is how far the clock of somebody who verifies may be behind ours.
const skew = 5 * time.Minute

// An Issuer is a core.CredentialIssuer. It is safe for concurrent use.
type Issuer struct {
	chain    []*x509.Certificate // the CA's first
	key      Key
	lifetime time.Duration
	stateKey core.Secret
	points   []string // of revocation lists
}

var _ core.CredentialIssuer = (*Issuer)(nil)

var (
	actions    = []core.IssueAction{core.ActionIssue, core.ActionRenew}
	algorithms = []core.KeyAlgorithm{core.Ed25519, core.ECDSAP256, core.ECDSAP384, core.ECDSAP521}
)

// Describe says that it issues and renews; the anchor is the last certificate that it was
// given. Go's crypto/x509 cannot certify Ed448 keys.
func (i *Issuer) Describe(ctx context.Context) (core.IssuerInfo, error) {
	if err := ctx.Err(); err != nil {
		return core.IssuerInfo{}, fail("describe", err)
	}
	return core.IssuerInfo{
		Name: "localca", Type: core.CredentialX509, Actions: slices.Clone(actions), Algorithms: slices.Clone(algorithms),
		Anchors: [][]byte{slices.Clone(i.chain[len(i.chain)-1].Raw)},
	}, nil
}

// Begin asks for a signature by the key that is to be certified. To renew a credential of
// another client or of another key, or one that is not of this CA, is core.ErrInvalid:
// everybody has seen a credential, and only its key shows who renews it. A new key is not
// for core.ActionRenew but for core.ActionIssue.
func (i *Issuer) Begin(ctx context.Context, req core.IssueRequest) (core.Step, error) {
	switch {
	case ctx.Err() != nil:
		return core.Step{}, fail("begin", ctx.Err())
	case !slices.Contains(actions, req.Action):
		return core.Step{}, fail("begin", fmt.Errorf("action %d: %w", req.Action, core.ErrUnsupported))
	}
	r := request{
		int(req.Action), []byte(req.ClientID), []byte(req.Handle), []byte(req.Display),
		string(req.Algorithm), req.PublicKey, time.Now().Unix(), make([]byte, 16),
	}
	_, _ = rand.Read(r.Nonce) // never fails
	public, err := r.check()
	if err != nil {
		return core.Step{}, fail("begin", err)
	}
	if req.Action == core.ActionRenew {
		if err := i.renews(req, public); err != nil {
			return core.Step{}, fail("begin", err)
		}
	}
	state, err := i.encode(r)
	if err != nil {
		return core.Step{}, fail("begin", err)
	}
	return core.Step{State: state, Need: core.Need{Sign: &core.SignNeed{Message: i.challenge(state)}}}, nil
}

// renews checks the credential that is to be replaced. It may have expired: its owner could
// have asked for a new one.
func (i *Issuer) renews(req core.IssueRequest, public crypto.PublicKey) error {
	if req.Previous.Type != core.CredentialX509 || len(req.Previous.Certificates) == 0 {
		return fmt.Errorf("renewal of what is no X.509 credential: %w", core.ErrInvalid)
	}
	previous, err := x509.ParseCertificate(req.Previous.Certificates[0])
	if err == nil {
		err = previous.CheckSignatureFrom(i.chain[0])
	}
	if err != nil {
		return fmt.Errorf("renewal of what is no certificate of this CA: %w: %w", core.ErrInvalid, err)
	}
	if id, err := e2ei.ClientOf(previous); err != nil || id != req.ClientID {
		return fmt.Errorf("renewal for another client: %w", core.ErrInvalid)
	}
	if key, ok := previous.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(public) {
		return fmt.Errorf("renewal with another key: %w", core.ErrInvalid)
	}
	return nil
}

// Advance issues if the signature is right: a wrong one is core.ErrInvalid, and the right
// one may still follow. A second call with the same answer issues a second certificate, but
// an hour after Begin, or where the state was made with another Config.StateKey, Advance
// refuses, and whoever asks begins again. It refuses for good what the CA's certificates do
// not allow.
func (i *Issuer) Advance(ctx context.Context, state []byte, in core.Input) (core.Step, error) {
	if err := ctx.Err(); err != nil {
		return core.Step{}, fail("advance", err)
	}
	r, public, err := i.decode(state)
	switch {
	case errors.Is(err, errOver):
		return core.Step{Need: core.Need{Refused: &core.Refusal{Reason: err.Error()}}}, nil
	case err != nil:
		return core.Step{}, fail("advance", fmt.Errorf("%w: %w", core.ErrInvalid, err))
	case in.Error != "":
		return refused(in.Error), nil
	case in.RedirectQuery != "" || in.Result != nil || in.File != nil:
		return core.Step{}, fail("advance", fmt.Errorf("a signature is needed: %w", core.ErrInvalid))
	}
	owner := x509.Certificate{PublicKey: public}
	if err := owner.CheckSignature(signatures[core.KeyAlgorithm(r.Algorithm)], i.challenge(state), in.Signature); err != nil {
		return core.Step{}, fail("advance", fmt.Errorf("proof of possession: %w: %w", core.ErrInvalid, err))
	}
	step, err := i.issue(ctx, r, public)
	if err != nil {
		return core.Step{}, fail("advance", err)
	}
	return step, nil
}

func (i *Issuer) issue(ctx context.Context, r request, public crypto.PublicKey) (core.Step, error) {
	now := time.Now()
	ca := i.chain[0]
	from, to := now.Add(-skew), now.Add(i.lifetime)
	for _, above := range i.chain {
		if above.NotBefore.After(from) {
			from = above.NotBefore
		}
		if above.NotAfter.Before(to) {
			to = above.NotAfter
		}
	}
	subject, uris, err := r.subject().Names()
	if err != nil {
		return core.Step{}, err
	}
	name := sha256.Sum256(r.Public) // RFC 7093 section 2, method 1
	key, err := i.key(ctx)
	if err != nil {
		return core.Step{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		NotBefore: from, NotAfter: to, Subject: subject, URIs: uris, SubjectKeyId: name[:20], CRLDistributionPoints: i.points,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}, ca, public, key)
	if err != nil {
		return core.Step{}, fmt.Errorf("sign certificate: %w", err)
	}
	if err := i.verify(der, now); err != nil {
		return refused("the certificates of the CA do not allow this one: " + err.Error()), nil
	}
	credential := core.Credential{Type: core.CredentialX509, Certificates: [][]byte{der}}
	for _, above := range i.chain {
		if above.CheckSignatureFrom(above) != nil { // a root is not sent
			credential.Certificates = append(credential.Certificates, slices.Clone(above.Raw))
		}
	}
	return core.Step{Need: core.Need{Done: &core.Issued{Credential: credential}}}, nil
}

// verify does what the others will do: the CA's certificates may restrict names and uses.
func (i *Issuer) verify(der []byte, now time.Time) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	last := len(i.chain) - 1
	for _, above := range i.chain[:last] {
		o.Intermediates.AddCert(above)
	}
	o.Roots.AddCert(i.chain[last])
	_, err = leaf.Verify(o)
	return err
}

func refused(reason string) core.Step {
	return core.Step{Need: core.Need{Refused: &core.Refusal{Reason: reason, Final: true}}}
}

func fail(op string, err error) error {
	return &core.ProviderError{Provider: "localca", Op: op, Err: err}
}
