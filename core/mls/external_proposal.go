// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// ExternalProposalParams says what somebody proposes who is not in the group (RFC
// 9420 section 12.1.8).
type ExternalProposalParams struct {
	Suite   core.SuiteID // this and the next two are the group's: see [Observer], [GroupInfo]
	GroupID []byte
	Epoch   uint64
	// Sender is of type SenderExternal, with the place of the signer's key in the
	// group's external_senders, or of type SenderNewMemberProposal: a client that
	// proposes to add itself, with the signature key of its key package.
	Sender            Sender
	Signer            core.Signer
	Proposal          Proposal
	AuthenticatedData []byte
}

// ProposeExternal makes a proposal from outside: an MLSMessage with a PublicMessage,
// whatever the group's handshake policy, and without a membership tag (XS-4).
// Members check the rest, the key of the sender first.
func ProposeExternal(ctx context.Context, env *Env, p ExternalProposalParams) (_ []byte, err error) {
	defer tooLarge(&err)
	if p.Sender.Type != SenderExternal && p.Sender.Type != SenderNewMemberProposal {
		return nil, breach("FR-4", "sender type %d is not from outside", p.Sender.Type)
	}
	suite, err := env.Suites.Suite(p.Suite) // CS-6
	if err != nil {
		return nil, err
	}
	if add, ok := p.Proposal.(*Add); ok {
		if err := errors.Join(add.KeyPackage.Validate(suite, time.Time{}), env.checkLifetime(add.KeyPackage.LeafNode)); err != nil {
			return nil, err
		}
		if p.Sender.Type == SenderNewMemberProposal && !bytes.Equal(add.KeyPackage.LeafNode.SignatureKey, p.Signer.Public()) {
			return nil, fmt.Errorf("mls: the signer is not the key package's: %w", core.ErrWrongKey)
		}
	}
	content := &FramedContent{
		GroupID: p.GroupID, Epoch: p.Epoch, Sender: p.Sender, AuthenticatedData: p.AuthenticatedData,
		ContentType: ContentProposal, Proposal: p.Proposal,
	}
	a, err := signFramedContent(ctx, p.Signer, WirePublicMessage, content, nil) // FR-2: without the GroupContext
	if err != nil {
		return nil, err
	}
	m, err := protectPublic(suite, core.Secret{}, nil, a)
	if err != nil {
		return nil, err
	}
	return (&MLSMessage{PublicMessage: m}).Marshal(), nil
}
