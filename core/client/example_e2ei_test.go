// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/providers/localca"
)

// company is a CA of one's own: its certificate comes with each installation, and its key is
// where certificates are issued.
func company(ctx context.Context) (root []byte, issuer core.CredentialIssuer) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example Root"}, SubjectKeyId: []byte("root"),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	check(err)
	issuer, err = localca.New(ctx, localca.Config{
		Certificates: der, Key: func(context.Context) (crypto.Signer, error) { return key, nil },
	})
	check(err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), issuer
}

// From a trust anchor to a conversation in which all are verified. Somebody who has a basic
// credential first gets a certificate for a fresh key, and takes it into use.
func ExampleView_E2EIState() {
	ctx := context.Background()
	root, issuer := company(ctx)
	alice, _ := person(ctx, clienttest.NewService(clienttest.Options{}), "4af3df2e-5c01-422f-baa1-d75546b92aa7:4c7@example.com")
	tea := alice.View("tea")
	var handle client.EnrollmentHandle
	check(alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) (err error) {
		if err := tx.RegisterTrustAnchor(ctx, root); err != nil {
			return err
		}
		if _, err := tx.NewConversation(ctx, "tea", client.ConversationConfig{}); err != nil {
			return err
		}
		handle, err = tx.BeginIssue(ctx, client.IssueParams{Issuer: "company", Handle: "alice_wire", DisplayName: "Alice"})
		return err
	}))
	state, err := tea.E2EIState(ctx)
	check(err)
	fmt.Println("with a basic credential:", state)

	// This issuer needs nothing but a signature, which the client makes itself.
	issued, err := alice.Issue(ctx, handle, issuer, nil)
	check(err)
	check(alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, "tea")
		if err != nil {
			return err
		}
		_, err = c.SetCredential(ctx, issued.Credential.Ref) // in each conversation
		return err
	}))
	check(alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		// They replace those at the delivery service, and then the old ones go.
		_, err := tx.NewKeyPackages(ctx, core.SuiteX25519AES128Ed25519, core.CredentialX509, 20)
		if err != nil {
			return err
		}
		return tx.DeleteStaleKeyPackages(ctx, core.SuiteX25519AES128Ed25519, core.CredentialX509)
	}))
	state, err = tea.E2EIState(ctx)
	check(err)
	fmt.Println("with a certificate:", state)
	who, err := tea.UserIdentities(ctx, "4af3df2e-5c01-422f-baa1-d75546b92aa7")
	check(err)
	for _, device := range who["4af3df2e-5c01-422f-baa1-d75546b92aa7"] {
		fmt.Println(device.X509.DisplayName, device.X509.Handle.Name(), device.Status)
	}
	// Output:
	// with a basic credential: not enabled
	// with a certificate: verified
	// Alice alice_wire valid
}
