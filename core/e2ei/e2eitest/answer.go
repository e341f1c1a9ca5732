// SPDX-License-Identifier: Apache-2.0

package e2eitest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// Nonce is one of the backend, for a proof. The target is that of the DPoP challenge.
func (p *Peer) Nonce(ctx context.Context, target string) (string, error) {
	_, header, err := p.Do(ctx, http.MethodHead, strings.TrimSuffix(target, "access-token")+"nonce", nil)
	if err != nil {
		return "", err
	}
	return header.Get("Replay-Nonce"), nil
}

// AccessToken is the backend's for a proof.
func (p *Peer) AccessToken(ctx context.Context, target, proof string) (string, error) {
	body, _, err := p.Do(ctx, http.MethodPost, target, nil, "DPoP", proof)
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, body)
	}
	var access struct{ Token string }
	if err := json.Unmarshal(body, &access); err != nil {
		return "", err
	}
	return access.Token, nil
}

// Login is what a browser does with the address of a login page, and who sits before it: it
// gives the query with which the identity provider sends it back.
func (p *Peer) Login(ctx context.Context, address, login string) (redirectQuery string, err error) {
	page, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	q := page.Query()
	q.Set("login_hint", login)
	page.RawQuery = q.Encode()
	text, header, err := p.Do(ctx, http.MethodGet, page.String(), nil)
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, text)
	}
	back, err := url.Parse(header.Get("Location"))
	if err != nil {
		return "", err
	}
	return back.RawQuery, nil
}

// Answer does for somebody what an application does for an issuer: the hooks "wire.nonce" and
// "wire.access-token", the login and waiting. What the backend refuses goes to the issuer: a
// proof is good for one answer, also of who was interrupted. Any other need is an error.
func (p *Peer) Answer(who Person) func(context.Context, core.Need) (core.Input, error) {
	return func(ctx context.Context, need core.Need) (core.Input, error) {
		var result string
		var err error
		switch {
		case need.Visit != nil:
			query, err := p.Login(ctx, need.Visit.URL, who.Handle)
			return core.Input{RedirectQuery: query}, err
		case need.Call != nil && need.Call.Kind == "wire.nonce":
			if device := need.Call.Args["device"]; device != who.ClientID.DeviceID() {
				return core.Input{}, fmt.Errorf("a nonce for device %q", device)
			}
			result, err = p.Nonce(ctx, need.Call.Args["target"])
		case need.Call != nil && need.Call.Kind == "wire.access-token":
			result, err = p.AccessToken(ctx, need.Call.Args["target"], need.Call.Args["proof"])
			var refused *e2ei.Problem
			if errors.As(err, &refused) {
				return core.Input{Error: err.Error()}, nil
			}
		case need.Wait != nil:
			select {
			case <-ctx.Done():
				return core.Input{}, ctx.Err()
			case <-time.After(need.Wait.After):
				return core.Input{}, nil
			}
		default:
			return core.Input{}, fmt.Errorf("need %+v: %w", need, core.ErrUnsupported)
		}
		return core.Input{Result: []byte(result)}, err
	}
}

// IDToken logs somebody in and gives the ID token that answers a challenge, and a refresh
// token.
func (p *Peer) IDToken(ctx context.Context, c e2ei.Challenge, login string) (id, refresh string, err error) {
	issuer, form, err := p.grant(c)
	if err != nil {
		return "", "", err
	}
	verifier := rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	const redirect = "http://127.0.0.1/callback"
	query, err := p.Login(ctx, issuer+"/authorize?"+url.Values{
		"response_type": {"code"}, "scope": {"openid profile offline_access"}, "client_id": form["client_id"], "redirect_uri": {redirect},
		"state": {"s"}, "nonce": {"n"}, "code_challenge_method": {"S256"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
		"claims": form["claims"],
	}.Encode(), login)
	if err != nil {
		return "", "", err
	}
	back, err := url.ParseQuery(query)
	if err != nil {
		return "", "", err
	}
	form.Set("grant_type", "authorization_code")
	form.Set("code", back.Get("code"))
	form.Set("code_verifier", verifier)
	form.Set("redirect_uri", redirect)
	return p.token(ctx, issuer, form)
}

// Refresh is IDToken by a refresh token, which it uses up, without a person.
func (p *Peer) Refresh(ctx context.Context, c e2ei.Challenge, token string) (id, refresh string, err error) {
	issuer, form, err := p.grant(c)
	if err != nil {
		return "", "", err
	}
	form.Set("grant_type", "refresh_token")
	form.Set("refresh_token", token)
	return p.token(ctx, issuer, form)
}

// grant is what both kinds have in common: OpenID Connect Core section 5.5 for the claims.
func (p *Peer) grant(c e2ei.Challenge) (issuer string, form url.Values, err error) {
	target, err := url.Parse(c.Target)
	if err != nil {
		return "", nil, err
	}
	client := target.Query().Get("client_id")
	if client != p.OIDCClientID {
		return "", nil, fmt.Errorf("OAuth client %q", client)
	}
	target.RawQuery = ""
	claims, err := json.Marshal(map[string]any{"id_token": map[string]any{
		"keyauth":  map[string]any{"essential": true, "value": c.KeyAuth},
		"acme_aud": map[string]any{"essential": true, "value": c.URL},
	}})
	return target.String(), url.Values{"client_id": {client}, "claims": {string(claims)}}, err
}

func (p *Peer) token(ctx context.Context, issuer string, form url.Values) (id, refresh string, err error) {
	body, _, err := p.Do(ctx, http.MethodPost, issuer+"/token", []byte(form.Encode()), "Content-Type", "application/x-www-form-urlencoded")
	if err != nil {
		return "", "", fmt.Errorf("%w: %s", err, body)
	}
	var tokens struct {
		ID      string `json:"id_token"`
		Refresh string `json:"refresh_token"`
	}
	if err := json.Unmarshal(body, &tokens); err != nil {
		return "", "", err
	}
	if tokens.ID == "" || tokens.Refresh == "" {
		return "", "", errors.New("the identity provider gave no tokens")
	}
	return tokens.ID, tokens.Refresh, nil
}
