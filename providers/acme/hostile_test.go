// SPDX-License-Identifier: Apache-2.0

package acme_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/acme"
)

// maxRequests is what one call may ask: those of Begin, and some that are made twice.
const maxRequests = 8

// The attacks.

// changed lets the fake answer, and changes that, unless it refuses.
func changed(change func(o object)) answer {
	return func(_ int, w http.ResponseWriter, _ *http.Request, next func() object) {
		o := next()
		if _, refused := o["status"].(int); !refused {
			change(o)
		}
		send(w, 0, o)
	}
}

func with(name string, value any) answer { return changed(func(o object) { o[name] = value }) }

func says(o object) answer {
	return func(_ int, w http.ResponseWriter, _ *http.Request, next func() object) {
		next() // with its nonce
		send(w, 0, o)
	}
}

// instead does nothing.
func instead(o object) answer {
	return func(_ int, w http.ResponseWriter, _ *http.Request, _ func() object) { send(w, 0, o) }
}

func oversized(_ int, w http.ResponseWriter, _ *http.Request, next func() object) {
	next()
	chunk := strings.Repeat(" ", 1<<16)
	for range 17 {
		if _, err := io.WriteString(w, chunk); err != nil {
			return
		}
	}
}

func truncated(_ int, w http.ResponseWriter, _ *http.Request, next func() object) {
	next()
	w.Header().Set("Content-Length", "1000")
	_, _ = io.WriteString(w, `{"status":`)
}

func hangsUp(_ int, w http.ResponseWriter, _ *http.Request, next func() object) {
	next()
	panic(http.ErrAbortHandler)
}

func redirects(_ int, w http.ResponseWriter, r *http.Request, _ func() object) {
	w.Header().Set("Location", "/elsewhere"+r.URL.Path)
	w.Header().Set("Replay-Nonce", "AAAA")
	w.WriteHeader(http.StatusTemporaryRedirect)
}

func claims(change func(o object)) answer {
	return changed(func(o object) {
		o["id_token"] = changedToken(o["id_token"].(string), change)
	})
}

const foreign = "https://ca.evil.example/acme"

// What a server does wrong fails that one call, with an error that names the step; nothing is
// changed by it, nobody else is asked, and the same call goes on once the server has come to
// its senses.
func TestHostile(t *testing.T) {
	t.Parallel()
	identifiers := func(kind int, value string) answer {
		return changed(func(o object) {
			all := o["identifiers"].([]object)
			other := []object{all[0], all[1]}
			other[kind] = object{"type": all[kind]["type"], "value": value}
			o["identifiers"] = other
		})
	}
	const (
		bob  = `{"client-id":"wireapp://SvPfLlwBQi-6oddVRrkqpw!4c8@example.com","handle":"wireapp://%40alice_wire@example.com","name":"Alice","domain":"example.com"}`
		name = `{"handle":"wireapp://%40alice_wire@example.com","name":"Mallory","domain":"example.com"}`
	)
	other := newAuthority(t, "intermediate", nil)
	const discovery, token = "/idp/.well-known/openid-configuration", "/idp/token"
	for what, c := range map[string]struct {
		path   string
		attack answer
		want   error
		step   e2ei.Step
	}{
		"directory: oversized":    {"/directory", oversized, core.ErrTooLarge, e2ei.StepDirectory},
		"account: oversized":      {"/account", oversized, core.ErrTooLarge, e2ei.StepNewAccount},
		"order: oversized":        {"/new", oversized, core.ErrTooLarge, e2ei.StepNewOrder},
		"challenge: oversized":    {"/challenge/0/0", oversized, core.ErrTooLarge, e2ei.StepDPoPChallenge},
		"discovery: oversized":    {discovery, oversized, core.ErrTooLarge, e2ei.StepOIDCChallenge},
		"token: oversized":        {token, oversized, core.ErrTooLarge, e2ei.StepOIDCChallenge},
		"certificate: oversized":  {"/certificate", oversized, core.ErrTooLarge, e2ei.StepCertificate},
		"directory: truncated":    {"/directory", truncated, core.ErrUnavailable, e2ei.StepDirectory},
		"authorization: cut":      {"/authz", truncated, core.ErrUnavailable, e2ei.StepDeviceAuthorization},
		"token: truncated":        {token, truncated, core.ErrUnavailable, e2ei.StepOIDCChallenge},
		"finalize: truncated":     {"/finalize", truncated, core.ErrUnavailable, e2ei.StepFinalize},
		"certificate: truncated":  {"/certificate", truncated, core.ErrUnavailable, e2ei.StepCertificate},
		"nonce: hangs up":         {"/nonce", hangsUp, core.ErrUnavailable, e2ei.StepNewAccount},
		"order: hangs up":         {"/order", hangsUp, core.ErrUnavailable, e2ei.StepCheckOrder},
		"finalize: hangs up":      {"/finalize", hangsUp, core.ErrUnavailable, e2ei.StepFinalize},
		"discovery: hangs up":     {discovery, hangsUp, core.ErrUnavailable, e2ei.StepOIDCChallenge},
		"directory: redirects":    {"/directory", redirects, e2ei.ErrForeignURL, e2ei.StepDirectory},
		"nonce: redirects":        {"/nonce", redirects, e2ei.ErrForeignURL, e2ei.StepNewAccount},
		"account: redirects":      {"/account", redirects, e2ei.ErrForeignURL, e2ei.StepNewAccount},
		"challenge: redirects":    {"/challenge/0/1", redirects, e2ei.ErrForeignURL, e2ei.StepOIDCChallenge},
		"discovery: redirects":    {discovery, redirects, e2ei.ErrForeignURL, e2ei.StepOIDCChallenge},
		"token: redirects":        {token, redirects, e2ei.ErrForeignURL, e2ei.StepOIDCChallenge},
		"certificate: redirects":  {"/certificate", redirects, e2ei.ErrForeignURL, e2ei.StepCertificate},
		"directory: no JSON":      {"/directory", says(object{"text": "<html>"}), e2ei.ErrMalformed, e2ei.StepDirectory},
		"directory: of nobody":    {"/directory", says(object{"status": 404, "text": "<html>"}), core.ErrDenied, e2ei.StepDirectory},
		"directory: foreign":      {"/directory", with("newNonce", foreign), e2ei.ErrForeignURL, e2ei.StepDirectory},
		"order: foreign":          {"/new", with("finalize", foreign), e2ei.ErrForeignURL, e2ei.StepNewOrder},
		"order: foreign at check": {"/order", with("finalize", foreign), e2ei.ErrForeignURL, e2ei.StepCheckOrder},
		"finalize: foreign":       {"/finalize", with("certificate", foreign), e2ei.ErrForeignURL, e2ei.StepFinalize},
		"authorization: foreign": {"/authz/0/0", changed(func(o object) { o["challenges"].([]object)[0]["url"] = foreign }),
			e2ei.ErrForeignURL, e2ei.StepDeviceAuthorization},
		"authorization: target in the clear": {"/authz/0/1", changed(func(o object) { o["challenges"].([]object)[0]["target"] = "ftp://idp.example" }),
			e2ei.ErrForeignURL, e2ei.StepUserAuthorization},
		"authorization: a provider elsewhere without TLS": {"/authz/0/1", changed(func(o object) { o["challenges"].([]object)[0]["target"] = "http://idp.example?client_id=wireapp" }),
			e2ei.ErrForeignURL, e2ei.StepOIDCChallenge},
		"authorization: one twice": {"/authz/0/1", changed(func(o object) { o["identifier"].(object)["type"] = "wireapp-device" }),
			e2ei.ErrIdentifiers, e2ei.StepDeviceAuthorization},
		"authorization: no OAuth client": {"/authz/0/1", changed(func(o object) {
			c := o["challenges"].([]object)[0]
			c["target"], _, _ = strings.Cut(c["target"].(string), "?")
		}), core.ErrDenied, e2ei.StepOIDCChallenge},
		"nonce: none": {"/nonce", instead(object{}),
			e2ei.ErrMalformed, e2ei.StepNewAccount},
		"nonce: never right":           {"/account", says(problem(400, "badNonce")), core.ErrUnavailable, e2ei.StepNewAccount},
		"order: of another client":     {"/new", identifiers(0, bob), e2ei.ErrIdentifiers, e2ei.StepNewOrder},
		"order: of another name":       {"/order", identifiers(1, name), e2ei.ErrIdentifiers, e2ei.StepCheckOrder},
		"finalize: of another client":  {"/finalize", identifiers(0, bob), e2ei.ErrIdentifiers, e2ei.StepFinalize},
		"certificate: none":            {"/certificate", says(object{"text": ""}), e2ei.ErrCertificate, e2ei.StepCertificate},
		"certificate: chain turned":    {"/certificate", chain(other, 1, 0), e2ei.ErrWrongKey, e2ei.StepCertificate},
		"certificate: another CA's":    {"/certificate", chain(other, 0, 2), e2ei.ErrMismatch, e2ei.StepCertificate},
		"discovery: no JSON":           {discovery, says(object{"text": "{"}), acme.ErrDiscovery, e2ei.StepOIDCChallenge},
		"discovery: not there":         {discovery, says(object{"status": 404}), core.ErrDenied, e2ei.StepOIDCChallenge},
		"discovery: another issuer":    {discovery, with("issuer", "https://idp.evil.example"), acme.ErrDiscovery, e2ei.StepOIDCChallenge},
		"discovery: http for tokens":   {discovery, with("token_endpoint", "http://idp.example/token"), acme.ErrDiscovery, e2ei.StepOIDCChallenge},
		"discovery: http for logins":   {discovery, with("authorization_endpoint", "http://idp.example/login"), e2ei.ErrForeignURL, e2ei.StepOIDCChallenge},
		"discovery: no page":           {discovery, with("authorization_endpoint", "javascript:alert(1)"), acme.ErrDiscovery, e2ei.StepOIDCChallenge},
		"token: refused":               {token, says(object{"status": 400, "error": "invalid_grant"}), core.ErrDenied, e2ei.StepOIDCChallenge},
		"token: out of order":          {token, says(object{"status": 502, "text": "<html>"}), core.ErrUnavailable, e2ei.StepOIDCChallenge},
		"token: no JSON":               {token, says(object{"text": "id_token=x"}), acme.ErrIDToken, e2ei.StepOIDCChallenge},
		"token: none":                  {token, with("id_token", ""), acme.ErrIDToken, e2ei.StepOIDCChallenge},
		"token: no JWT":                {token, with("id_token", "a.b.c"), acme.ErrIDToken, e2ei.StepOIDCChallenge},
		"token: with a line break":     {token, changed(func(o object) { o["id_token"] = o["id_token"].(string) + "\n" }), core.ErrInvalid, e2ei.StepOIDCChallenge},
		"token: unsigned":              {token, with("id_token", "eyJhbGciOiJub25lIn0.e30."), acme.ErrIDToken, e2ei.StepOIDCChallenge},
		"token: huge":                  {token, with("id_token", strings.Repeat("a", 1<<16+1)), core.ErrTooLarge, e2ei.StepOIDCChallenge},
		"token: a huge one to refresh": {token, with("refresh_token", strings.Repeat("a", 1<<16+1)), core.ErrTooLarge, e2ei.StepOIDCChallenge},
		"token: another nonce":         {token, claims(func(o object) { o["nonce"] = "n" }), acme.ErrIDToken, e2ei.StepOIDCChallenge},
		"token: no nonce":              {token, claims(func(o object) { delete(o, "nonce") }), acme.ErrIDToken, e2ei.StepOIDCChallenge},
		"token: another keyauth":       {token, claims(func(o object) { o["keyauth"] = "k" }), acme.ErrIDToken, e2ei.StepOIDCChallenge},
		"token: another acme_aud":      {token, claims(func(o object) { o["acme_aud"] = foreign }), acme.ErrIDToken, e2ei.StepOIDCChallenge},
		"token: another audience":      {token, claims(func(o object) { o["aud"] = "other" }), acme.ErrIDToken, e2ei.StepOIDCChallenge},
		"token: another issuer":        {token, claims(func(o object) { o["iss"] = "https://idp.evil.example" }), acme.ErrIDToken, e2ei.StepOIDCChallenge},
		"token: expired":               {token, claims(func(o object) { o["exp"] = time.Now().Unix() - 1 }), acme.ErrIDToken, e2ei.StepOIDCChallenge},
		"token: for ever":              {token, claims(func(o object) { delete(o, "exp") }), acme.ErrIDToken, e2ei.StepOIDCChallenge},
		"challenge: another":           {"/challenge/0/0", with("type", "http-01"), e2ei.ErrChallengeType, e2ei.StepDPoPChallenge},
		"challenge: a proxy's no":      {"/challenge/0/1", says(object{"status": 403, "text": "<html>"}), core.ErrDenied, e2ei.StepOIDCChallenge},
		"challenge: out of order":      {"/challenge/0/1", says(object{"status": 500, "type": "urn:ietf:params:acme:error:serverInternal"}), core.ErrDenied, e2ei.StepOIDCChallenge},
		"finalize: out of order":       {"/finalize", instead(problem(500, "serverInternal")), core.ErrDenied, e2ei.StepFinalize},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, false)
			i, alice := f.issuer(t, nil), newClient(t, f, core.Ed25519)
			f.on(c.path, c.attack)
			var before core.Step
			step, err := i.Begin(t.Context(), alice.request)
			for err == nil {
				if step.Need.Done != nil || step.Need.Refused != nil {
					t.Fatalf("it came to %s", kind(step.Need))
				}
				f.count()
				before = step
				step, err = i.Advance(t.Context(), before.State, alice.input(before.Need))
			}
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if kind := core.Kind(err); before.State == nil && (kind == core.ErrInvalid || kind == core.ErrUnsupported) {
				t.Errorf("%v is the request's fault", err)
			}
			var at *e2ei.StepError
			var by *core.ProviderError
			if !errors.As(err, &at) || at.Step != c.step || !errors.As(err, &by) || by.Provider != "acme" {
				t.Errorf("%v: not at %s", err, c.step)
			}
			if strings.Contains(err.Error(), "eyJ") {
				t.Errorf("%v shows a token", err)
			}
			if all, each := f.count(); all > maxRequests || each["/elsewhere"] > 0 {
				t.Errorf("%d requests: %v", all, each)
			}
			f.on(c.path, nil)
			if before.State == nil || strings.HasPrefix(c.path, "/authz") { // what was read stays
				before = alice.begin(i)
			}
			alice.to(i, before, "done")
		})
	}
}

// changedToken is an ID token with other claims.
func changedToken(token string, change func(o object)) string {
	var o object
	_ = json.Unmarshal(raw(strings.Split(token, ".")[1]), &o)
	change(o)
	return idToken(o)
}

// chain picks from the leaf, its issuer, and another CA.
func chain(other *authority, which ...int) answer {
	return changed(func(o object) {
		parts := strings.SplitAfter(o["text"].(string), "-----END CERTIFICATE-----\n")
		parts[2] = string(other.pem())
		o["text"] = ""
		for _, n := range which {
			o["text"] = o["text"].(string) + parts[n]
		}
	})
}

// A certificate for another key or another name is not taken.
func TestWrongCertificate(t *testing.T) {
	t.Parallel()
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	other := newAuthority(t, "other", nil)
	for what, c := range map[string]struct {
		change func(*x509.Certificate)
		want   error
	}{
		"another key":    {func(c *x509.Certificate) { c.PublicKey = &other.key.PublicKey }, e2ei.ErrWrongKey},
		"another client": {func(c *x509.Certificate) { c.URIs[0] = uri("wireapp://SvPfLlwBQi-6oddVRrkqpw%214c8@example.com") }, e2ei.ErrMismatch},
		"another handle": {func(c *x509.Certificate) { c.URIs[1] = uri("wireapp://%40mallory@example.com") }, e2ei.ErrMismatch},
		"another name": {func(c *x509.Certificate) {
			c.Subject = pkix.Name{CommonName: "Mallory", Organization: []string{"example.com"}}
		}, e2ei.ErrMismatch},
		"a CA": {func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, e2ei.ErrConstraint},
	} {
		f := newFake(t, false)
		f.issued = c.change
		i, alice := f.issuer(t, nil), newClient(t, f, core.ECDSAP256)
		step, _ := alice.to(i, alice.begin(i), "sign")
		_, err := i.Advance(t.Context(), step.State, alice.input(step.Need))
		var at *e2ei.StepError
		if !errors.Is(err, c.want) || !errors.As(err, &at) || at.Step != e2ei.StepCertificate {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}

// A server that never answers is waited for until the time is up, or the caller gives up.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	hangs := func(reached func()) answer {
		return func(_ int, _ http.ResponseWriter, r *http.Request, _ func() object) {
			_, _ = io.ReadAll(r.Body) // a server that has not does not see who goes
			reached()
			<-r.Context().Done()
		}
	}
	alice := newClient(t, f, core.Ed25519)
	f.on("/directory", hangs(func() {}))
	limited := *f.Client()
	limited.Timeout = 20 * time.Millisecond
	_, err := f.issuer(t, func(c *acme.Config) { c.HTTP = &limited }).Begin(t.Context(), alice.request)
	if !errors.Is(err, core.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a directory that never comes: %v", err)
	}
	f.on("/directory", nil)

	i := f.issuer(t, nil)
	step := alice.begin(i)
	for path, need := range map[string]string{"/challenge": "wire.access-token", "/idp/token": "visit", "/finalize": "sign"} {
		at, _ := alice.to(i, step, need)
		ctx, cancel := context.WithCancel(t.Context())
		f.on(path, hangs(cancel))
		if _, err := i.Advance(ctx, at.State, alice.input(at.Need)); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", path, err)
		}
		f.on(path, nil)
	}
	// Headers at once, and a body that never ends.
	f.on("/directory", func(_ int, w http.ResponseWriter, r *http.Request, _ func() object) {
		_, _ = io.WriteString(w, "{")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	_, err = f.issuer(t, func(c *acme.Config) { c.HTTP = &limited }).Begin(t.Context(), alice.request)
	if !errors.Is(err, core.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a body that never ends: %v", err)
	}
}

// Only TLS will do, with whom the client trusts.
func TestTLS(t *testing.T) {
	t.Parallel()
	f := newFake(t, true)
	alice := newClient(t, f, core.Ed25519)
	i := f.issuer(t, func(c *acme.Config) { c.AllowHTTP = false })
	f.on("/idp/.well-known/openid-configuration", changed(func(o object) {
		o["token_endpoint"] = strings.Replace(o["token_endpoint"].(string), "https:", "http:", 1)
	}))
	step, _ := alice.to(i, alice.begin(i), "wire.access-token")
	if _, err := i.Advance(t.Context(), step.State, alice.input(step.Need)); !errors.Is(err, acme.ErrDiscovery) {
		t.Errorf("a token endpoint without TLS: %v", err)
	}
	f.on("/idp/.well-known/openid-configuration", nil)
	alice.to(i, step, "done")

	unknown := f.issuer(t, func(c *acme.Config) { c.HTTP = nil })
	defer unknown.Close()
	if _, err := unknown.Begin(t.Context(), alice.request); !errors.Is(err, core.ErrDenied) || errors.Is(err, core.ErrUnavailable) {
		t.Errorf("a server that the system does not know: %v", err)
	}
	plain := newFake(t, false)
	if _, err := acme.New(acme.Config{Directory: plain.URL + "/directory", RedirectURI: redirectURI}); !errors.Is(err, e2ei.ErrForeignURL) {
		t.Errorf("a directory without TLS: %v", err)
	}
}

// A redirect that does not answer the login changes nothing, whoever made it.
func TestRedirect(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	i, alice := f.issuer(t, nil), newClient(t, f, core.Ed25519)
	step, _ := alice.to(i, alice.begin(i), "visit")
	good := f.browse(t, step.Need.Visit.URL)
	q, err := url.ParseQuery(good)
	if err != nil {
		t.Fatal(err)
	}
	state := "&state=" + q.Get("state")
	f.count()
	for what, c := range map[string]struct {
		query string
		want  error
	}{
		"another state":     {"code=x&state=y", acme.ErrRedirect},
		"no state":          {"code=x", acme.ErrRedirect},
		"a state twice":     {"code=x&state=y" + state, acme.ErrRedirect},
		"two codes":         {good + "&code=x", acme.ErrRedirect},
		"no code":           {"x=y" + state, acme.ErrRedirect},
		"another provider":  {"code=x&iss=https://idp.evil.example" + state, acme.ErrRedirect},
		"no provider":       {"code=x&iss=" + state, acme.ErrRedirect},
		"no query":          {"%zz" + state, acme.ErrRedirect},
		"too long":          {good + "&x=" + strings.Repeat("x", 1<<16), acme.ErrRedirect},
		"an error's forger": {"error=access_denied&state=y", acme.ErrRedirect},
		"a no":              {"error=access_denied&error_description=not%20you" + state, core.ErrDenied},
		"not now":           {"error=temporarily_unavailable" + state, core.ErrUnavailable},
	} {
		_, err := i.Advance(t.Context(), step.State, core.Input{RedirectQuery: c.query})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
		if errors.Is(err, acme.ErrRedirect) && strings.Contains(err.Error(), q.Get("code")) {
			t.Errorf("%s: %v shows the code", what, err)
		}
		var said *acme.OAuthError
		if what == "a no" && (!errors.As(err, &said) || said.Code != "access_denied" || said.Description != "not you" || said.Status != 0) {
			t.Errorf("%s: %#v", what, said)
		}
	}
	if all, each := f.count(); all != 0 {
		t.Errorf("requests: %v", each)
	}
	step, err = i.Advance(t.Context(), step.State, core.Input{RedirectQuery: good})
	if err != nil {
		t.Fatal(err)
	}
	alice.to(i, step, "done")
}
