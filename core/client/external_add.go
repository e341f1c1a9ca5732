// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// NewExternalAddProposal makes a proposal to add us to a conversation that we are not
// in (RFC 9420 section 12.1.8), an MLSMessage: for who may not, or would rather not,
// join by a commit of its own. The key package in it is made as [Transaction.MakeKeyPackages]
// makes them, for the suite of the conversation, and kept like any other; a missing
// basic credential is made. Nothing is sent, and nothing is known of the conversation
// until a member commits the proposal and the Welcome comes. Members refuse it in
// another epoch. Hand it out when the transaction is durable.
//
// ErrConversationExists: we are in it or about to join it.
func (t *Transaction) NewExternalAddProposal(ctx context.Context, id core.ConversationID, epoch uint64, o KeyPackageOptions) ([]byte, error) {
	return in(ctx, t, func() ([]byte, error) { return t.externalAdd(ctx, id, epoch, o) })
}

func (t *Transaction) externalAdd(ctx context.Context, id core.ConversationID, epoch uint64, o KeyPackageOptions) ([]byte, error) {
	h, err := t.hold(ctx, id)
	if err != nil {
		return nil, err
	}
	if h.group != nil || h.head.join.exists() {
		return nil, ErrConversationExists
	}
	if o.Suite == 0 {
		o.Suite = t.client.suites.Suites()[0]
	}
	suite, err := t.client.suites.Suite(o.Suite)
	if err != nil {
		return nil, err
	}
	own, signer, err := t.ownSigner(ctx, suite, o.Credential, o.CredentialRef)
	if err != nil {
		return nil, err
	}
	o.CredentialRef = own.Ref
	made, err := t.makeKeyPackages(ctx, o, 1)
	if err != nil {
		return nil, err
	}
	keyPackage, err := parseKeyPackage(made[0].Message)
	if err != nil {
		return nil, err
	}
	return mls.ProposeExternal(ctx, t.env(ctx, id, 0), mls.ExternalProposalParams{
		Suite: suite.ID(), GroupID: []byte(id), Epoch: epoch, Sender: mls.Sender{Type: mls.SenderNewMemberProposal},
		Signer: signer, Proposal: &mls.Add{KeyPackage: keyPackage},
	})
}
