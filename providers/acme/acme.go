// SPDX-License-Identifier: Apache-2.0

// Package acme is the credential issuer of Wire's end-to-end identity: it leads an enrolment
// ([e2ei.Enrollment]) through an ACME server (RFC 8555) and an identity provider (OpenID
// Connect), over HTTP. Start with [New]; a core/client drives it, or a loop over its needs as
// in the example.
//
// What an enrolment needs comes in this order:
//
//	Call "wire.nonce"         args device, target: a nonce of the backend, as Result
//	Call "wire.access-token"  args device, target, proof: POST to target with the header DPoP
//	                          and the session of the user; the token of the reply, as Result,
//	                          or an Error if it is refused: twice, that makes a new proof
//	Visit                     the login; none with a refresh token (Carry) that is still good
//	Wait                      once after the login, which is kept before it is used; and
//	                          wherever a server is at work or asks for patience
//	Sign                      the certificate signing request, by the key to be certified
//	Done                      the chain, and a refresh token as Carry if there is one; it is
//	                          with a refusal, too
//
// A renewal is the same with a new order for the same key. A revocation needs one signature,
// by the certificate's key, and its Done is the credential that was revoked.
//
// It promises that the certificate is for the key and the names that were asked for, and that
// no server makes it ask another origin than the directory's for a certificate, give a refresh
// token to another identity provider than the one that gave it, follow a redirect, read more
// than [e2ei.MaxReply] bytes of a reply, or wait for one without end. Whether a path leads from
// the certificate to a trust anchor is for the client to judge, and the ID token's signature is
// for the CA. A state has the keys of the enrolment in it: seal it.
//
// An error leaves the enrolment as it was, to be tried again; it names the step in an
// [e2ei.StepError], and is an [e2ei.Problem] or an [OAuthError] where a server said so. Refused
// is what cannot be mended but by beginning again, such as an order that failed; one that
// expired is replaced by a new one, where that takes no second login.
package acme

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// Config is what an issuer is made of.
type Config struct {
	// Directory is the address of the ACME directory.
	Directory string
	// RedirectURI is where the identity provider sends a person after the login.
	RedirectURI string

	// OAuthClientID is ours at the identity provider; "": what the ACME server says.
	OAuthClientID string
	// Team is who the backend is told the user belongs to, if no request says so ("team" in
	// IssueRequest.Extra).
	Team string
	// Validity is how long a certificate is asked for; 0: [DefaultValidity].
	Validity time.Duration
	// ProofValidity is how long a proof for the backend is good, up to
	// [e2ei.MaxDPoPExpiry]; 0: [DefaultProofValidity].
	ProofValidity time.Duration

	// HTTP is used for everything, but follows no redirects; its Timeout, or
	// [DefaultTimeout], is for each request. Nil: one that trusts the system's roots.
	HTTP *http.Client
	// AllowHTTP is for tests: addresses without TLS, of servers on this machine.
	AllowHTTP bool

	// Clock tells the time; nil: time.Now.
	Clock func() time.Time
}

// What an issuer does if its Config does not say.
const (
	DefaultValidity      = 90 * 24 * time.Hour
	DefaultProofValidity = 5 * time.Minute
	DefaultTimeout       = 30 * time.Second
)

// An Issuer is a core.CredentialIssuer. It is safe for concurrent use.
type Issuer struct {
	cfg    Config
	http   *http.Client
	grants grants
}

var _ core.CredentialIssuer = (*Issuer)(nil)

// New makes an issuer. It asks nobody; core.ErrInvalid: a value that cannot be,
// [e2ei.ErrForeignURL]: a directory without TLS.
func New(cfg Config) (*Issuer, error) {
	i := &Issuer{cfg: cfg}
	c := &i.cfg
	if c.Validity == 0 {
		c.Validity = DefaultValidity
	}
	if c.ProofValidity == 0 {
		c.ProofValidity = DefaultProofValidity
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if err := i.checkAddress(c.Directory); err != nil {
		return nil, fail("new", fmt.Errorf("directory: %w", err))
	}
	back, err := url.Parse(c.RedirectURI)
	switch {
	case err != nil || !back.IsAbs() || back.Fragment != "" || len(c.RedirectURI) > maxAddress:
		return nil, fail("new", fmt.Errorf("redirect URI %.80q: %w", c.RedirectURI, core.ErrInvalid))
	case c.Validity < time.Second:
		return nil, fail("new", fmt.Errorf("validity of %v: %w", c.Validity, core.ErrInvalid))
	case c.ProofValidity < time.Second || c.ProofValidity > e2ei.MaxDPoPExpiry:
		return nil, fail("new", fmt.Errorf("proof for %v: %w", c.ProofValidity, core.ErrInvalid))
	}
	if c.HTTP == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxResponseHeaderBytes = 1 << 16
		c.HTTP = &http.Client{Transport: transport}
	}
	client := *c.HTTP
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if client.Timeout == 0 {
		client.Timeout = DefaultTimeout
	}
	i.http = &client
	return i, nil
}

// Close gives up connections that are idle, and forgets what it kept for a repeated call.
func (i *Issuer) Close() error {
	i.http.CloseIdleConnections()
	i.grants.forgetAll()
	return nil
}

var (
	actions    = []core.IssueAction{core.ActionIssue, core.ActionRenew, core.ActionRevoke}
	algorithms = []core.KeyAlgorithm{core.Ed25519, core.ECDSAP256, core.ECDSAP384, core.ECDSAP521}
)

// Describe asks nobody. It has no anchors to advise: a client gets them from whoever runs it.
func (*Issuer) Describe(ctx context.Context) (core.IssuerInfo, error) {
	if err := ctx.Err(); err != nil {
		return core.IssuerInfo{}, fail("describe", err)
	}
	return core.IssuerInfo{
		Name: "acme", Type: core.CredentialX509, Actions: slices.Clone(actions), Algorithms: slices.Clone(algorithms),
	}, nil
}

// Begin opens an order and reads what it asks for; a revocation reads the directory. The
// client id is in the spelling of the MLS credential, the handle bare. A renewal and a
// revocation are for the client and the key of the previous credential, whose handle and
// display name are taken where the request has none. Extra may have "team". A Carry that is
// none of this package counts as none.
//
// core.ErrUnsupported: another action or algorithm; core.ErrInvalid: the request cannot be;
// core.ErrUnavailable: a server cannot be reached, or its reply is not what it has to be;
// core.ErrDenied: it refuses.
func (i *Issuer) Begin(ctx context.Context, req core.IssueRequest) (core.Step, error) {
	if err := ctx.Err(); err != nil {
		return core.Step{}, fail("begin", err)
	}
	s, err := i.begin(req)
	if err != nil {
		return core.Step{}, fail("begin", err)
	}
	defer s.wipe()
	step, err := i.run(ctx, s)
	// The request is as it has to be. What answers so may be the portal of a hotel's network.
	if kind := core.Kind(err); kind == core.ErrInvalid || kind == core.ErrUnsupported {
		err = fmt.Errorf("%w: %w", core.ErrUnavailable, err)
	}
	if err != nil {
		return core.Step{}, fail("begin", err)
	}
	return step, nil
}

func (i *Issuer) begin(req core.IssueRequest) (*state, error) {
	switch {
	case !slices.Contains(actions, req.Action):
		return nil, fmt.Errorf("action %d: %w", req.Action, core.ErrUnsupported)
	case !slices.Contains(algorithms, req.Algorithm):
		return nil, fmt.Errorf("algorithm %q: %w", req.Algorithm, core.ErrUnsupported)
	}
	id, err := e2ei.ParseClientID(string(req.ClientID))
	if err != nil {
		return nil, err
	}
	cfg := e2ei.Config{
		ClientID: id, DisplayName: req.Display, Handle: req.Handle, Team: i.cfg.Team, Validity: i.cfg.Validity,
		Algorithm: req.Algorithm, PublicKey: req.PublicKey, Directory: i.cfg.Directory, AllowHTTP: i.cfg.AllowHTTP,
	}
	for option, value := range req.Extra {
		if option != "team" {
			return nil, fmt.Errorf("option %.80q: %w", option, core.ErrInvalid)
		}
		cfg.Team = value
	}
	s := &state{}
	if req.Action != core.ActionIssue {
		if err := takeOver(&cfg, req.Previous); err != nil {
			return nil, fmt.Errorf("previous credential: %w", err)
		}
	}
	if req.Action == core.ActionRevoke {
		for _, der := range req.Previous.Certificates {
			s.revoke = append(s.revoke, slices.Clone(der))
		}
	} else {
		s.provider, cfg.RefreshToken = parseCarry(req.Carry)
		defer cfg.RefreshToken.Wipe() // e2ei.New takes a copy
	}
	s.enrollment, err = e2ei.New(cfg)
	return s, err
}

// takeOver checks that the previous credential is of the client and the key, and takes the
// names that the request lacks. It may have expired.
func takeOver(cfg *e2ei.Config, previous core.Credential) error {
	if previous.Type != core.CredentialX509 || len(previous.Certificates) == 0 {
		return fmt.Errorf("not an X.509 one: %w", core.ErrInvalid)
	}
	leaf, err := e2ei.ParseLeaf(previous.Certificates[0])
	if err != nil {
		return fmt.Errorf("%w: %w", core.ErrInvalid, err)
	}
	id, err := leaf.Identity()
	switch {
	case err != nil:
		return err
	case id.ClientID != cfg.ClientID:
		return fmt.Errorf("of another client: %w", core.ErrInvalid)
	case leaf.Algorithm() != cfg.Algorithm || !slices.Equal(leaf.Public(), cfg.PublicKey):
		return fmt.Errorf("of another key: %w", core.ErrInvalid)
	}
	if cfg.Handle == "" {
		cfg.Handle = id.Handle.Name()
	}
	if cfg.DisplayName == "" {
		cfg.DisplayName = id.DisplayName
	}
	return nil
}

// Advance goes on until something is needed. A call with the same state and answer does the
// same again, which servers take; what an identity provider gives once is kept in memory until
// a later step shows that it has been stored, and after a restart the person logs in again.
// Errors are those of Begin; core.ErrInvalid also is a redirect with another state than ours,
// and a signature that is not one.
func (i *Issuer) Advance(ctx context.Context, state []byte, in core.Input) (core.Step, error) {
	if err := ctx.Err(); err != nil {
		return core.Step{}, fail("advance", err)
	}
	s, err := i.open(state)
	if err != nil {
		return core.Step{}, fail("advance", err)
	}
	defer s.wipe()
	step, err := i.advance(ctx, s, in)
	switch {
	case err == nil:
		return step, nil
	case over(err):
		return s.refused(err.Error()), nil
	}
	return core.Step{}, fail("advance", err)
}

// refused ends it; a refresh token may have been used up for the one that is carried.
func (s *state) refused(reason string) core.Step {
	return core.Step{Need: core.Need{Refused: &core.Refusal{Reason: reason, Carry: s.carry(s.enrollment.Config().RefreshToken)}}}
}

func fail(op string, err error) error {
	return &core.ProviderError{Provider: "acme", Op: op, Err: err}
}
