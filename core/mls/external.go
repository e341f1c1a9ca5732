// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// ExternalParams is what joining by an external commit needs beside the Env.
type ExternalParams struct {
	GroupInfo      *GroupInfo
	Tree           []byte // if the GroupInfo does not carry it
	Signer         core.Signer
	Credential     core.Credential
	Capabilities   Capabilities
	LeafExtensions Extensions
	PSKs           []PreSharedKeyID // external ones to mix in (EXT-8)
	Config         Config
	// Replace says which leaf of ours, if any, the commit removes: found in the
	// fetched tree, never by a stored index.
	Replace func(Member) bool
}

// JoinExternal enters a group without being invited (RFC 9420 section 12.4.3.2):
// it returns our view of the next epoch, which counts once the delivery service
// has accepted the commit. The commit is a PublicMessage whatever the policy.
func JoinExternal(ctx context.Context, env *Env, p ExternalParams) (_ *Group, _ []byte, _ *record.WriteSet, err error) {
	defer tooLarge(&err)
	fail := func(err error) (*Group, []byte, *record.WriteSet, error) { return nil, nil, nil, err }
	env = env.operation()
	suite, err := env.Suites.Suite(p.GroupInfo.GroupContext.Suite) // CS-6
	if err != nil {
		return fail(err)
	}
	t, err := openTree(env, suite, p.GroupInfo, p.Tree)
	if err != nil {
		return fail(err)
	}
	externalPub, ok, err := p.GroupInfo.Extensions.externalPub()
	if err != nil {
		return fail(err)
	}
	if !ok {
		return fail(fmt.Errorf("mls: the GroupInfo has no external_pub: %w", core.ErrUnsupported))
	}
	if err := suite.ValidatePublic(externalPub); err != nil {
		return fail(breach("CS-2", "external_pub: %v", err))
	}
	kemOutput, initSecret, err := externalInitSender(suite, externalPub)
	if err != nil {
		return fail(err)
	}
	list := proposalList{{proposal: &ExternalInit{KEMOutput: kemOutput}}}
	var replaced *LeafNode
	if p.Replace != nil {
		for i, n := range t.leaves() {
			if p.Replace(memberAt(i, n)) {
				list, replaced = append(list, sentProposal{proposal: &Remove{Removed: i}}), n
				break // EXT-2: at most one
			}
		}
	}
	var psks []PSK
	for _, id := range p.PSKs {
		if err := id.check(suite); err != nil {
			return fail(err)
		}
		secret, err := env.psk(ctx, id)
		if err != nil {
			return fail(missingPSK(err))
		}
		list = append(list, sentProposal{proposal: &PreSharedKey{PSK: id}})
		psks = append(psks, PSK{ID: id, Secret: secret})
	}
	if err := list.checkExternalList(); err != nil {
		return fail(err)
	}
	old := p.GroupInfo.GroupContext
	next := old
	next.Epoch++
	work := t.edit()
	list.apply(work, nil)

	leaf := &LeafNode{SignatureKey: p.Signer.Public(), Credential: p.Credential, Capabilities: p.Capabilities, Extensions: p.LeafExtensions}
	if env.Grease {
		leaf.grease()
	}
	own := work.reserveLeaf() // EXT-3
	path, created, err := createPath(ctx, pathParams{
		suite: suite, tree: work, own: own, leaf: leaf, signer: p.Signer, groupID: old.GroupID,
		groupContext: func(treeHash []byte) []byte {
			provisional := next
			provisional.TreeHash = treeHash
			return marshal(&provisional)
		},
	})
	if err != nil {
		return fail(err)
	}
	defer created.wipe()
	next.TreeHash = work.hash()
	if err := checkJoiner(env, suite, work, &next, own, replaced); err != nil {
		return fail(err)
	}
	commit := &Commit{Path: path}
	for _, s := range list {
		commit.Proposals = append(commit.Proposals, ProposalOrRef{Proposal: s.proposal})
	}
	content := &FramedContent{
		GroupID: old.GroupID, Epoch: old.Epoch, Sender: Sender{Type: SenderNewMemberCommit},
		ContentType: ContentCommit, Commit: commit,
	}
	a, err := signFramedContent(ctx, p.Signer, WirePublicMessage, content, marshal(&old))
	if err != nil {
		return fail(err)
	}
	interim := interimTranscriptHash(suite, old.ConfirmedTranscriptHash, p.GroupInfo.ConfirmationTag)
	psk, err := pskSecret(suite, psks)
	if err != nil {
		return fail(err)
	}
	joiner, secrets, err := advance(suite, &next, interim, a, initSecret, created.commitSecret, psk)
	if err != nil {
		return fail(err)
	}
	for _, s := range []core.Secret{initSecret, created.commitSecret, joiner, psk} {
		s.Wipe()
	}
	a.Auth.ConfirmationTag = secrets.confirmationTag(next.ConfirmedTranscriptHash)
	m, err := protectPublic(suite, core.Secret{}, nil, a)
	if err != nil {
		return fail(err)
	}
	ws := &record.WriteSet{}
	g := (&Group{suite: suite, config: p.Config}).enter(transition{
		tree: work, context: next, secrets: secrets, tag: a.Auth.ConfirmationTag,
		own: own, keys: &privateKeys{path: created.keys},
	}, ws)
	return g, (&MLSMessage{PublicMessage: m}).Marshal(), ws, nil
}

// GroupInfoMembers lists the members of a group that one might join, in leaf order, after the
// GroupInfo and its whole tree were checked as for a join; the tree is needed if the
// GroupInfo does not carry it.
func GroupInfoMembers(env *Env, info *GroupInfo, tree []byte) ([]Member, error) {
	suite, err := env.Suites.Suite(info.GroupContext.Suite)
	if err != nil {
		return nil, err
	}
	t, err := openTree(env.operation(), suite, info, tree)
	if err != nil {
		return nil, err
	}
	return t.members(), nil
}

// checkJoiner checks our own new leaf, and the one it replaces if there is one, as
// the members will.
func checkJoiner(env *Env, suite core.Suite, t *tree, gc *GroupContext, own LeafIndex, replaced *LeafNode) error {
	leaf := t.leaf(own)
	if err := leaf.checkMade(suite, LeafCommit); err != nil {
		return err
	}
	if err := checkContext(t, gc, own); err != nil {
		return err
	}
	if err := checkFreshKeys(t, []LeafIndex{own}); err != nil {
		return err
	}
	if err := env.authenticate(leaf, replaced); err != nil {
		return err
	}
	return checkNotIn(env, t, leaf, own)
}

// GroupInfoParams says what a GroupInfo leaves out.
type GroupInfoParams struct {
	OmitTree        bool // it travels out of band; see also Config
	OmitExternalPub bool // nobody can join by it from outside
}

// GroupInfo makes and signs the GroupInfo of the current epoch (EXT-9), as an
// MLSMessage.
func (g *Group) GroupInfo(ctx context.Context, env *Env, p GroupInfoParams) (_ []byte, err error) {
	defer tooLarge(&err)
	if !g.active {
		return nil, ErrInactive
	}
	if err := g.tree.needAll(ctx, env.Fetch); err != nil {
		return nil, err
	}
	var externalPub []byte
	if !p.OmitExternalPub {
		external, err := g.secrets.externalKeyPair()
		if err != nil {
			return nil, err
		}
		externalPub = external.Public()
	}
	info := newGroupInfo(g.context, g.tag, g.own, g.tree, !g.config.TreeOutOfBand && !p.OmitTree, externalPub, greaseOf(env))
	signer, err := env.signer(ctx, g.tree.leaf(g.own).SignatureKey)
	if err != nil {
		return nil, err
	}
	if info.Signature, err = signWithLabel(ctx, signer, "GroupInfoTBS", info.tbs()); err != nil {
		return nil, err
	}
	return (&MLSMessage{GroupInfo: info}).Marshal(), nil
}

// newGroupInfo is the one place where a GroupInfo is put together; externalPub is
// left out if it is nil.
func newGroupInfo(gc GroupContext, tag []byte, signer LeafIndex, t *tree, withTree bool, externalPub []byte, grease Extensions) *GroupInfo {
	info := &GroupInfo{GroupContext: gc, ConfirmationTag: bytes.Clone(tag), Signer: signer}
	if withTree {
		info.Extensions = append(info.Extensions, Extension{Type: ExtensionRatchetTree, Data: t.appendTo(nil)})
	}
	if externalPub != nil {
		info.Extensions = append(info.Extensions, Extension{Type: ExtensionExternalPub, Data: appendOpaque(nil, externalPub)})
	}
	info.Extensions = append(info.Extensions, grease...)
	return info
}
