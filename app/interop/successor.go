// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"context"

	pb "github.com/conclave-mls/conclave/app/interop/mlsclient"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// An ended member waits, with a key package, for the group that follows one that
// was re-initialised, or makes it.
type ended struct {
	*transaction
	before *state
}

func (s *service) ReInitCommit(ctx context.Context, req *pb.CommitRequest) (*pb.CommitResponse, error) {
	st, err := find[*state](&s.handles, req.GetStateId())
	if err != nil {
		return nil, err
	}
	return st.commit(ctx, req, true)
}

func (s *service) HandlePendingReInitCommit(ctx context.Context, req *pb.HandlePendingCommitRequest) (*pb.HandleReInitCommitResponse, error) {
	return s.end(ctx, req.GetStateId(), func(st *state) error {
		return st.merge(ctx, true)
	})
}

func (s *service) HandleReInitCommit(ctx context.Context, req *pb.HandleCommitRequest) (*pb.HandleReInitCommitResponse, error) {
	return s.end(ctx, req.GetStateId(), func(st *state) error {
		_, err := st.handle(ctx, req, true)
		return err
	})
}

// end has a commit end a group and makes the key package for the next.
func (s *service) end(ctx context.Context, stateID uint32, commit func(*state) error) (*pb.HandleReInitCommitResponse, error) {
	st, err := find[*state](&s.handles, stateID)
	if err != nil {
		return nil, err
	}
	if err := commit(st); err != nil {
		return nil, err
	}
	suite, err := s.software.Suite(st.group.ReInit().Suite)
	if err != nil {
		return nil, err
	}
	t, err := s.newTransaction(ctx, suite, st.identity)
	if err != nil {
		return nil, err
	}
	return &pb.HandleReInitCommitResponse{
		ReinitId: s.handles.add(&ended{t, st}), KeyPackage: t.message(),
		EpochAuthenticator: st.group.EpochAuthenticator(),
	}, nil
}

func (s *service) ReInitWelcome(ctx context.Context, req *pb.ReInitWelcomeRequest) (*pb.CreateSubgroupResponse, error) {
	e, err := find[*ended](&s.handles, req.GetReinitId())
	if err != nil {
		return nil, err
	}
	m := e.before.again(e.signer)
	p, err := s.successor(m, e.before, req.GetKeyPackage())
	if err != nil {
		return nil, err
	}
	p.ForcePath, p.OmitTree = req.GetForcePath(), req.GetExternalTree()
	resp, err := s.found(ctx, m, p.OmitTree)(e.before.group.Reinitialize(ctx, e.before.env(), p))
	if err != nil {
		return nil, err
	}
	s.handles.drop(req.GetReinitId())
	return resp, nil
}

func (s *service) HandleReInitWelcome(ctx context.Context, req *pb.HandleReInitWelcomeRequest) (*pb.JoinGroupResponse, error) {
	e, err := find[*ended](&s.handles, req.GetReinitId())
	if err != nil {
		return nil, err
	}
	st, err := e.join(ctx, welcomeParams{
		welcome: req.GetWelcome(), tree: req.GetRatchetTree(), config: e.before.group.Config(),
		before: e.before, follows: mls.ResumptionReInit,
	})
	if err != nil {
		return nil, err
	}
	s.handles.drop(req.GetReinitId())
	return &pb.JoinGroupResponse{StateId: s.handles.add(st), EpochAuthenticator: st.group.EpochAuthenticator()}, nil
}

func (s *service) CreateBranch(ctx context.Context, req *pb.CreateBranchRequest) (*pb.CreateSubgroupResponse, error) {
	st, err := find[*state](&s.handles, req.GetStateId())
	if err != nil {
		return nil, err
	}
	suite, err := s.software.Suite(st.group.Suite())
	if err != nil {
		return nil, err
	}
	signer, err := s.newSigner(ctx, suite)
	if err != nil {
		return nil, err
	}
	m := st.again(signer)
	p, err := s.successor(m, st, req.GetKeyPackages())
	if err != nil {
		return nil, err
	}
	p.GroupID = req.GetGroupId()
	if p.Extensions, err = extensions(req.GetExtensions()); err != nil {
		return nil, err
	}
	p.ForcePath, p.OmitTree = req.GetForcePath(), req.GetExternalTree()
	return s.found(ctx, m, p.OmitTree)(st.group.Branch(ctx, st.env(), p))
}

func (s *service) HandleBranch(ctx context.Context, req *pb.HandleBranchRequest) (*pb.HandleBranchResponse, error) {
	before, err := find[*state](&s.handles, req.GetStateId())
	if err != nil {
		return nil, err
	}
	t, err := find[*transaction](&s.handles, req.GetTransactionId())
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(t.identity, before.identity) {
		return nil, invalid("the key package is another client's")
	}
	st, err := t.join(ctx, welcomeParams{
		welcome: req.GetWelcome(), tree: req.GetRatchetTree(), config: before.group.Config(),
		before: before, follows: mls.ResumptionBranch,
	})
	if err != nil {
		return nil, err
	}
	s.handles.drop(req.GetTransactionId())
	return &pb.HandleBranchResponse{StateId: s.handles.add(st), EpochAuthenticator: st.group.EpochAuthenticator()}, nil
}

// successor is what any group that follows another has; the rest is the caller's.
func (s *service) successor(m member, before *state, keyPackages [][]byte) (p mls.SuccessorParams, err error) {
	p = mls.SuccessorParams{
		Signer: m.signer, Credential: m.credential(), Capabilities: s.capabilities(),
		Lifetime: lifetime(), Config: before.group.Config(), // encrypted handshakes are inherited
	}
	for _, message := range keyPackages {
		kp, err := unwrap(message, keyPackageOf)
		if err != nil {
			return p, err
		}
		p.KeyPackages = append(p.KeyPackages, kp)
	}
	return p, nil
}

// found goes on with a group that follows another: at once, because its first
// commit is for nobody.
func (s *service) found(ctx context.Context, m member, externalTree bool) func(*mls.Group, *mls.PendingCommit, *record.WriteSet, error) (*pb.CreateSubgroupResponse, error) {
	return func(g *mls.Group, pending *mls.PendingCommit, ws *record.WriteSet, err error) (*pb.CreateSubgroupResponse, error) {
		if err != nil {
			return nil, err
		}
		st := newState(m)
		st.set(g, ws)
		bundle, err := pending.Bundle(ctx, st.env(), g)
		if err != nil {
			return nil, err
		}
		st.pending = pending
		if err := st.merge(ctx, false); err != nil {
			return nil, err
		}
		resp := &pb.CreateSubgroupResponse{Welcome: bundle.Welcome, EpochAuthenticator: st.group.EpochAuthenticator()}
		if externalTree {
			if resp.RatchetTree, err = st.group.RatchetTree(ctx, st.env()); err != nil {
				return nil, err
			}
		}
		resp.StateId = s.handles.add(st)
		return resp, nil
	}
}
