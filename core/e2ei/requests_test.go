// SPDX-License-Identifier: Apache-2.0

package e2ei_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// header is the protected header of a request.
func header(t testing.TB, r e2ei.Request) map[string]any {
	t.Helper()
	h, _ := opened(t, r)
	return h
}

// opened splits a request into its protected header and payload, and checks its form.
func opened(t testing.TB, r e2ei.Request) (header map[string]any, payload string) {
	t.Helper()
	var parts map[string]string
	if err := json.Unmarshal(r.Body, &parts); err != nil {
		t.Fatalf("%v in %s", err, r.Body)
	}
	if _, ok := parts["payload"]; !ok || len(parts) != 3 {
		t.Errorf("parts %v", parts)
	}
	for name, into := range map[string]func([]byte){
		"protected": func(b []byte) {
			if err := json.Unmarshal(b, &header); err != nil {
				t.Error(err)
			}
		},
		"payload": func(b []byte) { payload = string(b) },
	} {
		b, err := base64.RawURLEncoding.DecodeString(parts[name])
		if err != nil {
			t.Error(err)
		}
		into(b)
	}
	if header["alg"] != "ES256" || header["nonce"] != nonce || header["url"] != r.URL || len(header) != 4 {
		t.Errorf("header %v for %s", header, r.URL)
	}
	return header, payload
}

// Each request is signed by one account key, which stands in the first and is named by its
// account in the others.
func TestRequests(t *testing.T) {
	t.Parallel()
	config, key := configOf(t, core.Ed25519)
	first, err := at(t, config, e2ei.StepNewAccount).NewAccountRequest(nonce)
	if err != nil {
		t.Fatal(err)
	}
	other, err := at(t, config, e2ei.StepNewAccount).NewAccountRequest(nonce)
	if err != nil {
		t.Fatal(err)
	}
	if h := header(t, first); fmt.Sprint(h["jwk"]) == fmt.Sprint(header(t, other)["jwk"]) {
		t.Error("two enrolments have one account key")
	}

	e := at(t, config, e2ei.StepNewAccount)
	account, err := e.NewAccountRequest(nonce)
	if err != nil {
		t.Fatal(err)
	}
	h, payload := opened(t, account)
	text, _ := json.Marshal(h["jwk"])
	var jwk jose.JSONWebKey
	if err := json.Unmarshal(text, &jwk); err != nil || !jwk.IsPublic() || !jwk.Valid() {
		t.Fatalf("%v in %s", err, text)
	}
	if want := `{"contact":["anonymous@anonymous.invalid"],"onlyReturnExisting":false,"termsOfServiceAgreed":true}`; payload != want {
		t.Errorf("payload %s", payload)
	}
	verify := func(r e2ei.Request) {
		t.Helper()
		s, err := jose.ParseSignedJSON(string(r.Body), []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Verify(&jwk); err != nil {
			t.Error(err)
		}
	}
	verify(account)

	type request = func() (e2ei.Request, error)
	value := `{\"client-id\":\"` + clientID + `\",\"handle\":\"wireapp://%40alice_wire@example.com\",\"name\":\"Alice \\\"Ally\\\" Söhne\",\"domain\":\"example.com\"}`
	for _, c := range []struct {
		step         e2ei.Step
		make         request
		url, payload string
	}{
		{e2ei.StepNewOrder, func() (e2ei.Request, error) { return e.NewOrderRequest(noon.In(time.FixedZone("", 3600)), nonce) }, "/new-order",
			`{"identifiers":[{"type":"wireapp-device","value":"` + value + `"},{"type":"wireapp-user","value":"` +
				strings.Replace(value, `\"client-id\":\"`+clientID+`\",`, "", 1) + `"}],"notAfter":"2026-08-30T12:00:00Z","notBefore":"2026-06-01T12:00:00Z"}`},
		{e2ei.StepDeviceAuthorization, func() (e2ei.Request, error) { return e.AuthorizationRequest(origin+"/authz/1", nonce) }, "/authz/1", ""},
		{e2ei.StepUserAuthorization, func() (e2ei.Request, error) { return e.AuthorizationRequest(origin+"/authz/2", nonce) }, "/authz/2", ""},
		{e2ei.StepDPoPChallenge, func() (e2ei.Request, error) { return e.DPoPChallengeRequest("acc", nonce) }, "/challenge/1", `{"access_token":"acc"}`},
		{e2ei.StepOIDCChallenge, func() (e2ei.Request, error) { return e.OIDCChallengeRequest("id", nonce) }, "/challenge/2", `{"id_token":"id"}`},
		{e2ei.StepCheckOrder, func() (e2ei.Request, error) { return e.OrderRequest(nonce) }, "/order/1", ""},
		{e2ei.StepFinalize, func() (e2ei.Request, error) {
			message, err := e.CSRMessage()
			if err != nil {
				return e2ei.Request{}, err
			}
			signature, err := key.Sign(t.Context(), message)
			if err != nil {
				return e2ei.Request{}, err
			}
			return e.FinalizeRequest(signature, nonce)
		}, "/finalize/1", "-"},
		{e2ei.StepCertificate, func() (e2ei.Request, error) { return e.CertificateRequest(nonce) }, "/certificate/1", ""},
	} {
		for e.Next() != c.step {
			if err := take(e, e.Next(), []byte(replies[e.Next()]), noon, nil); err != nil {
				t.Fatal(err)
			}
		}
		r, err := c.make()
		if err != nil {
			t.Fatal(err)
		}
		h, payload := opened(t, r)
		if r.URL != origin+c.url || h["kid"] != origin+"/account/1" {
			t.Errorf("%s: to %s with %v", c.step, r.URL, h)
		}
		if c.payload != "-" && payload != c.payload {
			t.Errorf("%s: payload %s", c.step, payload)
		}
		verify(r)
	}
}

func TestRequestsRefuse(t *testing.T) {
	t.Parallel()
	config, key := configOf(t, core.Ed25519)
	e := at(t, config, e2ei.StepNewAccount)
	for _, bad := range []string{"", "a b", "a+b", strings.Repeat("a", 1025)} {
		if _, err := e.NewAccountRequest(bad); !errors.Is(err, e2ei.ErrMalformed) {
			t.Errorf("nonce %.10q: %v", bad, err)
		}
	}
	e = at(t, config, e2ei.StepDPoPChallenge)
	for _, bad := range []string{"", "a b", "a\n", "é", strings.Repeat("a", 1<<16+1)} {
		if _, err := e.DPoPChallengeRequest(bad, nonce); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("token %.10q: %v", bad, err)
		}
		if _, err := e.OIDCChallengeRequest(bad, nonce); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("token %.10q: %v", bad, err)
		}
	}
	for _, bad := range []time.Duration{0, -1, time.Second - 1, e2ei.MaxDPoPExpiry + 1} {
		if _, err := e.DPoPToken(noon, bad, "n"); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("proof for %v: %v", bad, err)
		}
	}
	for _, bad := range []string{"", strings.Repeat("a", 1025)} {
		if _, err := e.DPoPToken(noon, time.Minute, bad); !errors.Is(err, e2ei.ErrMalformed) {
			t.Errorf("nonce %.10q: %v", bad, err)
		}
	}
	for _, bad := range []core.Secret{{}, core.NewSecret(make([]byte, 1<<16+1))} {
		if err := e.SetRefreshToken(bad); !errors.Is(err, e2ei.ErrRefreshToken) {
			t.Errorf("refresh token of %d bytes: %v", bad.Len(), err)
		}
	}

	e = at(t, config, e2ei.StepFinalize)
	wrong, err := key.Sign(t.Context(), []byte("something else"))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, {}, {1}, wrong} {
		if _, err := e.FinalizeRequest(bad, nonce); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("signature of %d bytes: %v", len(bad), err)
		}
	}
}

func TestDPoPToken(t *testing.T) {
	t.Parallel()
	for _, team := range []string{"wire", ""} {
		config, _ := configOf(t, core.Ed25519)
		config.Team = team
		e := at(t, config, e2ei.StepDPoPChallenge)
		proof, err := e.DPoPToken(noon, 90*time.Second+1, "backend's")
		if err != nil {
			t.Fatal(err)
		}
		s, err := jose.ParseSignedCompact(proof, []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatal(err)
		}
		jwk := s.Signatures[0].Protected.JSONWebKey
		if s.Signatures[0].Protected.ExtraHeaders["typ"] != "dpop+jwt" || jwk == nil || !jwk.IsPublic() {
			t.Fatalf("header %v", s.Signatures[0].Protected)
		}
		payload, err := s.Verify(jwk)
		if err != nil {
			t.Fatal(err)
		}
		var claims map[string]any
		if err := json.Unmarshal(payload, &claims); err != nil {
			t.Fatal(err)
		}
		jti, _ := claims["jti"].(string)
		if len(jti) != 36 || jti[14] != '4' || strings.IndexByte("89ab", jti[19]) < 0 {
			t.Errorf("jti %q", jti)
		}
		want := map[string]any{
			"jti": jti, "iat": float64(noon.Unix() - 3600), "nbf": float64(noon.Unix() - 3600), "exp": float64(noon.Unix() + 90),
			"sub": clientID, "aud": origin + "/challenge/1", "nonce": "backend's", "chal": "0123456789abcdefghijABCDEFGHIJ-_", "htm": "POST",
			"htu": "https://backend.example.com/clients/4c7/access-token", "handle": "wireapp://%40alice_wire@example.com",
			"name": config.DisplayName, "team": any(team),
		}
		if team == "" {
			want["team"] = nil
		}
		if fmt.Sprint(claims) != fmt.Sprint(want) {
			t.Errorf("claims %v\nwant   %v", claims, want)
		}
		again, err := e.DPoPToken(noon, 90*time.Second, "backend's")
		if err != nil || strings.Split(again, ".")[1] == strings.Split(proof, ".")[1] {
			t.Errorf("a jti twice, or %v", err)
		}

		// The other authority is told of the same key.
		c, err := e.OIDCChallenge()
		if err != nil {
			t.Fatal(err)
		}
		sum, err := jwk.Thumbprint(crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if want := (e2ei.Challenge{
			URL: origin + "/challenge/2", Target: "https://idp.example.com/realm?client_id=wireapp",
			KeyAuth: "JIHGFEDCBAjihgfedcba9876543210-_." + base64.RawURLEncoding.EncodeToString(sum),
		}); c != want {
			t.Errorf("%+v", c)
		}
		d, err := e.DPoPChallenge()
		if want := (e2ei.Challenge{URL: origin + "/challenge/1", Target: "https://backend.example.com/clients/4c7/access-token"}); err != nil || d != want {
			t.Errorf("%+v, %v", d, err)
		}
	}
}

// The certificate request is that of the spec, for each kind of key, and only signed bytes
// come from the key.
func TestCSR(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []core.KeyAlgorithm{core.Ed25519, core.ECDSAP256, core.ECDSAP384, core.ECDSAP521} {
		config, key := configOf(t, algorithm)
		config.DisplayName = "printable" // is a UTF8String all the same
		e, err := e2ei.New(config)
		if err != nil {
			t.Fatal(err)
		}
		for e.Next() != e2ei.StepFinalize {
			body := strings.ReplaceAll(replies[e.Next()], `Alice \\\"Ally\\\" Söhne`, "printable")
			if err := take(e, e.Next(), []byte(body), noon, nil); err != nil {
				t.Fatal(err)
			}
		}
		message, err := e.CSRMessage()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := e.CSRMessage(); err != nil || !bytes.Equal(again, message) {
			t.Errorf("another message: %v", err)
		}
		signature, err := key.Sign(t.Context(), message)
		if err != nil {
			t.Fatal(err)
		}
		r, err := e.FinalizeRequest(signature, nonce)
		if err != nil {
			t.Fatal(err)
		}
		_, payload := opened(t, r)
		var p map[string]string
		if err := json.Unmarshal([]byte(payload), &p); err != nil || len(p) != 1 {
			t.Fatal(payload, err)
		}
		der, err := base64.RawURLEncoding.DecodeString(p["csr"])
		if err != nil {
			t.Fatal(err)
		}
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		public, _ := core.X509PublicKey(algorithm, config.PublicKey)
		if err := csr.CheckSignature(); err != nil || !bytes.Equal(csr.RawTBSCertificateRequest, message) || fmt.Sprint(csr.PublicKey) != fmt.Sprint(public) {
			t.Errorf("%s: %v", algorithm, err)
		}
		text := func(oid asn1.ObjectIdentifier, s string) asn1.RawValue {
			b, err := asn1.Marshal([]struct {
				ID    asn1.ObjectIdentifier
				Value string `asn1:"utf8"`
			}{{oid, s}})
			if err != nil {
				t.Fatal(err)
			}
			b[0] = 0x31 // SET OF
			return asn1.RawValue{FullBytes: b}
		}
		subject, err := asn1.Marshal([]asn1.RawValue{text(asn1.ObjectIdentifier{2, 5, 4, 10}, "example.com"), text(asn1.ObjectIdentifier{2, 16, 840, 1, 113730, 3, 1, 241}, "printable")})
		if err != nil || !bytes.Equal(csr.RawSubject, subject) {
			t.Errorf("subject %x, want %x, %v", csr.RawSubject, subject, err)
		}
		uris := []string{}
		for _, u := range csr.URIs {
			uris = append(uris, strings.ReplaceAll(u.String(), "%21", "!"))
		}
		if !slices.Equal(uris, []string{clientID, "wireapp://%40alice_wire@example.com"}) || len(csr.Extensions) != 1 ||
			len(csr.DNSNames)+len(csr.EmailAddresses)+len(csr.IPAddresses) > 0 {
			t.Errorf("names %v, %d extensions", uris, len(csr.Extensions))
		}
	}
}
