// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	pb "github.com/conclave-mls/conclave/app/interop/mlsclient"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// Who proposes something to a group that it is not in: somebody who wants to be
// added, or an external sender that the group has named.

func (s *service) NewMemberAddProposal(ctx context.Context, req *pb.NewMemberAddProposalRequest) (*pb.NewMemberAddProposalResponse, error) {
	info, suite, err := s.groupInfo(req.GetGroupInfo())
	if err != nil {
		return nil, err
	}
	t, err := s.newTransaction(ctx, suite, req.GetIdentity())
	if err != nil {
		return nil, err
	}
	proposal, err := mls.ProposeExternal(ctx, t.env(), mls.ExternalProposalParams{
		Suite: suite.ID(), GroupID: info.GroupContext.GroupID, Epoch: info.GroupContext.Epoch,
		Sender: mls.Sender{Type: mls.SenderNewMemberProposal}, Signer: t.signer,
		Proposal: &mls.Add{KeyPackage: t.bundle.KeyPackage},
	})
	if err != nil {
		return nil, err
	}
	return &pb.NewMemberAddProposalResponse{
		TransactionId: s.handles.add(t), Proposal: proposal,
		InitPriv: material(t.bundle.InitKey), EncryptionPriv: material(t.bundle.LeafKey), SignaturePriv: material(t.signer),
	}, nil
}

// An externalSigner signs as one of the external senders of a group.
type externalSigner struct {
	member
	suite core.Suite
}

func (s *service) CreateExternalSigner(ctx context.Context, req *pb.CreateExternalSignerRequest) (*pb.CreateExternalSignerResponse, error) {
	suite, err := s.suite(req.GetCipherSuite())
	if err != nil {
		return nil, err
	}
	m, err := s.newMember(ctx, suite, req.GetIdentity())
	if err != nil {
		return nil, err
	}
	sender := mls.ExternalSender{SignatureKey: m.signer.Public(), Credential: m.credential()}
	return &pb.CreateExternalSignerResponse{
		SignerId:       s.handles.add(&externalSigner{m, suite}),
		ExternalSender: marshalSender(sender),
	}, nil
}

// marshalSender and unmarshalSender code one element of external_senders.
func marshalSender(sender mls.ExternalSender) []byte {
	list := cryptobyte.String(mls.ExternalSendersExtension([]mls.ExternalSender{sender}).Data)
	_, _ = vlbytes.ReadLength(&list) // it has one
	return list
}

func unmarshalSender(data []byte) (mls.ExternalSender, error) {
	list := mls.Extensions{{Type: mls.ExtensionExternalSenders, Data: vlbytes.Append(nil, data)}}
	senders, err := list.ExternalSenders()
	if err != nil {
		return mls.ExternalSender{}, err
	}
	if len(senders) != 1 {
		return mls.ExternalSender{}, invalid("%d external senders", len(senders))
	}
	return senders[0], nil
}

func (s *service) AddExternalSigner(ctx context.Context, req *pb.AddExternalSignerRequest) (*pb.ProposalResponse, error) {
	return s.propose(ctx, req.GetStateId(), func(st *state) (mls.Proposal, error) {
		sender, err := unmarshalSender(req.GetExternalSender())
		if err != nil {
			return nil, err
		}
		now := slices.Clone(st.group.Extensions())
		senders, err := now.ExternalSenders()
		if err != nil {
			return nil, err
		}
		extension := mls.ExternalSendersExtension(append(senders, sender))
		if i := slices.IndexFunc(now, func(e mls.Extension) bool { return e.Type == extension.Type }); i >= 0 {
			now[i] = extension
		} else {
			now = append(now, extension)
		}
		return &mls.GroupContextExtensions{Extensions: now}, nil
	})
}

// ExternalSignerProposal finds the signer's place in external_senders by its key:
// drivers leave the index of the request empty.
func (s *service) ExternalSignerProposal(ctx context.Context, req *pb.ExternalSignerProposalRequest) (*pb.ProposalResponse, error) {
	x, err := find[*externalSigner](&s.handles, req.GetSignerId())
	if err != nil {
		return nil, err
	}
	info, err := unwrap(req.GetGroupInfo(), groupInfoOf)
	if err != nil {
		return nil, err
	}
	gc := info.GroupContext
	if gc.Suite != x.suite.ID() {
		return nil, invalid("a group of suite %v for a signer of suite %v", gc.Suite, x.suite.ID())
	}
	senders, err := gc.Extensions.ExternalSenders()
	if err != nil {
		return nil, err
	}
	index := slices.IndexFunc(senders, func(sender mls.ExternalSender) bool {
		return bytes.Equal(sender.SignatureKey, x.signer.Public())
	})
	if index < 0 {
		return nil, fmt.Errorf("the signer in external_senders: %w", core.ErrNotFound)
	}
	d := described{suite: x.suite, groupID: gc.GroupID, leaf: func(identity []byte) (mls.LeafIndex, error) {
		group, err := mls.Observe(x.env(), info, absent(req.GetRatchetTree()))
		if err != nil {
			return 0, err
		}
		return leafOf(group.Members(), identity)
	}}
	p, err := d.proposal(req.GetDescription(), true)
	if err != nil {
		return nil, err
	}
	proposal, err := mls.ProposeExternal(ctx, x.env(), mls.ExternalProposalParams{
		Suite: gc.Suite, GroupID: gc.GroupID, Epoch: gc.Epoch,
		Sender: mls.Sender{Type: mls.SenderExternal, Index: uint32(index)}, Signer: x.signer, Proposal: p,
	})
	if err != nil {
		return nil, err
	}
	return &pb.ProposalResponse{Proposal: proposal}, nil
}
