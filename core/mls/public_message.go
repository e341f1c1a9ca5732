// SPDX-License-Identifier: Apache-2.0

package mls

import "github.com/conclave-mls/conclave/core"

// protectPublic frames a signed content as a PublicMessage (RFC 9420 section
// 6.2); a member's gets a membership tag. The context and key are those of the
// epoch that the content names (KS-8).
func protectPublic(suite core.Suite, membershipKey core.Secret, groupContext []byte, a *AuthenticatedContent) (*PublicMessage, error) {
	if a.WireFormat != WirePublicMessage {
		return nil, breach("FR-2", "content was signed for wire format %d", a.WireFormat)
	}
	if err := checkSender(a.WireFormat, a.Content); err != nil {
		return nil, err
	}
	m := &PublicMessage{Content: a.Content, Auth: a.Auth}
	if a.Content.Sender.Type == SenderMember {
		m.MembershipTag = m.membershipTag(suite, membershipKey, groupContext)
	}
	return m, nil
}

// unprotectPublic checks what a PublicMessage must be before its signature is
// looked at: sender and content match, and the membership tag of a member holds
// (FR-3). The signature, the group, the epoch and the sender's leaf or key are
// for the caller to check: see verifyContent.
func unprotectPublic(suite core.Suite, membershipKey core.Secret, groupContext []byte, m *PublicMessage) (*AuthenticatedContent, error) {
	if err := checkSender(WirePublicMessage, m.Content); err != nil {
		return nil, err
	}
	if m.Content.Sender.Type == SenderMember {
		if !sameTag(m.membershipTag(suite, membershipKey, groupContext), m.MembershipTag) {
			return nil, ErrAuthentication
		}
	}
	return &AuthenticatedContent{WireFormat: WirePublicMessage, Content: m.Content, Auth: m.Auth}, nil
}

func (m *PublicMessage) membershipTag(suite core.Suite, key core.Secret, groupContext []byte) []byte {
	tbs := framedContentTBS(WirePublicMessage, m.Content, groupContext)
	return membershipTag(suite, key, tbs, &m.Auth, m.Content.ContentType)
}
