// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"context"
	"fmt"

	pb "github.com/conclave-mls/conclave/app/interop/mlsclient"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

func (s *service) Commit(ctx context.Context, req *pb.CommitRequest) (*pb.CommitResponse, error) {
	st, err := find[*state](&s.handles, req.GetStateId())
	if err != nil {
		return nil, err
	}
	return st.commit(ctx, req, false)
}

// commit makes the pending commit of exactly the proposals of the request.
func (st *state) commit(ctx context.Context, req *pb.CommitRequest, reinit bool) (*pb.CommitResponse, error) {
	refs := map[string]bool{}
	for _, message := range req.GetByReference() {
		ref, err := st.take(ctx, message)
		if err != nil {
			return nil, fmt.Errorf("proposal by reference: %w", err)
		}
		refs[string(ref)] = true
	}
	suite, err := st.software.Suite(st.group.Suite())
	if err != nil {
		return nil, err
	}
	d := described{suite: suite, groupID: st.group.GroupID(), leaf: func(identity []byte) (mls.LeafIndex, error) {
		return st.memberLeaf(ctx, identity)
	}}
	var byValue []mls.Proposal
	for _, description := range req.GetByValue() {
		p, err := d.proposal(description, false)
		if err != nil {
			return nil, fmt.Errorf("proposal by value: %w", err)
		}
		byValue = append(byValue, p)
	}
	return st.commitExactly(ctx, refs, mls.CommitParams{
		Proposals: byValue, ForcePath: req.GetForcePath(), OmitTree: req.GetExternalTree(),
	}, reinit)
}

// commitExactly covers the proposals that are named and no others: those stay where
// they are, in case somebody else's commit covers them.
func (st *state) commitExactly(ctx context.Context, refs map[string]bool, p mls.CommitParams, reinit bool) (*pb.CommitResponse, error) {
	env := st.env()
	from, left := st.group, 0
	for waiting, err := range st.group.PendingProposals(ctx, env) {
		if err != nil {
			return nil, err
		}
		if refs[string(waiting.Ref)] {
			continue
		}
		if from, _, err = from.DropProposal(ctx, env, waiting.Ref); err != nil {
			return nil, err
		}
		left++
	}
	g, pending, ws, err := from.Commit(ctx, env, p)
	if err != nil {
		return nil, err
	}
	if err := covers(pending, refs, p.Proposals); err != nil {
		return nil, err
	}
	if err := st.checkKind(reInitOf(pending.Proposals()), reinit); err != nil {
		return nil, err
	}
	bundle, err := pending.Bundle(ctx, env, g)
	if err != nil {
		return nil, err
	}
	resp := &pb.CommitResponse{Commit: bundle.Commit, Welcome: bundle.Welcome}
	if p.OmitTree {
		next, _, _, err := g.Merge(ctx, env, pending) // only to look at
		if err != nil {
			return nil, err
		}
		if resp.RatchetTree, err = next.RatchetTree(ctx, env); err != nil {
			return nil, err
		}
	}
	st.set(g, ws)
	if left > 0 { // the records have them still
		if st.group, err = mls.Load(st.software, st.records[mls.RecordHeader][0].Value); err != nil {
			return nil, err
		}
	}
	st.pending = pending
	return resp, nil
}

// covers compares what a commit covers with what it was to cover: the engine leaves
// out what could not be committed, such as our own updates.
func covers(pending *mls.PendingCommit, refs map[string]bool, byValue []mls.Proposal) error {
	if left := len(refs) + len(byValue) - len(pending.Proposals()); left != 0 {
		return fmt.Errorf("%d of %d proposals cannot be committed by this member: %w", left, len(refs), core.ErrConflict)
	}
	return nil
}

// errOtherCalls: the driver has mixed the two kinds of commits up.
var errOtherCalls = invalid("commits of a ReInit have calls of their own")

// reInitOf is the ReInit of a commit, which is alone in it; nil if it has none.
func reInitOf(list []mls.ReceivedProposal) *mls.ReInit {
	if len(list) != 1 {
		return nil
	}
	r, _ := list[0].Proposal.(*mls.ReInit)
	return r
}

// checkKind checks, before a commit is made or followed, that the driver knows
// whether it ends the group, and that we can go on in the group that comes next.
func (st *state) checkKind(r *mls.ReInit, reinit bool) error {
	if (r != nil) != reinit {
		return errOtherCalls
	}
	if r == nil {
		return nil
	}
	_, err := st.software.Suite(r.Suite)
	return err
}

func (s *service) HandlePendingCommit(ctx context.Context, req *pb.HandlePendingCommitRequest) (*pb.HandleCommitResponse, error) {
	st, err := find[*state](&s.handles, req.GetStateId())
	if err != nil {
		return nil, err
	}
	if err := st.merge(ctx, false); err != nil {
		return nil, err
	}
	return &pb.HandleCommitResponse{StateId: req.GetStateId(), EpochAuthenticator: st.group.EpochAuthenticator()}, nil
}

func (st *state) merge(ctx context.Context, reinit bool) error {
	if st.pending == nil {
		return fmt.Errorf("pending commit: %w", core.ErrNotFound)
	}
	if err := st.checkKind(reInitOf(st.pending.Proposals()), reinit); err != nil {
		return err
	}
	g, _, ws, err := st.group.Merge(ctx, st.env(), st.pending)
	if err != nil {
		return err
	}
	st.set(g, ws)
	return nil
}

// HandleCommit of a commit that removes the member itself answers without an epoch
// authenticator: the state cannot follow, and stays behind to be freed.
func (s *service) HandleCommit(ctx context.Context, req *pb.HandleCommitRequest) (*pb.HandleCommitResponse, error) {
	st, err := find[*state](&s.handles, req.GetStateId())
	if err != nil {
		return nil, err
	}
	removed, err := st.handle(ctx, req, false)
	if err != nil {
		return nil, err
	}
	resp := &pb.HandleCommitResponse{StateId: req.GetStateId()}
	if !removed {
		resp.EpochAuthenticator = st.group.EpochAuthenticator()
	}
	return resp, nil
}

// handle enters the epoch that a commit begins, somebody else's or our own.
func (st *state) handle(ctx context.Context, req *pb.HandleCommitRequest, reinit bool) (removed bool, err error) {
	for _, message := range req.GetProposal() {
		if _, err := st.take(ctx, message); err != nil {
			return false, fmt.Errorf("proposal: %w", err)
		}
	}
	if st.pending != nil && bytes.Equal(st.pending.Message(), req.GetCommit()) {
		return false, st.merge(ctx, reinit)
	}
	m, err := mls.UnmarshalMLSMessage(req.GetCommit())
	if err != nil {
		return false, err
	}
	g, result, ws, err := st.group.Process(ctx, st.env(), m)
	if err != nil {
		return false, err
	}
	c, ok := result.(*mls.ReceivedCommit)
	if !ok {
		return false, invalid("a message that is no commit")
	}
	if err := st.checkKind(c.ReInit, reinit); err != nil {
		return false, err
	}
	st.set(g, ws)
	return c.SelfRemoved, nil
}
