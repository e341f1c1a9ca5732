// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// framedContentTBS is what the signature of a content covers (RFC 9420 section
// 6.1). The GroupContext counts for those who know it: members and external
// joiners (FR-2).
func framedContentTBS(wire WireFormat, c *FramedContent, groupContext []byte) []byte {
	b := make([]byte, 0, 128+c.size+len(c.GroupID)+len(c.AuthenticatedData)+len(c.Application)+len(groupContext))
	b = appendU16(appendU16(b, uint16(MLS10)), uint16(wire))
	b = c.append(b)
	if c.Sender.Type == SenderMember || c.Sender.Type == SenderNewMemberCommit {
		b = append(b, groupContext...)
	}
	return b
}

// signFramedContent signs a content for the wire format in which it will travel. The
// confirmation tag of a commit is not covered; the caller adds it. Content that
// does not fit a vector is [core.ErrTooLarge].
func signFramedContent(ctx context.Context, signer core.Signer, wire WireFormat, c *FramedContent, groupContext []byte) (*AuthenticatedContent, error) {
	if len(c.Application)+len(c.AuthenticatedData) > vlbytes.MaxLength { // before anything is copied
		return nil, fmt.Errorf("message: %w", core.ErrTooLarge)
	}
	signature, err := signWithLabel(ctx, signer, "FramedContentTBS", framedContentTBS(wire, c, groupContext))
	if err != nil {
		return nil, err
	}
	return &AuthenticatedContent{WireFormat: wire, Content: c, Auth: FramedContentAuthData{Signature: signature}}, nil
}

// verifyContent checks the signature of a content with the sender's key;
// [ErrAuthentication] if it does not hold.
func verifyContent(suite core.Suite, public, groupContext []byte, a *AuthenticatedContent) error {
	return verifyWithLabel(suite, public, "FramedContentTBS", framedContentTBS(a.WireFormat, a.Content, groupContext), a.Auth.Signature)
}

// checkSender is the table of who may send what in which format (FR-1, FR-4,
// XS-2): the rules that need no group.
func checkSender(wire WireFormat, c *FramedContent) error {
	if wire == WirePublicMessage && c.ContentType == ContentApplication {
		return breach("FR-1", "application data in a PublicMessage")
	}
	switch c.Sender.Type {
	case SenderMember:
		return nil
	case SenderExternal, SenderNewMemberProposal:
		if c.ContentType == ContentProposal {
			return checkProposalSender(c.Proposal.Type(), c.Sender)
		}
	case SenderNewMemberCommit:
		if c.ContentType == ContentCommit && c.Commit.Path != nil {
			return nil
		}
	}
	return breach("FR-4", "sender type %d may not send this content (type %d)", c.Sender.Type, c.ContentType)
}
