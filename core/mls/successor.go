// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// A group can be followed by another that its resumption PSK ties to it: the
// re-initialised group, with the same members and other parameters (RFC 9420
// section 11.2), and a branch, with some of the members (section 11.3).

// SuccessorParams says what the group that follows shall be.
type SuccessorParams struct {
	GroupID        []byte        // of a branch; a ReInit says it itself
	Extensions     Extensions    // of the GroupContext of a branch; likewise
	KeyPackages    []*KeyPackage // of all other members, or of those that the branch has
	Signer         core.Signer   // ours, of the new suite
	Credential     core.Credential
	Capabilities   Capabilities
	LeafExtensions Extensions
	Lifetime       Lifetime
	ForcePath      bool
	OmitTree       bool // see CommitParams
	Config         Config
}

// Reinitialize makes the group that the ReInit of a commit asked for (RE-2). Any
// member may do it, whoever committed (RE-3). The result is the new group in
// epoch 0, with nobody but us, and the pending commit that begins epoch 1 and adds
// all others: its Welcome is what they wait for, its commit is for nobody. Merge it
// into the new group; the others need [JoinParams].Predecessor to join, and look at
// [Joined].Follows.
//
// It is core.ErrDenied if no commit has ended the group with a ReInit.
func (g *Group) Reinitialize(ctx context.Context, env *Env, p SuccessorParams) (_ *Group, _ *PendingCommit, _ *record.WriteSet, err error) {
	defer tooLarge(&err)
	if g.reinit == nil {
		return nil, nil, nil, fmt.Errorf("mls: no commit has re-initialised the group: %w", core.ErrDenied)
	}
	if err := g.reinit.canFollow(env); err != nil {
		return nil, nil, nil, err
	}
	p.GroupID, p.Extensions = g.reinit.GroupID, g.reinit.Extensions
	return g.succeed(ctx, env, ResumptionReInit, g.reinit.Suite, p)
}

// canFollow is core.ErrUnsupported for a ReInit to a version or suite that we do not
// have. Such a one ends the group for us, so we neither propose nor commit it.
func (r *ReInit) canFollow(env *Env) error {
	if r.Version != MLS10 {
		return fmt.Errorf("mls: protocol version %d: %w", r.Version, core.ErrUnsupported)
	}
	_, err := env.Suites.Suite(r.Suite)
	return err
}

// Branch makes a group of some of our members, with the same version and suite
// (RE-5). The result is like that of Reinitialize; the old group goes on. Of a group
// that has ended, or that we are not in any more, it is [ErrInactive].
func (g *Group) Branch(ctx context.Context, env *Env, p SuccessorParams) (_ *Group, _ *PendingCommit, _ *record.WriteSet, err error) {
	defer tooLarge(&err)
	if !g.active {
		return nil, nil, nil, ErrInactive
	}
	return g.succeed(ctx, env, ResumptionBranch, g.context.Suite, p)
}

func (g *Group) succeed(ctx context.Context, env *Env, usage ResumptionUsage, suiteID core.SuiteID, p SuccessorParams) (*Group, *PendingCommit, *record.WriteSet, error) {
	if err := g.tree.needAll(ctx, env.Fetch); err != nil {
		return nil, nil, nil, err
	}
	suite, err := env.Suites.Suite(suiteID) // CS-6
	if err != nil {
		return nil, nil, nil, err
	}
	env = env.operation()
	next, ws, err := Create(ctx, env, CreateParams{
		Suite: suite, GroupID: p.GroupID, Signer: p.Signer, Credential: p.Credential, Capabilities: p.Capabilities,
		LeafExtensions: p.LeafExtensions, Extensions: p.Extensions, Lifetime: p.Lifetime, Config: p.Config,
	})
	if err != nil {
		return nil, nil, nil, err
	}
	id := PreSharedKeyID{
		Type: PSKResumption, Usage: usage, GroupID: g.context.GroupID, Epoch: g.context.Epoch,
		Nonce: randomBytes(suite.Parameters().Nh), // PSK-1: of the new suite
	}
	var list proposalList
	for _, k := range p.KeyPackages {
		add := &Add{KeyPackage: k}
		if err := next.checkProposal(env, add, next.me()); err != nil {
			return nil, nil, nil, err
		}
		list = append(list, sentProposal{proposal: add, sender: next.me()})
	}
	list = append(list, sentProposal{proposal: &PreSharedKey{PSK: id}, sender: next.me()})
	if err := list.checkList(env, next.tree, next.own); err != nil {
		return nil, nil, nil, err
	}
	initial := *env // of the new group, which has nothing stored
	initial.Signer = func(context.Context, []byte) (core.Signer, error) { return p.Signer, nil }
	initial.PSK = func(context.Context, PreSharedKeyID) (core.Secret, error) { return g.secrets.resumption.Clone(), nil }
	b := &commitBuilder{g: next, env: &initial, list: list, keys: next.keys, params: CommitParams{ForcePath: p.ForcePath, OmitTree: p.OmitTree}}
	next, pending, more, err := b.build(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := checkSubset(env, usage.rule(), pending.tree, g.tree); err != nil {
		return nil, nil, nil, err
	}
	if usage == ResumptionReInit {
		if err := checkSubset(env, usage.rule(), g.tree, pending.tree); err != nil {
			return nil, nil, nil, err
		}
	}
	ws.Follow(more)
	return next, pending, ws, nil
}

// A predecessor is the group of ours that a Welcome refers to.
type predecessor struct {
	g   *Group
	env *Env
	id  PreSharedKeyID
}

// findPredecessor finds the group that a PSK of a Welcome comes from, and the PSK.
func (p *JoinParams) findPredecessor(ctx context.Context, id PreSharedKeyID) (*predecessor, core.Secret, error) {
	if p.Predecessor == nil {
		return nil, core.Secret{}, fmt.Errorf("mls: Welcome to the successor of another group: %w", core.ErrUnsupported)
	}
	g, env, err := p.Predecessor(ctx, id.GroupID)
	if err != nil {
		return nil, core.Secret{}, missingPSK(err)
	}
	if g == nil {
		return nil, core.Secret{}, ErrMissingPSK
	}
	secret, ok := g.ResumptionPSK(id.Epoch)
	if !ok { // perhaps the commit with the ReInit is still to come
		return nil, core.Secret{}, ErrMissingPSK
	}
	return &predecessor{g, env, id}, secret, nil
}

// check compares a group that is entered with the one before it (RE-2, RE-5).
func (p *predecessor) check(ctx context.Context, env *Env, gc *GroupContext, t *tree) error {
	rule := p.id.Usage.rule()
	if gc.Epoch != 1 {
		return breach(rule, "a successor is entered in epoch 1, not in %d", gc.Epoch)
	}
	if p.id.Usage == ResumptionReInit {
		r := p.g.reinit
		if r == nil || p.id.Epoch != p.g.context.Epoch {
			return breach(rule, "the group was not re-initialised in epoch %d", p.id.Epoch)
		}
		if !bytes.Equal(gc.GroupID, r.GroupID) || gc.Version != r.Version || gc.Suite != r.Suite || !gc.Extensions.equal(r.Extensions) {
			return breach(rule, "the group is not what its ReInit says")
		}
		if err := p.g.tree.needAll(ctx, p.env.Fetch); err != nil {
			return err
		}
		return checkSubset(env, rule, p.g.tree, t)
	}
	if gc.Version != p.g.context.Version || gc.Suite != p.g.context.Suite {
		return breach(rule, "a branch has the version and suite of its group")
	}
	before, err := p.g.treeOf(ctx, p.env, p.id.Epoch)
	if err != nil {
		return err
	}
	return checkSubset(env, rule, t, before)
}

// treeOf returns the whole tree of an epoch that is kept.
func (g *Group) treeOf(ctx context.Context, env *Env, epoch uint64) (*tree, error) {
	t := g.tree
	if epoch != g.context.Epoch {
		if epoch < g.oldest {
			return nil, fmt.Errorf("members of epoch %d: %w", epoch, ErrTooOld)
		}
		past, err := g.pastEpoch(ctx, env, epoch)
		if err != nil {
			return nil, err
		}
		t = past.tree
	}
	return t, t.needAll(ctx, env.Fetch)
}

// rule is the number under which a successor of this kind is refused.
func (u ResumptionUsage) rule() string {
	if u == ResumptionReInit {
		return "RE-2"
	}
	return "RE-5"
}

// checkSubset makes sure that each client of one group is in the other, as the
// Authenticator reads their credentials.
func checkSubset(env *Env, rule string, of, in *tree) error {
	clients := map[core.Identity]bool{}
	for _, n := range in.leaves() {
		id, err := env.identity(n)
		if err != nil {
			return err
		}
		clients[id] = true
	}
	for i, n := range of.leaves() {
		id, err := env.identity(n)
		if err != nil {
			return err
		}
		if !clients[id] {
			return breach(rule, "the client at leaf %d is not in the other group", i)
		}
	}
	return nil
}
