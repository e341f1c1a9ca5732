// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/core/e2ei/e2eitest"
	"github.com/conclave-mls/conclave/providers/acme"
	"github.com/conclave-mls/conclave/providers/pure"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
	"github.com/conclave-mls/conclave/storage/memory"
)

// Enrolments, refusals and revocations at a real server with MLS keys that never leave a token.
func TestEnrollments(t *testing.T) {
	t.Parallel()
	token := open(t, softhsmtest.New(t).URI())
	made := map[core.KeyAlgorithm][]core.Signer{} // two of each, by turns: no check wants more
	e2eitest.Checks(t, func(t testing.TB, algorithm core.KeyAlgorithm) core.Signer {
		keys := made[algorithm]
		if len(keys) < 2 {
			keys = append(keys, makeKey(t, token, algorithm).(core.Signer))
		} else {
			keys[0], keys[1] = keys[1], keys[0]
		}
		made[algorithm] = keys
		return keys[len(keys)-1]
	})
}

// TestIssues: a client with keys in memory or on a token enrols at a real server, meets somebody
// with its certificate, renews without a login, and revokes what it has.
func TestIssues(t *testing.T) {
	t.Parallel()
	token := open(t, softhsmtest.New(t).URI())
	for name, keys := range map[string]core.CryptoProvider{"memory": pure.New(), "softhsm": token.Provider()} {
		for _, suite := range []core.SuiteID{core.SuiteX25519AES128Ed25519, core.SuiteP256AES128P256, core.SuiteP384AES256P384, core.SuiteP521AES256P521} {
			t.Run(fmt.Sprintf("%s/%d", name, suite), func(t *testing.T) {
				peer := e2eitest.Start(t)
				who := peer.Person(t)
				service := clienttest.NewService(clienttest.Options{})
				d := clienttest.NewDevice(t, service, who.ClientID.Core(), memory.New(), client.Config{Suites: pure.New(), Keys: keys})
				issuer, err := acme.New(acme.Config{Directory: peer.Directory, RedirectURI: "http://127.0.0.1:1/callback", HTTP: peer.HTTP, AllowHTTP: true})
				if err != nil {
					t.Fatal(err)
				}
				do := func(f func(ctx context.Context, tx *client.Transaction) error) {
					t.Helper()
					if err := d.Transaction(t.Context(), f); err != nil {
						t.Fatal(err)
					}
				}
				logins := 0
				issue := func(p client.IssueParams) client.Credential {
					t.Helper()
					var h client.EnrollmentHandle
					p.Suite, p.ClientID, p.Handle, p.DisplayName = suite, who.ClientID.Core(), who.Handle, who.DisplayName
					p.Extra = map[string]string{"team": who.Team}
					do(func(ctx context.Context, tx *client.Transaction) (err error) {
						h, err = tx.BeginIssue(ctx, p)
						return err
					})
					done, err := d.Issue(t.Context(), h, issuer, func(ctx context.Context, need core.Need) (core.Input, error) {
						if need.Visit != nil {
							logins++
						}
						return peer.Answer(who)(ctx, need)
					})
					if err != nil {
						t.Fatal(err)
					}
					return done.Credential
				}
				list := func() {
					t.Helper()
					do(func(ctx context.Context, tx *client.Transaction) error {
						_, err := tx.RegisterCRL(ctx, peer.CRL, peer.FetchCRL(t))
						return err
					})
				}
				const chat = core.ConversationID("chat")
				sees := func(want e2ei.DeviceStatus, own client.Credential) {
					t.Helper()
					ids, err := d.View(chat).DeviceIdentities(t.Context(), who.ClientID.Core())
					if err != nil || len(ids) != 1 || ids[0].Status != want || ids[0].X509 == nil || ids[0].X509.Handle.Name() != who.Handle {
						t.Fatalf("%+v, %v, want %v", ids, err, want)
					}
					leaf, err := e2ei.ParseLeaf(own.Credential.Certificates[0])
					if err != nil {
						t.Fatal(err)
					}
					if x, err := leaf.Identity(); err != nil || x.SerialNumber != ids[0].X509.SerialNumber {
						t.Errorf("another certificate is in use: %v", err)
					}
				}

				do(func(ctx context.Context, tx *client.Transaction) error {
					return tx.RegisterTrustAnchor(ctx, []byte(peer.RootPEM))
				})
				first := issue(client.IssueParams{})
				list()
				do(func(ctx context.Context, tx *client.Transaction) error {
					_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{Suite: suite, Credential: core.CredentialX509})
					return err
				})
				sees(e2ei.StatusValid, first)

				second := issue(client.IssueParams{Action: core.ActionRenew, Credential: first.Ref})
				if logins != 1 || !bytes.Equal(first.SignatureKey, second.SignatureKey) {
					t.Errorf("%d logins", logins)
				}
				if err := d.In(t.Context(), chat, func(ctx context.Context, c *client.Conversation) error {
					_, err := c.Rotate(ctx, core.CredentialX509)
					return err
				}); err != nil {
					t.Fatal(err)
				}
				sees(e2ei.StatusValid, second)

				issue(client.IssueParams{Action: core.ActionRevoke, Credential: first.Ref})
				list()
				sees(e2ei.StatusValid, second) // of the other certificate nothing is said
				issue(client.IssueParams{Action: core.ActionRevoke, Credential: second.Ref})
				list()
				sees(e2ei.StatusRevoked, second)
			})
		}
	}
}
