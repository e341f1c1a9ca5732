// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/conclave-mls/conclave/core"
)

// Authorizations are the addresses of the order's authorizations that are still to be read.
func (e *Enrollment) Authorizations() ([]string, error) {
	if err := e.need(StepDeviceAuthorization, StepNewOrder); err != nil {
		return nil, err
	}
	all := slices.Clone(e.order.authorizations[:])
	return slices.DeleteFunc(all, func(a string) bool { return a == e.device.from || a == e.user.from }), nil
}

// AuthorizationRequest asks for one of them (RFC 8555 section 7.5).
func (e *Enrollment) AuthorizationRequest(address, nonce string) (Request, error) {
	const s = StepDeviceAuthorization
	if err := e.needAuthorization(s, address); err != nil {
		return Request{}, err
	}
	return e.request(s, address, nonce, nil)
}

func (e *Enrollment) needAuthorization(s Step, address string) error {
	if err := e.need(s, StepDirectory, StepNewAccount, StepNewOrder); err != nil {
		return err
	}
	if !slices.Contains(e.order.authorizations[:], address) {
		return &StepError{s, fmt.Errorf("%w: %.80q is not of the order", ErrForeignURL, address)}
	}
	return nil
}

type acmeChallenge struct {
	Type, URL, Status, Token, Target string
	Error                            json.RawMessage
}

// The types of challenges.
const (
	challengeDPoP = "wire-dpop-01"
	challengeOIDC = "wire-oidc-01"
)

// AuthorizationResponse takes the reply for an address. ErrAuthorization, ErrOrderExpired: it
// cannot be used; ErrChallengeType, ErrToken, ErrTokenEntropy: nor can its challenge.
func (e *Enrollment) AuthorizationResponse(address string, body []byte, now time.Time) error {
	s := StepDeviceAuthorization
	if err := e.needAuthorization(s, address); err != nil {
		return err
	}
	var a struct {
		Identifier identifier
		Status     string
		Expires    time.Time
		Challenges []acmeChallenge
	}
	if err := decode(body, &a); err != nil {
		return &StepError{s, err}
	}
	slot, other, kind := &e.device, &e.user, challengeDPoP
	if a.Identifier.Type == identifierUser {
		s, slot, other, kind = StepUserAuthorization, &e.user, &e.device, challengeOIDC
	}
	if err := e.checkIdentifier(a.Identifier); err != nil {
		return &StepError{s, err}
	}
	if err := status("authorization", a.Status, map[string]error{
		"pending": nil, "invalid": ErrAuthorization, "deactivated": ErrAuthorization, "revoked": ErrAuthorization, "expired": ErrOrderExpired,
	}); err != nil {
		return &StepError{s, err}
	}
	if now.Unix() > a.Expires.Unix() {
		return &StepError{s, ErrOrderExpired}
	}
	if len(a.Challenges) != 1 || slot.url != "" && slot.from != address || other.from == address {
		return &StepError{s, fmt.Errorf("%w: %d challenges, or one identifier twice", ErrMalformed, len(a.Challenges))}
	}
	c := a.Challenges[0]
	if c.Type != kind {
		return &StepError{s, fmt.Errorf("%w: %.80q", ErrChallengeType, c.Type)}
	}
	if err := checkToken(c.Token); err != nil {
		return &StepError{s, err}
	}
	if err := e.ownURLs(c.URL); err != nil {
		return &StepError{s, err}
	}
	if _, err := e.parseURL(c.Target); err != nil {
		return &StepError{s, err}
	}
	*slot = authorization{address, c.URL, c.Token, c.Target, false}
	return nil
}

// checkToken asks for 16 random bytes (RFC 8555 section 8.3).
func checkToken(token string) error {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || !base64url(token) || len(token) > maxNonce {
		return ErrToken
	}
	if len(b) < 16 {
		return ErrTokenEntropy
	}
	return nil
}

// A Challenge is what the backend or the identity provider has to vouch for.
type Challenge struct {
	URL    string // the audience of what answers it
	Target string // the backend's address for access tokens, or the issuer of ID tokens with what the server adds as query
	// KeyAuth is what an ID token has to have in its claim keyauth; of a DPoP challenge it
	// is empty.
	KeyAuth string
}

// DPoPChallenge is what the backend vouches for.
func (e *Enrollment) DPoPChallenge() (Challenge, error) {
	if err := e.need(StepDPoPChallenge, StepNewOrder, StepDeviceAuthorization); err != nil {
		return Challenge{}, err
	}
	return Challenge{URL: e.device.url, Target: e.device.target}, nil
}

// OIDCChallenge is what the identity provider vouches for.
func (e *Enrollment) OIDCChallenge() (Challenge, error) {
	const s = StepOIDCChallenge
	if err := e.need(s, StepNewOrder, StepUserAuthorization); err != nil {
		return Challenge{}, err
	}
	print, err := e.thumbprint()
	if err != nil {
		return Challenge{}, &StepError{s, err}
	}
	return Challenge{e.user.url, e.user.target, e.user.token + "." + print}, nil
}

// MaxDPoPExpiry is how long a proof is valid at most: servers refuse more.
const MaxDPoPExpiry = time.Hour

// DPoPToken is the proof for the backend, which gives an access token for it (RFC 9449): a
// compact JWS. The nonce is the backend's, for one use. ErrInvalid: a validity below a second
// or over MaxDPoPExpiry.
func (e *Enrollment) DPoPToken(now time.Time, validity time.Duration, nonce string) (string, error) {
	const s = StepDPoPChallenge
	if err := e.need(s, StepNewOrder, StepDeviceAuthorization); err != nil {
		return "", err
	}
	if validity < time.Second || validity > MaxDPoPExpiry {
		return "", &StepError{s, fmt.Errorf("proof for %v: %w", validity, core.ErrInvalid)}
	}
	if nonce == "" || len(nonce) > maxNonce {
		return "", &StepError{s, fmt.Errorf("%w: backend's nonce of %d bytes", ErrMalformed, len(nonce))}
	}
	var team *string
	if e.cfg.Team != "" {
		team = &e.cfg.Team
	}
	t := now.Unix()
	claims, err := json.Marshal(map[string]any{
		// An hour back, for backends whose clock is behind.
		"jti": newUUID(), "iat": t - 3600, "nbf": t - 3600, "exp": t + int64(validity/time.Second),
		"sub": e.cfg.ClientID.URI(), "aud": e.device.url, "nonce": nonce, "chal": e.device.token,
		"htm": "POST", "htu": e.device.target, "handle": e.handle.URI(), "name": e.cfg.DisplayName, "team": team,
	})
	if err != nil {
		return "", &StepError{s, err}
	}
	key, err := e.accountKey()
	if err != nil {
		return "", &StepError{s, err}
	}
	options := &jose.SignerOptions{EmbedJWK: true}
	signed, err := signJWS(jose.SigningKey{Algorithm: jose.ES256, Key: key}, options.WithType("dpop+jwt"), claims)
	if err != nil {
		return "", &StepError{s, err}
	}
	proof, err := signed.CompactSerialize()
	if err != nil {
		return "", &StepError{s, err}
	}
	return proof, nil
}

// newUUID is a random one (RFC 9562 section 5.4).
func newUUID() string {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails, see crypto/rand
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// DPoPChallengeRequest answers with the backend's access token.
func (e *Enrollment) DPoPChallengeRequest(accessToken, nonce string) (Request, error) {
	return e.answer(StepDPoPChallenge, StepDeviceAuthorization, &e.device, "access_token", accessToken, nonce)
}

// OIDCChallengeRequest answers with the identity provider's ID token. Its refresh token goes
// to SetRefreshToken.
func (e *Enrollment) OIDCChallengeRequest(idToken, nonce string) (Request, error) {
	return e.answer(StepOIDCChallenge, StepUserAuthorization, &e.user, "id_token", idToken, nonce)
}

func (e *Enrollment) answer(s, before Step, a *authorization, name, token, nonce string) (Request, error) {
	if err := e.need(s, StepDirectory, StepNewAccount, StepNewOrder, before); err != nil {
		return Request{}, err
	}
	if token == "" || len(token) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Request{}, &StepError{s, fmt.Errorf("%s of %d bytes: %w", name, len(token), core.ErrInvalid)}
	}
	return e.request(s, a.url, nonce, map[string]string{name: token})
}

// DPoPChallengeResponse takes the reply. ErrChallenge: refused, which ends the order;
// ErrProcessing: ask again.
func (e *Enrollment) DPoPChallengeResponse(body []byte) error {
	return e.answered(StepDPoPChallenge, StepDeviceAuthorization, &e.device, challengeDPoP, body)
}

// OIDCChallengeResponse takes the reply. ErrChallenge: refused, which ends the order;
// ErrProcessing: ask again.
func (e *Enrollment) OIDCChallengeResponse(body []byte) error {
	return e.answered(StepOIDCChallenge, StepUserAuthorization, &e.user, challengeOIDC, body)
}

func (e *Enrollment) answered(s, before Step, a *authorization, kind string, body []byte) error {
	if err := e.need(s, StepDirectory, StepNewAccount, StepNewOrder, before); err != nil {
		return err
	}
	var c acmeChallenge
	if err := decode(body, &c); err != nil {
		return &StepError{s, err}
	}
	if c.Type != kind {
		return &StepError{s, fmt.Errorf("%w: %.80q", ErrChallengeType, c.Type)}
	}
	if c.URL != a.url {
		return &StepError{s, fmt.Errorf("%w: challenge %.80q", ErrMalformed, c.URL)}
	}
	failed := ErrChallenge
	if len(c.Error) > 0 {
		failed = fmt.Errorf("%w: %w", ErrChallenge, ParseProblem(0, c.Error))
	}
	if err := status("challenge", c.Status, map[string]error{
		"valid": nil, "processing": ErrProcessing, "pending": ErrPending, "": ErrPending, "invalid": failed,
	}); err != nil {
		return &StepError{s, err}
	}
	a.valid = true
	return nil
}

// SetRefreshToken keeps what the identity provider gave beside the ID token. Store it once the
// OIDC challenge is valid, so that a later failure costs the person no second login. The
// enrolment takes a copy.
// ErrRefreshToken: it is empty or too long.
func (e *Enrollment) SetRefreshToken(token core.Secret) error {
	if err := e.need(StepOIDCChallenge, StepNewOrder, StepUserAuthorization); err != nil {
		return err
	}
	if token.IsZero() || token.Len() > maxToken {
		return &StepError{StepOIDCChallenge, fmt.Errorf("%w: %d bytes", ErrRefreshToken, token.Len())}
	}
	e.cfg.RefreshToken.Wipe()
	e.cfg.RefreshToken = token.Clone()
	return nil
}
