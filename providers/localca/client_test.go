// SPDX-License-Identifier: Apache-2.0

package localca_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/providers/localca"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// trusting is an authentication service with one anchor. It knows basic credentials as
// well, because a client begins with one.
type trusting struct {
	client.Basic
	anchor *x509.Certificate
}

func (a trusting) Validate(c core.Credential, key []byte, at time.Time, p core.Purpose) (core.Identity, error) {
	if c.Type != core.CredentialX509 {
		return a.Basic.Validate(c, key, at, p)
	}
	chain, err := x509.ParseCertificates(slices.Concat(c.Certificates...))
	if err != nil || len(chain) == 0 {
		return core.Identity{}, core.ErrDenied
	}
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	o.Roots.AddCert(a.anchor)
	for _, above := range chain[1:] {
		o.Intermediates.AddCert(above)
	}
	_, err = chain[0].Verify(o)
	id, nameless := localca.ClientID(chain[0])
	public, other := core.X509PublicKey(core.Ed25519, key)
	if err := errors.Join(err, nameless, other); err != nil || !chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(public) {
		return core.Identity{}, errors.Join(core.ErrDenied, err)
	}
	return core.Identity{ClientID: id}, nil
}

// remembering is a provider whose keys a test can enrol.
type remembering struct {
	core.CryptoProvider
	key core.Signer
}

func (r *remembering) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	key, err := r.CryptoProvider.GenerateKey(ctx, spec)
	if s, ok := key.(core.Signer); ok && err == nil && spec.Use == core.UseSign {
		r.key = s
	}
	return key, err
}

// Clients talk with credentials of the CA, and do not take one of another CA.
func TestClients(t *testing.T) {
	suite := core.SuiteX25519AES128Ed25519
	service := clienttest.NewService(clienttest.Options{})
	root := newAuthority(localca.Signer(newKey(core.ECDSAP384)), nil, nil)
	ca := newAuthority(localca.Signer(newKey(core.ECDSAP256)), &root, nil)
	other := newAuthority(localca.Signer(newKey(core.ECDSAP384)), nil, nil)

	person := func(id core.ClientID, anchor authority, issuer core.CredentialIssuer) *clienttest.Device {
		keys := &remembering{CryptoProvider: pure.New()}
		d := clienttest.NewDevice(t, service, id, memory.New(), client.Config{Suites: pure.New(), Keys: keys, Authenticator: trusting{anchor: anchor.cert}})
		d.Identify(t, suite)
		done := enrol(t, issuer, request(id, keys.key), keys.key).Done
		must(t, d.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.AddCredential(ctx, done.Credential, keys.key.Public())
			return err
		}))
		d.New = client.ConversationConfig{Suite: suite, Credential: core.CredentialX509}
		return d
	}
	keyPackage := func(d *clienttest.Device) (message []byte) {
		must(t, d.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			k, err := tx.NewKeyPackages(ctx, suite, core.CredentialX509, 1)
			if err == nil {
				message = k[0].Message
			}
			return err
		}))
		return message
	}
	add := func(by, who *clienttest.Device) error {
		return by.In(t.Context(), "tea", func(ctx context.Context, c *client.Conversation) error {
			_, err := c.AddMembers(ctx, keyPackage(who))
			return err
		})
	}

	issuer := newIssuer(t, 0, ca, root)
	alice, bob := person("alice/laptop", root, issuer), person("bob/phone", root, issuer)
	clienttest.Group(t, "tea", alice)
	must(t, add(alice, bob))
	bob.Hear(t, "tea")
	alice.Say(t, "tea", "Tea is ready.")
	if texts := bob.Hear(t, "tea"); !slices.Equal(texts, []string{"Tea is ready."}) {
		t.Errorf("bob heard %q", texts)
	}
	for _, d := range []*clienttest.Device{alice, bob} {
		if own, err := d.Credential(t.Context(), "tea"); err != nil || own.Credential.Type != core.CredentialX509 || len(own.Credential.Certificates) != 2 {
			t.Errorf("the leaf of %s has %+v, %v", d.Link.ID, own, err)
		}
	}
	if err := add(alice, person("mallory", other, newIssuer(t, 0, other))); !errors.Is(err, core.ErrDenied) {
		t.Errorf("a credential of another CA: %v, want ErrDenied", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
