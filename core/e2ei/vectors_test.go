// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"encoding/json"
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
			if got := wire(env).State(slices.Values([]Member{m}), time.Unix(want.NotAfter+1, 0)); got != NotVerified {
				t.Error("expired:", got)
			}
		})
	}
}

// Of the leaf that was revoked, before and after the list that says so.
func TestIssuedRevoked(t *testing.T) {
	t.Parallel()
	before := vectorEnvironment(t, "before.crl")
	l, err := ParseLeaf(vectorChain(t, "revoked.chain.pem")[0])
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
	if got := after.Status(l, issued); got != StatusRevoked {
		t.Error(got)
	}
	if _, _, _, err := after.AddCRL(issuedURL, vector(t, "before.crl"), issued); !errors.Is(err, ErrCRLStale) {
		t.Errorf("back to the list before: %v", err)
	}
}
