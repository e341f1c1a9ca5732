// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
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
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/manual"
	"github.com/conclave-mls/conclave/providers/pure"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
	"github.com/conclave-mls/conclave/storage/memory"
)

// TestManual: a key on a token is certified by ticket. The person is away for a while, and the
// issuer is another one when the answer comes.
func TestManual(t *testing.T) {
	t.Parallel()
	token := open(t, softhsmtest.New(t).URI())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(err)
	create := func(template, by *x509.Certificate, public any) (*x509.Certificate, []byte) {
		der, err := x509.CreateCertificate(rand.Reader, template, by, public, key)
		must(err)
		c, err := x509.ParseCertificate(der)
		must(err)
		return c, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root, anchor := create(root, root, key.Public())

	const id core.ClientID = "4af3df2e-5c01-422f-baa1-d75546b92aa7:4c7@example.com"
	for _, suite := range []core.SuiteID{core.SuiteX25519AES128Ed25519, core.SuiteP256AES128P256, core.SuiteP384AES256P384, core.SuiteP521AES256P521} {
		t.Run(fmt.Sprint(suite), func(t *testing.T) {
			d := clienttest.NewDevice(t, clienttest.NewService(clienttest.Options{}), id, memory.New(), client.Config{Suites: pure.New(), Keys: token.Provider()})
			var h client.EnrollmentHandle
			must(d.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) (err error) {
				if err := tx.RegisterTrustAnchor(ctx, anchor); err != nil {
					return err
				}
				h, err = tx.BeginIssue(ctx, client.IssueParams{Suite: suite, ClientID: id, Handle: "alice_wire", DisplayName: "Alice Smith"})
				return err
			}))
			var request []byte
			away := errors.New("away")
			_, err := d.Issue(t.Context(), h, manual.New(manual.Config{}), func(_ context.Context, need core.Need) (core.Input, error) {
				request = need.Show.File
				return core.Input{}, away
			})
			if !errors.Is(err, away) {
				t.Fatal(err)
			}
			block, _ := pem.Decode(request)
			csr, err := x509.ParseCertificateRequest(block.Bytes)
			must(err)
			must(csr.CheckSignature())
			_, file := create(&x509.Certificate{
				SerialNumber: big.NewInt(2), RawSubject: csr.RawSubject, URIs: csr.URIs, NotBefore: root.NotBefore, NotAfter: root.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
			}, root, csr.PublicKey)

			done, err := d.Issue(t.Context(), h, manual.New(manual.Config{}), func(context.Context, core.Need) (core.Input, error) { return core.Input{File: file}, nil })
			must(err)
			if len(done.Credential.Credential.Certificates) != 1 {
				t.Errorf("%d certificates", len(done.Credential.Credential.Certificates))
			}
			must(d.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
				_, err := tx.NewConversation(ctx, "chat", client.ConversationConfig{Suite: suite, Credential: core.CredentialX509})
				return err
			}))
			if state, err := d.View("chat").E2EIState(t.Context()); err != nil || state != e2ei.Verified {
				t.Errorf("%v, %v", state, err)
			}
		})
	}
}
