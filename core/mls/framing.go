// SPDX-License-Identifier: Apache-2.0

package mls

// WireFormat is RFC 9420 section 6's message kind.
type WireFormat uint16

// The wire formats.
const (
	WirePublicMessage  WireFormat = 1
	WirePrivateMessage WireFormat = 2
	WireWelcome        WireFormat = 3
	WireGroupInfo      WireFormat = 4
	WireKeyPackage     WireFormat = 5
)

// ContentType is what a framed message carries.
type ContentType uint8

// The content types.
const (
	ContentApplication ContentType = 1
	ContentProposal    ContentType = 2
	ContentCommit      ContentType = 3
)

// SenderType says how a message's sender relates to the group.
type SenderType uint8

// The sender types.
const (
	SenderMember            SenderType = 1
	SenderExternal          SenderType = 2
	SenderNewMemberProposal SenderType = 3
	SenderNewMemberCommit   SenderType = 4
)

// A Sender is RFC 9420 section 6's structure of that name.
type Sender struct {
	Type  SenderType
	Leaf  LeafIndex // member
	Index uint32    // external: into external_senders
}

func (s Sender) append(b []byte) []byte {
	b = append(b, byte(s.Type))
	switch s.Type {
	case SenderMember:
		b = appendU32(b, uint32(s.Leaf))
	case SenderExternal:
		b = appendU32(b, s.Index)
	}
	return b
}

func readSender(r *reader) (s Sender) {
	s.Type = SenderType(r.u8())
	switch s.Type {
	case SenderMember:
		s.Leaf = LeafIndex(r.u32())
	case SenderExternal:
		s.Index = r.u32()
	case SenderNewMemberProposal, SenderNewMemberCommit:
	default:
		r.fail()
	}
	return s
}

// A FramedContent is what a message says; the field that ContentType names is set.
type FramedContent struct {
	GroupID           []byte
	Epoch             uint64
	Sender            Sender
	AuthenticatedData []byte
	ContentType       ContentType
	Application       []byte
	Proposal          Proposal
	Commit            *Commit

	size int // about, of the encoding of what was received, so that it is not grown to
}

func (c *FramedContent) append(b []byte) []byte {
	b = appendU64(appendOpaque(b, c.GroupID), c.Epoch)
	b = appendOpaque(c.Sender.append(b), c.AuthenticatedData)
	return c.appendBody(append(b, byte(c.ContentType)))
}

func (c *FramedContent) appendBody(b []byte) []byte {
	switch c.ContentType {
	case ContentApplication:
		return appendOpaque(b, c.Application)
	case ContentProposal:
		return appendProposal(c.Proposal, b)
	}
	return c.Commit.append(b)
}

func (c *FramedContent) readBody(r *reader) {
	switch c.ContentType {
	case ContentApplication:
		c.Application = r.opaque()
	case ContentProposal:
		c.Proposal = readProposal(r)
	case ContentCommit:
		c.Commit = readCommit(r)
	default:
		r.fail()
	}
}

func readFramedContent(r *reader) *FramedContent {
	before := len(r.s)
	c := &FramedContent{
		GroupID:           r.opaque(),
		Epoch:             r.u64(),
		Sender:            readSender(r),
		AuthenticatedData: r.opaque(),
		ContentType:       ContentType(r.u8()),
	}
	c.readBody(r)
	c.size = before - len(r.s)
	return c
}

// FramedContentAuthData authenticates a FramedContent; the tag is for commits only.
type FramedContentAuthData struct {
	Signature       []byte
	ConfirmationTag []byte
}

func (a *FramedContentAuthData) append(b []byte, t ContentType) []byte {
	b = appendOpaque(b, a.Signature)
	if t == ContentCommit {
		b = appendOpaque(b, a.ConfirmationTag)
	}
	return b
}

func readAuthData(r *reader, t ContentType) (a FramedContentAuthData) {
	a.Signature = r.opaque()
	if t == ContentCommit {
		a.ConfirmationTag = r.opaque()
	}
	return a
}

// An AuthenticatedContent is a FramedContent with its signature, in whatever
// wire format it travelled.
type AuthenticatedContent struct {
	WireFormat WireFormat
	Content    *FramedContent
	Auth       FramedContentAuthData
}

func (a *AuthenticatedContent) append(b []byte) []byte {
	b = a.Content.append(appendU16(b, uint16(a.WireFormat)))
	return a.Auth.append(b, a.Content.ContentType)
}

// Marshal encodes it.
func (a *AuthenticatedContent) Marshal() []byte { return marshal(a) }

// UnmarshalAuthenticatedContent decodes it.
func UnmarshalAuthenticatedContent(data []byte) (*AuthenticatedContent, error) {
	return decode("AuthenticatedContent", data, readAuthenticatedContent)
}

func readAuthenticatedContent(r *reader) *AuthenticatedContent {
	a := &AuthenticatedContent{WireFormat: WireFormat(r.u16())}
	if a.WireFormat != WirePublicMessage && a.WireFormat != WirePrivateMessage {
		r.fail() // nothing else carries framed content (COD-6)
	}
	a.Content = readFramedContent(r)
	a.Auth = readAuthData(r, a.Content.ContentType)
	return a
}

// A PublicMessage is signed but not encrypted (RFC 9420 section 6.2).
type PublicMessage struct {
	Content       *FramedContent
	Auth          FramedContentAuthData
	MembershipTag []byte // members only
}

func (m *PublicMessage) append(b []byte) []byte {
	b = m.Auth.append(m.Content.append(b), m.Content.ContentType)
	if m.Content.Sender.Type == SenderMember {
		b = appendOpaque(b, m.MembershipTag)
	}
	return b
}

func readPublicMessage(r *reader) *PublicMessage {
	m := &PublicMessage{Content: readFramedContent(r)}
	m.Auth = readAuthData(r, m.Content.ContentType)
	if m.Content.Sender.Type == SenderMember {
		m.MembershipTag = r.opaque()
	}
	return m
}

// A PrivateMessage is signed and encrypted (RFC 9420 section 6.3).
type PrivateMessage struct {
	GroupID             []byte
	Epoch               uint64
	ContentType         ContentType
	AuthenticatedData   []byte
	EncryptedSenderData []byte
	Ciphertext          []byte
}

func (m *PrivateMessage) append(b []byte) []byte {
	b = appendU64(appendOpaque(b, m.GroupID), m.Epoch)
	b = appendOpaque(append(b, byte(m.ContentType)), m.AuthenticatedData)
	return appendOpaque(appendOpaque(b, m.EncryptedSenderData), m.Ciphertext)
}

func readPrivateMessage(r *reader) *PrivateMessage {
	m := &PrivateMessage{GroupID: r.opaque(), Epoch: r.u64(), ContentType: ContentType(r.u8())}
	if m.ContentType < ContentApplication || m.ContentType > ContentCommit {
		r.fail()
	}
	m.AuthenticatedData = r.opaque()
	m.EncryptedSenderData = r.opaque()
	m.Ciphertext = r.opaque()
	return m
}
