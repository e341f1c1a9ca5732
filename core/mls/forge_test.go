// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// What members and outsiders can make who do not keep the rules, for the tests
// outside this package.

// ForgeMessage frames a content that nobody has checked, from any sender, with a
// confirmation tag of the caller's choice. A member's is tagged or encrypted with
// the keys of g's epoch.
func ForgeMessage(ctx context.Context, env *Env, g *Group, wire WireFormat, from Sender, signer core.Signer, p Proposal, commit *Commit, tag []byte) ([]byte, error) {
	c := g.content(nil)
	c.Sender, c.ContentType, c.Proposal = from, ContentProposal, p
	if commit != nil {
		c.ContentType, c.Commit = ContentCommit, commit
	}
	a, err := signFramedContent(ctx, signer, wire, c, g.contextBytes)
	if err != nil {
		return nil, err
	}
	a.Auth.ConfirmationTag = tag
	_, message, err := g.protect(ctx, env, a, &record.WriteSet{})
	return message, err
}

// ForgeCommit is [Group.Commit] over exactly these proposals, which nobody has
// checked.
func ForgeCommit(ctx context.Context, env *Env, g *Group, proposals []Proposal) (*Group, *PendingCommit, *record.WriteSet, error) {
	if err := g.tree.needAll(ctx, env.Fetch); err != nil {
		return nil, nil, nil, err
	}
	keys, err := g.loadKeys(ctx, env)
	if err != nil {
		return nil, nil, nil, err
	}
	b := &commitBuilder{g: g, env: env, keys: keys}
	for _, p := range proposals {
		b.list = append(b.list, sentProposal{proposal: p, sender: Sender{Type: SenderMember, Leaf: g.own}})
	}
	return b.build(ctx)
}

// ForgeExternalCommit changes an external commit and signs it again.
func ForgeExternalCommit(ctx context.Context, g *Group, signer core.Signer, message []byte, change func(*Commit)) ([]byte, error) {
	m, err := UnmarshalMLSMessage(message)
	if err != nil {
		return nil, err
	}
	change(m.PublicMessage.Content.Commit)
	a, err := signFramedContent(ctx, signer, WirePublicMessage, m.PublicMessage.Content, g.contextBytes)
	if err != nil {
		return nil, err
	}
	m.PublicMessage.Auth.Signature = a.Auth.Signature
	return m.Marshal(), nil
}

// ForgeGroupInfo changes the GroupInfo of g and signs it again.
func ForgeGroupInfo(ctx context.Context, env *Env, g *Group, signer core.Signer, change func(*GroupInfo)) ([]byte, error) {
	message, err := g.GroupInfo(ctx, env, GroupInfoParams{})
	if err != nil {
		return nil, err
	}
	m, err := UnmarshalMLSMessage(message)
	if err != nil {
		return nil, err
	}
	change(m.GroupInfo)
	if m.GroupInfo.Signature, err = signWithLabel(ctx, signer, "GroupInfoTBS", m.GroupInfo.tbs()); err != nil {
		return nil, err
	}
	return m.Marshal(), nil
}

// ForgeKeyPackage signs a key package that was changed.
func ForgeKeyPackage(ctx context.Context, signer core.Signer, k *KeyPackage) (err error) {
	if err = k.LeafNode.sign(ctx, signer, nil, 0); err != nil {
		return err
	}
	k.Signature, err = signWithLabel(ctx, signer, "KeyPackageTBS", k.tbs())
	return err
}

// ForgeLeaf signs a leaf of source update that was changed, for g's own place.
func ForgeLeaf(ctx context.Context, signer core.Signer, g *Group, leaf *LeafNode) error {
	return leaf.sign(ctx, signer, g.context.GroupID, g.own)
}

// ForgeWelcome changes what a Welcome says, signs it and encrypts it again. The
// pending commit adds one member.
func ForgeWelcome(ctx context.Context, env *Env, g *Group, p *PendingCommit, signer core.Signer, changeInfo func(*GroupInfo), changeSecrets func([]byte) []byte) ([]byte, error) {
	t, added, err := p.apply(ctx, env, g)
	if err != nil {
		return nil, err
	}
	info := p.groupInfo(t, g.own)
	changeInfo(info)
	if info.Signature, err = signWithLabel(ctx, signer, "GroupInfoTBS", info.tbs()); err != nil {
		return nil, err
	}
	encrypted, err := p.encryptGroupInfo(g.suite, info)
	if err != nil {
		return nil, err
	}
	secrets := GroupSecrets{JoinerSecret: p.joiner, PSKs: p.list.pskIDs()}
	kp := p.list.of(ProposalAdd)[len(added)-1].proposal.(*Add).KeyPackage
	sealed, err := encryptWithLabel(g.suite, "Welcome", encrypted)(kp.InitKey, changeSecrets(secrets.Marshal()))
	if err != nil {
		return nil, err
	}
	w := &Welcome{Suite: g.context.Suite, EncryptedGroupInfo: encrypted,
		Secrets: []EncryptedGroupSecrets{{NewMember: kp.Ref(g.suite), Secrets: sealed}}}
	return (&MLSMessage{Welcome: w}).Marshal(), nil
}

// ForgeSuccessor re-initialises a group by a ReInit of the caller's choice (or
// branches from it, if that is nil), as if only the given leaves were members.
func ForgeSuccessor(ctx context.Context, env *Env, g *Group, r *ReInit, suite core.SuiteID, p SuccessorParams, members ...LeafIndex) (*Group, *PendingCommit, *record.WriteSet, error) {
	if err := g.tree.needAll(ctx, env.Fetch); err != nil {
		return nil, nil, nil, err
	}
	changed := *g
	changed.tree = g.tree.edit()
	for i := range g.tree.leaves() {
		if !slices.Contains(members, i) {
			changed.tree.removeLeaf(i)
		}
	}
	if r == nil {
		return changed.succeed(ctx, env, ResumptionBranch, suite, p)
	}
	changed.reinit = r
	return changed.Reinitialize(ctx, env, p)
}
