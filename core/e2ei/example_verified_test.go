// SPDX-License-Identifier: Apache-2.0

package e2ei_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log"
	"math/big"
	"net/url"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// Who is in a conversation, and is everybody verified?
func Example_verified() {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	anchor, leaf, public := issue(now)

	// What is added gives a new value, and what to store beside it.
	var env *e2ei.Environment
	env, item, err := env.AddAnchor(anchor, now)
	if err != nil {
		log.Fatal(err)
	}
	stored := []e2ei.Item{*item}

	alice := e2ei.Member{
		Credential:   core.Credential{Type: core.CredentialX509, Certificates: [][]byte{leaf}},
		SignatureKey: public,
	}
	suite := core.SuiteParameters{Hash: "SHA-256", Signature: core.Ed25519}
	who := e2ei.Authenticator{Environment: env}
	id, err := who.Identity(alice, suite, now)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(id.X509.DisplayName, id.X509.Handle.Name(), id.Status)
	fmt.Println(who.State(slices.Values([]e2ei.Member{alice}), now))

	// Later, from what was stored.
	if env, err = e2ei.NewEnvironment(stored); err != nil {
		log.Fatal(err)
	}
	who.Environment = env
	fmt.Println(who.State(slices.Values([]e2ei.Member{alice}), now.AddDate(1, 0, 0)))
	// Output:
	// Alice Smith alice_wire valid
	// verified
	// not verified
}

// issue is what a CA does.
func issue(now time.Time) (anchor, leaf, public []byte) {
	uri := func(s string) *url.URL { u, _ := url.Parse(s); return u }
	caPublic, caKey, _ := ed25519.GenerateKey(rand.Reader)
	key, _, _ := ed25519.GenerateKey(rand.Reader)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example CA"}, NotBefore: now, NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	anchor, err := x509.CreateCertificate(rand.Reader, ca, ca, caPublic, caKey)
	if err != nil {
		log.Fatal(err)
	}
	leaf, err = x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: now, NotAfter: now.AddDate(0, 3, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		Subject: pkix.Name{CommonName: "Alice Smith", Organization: []string{"example.com"}},
		URIs:    []*url.URL{uri("wireapp://%40alice_wire@example.com"), uri("wireapp://SvPfLlwBQi-6oddVRrkqpw!4c7@example.com")},
	}, ca, key, caKey)
	if err != nil {
		log.Fatal(err)
	}
	return anchor, leaf, key
}
