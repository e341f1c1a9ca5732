// SPDX-License-Identifier: Apache-2.0

package manual_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/manual"
	"github.com/conclave-mls/conclave/providers/pure"
)

const aliceID core.ClientID = "4af3df2e-5c01-422f-baa1-d75546b92aa7:4c7@example.com"

// An authority is the CA behind the ticket.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(name string, above *authority) authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a := authority{key: key}
	by := &authority{key, c}
	if above != nil {
		by = above
	}
	if a.cert, err = create(c, by, key.Public()); err != nil {
		panic(err)
	}
	return a
}

func create(template *x509.Certificate, by *authority, public any) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, public, by.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// certify does what is asked for in a request; change may spoil it.
func (a authority) certify(request []byte, change func(*x509.Certificate)) (*x509.Certificate, error) {
	block, _ := pem.Decode(request)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), RawSubject: csr.RawSubject, NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		URIs: csr.URIs, KeyUsage: x509.KeyUsageDigitalSignature, PublicKey: csr.PublicKey,
	}
	if change != nil {
		change(c)
	}
	return create(c, &a, c.PublicKey)
}

func text(certificates ...*x509.Certificate) (text []byte) {
	for _, c := range certificates {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

var (
	root = newAuthority("root", nil)
	ca   = newAuthority("ca", &root)
)

// ticketed is an issuer with somebody who goes to the CA.
type ticketed struct{ *manual.Issuer }

func (ticketed) Answer(_ context.Context, need core.Need) (core.Input, error) {
	if need.Show == nil {
		return core.Input{}, fmt.Errorf("unexpected need %+v", need)
	}
	leaf, err := ca.certify(need.Show.File, nil)
	if err != nil {
		return core.Input{}, err
	}
	return core.Input{File: text(leaf, ca.cert, root.cert)}, nil
}

func TestIssuer(t *testing.T) {
	coretest.TestCredentialIssuer(t, func(*testing.T) core.CredentialIssuer { return ticketed{manual.New(manual.Config{})} })
}

func newKey(algorithm core.KeyAlgorithm) core.Signer {
	key, err := pure.New().GenerateKey(context.Background(), core.KeySpec{Algorithm: algorithm, Use: core.UseSign})
	if err != nil {
		panic(err)
	}
	return key.(core.Signer)
}

// shown is the step that shows the request.
func shown(t testing.TB, i *manual.Issuer, req core.IssueRequest, key core.Signer) core.Step {
	t.Helper()
	step, err := i.Begin(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := key.Sign(t.Context(), step.Need.Sign.Message)
	if err != nil {
		t.Fatal(err)
	}
	if step, err = i.Advance(t.Context(), step.State, core.Input{Signature: signature}); err != nil || step.Need.Show == nil {
		t.Fatalf("%+v, %v", step.Need, err)
	}
	return step
}

func wireRequest(key core.Signer) core.IssueRequest {
	return core.IssueRequest{
		Action: core.ActionIssue, ClientID: aliceID, Handle: "alice_wire", Display: "Alice Smith", Algorithm: key.Algorithm(), PublicKey: key.Public(),
	}
}

// With Wire's names the client is verified; what stands around the certificates in the file is
// passed over, and the root is not in the credential.
func TestWireNames(t *testing.T) {
	t.Parallel()
	key := newKey(core.ECDSAP384)
	i := manual.New(manual.Config{Instructions: "To the desk on the second floor."})
	step := shown(t, i, wireRequest(key), key)
	if step.Need.Show.Text != "To the desk on the second floor." {
		t.Error(step.Need.Show.Text)
	}
	leaf, err := ca.certify(step.Need.Show.File, nil)
	if err != nil {
		t.Fatal(err)
	}
	step, err = i.Advance(t.Context(), step.State, core.Input{File: slices.Concat([]byte("subject=Alice\n"), text(leaf), []byte("issuer=ca\n"), text(ca.cert, root.cert))})
	if err != nil || step.Need.Done == nil {
		t.Fatalf("%+v, %v", step.Need, err)
	}
	credential := step.Need.Done.Credential
	if !slices.EqualFunc(credential.Certificates, [][]byte{leaf.Raw, ca.cert.Raw}, bytes.Equal) || credential.Type != core.CredentialX509 {
		t.Errorf("%d certificates", len(credential.Certificates))
	}
	env, _, err := (*e2ei.Environment)(nil).AddAnchor(root.cert.Raw, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if env, _, err = env.AddIntermediate(ca.cert.Raw, time.Now()); err != nil {
		t.Fatal(err)
	}
	member := e2ei.Member{Credential: credential, SignatureKey: key.Public()}
	id, err := e2ei.Authenticator{Environment: env}.Identity(member, core.SuiteParameters{Hash: "SHA-384", Signature: core.ECDSAP384}, time.Now())
	if err != nil || id.ClientID != string(aliceID) || id.Status != e2ei.StatusValid || id.X509.Handle.Name() != "alice_wire" || id.X509.DisplayName != "Alice Smith" {
		t.Errorf("%+v, %v", id, err)
	}
}

// A file without the right certificate is refused, and the right one is taken then.
func TestFiles(t *testing.T) {
	t.Parallel()
	i := manual.New(manual.Config{})
	key, other := newKey(core.Ed25519), newKey(core.Ed25519)
	step := shown(t, i, wireRequest(key), key)
	request := step.Need.Show.File
	certify := func(change func(*x509.Certificate)) *x509.Certificate {
		c, err := ca.certify(request, change)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	good, stranger := certify(nil), newAuthority("ca", nil)
	public, err := core.X509PublicKey(other.Algorithm(), other.Public())
	if err != nil {
		t.Fatal(err)
	}
	many := []*x509.Certificate{good, ca.cert}
	for range manual.MaxCertificates - 1 {
		many = append(many, root.cert)
	}
	for _, c := range []struct {
		name string
		file []byte
		want error
	}{
		{"empty", []byte{}, e2ei.ErrCertificate},
		{"nonsense", []byte("nonsense"), e2ei.ErrCertificate},
		{"the request", request, e2ei.ErrCertificate},
		{"cut", text(good)[:300], e2ei.ErrCertificate},
		{"a large file", make([]byte, e2ei.MaxPEM+1), core.ErrTooLarge},
		{"many", text(many...), core.ErrTooLarge},
		{"another order", text(ca.cert, good), e2ei.ErrWrongKey},
		{"another key", text(certify(func(c *x509.Certificate) { c.PublicKey = public })), e2ei.ErrWrongKey},
		{"another name", text(certify(func(c *x509.Certificate) {
			c.RawSubject, c.Subject = nil, pkix.Name{CommonName: "Mallory", Organization: []string{"example.com"}}
		})), e2ei.ErrMismatch},
		{"no names", text(certify(func(c *x509.Certificate) { c.URIs = nil })), e2ei.ErrIdentity},
		{"of a CA", text(certify(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })), e2ei.ErrConstraint},
		{"another issuer", text(good, stranger.cert), core.ErrInvalid},
		{"an issuer left out", text(good, root.cert), core.ErrInvalid},
		{"a second one behind", text(good, good), core.ErrInvalid},
	} {
		next, err := i.Advance(t.Context(), step.State, core.Input{File: c.file})
		if !errors.Is(err, core.ErrInvalid) || !errors.Is(err, c.want) || next.Need != (core.Need{}) {
			t.Errorf("%s: %+v, %v, want %v", c.name, next.Need, err, c.want)
		}
	}
	if next, err := i.Advance(t.Context(), step.State, core.Input{File: text(good)}); err != nil || len(next.Need.Done.Credential.Certificates) != 1 {
		t.Errorf("the right one: %+v, %v", next.Need, err)
	}
}

func TestRefusedRequests(t *testing.T) {
	t.Parallel()
	i := manual.New(manual.Config{})
	key := newKey(core.Ed25519)
	good := wireRequest(key)
	with := func(change func(*core.IssueRequest)) core.IssueRequest {
		r := good
		change(&r)
		return r
	}
	step := shown(t, i, good, key)
	leaf, err := ca.certify(step.Need.Show.File, nil)
	if err != nil {
		t.Fatal(err)
	}
	of := func(c *x509.Certificate) core.Credential {
		return core.Credential{Type: core.CredentialX509, Certificates: [][]byte{c.Raw}}
	}
	renew := func(id core.ClientID, previous core.Credential) core.IssueRequest {
		return with(func(r *core.IssueRequest) { r.Action, r.ClientID, r.Previous = core.ActionRenew, id, previous })
	}
	for name, c := range map[string]struct {
		req  core.IssueRequest
		want error
	}{
		"revoke":            {with(func(r *core.IssueRequest) { r.Action = core.ActionRevoke }), core.ErrUnsupported},
		"Ed448":             {with(func(r *core.IssueRequest) { r.Algorithm = core.Ed448 }), core.ErrUnsupported},
		"a key of another":  {with(func(r *core.IssueRequest) { r.Algorithm = core.ECDSAP256 }), core.ErrInvalid},
		"no client":         {with(func(r *core.IssueRequest) { r.ClientID = "" }), core.ErrInvalid},
		"no display name":   {with(func(r *core.IssueRequest) { r.Display = "" }), core.ErrInvalid},
		"a long id":         {with(func(r *core.IssueRequest) { r.ClientID = core.ClientID(make([]byte, e2ei.MaxClientID+1)) }), core.ErrTooLarge},
		"renew a basic one": {renew(aliceID, core.BasicCredential(aliceID)), core.ErrInvalid},
		"renew nothing":     {renew(aliceID, core.Credential{Type: core.CredentialX509}), core.ErrInvalid},
		"renew nonsense":    {renew(aliceID, core.Credential{Type: core.CredentialX509, Certificates: [][]byte{{1}}}), core.ErrInvalid},
		"renew the CA's":    {renew(aliceID, of(ca.cert)), core.ErrInvalid},
		"renew another's":   {renew("bob", of(leaf)), core.ErrInvalid},
	} {
		if step, err := i.Begin(t.Context(), c.req); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v, want %v", name, step.Need, err, c.want)
		}
	}
	if _, err := i.Begin(t.Context(), renew(aliceID, of(leaf))); err != nil {
		t.Errorf("renewal: %v", err)
	}
}

// What is no state is refused, whatever the answer, and so are two answers at once.
func TestStates(t *testing.T) {
	t.Parallel()
	i, key := manual.New(manual.Config{}), newKey(core.Ed25519)
	step, err := i.Begin(t.Context(), wireRequest(key))
	if err != nil {
		t.Fatal(err)
	}
	signature, err := key.Sign(t.Context(), step.Need.Sign.Message)
	if err != nil {
		t.Fatal(err)
	}
	second := shown(t, i, wireRequest(key), key)
	leaf, err := ca.certify(second.Need.Show.File, nil)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(second.State)
	flipped[len(flipped)-1] ^= 1
	for name, state := range map[string][]byte{
		"another version":   bytes.Replace(step.State, []byte{2, 1, 1}, []byte{2, 1, 2}, 1),
		"something after":   append(bytes.Clone(step.State), 0),
		"a key of nobody":   bytes.Replace(step.State, key.Public(), make([]byte, 32), 1),
		"another signature": flipped,
	} {
		if _, err := i.Advance(t.Context(), state, core.Input{Error: "no"}); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	file := text(leaf)
	for name, c := range map[string]struct {
		state []byte
		in    core.Input
	}{
		"signature and file":     {step.State, core.Input{Signature: signature, File: file}},
		"signature and result":   {step.State, core.Input{Signature: signature, Result: []byte{}}},
		"signature and redirect": {step.State, core.Input{Signature: signature, RedirectQuery: "x"}},
		"file and signature":     {second.State, core.Input{Signature: signature, File: file}},
		"file and result":        {second.State, core.Input{File: file, Result: []byte{}}},
	} {
		if next, err := i.Advance(t.Context(), c.state, c.in); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, next.Need, err)
		}
	}
}

// A CA by ticket: the request goes into a file, and the answer comes days later.
func Example() {
	ctx := context.Background()
	issuer := manual.New(manual.Config{})
	key := newKey(core.Ed25519) // or a key of a token
	step, err := issuer.Begin(ctx, core.IssueRequest{
		Action: core.ActionIssue, ClientID: "alice/laptop", Algorithm: key.Algorithm(), PublicKey: key.Public(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	signature, err := key.Sign(ctx, step.Need.Sign.Message)
	if err != nil {
		fmt.Println(err)
		return
	}
	if step, err = issuer.Advance(ctx, step.State, core.Input{Signature: signature}); err != nil {
		fmt.Println(err)
		return
	}
	request, _, _ := bytes.Cut(step.Need.Show.File, []byte("\n"))
	fmt.Printf("%s\n", request)

	// What the CA does with it.
	leaf, err := ca.certify(step.Need.Show.File, nil)
	if err != nil {
		fmt.Println(err)
		return
	}

	if step, err = issuer.Advance(ctx, step.State, core.Input{File: text(leaf, ca.cert)}); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(step.Need.Done.Credential.Certificates), "certificates")
	// Output:
	// -----BEGIN CERTIFICATE REQUEST-----
	// 2 certificates
}
