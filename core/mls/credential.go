// SPDX-License-Identifier: Apache-2.0

package mls

import "github.com/conclave-mls/conclave/core"

// appendCredential and readCredential code a Credential (RFC 9420 section 5.3).
// The body of an unknown type is taken for one <V> vector, as all known types
// and drafts have it (COD-6), and is kept as it is (CRD-5).
func appendCredential(b []byte, c core.Credential) []byte {
	b = appendU16(b, uint16(c.Type))
	switch c.Type {
	case core.CredentialBasic:
		return appendOpaque(b, c.Identity)
	case core.CredentialX509:
		return appendList(b, c.Certificates, func(cert, b []byte) []byte { return appendOpaque(b, cert) })
	}
	return appendOpaque(b, c.Opaque)
}

func readCredential(r *reader) (c core.Credential) {
	c.Type = core.CredentialType(r.u16())
	switch c.Type {
	case core.CredentialBasic:
		c.Identity = r.opaque()
	case core.CredentialX509:
		r.list(func(r *reader) { c.Certificates = append(c.Certificates, r.opaque()) })
	default:
		c.Opaque = r.opaque()
	}
	return c
}

// MarshalCredential encodes a credential.
func MarshalCredential(c core.Credential) []byte { return appendCredential(nil, c) }

// UnmarshalCredential decodes a credential.
func UnmarshalCredential(data []byte) (core.Credential, error) {
	return decode("Credential", data, readCredential)
}
