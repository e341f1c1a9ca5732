// SPDX-License-Identifier: Apache-2.0

package acme_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// loginAt makes the CA of a fake name the identity provider of another one.
func (f *fake) loginAt(other *fake) {
	f.on("/authz", func(_ int, w http.ResponseWriter, _ *http.Request, next func() object) {
		o := next()
		if c := o["challenges"].([]object)[0]; c["type"] == "wire-oidc-01" {
			c["target"] = other.URL + "/idp?client_id=wireapp"
		}
		send(w, 0, o)
	})
}

// overhear keeps what the identity provider of a fake is sent.
func (f *fake) overhear(change func(o object)) *bytes.Buffer {
	heard := &bytes.Buffer{}
	f.on("/idp", func(_ int, w http.ResponseWriter, r *http.Request, next func() object) {
		body, _ := io.ReadAll(r.Body)
		_, _ = heard.WriteString(r.URL.String())
		_, _ = heard.Write(body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		o := next()
		change(o)
		send(w, 0, o)
	})
	return heard
}

func noRefreshToken(o object) { delete(o, "refresh_token") }

// A refresh token is for the identity provider that gave it, whichever the CA names.
func TestRefreshTokenOfAnotherProvider(t *testing.T) {
	t.Parallel()
	f, other := newFake(t, false), newFake(t, false)
	i := f.issuer(t, nil)
	first, alice := refresh(t, f, i), refresh(t, f, i)
	heard := other.overhear(noRefreshToken)
	f.loginAt(other)
	alice.fake = other // where she logs in

	step, _ := alice.to(i, alice.begin(i), "visit")
	step, _ = alice.to(i, step, "done")
	if !slices.Equal(step.Need.Done.Carry, alice.request.Carry) {
		t.Errorf("of the first provider, which has not got it, remains %q", step.Need.Done.Carry)
	}

	// No other order takes the place of this one, as that took another login.
	f.on("/order", with("status", "invalid"))
	step, _ = alice.to(i, alice.begin(i), "wait")
	step = alice.advance(i, step)
	if r := step.Need.Refused; r == nil || !slices.Equal(r.Carry, alice.request.Carry) {
		t.Errorf("%s: %+v", kind(step.Need), r)
	}
	f.on("/order", nil)

	// Another one does where it took no login, and names the other provider.
	f.on("/authz", nil)
	step, _ = alice.to(i, alice.begin(i), "wait")
	f.loginAt(other)
	f.on(fmt.Sprintf("/order/%d", len(f.orders)-1), with("status", "invalid"))
	if _, through := alice.to(i, step, "done"); !slices.Contains(through, "visit") || !slices.Contains(through, "wire.nonce") {
		t.Errorf("%q", through)
	}

	if !strings.Contains(heard.String(), "authorization_code") || strings.Contains(heard.String(), "refresh_token") {
		t.Errorf("the other provider was sent %s", heard)
	}
	// What the other one gives is its own.
	other.on("/idp", nil)
	first.fake = other
	step, _ = first.to(i, first.begin(i), "done")
	if first.request.Carry = step.Need.Done.Carry; !other.refreshes(first.request.Carry) {
		t.Errorf("Carry %q", first.request.Carry)
	}
	if _, through := first.to(i, first.begin(i), "done"); slices.Contains(through, "visit") {
		t.Errorf("%q", through)
	}
}

// Whatever is refused after a refresh token was used up, and another given, the next try needs
// no login.
func TestRefusalCarries(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	i := f.issuer(t, nil)
	for what, alice := range map[string]*client{"renewal": refresh(t, f, i), "first": newClient(t, f, core.ECDSAP256)} {
		for n, end := range []struct{ at, path string }{
			{"sign", "/finalize"}, {"wait", "/challenge"}, {"sign", ""}, {"wire.access-token", "/challenge"}, {"wire.nonce", ""},
		} {
			step, through := alice.to(i, alice.begin(i), end.at)
			if slices.Contains(through, "visit") && (n > 0 || what == "renewal") {
				t.Errorf("%s, to %s: %q", what, end.at, through)
			}
			in := alice.input(step.Need)
			if end.path == "" {
				in = core.Input{Error: "nobody at home"}
			}
			f.on(end.path, instead(problem(403, "unauthorized")))
			step, err := i.Advance(t.Context(), step.State, in)
			f.on(end.path, nil)
			r := step.Need.Refused
			if err != nil || r == nil || r.Final || !f.refreshes(r.Carry) {
				t.Fatalf("%s, after %s: %+v, %v", what, end.at, r, err)
			}
			alice.request.Carry = r.Carry
		}
	}

	// There may be none to keep, or one that the provider does not take.
	if step, err := i.Advance(t.Context(), newClient(t, f, core.Ed25519).begin(i).State, core.Input{Error: "nobody at home"}); err != nil || step.Need.Refused.Carry != nil {
		t.Errorf("%+v, %v", step.Need.Refused, err)
	}
	alice := refresh(t, f, i)
	f.on("/idp/token", says(object{"status": 400, "error": "invalid_grant"}))
	step, _ := alice.to(i, alice.begin(i), "visit")
	step, err := i.Advance(t.Context(), step.State, core.Input{Error: "nobody at home"})
	if r := step.Need.Refused; err != nil || r == nil || r.Carry != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

// What is carried by mistake is nothing, and nobody is told of it.
func TestForeignCarry(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	i := f.issuer(t, nil)
	alice := refresh(t, f, i)
	good := alice.request.Carry
	later := slices.Clone(good)
	if later[4] != 1 {
		t.Fatalf("no version in %x", later)
	}
	later[4] = 2
	heard := f.overhear(func(object) {})
	for what, carry := range map[string][]byte{
		"a bare token": []byte("token"), "of a later version": later, "longer": append(slices.Clone(good), 0), "cut": good[:len(good)-1],
		"of nobody": carried("", "token"), "no token": carried(f.URL+"/idp", ""), "huge": make([]byte, 1<<17),
	} {
		alice.request.Carry = carry
		if _, through := alice.to(i, alice.begin(i), "done"); !slices.Contains(through, "visit") {
			t.Errorf("%s: %q", what, through)
		}
	}
	if strings.Contains(heard.String(), "grant_type=refresh_token") {
		t.Errorf("the provider was sent %s", heard)
	}
	alice.request.Carry = good
	if _, through := alice.to(i, alice.begin(i), "done"); slices.Contains(through, "visit") {
		t.Errorf("%q", through)
	}
}
