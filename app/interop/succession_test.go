// SPDX-License-Identifier: Apache-2.0

package interop_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"

	pb "github.com/conclave-mls/conclave/app/interop/mlsclient"
	"github.com/conclave-mls/conclave/core/mls"
)

// A reinit ends the group and goes on with the one that follows.
type reinit struct {
	proposer, committer, welcomer string // no proposer: an external proposal waits
	to                            *successor
	forcePath, externalTree       bool
}

// A successor is what a ReInit asks for.
type successor struct {
	changeSuite, changeID bool
	extensions            []*pb.Extension
}

// decide makes it definite for the group at hand.
func (s *successor) decide(p *play) (suite uint32, groupID []byte) {
	suite, groupID = p.suite, p.groupID
	if s.changeSuite {
		suite = p.suite%7 + 1
	}
	if s.changeID {
		groupID = append(groupID[:len(groupID):len(groupID)], "++"...)
	}
	return suite, groupID
}

// value is for an external signer.
func (s *successor) value() value {
	return func(p *play) *pb.ProposalDescription {
		suite, groupID := s.decide(p)
		return &pb.ProposalDescription{ProposalType: []byte("reinit"), GroupId: groupID, CipherSuite: suite, Extensions: s.extensions}
	}
}

func (r reinit) step() step { return step{"re-initialise", r.do} }

func (r reinit) do(p *play) error {
	suite, groupID := r.to.decide(p)
	if r.proposer != "" {
		resp, err := p.client(r.proposer).ReInitProposal(p.ctx, &pb.ReInitProposalRequest{
			StateId: p.states[r.proposer], CipherSuite: suite, GroupId: groupID, Extensions: r.to.extensions,
		})
		if err != nil {
			return fmt.Errorf("propose: %w", err)
		}
		if err := p.propose(resp.GetProposal(), false); err != nil {
			return err
		}
	}
	proposals := p.proposals
	c, err := p.client(r.committer).ReInitCommit(p.ctx, &pb.CommitRequest{StateId: p.states[r.committer], ByReference: proposals})
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	ids, keyPackages := map[string]uint32{}, map[string][]byte{}
	ended := func(name string, resp *pb.HandleReInitCommitResponse) error {
		ids[name], keyPackages[name] = resp.GetReinitId(), resp.GetKeyPackage()
		return p.agree(name, resp.GetEpochAuthenticator())
	}
	merged, err := p.client(r.committer).HandlePendingReInitCommit(p.ctx, &pb.HandlePendingCommitRequest{StateId: p.states[r.committer]})
	if err != nil {
		return fmt.Errorf("merge: %w", err)
	}
	if err := p.begin(merged.GetEpochAuthenticator()); err != nil {
		return err
	}
	if err := ended(r.committer, merged); err != nil {
		return err
	}
	for _, name := range p.others(r.committer) {
		resp, err := p.client(name).HandleReInitCommit(p.ctx, &pb.HandleCommitRequest{StateId: p.states[name], Proposal: proposals, Commit: c.GetCommit()})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := ended(name, resp); err != nil {
			return err
		}
	}
	req := &pb.ReInitWelcomeRequest{ReinitId: ids[r.welcomer], ForcePath: r.forcePath, ExternalTree: r.externalTree}
	for _, name := range p.others(r.welcomer) {
		req.KeyPackage = append(req.KeyPackage, keyPackages[name])
	}
	welcome, err := p.client(r.welcomer).ReInitWelcome(p.ctx, req)
	if err != nil {
		return fmt.Errorf("welcome: %w", err)
	}
	p.suite, p.groupID = suite, groupID
	err = p.follow(r.welcomer, p.others(r.welcomer), welcome, r.externalTree, func(name string, tree []byte) (uint32, []byte, error) {
		resp, err := p.client(name).HandleReInitWelcome(p.ctx, &pb.HandleReInitWelcomeRequest{ReinitId: ids[name], Welcome: welcome.GetWelcome(), RatchetTree: tree})
		return resp.GetStateId(), resp.GetEpochAuthenticator(), err
	})
	if err != nil {
		return err
	}
	return p.isGroup(r.welcomer, r.to.extensions, r.forcePath)
}

// A branch goes on with some of the members, in a group of their own.
type branch struct {
	creator                 string
	others                  []string
	extensions              []*pb.Extension
	forcePath, externalTree bool
}

func (b branch) step() step { return step{"branch", b.do} }

func (b branch) do(p *play) error {
	p.groupID = randomID()
	req := &pb.CreateBranchRequest{
		StateId: p.states[b.creator], GroupId: p.groupID, Extensions: b.extensions,
		ForcePath: b.forcePath, ExternalTree: b.externalTree,
	}
	for _, name := range b.others {
		if err := keyPackage(name).do(p); err != nil {
			return err
		}
		req.KeyPackages = append(req.KeyPackages, p.keyPackages[name])
	}
	welcome, err := p.client(b.creator).CreateBranch(p.ctx, req)
	if err != nil {
		return err
	}
	err = p.follow(b.creator, b.others, welcome, b.externalTree, func(name string, tree []byte) (uint32, []byte, error) {
		resp, err := p.client(name).HandleBranch(p.ctx, &pb.HandleBranchRequest{
			StateId: p.states[name], TransactionId: p.transaction[name], Welcome: welcome.GetWelcome(), RatchetTree: tree,
		})
		return resp.GetStateId(), resp.GetEpochAuthenticator(), err
	})
	if err != nil {
		return err
	}
	return p.isGroup(b.creator, b.extensions, b.forcePath)
}

// follow has everybody leave the group for the one that follows it.
func (p *play) follow(creator string, others []string, created *pb.CreateSubgroupResponse, externalTree bool, join func(name string, tree []byte) (state uint32, auth []byte, err error)) error {
	if err := externally(externalTree, created.GetRatchetTree()); err != nil {
		return err
	}
	if err := p.begin(created.GetEpochAuthenticator()); err != nil {
		return err
	}
	p.epoch = 1
	states := map[string]uint32{creator: created.GetStateId()}
	for _, name := range others {
		if externalTree {
			if _, _, err := join(name, nil); err == nil {
				return fmt.Errorf("%s joins without the external tree", name)
			}
		}
		id, auth, err := join(name, created.GetRatchetTree())
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := p.agree(name, auth); err != nil {
			return err
		}
		states[name] = id
	}
	p.states, p.members = states, append([]string{creator}, others...)
	return nil
}

// isGroup compares the group that everybody is in now with what was asked for.
func (p *play) isGroup(creator string, list []*pb.Extension, path bool) error {
	info, err := p.groupInfo(creator, true)
	if err != nil {
		return err
	}
	m, err := mls.UnmarshalMLSMessage(info.GetGroupInfo())
	if err != nil {
		return err
	}
	gc := m.GroupInfo.GroupContext
	if uint32(gc.Suite) != p.suite || !bytes.Equal(gc.GroupID, p.groupID) {
		return fmt.Errorf("suite %v and group id %x, want %d and %x", gc.Suite, gc.GroupID, p.suite, p.groupID)
	}
	same := slices.EqualFunc(gc.Extensions, list, func(have mls.Extension, want *pb.Extension) bool {
		return uint32(have.Type) == want.GetExtensionType() && bytes.Equal(have.Data, want.GetExtensionData())
	})
	if !same {
		return fmt.Errorf("extensions %v, want %v", gc.Extensions, list)
	}
	tree, err := mls.UnmarshalRatchetTree(info.GetRatchetTree())
	if err != nil {
		return err
	}
	if refreshed := tree[0].Leaf.Source == mls.LeafCommit; refreshed != path {
		return fmt.Errorf("the creator's commit has a path: %v, want %v", refreshed, path)
	}
	return nil
}

// RE-2: a group that ended with a ReInit goes on in the one that was asked for, and
// not in a branch that somebody made of it while the ReInit was on its way.
func TestBranchIsNoReInit(t *testing.T) {
	t.Parallel()
	p := together(t, false)
	ctx, c := t.Context(), p.client("alice")
	alice, bob, carol := p.states["alice"], p.states["bob"], p.states["carol"]
	asked, err := c.ReInitProposal(ctx, &pb.ReInitProposalRequest{StateId: bob, CipherSuite: 1, GroupId: []byte("next")})
	must(t, err)
	proposals := [][]byte{asked.GetProposal()}
	commit, err := c.ReInitCommit(ctx, &pb.CommitRequest{StateId: bob, ByReference: proposals})
	must(t, err)
	ended, err := c.HandleReInitCommit(ctx, &pb.HandleCommitRequest{StateId: alice, Proposal: proposals, Commit: commit.GetCommit()})
	must(t, err)
	branch, err := c.CreateBranch(ctx, &pb.CreateBranchRequest{StateId: carol, GroupId: []byte("next"), KeyPackages: [][]byte{ended.GetKeyPackage()}})
	must(t, err)
	_, err = c.HandleReInitWelcome(ctx, &pb.HandleReInitWelcomeRequest{ReinitId: ended.GetReinitId(), Welcome: branch.GetWelcome()})
	wantCode(t, "a branch without bob", err, codes.InvalidArgument)
}
