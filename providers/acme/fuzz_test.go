// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

func fuzzIssuer(f testing.TB) *Issuer {
	i, err := New(Config{Directory: "https://ca.example/directory", RedirectURI: "http://127.0.0.1:1/"})
	if err != nil {
		f.Fatal(err)
	}
	return i
}

// Whatever is read as a state is written as the same one.
func FuzzState(f *testing.F) {
	i := fuzzIssuer(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := i.open(b)
		if err != nil {
			if !errors.Is(err, core.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		again, err := s.encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x, %v", again, err)
		}
	})
}

// A description that is taken is of its issuer, and sends nobody elsewhere without TLS.
func FuzzDiscovery(f *testing.F) {
	i := fuzzIssuer(f)
	const issuer = "https://idp.example/realm"
	f.Fuzz(func(t *testing.T, body []byte) {
		d, err := i.parseDiscovery(body, issuer)
		if err != nil {
			if !errors.Is(err, ErrDiscovery) {
				t.Fatal(err)
			}
			return
		}
		if d.Issuer != issuer {
			t.Fatal(d.Issuer)
		}
		page := login{Issuer: issuer, State: "state"}.url(d, "{}")
		for _, address := range []string{page, d.Token} {
			if !strings.HasPrefix(strings.ToLower(address), "https://") {
				t.Fatal(address)
			}
		}
	})
}

// An ID token that is taken has the claims that were asked for.
func FuzzTokens(f *testing.F) {
	l := login{Issuer: "https://idp.example", ClientID: "wireapp", Nonce: "nonce"}
	c := e2ei.Challenge{URL: "https://ca.example/challenge", KeyAuth: "token.print"}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		tokens, err := parseTokens(status, body)
		if err != nil {
			if said := (*OAuthError)(nil); errors.As(err, &said) && len(said.Error()) > 10*maxText {
				t.Fatalf("an error of %d bytes", len(said.Error()))
			}
			return
		}
		if err := l.checkIDToken(tokens.ID, c, time.Unix(1764000000, 0)); err != nil {
			if !errors.Is(err, ErrIDToken) {
				t.Fatal(err)
			}
			return
		}
		have, err := parseIDToken(tokens.ID)
		if err != nil || have.Issuer != l.Issuer || have.Nonce != l.Nonce || have.KeyAuth != c.KeyAuth || have.ACMEAud != c.URL {
			t.Fatalf("%+v, %v", have, err)
		}
	})
}

// A redirect that is taken has our state.
func FuzzRedirect(f *testing.F) {
	l := login{Issuer: "https://idp.example", State: "state"}
	f.Fuzz(func(t *testing.T, query string) {
		code, err := l.code(query)
		var said *OAuthError
		switch {
		case err == nil && code != "" && strings.Contains(query, "state"):
		case err != nil && code == "" && (errors.Is(err, ErrRedirect) || errors.As(err, &said)):
		default:
			t.Fatalf("%q, %v", code, err)
		}
	})
}

// What is read of what was carried is written as the same.
func FuzzCarry(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		provider, token := parseCarry(b)
		again, other := parseCarry(encodeCarry(provider, token))
		if again != provider || !other.Equal(token) {
			t.Fatalf("%q and %x, then %q and %x", provider, token.Bytes(), again, other.Bytes())
		}
	})
}
