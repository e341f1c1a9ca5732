// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// ExtensionType is a code point of the MLS extension registry (RFC 9420 section 17.3).
type ExtensionType uint16

// The extension types of RFC 9420, and the older form of last_resort that peers use.
const (
	ExtensionApplicationID        ExtensionType = 1      // leaf
	ExtensionRatchetTree          ExtensionType = 2      // GroupInfo
	ExtensionRequiredCapabilities ExtensionType = 3      // GroupContext
	ExtensionExternalPub          ExtensionType = 4      // GroupInfo
	ExtensionExternalSenders      ExtensionType = 5      // GroupContext
	ExtensionLastResort           ExtensionType = 0x000A // KeyPackage
)

// isDefault reports whether support goes without saying (RFC 9420 section 7.2).
func (t ExtensionType) isDefault() bool { return t >= 1 && t <= 5 }

// An Extension is opaque until somebody asks for its type.
type Extension struct {
	Type ExtensionType
	Data []byte
}

func (e Extension) append(b []byte) []byte {
	return appendOpaque(appendU16(b, uint16(e.Type)), e.Data)
}

// Extensions is a list in the order received (COD-8).
type Extensions []Extension

func (l Extensions) append(b []byte) []byte { return appendList(b, l, Extension.append) }

func readExtensions(r *reader) (l Extensions) {
	r.list(func(r *reader) {
		l = append(l, Extension{Type: ExtensionType(r.u16()), Data: r.opaque()})
	})
	return l
}

// Find returns the data of the first extension of the type.
func (l Extensions) Find(t ExtensionType) ([]byte, bool) {
	for _, e := range l {
		if e.Type == t {
			return e.Data, true
		}
	}
	return nil, false
}

func (l Extensions) types() []ExtensionType {
	types := make([]ExtensionType, len(l))
	for i, e := range l {
		types[i] = e.Type
	}
	return types
}

// checkUnique refuses two extensions of one type (GRE-4) in linear time (COD-9).
func (l Extensions) checkUnique() error {
	if len(l) < 2 {
		return nil
	}
	seen := make(map[ExtensionType]struct{}, len(l))
	for _, e := range l {
		if _, dup := seen[e.Type]; dup {
			return breach("GRE-4", "extension 0x%04X occurs twice", uint16(e.Type))
		}
		seen[e.Type] = struct{}{}
	}
	return nil
}

// RequiredCapabilities is RFC 9420 section 11.1's extension.
type RequiredCapabilities struct {
	Extensions  []ExtensionType
	Proposals   []ProposalType
	Credentials []core.CredentialType
}

// Extension encodes it for a GroupContext.
func (c RequiredCapabilities) Extension() Extension {
	var b []byte
	b = appendCodes(b, c.Extensions)
	b = appendCodes(b, c.Proposals)
	b = appendCodes(b, c.Credentials)
	return Extension{Type: ExtensionRequiredCapabilities, Data: b}
}

func (l Extensions) requiredCapabilities() (RequiredCapabilities, error) {
	data, ok := l.Find(ExtensionRequiredCapabilities)
	if !ok {
		return RequiredCapabilities{}, nil
	}
	return decode("required_capabilities", data, func(r *reader) RequiredCapabilities {
		return RequiredCapabilities{
			Extensions:  codesOf[ExtensionType](r),
			Proposals:   codesOf[ProposalType](r),
			Credentials: codesOf[core.CredentialType](r),
		}
	})
}

// An ExternalSender may send proposals from outside (RFC 9420 section 12.1.8.1).
type ExternalSender struct {
	SignatureKey []byte
	Credential   core.Credential
}

func (s ExternalSender) append(b []byte) []byte {
	return appendCredential(appendOpaque(b, s.SignatureKey), s.Credential)
}

// ExternalSendersExtension encodes the list for a GroupContext.
func ExternalSendersExtension(senders []ExternalSender) Extension {
	return Extension{Type: ExtensionExternalSenders, Data: appendList(nil, senders, ExternalSender.append)}
}

// ExternalSenders decodes the list of a GroupContext; nil if it has none.
func (l Extensions) ExternalSenders() ([]ExternalSender, error) {
	data, ok := l.Find(ExtensionExternalSenders)
	if !ok {
		return nil, nil
	}
	return decode("external_senders", data, func(r *reader) (senders []ExternalSender) {
		r.list(func(r *reader) {
			senders = append(senders, ExternalSender{SignatureKey: r.opaque(), Credential: readCredential(r)})
		})
		return senders
	})
}

// externalPub decodes ExternalPub: a struct with one <V> key (EXT-1).
func (l Extensions) externalPub() (key []byte, ok bool, err error) {
	data, ok := l.Find(ExtensionExternalPub)
	if !ok {
		return nil, false, nil
	}
	key, err = decode("external_pub", data, (*reader).opaque)
	return key, true, err
}

func (l Extensions) equal(m Extensions) bool {
	return slices.EqualFunc(l, m, func(a, b Extension) bool {
		return a.Type == b.Type && slices.Equal(a.Data, b.Data)
	})
}
