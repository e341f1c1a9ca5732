// SPDX-License-Identifier: Apache-2.0

package acme_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/acme"
)

// refresh begins a renewal that has a refresh token, of a client who has a credential.
func refresh(t *testing.T, f *fake, i *acme.Issuer) *client {
	t.Helper()
	alice := newClient(t, f, core.Ed25519)
	step, _ := alice.to(i, alice.begin(i), "done")
	alice.request.Action, alice.request.Previous, alice.request.Carry = core.ActionRenew, step.Need.Done.Credential, step.Need.Done.Carry
	return alice
}

// Where a server says that the enrolment cannot go on, that is told, and it is not final.
func TestRefused(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		path   string
		attack answer
		at     string // the need whose answer was refused
		reason string
	}{
		"DPoP challenge": {"/challenge/0/0", changed(func(o object) {
			o["status"], o["error"] = "invalid", object{"type": "urn:ietf:params:acme:error:unauthorized", "detail": "no such proof"}
		}), "wire.access-token", "no such proof"},
		"OIDC challenge": {"/challenge/0/1", changed(func(o object) {
			o["status"], o["error"] = "invalid", object{"type": "urn:ietf:params:acme:error:unauthorized", "detail": "no such user"}
		}), "wait", "no such user"},
		"challenge of an order that is gone": {"/challenge/0/1", says(problem(404, "malformed")), "wait", "because of malformed"},
		"an account that was closed":         {"/challenge/0/0", says(problem(401, "accountDoesNotExist")), "wire.access-token", "accountDoesNotExist"},
		"certificate request":                {"/finalize", instead(problem(400, "badCSR")), "sign", "because of badCSR"},
		"order that failed":                  {"/finalize", with("status", "invalid"), "sign", "order refused"},
		"order that expired":                 {"/finalize", with("expires", time.Now().Add(-time.Hour)), "sign", "expired"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, false)
			i, alice := f.issuer(t, func(c *acme.Config) { c.Team = "" }), newClient(t, f, core.Ed25519)
			// A login without a refresh token, so that there is no other order.
			f.on("/idp/token", changed(func(o object) { delete(o, "refresh_token") }))
			f.on(c.path, c.attack)
			step, _ := alice.to(i, alice.begin(i), c.at)
			step = alice.advance(i, step)
			r := step.Need.Refused
			if r == nil || r.Final || !strings.Contains(r.Reason, c.reason) || step.State != nil {
				t.Errorf("%s: %+v", kind(step.Need), r)
			}
		})
	}
}

// Whoever cannot meet a need gives up; but a backend that did not take a proof is given
// another one first, with another nonce.
func TestUnmet(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	i, alice := f.issuer(t, nil), newClient(t, f, core.Ed25519)
	step := alice.begin(i)
	proofs := map[string]bool{}
	for range 3 {
		if step.Need.Call == nil || step.Need.Call.Kind != "wire.nonce" {
			t.Fatalf("need %s", kind(step.Need))
		}
		step = alice.advance(i, step)
		proofs[step.Need.Call.Args["proof"]] = true
		var err error
		if step, err = i.Advance(t.Context(), step.State, core.Input{Error: "it was used"}); err != nil {
			t.Fatal(err)
		}
	}
	if len(proofs) != 3 || step.Need.Refused == nil || step.Need.Refused.Reason != "it was used" || step.Need.Refused.Final {
		t.Errorf("%d proofs, then %s", len(proofs), kind(step.Need))
	}
	visit, _ := alice.to(i, alice.begin(i), "visit")
	step, err := i.Advance(t.Context(), visit.State, core.Input{Error: "nobody at home"})
	if err != nil || step.Need.Refused == nil || step.Need.Refused.Reason != "nobody at home" {
		t.Errorf("%s, %v", kind(step.Need), err)
	}
}

// What a hook gives is looked at before it is sent.
func TestWrongResults(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	i, alice := f.issuer(t, nil), newClient(t, f, core.Ed25519)
	nonce := alice.begin(i)
	access, _ := alice.to(i, nonce, "wire.access-token")
	f.count()
	for _, step := range []core.Step{nonce, access} {
		for _, result := range [][]byte{nil, make([]byte, 1<<17), []byte("a b")} {
			if step.Need.Call.Kind == "wire.nonce" && len(result) == 3 {
				continue // the backend's nonces are its own
			}
			if _, err := i.Advance(t.Context(), step.State, core.Input{Result: result}); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("%s with %d bytes: %v", step.Need.Call.Kind, len(result), err)
			}
		}
		if args := step.Need.Call.Args; args["device"] != "4c7" || args["target"] != f.URL+"/backend/access-token" {
			t.Errorf("%v", args)
		}
	}
	if all, each := f.count(); all != 0 {
		t.Errorf("asked %v", each)
	}
}

// A server at work is waited for, in growing pauses unless it says more, and not for ever.
func TestProcessing(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/challenge/0/0", "/challenge/0/1", "/finalize"} {
		f := newFake(t, false)
		i, alice := f.issuer(t, nil), newClient(t, f, core.ECDSAP384)
		processing := changed(func(o object) {
			if o["status"] = "processing"; path == "/finalize" {
				delete(o, "certificate")
			}
		})
		f.on(path, processing)
		before := map[string]string{"/challenge/0/0": "wire.access-token", "/challenge/0/1": "wait", "/finalize": "sign"}[path]
		step, _ := alice.to(i, alice.begin(i), before)
		step = alice.advance(i, step)
		if path == "/finalize" { // where it is asked for then
			f.on("/order", processing)
		}
		waiting := step
		var pauses []time.Duration
		for step.Need.Wait != nil {
			pauses = append(pauses, step.Need.Wait.After)
			f.count()
			step = alice.advance(i, step)
			if all, each := f.count(); all > 2 {
				t.Fatalf("%s: %v", path, each)
			}
		}
		if len(pauses) != 60 || !slices.IsSorted(pauses) || pauses[0] != time.Second || pauses[59] != time.Minute || step.Need.Refused == nil {
			t.Errorf("%s: %v, then %s", path, pauses, kind(step.Need))
		}
		f.on(path, nil)
		f.on("/order", nil)
		alice.to(i, waiting, "done")
		if _, each := f.count(); each["/finalize"] > 1 {
			t.Errorf("%s: finalized %d times", path, each["/finalize"])
		}
	}
}

// A server whose order lags behind its challenges is waited for, too.
func TestPending(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/challenge/0/0", "/challenge/0/1", "/order"} {
		f := newFake(t, false)
		i, alice := f.issuer(t, nil), newClient(t, f, core.Ed25519)
		f.on(path, func(n int, w http.ResponseWriter, r *http.Request, next func() object) {
			if o := next(); n > 1 {
				send(w, 0, o)
			} else {
				o["status"] = "pending"
				send(w, 0, o)
			}
		})
		_, through := alice.to(i, alice.begin(i), "done")
		waits := 0
		for _, need := range through {
			if need == "wait" {
				waits++
			}
		}
		if waits != 2 {
			t.Errorf("%s: %q", path, through)
		}
	}
}

// A server may ask for patience wherever it is asked for something, and nothing is lost by it.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	// What one reply asks for is not for another that did not come.
	early := newFake(t, false)
	early.on("/directory", func(_ int, w http.ResponseWriter, _ *http.Request, next func() object) {
		w.Header().Set("Retry-After", "7")
		send(w, 0, next())
	})
	early.on("/nonce", hangsUp)
	if step, err := early.issuer(t, nil).Begin(t.Context(), newClient(t, early, core.Ed25519).request); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("%s, %v", kind(step.Need), err)
	}

	noon := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	for what, c := range map[string]struct {
		header string
		want   time.Duration
	}{
		"seconds": {"90", 90 * time.Second}, "less than a pause": {"0", 0}, "a date": {"Mon, 01 Jun 2026 12:05:00 GMT", 5 * time.Minute},
		"for ever": {"4294967295", time.Hour}, "the future": {"Mon, 01 Jun 2099 12:05:00 GMT", time.Hour}, "the past": {"Mon, 01 Jun 2020 12:05:00 GMT", 0},
		"nonsense": {"soon", 0}, "none": {"", 0}, "negative": {"-1", 0}, "huge": {"99999999999999999999", 0},
	} {
		f := newFake(t, false)
		i, alice := f.issuer(t, func(c *acme.Config) { c.Clock = func() time.Time { return noon } }), newClient(t, f, core.Ed25519)
		f.on("/directory", func(_ int, w http.ResponseWriter, _ *http.Request, _ func() object) {
			w.Header().Set("Retry-After", c.header)
			send(w, 503, object{})
		})
		step, err := i.Begin(t.Context(), alice.request)
		if c.want == 0 {
			if !errors.Is(err, core.ErrUnavailable) {
				t.Errorf("%s: %s, %v", what, kind(step.Need), err)
			}
		} else if err != nil || step.Need.Wait == nil || step.Need.Wait.After != c.want {
			t.Errorf("%s: %+v, %v", what, step.Need.Wait, err)
		}
	}

	f := newFake(t, false)
	i := f.issuer(t, nil)
	for _, alice := range []*client{newClient(t, f, core.Ed25519), refresh(t, f, i)} {
		for _, path := range []string{"/directory", "/nonce", "/account", "/new", "/authz", "/challenge", "/order", "/finalize", "/certificate", "/idp/.well-known", "/idp/token"} {
			if path == "/idp/token" && alice.request.Action == core.ActionIssue {
				continue // the code would be lost: it is an error, and the person goes there again
			}
			busy := true
			f.on(path, func(_ int, w http.ResponseWriter, _ *http.Request, next func() object) {
				if !busy {
					send(w, 0, next())
					return
				}
				busy = false
				w.Header().Set("Retry-After", "7")
				send(w, 429, object{"type": "urn:ietf:params:acme:error:rateLimited"})
			})
			step, through := alice.to(i, alice.begin(i), "done")
			waits := 0
			for _, need := range through {
				if need == "wait" {
					waits++
				}
			}
			if waits != 2 {
				t.Errorf("%s: %q", path, through)
			}
			f.on(path, nil)
			alice.request.Carry = step.Need.Done.Carry
		}
	}
}

// A nonce that is refused costs one more request.
func TestBadNonce(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	i, alice := f.issuer(t, nil), newClient(t, f, core.Ed25519)
	for _, path := range []string{"/account", "/new", "/authz", "/challenge", "/order", "/finalize", "/certificate"} {
		stale := map[string]bool{}
		f.on(path, func(_ int, w http.ResponseWriter, r *http.Request, next func() object) {
			if !stale[r.URL.Path] {
				stale[r.URL.Path] = true
				f.mu.Lock()
				clear(f.nonces) // as after a restart
				f.mu.Unlock()
			}
			send(w, 0, next())
		})
		f.count()
		alice.to(i, alice.begin(i), "done")
		if _, each := f.count(); each[path] != 2*len(stale) || len(stale) == 0 {
			t.Errorf("%s: %v", path, each)
		}
		f.on(path, nil)
	}
	// Nor does a server matter that gives none with its replies.
	f.on("", func(_ int, w http.ResponseWriter, r *http.Request, next func() object) {
		o := next()
		if r.Method != http.MethodHead {
			w.Header().Del("Replay-Nonce")
		}
		send(w, 0, o)
	})
	alice.to(i, alice.begin(i), "done")
}

// A call whose end was not stored is made again, from every need.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	i, alice := f.issuer(t, nil), newClient(t, f, core.ECDSAP521)
	var steps []core.Step
	for step := alice.begin(i); ; step = alice.advance(i, step) {
		if steps = append(steps, step); step.Need.Done != nil {
			break
		}
	}
	f.count()
	// The order is valid by now, and each of these comes to the same certificate, but the
	// visit: its code was used.
	for _, step := range steps[:len(steps)-1] {
		if kind(step.Need) == "wire.nonce" {
			continue // makes another proof
		}
		again, _ := alice.to(f.issuer(t, nil), step, "done")
		if !slices.Equal(again.Need.Done.Credential.Certificates[0], steps[len(steps)-1].Need.Done.Credential.Certificates[0]) {
			t.Errorf("%s: another certificate", kind(step.Need))
		}
	}
	if len(f.orders) != 1 {
		t.Errorf("%d orders", len(f.orders))
	}
	// The order is found valid where it is only checked.
	if _, each := f.count(); each["/finalize"] != 1 {
		t.Errorf("asked to finalize: %v", each)
	}

	// The request was taken, and its reply lost.
	step, _ := alice.to(i, alice.begin(i), "sign")
	f.on("/finalize", hangsUp)
	if _, err := i.Advance(t.Context(), step.State, alice.input(step.Need)); !errors.Is(err, core.ErrUnavailable) {
		t.Fatal(err)
	}
	f.on("/finalize", nil)
	alice.to(i, step, "done")

	// As before, and the server is at work.
	step, _ = alice.to(i, alice.begin(i), "sign")
	in := alice.input(step.Need)
	if _, err := i.Advance(t.Context(), step.State, in); err != nil {
		t.Fatal(err)
	}
	f.on("/order", changed(func(o object) { o["status"] = "processing" }))
	step, err := i.Advance(t.Context(), step.State, in)
	if err != nil || step.Need.Wait == nil {
		t.Fatalf("%s, %v", kind(step.Need), err)
	}
	f.on("/order", nil)
	alice.to(i, step, "done")
}

// An order that failed or expired is replaced where that takes no login, once.
func TestAnotherOrder(t *testing.T) {
	t.Parallel()
	for what, attack := range map[string]answer{
		"failed": with("status", "invalid"), "expired": with("expires", time.Now().Add(-time.Hour)),
	} {
		f := newFake(t, false)
		i, alice := f.issuer(t, nil), newClient(t, f, core.Ed25519)
		f.on("/order/0", attack)
		step, through := alice.to(i, alice.begin(i), "done")
		if want := []string{"wire.nonce", "wire.access-token", "visit", "wait", "wire.nonce", "wire.access-token", "wait", "sign", "done"}; !slices.Equal(through, want) {
			t.Errorf("%s: %q", what, through)
		}
		if !f.refreshes(step.Need.Done.Carry) {
			t.Errorf("%s: the refresh token is not the last one", what)
		}
		// It was good when it was checked.
		f.on("/order/2", func(n int, w http.ResponseWriter, r *http.Request, next func() object) {
			if n == 1 {
				send(w, 0, next())
				return
			}
			with("status", "invalid")(n, w, r, next) // of an expired one, too
		})
		f.on("/finalize/2", instead(problem(403, "orderNotReady")))
		if _, through = alice.to(i, alice.begin(i), "done"); len(through) != 10 || through[4] != "sign" || through[5] != "wire.nonce" {
			t.Errorf("%s after the check: %q", what, through)
		}

		f.on("/order", attack)
		if step, _ = alice.to(i, alice.begin(i), "wait"); step.Need.Wait == nil {
			t.Fatal(kind(step.Need))
		}
		step = alice.advance(i, step) // to the second order
		if step, _ = alice.to(i, step, "wait"); step.Need.Wait == nil {
			t.Fatal(kind(step.Need))
		}
		f.count()
		if step = alice.advance(i, step); step.Need.Refused == nil {
			t.Errorf("%s twice: %s", what, kind(step.Need))
		}

		// Before a login, there is none to lose.
		f.on("/order", nil)
		alice.request.Carry = step.Need.Refused.Carry
		f.on(fmt.Sprintf("/authz/%d", len(f.orders)), attack)
		if _, through = alice.to(i, alice.begin(i), "done"); slices.Contains(through, "visit") {
			t.Errorf("%s before the login: %q", what, through)
		}
	}
}

// A renewal without a person, and when it takes one after all.
func TestRefresh(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		attack answer
		visit  bool
		carry  bool // there is one afterwards
	}{
		"good":               {nil, false, true},
		"refused":            {first(says(object{"status": 400, "error": "invalid_grant"})), true, true},
		"refused by 401":     {first(says(object{"status": 401, "error": "invalid_client"})), true, true},
		"old claims":         {first(claims(func(o object) { o["keyauth"] = "old" })), true, true},
		"not rotated":        {changed(func(o object) { delete(o, "refresh_token") }), false, true},
		"another nonce":      {claims(func(o object) { o["nonce"] = "of the first login" }), false, true},
		"refused, and none?": {refusedAndNone, true, false},
	} {
		f := newFake(t, false)
		i := f.issuer(t, nil)
		alice := refresh(t, f, i)
		f.on("/idp/token", c.attack)
		step, through := alice.to(i, alice.begin(i), "done")
		if slices.Contains(through, "visit") != c.visit {
			t.Errorf("%s: %q", what, through)
		}
		carry := step.Need.Done.Carry
		if c.carry != (carry != nil) || c.carry && what != "not rotated" && !f.refreshes(carry) || what == "not rotated" && !slices.Equal(carry, alice.request.Carry) {
			t.Errorf("%s: Carry %q", what, carry)
		}
	}

	// What says nothing of the token does not use it up.
	f := newFake(t, false)
	i := f.issuer(t, nil)
	alice := refresh(t, f, i)
	step, _ := alice.to(i, alice.begin(i), "wire.access-token")
	for what, attack := range map[string]answer{
		"out of order": instead(object{"status": 500}), "not now": instead(object{"status": 400, "error": "temporarily_unavailable"}),
		"a proxy": instead(object{"status": 403, "text": "<html>"}), "too long": oversizedInstead,
	} {
		f.on("/idp/token", attack)
		var at *e2ei.StepError
		if next, err := i.Advance(t.Context(), step.State, alice.input(step.Need)); !errors.As(err, &at) || at.Step != e2ei.StepOIDCChallenge {
			t.Errorf("%s: %s, %v", what, kind(next.Need), err)
		}
	}
	f.on("/idp/token", nil)
	if _, through := alice.to(i, step, "done"); slices.Contains(through, "visit") {
		t.Errorf("%q", through)
	}
}

func oversizedInstead(n int, w http.ResponseWriter, r *http.Request, _ func() object) {
	oversized(n, w, r, func() object { return nil })
}

// first is hostile to one request; the one of an issue came before.
func first(a answer) answer {
	return func(n int, w http.ResponseWriter, r *http.Request, next func() object) {
		if n == 2 {
			a(n, w, r, next)
			return
		}
		send(w, 0, next())
	}
}

func refusedAndNone(n int, w http.ResponseWriter, r *http.Request, next func() object) {
	if n == 2 {
		says(object{"status": 400, "error": "invalid_grant"})(n, w, r, next)
		return
	}
	changed(func(o object) { delete(o, "refresh_token") })(n, w, r, next)
}

// A login is used once, and asked for once by whoever could not store what came of it.
func TestGrants(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	i, alice := f.issuer(t, nil), newClient(t, f, core.Ed25519)
	visit, _ := alice.to(i, alice.begin(i), "visit")
	in := alice.input(visit.Need)
	f.count()
	var waits []core.Step
	for range 3 {
		step, err := i.Advance(t.Context(), visit.State, in)
		if err != nil {
			t.Fatal(err)
		}
		waits = append(waits, step)
	}
	if all, each := f.count(); all != 1 {
		t.Errorf("requests: %v", each)
	}
	alice.to(i, waits[2], "done")
	// It was stored, so it is forgotten: the provider says what it says of a used code.
	var refusal *acme.OAuthError
	if _, err := i.Advance(t.Context(), visit.State, in); !errors.As(err, &refusal) || refusal.Code != "invalid_grant" || refusal.Status != 400 {
		t.Errorf("%v", err)
	}
	// The person may go there again.
	alice.to(i, visit, "done")

	visit, _ = alice.to(i, alice.begin(i), "visit")
	in = alice.input(visit.Need)
	if _, err := i.Advance(t.Context(), visit.State, in); err != nil {
		t.Fatal(err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Advance(t.Context(), visit.State, in); !errors.As(err, &refusal) {
		t.Errorf("after Close: %v", err)
	}
}

// An ID token that was kept for too long is replaced.
func TestOutdatedToken(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	now := time.Now()
	i := f.issuer(t, func(c *acme.Config) { c.Clock = func() time.Time { return now } })
	alice := newClient(t, f, core.Ed25519)
	step, _ := alice.to(i, alice.begin(i), "wait")
	now = now.Add(6 * time.Minute)
	// The fake's clock is the real one, so its next token has expired, too.
	f.on("/idp/token", claims(func(o object) { o["exp"] = now.Unix() + 60 }))
	f.count()
	_, through := alice.to(i, step, "done")
	if _, each := f.count(); !slices.Equal(through, []string{"wait", "wait", "sign", "done"}) || each["/challenge"] != 1 {
		t.Errorf("%q, %v", through, each)
	}

	// Without a refresh token, by another login.
	f.on("/idp/token", changed(func(o object) { delete(o, "refresh_token") }))
	now = time.Now()
	step, _ = alice.to(i, alice.begin(i), "wait")
	now = now.Add(6 * time.Minute)
	f.count()
	step = alice.advance(i, step)
	if _, each := f.count(); step.Need.Visit == nil || each["/challenge"] != 0 {
		t.Errorf("%s, %v", kind(step.Need), each)
	}
}

// The login page is where the provider says, and is told what it has to be told.
func TestLoginPage(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	i, alice := f.issuer(t, func(c *acme.Config) { c.OAuthClientID = "configured" }), newClient(t, f, core.Ed25519)
	page := func(change func(o object)) string {
		f.on("/idp/.well-known", changed(change))
		step, _ := alice.to(i, alice.begin(i), "visit")
		if step.Need.Visit.RedirectURI != redirectURI {
			t.Errorf("redirect to %q", step.Need.Visit.RedirectURI)
		}
		return step.Need.Visit.URL
	}
	for what, c := range map[string]struct {
		change func(o object)
		want   string
	}{
		"plain":           {func(object) {}, f.URL + "/idp/authorize?"},
		"a query":         {func(o object) { o["authorization_endpoint"] = f.URL + "/idp/authorize?a=b" }, "/idp/authorize?a=b&"},
		"offline":         {func(object) {}, "scope=openid+profile+offline_access&"},
		"offline is told": {func(o object) { o["scopes_supported"] = []string{"openid", "offline_access"} }, "scope=openid+profile+offline_access&"},
		"not offline":     {func(o object) { o["scopes_supported"] = []string{"openid", "profile"} }, "scope=openid+profile&"},
		"PKCE":            {func(object) {}, "code_challenge_method=S256"},
		"our name":        {func(object) {}, "client_id=configured&"},
	} {
		if got := page(c.change); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s", what, got)
		}
	}
	if a, b := page(func(object) {}), page(func(object) {}); a == b {
		t.Error("two logins are one")
	}
	f.on("/authz", changed(func(o object) {
		c := o["challenges"].([]object)[0]
		c["target"] = strings.Replace(c["target"].(string), "client_id=wireapp", "clientid=other", 1)
	}))
	i = f.issuer(t, nil)
	if got := page(func(object) {}); !strings.Contains(got, "client_id=other&") {
		t.Errorf("the other spelling: %s", got)
	}
}
