// SPDX-License-Identifier: Apache-2.0

package interop_test

import (
	"fmt"

	pb "github.com/conclave-mls/conclave/app/interop/mlsclient"
	"github.com/conclave-mls/conclave/core/mls"
)

// An externalJoin has somebody enter by an external commit; all members follow.
type externalJoin struct {
	from, joiner string // from: whose GroupInfo
	externalTree bool
	removePrior  bool
	psks         []string
}

func (j externalJoin) step() step { return step{"external join of " + j.joiner, j.do} }

func (j externalJoin) do(p *play) error {
	info, err := p.groupInfo(j.from, j.externalTree)
	if err != nil {
		return err
	}
	req := &pb.ExternalJoinRequest{
		GroupInfo: info.GetGroupInfo(), RatchetTree: info.GetRatchetTree(), EncryptHandshake: p.private,
		Identity: []byte(j.joiner), RemovePrior: j.removePrior,
	}
	for _, label := range j.psks {
		req.Psks = append(req.Psks, p.psks[label])
	}
	resp, err := p.client(j.joiner).ExternalJoin(p.ctx, req)
	if err != nil {
		return err
	}
	if err := wireFormat(resp.GetCommit(), mls.WirePublicMessage); err != nil {
		return err
	}
	m, err := mls.UnmarshalMLSMessage(resp.GetCommit())
	if err != nil {
		return err
	}
	want := 1 + len(j.psks)
	if j.removePrior {
		want++
		p.members = p.others(j.joiner)
	}
	if got := len(m.PublicMessage.Content.Commit.Proposals); got != want {
		return fmt.Errorf("%d proposals, want %d", got, want)
	}
	if err := p.begin(resp.GetEpochAuthenticator()); err != nil {
		return err
	}
	if err := p.hear(p.members, nil, resp.GetCommit()); err != nil {
		return err
	}
	p.enter(j.joiner, resp.GetStateId())
	return nil
}

// joinerAdd has somebody propose to be added, who knows a member's GroupInfo.
func joinerAdd(from, joiner string) step {
	return step{"new-member add of " + joiner, func(p *play) error {
		info, err := p.groupInfo(from, false)
		if err != nil {
			return err
		}
		resp, err := p.client(joiner).NewMemberAddProposal(p.ctx, &pb.NewMemberAddProposalRequest{
			GroupInfo: info.GetGroupInfo(), Identity: []byte(joiner),
		})
		if err != nil {
			return err
		}
		p.transaction[joiner] = resp.GetTransactionId()
		return p.propose(resp.GetProposal(), true)
	}}
}

// signer has somebody become an external sender of the group.
func signer(by, name string) step {
	return step{"external signer " + name, func(p *play) error {
		created, err := p.client(name).CreateExternalSigner(p.ctx, &pb.CreateExternalSignerRequest{CipherSuite: p.suite, Identity: []byte(name)})
		if err != nil {
			return err
		}
		p.signers[name] = externalSigner{created.GetSignerId(), created.GetExternalSender()}
		resp, err := p.client(by).AddExternalSigner(p.ctx, &pb.AddExternalSignerRequest{StateId: p.states[by], ExternalSender: created.GetExternalSender()})
		if err != nil {
			return err
		}
		return p.propose(resp.GetProposal(), false)
	}}
}

// signed is a proposal of an external signer, who has a member's GroupInfo.
func signed(name, from string, externalTree bool, v value) step {
	return step{"external proposal by " + name, func(p *play) error {
		info, err := p.groupInfo(from, externalTree)
		if err != nil {
			return err
		}
		resp, err := p.client(name).ExternalSignerProposal(p.ctx, &pb.ExternalSignerProposalRequest{
			SignerId: p.signers[name].id, GroupInfo: info.GetGroupInfo(), RatchetTree: info.GetRatchetTree(), Description: v(p),
		})
		if err != nil {
			return err
		}
		return p.propose(resp.GetProposal(), true)
	}}
}
