// SPDX-License-Identifier: Apache-2.0

package localca_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/localca"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

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

// Clients talk with credentials of the CA and see each other verified, by names of their own
// and by those of Wire. They do not take a credential of another CA.
func TestClients(t *testing.T) {
	for name, c := range map[string]struct {
		alice, bob core.ClientID
		handle     string
		identify   core.Authenticator
	}{
		"own names":    {"alice/laptop", "bob/phone", "", e2ei.Authenticator{Identify: e2ei.ClientOf}},
		"Wire's names": {aliceID, "ffffffff-5c01-422f-baa1-d75546b92aa7:1@example.com", "handle", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testClients(t, c.alice, c.bob, c.handle, c.identify)
		})
	}
}

func testClients(t *testing.T, aliceID, bobID core.ClientID, handle string, identify core.Authenticator) {
	suite := core.SuiteX25519AES128Ed25519
	service := clienttest.NewService(clienttest.Options{})
	root := newAuthority(localca.Signer(newKey(core.ECDSAP384)), nil, nil)
	ca := newAuthority(localca.Signer(newKey(core.ECDSAP256)), &root, nil)
	other := newAuthority(localca.Signer(newKey(core.ECDSAP384)), nil, nil)

	person := func(id core.ClientID, anchor authority, issuer core.CredentialIssuer) *clienttest.Device {
		keys := &remembering{CryptoProvider: pure.New()}
		d := clienttest.NewDevice(t, service, id, memory.New(), client.Config{Suites: pure.New(), Keys: keys, Authenticator: identify})
		d.Identify(t, suite)
		req := request(id, keys.key)
		req.Handle, req.Display = handle, "A Name"
		done := enrol(t, issuer, req, keys.key).Done
		must(t, d.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			if err := tx.RegisterTrustAnchor(ctx, anchor.pem()); err != nil {
				return err
			}
			if len(done.Credential.Certificates) > 1 {
				if _, err := tx.RegisterIntermediate(ctx, ca.pem()); err != nil {
					return err
				}
			}
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
	alice, bob := person(aliceID, root, issuer), person(bobID, root, issuer)
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
	for _, d := range []*clienttest.Device{alice, bob} {
		v := d.Client.View("tea")
		if state, err := v.E2EIState(t.Context()); err != nil || state != e2ei.Verified {
			t.Errorf("%s sees %v, %v", d.Link.ID, state, err)
		}
		who, err := v.DeviceIdentities(t.Context(), aliceID, bobID)
		if err != nil || len(who) != 2 || who[1].ClientID != string(bobID) || who[1].Status != e2ei.StatusValid || who[1].X509 == nil || who[1].X509.Handle.Name() != handle {
			t.Errorf("%s sees %+v, %v", d.Link.ID, who, err)
		}
	}
	if err := add(alice, person("00000000-5c01-422f-baa1-d75546b92aa7:1@example.com", other, newIssuer(t, 0, other))); !errors.Is(err, core.ErrDenied) {
		t.Errorf("a credential of another CA: %v, want ErrDenied", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// killed is an issuer in whose Advance the process ends.
type killed struct{ core.CredentialIssuer }

var errKilled = errors.New("killed")

func (killed) Advance(context.Context, []byte, core.Input) (core.Step, error) {
	return core.Step{}, errKilled
}

// An enrolment that was interrupted goes on with an issuer that does not know its state, by
// beginning again.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	suite := core.SuiteX25519AES128Ed25519
	root := newAuthority(localca.Signer(newKey(core.ECDSAP384)), nil, nil)
	issuer := func() core.CredentialIssuer { // without a state key, as after a restart
		i, err := localca.New(t.Context(), localca.Config{Certificates: root.pem(), Key: root.key})
		must(t, err)
		return i
	}
	d := clienttest.NewDevice(t, clienttest.NewService(clienttest.Options{}), "alice", memory.New(), client.Config{
		Suites: pure.New(), Keys: pure.New(), Authenticator: e2ei.Authenticator{Identify: e2ei.ClientOf},
	})
	d.Identify(t, suite)
	var h client.EnrollmentHandle
	must(t, d.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) (err error) {
		if err := tx.RegisterTrustAnchor(ctx, root.pem()); err != nil {
			return err
		}
		h, err = tx.BeginIssue(ctx, client.IssueParams{Suite: suite})
		return err
	}))
	if _, err := d.Issue(t.Context(), h, killed{issuer()}, nil); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	refused := (*client.IssueRefusedError)(nil)
	if _, err := d.Issue(t.Context(), h, issuer(), nil); !errors.As(err, &refused) || refused.Final {
		t.Fatal(err)
	}
	if _, err := d.Issue(t.Context(), h, issuer(), nil); err != nil {
		t.Error(err)
	}
}
