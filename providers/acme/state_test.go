// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// corpus reads the states that the fuzz target begins with, by name.
func corpus(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/fuzz/FuzzState/*")
	if err != nil {
		t.Fatal(err)
	}
	states := map[string][]byte{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := strconv.Unquote(strings.TrimSuffix(strings.TrimPrefix(string(text), "go test fuzz v1\n[]byte("), ")\n"))
		if err != nil {
			t.Fatal(err)
		}
		states[filepath.Base(name)] = []byte(b)
	}
	return states
}

// Parts that do not belong together are no state.
func TestStateParts(t *testing.T) {
	t.Parallel()
	i, states := fuzzIssuer(t), corpus(t)
	needs := map[string]needed{
		"wire.nonce": needNonce, "wire.access-token": needAccess, "visit": needVisit, "wait": needWait, "sign": needSign,
		"processing": needWait, "revocation": needSign,
	}
	for name, need := range needs {
		for other := needed(-1); other < 8; other++ {
			s, err := i.open(states[name])
			if err != nil || s.need != need {
				t.Fatalf("%s: %+v, %v", name, s, err)
			}
			s.need = other
			fits := other == need || other == needWait || need == needNonce && other == needAccess || need == needAccess && other == needNonce
			invalid(t, i, name, s, fits)
		}
	}
	for what, c := range map[string]struct {
		name   string
		change func(s *state)
	}{
		"tokens in the clear":       {"visit", func(s *state) { s.login.Token = "http://idp.example/token" }},
		"no verifier":               {"visit", func(s *state) { s.login.Verifier = "" }},
		"too many tries":            {"wait", func(s *state) { s.tries = maxTries + 1 }},
		"fewer than none":           {"wait", func(s *state) { s.tries = -1 }},
		"too many proofs":           {"wait", func(s *state) { s.proofs = maxProofs + 1 }},
		"fewer proofs than none":    {"wait", func(s *state) { s.proofs = -1 }},
		"a token before its time":   {"wire.nonce", func(s *state) { s.token = "token" }},
		"a wrong signature":         {"processing", func(s *state) { s.signature[8] ^= 1 }},
		"a signature of nothing":    {"wire.nonce", func(s *state) { s.need, s.signature = needWait, []byte{1} }},
		"two signatures":            {"processing", func(s *state) { s.need = needSign }},
		"nothing to revoke":         {"revocation", func(s *state) { s.revoke = nil }},
		"no certificate to revoke":  {"revocation", func(s *state) { s.need, s.signature, s.revoke = needWait, []byte{1}, [][]byte{{1}} }},
		"more than there is to it":  {"wait", func(s *state) { s.token = strings.Repeat("x", maxState) }},
		"what is no text, of bytes": {"wait", func(s *state) { s.token = "\xff" }},
	} {
		s, err := i.open(states[c.name])
		if err != nil {
			t.Fatal(err)
		}
		c.change(s)
		invalid(t, i, what, s, false)
	}
	s, err := i.open(states["wait"])
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.encode()
	if err != nil {
		t.Fatal(err)
	}
	b[6] = 2 // the version, behind two tags and lengths
	if _, err := i.open(b); b[5] != 1 || !errors.Is(err, core.ErrInvalid) {
		t.Errorf("of another version: %x, %v", b[:8], err)
	}
}

// A state that says that addresses without TLS will do is not believed.
func TestStateWithoutTLS(t *testing.T) {
	t.Parallel()
	i := fuzzIssuer(t)
	e, err := e2ei.New(e2ei.Config{
		ClientID: e2ei.ClientID{Domain: "example.com"}, DisplayName: "Alice", Handle: "alice", Validity: time.Hour,
		Algorithm: core.Ed25519, PublicKey: bytes.Repeat([]byte{2}, 32), Directory: i.cfg.Directory, AllowHTTP: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	invalid(t, i, "without TLS", &state{enrollment: e, need: needWait}, false)
	i.cfg.AllowHTTP = true
	invalid(t, i, "without TLS, in a test", &state{enrollment: e, need: needWait}, true)
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	if got := fuzzIssuer(t).http.Timeout; got != DefaultTimeout {
		t.Errorf("a request takes up to %v", got)
	}
}

func invalid(t *testing.T, i *Issuer, what string, s *state, fits bool) {
	t.Helper()
	b, err := s.encode()
	if err == nil {
		_, err = i.open(b)
	} else if !fits {
		return // it cannot even be written
	}
	if fits != (err == nil) || err != nil && !errors.Is(err, core.ErrInvalid) {
		t.Errorf("%s with need %d: %v", what, s.need, err)
	}
}

// What is kept for a repeated call does not grow.
func TestGrantsAreBounded(t *testing.T) {
	t.Parallel()
	var g grants
	for n := range 3 * maxGrants {
		request := sha256.Sum256([]byte{byte(n)})
		g.remember(request, tokens{ID: "token"})
		if _, ok := g.recall(request); !ok {
			t.Fatal("the newest is forgotten")
		}
	}
	if len(g.known) != maxGrants {
		t.Errorf("%d of %d", len(g.known), maxGrants)
	}
}
