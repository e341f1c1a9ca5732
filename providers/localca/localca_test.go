// SPDX-License-Identifier: Apache-2.0

package localca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/localca"
	"github.com/conclave-mls/conclave/providers/pure"
)

func newKey(algorithm core.KeyAlgorithm) core.Signer {
	key, err := pure.New().GenerateKey(context.Background(), core.KeySpec{Algorithm: algorithm, Use: core.UseSign})
	if err != nil {
		panic(err)
	}
	return key.(core.Signer)
}

// An authority is a CA with its certificate, under another or self-signed.
type authority struct {
	key  localca.Key
	cert *x509.Certificate
}

func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// newAuthority makes a CA; change may spoil its certificate.
func newAuthority(key localca.Key, above *authority, change func(*x509.Certificate)) authority {
	ctx := context.Background()
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if change != nil {
		change(c)
	}
	own, err := key(ctx)
	if err != nil {
		panic(err)
	}
	signer, parent := own, c
	if above != nil {
		parent = above.cert
		if signer, err = above.key(ctx); err != nil {
			panic(err)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, own.Public(), signer)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return authority{key, cert}
}

// stateKey is the same after a restart, and that of all issuers of newIssuer.
var stateKey = core.NewSecret(bytes.Repeat([]byte{7}, localca.StateKeySize))

func newIssuer(t testing.TB, lifetime time.Duration, chain ...authority) *localca.Issuer {
	t.Helper()
	var certificates []byte
	for _, a := range chain {
		certificates = append(certificates, a.pem()...)
	}
	i, err := localca.New(t.Context(), localca.Config{Certificates: certificates, Key: chain[0].key, Lifetime: lifetime, StateKey: stateKey})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func request(id core.ClientID, key core.Signer) core.IssueRequest {
	return core.IssueRequest{Action: core.ActionIssue, ClientID: id, Algorithm: key.Algorithm(), PublicKey: key.Public()}
}

// enrol answers the one need.
func enrol(t testing.TB, i core.CredentialIssuer, req core.IssueRequest, key core.Signer) core.Need {
	t.Helper()
	step, err := i.Begin(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := key.Sign(t.Context(), step.Need.Sign.Message)
	if err != nil {
		t.Fatal(err)
	}
	if step, err = i.Advance(t.Context(), step.State, core.Input{Signature: signature}); err != nil {
		t.Fatal(err)
	}
	return step.Need
}

// issue gives the certificates of a credential.
func issue(t testing.TB, i core.CredentialIssuer, id core.ClientID, key core.Signer) (chain []*x509.Certificate) {
	t.Helper()
	need := enrol(t, i, request(id, key), key)
	if need.Done == nil {
		t.Fatalf("not issued: %+v", need)
	}
	return certificates(t, need.Done.Credential)
}

func certificates(t testing.TB, c core.Credential) (chain []*x509.Certificate) {
	t.Helper()
	for _, der := range c.Certificates {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, cert)
	}
	return chain
}

// The contract, with each kind of key that a CA may have.
func TestIssuer(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]localca.Key{"RSA": func(context.Context) (crypto.Signer, error) { return rsaKey, nil }}
	for _, a := range []core.KeyAlgorithm{core.Ed25519, core.ECDSAP256, core.ECDSAP384, core.ECDSAP521} {
		keys[string(a)] = localca.Signer(newKey(a))
	}
	for name, key := range keys {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := newAuthority(key, nil, nil)
			coretest.TestCredentialIssuer(t, func(t *testing.T) core.CredentialIssuer { return newIssuer(t, 0, ca) })
		})
	}
}

func TestProfile(t *testing.T) {
	root := newAuthority(localca.Signer(newKey(core.ECDSAP384)), nil, nil)
	ca := newAuthority(localca.Signer(newKey(core.ECDSAP256)), &root, nil)
	key := newKey(core.Ed25519)
	i := newIssuer(t, 24*time.Hour, ca, root)
	chain := issue(t, i, "alice/laptop", key)
	if len(chain) != 2 || !bytes.Equal(chain[1].Raw, ca.cert.Raw) {
		t.Fatalf("a chain of %d, want leaf and CA without the root", len(chain))
	}
	leaf := chain[0]
	roots, above := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root.cert)
	above.AddCert(chain[1])
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: above, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: above}); err == nil {
		t.Error("it is one for a server")
	}
	public, err := core.X509PublicKey(key.Algorithm(), key.Public())
	if err != nil || !leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(public) {
		t.Errorf("another key: %v", err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "mls-client:alice%2Flaptop" || len(leaf.Subject.Names) != 0 {
		t.Errorf("names: %v, %v", leaf.URIs, leaf.Subject)
	}
	if id, err := e2ei.ClientOf(leaf); err != nil || id != "alice/laptop" {
		t.Errorf("client id %q, %v", id, err)
	}
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature || leaf.IsCA || !leaf.BasicConstraintsValid {
		t.Errorf("usage %b, CA %v", leaf.KeyUsage, leaf.IsCA)
	}
	if len(leaf.SubjectKeyId) != 20 || !bytes.Equal(leaf.AuthorityKeyId, ca.cert.SubjectKeyId) {
		t.Errorf("key ids %x, %x", leaf.SubjectKeyId, leaf.AuthorityKeyId)
	}
	if leaf.SerialNumber.Sign() <= 0 || leaf.SerialNumber.BitLen() < 100 || leaf.SerialNumber.BitLen() > 159 {
		t.Errorf("serial number %v", leaf.SerialNumber)
	}
	if again := issue(t, i, "alice/laptop", key)[0]; again.SerialNumber.Cmp(leaf.SerialNumber) == 0 {
		t.Error("a serial number was given twice")
	}
	near := func(at time.Time, from time.Duration) bool { return time.Until(at).Round(time.Minute) == from }
	if !near(leaf.NotBefore, -5*time.Minute) || !near(leaf.NotAfter, 24*time.Hour) {
		t.Errorf("valid from %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
}

const aliceID core.ClientID = "4af3df2e-5c01-422f-baa1-d75546b92aa7:4c7@example.com"

// A certificate for Wire's clients is as theirs are, within what the CA may certify.
func TestWireProfile(t *testing.T) {
	root := newAuthority(localca.Signer(newKey(core.ECDSAP384)), nil, func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical, c.PermittedURIDomains = true, []string{"example.com"}
	})
	const point = "http://ca.example.com/list"
	i, err := localca.New(t.Context(), localca.Config{Certificates: root.pem(), Key: root.key, DistributionPoints: []string{point}})
	if err != nil {
		t.Fatal(err)
	}
	env, _, err := (*e2ei.Environment)(nil).AddAnchor(root.cert.Raw, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, algorithm := range []core.KeyAlgorithm{core.Ed25519, core.ECDSAP256, core.ECDSAP384, core.ECDSAP521} {
		key := newKey(algorithm)
		req := request(aliceID, key)
		req.Handle, req.Display = "alice_wire", "Alice Smith"
		done := enrol(t, i, req, key).Done
		member := e2ei.Member{Credential: done.Credential, SignatureKey: key.Public()}
		id, err := e2ei.Authenticator{Environment: env}.Identity(member, core.SuiteParameters{Hash: "SHA-256", Signature: algorithm}, time.Now())
		if err != nil || id.ClientID != string(aliceID) || id.Status != e2ei.StatusValid || id.X509.Handle.Name() != "alice_wire" || id.X509.DisplayName != "Alice Smith" || id.X509.Domain != "example.com" {
			t.Errorf("%s: %+v, %v", algorithm, id, err)
		}
		if got := (e2ei.Authenticator{Environment: env}).State(slices.Values([]e2ei.Member{member}), time.Now()); got != e2ei.Verified {
			t.Errorf("%s: %v", algorithm, got)
		}
		leaf := certificates(t, done.Credential)[0]
		if leaf.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || len(leaf.SubjectKeyId) != 20 ||
			!bytes.Equal(leaf.AuthorityKeyId, root.cert.SubjectKeyId) || !slices.Equal(leaf.CRLDistributionPoints, []string{point}) {
			t.Errorf("%s: %+v", algorithm, leaf)
		}
		req.Action, req.Previous = core.ActionRenew, done.Credential
		if enrol(t, i, req, key).Done == nil {
			t.Errorf("%s: no renewal", algorithm)
		}
	}
	// The constraint is on the domain.
	key := newKey(core.Ed25519)
	req := request("4af3df2e-5c01-422f-baa1-d75546b92aa7:4c7@example.org", key)
	req.Handle, req.Display = "alice_wire", "Alice Smith"
	if r := enrol(t, i, req, key).Refused; r == nil || !r.Final {
		t.Error("a name of another domain is certified")
	}
	req.Display = ""
	if _, err := i.Begin(t.Context(), req); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("no display name: %v", err)
	}
}

// A certificate is valid only while all above it are.
func TestLifetimeWithinTheChain(t *testing.T) {
	end, begin := time.Now().Add(time.Hour).Truncate(time.Second), time.Now().Add(-time.Minute).Truncate(time.Second)
	root := newAuthority(localca.Signer(newKey(core.Ed25519)), nil, func(c *x509.Certificate) { c.NotAfter = end })
	ca := newAuthority(localca.Signer(newKey(core.Ed25519)), &root, func(c *x509.Certificate) { c.NotBefore = begin })
	leaf := issue(t, newIssuer(t, 0, ca, root), "alice", newKey(core.Ed25519))[0]
	if !leaf.NotAfter.Equal(end) || !leaf.NotBefore.Equal(begin) {
		t.Errorf("valid from %v to %v, want %v to %v", leaf.NotBefore, leaf.NotAfter, begin, end)
	}
}

func TestExpiredMeanwhile(t *testing.T) {
	t.Parallel()
	end := time.Now().Add(2 * time.Second) // a certificate has whole ones
	ca := newAuthority(localca.Signer(newKey(core.Ed25519)), nil, func(c *x509.Certificate) { c.NotAfter = end })
	i := newIssuer(t, 0, ca)
	time.Sleep(time.Until(end))
	key := newKey(core.Ed25519)
	if r := enrol(t, i, request("alice", key), key).Refused; r == nil || !r.Final {
		t.Error("an expired CA issues")
	}
}

func TestConstrainedCA(t *testing.T) {
	for name, change := range map[string]func(*x509.Certificate){
		"names": func(c *x509.Certificate) {
			c.PermittedDNSDomainsCritical, c.PermittedURIDomains = true, []string{"example.com"}
		},
		"uses": func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
	} {
		i := newIssuer(t, 0, newAuthority(localca.Signer(newKey(core.Ed25519)), nil, change))
		key := newKey(core.Ed25519)
		if r := enrol(t, i, request("alice", key), key).Refused; r == nil || !r.Final {
			t.Errorf("%s: a certificate that does not verify is issued", name)
		}
	}
}

func TestProofOfPossession(t *testing.T) {
	i := newIssuer(t, 0, newAuthority(localca.Signer(newKey(core.Ed25519)), nil, nil))
	other := newIssuer(t, 0, newAuthority(localca.Signer(newKey(core.Ed25519)), nil, nil))
	key := newKey(core.ECDSAP256)
	begin := func(i *localca.Issuer, id core.ClientID, key core.Signer) core.Step {
		step, err := i.Begin(t.Context(), request(id, key))
		if err != nil {
			t.Fatal(err)
		}
		return step
	}
	step := begin(i, "alice", key)
	for name, c := range map[string]struct {
		signer  core.Signer
		message []byte
	}{
		"by another key":           {newKey(core.ECDSAP256), step.Need.Sign.Message},
		"by a key of another kind": {newKey(core.Ed25519), step.Need.Sign.Message},
		"for another client":       {key, begin(i, "bob", key).Need.Sign.Message},
		"for another CA":           {key, begin(other, "alice", key).Need.Sign.Message},
		"for the state alone":      {key, step.State},
	} {
		signature, err := c.signer.Sign(t.Context(), c.message)
		if err != nil {
			t.Fatal(err)
		}
		if next, err := i.Advance(t.Context(), step.State, core.Input{Signature: signature}); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("a signature %s: %+v, %v", name, next.Need, err)
		}
	}
}

// errBegin: the issuer refuses, and one may begin again.
var errBegin = errors.New("begin again")

// Whoever lets somebody begin has seen for which client. The state cannot be changed after
// that, even by the owner of the key.
func TestStateOfTheIssuer(t *testing.T) {
	ca := newAuthority(localca.Signer(newKey(core.Ed25519)), nil, nil)
	issuer := func(stateKey core.Secret) *localca.Issuer {
		i, err := localca.New(t.Context(), localca.Config{Certificates: ca.pem(), Key: ca.key, StateKey: stateKey})
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	key := newKey(core.ECDSAP256)
	other := newIssuer(t, 0, newAuthority(localca.Signer(newKey(core.Ed25519)), nil, nil))
	i, random := issuer(stateKey), issuer(core.Secret{})
	step, err := i.Begin(t.Context(), request("mallory", key))
	if err != nil {
		t.Fatal(err)
	}
	prefix, ok := bytes.CutSuffix(step.Need.Sign.Message, step.State)
	if !ok {
		t.Fatal("the state is not what is signed")
	}
	advance := func(i *localca.Issuer, prefix, state []byte) error {
		t.Helper()
		signature, err := key.Sign(t.Context(), slices.Concat(prefix, state))
		if err != nil {
			t.Fatal(err)
		}
		next, err := i.Advance(t.Context(), state, core.Input{Signature: signature})
		if r := next.Need.Refused; r != nil && !r.Final {
			return errBegin
		}
		return err
	}
	if err := advance(issuer(stateKey), prefix, step.State); err != nil {
		t.Errorf("an issuer with the same state key: %v", err)
	}
	bad := map[string][]byte{"another client": bytes.Replace(step.State, []byte("mallory"), []byte("alice/1"), 1), "longer": append(slices.Clone(step.State), 0), "short": step.State[:31]}
	for at := range step.State {
		b := slices.Clone(step.State)
		b[at] ^= 1
		bad[fmt.Sprintf("byte %d changed", at)] = b
	}
	for what, state := range bad {
		if err := advance(i, prefix, state); !errors.Is(err, core.ErrInvalid) && err != errBegin {
			t.Errorf("%s: %v, want a refusal", what, err)
		}
	}
	foreign, err := other.Begin(t.Context(), request("mallory", key))
	if err != nil {
		t.Fatal(err)
	}
	if err := advance(i, prefix, foreign.State); err != errBegin {
		t.Errorf("a state of another CA with the same state key: %v, want a refusal", err)
	}
	for what, stateKey := range map[string]core.Secret{"a random": {}, "another": core.NewSecret(bytes.Repeat([]byte{8}, localca.StateKeySize))} {
		if err := advance(issuer(stateKey), prefix, step.State); err != errBegin {
			t.Errorf("a state of an issuer with %s key: %v, want a refusal", what, err)
		}
	}
	if step, err = random.Begin(t.Context(), request("mallory", key)); err != nil {
		t.Fatal(err)
	}
	if err := advance(random, prefix, step.State); err != nil {
		t.Errorf("an issuer with a random state key: %v", err)
	}
	if err := advance(issuer(core.Secret{}), prefix, step.State); err != errBegin {
		t.Errorf("two random keys are the same: %v", err)
	}
}

// A state and its signature, recorded, are of no use to anybody later.
func TestOldState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t, 0, newAuthority(localca.Signer(newKey(core.Ed25519)), nil, nil))
		key := newKey(core.Ed25519)
		step, err := i.Begin(t.Context(), request("alice", key))
		if err != nil {
			t.Fatal(err)
		}
		if again, err := i.Begin(t.Context(), request("alice", key)); err != nil || bytes.Equal(again.Need.Sign.Message, step.Need.Sign.Message) {
			t.Errorf("two enrolments sign the same; %v", err)
		}
		signature, err := key.Sign(t.Context(), step.Need.Sign.Message)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if next, err := i.Advance(t.Context(), step.State, core.Input{Signature: signature}); err != nil || next.Need.Done == nil {
			t.Errorf("after an hour: %+v, %v", next.Need, err)
		}
		time.Sleep(time.Second)
		if next, err := i.Advance(t.Context(), step.State, core.Input{Signature: signature}); err != nil || next.Need.Refused == nil || next.Need.Refused.Final {
			t.Errorf("after more than an hour: %+v, %v, want a refusal", next.Need, err)
		}
	})
}

func TestRefusedRequests(t *testing.T) {
	ca := newAuthority(localca.Signer(newKey(core.Ed25519)), nil, nil)
	i := newIssuer(t, 0, ca)
	key := newKey(core.Ed25519)
	alice := enrol(t, i, request("alice", key), key).Done.Credential
	stranger := enrol(t, newIssuer(t, 0, newAuthority(localca.Signer(newKey(core.Ed25519)), nil, nil)), request("alice", key), key).Done.Credential
	renew := func(id core.ClientID, previous core.Credential) core.IssueRequest {
		r := request(id, key)
		r.Action, r.Previous = core.ActionRenew, previous
		return r
	}
	long := request(core.ClientID(bytes.Repeat([]byte("x"), e2ei.MaxClientID+1)), key)
	revoke := request("alice", key)
	revoke.Action, revoke.Previous = core.ActionRevoke, alice
	off := request("alice", newKey(core.ECDSAP256))
	off.PublicKey[20] ^= 1
	nobodys := request("mallory", newKey(core.Ed25519))
	nobodys.PublicKey = append([]byte{1}, make([]byte, 31)...) // the neutral point
	for name, c := range map[string]struct {
		req  core.IssueRequest
		want error
	}{
		"renew another's":     {renew("bob", alice), core.ErrInvalid},
		"renew another CA's":  {renew("alice", stranger), core.ErrInvalid},
		"renew a basic one":   {renew("alice", core.BasicCredential("alice")), core.ErrInvalid},
		"renew nothing":       {renew("alice", core.Credential{Type: core.CredentialX509}), core.ErrInvalid},
		"renew nonsense":      {renew("alice", core.Credential{Type: core.CredentialX509, Certificates: [][]byte{{1}}}), core.ErrInvalid},
		"renew the CA's":      {renew("alice", core.Credential{Type: core.CredentialX509, Certificates: [][]byte{ca.cert.Raw}}), core.ErrInvalid},
		"revoke":              {revoke, core.ErrUnsupported},
		"Ed448":               {request("alice", newKey(core.Ed448)), core.ErrUnsupported},
		"a key off the curve": {off, core.ErrInvalid},
		"a key of nobody":     {nobodys, core.ErrInvalid},
		"a long id":           {long, core.ErrTooLarge},
	} {
		if _, err := i.Begin(t.Context(), c.req); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if enrol(t, i, renew("alice", alice), key).Done == nil {
		t.Error("no renewal")
	}
	// Whoever has seen a certificate has it, but not its key.
	for _, algorithm := range []core.KeyAlgorithm{core.Ed25519, core.ECDSAP521} {
		key = newKey(algorithm)
		if _, err := i.Begin(t.Context(), renew("alice", alice)); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("renewal with a new %s key: %v, want ErrInvalid", algorithm, err)
		}
	}
	// An id of the greatest size is not too long.
	issue(t, i, long.ClientID[1:], key)
}

func TestNewRefuses(t *testing.T) {
	key := localca.Signer(newKey(core.Ed25519))
	good := newAuthority(key, nil, nil)
	spoilt := func(change func(*x509.Certificate)) []byte { return newAuthority(key, nil, change).pem() }
	stranger := newAuthority(localca.Signer(newKey(core.Ed25519)), nil, nil)
	other := errors.New("the token is away")
	// crypto/x509 gives every CA a key identifier, but takes one as an extension.
	unnamed := newAuthority(key, nil, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 14}, Value: []byte{4, 0}}}
	})
	for name, c := range map[string]struct {
		cfg  localca.Config
		want error
	}{
		"no certificate":       {localca.Config{Key: key}, core.ErrInvalid},
		"nonsense":             {localca.Config{Certificates: []byte("nonsense"), Key: key}, core.ErrInvalid},
		"another thing":        {localca.Config{Certificates: pem.EncodeToMemory(&pem.Block{Type: "TRUSTED CERTIFICATE", Bytes: good.cert.Raw}), Key: key}, core.ErrInvalid},
		"no key":               {localca.Config{Certificates: good.pem()}, core.ErrInvalid},
		"a short state key":    {localca.Config{Certificates: good.pem(), Key: key, StateKey: core.NewSecret(stateKey.Bytes()[1:])}, core.ErrInvalid},
		"a negative lifetime":  {localca.Config{Certificates: good.pem(), Key: key, Lifetime: -1}, core.ErrInvalid},
		"no address":           {localca.Config{Certificates: good.pem(), Key: key, DistributionPoints: []string{"list"}}, core.ErrInvalid},
		"another's key":        {localca.Config{Certificates: stranger.pem(), Key: key}, core.ErrInvalid},
		"Ed448":                {localca.Config{Certificates: good.pem(), Key: localca.Signer(newKey(core.Ed448))}, core.ErrUnsupported},
		"no key to be had":     {localca.Config{Certificates: good.pem(), Key: func(context.Context) (crypto.Signer, error) { return nil, other }}, other},
		"a stranger above":     {localca.Config{Certificates: append(good.pem(), stranger.pem()...), Key: key}, core.ErrInvalid},
		"expired":              {localca.Config{Certificates: spoilt(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), Key: key}, core.ErrInvalid},
		"not valid yet":        {localca.Config{Certificates: spoilt(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), Key: key}, core.ErrInvalid},
		"no CA":                {localca.Config{Certificates: spoilt(func(c *x509.Certificate) { c.IsCA, c.SubjectKeyId = false, []byte{1} }), Key: key}, core.ErrInvalid},
		"may not certify":      {localca.Config{Certificates: spoilt(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), Key: key}, core.ErrInvalid},
		"without its key's id": {localca.Config{Certificates: unnamed.cert.Raw, Key: key}, core.ErrInvalid},
		"without a name":       {localca.Config{Certificates: spoilt(func(c *x509.Certificate) { c.Subject = pkix.Name{} }), Key: key}, core.ErrInvalid},
	} {
		if _, err := localca.New(t.Context(), c.cfg); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := localca.New(t.Context(), localca.Config{Certificates: good.cert.Raw, Key: key}); err != nil {
		t.Errorf("DER: %v", err)
	}
}

// A CA of a small organisation, with its key in software.
func Example() {
	ctx := context.Background()
	key := localca.Signer(newKey(core.ECDSAP256)) // or a key of a token
	ca, err := localca.New(ctx, localca.Config{Certificates: newAuthority(key, nil, nil).pem(), Key: key})
	if err != nil {
		fmt.Println(err)
		return
	}

	client := newKey(core.Ed25519)
	step, err := ca.Begin(ctx, core.IssueRequest{
		Action: core.ActionIssue, ClientID: "alice/laptop", Algorithm: client.Algorithm(), PublicKey: client.Public(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	signature, err := client.Sign(ctx, step.Need.Sign.Message)
	if err != nil {
		fmt.Println(err)
		return
	}
	if step, err = ca.Advance(ctx, step.State, core.Input{Signature: signature}); err != nil {
		fmt.Println(err)
		return
	}
	leaf, err := x509.ParseCertificate(step.Need.Done.Credential.Certificates[0])
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(leaf.URIs[0])
	// Output: mls-client:alice%2Flaptop
}
