// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/conclave-mls/conclave/core/client"
)

// companyRoot is the root certificate of an organization, which comes with its installation.
func companyRoot() []byte {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	check(err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example Root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, public, key)
	check(err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// A conversation is verified when all in it have certificates that hold.
func ExampleView_E2EIState() {
	ctx := context.Background()
	alice := alone(ctx, "4af3df2e-5c01-422f-baa1-d75546b92aa7:4c7@example.com", client.Config{})
	check(alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.RegisterTrustAnchor(ctx, companyRoot()); err != nil {
			return err
		}
		_, err := tx.NewConversation(ctx, "tea", client.ConversationConfig{})
		return err
	}))
	env, err := alice.Environment(ctx)
	check(err)
	state, err := alice.View("tea").E2EIState(ctx)
	check(err)
	fmt.Println("an anchor:", env.Ready(), "- tea:", state)
	who, err := alice.View("tea").UserIdentities(ctx, "4af3df2e-5c01-422f-baa1-d75546b92aa7")
	check(err)
	for _, device := range who["4af3df2e-5c01-422f-baa1-d75546b92aa7"] {
		fmt.Println(device.ClientID, device.Status, "- a certificate:", device.X509 != nil)
	}
	// Output:
	// an anchor: true - tea: not enabled
	// 4af3df2e-5c01-422f-baa1-d75546b92aa7:4c7@example.com valid - a certificate: false
}
