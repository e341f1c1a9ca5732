// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// externalSenderID is the identity that peers give an external sender.
const externalSenderID core.ClientID = "wire-server"

// maxJWK is the longest JSON that is read, in bytes.
const maxJWK = 8 << 10

// ParseExternalSenders reads the keys of those who may propose from outside, for
// [ConversationConfig] and a suite of the conversation: each a public JWK (RFC 7517,
// RFC 8037) or the key itself, in the MLS encoding or as a compressed point. They come
// out in the MLS encoding, with the basic credential that members expect of a server.
// core.ErrInvalid: one is not a public key of the suite's signature scheme, or is a
// private one.
func ParseExternalSenders(suite core.Suite, keys ...[]byte) ([]mls.ExternalSender, error) {
	var senders []mls.ExternalSender
	for i, raw := range keys {
		key, err := parseSenderKey(suite, raw)
		if err != nil {
			return nil, fmt.Errorf("external sender %d: %w", i, err)
		}
		senders = append(senders, mls.ExternalSender{SignatureKey: key, Credential: core.BasicCredential(externalSenderID)})
	}
	return senders, nil
}

func parseSenderKey(suite core.Suite, raw []byte) (key []byte, err error) {
	scheme := suite.Parameters().Scheme
	key = bytes.Clone(raw)
	if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) && json.Valid(raw) { // no key is both
		if key, err = parseJWK(scheme, raw); err != nil {
			return nil, err
		}
	}
	key = mls.Uncompressed(scheme, key)
	return key, suite.ValidateSignaturePublic(key)
}

// A jwkCurve is how RFC 7518 and RFC 8037 name the curve of a signature scheme.
type jwkCurve struct {
	kty, crv string
	size     int // of a coordinate, in bytes
}

var jwkCurves = map[core.SignatureScheme]jwkCurve{
	core.SchemeEd25519:   {"OKP", "Ed25519", 32},
	core.SchemeEd448:     {"OKP", "Ed448", 57},
	core.SchemeECDSAP256: {"EC", "P-256", 32},
	core.SchemeECDSAP384: {"EC", "P-384", 48},
	core.SchemeECDSAP521: {"EC", "P-521", 66},
}

// parseJWK reads the key of a JWK. Names are compared as they stand, which
// encoding/json does for maps only.
func parseJWK(scheme core.SignatureScheme, raw []byte) ([]byte, error) {
	if len(raw) > maxJWK {
		return nil, fmt.Errorf("JWK of %d bytes: %w", len(raw), core.ErrTooLarge)
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		return nil, fmt.Errorf("not a JWK: %w", core.ErrInvalid)
	}
	if _, private := members["d"]; private {
		return nil, fmt.Errorf("JWK of a private key: %w", core.ErrInvalid)
	}
	text := func(name string) (s string) {
		_ = json.Unmarshal(members[name], &s) // what is no string is not what is expected either
		return s
	}
	curve, ok := jwkCurves[scheme]
	if !ok || text("kty") != curve.kty || text("crv") != curve.crv {
		return nil, fmt.Errorf("JWK of another kind than %s %s: %w", curve.kty, curve.crv, core.ErrInvalid)
	}
	names := []string{"x"}
	var key []byte
	if curve.kty == "EC" {
		names, key = []string{"x", "y"}, []byte{4} // an uncompressed point
	}
	for _, name := range names {
		c, err := base64.RawURLEncoding.Strict().DecodeString(text(name))
		if err != nil || len(c) != curve.size {
			return nil, fmt.Errorf("JWK: %q is not %d bytes: %w", name, curve.size, core.ErrInvalid)
		}
		key = append(key, c...)
	}
	return key, nil
}
