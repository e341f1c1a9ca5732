// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"

	pb "github.com/conclave-mls/conclave/app/interop/mlsclient"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// propose sends a proposal on its own. It is made of the state as it is.
func (s *service) propose(ctx context.Context, stateID uint32, proposal func(*state) (mls.Proposal, error)) (*pb.ProposalResponse, error) {
	st, err := find[*state](&s.handles, stateID)
	if err != nil {
		return nil, err
	}
	p, err := proposal(st)
	if err != nil {
		return nil, err
	}
	g, sent, ws, err := st.group.Propose(ctx, st.env(), p, nil)
	if err != nil {
		return nil, err
	}
	return st.sent(g, sent, ws), nil
}

func (st *state) sent(g *mls.Group, sent *mls.SentProposal, ws *record.WriteSet) *pb.ProposalResponse {
	st.set(g, ws)
	st.remember(sent.Message, sent.Ref)
	return &pb.ProposalResponse{Proposal: sent.Message}
}

func (s *service) AddProposal(ctx context.Context, req *pb.AddProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(ctx, req.GetStateId(), func(*state) (mls.Proposal, error) {
		return newAdd(req.GetKeyPackage())
	})
}

func newAdd(message []byte) (mls.Proposal, error) {
	kp, err := unwrap(message, keyPackageOf)
	if err != nil {
		return nil, err
	}
	return &mls.Add{KeyPackage: kp}, nil
}

func (s *service) UpdateProposal(ctx context.Context, req *pb.UpdateProposalRequest) (*pb.ProposalResponse, error) {
	st, err := find[*state](&s.handles, req.GetStateId())
	if err != nil {
		return nil, err
	}
	g, sent, ws, err := st.group.ProposeUpdate(ctx, st.env(), mls.LeafParams{}, nil)
	if err != nil {
		return nil, err
	}
	return st.sent(g, sent, ws), nil
}

func (s *service) RemoveProposal(ctx context.Context, req *pb.RemoveProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(ctx, req.GetStateId(), func(st *state) (mls.Proposal, error) {
		leaf, err := st.memberLeaf(ctx, req.GetRemovedId())
		return &mls.Remove{Removed: leaf}, err
	})
}

func (s *service) ExternalPSKProposal(ctx context.Context, req *pb.ExternalPSKProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(ctx, req.GetStateId(), func(st *state) (mls.Proposal, error) {
		return st.group.NewExternalPSK(req.GetPskId()), nil
	})
}

func (s *service) ResumptionPSKProposal(ctx context.Context, req *pb.ResumptionPSKProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(ctx, req.GetStateId(), func(st *state) (mls.Proposal, error) {
		return st.group.NewResumptionPSK(req.GetEpochId()), nil
	})
}

func (s *service) GroupContextExtensionsProposal(ctx context.Context, req *pb.GroupContextExtensionsProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(ctx, req.GetStateId(), func(*state) (mls.Proposal, error) {
		l, err := extensions(req.GetExtensions())
		return &mls.GroupContextExtensions{Extensions: l}, err
	})
}

func (s *service) ReInitProposal(ctx context.Context, req *pb.ReInitProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(ctx, req.GetStateId(), func(*state) (mls.Proposal, error) {
		return newReInit(req.GetGroupId(), req.GetCipherSuite(), req.GetExtensions())
	})
}

func newReInit(groupID []byte, cipherSuite uint32, list []*pb.Extension) (mls.Proposal, error) {
	suite, err := codePoint(cipherSuite)
	if err != nil {
		return nil, err
	}
	l, err := extensions(list)
	return &mls.ReInit{GroupID: groupID, Version: mls.MLS10, Suite: core.SuiteID(suite), Extensions: l}, err
}

func extensions(list []*pb.Extension) (mls.Extensions, error) {
	var l mls.Extensions
	for _, e := range list {
		t, err := codePoint(e.GetExtensionType())
		if err != nil {
			return nil, err
		}
		l = append(l, mls.Extension{Type: mls.ExtensionType(t), Data: e.GetExtensionData()})
	}
	return l, nil
}

// A described proposal depends on the group that it is for.
type described struct {
	suite   core.Suite
	groupID []byte
	leaf    func(identity []byte) (mls.LeafIndex, error)
}

// proposal makes what a description says. A ReInit has to travel on its own, so a
// commit does not carry one by value.
func (d described) proposal(p *pb.ProposalDescription, outside bool) (mls.Proposal, error) {
	switch kind := string(p.GetProposalType()); {
	case kind == "add":
		return newAdd(p.GetKeyPackage())
	case kind == "remove":
		leaf, err := d.leaf(p.GetRemovedId())
		return &mls.Remove{Removed: leaf}, err
	case kind == "externalPSK":
		return &mls.PreSharedKey{PSK: mls.PreSharedKeyID{
			Type: mls.PSKExternal, ID: p.GetPskId(), Nonce: nonce(d.suite),
		}}, nil
	case kind == "resumptionPSK":
		return &mls.PreSharedKey{PSK: mls.PreSharedKeyID{
			Type: mls.PSKResumption, Usage: mls.ResumptionApplication,
			GroupID: d.groupID, Epoch: p.GetEpochId(), Nonce: nonce(d.suite),
		}}, nil
	case kind == "groupContextExtensions":
		l, err := extensions(p.GetExtensions())
		return &mls.GroupContextExtensions{Extensions: l}, err
	case kind == "reinit" && outside:
		return newReInit(p.GetGroupId(), p.GetCipherSuite(), p.GetExtensions())
	default:
		return nil, invalid("proposal type %q", kind)
	}
}
