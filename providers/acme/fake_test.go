// SPDX-License-Identifier: Apache-2.0

package acme_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/providers/acme"
	"github.com/conclave-mls/conclave/providers/pure"
)

// A fake is a CA and an identity provider that believe everything, so that a test can let them
// do what the real ones do not. What they check is what the real ones let pass: nonces and
// grants are good once, and PKCE is kept.
type fake struct {
	*httptest.Server
	issued func(*x509.Certificate) // changes what is to be certified

	mu       sync.Mutex
	asked    map[string]int    // requests since count, by the first part of the path
	seen     map[string]int    // all, by the path
	codes    map[string]string // the query of a login, by code
	refresh  map[string]bool
	nonces   map[string]bool
	orders   []*order
	hostile  map[string]answer // by the parts with which paths begin
	root, ca *authority
}

// An answer takes the place of the one of the fake to the n-th request of a path, from 1. It
// may call next, and change what that gives.
type answer func(n int, w http.ResponseWriter, r *http.Request, next func() object)

type object = map[string]any

type order struct {
	identifiers []object
	from, to    time.Time
	answered    [2]bool
	chain       []byte
}

type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t testing.TB, name string, by *authority) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	if by == nil {
		by = a
	}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// newFake starts one; secure: with TLS.
func newFake(t testing.TB, secure bool) *fake {
	t.Helper()
	f := &fake{asked: map[string]int{}, seen: map[string]int{}, codes: map[string]string{}, refresh: map[string]bool{}, nonces: map[string]bool{}, hostile: map[string]answer{}}
	f.root = newAuthority(t, "root", nil)
	f.ca = newAuthority(t, "intermediate", f.root)
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		f.StartTLS()
	} else {
		f.Start()
	}
	t.Cleanup(f.Close)
	return f
}

// issuer is for this fake; change may be nil.
func (f *fake) issuer(t testing.TB, change func(*acme.Config)) *acme.Issuer {
	t.Helper()
	c := acme.Config{Directory: f.URL + "/directory", RedirectURI: redirectURI, HTTP: f.Client(), AllowHTTP: true, Team: "wire"}
	if change != nil {
		change(&c)
	}
	i, err := acme.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// on makes the fake hostile, for requests whose path begins so; nil: no more.
func (f *fake) on(path string, a answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hostile[path] = a; a == nil {
		delete(f.hostile, path)
	}
}

// count gives how many requests there were since the last call, by path.
func (f *fake) count() (all int, each map[string]int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	each = maps.Clone(f.asked)
	clear(f.asked)
	for _, n := range each {
		all += n
	}
	return all, each
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	path := "/" + strings.Split(r.URL.Path, "/")[1]
	f.mu.Lock()
	f.asked[path]++
	f.seen[r.URL.Path]++
	n := f.seen[r.URL.Path]
	var hostile answer
	for prefix, a := range f.hostile {
		if strings.HasPrefix(r.URL.Path+"/", prefix+"/") {
			hostile = a
		}
	}
	f.mu.Unlock()
	next := func() object { return f.answer(w, r) }
	if hostile != nil {
		hostile(n, w, r, next)
		return
	}
	send(w, 0, next())
}

// send writes an object; an absent one was written before.
func send(w http.ResponseWriter, status int, o object) {
	if o == nil {
		return
	}
	if status == 0 {
		status = http.StatusOK
	}
	if code, ok := o["status"].(int); ok {
		status = code
	}
	w.WriteHeader(status)
	if text, ok := o["text"].(string); ok {
		_, _ = io.WriteString(w, text)
		return
	}
	_ = json.NewEncoder(w).Encode(o)
}

func problem(status int, kind string) object {
	return object{"status": status, "type": "urn:ietf:params:acme:error:" + kind, "detail": "because of " + kind}
}

func (f *fake) nonce() string {
	n := rand.Text()
	f.nonces[n] = true
	return n
}

func (f *fake) answer(w http.ResponseWriter, r *http.Request) object {
	f.mu.Lock()
	defer f.mu.Unlock()
	parts := strings.Split(r.URL.Path, "/")[1:]
	switch parts[0] {
	case "directory":
		return object{"newNonce": f.URL + "/nonce", "newAccount": f.URL + "/account", "newOrder": f.URL + "/new", "revokeCert": f.URL + "/revoke"}
	case "nonce":
		w.Header().Set("Replay-Nonce", f.nonce())
		return object{}
	case "idp":
		return f.provider(parts[1], r)
	}
	w.Header().Set("Replay-Nonce", f.nonce())
	var jws struct{ Protected, Payload, Signature string }
	var header struct{ Nonce, URL string }
	var payload struct {
		Identifiers         []object
		NotBefore, NotAfter time.Time
		CSR                 string
	}
	body, _ := io.ReadAll(r.Body)
	if json.Unmarshal(body, &jws) != nil || json.Unmarshal(raw(jws.Protected), &header) != nil || header.URL != f.URL+r.URL.Path ||
		r.Header.Get("Content-Type") != "application/jose+json" || r.Header.Get("User-Agent") == "" {
		return problem(400, "malformed")
	}
	if len(jws.Payload) > 0 && json.Unmarshal(raw(jws.Payload), &payload) != nil {
		return problem(400, "malformed")
	}
	if !f.nonces[header.Nonce] {
		return problem(400, "badNonce")
	}
	delete(f.nonces, header.Nonce)
	switch parts[0] {
	case "account":
		w.Header().Set("Location", f.URL+"/account/1")
		return object{"status": "valid", "orders": f.URL + "/account/1/orders"}
	case "new":
		f.orders = append(f.orders, &order{identifiers: payload.Identifiers, from: payload.NotBefore, to: payload.NotAfter})
		w.Header().Set("Location", fmt.Sprintf("%s/order/%d", f.URL, len(f.orders)-1))
		return f.order(len(f.orders) - 1)
	case "revoke":
		return object{}
	}
	var n, which int
	if _, err := fmt.Sscan(parts[1], &n); err != nil || n >= len(f.orders) {
		return problem(404, "malformed")
	}
	if len(parts) > 2 {
		if _, err := fmt.Sscan(parts[2], &which); err != nil || which > 1 {
			return problem(404, "malformed")
		}
	}
	o := f.orders[n]
	switch parts[0] {
	case "authz":
		return object{
			"identifier": o.identifiers[which], "status": "pending", "expires": time.Now().Add(time.Hour), "challenges": []object{f.challenge(n, which)},
		}
	case "challenge":
		o.answered[which] = true
		return f.challenge(n, which)
	case "order":
		return f.order(n)
	case "finalize":
		if o.chain != nil || !o.answered[0] || !o.answered[1] {
			return problem(403, "orderNotReady")
		}
		if err := f.issue(o, raw(payload.CSR)); err != nil {
			return problem(400, "badCSR")
		}
		return f.order(n)
	case "certificate":
		return object{"text": string(o.chain)}
	}
	return problem(404, "malformed")
}

func raw(s string) []byte {
	b, _ := base64.RawURLEncoding.DecodeString(s)
	return b
}

func (f *fake) order(n int) object {
	o := f.orders[n]
	reply := object{
		"status": "pending", "expires": time.Now().Add(time.Hour), "notBefore": o.from, "notAfter": o.to, "identifiers": o.identifiers,
		"authorizations": []string{fmt.Sprintf("%s/authz/%d/0", f.URL, n), fmt.Sprintf("%s/authz/%d/1", f.URL, n)},
		"finalize":       fmt.Sprintf("%s/finalize/%d", f.URL, n),
	}
	switch {
	case o.chain != nil:
		reply["status"], reply["certificate"] = "valid", fmt.Sprintf("%s/certificate/%d", f.URL, n)
	case o.answered[0] && o.answered[1]:
		reply["status"] = "ready"
	}
	return reply
}

func (f *fake) challenge(n, which int) object {
	c := object{
		"type": "wire-dpop-01", "url": fmt.Sprintf("%s/challenge/%d/%d", f.URL, n, which), "status": "pending",
		"token": fmt.Sprintf("dG9rZW4tb2YtdGhlLWNoYWxsZW5nZQ%d", which), "target": f.URL + "/backend/access-token",
	}
	if which == 1 {
		c["type"], c["target"] = "wire-oidc-01", f.URL+"/idp?client_id=wireapp"
	}
	if f.orders[n].answered[which] {
		c["status"] = "valid"
	}
	return c
}

// issue makes what step-ca makes of such a request.
func (f *fake) issue(o *order, der []byte) error {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return err
	}
	if err := csr.CheckSignature(); err != nil {
		return err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: o.from, NotAfter: o.to, URIs: csr.URIs, SubjectKeyId: []byte{1},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, PublicKey: csr.PublicKey,
	}
	for _, name := range csr.Subject.Names {
		if name.Type.Equal([]int{2, 5, 4, 10}) {
			leaf.Subject.Organization = []string{name.Value.(string)}
		} else {
			leaf.Subject.CommonName = name.Value.(string)
		}
	}
	if f.issued != nil {
		f.issued(leaf)
	}
	der, err = x509.CreateCertificate(rand.Reader, leaf, f.ca.cert, leaf.PublicKey, f.ca.key)
	if err != nil {
		return err
	}
	o.chain = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), f.ca.pem()...)
	return nil
}

func (f *fake) provider(part string, r *http.Request) object {
	if part == ".well-known" {
		return object{"issuer": f.URL + "/idp", "authorization_endpoint": f.URL + "/idp/authorize", "token_endpoint": f.URL + "/idp/token"}
	}
	refused := object{"status": 400, "error": "invalid_grant", "error_description": "it was used"}
	if err := r.ParseForm(); err != nil {
		return refused
	}
	var login url.Values
	switch form := r.PostForm; form.Get("grant_type") {
	case "authorization_code":
		login, _ = url.ParseQuery(f.codes[form.Get("code")])
		delete(f.codes, form.Get("code"))
		sum := sha256.Sum256([]byte(form.Get("code_verifier")))
		if base64.RawURLEncoding.EncodeToString(sum[:]) != login.Get("code_challenge") || login.Get("code_challenge_method") != "S256" ||
			len(form.Get("code_verifier")) < 43 || form.Get("redirect_uri") != login.Get("redirect_uri") || form.Get("client_id") != "wireapp" {
			return refused
		}
	case "refresh_token":
		if !f.refresh[form.Get("refresh_token")] || form.Get("client_id") != "wireapp" {
			return refused
		}
		delete(f.refresh, form.Get("refresh_token"))
		login = form
	}
	var claims struct {
		ID map[string]struct{ Value string } `json:"id_token"`
	}
	if json.Unmarshal([]byte(login.Get("claims")), &claims) != nil {
		return refused
	}
	t := rand.Text()
	f.refresh[t] = true
	return object{"id_token": idToken(object{
		"iss": f.URL + "/idp", "aud": []string{"other", "wireapp"}, "exp": time.Now().Add(5 * time.Minute).Unix(), "nonce": login.Get("nonce"),
		"keyauth": claims.ID["keyauth"].Value, "acme_aud": claims.ID["acme_aud"].Value,
	}), "refresh_token": t}
}

// refreshes says whether what is carried is good here.
func (f *fake) refreshes(carry []byte) bool {
	var c struct {
		Version  int
		Provider string `asn1:"utf8"`
		Token    []byte
	}
	rest, err := asn1.Unmarshal(carry, &c)
	f.mu.Lock()
	defer f.mu.Unlock()
	return err == nil && len(rest) == 0 && c.Version == 1 && c.Provider == f.URL+"/idp" && f.refresh[string(c.Token)]
}

// carried is a Carry with a token of a provider.
func carried(provider, token string) []byte {
	b, _ := asn1.Marshal(struct {
		Version  int
		Provider string `asn1:"utf8"`
		Token    []byte
	}{1, provider, []byte(token)})
	return b
}

// idToken has a signature that nobody checks here.
func idToken(claims object) string {
	text, _ := json.Marshal(claims)
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"ES256"}`)) + "." + part(text) + "." + part(make([]byte, 64))
}

// browse logs in: what of the login page's address is in the redirect.
func (f *fake) browse(t testing.TB, address string) string {
	t.Helper()
	page, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	code := rand.Text()
	f.mu.Lock()
	f.codes[code] = page.RawQuery
	f.mu.Unlock()
	return url.Values{"code": {code}, "state": {page.Query().Get("state")}, "iss": {f.URL + "/idp"}}.Encode()
}

// A client is somebody who enrols.
type client struct {
	testing.TB
	fake *fake
	core.Signer
	request core.IssueRequest
}

const clientID = "4af3df2e-5c01-422f-baa1-d75546b92aa7:4c7@example.com"

func newClient(t testing.TB, f *fake, algorithm core.KeyAlgorithm) *client {
	t.Helper()
	key, err := pure.New().GenerateKey(t.Context(), core.KeySpec{Algorithm: algorithm, Use: core.UseSign})
	if err != nil {
		t.Fatal(err)
	}
	return &client{t, f, key.(core.Signer), core.IssueRequest{
		Action: core.ActionIssue, ClientID: clientID, Handle: "alice_wire", Display: "Alice", Algorithm: algorithm, PublicKey: key.Public(),
	}}
}

// input answers a need.
func (c *client) input(need core.Need) (in core.Input) {
	c.Helper()
	switch {
	case need.Sign != nil:
		var err error
		if in.Signature, err = c.Sign(c.Context(), need.Sign.Message); err != nil {
			c.Fatal(err)
		}
	case need.Visit != nil:
		in.RedirectQuery = c.fake.browse(c, need.Visit.URL)
	case need.Call != nil:
		in.Result = []byte(need.Call.Kind)
	}
	return in
}

// kind is what a need is, in a word.
func kind(need core.Need) string {
	switch {
	case need.Sign != nil:
		return "sign"
	case need.Visit != nil:
		return "visit"
	case need.Call != nil:
		return need.Call.Kind
	case need.Wait != nil:
		return "wait"
	case need.Done != nil:
		return "done"
	case need.Refused != nil:
		return "refused"
	}
	return ""
}

// begin starts, and fails the test if that fails.
func (c *client) begin(i *acme.Issuer) core.Step {
	c.Helper()
	step, err := i.Begin(c.Context(), c.request)
	if err != nil {
		c.Fatal(err)
	}
	return step
}

func (c *client) advance(i *acme.Issuer, step core.Step) core.Step {
	c.Helper()
	next, err := i.Advance(c.Context(), step.State, c.input(step.Need))
	if err != nil {
		c.Fatalf("%s: %v", kind(step.Need), err)
	}
	return next
}

// to goes on to a need, through those that are told.
func (c *client) to(i *acme.Issuer, step core.Step, want string) (last core.Step, through []string) {
	c.Helper()
	for range 200 {
		through = append(through, kind(step.Need))
		if through[len(through)-1] == want {
			return step, through
		}
		if step.Need.Refused != nil {
			c.Fatalf("refused: %s", step.Need.Refused.Reason)
		}
		step = c.advance(i, step)
	}
	c.Fatalf("no end: %q", through)
	return step, nil
}
