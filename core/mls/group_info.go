// SPDX-License-Identifier: Apache-2.0

package mls

import "github.com/conclave-mls/conclave/core"

// A GroupContext is what all members agree on in an epoch (RFC 9420 section 8.1).
type GroupContext struct {
	Version                 ProtocolVersion
	Suite                   core.SuiteID
	GroupID                 []byte
	Epoch                   uint64
	TreeHash                []byte
	ConfirmedTranscriptHash []byte
	Extensions              Extensions
}

func (c *GroupContext) append(b []byte) []byte {
	b = appendU16(b, uint16(c.Version))
	b = appendU16(b, uint16(c.Suite))
	b = appendU64(appendOpaque(b, c.GroupID), c.Epoch)
	b = appendOpaque(appendOpaque(b, c.TreeHash), c.ConfirmedTranscriptHash)
	return c.Extensions.append(b)
}

func readGroupContext(r *reader) GroupContext {
	c := GroupContext{Version: ProtocolVersion(r.u16()), Suite: core.SuiteID(r.u16()), GroupID: r.opaque(), Epoch: r.u64()}
	if c.Version != MLS10 {
		r.fail()
	}
	c.TreeHash = r.opaque()
	c.ConfirmedTranscriptHash = r.opaque()
	c.Extensions = readExtensions(r)
	return c
}

// Marshal encodes the context.
func (c *GroupContext) Marshal() []byte { return marshal(c) }

// A GroupInfo tells a joiner of the group (RFC 9420 section 12.4.3).
type GroupInfo struct {
	GroupContext    GroupContext
	Extensions      Extensions
	ConfirmationTag []byte
	Signer          LeafIndex
	Signature       []byte
}

func (g *GroupInfo) tbs() []byte {
	b := g.Extensions.append(g.GroupContext.append(nil))
	return appendU32(appendOpaque(b, g.ConfirmationTag), uint32(g.Signer))
}

func (g *GroupInfo) append(b []byte) []byte {
	return appendOpaque(append(b, g.tbs()...), g.Signature)
}

func readGroupInfo(r *reader) *GroupInfo {
	return &GroupInfo{
		GroupContext:    readGroupContext(r),
		Extensions:      readExtensions(r),
		ConfirmationTag: r.opaque(),
		Signer:          LeafIndex(r.u32()),
		Signature:       r.opaque(),
	}
}

// Marshal encodes it, not wrapped in an MLSMessage.
func (g *GroupInfo) Marshal() []byte { return marshal(g) }

// UnmarshalGroupInfo decodes one that is not wrapped in an MLSMessage.
func UnmarshalGroupInfo(data []byte) (*GroupInfo, error) {
	return decode("GroupInfo", data, readGroupInfo)
}
