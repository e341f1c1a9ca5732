// SPDX-License-Identifier: Apache-2.0

package mls

import "github.com/conclave-mls/conclave/core"

// ProposalType is a code point of the MLS proposal registry (RFC 9420 section 17.4).
type ProposalType uint16

// The proposal types of RFC 9420.
const (
	ProposalAdd                    ProposalType = 1
	ProposalUpdate                 ProposalType = 2
	ProposalRemove                 ProposalType = 3
	ProposalPSK                    ProposalType = 4
	ProposalReInit                 ProposalType = 5
	ProposalExternalInit           ProposalType = 6
	ProposalGroupContextExtensions ProposalType = 7
)

// isDefault reports whether support goes without saying (RFC 9420 section 7.2).
func (t ProposalType) isDefault() bool { return t >= 1 && t <= 7 }

// A Proposal is one of *Add, *Update, *Remove, *PreSharedKey, *ReInit,
// *ExternalInit, *GroupContextExtensions (RFC 9420 section 12.1) and *Custom.
type Proposal interface {
	Type() ProposalType
	marshaler // the body, without the type
}

// Add proposes a new member.
type Add struct{ KeyPackage *KeyPackage }

// Update proposes a new leaf for its sender.
type Update struct{ LeafNode *LeafNode }

// Remove proposes to remove the member at a leaf.
type Remove struct{ Removed LeafIndex }

// PreSharedKey proposes to mix in a pre-shared key.
type PreSharedKey struct{ PSK PreSharedKeyID }

// ReInit proposes to end the group and start another, with the same members. A commit
// covers it alone, and after that the group is no longer active: see
// [Group.Reinitialize] (RFC 9420 sections 11.2 and 12.1.5).
type ReInit struct {
	GroupID    []byte
	Version    ProtocolVersion // MLS10
	Suite      core.SuiteID
	Extensions Extensions // of the new GroupContext
}

// ExternalInit carries the new init secret of an external commit.
type ExternalInit struct{ KEMOutput []byte }

// GroupContextExtensions proposes a new list of group extensions.
type GroupContextExtensions struct{ Extensions Extensions }

// Type implements [Proposal].
func (*Add) Type() ProposalType { return ProposalAdd }

// Type implements [Proposal].
func (*Update) Type() ProposalType { return ProposalUpdate }

// Type implements [Proposal].
func (*Remove) Type() ProposalType { return ProposalRemove }

// Type implements [Proposal].
func (*PreSharedKey) Type() ProposalType { return ProposalPSK }

// Type implements [Proposal].
func (*ReInit) Type() ProposalType { return ProposalReInit }

// Type implements [Proposal].
func (*ExternalInit) Type() ProposalType { return ProposalExternalInit }

// Type implements [Proposal].
func (*GroupContextExtensions) Type() ProposalType { return ProposalGroupContextExtensions }

func (p *Add) append(b []byte) []byte          { return p.KeyPackage.append(b) }
func (p *Update) append(b []byte) []byte       { return p.LeafNode.append(b) }
func (p *Remove) append(b []byte) []byte       { return appendU32(b, uint32(p.Removed)) }
func (p *PreSharedKey) append(b []byte) []byte { return p.PSK.append(b) }
func (p *ReInit) append(b []byte) []byte {
	b = appendOpaque(b, p.GroupID)
	b = appendU16(b, uint16(p.Version))
	b = appendU16(b, uint16(p.Suite))
	return p.Extensions.append(b)
}
func (p *ExternalInit) append(b []byte) []byte           { return appendOpaque(b, p.KEMOutput) }
func (p *GroupContextExtensions) append(b []byte) []byte { return p.Extensions.append(b) }

func appendProposal(p Proposal, b []byte) []byte {
	return p.append(appendU16(b, uint16(p.Type())))
}

func readProposal(r *reader) Proposal { return readProposalBody(r, ProposalType(r.u16())) }

// readProposalBody takes unknown types for a Custom: a proposal has no outer length
// by which it could be skipped (COD-6).
func readProposalBody(r *reader, t ProposalType) Proposal {
	switch t {
	case ProposalAdd:
		return &Add{KeyPackage: readKeyPackage(r)}
	case ProposalUpdate:
		return &Update{LeafNode: readLeafNode(r)}
	case ProposalRemove:
		return &Remove{Removed: LeafIndex(r.u32())}
	case ProposalPSK:
		return &PreSharedKey{PSK: readPreSharedKeyID(r)}
	case ProposalReInit:
		return &ReInit{GroupID: r.opaque(), Version: ProtocolVersion(r.u16()), Suite: core.SuiteID(r.u16()), Extensions: readExtensions(r)}
	case ProposalExternalInit:
		return &ExternalInit{KEMOutput: r.opaque()}
	case ProposalGroupContextExtensions:
		return &GroupContextExtensions{Extensions: readExtensions(r)}
	}
	if t == 0 {
		r.fail() // reserved
	}
	return &Custom{ProposalType: t, Body: r.opaque()}
}

// MarshalProposal encodes a proposal with its type.
func MarshalProposal(p Proposal) []byte { return appendProposal(p, nil) }

// UnmarshalProposal decodes a proposal with its type.
func UnmarshalProposal(data []byte) (Proposal, error) {
	return decode("Proposal", data, readProposal)
}

// A ProposalRef names a proposal that was sent on its own: RefHash over its
// AuthenticatedContent, Nh bytes.
type ProposalRef []byte

func (a *AuthenticatedContent) proposalRef(suite core.Suite) ProposalRef {
	return refHash(suite, "MLS 1.0 Proposal Reference", marshal(a))
}

// A ProposalOrRef is an element of a commit; exactly one field is set.
type ProposalOrRef struct {
	Proposal  Proposal
	Reference ProposalRef
}

func (p ProposalOrRef) append(b []byte) []byte {
	if p.Proposal != nil {
		return appendProposal(p.Proposal, append(b, 1))
	}
	return appendOpaque(append(b, 2), p.Reference)
}

func readProposalOrRef(r *reader) (p ProposalOrRef) {
	switch r.u8() {
	case 1:
		p.Proposal = readProposal(r)
	case 2:
		p.Reference = r.opaque()
	default:
		r.fail()
	}
	return p
}
