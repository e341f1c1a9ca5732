// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
)

// issued is when the certificates of the vectors were in date, and both lists.
var issued = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

const issuedURL = "http://127.0.0.1:39059/crl"

func vector(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(coretest.Shared(t, "e2ei-peer", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func vectorChain(t *testing.T, name string) [][]byte {
	t.Helper()
	chain, err := ParsePEM(vector(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

// vectorEnvironment has the root, the intermediate of the chains and a list, if there is one.
func vectorEnvironment(t *testing.T, list string) *Environment {
	t.Helper()
	e, _, err := (*Environment)(nil).AddAnchor(vectorChain(t, "root.pem")[0], issued)
	if err == nil {
		e, _, err = e.AddIntermediate(vectorChain(t, "ed25519.chain.pem")[1], issued)
	}
	if err == nil && list != "" {
		e, _, _, err = e.AddCRL(issuedURL, vector(t, list), issued)
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// What step-ca issued for Wire.
func TestIssued(t *testing.T) {
	t.Parallel()
	env := vectorEnvironment(t, "before.crl")
	for _, c := range []struct {
		name  string
		suite core.SuiteParameters
	}{
		{"ed25519", core.SuiteParameters{Hash: "SHA-256", Signature: core.Ed25519}},
		{"p256", core.SuiteParameters{Hash: "SHA-256", Signature: core.ECDSAP256}},
		{"p384", core.SuiteParameters{Hash: "SHA-384", Signature: core.ECDSAP384}},
		{"p521", core.SuiteParameters{Hash: "SHA-512", Signature: core.ECDSAP521}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var want struct {
				ClientID   string `json:"client_id"`
				Qualified  string `json:"client_id_qualified"`
				Name       string `json:"display_name"`
				Domain     string
				Handle     string
				HandleURI  string `json:"handle_uri"`
				NotAfter   int64  `json:"not_after"`
				NotBefore  int64  `json:"not_before"`
				Serial     string `json:"serial_number"`
				Thumbprint string
			}
			if err := json.Unmarshal(vector(t, c.name+".identity.json"), &want); err != nil {
				t.Fatal(err)
			}
			chain := vectorChain(t, c.name+".chain.pem")
			l, err := ParseLeaf(chain[0])
			if err != nil {
				t.Fatal(err)
			}
			if l.Algorithm() != c.suite.Signature {
				t.Errorf("key of %s", l.Algorithm())
			}
			if err := env.Verify(l, issued); err != nil {
				t.Error(err)
			}
			m := Member{core.Credential{Type: core.CredentialX509, Certificates: chain}, l.Public()}
			id, err := wire(env).Identity(m, c.suite, issued)
			if err != nil {
				t.Fatal(err)
			}
			x := id.X509
			for _, s := range []struct{ what, got, want string }{
				{"client id", id.ClientID, want.ClientID}, {"qualified", x.ClientID.Qualified(), want.Qualified},
				{"name", x.DisplayName, want.Name}, {"domain", x.Domain, want.Domain}, {"handle", x.Handle.Name(), want.Handle},
				{"handle URI", x.Handle.URI(), want.HandleURI}, {"serial", x.SerialNumber, want.Serial}, {"thumbprint", id.Thumbprint, want.Thumbprint},
			} {
				if s.got != s.want {
					t.Errorf("%s %q, want %q", s.what, s.got, s.want)
				}
			}
			if x.NotBefore.Unix() != want.NotBefore || x.NotAfter.Unix() != want.NotAfter || id.Status != StatusValid {
				t.Errorf("%v to %v, %v", x.NotBefore, x.NotAfter, id.Status)
			}
			if got := wire(env).State(slices.Values([]Member{m}), issued); got != Verified {
				t.Error(got)
			}
			for _, at := range []struct {
				when  string
				unix  int64
				state ConversationState
				err   error // nothing is known of revocations without a list that is in date
			}{
				{"a second too early", want.NotBefore - 1, NotVerified, ErrNotYetValid},
				{"in the first second", want.NotBefore, Verified, nil},
				{"when the list has expired", issued.AddDate(0, 0, 2).Unix(), Verified, ErrRevocationUnknown},
				{"in the last second", want.NotAfter, Verified, ErrRevocationUnknown},
				{"a second too late", want.NotAfter + 1, NotVerified, ErrExpired},
			} {
				if got := wire(env).State(slices.Values([]Member{m}), time.Unix(at.unix, 0)); got != at.state {
					t.Errorf("%s: %v, want %v", at.when, got, at.state)
				}
				if err := env.Verify(l, time.Unix(at.unix, 0)); !errors.Is(err, at.err) {
					t.Errorf("%s: %v, want %v", at.when, err, at.err)
				}
			}
			block, _ := pem.Decode(vector(t, c.name+".key.pem"))
			private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			public, err := core.X509PublicKey(l.Algorithm(), l.Public())
			if err != nil {
				t.Fatal(err)
			}
			if !public.(interface{ Equal(crypto.PublicKey) bool }).Equal(private.(crypto.Signer).Public()) {
				t.Error("it is the certificate of another key")
			}
		})
	}
}

// Of the leaf that was revoked, before and after the list that says so.
func TestIssuedRevoked(t *testing.T) {
	t.Parallel()
	before := vectorEnvironment(t, "before.crl")
	chain := vectorChain(t, "revoked.chain.pem")
	l, err := ParseLeaf(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	if got := vectorEnvironment(t, "").NewDistributionPoints(l.cert.Raw); !slices.Equal(got, []string{issuedURL}) {
		t.Errorf("%q", got)
	}
	if got := before.NewDistributionPoints(l.cert.Raw); got != nil {
		t.Errorf("%q", got)
	}
	if err := before.Verify(l, issued); err != nil {
		t.Error(err)
	}
	after, _, done, err := before.AddCRL(issuedURL, vector(t, "after.crl"), issued)
	if err != nil || !done.Dirty || done.Expiration.Unix() != time.Date(2026, 11, 23, 23, 30, 17, 0, time.UTC).Unix() {
		t.Fatalf("%+v, %v", done, err)
	}
	var members []Member
	for _, name := range []string{"ed25519", "p256", "p384", "p521"} {
		chain := vectorChain(t, name+".chain.pem")
		l, err := ParseLeaf(chain[0])
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, Member{core.Credential{Type: core.CredentialX509, Certificates: chain}, l.Public()})
	}
	m := Member{core.Credential{Type: core.CredentialX509, Certificates: chain}, l.Public()}
	for _, c := range []struct {
		list         *Environment
		status       DeviceStatus
		state, among ConversationState // of the four others, and with this one among them
	}{{before, StatusValid, Verified, Verified}, {after, StatusRevoked, Verified, NotVerified}} {
		id, err := wire(c.list).Identity(m, core.SuiteParameters{Hash: "SHA-256", Signature: core.ECDSAP256}, issued)
		if err != nil {
			t.Fatal(err)
		}
		// Of a revoked certificate one reads the same as of any other.
		if id.Status != c.status || id.ClientID != "d139897e-b789-4f8e-912c-fb766a01ccfa:808cd65b05791f66@wire.test" || id.X509.Handle.Name() != "alice_808cd6" ||
			id.X509.SerialNumber != "1297c622d0ef04989573d921b69a5876" || id.X509.DisplayName != `Alice "Ally" Smith & Söhne` || id.Thumbprint == "" {
			t.Errorf("%+v", id)
		}
		if got := wire(c.list).State(slices.Values(members), issued); got != c.state {
			t.Errorf("the others: %v, want %v", got, c.state)
		}
		if got := wire(c.list).State(slices.Values(append(members, m)), issued); got != c.among {
			t.Errorf("with the one that is revoked: %v, want %v", got, c.among)
		}
	}
	// What a list has revoked stays revoked, also of a certificate that expired since.
	for _, at := range []time.Time{issued.AddDate(0, 0, 2), issued.AddDate(1, 0, 0)} {
		if got := after.Status(l, at); got != StatusRevoked {
			t.Errorf("at %v: %v", at, got)
		}
	}
	if _, _, _, err := after.AddCRL(issuedURL, vector(t, "before.crl"), issued); !errors.Is(err, ErrCRLStale) {
		t.Errorf("back to the list before: %v", err)
	}
}
