// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"encoding/asn1"

	"github.com/conclave-mls/conclave/core"
)

// A carry is a refresh token and the identity provider that gave it. That one alone gets it
// back: an ACME server may name any.
type carry struct {
	Version  int
	Provider string `asn1:"utf8"`
	Token    []byte
}

const carryVersion = 1

// carry is a token for the next enrolment; nil if it is none, or refused.
func (s *state) carry(token core.Secret) []byte {
	if s.stale || token.IsZero() {
		return nil
	}
	return encodeCarry(s.provider, token)
}

func encodeCarry(provider string, token core.Secret) []byte {
	b, _ := asn1.Marshal(carry{carryVersion, provider, token.Bytes()}) // it fails if the provider is no text, but that comes of JSON
	return b
}

// parseCarry reads what was carried. What is none of ours is nothing: a person logs in.
func parseCarry(b []byte) (provider string, token core.Secret) {
	var c carry
	rest, err := asn1.Unmarshal(b, &c)
	if err != nil || len(rest) > 0 || c.Version != carryVersion {
		clear(c.Token)
		return "", core.Secret{}
	}
	return c.Provider, core.NewSecret(c.Token)
}
