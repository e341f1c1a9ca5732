// SPDX-License-Identifier: Apache-2.0

package e2ei_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/pure"
)

// stepCA is what make ca calls it.
const stepCA = "step-ca-v0.30.2"

// A peer is a real step-ca with an identity provider and a stand-in for the backend.
type peer struct {
	Directory    string `json:"directory"`
	RootPEM      string `json:"root_pem"`
	OIDCClientID string `json:"oidc_client_id"`
	Wire         string `json:"wire"`
	Domain       string `json:"domain"`

	client *http.Client
	nonce  string
}

func startPeer(t *testing.T) *peer {
	t.Helper()
	coretest.Shared(t, "e2ei-peer")
	bin := filepath.Join("..", "..", "bin", "peers")
	for _, program := range []string{"e2ei-peer", stepCA} {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			coretest.Lacking(t, "no "+program+": make ca")
		}
	}
	cmd := exec.Command(filepath.Join(bin, "e2ei-peer"), "-step-ca", filepath.Join(bin, stepCA), "-dir", t.TempDir())
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		err := cmd.Wait()
		if err != nil || t.Failed() {
			t.Logf("peer: %v\n%s", err, log.Bytes())
		}
	})
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		t.Fatalf("peer: %v", err)
	}
	p := &peer{}
	if err := json.Unmarshal(line, p); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(p.RootPEM))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	p.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return p
}

// do returns the reply of a success, and the problem otherwise.
func (p *peer) do(t *testing.T, method, address, contentType string, body []byte, header ...string) ([]byte, http.Header, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	reply, err := p.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(io.LimitReader(reply.Body, e2ei.MaxReply+1))
	if err != nil {
		t.Fatal(err)
	}
	if reply.StatusCode >= 400 {
		return text, reply.Header, e2ei.ParseProblem(reply.StatusCode, text)
	}
	return text, reply.Header, nil
}

// post sends one request of the enrolment, once more if the nonce was stale.
func (p *peer) post(t *testing.T, make func(nonce string) (e2ei.Request, error)) ([]byte, string, error) {
	t.Helper()
	for retry := false; ; retry = true {
		r, err := make(p.nonce)
		if err != nil {
			return nil, "", err
		}
		body, header, err := p.do(t, http.MethodPost, r.URL, "application/jose+json", r.Body)
		p.nonce = header.Get("Replay-Nonce")
		var problem *e2ei.Problem
		if errors.As(err, &problem) && problem.BadNonce() && !retry {
			continue
		}
		return body, header.Get("Location"), err
	}
}

// idToken logs a person in at the identity provider.
func (p *peer) idToken(t *testing.T, c e2ei.Challenge, login string) (id, refresh string) {
	t.Helper()
	target, err := url.Parse(c.Target)
	if err != nil {
		t.Fatal(err)
	}
	client := target.Query().Get("client_id")
	if client != p.OIDCClientID {
		t.Errorf("OAuth client %q", client)
	}
	target.RawQuery = ""
	claims, err := json.Marshal(map[string]any{"id_token": map[string]any{
		"keyauth":  map[string]any{"essential": true, "value": c.KeyAuth},
		"acme_aud": map[string]any{"essential": true, "value": c.URL},
	}})
	if err != nil {
		t.Fatal(err)
	}
	verifier := rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	const redirect = "http://127.0.0.1/callback"
	_, header, err := p.do(t, http.MethodGet, target.String()+"/authorize?"+url.Values{
		"response_type": {"code"}, "scope": {"openid profile offline_access"}, "client_id": {client}, "redirect_uri": {redirect},
		"state": {"s"}, "nonce": {"n"}, "code_challenge_method": {"S256"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
		"claims": {string(claims)}, "login_hint": {login},
	}.Encode(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	back, err := url.Parse(header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	body, _, err := p.do(t, http.MethodPost, target.String()+"/token", "application/x-www-form-urlencoded", []byte(url.Values{
		"grant_type": {"authorization_code"}, "code": {back.Query().Get("code")}, "code_verifier": {verifier}, "redirect_uri": {redirect},
		"client_id": {client},
	}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	var tokens struct {
		ID      string `json:"id_token"`
		Refresh string `json:"refresh_token"`
	}
	if err := json.Unmarshal(body, &tokens); err != nil {
		t.Fatal(err)
	}
	return tokens.ID, tokens.Refresh
}

// An opaqueKey is a key of which nothing is known but that it signs, as one in a token.
type opaqueKey struct{ core.Signer }

func (p *peer) person(t *testing.T, algorithm core.KeyAlgorithm) (e2ei.Config, core.Signer) {
	t.Helper()
	id := e2ei.ClientID{Device: 0x4959bc6ab12f2846, Domain: p.Domain}
	_, _ = rand.Read(id.User[:])
	id.Device ^= uint64(id.User[0]) << 8
	key, err := pure.New().GenerateKey(t.Context(), core.KeySpec{ID: id.User, Algorithm: algorithm, Use: core.UseSign})
	if err != nil {
		t.Fatal(err)
	}
	c := e2ei.Config{
		ClientID: id, DisplayName: `Alice "Ally" Smith & Söhne`, Handle: "alice_" + hex.EncodeToString(id.User[:3]), Team: "wire",
		Validity: 90 * 24 * time.Hour, Algorithm: algorithm, PublicKey: key.Public(), KeyRef: key.Ref(), Directory: p.Directory, AllowHTTP: true,
	}
	user, err := json.Marshal(map[string]any{
		"user_b64": base64.RawURLEncoding.EncodeToString(id.User[:]), "handle": c.Handle, "name": c.DisplayName, "team": c.Team,
		"devices": []string{id.DeviceID()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.do(t, http.MethodPost, p.Wire+"/_test/users", "application/json", user); err != nil {
		t.Fatal(err)
	}
	return c, opaqueKey{key.(core.Signer)}
}

// advance does the next step of an enrolment. The certificate is in issued then.
func (p *peer) advance(t *testing.T, e *e2ei.Enrollment, key core.Signer, issued *e2ei.Issued) error {
	t.Helper()
	respond := func(make func(string) (e2ei.Request, error), take func(body []byte, location string) error) error {
		body, location, err := p.post(t, make)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Next(), err)
		}
		return take(body, location)
	}
	plain := func(take func([]byte) error) func([]byte, string) error {
		return func(body []byte, _ string) error { return take(body) }
	}
	timed := func(take func([]byte, time.Time) error) func([]byte, string) error {
		return func(body []byte, _ string) error { return take(body, time.Now()) }
	}
	switch e.Next() {
	case e2ei.StepDirectory:
		body, _, err := p.do(t, http.MethodGet, e.Config().Directory, "", nil)
		if err != nil {
			return err
		}
		if err := e.DirectoryResponse(body); err != nil {
			return err
		}
		address, err := e.NonceURL()
		if err != nil {
			return err
		}
		_, header, err := p.do(t, http.MethodHead, address, "", nil)
		p.nonce = header.Get("Replay-Nonce")
		return err
	case e2ei.StepNewAccount:
		return respond(e.NewAccountRequest, e.NewAccountResponse)
	case e2ei.StepNewOrder:
		return respond(func(nonce string) (e2ei.Request, error) { return e.NewOrderRequest(time.Now(), nonce) },
			func(body []byte, location string) error { return e.NewOrderResponse(body, location, time.Now()) })
	case e2ei.StepDeviceAuthorization, e2ei.StepUserAuthorization:
		addresses, err := e.Authorizations()
		if err != nil {
			return err
		}
		return respond(func(nonce string) (e2ei.Request, error) { return e.AuthorizationRequest(addresses[0], nonce) },
			func(body []byte, _ string) error { return e.AuthorizationResponse(addresses[0], body, time.Now()) })
	case e2ei.StepDPoPChallenge:
		c, err := e.DPoPChallenge()
		if err != nil {
			return err
		}
		_, header, err := p.do(t, http.MethodHead, strings.TrimSuffix(c.Target, "access-token")+"nonce", "", nil)
		if err != nil {
			return err
		}
		proof, err := e.DPoPToken(time.Now(), 5*time.Minute, header.Get("Replay-Nonce"))
		if err != nil {
			return err
		}
		body, _, err := p.do(t, http.MethodPost, c.Target, "", nil, "DPoP", proof)
		if err != nil {
			return fmt.Errorf("%s: %s", err, body)
		}
		var access struct{ Token string }
		if err := json.Unmarshal(body, &access); err != nil {
			return err
		}
		return respond(func(nonce string) (e2ei.Request, error) { return e.DPoPChallengeRequest(access.Token, nonce) },
			plain(e.DPoPChallengeResponse))
	case e2ei.StepOIDCChallenge:
		c, err := e.OIDCChallenge()
		if err != nil {
			return err
		}
		id, refresh := p.idToken(t, c, e.Config().Handle)
		if err := e.SetRefreshToken(core.NewSecret([]byte(refresh))); err != nil {
			return err
		}
		return respond(func(nonce string) (e2ei.Request, error) { return e.OIDCChallengeRequest(id, nonce) }, plain(e.OIDCChallengeResponse))
	case e2ei.StepCheckOrder:
		return respond(e.OrderRequest, timed(e.CheckOrderResponse))
	case e2ei.StepFinalize:
		message, err := e.CSRMessage()
		if err != nil {
			return err
		}
		signature, err := key.Sign(t.Context(), message)
		if err != nil {
			return err
		}
		return respond(func(nonce string) (e2ei.Request, error) { return e.FinalizeRequest(signature, nonce) }, timed(e.FinalizeResponse))
	case e2ei.StepCertificate:
		return respond(e.CertificateRequest, func(body []byte, _ string) (err error) {
			*issued, err = e.CertificateResponse(body, time.Now(), p.verify)
			return err
		})
	}
	return errors.New("nothing to do")
}

// verify is the judgement of crypto/x509 with the peer's root.
func (p *peer) verify(leaf *x509.Certificate, intermediates []*x509.Certificate, now time.Time) error {
	o := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	o.Roots.AppendCertsFromPEM([]byte(p.RootPEM))
	for _, c := range intermediates {
		o.Intermediates.AddCert(c)
	}
	_, err := leaf.Verify(o)
	return err
}

// A whole enrolment at a real server, by a process that ends after each step: what it has is
// a stash.
func TestPeer(t *testing.T) {
	p := startPeer(t)
	for _, algorithm := range []core.KeyAlgorithm{core.Ed25519, core.ECDSAP256, core.ECDSAP384, core.ECDSAP521} {
		t.Run(string(algorithm), func(t *testing.T) {
			config, key := p.person(t, algorithm)
			e, err := e2ei.New(config)
			if err != nil {
				t.Fatal(err)
			}
			var issued e2ei.Issued
			for e.Next() != "" {
				if err := p.advance(t, e, key, &issued); err != nil {
					t.Fatal(err)
				}
				if e.Next() == "" {
					break
				}
				stash, err := e.Stash()
				if err != nil {
					t.Fatal(err)
				}
				e.Wipe()
				if e, err = e2ei.Pop(stash.Bytes()); err != nil {
					t.Fatal(err)
				}
			}
			if len(issued.Credential.Certificates) != 2 || issued.Credential.Type != core.CredentialX509 || issued.RefreshToken.IsZero() {
				t.Fatalf("issued %d certificates", len(issued.Credential.Certificates))
			}
			leaf, err := x509.ParseCertificate(issued.Credential.Certificates[0])
			if err != nil {
				t.Fatal(err)
			}
			if leaf.Subject.CommonName != config.DisplayName || leaf.NotAfter.Sub(leaf.NotBefore) != config.Validity {
				t.Errorf("leaf of %v from %v to %v", leaf.Subject, leaf.NotBefore, leaf.NotAfter)
			}
			if _, err := e.CertificateRequest("x"); !errors.Is(err, core.ErrClosed) {
				t.Errorf("after the end: %v", err)
			}
		})
	}
}

// What the real server says of an answer that is not good enough ends the order; a nonce that
// was used does not.
func TestPeerRefuses(t *testing.T) {
	p := startPeer(t)
	config, key := p.person(t, core.Ed25519)
	e, err := e2ei.New(config)
	if err != nil {
		t.Fatal(err)
	}
	for e.Next() != e2ei.StepDPoPChallenge {
		used := p.nonce
		if err := p.advance(t, e, key, nil); err != nil {
			t.Fatal(err)
		}
		if used != "" {
			p.nonce = used
		}
	}
	c, err := e.OIDCChallenge()
	if err != nil {
		t.Fatal(err)
	}
	c.KeyAuth += "x"
	id, _ := p.idToken(t, c, config.Handle)
	body, _, err := p.post(t, func(nonce string) (e2ei.Request, error) { return e.OIDCChallengeRequest(id, nonce) })
	if err != nil {
		t.Fatal(err)
	}
	err = e.OIDCChallengeResponse(body)
	var problem *e2ei.Problem
	if !errors.Is(err, e2ei.ErrChallenge) || !errors.As(err, &problem) || problem.Type == "" || problem.Detail == "" {
		t.Errorf("an ID token for another key: %v\n%s", err, body)
	}
	if err := p.advance(t, e, key, nil); err != nil {
		t.Fatal(err)
	}
	if e.Next() != e2ei.StepOIDCChallenge {
		t.Errorf("next is %q", e.Next())
	}
	if _, err := e.OrderRequest(p.nonce); !errors.Is(err, e2ei.ErrOutOfOrder) {
		t.Error(err)
	}
}
