// SPDX-License-Identifier: Apache-2.0

package acme_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/acme"
)

// revocation begins one of a new credential; see TestPeer for all algorithms.
func revocation(t *testing.T, f *fake, i *acme.Issuer, algorithm core.KeyAlgorithm) (*client, core.Step) {
	t.Helper()
	alice := newClient(t, f, algorithm)
	step, _ := alice.to(i, alice.begin(i), "done")
	alice.request.Action, alice.request.Previous = core.ActionRevoke, step.Need.Done.Credential
	step = alice.begin(i)
	if step.Need.Sign == nil {
		t.Fatal(kind(step.Need))
	}
	return alice, step
}

// The request is a JWS by the certificate's key, over the certificate.
func TestRevocationRequest(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	i := f.issuer(t, nil)
	for algorithm, name := range map[core.KeyAlgorithm]jose.SignatureAlgorithm{
		core.Ed25519: jose.EdDSA, core.ECDSAP256: jose.ES256, core.ECDSAP384: jose.ES384, core.ECDSAP521: jose.ES512,
	} {
		alice, step := revocation(t, f, i, algorithm)
		var body []byte
		f.on("/revoke", func(_ int, w http.ResponseWriter, r *http.Request, _ func() object) {
			body, _ = io.ReadAll(r.Body)
			send(w, 0, object{"text": ""})
		})
		alice.to(i, step, "done")
		jws, err := jose.ParseSignedJSON(string(body), []jose.SignatureAlgorithm{name})
		if err != nil {
			t.Fatalf("%s: %v in %s", algorithm, err, body)
		}
		header := jws.Signatures[0].Header
		if header.JSONWebKey == nil || header.ExtraHeaders["url"] != f.URL+"/revoke" || header.Nonce == "" || header.KeyID != "" {
			t.Fatalf("%s: %+v", algorithm, header)
		}
		text, err := jws.Verify(header.JSONWebKey)
		if err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
		var payload struct{ Certificate string }
		if err := json.Unmarshal(text, &payload); err != nil || !slices.Equal(raw(payload.Certificate), alice.request.Previous.Certificates[0]) {
			t.Errorf("%s: payload %s", algorithm, text)
		}
		f.on("/revoke", nil)
	}
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	i := f.issuer(t, nil)
	alice, step := revocation(t, f, i, core.ECDSAP256)
	in := alice.input(step.Need)
	for what, c := range map[string]struct {
		attack answer
		need   string
		want   error
	}{
		"revoked already":    {says(problem(400, "alreadyRevoked")), "done", nil},
		"not ours":           {says(problem(403, "unauthorized")), "refused", nil},
		"a proxy's no":       {says(object{"status": 403, "text": "<html>"}), "", core.ErrDenied},
		"out of order":       {says(problem(500, "serverInternal")), "", core.ErrDenied},
		"redirects":          {redirects, "", e2ei.ErrForeignURL},
		"too long":           {oversized, "", core.ErrTooLarge},
		"hangs up":           {hangsUp, "", core.ErrUnavailable},
		"not now":            {says(object{"status": 503}), "", core.ErrUnavailable},
		"another nonce":      {says(problem(400, "badNonce")), "sign", nil},
		"at work":            {busy, "wait", nil},
		"good":               {nil, "done", nil},
		"good, and so again": {nil, "sign", nil}, // its nonce was used
	} {
		f.on("/revoke", c.attack)
		if what == "good, and so again" {
			f.mu.Lock()
			clear(f.nonces)
			f.mu.Unlock()
		} else if what == "good" {
			alice, step = revocation(t, f, i, core.ECDSAP256)
			in = alice.input(step.Need)
		}
		next, err := i.Advance(t.Context(), step.State, in)
		if kind(next.Need) != c.need || !errors.Is(err, c.want) {
			t.Errorf("%s: %q, %v", what, kind(next.Need), err)
		}
		var at *e2ei.StepError
		if err != nil && (!errors.As(err, &at) || at.Step != acme.StepRevoke) {
			t.Errorf("%s: %v", what, err)
		}
		f.on("/revoke", nil)
		if c.need == "sign" || c.need == "wait" {
			alice.to(i, next, "done")
		}
	}

	f.on("/nonce", instead(object{}))
	if _, err := i.Begin(t.Context(), alice.request); !errors.Is(err, e2ei.ErrMalformed) {
		t.Errorf("no nonce: %v", err)
	}
	f.on("/nonce", nil)

	// A server that takes no nonce does not get signatures for ever.
	f.on("/revoke", says(problem(400, "badNonce")))
	alice, step = revocation(t, f, i, core.Ed25519)
	messages := map[string]bool{}
	for step.Need.Sign != nil {
		messages[string(step.Need.Sign.Message)] = true
		step = alice.advance(i, step)
	}
	if len(messages) != 3 || step.Need.Refused == nil || !strings.Contains(step.Need.Refused.Reason, "badNonce") {
		t.Errorf("%d signatures, then %s", len(messages), kind(step.Need))
	}
}

func busy(_ int, w http.ResponseWriter, _ *http.Request, next func() object) {
	next()
	w.Header().Set("Retry-After", "7")
	send(w, 503, object{})
}

// A wrong signature is not sent, and the right one may still follow.
func TestWrongSignature(t *testing.T) {
	t.Parallel()
	f := newFake(t, false)
	i := f.issuer(t, nil)
	other := newClient(t, f, core.ECDSAP256)
	alice, revoke := revocation(t, f, i, core.ECDSAP256)
	alice.request.Action = core.ActionIssue
	issue, _ := alice.to(i, alice.begin(i), "sign")
	for what, step := range map[string]core.Step{"issue": issue, "revoke": revoke} {
		right := alice.input(step.Need).Signature
		f.count()
		for _, wrong := range [][]byte{
			{1}, other.input(step.Need).Signature, right[:len(right)-1], append(slices.Clone(right), 0), make([]byte, 64),
			alice.input(core.Need{Sign: &core.SignNeed{Message: []byte("message")}}).Signature,
		} {
			if _, err := i.Advance(t.Context(), step.State, core.Input{Signature: wrong}); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("%s with %x: %v", what, wrong, err)
			}
		}
		if all, each := f.count(); all != 0 {
			t.Errorf("%s: %v", what, each)
		}
		alice.to(i, step, "done")
	}
}
