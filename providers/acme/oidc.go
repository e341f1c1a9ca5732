// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// A login at an identity provider: the authorization code flow of OpenID Connect Core section
// 3.1, with PKCE (RFC 7636) for a client without a secret. It is written here because what
// Wire adds, the claims, is most of it, and golang.org/x/oauth2 would bring the rest only.
type login struct {
	Issuer   string `asn1:"utf8"`
	Token    string `asn1:"utf8"` // address of the token endpoint
	ClientID string `asn1:"utf8"`
	Redirect string `asn1:"utf8"`
	Verifier string `asn1:"utf8"` // this and the next two only of a visit
	State    string `asn1:"utf8"`
	Nonce    string `asn1:"utf8"`
}

var (
	// ErrIDToken: the identity provider's ID token is not what was asked for.
	ErrIDToken = fmt.Errorf("acme: wrong ID token: %w", core.ErrInvalid)
	// ErrRedirect: the redirect is not the answer to this login.
	ErrRedirect = fmt.Errorf("acme: wrong redirect: %w", core.ErrInvalid)
	// ErrDiscovery: the identity provider does not describe itself as it has to.
	ErrDiscovery = fmt.Errorf("acme: wrong description of the identity provider: %w", core.ErrInvalid)
)

// An OAuthError is what an identity provider says of a failure (RFC 6749 sections 4.1.2.1 and
// 5.2). It matches core.ErrUnavailable where another try may help, else core.ErrDenied.
type OAuthError struct {
	Status      int    // of HTTP; 0: it came with the redirect
	Code        string // such as access_denied; cut, as is the next
	Description string
}

func (e *OAuthError) Error() string {
	text := "identity provider"
	if e.Status != 0 {
		text += fmt.Sprintf(", HTTP status %d", e.Status)
	}
	if e.Code != "" {
		text += fmt.Sprintf(", %q", e.Code)
	}
	if e.Description != "" {
		text += fmt.Sprintf(": %q", e.Description)
	}
	return text
}

// Unwrap gives the core sentinel.
func (e *OAuthError) Unwrap() error {
	if e.Status >= 500 || e.Status == http.StatusTooManyRequests || e.Code == "temporarily_unavailable" || e.Code == "server_error" {
		return core.ErrUnavailable
	}
	return core.ErrDenied
}

func newOAuthError(status int, code, description string) *OAuthError {
	cut := func(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxText)], "\uFFFD") }
	return &OAuthError{status, cut(code), cut(description)}
}

// canRefresh says whether there is a refresh token that nobody has refused, of the identity
// provider of the last login if there was one.
func (s *state) canRefresh() bool {
	return !s.stale && !s.enrollment.Config().RefreshToken.IsZero() && (s.login.Issuer == "" || s.login.Issuer == s.provider)
}

// logIn gets an ID token by the refresh token, or asks for a visit.
func (x *session) logIn(ctx context.Context, s *state) (core.Need, error) {
	c, err := s.enrollment.OIDCChallenge()
	if err != nil {
		return core.Need{}, err
	}
	issuer, client, err := x.provider(c.Target)
	if err != nil {
		return core.Need{}, err
	}
	r, err := x.do(ctx, http.MethodGet, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration", "", nil)
	if err != nil {
		return core.Need{}, err
	}
	if r.status != http.StatusOK {
		return core.Need{}, newOAuthError(r.status, "", "no description")
	}
	d, err := x.parseDiscovery(r.body, issuer)
	if err != nil {
		return core.Need{}, err
	}
	claims, err := askedClaims(c)
	if err != nil {
		return core.Need{}, err
	}
	s.login = login{Issuer: issuer, Token: d.Token, ClientID: client, Redirect: x.cfg.RedirectURI}
	if s.canRefresh() {
		err := x.grant(ctx, s, c, url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {string(s.enrollment.Config().RefreshToken.Bytes())},
			"client_id": {client}, "claims": {claims},
		})
		if err == nil {
			return core.Need{Wait: &core.WaitNeed{}}, nil
		}
		// It has expired, or the provider gives what the first login asked for.
		var refusal *OAuthError
		if !(errors.As(err, &refusal) && refusal.Code != "" && errors.Is(refusal, core.ErrDenied)) && !errors.Is(err, ErrIDToken) {
			return core.Need{}, err
		}
		s.stale = true
	}
	s.login.Verifier, s.login.State, s.login.Nonce = random(), random(), random()
	return core.Need{Visit: &core.VisitNeed{URL: s.login.url(d, claims), RedirectURI: s.login.Redirect}}, nil
}

// random is 256 bits in 43 characters, the fewest that a verifier may have.
func random() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// provider is the issuer of ID tokens and our name there, of a challenge's target.
func (i *Issuer) provider(target string) (issuer, client string, err error) {
	if err := i.checkAddress(target); err != nil {
		return "", "", err
	}
	u, err := url.Parse(target)
	if err != nil {
		return "", "", err
	}
	q := u.Query()
	for _, client = range []string{i.cfg.OAuthClientID, q.Get("client_id"), q.Get("clientid")} {
		if client != "" {
			break
		}
	}
	if client == "" {
		return "", "", fmt.Errorf("no OAuth client id for %.80q: %w", target, core.ErrDenied)
	}
	issuer, _, _ = strings.Cut(target, "?")
	issuer, _, _ = strings.Cut(issuer, "#")
	return issuer, client, nil
}

// A discovery is the part that is used of a provider's description (OpenID Connect Discovery
// section 3).
type discovery struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	Scopes        []string `json:"scopes_supported"`
}

// parseDiscovery reads the description, which has to be of the issuer. Its endpoints may be
// elsewhere, but with TLS.
func (i *Issuer) parseDiscovery(body []byte, issuer string) (discovery, error) {
	var d discovery
	if err := json.Unmarshal(body, &d); err != nil {
		return d, fmt.Errorf("%w: %w", ErrDiscovery, err)
	}
	if d.Issuer != issuer {
		return d, fmt.Errorf("%w: of %.80q, not of %.80q", ErrDiscovery, d.Issuer, issuer)
	}
	for _, address := range []string{d.Authorization, d.Token} {
		if err := i.checkAddress(address); err != nil {
			return d, fmt.Errorf("%w: %w", ErrDiscovery, err)
		}
	}
	return d, nil
}

// askedClaims is the claims parameter (OpenID Connect Core section 5.5), with which the ID
// token becomes one for this challenge and this account.
func askedClaims(c e2ei.Challenge) (string, error) {
	claim := func(value string) any { return map[string]any{"essential": true, "value": value} }
	text, err := json.Marshal(map[string]any{"id_token": map[string]any{"keyauth": claim(c.KeyAuth), "acme_aud": claim(c.URL)}})
	return string(text), err
}

// url is where the person goes.
func (l login) url(d discovery, claims string) string {
	sum := sha256.Sum256([]byte(l.Verifier))
	scope := "openid profile offline_access"
	if len(d.Scopes) > 0 && !slices.Contains(d.Scopes, "offline_access") {
		scope = "openid profile"
	}
	separator := "?"
	if strings.Contains(d.Authorization, "?") {
		separator = "&"
	}
	return d.Authorization + separator + url.Values{
		"response_type": {"code"}, "scope": {scope}, "client_id": {l.ClientID}, "redirect_uri": {l.Redirect},
		"state": {l.State}, "nonce": {l.Nonce}, "claims": {claims},
		"code_challenge_method": {"S256"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
	}.Encode()
}

// code reads the redirect (RFC 6749 section 4.1.2, RFC 9207). ErrRedirect: it does not answer
// this login; [OAuthError]: the login failed.
func (l login) code(query string) (string, error) {
	if len(query) > maxToken {
		return "", fmt.Errorf("%w: %d bytes", ErrRedirect, len(query))
	}
	q, err := url.ParseQuery(query)
	if err != nil {
		return "", fmt.Errorf("%w: it cannot be read", ErrRedirect) // the error would show the code
	}
	for _, name := range []string{"state", "code", "error", "iss"} {
		if len(q[name]) > 1 {
			return "", fmt.Errorf("%w: %s twice", ErrRedirect, name)
		}
	}
	switch {
	case subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(l.State)) != 1:
		return "", fmt.Errorf("%w: another state", ErrRedirect)
	case q.Has("iss") && q.Get("iss") != l.Issuer:
		return "", fmt.Errorf("%w: of %.80q", ErrRedirect, q.Get("iss"))
	case q.Has("error"):
		return "", newOAuthError(0, q.Get("error"), q.Get("error_description"))
	case q.Get("code") == "":
		return "", fmt.Errorf("%w: no code", ErrRedirect)
	}
	return q.Get("code"), nil
}

// redeem trades the code of a redirect.
func (i *Issuer) redeem(ctx context.Context, x *session, s *state, code string) error {
	c, err := s.enrollment.OIDCChallenge()
	if err != nil {
		return err
	}
	return x.grant(ctx, s, c, url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "code_verifier": {s.login.Verifier}, "redirect_uri": {s.login.Redirect},
		"client_id": {s.login.ClientID},
	})
}

// grant asks for tokens (RFC 6749 sections 4.1.3 and 6) and puts them in the state.
func (x *session) grant(ctx context.Context, s *state, c e2ei.Challenge, form url.Values) error {
	body := form.Encode()
	sum := sha256.Sum256([]byte(body))
	t, known := x.grants.recall(sum)
	if !known {
		r, err := x.do(ctx, http.MethodPost, s.login.Token, "application/x-www-form-urlencoded", []byte(body))
		if err != nil {
			return err
		}
		if t, err = parseTokens(r.status, r.body); err != nil {
			return err
		}
		if err := s.login.checkIDToken(t.ID, c, x.cfg.Clock()); err != nil {
			return err
		}
		if _, err := s.enrollment.OIDCChallengeRequest(t.ID, anyNonce); err != nil {
			return err
		}
	}
	if t.Refresh != "" {
		refresh := core.NewSecret([]byte(t.Refresh))
		defer refresh.Wipe()
		if err := s.enrollment.SetRefreshToken(refresh); err != nil {
			return err
		}
		s.stale, s.provider = false, s.login.Issuer
	}
	x.grants.remember(sum, t)
	s.token, s.grant = t.ID, sum[:]
	return nil
}

// tokens are what the identity provider gives.
type tokens struct {
	ID      string `json:"id_token"`
	Refresh string `json:"refresh_token"`
}

func parseTokens(status int, body []byte) (tokens, error) {
	var r struct {
		tokens
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	err := json.Unmarshal(body, &r)
	switch {
	case status != http.StatusOK || r.Error != "":
		return tokens{}, newOAuthError(status, r.Error, r.Description) // what was read
	case err != nil:
		return tokens{}, fmt.Errorf("%w: %w", ErrIDToken, err)
	case len(r.ID) > maxToken || len(r.Refresh) > maxToken:
		return tokens{}, fmt.Errorf("tokens of %d and %d bytes: %w", len(r.ID), len(r.Refresh), core.ErrTooLarge)
	}
	return r.tokens, nil
}

// The algorithms of ID tokens (RFC 7518 section 3.1, RFC 8037): those of a key that can be
// public.
var idTokenAlgorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

type idClaims struct {
	Issuer   string           `json:"iss"`
	Audience jwt.Audience     `json:"aud"`
	Expiry   *jwt.NumericDate `json:"exp"`
	Nonce    string           `json:"nonce"`
	KeyAuth  string           `json:"keyauth"`
	ACMEAud  string           `json:"acme_aud"`
}

// parseIDToken reads the claims of an ID token. Nobody here asks who signed it: it came over
// TLS (OpenID Connect Core section 3.1.3.7, 6), and the CA asks.
func parseIDToken(token string) (c idClaims, err error) {
	t, err := jwt.ParseSigned(token, idTokenAlgorithms)
	if err == nil {
		err = t.UnsafeClaimsWithoutVerification(&c)
	}
	if err != nil {
		return idClaims{}, fmt.Errorf("%w: %w", ErrIDToken, err)
	}
	return c, nil
}

// checkIDToken looks for what the CA would refuse, which would end the order.
func (l login) checkIDToken(token string, c e2ei.Challenge, now time.Time) error {
	have, err := parseIDToken(token)
	if err != nil {
		return err
	}
	for _, claim := range []struct {
		name string
		ok   bool
	}{
		{"iss", have.Issuer == l.Issuer},
		{"aud", have.Audience.Contains(l.ClientID)},
		{"exp", have.Expiry != nil && now.Before(have.Expiry.Time())},
		{"nonce", have.Nonce == l.Nonce || l.Nonce == ""}, // a refreshed one may have the old, or none
		{"keyauth", have.KeyAuth == c.KeyAuth},
		{"acme_aud", have.ACMEAud == c.URL},
	} {
		if !claim.ok {
			return fmt.Errorf("%w: claim %s", ErrIDToken, claim.name)
		}
	}
	return nil
}

// outdated says whether the ID token was kept for too long.
func (x *session) outdated(s *state) bool {
	c, err := parseIDToken(s.token)
	return err == nil && c.Expiry != nil && !x.cfg.Clock().Before(c.Expiry.Time())
}
