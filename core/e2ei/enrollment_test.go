// SPDX-License-Identifier: Apache-2.0

package e2ei_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/pure"
)

// The server of these tests: what it says is written down here.

const (
	origin   = "https://ca.example.com"
	clientID = "wireapp://SvPfLlwBQi-6oddVRrkqpw!4c7@example.com"
	nonce    = "bm9uY2U"
)

var (
	noon  = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	steps = []e2ei.Step{
		e2ei.StepDirectory, e2ei.StepNewAccount, e2ei.StepNewOrder, e2ei.StepDeviceAuthorization, e2ei.StepUserAuthorization,
		e2ei.StepDPoPChallenge, e2ei.StepOIDCChallenge, e2ei.StepCheckOrder, e2ei.StepFinalize, e2ei.StepCertificate,
	}
)

// An opaqueKey is a key of which nothing is known but that it signs, as one in a token.
type opaqueKey struct{ core.Signer }

func configOf(t testing.TB, algorithm core.KeyAlgorithm) (e2ei.Config, core.Signer) {
	t.Helper()
	id, err := e2ei.ParseClientIDURI(clientID)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pure.New().GenerateKey(t.Context(), core.KeySpec{Algorithm: algorithm, Use: core.UseSign})
	if err != nil {
		t.Fatal(err)
	}
	return e2ei.Config{
		ClientID: id, DisplayName: `Alice "Ally" Söhne`, Handle: "alice_wire", Team: "wire", Validity: 90 * 24 * time.Hour,
		Algorithm: algorithm, PublicKey: key.Public(), KeyRef: key.Ref(), Directory: origin + "/directory",
	}, opaqueKey{key.(core.Signer)}
}

const (
	deviceIdentifier = `{"type":"wireapp-device","value":"{\"client-id\":\"wireapp://SvPfLlwBQi-6oddVRrkqpw!4c7@example.com\",\"handle\":\"wireapp://%40alice_wire@example.com\",\"name\":\"Alice \\\"Ally\\\" Söhne\",\"domain\":\"example.com\"}"}`
	userIdentifier   = `{"type":"wireapp-user","value":"{\"handle\":\"wireapp://%40alice_wire@example.com\",\"name\":\"Alice \\\"Ally\\\" Söhne\",\"domain\":\"example.com\"}"}`
)

func orderIs(status, more string) string {
	return `{"status":"` + status + `","expires":"2026-06-01T13:00:00Z","notBefore":"2026-06-01T12:00:00Z","notAfter":"2026-08-30T12:00:00Z",
"identifiers":[` + deviceIdentifier + `,` + userIdentifier + `],"authorizations":["` + origin + `/authz/1","` + origin + `/authz/2"],
"finalize":"` + origin + `/finalize/1"` + more + `}`
}

// replies are what the server says if all goes well. The certificate is made for a key.
var replies = map[e2ei.Step]string{
	e2ei.StepDirectory:  `{"newNonce":"https://ca.example.com/nonce","newAccount":"https://CA.example.com:443/new-account","newOrder":"https://ca.example.com/new-order","revokeCert":"https://ca.example.com/revoke"}`,
	e2ei.StepNewAccount: `{"status":"valid","orders":"https://ca.example.com/account/1/orders"}`,
	e2ei.StepNewOrder:   orderIs("pending", ""),
	e2ei.StepDeviceAuthorization: `{"status":"pending","expires":"2026-06-01T13:00:00Z","identifier":` + deviceIdentifier + `,
"challenges":[{"type":"wire-dpop-01","url":"https://ca.example.com/challenge/1","status":"pending","token":"0123456789abcdefghijABCDEFGHIJ-_","target":"https://backend.example.com/clients/4c7/access-token"}]}`,
	e2ei.StepUserAuthorization: `{"status":"pending","expires":"2026-06-01T13:00:00Z","identifier":` + userIdentifier + `,
"challenges":[{"type":"wire-oidc-01","url":"https://ca.example.com/challenge/2","status":"pending","token":"JIHGFEDCBAjihgfedcba9876543210-_","target":"https://idp.example.com/realm?client_id=wireapp"}]}`,
	e2ei.StepDPoPChallenge: `{"type":"wire-dpop-01","url":"https://ca.example.com/challenge/1","status":"valid","token":"t"}`,
	e2ei.StepOIDCChallenge: `{"type":"wire-oidc-01","url":"https://ca.example.com/challenge/2","status":"valid","token":"t"}`,
	e2ei.StepCheckOrder:    orderIs("ready", ""),
	e2ei.StepFinalize:      orderIs("valid", `,"certificate":"https://ca.example.com/certificate/1"`),
}

// take hands a reply to the method for it.
func take(e *e2ei.Enrollment, s e2ei.Step, body []byte, now time.Time, verify e2ei.Verifier) error {
	switch s {
	case e2ei.StepDirectory:
		return e.DirectoryResponse(body)
	case e2ei.StepNewAccount:
		return e.NewAccountResponse(body, "")
	case e2ei.StepNewOrder:
		return e.NewOrderResponse(body, origin+"/order/1", now)
	case e2ei.StepDeviceAuthorization:
		return e.AuthorizationResponse(origin+"/authz/1", body, now)
	case e2ei.StepUserAuthorization:
		return e.AuthorizationResponse(origin+"/authz/2", body, now)
	case e2ei.StepDPoPChallenge:
		return e.DPoPChallengeResponse(body)
	case e2ei.StepOIDCChallenge:
		return e.OIDCChallengeResponse(body)
	case e2ei.StepCheckOrder:
		return e.CheckOrderResponse(body, now)
	case e2ei.StepFinalize:
		return e.FinalizeResponse(body, now)
	}
	_, err := e.CertificateResponse(body, now, verify)
	return err
}

// at returns an enrolment whose next step is the one given.
func at(t testing.TB, config e2ei.Config, next e2ei.Step) *e2ei.Enrollment {
	t.Helper()
	e, err := e2ei.New(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if e.Next() != s {
			t.Fatalf("next is %q, not %q", e.Next(), s)
		}
		if s == next {
			break
		}
		if err := take(e, s, []byte(replies[s]), noon, nil); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func stashOf(t testing.TB, e *e2ei.Enrollment) []byte {
	t.Helper()
	stash, err := e.Stash()
	if err != nil {
		t.Fatal(err)
	}
	return stash.Bytes()
}

// Each method at each point of an enrolment names the first step that is missing, and
// changes nothing.
func TestOutOfOrder(t *testing.T) {
	t.Parallel()
	config, _ := configOf(t, core.Ed25519)
	request := func(f func() (e2ei.Request, error)) func() error {
		return func() error { _, err := f(); return err }
	}
	both := steps[:5]
	type call struct {
		name string
		step e2ei.Step
		once bool // it cannot be repeated
		need []e2ei.Step
		do   func() error
	}
	calls := func(e *e2ei.Enrollment) []call {
		return []call{
			{"NonceURL", e2ei.StepNewAccount, false, steps[:1], func() error { _, err := e.NonceURL(); return err }},
			{"RevocationURL", e2ei.StepNewAccount, false, steps[:1], func() error { _, err := e.RevocationURL(); return err }},
			{"NewAccountRequest", e2ei.StepNewAccount, true, steps[:1], request(func() (e2ei.Request, error) { return e.NewAccountRequest(nonce) })},
			{"NewAccountResponse", e2ei.StepNewAccount, false, steps[:1], func() error { return e.NewAccountResponse(nil, "") }},
			{"NewOrderRequest", e2ei.StepNewOrder, true, steps[:2], request(func() (e2ei.Request, error) { return e.NewOrderRequest(noon, nonce) })},
			{"NewOrderResponse", e2ei.StepNewOrder, true, steps[:2], func() error { return e.NewOrderResponse(nil, "", noon) }},
			{"Authorizations", e2ei.StepDeviceAuthorization, false, steps[2:3], func() error { _, err := e.Authorizations(); return err }},
			{"AuthorizationRequest", e2ei.StepDeviceAuthorization, false, steps[:3], request(func() (e2ei.Request, error) { return e.AuthorizationRequest(origin+"/authz/1", nonce) })},
			{"AuthorizationResponse", e2ei.StepDeviceAuthorization, false, steps[:3], func() error { return e.AuthorizationResponse(origin+"/authz/1", nil, noon) }},
			{"DPoPChallenge", e2ei.StepDPoPChallenge, false, steps[2:4], func() error { _, err := e.DPoPChallenge(); return err }},
			{"DPoPToken", e2ei.StepDPoPChallenge, false, steps[2:4], func() error { _, err := e.DPoPToken(noon, time.Minute, nonce); return err }},
			{"DPoPChallengeRequest", e2ei.StepDPoPChallenge, false, steps[:4], request(func() (e2ei.Request, error) { return e.DPoPChallengeRequest("token", nonce) })},
			{"DPoPChallengeResponse", e2ei.StepDPoPChallenge, false, steps[:4], func() error { return e.DPoPChallengeResponse(nil) }},
			{"OIDCChallenge", e2ei.StepOIDCChallenge, false, []e2ei.Step{steps[2], steps[4]}, func() error { _, err := e.OIDCChallenge(); return err }},
			{"SetRefreshToken", e2ei.StepOIDCChallenge, false, []e2ei.Step{steps[2], steps[4]}, func() error { return e.SetRefreshToken(core.Secret{}) }},
			{"OIDCChallengeRequest", e2ei.StepOIDCChallenge, false, append(both[:3:3], steps[4]), request(func() (e2ei.Request, error) { return e.OIDCChallengeRequest("token", nonce) })},
			{"OIDCChallengeResponse", e2ei.StepOIDCChallenge, false, append(both[:3:3], steps[4]), func() error { return e.OIDCChallengeResponse(nil) }},
			{"OrderRequest", e2ei.StepCheckOrder, false, steps[:7], request(func() (e2ei.Request, error) { return e.OrderRequest(nonce) })},
			{"CheckOrderResponse", e2ei.StepCheckOrder, false, steps[:7], func() error { return e.CheckOrderResponse(nil, noon) }},
			{"CSRMessage", e2ei.StepFinalize, false, steps[:8], func() error { _, err := e.CSRMessage(); return err }},
			{"FinalizeRequest", e2ei.StepFinalize, false, steps[:8], request(func() (e2ei.Request, error) { return e.FinalizeRequest(nil, nonce) })},
			{"FinalizeResponse", e2ei.StepFinalize, false, steps[:7], func() error { return e.FinalizeResponse(nil, noon) }},
			{"CertificateRequest", e2ei.StepCertificate, false, steps[:9], request(func() (e2ei.Request, error) { return e.CertificateRequest(nonce) })},
			{"CertificateResponse", e2ei.StepCertificate, false, steps[:9], func() error { _, err := e.CertificateResponse(nil, noon, nil); return err }},
		}
	}
	for err, want := range map[e2ei.OutOfOrderError]string{
		{Step: e2ei.StepNewOrder}:                              "e2ei: out of order: invalid: new order was done already",
		{Step: e2ei.StepNewOrder, Missing: e2ei.StepDirectory}: "e2ei: out of order: invalid: new order needs directory first",
	} {
		if err.Error() != want {
			t.Error(&err)
		}
	}
	for i, next := range steps {
		done := map[e2ei.Step]bool{}
		for _, s := range steps[:i] {
			done[s] = true
		}
		e := at(t, config, next)
		before := stashOf(t, e)
		for _, c := range calls(e) {
			var want *e2ei.OutOfOrderError
			for _, s := range c.need {
				if !done[s] && want == nil {
					want = &e2ei.OutOfOrderError{Step: c.step, Missing: s}
				}
			}
			if want == nil && c.once && done[c.step] {
				want = &e2ei.OutOfOrderError{Step: c.step}
			}
			err := c.do()
			var got *e2ei.OutOfOrderError
			if errors.As(err, &got) != (want != nil) || want != nil && *got != *want || errors.Is(err, e2ei.ErrOutOfOrder) != (want != nil) {
				t.Errorf("%s before %s: %v, want %v", c.name, next, err, want)
			}
		}
		if !bytes.Equal(before, stashOf(t, e)) {
			t.Errorf("before %s: a refused call has changed something", next)
		}
		e.Wipe()
		for _, c := range calls(e) {
			if err := c.do(); !errors.Is(err, core.ErrClosed) {
				t.Errorf("%s of an enrolment that is over: %v", c.name, err)
			}
		}
		if err := e.DirectoryResponse(nil); !errors.Is(err, core.ErrClosed) {
			t.Error(err)
		}
		if _, err := e.Stash(); !errors.Is(err, core.ErrClosed) || e.Next() != "" {
			t.Errorf("%v, next is %q", err, e.Next())
		}
	}
}

// Every status and every lie of each reply has its error, and leaves the enrolment as it was:
// the right reply is taken after it.
func TestReplies(t *testing.T) {
	t.Parallel()
	config, _ := configOf(t, core.Ed25519)
	long := origin + "/" + strings.Repeat("a", 2048)
	huge := `{"status":"` + strings.Repeat("a", e2ei.MaxReply)
	for _, c := range []struct {
		step     e2ei.Step
		old, new string // old "": the whole reply
		want     error
	}{
		{e2ei.StepDirectory, "", "", e2ei.ErrMalformed},
		{e2ei.StepDirectory, "", "{}", e2ei.ErrForeignURL},
		{e2ei.StepDirectory, "", "{} {}", e2ei.ErrMalformed},
		{e2ei.StepDirectory, "", huge, core.ErrTooLarge},
		{e2ei.StepDirectory, origin + "/nonce", "http://ca.example.com/nonce", e2ei.ErrForeignURL},
		{e2ei.StepDirectory, origin + "/nonce", "https://evil.example.com/nonce", e2ei.ErrForeignURL},
		{e2ei.StepDirectory, origin + "/nonce", "https://ca.example.com:444/nonce", e2ei.ErrForeignURL},
		{e2ei.StepDirectory, origin + "/nonce", "https://a@ca.example.com/nonce", e2ei.ErrForeignURL},
		{e2ei.StepDirectory, origin + "/nonce", "/nonce", e2ei.ErrForeignURL},
		{e2ei.StepDirectory, origin + "/nonce", origin + "/nonce#a", e2ei.ErrForeignURL},
		{e2ei.StepDirectory, origin + "/nonce", long, e2ei.ErrForeignURL},
		{e2ei.StepDirectory, "CA.example.com:443", "evil.example.com", e2ei.ErrForeignURL},
		{e2ei.StepDirectory, origin + "/new-order", "https://evil.example.com", e2ei.ErrForeignURL},
		{e2ei.StepDirectory, origin + "/revoke", "https://evil.example.com", e2ei.ErrForeignURL},

		{e2ei.StepNewAccount, "", "[]", e2ei.ErrMalformed},
		{e2ei.StepNewAccount, "", huge, core.ErrTooLarge},
		{e2ei.StepNewAccount, "valid", "deactivated", e2ei.ErrAccount},
		{e2ei.StepNewAccount, "valid", "revoked", e2ei.ErrAccount},
		{e2ei.StepNewAccount, "valid", "", e2ei.ErrMalformed},
		{e2ei.StepNewAccount, "valid", "pending", e2ei.ErrMalformed},
		{e2ei.StepNewAccount, "/orders", "", e2ei.ErrMalformed},
		{e2ei.StepNewAccount, "ca.example", "evil.example", e2ei.ErrForeignURL},

		{e2ei.StepNewOrder, "", "7", e2ei.ErrMalformed},
		{e2ei.StepNewOrder, "pending", "invalid", e2ei.ErrOrder},
		{e2ei.StepNewOrder, "pending", "ready", e2ei.ErrMalformed},
		{e2ei.StepNewOrder, "pending", "processing", e2ei.ErrMalformed},
		{e2ei.StepNewOrder, "pending", "valid", e2ei.ErrMalformed},
		{e2ei.StepNewOrder, "pending", "", e2ei.ErrMalformed},
		{e2ei.StepNewOrder, "2026-06-01T13:00:00Z", "2026-06-01T11:59:59Z", e2ei.ErrOrderExpired},
		{e2ei.StepNewOrder, "2026-06-01T13:00:00Z", "soon", e2ei.ErrMalformed},
		{e2ei.StepNewOrder, `"expires":"2026-06-01T13:00:00Z",`, "", e2ei.ErrMalformed},
		{e2ei.StepNewOrder, "2026-08-30T12:00:00Z", "2026-06-01T11:59:59Z", e2ei.ErrOrderExpired},
		{e2ei.StepNewOrder, "2026-06-01T12:00:00Z", "2026-06-01T12:00:01Z", e2ei.ErrOrderEarly},
		{e2ei.StepNewOrder, "," + userIdentifier, "", e2ei.ErrIdentifiers},
		{e2ei.StepNewOrder, userIdentifier, userIdentifier + "," + userIdentifier, e2ei.ErrIdentifiers},
		{e2ei.StepNewOrder, userIdentifier, deviceIdentifier, e2ei.ErrIdentifiers},
		{e2ei.StepNewOrder, "wireapp-user", "dns", e2ei.ErrIdentifiers},
		{e2ei.StepNewOrder, `"{\"client-id`, `"x{\"client-id`, e2ei.ErrIdentifiers},
		{e2ei.StepNewOrder, "!4c7@", "!4c8@", e2ei.ErrIdentifiers},
		{e2ei.StepNewOrder, "!4c7@", "4c7@", e2ei.ErrIdentifiers},
		{e2ei.StepNewOrder, `\"client-id`, `\"client`, e2ei.ErrIdentifiers},
		{e2ei.StepNewOrder, `user","value":"{`, `user","value":"{\"client-id\":\"a\",`, e2ei.ErrIdentifiers},
		{e2ei.StepNewOrder, "alice_wire", "mallory", e2ei.ErrIdentifiers},
		{e2ei.StepNewOrder, "%40alice_wire", "alice_wire", e2ei.ErrIdentifiers},
		{e2ei.StepNewOrder, `name\":\"Alice`, `name\":\"Mallory`, e2ei.ErrIdentifiers},
		{e2ei.StepNewOrder, `\"domain\":\"example.com`, `\"domain\":\"example.org`, e2ei.ErrIdentifiers},
		{e2ei.StepNewOrder, `,"` + origin + `/authz/2"`, "", e2ei.ErrMalformed},
		{e2ei.StepNewOrder, "authz/2", "authz/1", e2ei.ErrMalformed},
		{e2ei.StepNewOrder, origin + "/authz/2", "https://evil.example.com", e2ei.ErrForeignURL},
		{e2ei.StepNewOrder, origin + "/authz/1", "https://evil.example.com", e2ei.ErrForeignURL},
		{e2ei.StepNewOrder, origin + "/finalize", "https://evil.example.com", e2ei.ErrForeignURL},

		{e2ei.StepDeviceAuthorization, "", huge, core.ErrTooLarge},
		{e2ei.StepDeviceAuthorization, "", "null", e2ei.ErrIdentifiers},
		{e2ei.StepDeviceAuthorization, "", "{", e2ei.ErrMalformed},
		{e2ei.StepDeviceAuthorization, `{"status":"pending`, `{"status":"invalid`, e2ei.ErrAuthorization},
		{e2ei.StepDeviceAuthorization, `{"status":"pending`, `{"status":"deactivated`, e2ei.ErrAuthorization},
		{e2ei.StepDeviceAuthorization, `{"status":"pending`, `{"status":"revoked`, e2ei.ErrAuthorization},
		{e2ei.StepDeviceAuthorization, `{"status":"pending`, `{"status":"expired`, e2ei.ErrOrderExpired},
		{e2ei.StepDeviceAuthorization, `{"status":"pending`, `{"status":"valid`, e2ei.ErrMalformed},
		{e2ei.StepDeviceAuthorization, `{"status":"pending`, `{"status":"`, e2ei.ErrMalformed},
		{e2ei.StepDeviceAuthorization, "T13:00:00Z", "T11:59:59Z", e2ei.ErrOrderExpired},
		{e2ei.StepDeviceAuthorization, `"expires":"2026-06-01T13:00:00Z",`, "", e2ei.ErrOrderExpired},
		{e2ei.StepDeviceAuthorization, "!4c7@", "!4c8@", e2ei.ErrIdentifiers},
		{e2ei.StepDeviceAuthorization, "wire-dpop-01", "wire-oidc-01", e2ei.ErrChallengeType},
		{e2ei.StepDeviceAuthorization, "wire-dpop-01", "http-01", e2ei.ErrChallengeType},
		{e2ei.StepDeviceAuthorization, `"challenges":[{`, `"challenges":[{},{`, e2ei.ErrMalformed},
		{e2ei.StepDeviceAuthorization, `"challenges":[{`, `"challenges":[],"x":[{`, e2ei.ErrMalformed},
		{e2ei.StepDeviceAuthorization, "ABCDEFGHIJ-_", "ABCDEFGHIJ+/", e2ei.ErrToken},
		{e2ei.StepDeviceAuthorization, "ABCDEFGHIJ-_", `ABCDEFGHIJ-_\n`, e2ei.ErrToken},
		{e2ei.StepDeviceAuthorization, "ABCDEFGHIJ-_", "", e2ei.ErrTokenEntropy},
		{e2ei.StepDeviceAuthorization, "ABCDEFGHIJ-_", strings.Repeat("a", 1024), e2ei.ErrToken},
		{e2ei.StepDeviceAuthorization, origin + "/challenge", "https://evil.example.com/", e2ei.ErrForeignURL},
		{e2ei.StepDeviceAuthorization, "https://backend", "http://backend", e2ei.ErrForeignURL},
		{e2ei.StepDeviceAuthorization, "https://backend", "file://backend", e2ei.ErrForeignURL},

		{e2ei.StepUserAuthorization, "wire-oidc-01", "wire-dpop-01", e2ei.ErrChallengeType},
		{e2ei.StepUserAuthorization, "", replies[e2ei.StepDeviceAuthorization], e2ei.ErrMalformed},
		{e2ei.StepUserAuthorization, "https://idp.example.com/", "idp", e2ei.ErrForeignURL},

		{e2ei.StepDPoPChallenge, "", huge, core.ErrTooLarge},
		{e2ei.StepDPoPChallenge, "", "", e2ei.ErrMalformed},
		{e2ei.StepDPoPChallenge, "valid", "invalid", e2ei.ErrChallenge},
		{e2ei.StepDPoPChallenge, "valid", "processing", e2ei.ErrProcessing},
		{e2ei.StepDPoPChallenge, "valid", "pending", e2ei.ErrPending},
		{e2ei.StepDPoPChallenge, "valid", "", e2ei.ErrPending},
		{e2ei.StepDPoPChallenge, "valid", "ready", e2ei.ErrMalformed},
		{e2ei.StepDPoPChallenge, "challenge/1", "challenge/2", e2ei.ErrMalformed},
		{e2ei.StepDPoPChallenge, "wire-dpop-01", "wire-oidc-01", e2ei.ErrChallengeType},
		{e2ei.StepOIDCChallenge, "valid", "invalid", e2ei.ErrChallenge},
		{e2ei.StepOIDCChallenge, "challenge/2", "challenge/1", e2ei.ErrMalformed},
		{e2ei.StepOIDCChallenge, "wire-oidc-01", "wire-dpop-01", e2ei.ErrChallengeType},

		{e2ei.StepCheckOrder, "", huge, core.ErrTooLarge},
		{e2ei.StepCheckOrder, "", "", e2ei.ErrMalformed},
		{e2ei.StepCheckOrder, "ready", "pending", e2ei.ErrPending},
		{e2ei.StepCheckOrder, "ready", "processing", e2ei.ErrFinalized},
		{e2ei.StepCheckOrder, "ready", "valid", e2ei.ErrFinalized},
		{e2ei.StepCheckOrder, "ready", "invalid", e2ei.ErrOrder},
		{e2ei.StepCheckOrder, "ready", "", e2ei.ErrMalformed},
		{e2ei.StepCheckOrder, "T13:00:00Z", "T11:59:59Z", e2ei.ErrOrderExpired},
		{e2ei.StepCheckOrder, "alice_wire", "mallory", e2ei.ErrIdentifiers},
		{e2ei.StepCheckOrder, origin + "/finalize", "https://evil.example.com", e2ei.ErrForeignURL},

		{e2ei.StepFinalize, "", huge, core.ErrTooLarge},
		{e2ei.StepFinalize, "", "", e2ei.ErrMalformed},
		{e2ei.StepFinalize, "valid", "processing", e2ei.ErrProcessing},
		{e2ei.StepFinalize, "valid", "ready", e2ei.ErrPending},
		{e2ei.StepFinalize, "valid", "pending", e2ei.ErrPending},
		{e2ei.StepFinalize, "valid", "invalid", e2ei.ErrOrder},
		{e2ei.StepFinalize, "valid", "", e2ei.ErrMalformed},
		{e2ei.StepFinalize, "T13:00:00Z", "T11:59:59Z", e2ei.ErrOrderExpired},
		{e2ei.StepFinalize, "alice_wire", "mallory", e2ei.ErrIdentifiers},
		{e2ei.StepFinalize, `,"certificate"`, `,"certificates"`, e2ei.ErrForeignURL},
		{e2ei.StepFinalize, origin + "/certificate", "https://evil.example.com", e2ei.ErrForeignURL},
	} {
		t.Run(fmt.Sprintf("%s/%.40s/%.60s", c.step, c.old, c.new), func(t *testing.T) {
			t.Parallel()
			e := at(t, config, c.step)
			before := stashOf(t, e)
			body := c.new
			if c.old != "" {
				if body = strings.ReplaceAll(replies[c.step], c.old, c.new); body == replies[c.step] {
					t.Fatal("nothing is replaced")
				}
			}
			err := take(e, c.step, []byte(body), noon, nil)
			var step *e2ei.StepError
			if !errors.Is(err, c.want) || !errors.As(err, &step) || step.Step != c.step && e.Next() != e2ei.StepUserAuthorization {
				t.Errorf("%v, want %v", err, c.want)
			}
			if !bytes.Equal(before, stashOf(t, e)) {
				t.Error("something has changed")
			}
			if err := take(e, c.step, []byte(replies[c.step]), noon, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// What a server may do otherwise than in the replies above.
func TestRepliesThatDiffer(t *testing.T) {
	t.Parallel()
	config, _ := configOf(t, core.Ed25519)
	e := at(t, config, e2ei.StepNewAccount)
	if err := e.NewAccountResponse([]byte(`{"status":"valid","orders":"`+origin+`/o"}`), origin+"/acct/7"); err != nil {
		t.Fatal(err)
	}
	if r, err := e.NewOrderRequest(noon, nonce); err != nil || header(t, r)["kid"] != origin+"/acct/7" {
		t.Errorf("account %v, %v", header(t, r), err)
	}
	if err := at(t, config, e2ei.StepNewAccount).NewAccountResponse([]byte(replies[e2ei.StepNewAccount]), "https://evil.example.com"); !errors.Is(err, e2ei.ErrForeignURL) {
		t.Error(err)
	}
	if err := at(t, config, e2ei.StepNewOrder).NewOrderResponse([]byte(replies[e2ei.StepNewOrder]), "", noon); !errors.Is(err, e2ei.ErrForeignURL) {
		t.Error(err)
	}

	// The identifiers and the authorizations the other way round, and "!" encoded; no dates.
	e = at(t, config, e2ei.StepNewOrder)
	body := strings.NewReplacer(deviceIdentifier, userIdentifier, userIdentifier, deviceIdentifier,
		`"notBefore":"2026-06-01T12:00:00Z","notAfter":"2026-08-30T12:00:00Z",`, "").Replace(replies[e2ei.StepNewOrder])
	if err := take(e, e2ei.StepNewOrder, []byte(strings.ReplaceAll(body, "!4c7", "%214c7")), noon, nil); err != nil {
		t.Fatal(err)
	}
	all, err := e.Authorizations()
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	if err := e.AuthorizationResponse(all[0], []byte(replies[e2ei.StepUserAuthorization]), noon); err != nil {
		t.Fatal(err)
	}
	if e.Next() != e2ei.StepDeviceAuthorization {
		t.Errorf("next is %q", e.Next())
	}
	if left, err := e.Authorizations(); err != nil || len(left) != 1 || left[0] != all[1] {
		t.Error(left, err)
	}
	if err := e.AuthorizationResponse(all[1], []byte(replies[e2ei.StepUserAuthorization]), noon); !errors.Is(err, e2ei.ErrMalformed) {
		t.Errorf("two of the user: %v", err)
	}
	if err := e.AuthorizationResponse(origin+"/authz/3", []byte(replies[e2ei.StepDeviceAuthorization]), noon); !errors.Is(err, e2ei.ErrForeignURL) {
		t.Error(err)
	}
	if _, err := e.AuthorizationRequest(origin+"/authz/3", nonce); !errors.Is(err, e2ei.ErrForeignURL) {
		t.Error(err)
	}
	if err := e.AuthorizationResponse(all[1], []byte(replies[e2ei.StepDeviceAuthorization]), noon); err != nil || e.Next() != e2ei.StepDPoPChallenge {
		t.Error(err, e.Next())
	}

	// The process was interrupted after the order was finalized.
	e = at(t, config, e2ei.StepCheckOrder)
	final := []byte(replies[e2ei.StepFinalize])
	if err := e.CheckOrderResponse(final, noon); !errors.Is(err, e2ei.ErrFinalized) {
		t.Error(err)
	}
	if err := e.FinalizeResponse(final, noon); err != nil || e.Next() != e2ei.StepCertificate {
		t.Error(err, e.Next())
	}

	// A refused challenge shows what the server says of it.
	e = at(t, config, e2ei.StepDPoPChallenge)
	refused := strings.Replace(replies[e2ei.StepDPoPChallenge], `"valid"`, `"invalid","error":{"type":"urn:x","detail":"because"}`, 1)
	var problem *e2ei.Problem
	if err := e.DPoPChallengeResponse([]byte(refused)); !errors.Is(err, e2ei.ErrChallenge) || !errors.As(err, &problem) || problem.Detail != "because" {
		t.Error(err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	good, _ := configOf(t, core.Ed25519)
	for name, c := range map[string]struct {
		change func(*e2ei.Config)
		want   error
	}{
		"domain":         {func(c *e2ei.Config) { c.ClientID.Domain = "" }, e2ei.ErrClientID},
		"handle":         {func(c *e2ei.Config) { c.Handle = "" }, e2ei.ErrHandle},
		"handle URI":     {func(c *e2ei.Config) { c.Handle = "wireapp://%40alice@example.com" }, e2ei.ErrHandle},
		"no name":        {func(c *e2ei.Config) { c.DisplayName = "" }, core.ErrInvalid},
		"long name":      {func(c *e2ei.Config) { c.DisplayName = strings.Repeat("a", 257) }, core.ErrInvalid},
		"binary name":    {func(c *e2ei.Config) { c.DisplayName = "\xff" }, core.ErrInvalid},
		"long team":      {func(c *e2ei.Config) { c.Team = strings.Repeat("a", 257) }, core.ErrInvalid},
		"binary team":    {func(c *e2ei.Config) { c.Team = "\xff" }, core.ErrInvalid},
		"no validity":    {func(c *e2ei.Config) { c.Validity = time.Second - 1 }, core.ErrInvalid},
		"for ever":       {func(c *e2ei.Config) { c.Validity = 1<<63 - 1 }, core.ErrInvalid},
		"Ed448":          {func(c *e2ei.Config) { c.Algorithm = core.Ed448 }, core.ErrUnsupported},
		"other key":      {func(c *e2ei.Config) { c.Algorithm = core.ECDSAP256 }, core.ErrInvalid},
		"long reference": {func(c *e2ei.Config) { c.KeyRef = core.KeyRef(strings.Repeat("a", 1025)) }, core.ErrInvalid},
		"plain HTTP":     {func(c *e2ei.Config) { c.Directory = "http://ca.example.com" }, e2ei.ErrForeignURL},
		"no directory":   {func(c *e2ei.Config) { c.Directory = "" }, e2ei.ErrForeignURL},
		"refresh token":  {func(c *e2ei.Config) { c.RefreshToken = core.NewSecret(make([]byte, 1<<16+1)) }, e2ei.ErrRefreshToken},
	} {
		config := good
		c.change(&config)
		if _, err := e2ei.New(config); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if config.PublicKey = nil; name == "other key" { // which is not known yet
			c.want = nil
		}
		if err := config.Check(); !errors.Is(err, c.want) {
			t.Errorf("%s, without the key: %v", name, err)
		}
	}
	good.Directory, good.AllowHTTP = "http://ca.example.com", true
	if _, err := e2ei.New(good); err != nil {
		t.Error(err)
	}
}

func TestProblem(t *testing.T) {
	t.Parallel()
	p := e2ei.ParseProblem(400, []byte(`{"type":"urn:ietf:params:acme:error:badNonce","detail":"again","status":"x","subproblems":[{"type":"a","detail":"b"}]}`))
	if !p.BadNonce() || p.Detail != "again" || p.Status != 400 || len(p.Subproblems) != 1 || p.Subproblems[0].Detail != "b" || !errors.Is(p, core.ErrUnavailable) {
		t.Errorf("%+v", p)
	}
	if got, want := p.Error(), `ACME problem, HTTP status 400, "urn:ietf:params:acme:error:badNonce": "again"; "a": "b"`; got != want {
		t.Errorf("%s", got)
	}
	p = e2ei.ParseProblem(500, []byte("<html>"))
	if p.Error() != "ACME problem, HTTP status 500" || !errors.Is(p, core.ErrDenied) {
		t.Error(p)
	}
	for status, body := range map[int]string{429: "", 503: "", 403: `{"type":"urn:ietf:params:acme:error:rateLimited"}`} {
		if p := e2ei.ParseProblem(status, []byte(body)); !errors.Is(p, core.ErrUnavailable) {
			t.Errorf("%d: %v", status, p)
		}
	}
	p = e2ei.ParseProblem(400, []byte(`{"detail":"`+strings.Repeat("é", 1024)+`","subproblems":[`+strings.Repeat("{},", 16)+`{}]}`))
	if len(p.Detail) > 1030 || len(p.Subproblems) != 16 {
		t.Errorf("%d bytes, %d subproblems", len(p.Detail), len(p.Subproblems))
	}
	if p := e2ei.ParseProblem(400, []byte(`{"detail":"x"}`+strings.Repeat(" ", e2ei.MaxReply))); p.Detail != "" {
		t.Error(p)
	}
}
