// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"errors"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// CommitParams says what a commit shall do beside covering the proposals that wait.
type CommitParams struct {
	Proposals         []Proposal // by value
	ForcePath         bool       // refresh our own keys even if no proposal asks for it
	Leaf              LeafParams // a new credential or signature key forces a path (COM-6)
	AuthenticatedData []byte
	OmitTree          bool                // GroupInfo and Welcome come without the tree; see also Config
	NoReInit          bool                // leave a ReInit that waits out: it would end the group
	LeaveOut          func(Proposal) bool // of those that wait; nil: none
}

// Commit makes a commit over the given proposals and all that wait and may be
// committed by us. It returns the same epoch, with the handshake generation spent
// if commits travel as PrivateMessage, and the pending commit, which begins the
// next epoch when it is merged. Traffic of the epoch goes on meanwhile, from the
// returned value only (RFC 9420 section 12.4.1).
func (g *Group) Commit(ctx context.Context, env *Env, p CommitParams) (_ *Group, _ *PendingCommit, _ *record.WriteSet, err error) {
	defer tooLarge(&err)
	fail := func(err error) (*Group, *PendingCommit, *record.WriteSet, error) { return nil, nil, nil, err }
	env = env.operation()
	if !g.active {
		return fail(ErrInactive)
	}
	if err := g.tree.needAll(ctx, env.Fetch); err != nil {
		return fail(err)
	}
	store, err := g.loadProposals(ctx, env)
	if err != nil {
		return fail(err)
	}
	keys, err := g.loadKeys(ctx, env)
	if err != nil {
		return fail(err)
	}
	if err := g.checkProposals(env, p.Proposals, g.me()); err != nil {
		return fail(err)
	}
	list, ownUpdate, err := g.selectProposals(env, store, p)
	if err != nil {
		return fail(err)
	}
	if list, err = g.dropUnfit(ctx, env, list); err != nil {
		return fail(err)
	}
	b := &commitBuilder{g: g, env: env, list: list, params: p, keys: keys}
	adopted := false
	if ownUpdate != nil { // the intention of an own Update goes into the path
		b.params.ForcePath = true
		if adopted = p.Leaf.Credential == nil && p.Leaf.SignatureKey == nil; adopted {
			if err := b.adopt(ctx, ownUpdate); err != nil {
				return fail(err)
			}
		}
	}
	next, pending, ws, err := b.build(ctx)
	if rule := (*RuleError)(nil); adopted && errors.As(err, &rule) {
		b.params.Leaf = p.Leaf // like anybody's Update, it is left out if it does not fit
		return b.build(ctx)
	}
	return next, pending, ws, err
}

// A commitBuilder carries what the steps of one commit hand on.
type commitBuilder struct {
	g      *Group
	env    *Env
	list   proposalList
	params CommitParams
	keys   *privateKeys

	signer    core.Signer // of our current leaf
	newSigner core.Signer // of our leaf in the next epoch
	work      *tree
	added     []LeafIndex
	path      *createdPath // nil: no path
}

// adopt takes over what an own Update proposal says and the caller does not.
func (b *commitBuilder) adopt(ctx context.Context, leaf *LeafNode) error {
	leaf = leaf.withoutGrease()
	b.params.Leaf.Credential = &leaf.Credential
	if b.params.Leaf.Capabilities == nil {
		b.params.Leaf.Capabilities = &leaf.Capabilities
	}
	if b.params.Leaf.Extensions == nil {
		b.params.Leaf.Extensions = &leaf.Extensions
	}
	var err error
	b.params.Leaf.SignatureKey, err = b.env.signer(ctx, leaf.SignatureKey)
	return err
}

func (b *commitBuilder) build(ctx context.Context) (*Group, *PendingCommit, *record.WriteSet, error) {
	fail := func(err error) (*Group, *PendingCommit, *record.WriteSet, error) { return nil, nil, nil, err }
	g := b.g
	var err error
	if b.signer, err = b.env.signer(ctx, g.tree.leaf(g.own).SignatureKey); err != nil {
		return fail(err)
	}
	if b.newSigner = b.params.Leaf.SignatureKey; b.newSigner == nil {
		b.newSigner = b.signer
	}
	next := g.context
	next.Epoch++
	b.work = g.tree.edit()
	next.Extensions, b.added = b.list.apply(b.work, g.context.Extensions)
	commit := &Commit{}
	for _, p := range b.list {
		if len(p.ref) > 0 {
			commit.Proposals = append(commit.Proposals, ProposalOrRef{Reference: p.ref})
		} else {
			commit.Proposals = append(commit.Proposals, ProposalOrRef{Proposal: p.proposal})
		}
	}
	commitSecret := core.NewSecret(make([]byte, g.suite.Parameters().Nh)) // PATH-8
	var keys *privateKeys
	if b.list.pathRequired(b.env) || b.params.ForcePath || b.params.Leaf != (LeafParams{}) {
		if commit.Path, err = b.makePath(ctx, &next); err != nil {
			return fail(err)
		}
		commitSecret = b.path.commitSecret
		keys = &privateKeys{path: b.path.keys}
	} else {
		keys = &privateKeys{path: b.keys.path.kept(b.work)}
	}
	next.TreeHash = b.work.hash()
	fresh := b.list.freshLeaves(g.own, b.added, commit.Path != nil)
	if err := g.checkResult(b.work, &next, fresh); err != nil {
		return fail(err)
	}
	if commit.Path != nil {
		if err := commit.Path.LeafNode.checkMade(g.suite, LeafCommit); err != nil {
			return fail(err)
		}
		if err := b.env.authenticate(b.work.leaf(g.own), g.tree.leaf(g.own)); err != nil {
			return fail(err)
		}
	}
	psks, err := g.gatherPSKs(ctx, b.env, b.list.pskIDs())
	if err != nil {
		return fail(err)
	}
	psk, err := pskSecret(g.suite, psks)
	if err != nil {
		return fail(err)
	}
	content := g.content(b.params.AuthenticatedData)
	content.ContentType, content.Commit = ContentCommit, commit
	a, err := signFramedContent(ctx, b.signer, g.handshakeFormat(), content, g.contextBytes) // KS-8: the old context
	if err != nil {
		return fail(err)
	}
	joiner, secrets, err := advance(g.suite, &next, g.interim, a, g.secrets.init, commitSecret, psk)
	commitSecret.Wipe()
	if err != nil {
		return fail(err)
	}
	a.Auth.ConfirmationTag = secrets.confirmationTag(next.ConfirmedTranscriptHash)
	pending := &PendingCommit{
		epoch: g.context.Epoch, content: a, list: b.list, context: next,
		joiner: joiner, psk: psk, keys: keys, tree: b.work, added: b.added,
	}
	err = b.makeGroupInfo(ctx, pending, secrets)
	secrets.wipe() // Merge derives them again
	if b.path != nil {
		b.path.wipe()
	}
	if err != nil {
		return fail(err)
	}
	ws := &record.WriteSet{}
	g, pending.message, err = g.protect(ctx, b.env, a, ws)
	if err != nil {
		return fail(err)
	}
	ws.Put(RecordPending, nil, pending.record())
	return g, pending, ws, nil
}

// makePath refreshes our own path in the working tree (RFC 9420 section 7.5).
func (b *commitBuilder) makePath(ctx context.Context, next *GroupContext) (*UpdatePath, error) {
	current := b.g.tree.leaf(b.g.own)
	path, created, err := createPath(ctx, pathParams{
		suite: b.g.suite, tree: b.work, own: b.g.own, leaf: b.params.Leaf.template(b.env, current),
		signer: b.newSigner, groupID: b.g.context.GroupID, excluded: b.added, keys: b.keys.path,
		groupContext: func(treeHash []byte) []byte { // PATH-7: new tree hash and extensions, old transcript
			provisional := *next
			provisional.TreeHash = treeHash
			return marshal(&provisional)
		},
	})
	if err != nil {
		return nil, err
	}
	b.path = created
	return path, nil
}

// makeGroupInfo signs the GroupInfo of the new epoch with our leaf's new key
// (COM-6) and encrypts the group secrets to each joiner.
func (b *commitBuilder) makeGroupInfo(ctx context.Context, p *PendingCommit, secrets *epochSecrets) error {
	external, err := secrets.externalKeyPair() // KS-5
	if err != nil {
		return err
	}
	p.externalPub = external.Public()
	p.withTree = !b.g.config.TreeOutOfBand && !b.params.OmitTree
	p.grease = greaseOf(b.env)
	info := p.groupInfo(b.work, b.g.own)
	if info.Signature, err = signWithLabel(ctx, b.newSigner, "GroupInfoTBS", info.tbs()); err != nil {
		return err
	}
	p.infoSignature = info.Signature
	if len(b.added) == 0 {
		return nil
	}
	encrypted, err := p.encryptGroupInfo(b.g.suite, info)
	if err != nil {
		return err
	}
	encrypt := encryptWithLabel(b.g.suite, "Welcome", encrypted)
	adds := b.list.of(ProposalAdd)
	p.joiners, err = inParallel(len(b.added), func(i int) (EncryptedGroupSecrets, error) {
		kp := adds[i].proposal.(*Add).KeyPackage
		secrets := GroupSecrets{JoinerSecret: p.joiner, PSKs: b.list.pskIDs()}
		if b.path != nil {
			secrets.PathSecret = b.path.secretFor(b.added[i]) // PATH-3
		}
		plaintext := secrets.Marshal()
		defer clear(plaintext)
		ct, err := encrypt(kp.InitKey, plaintext)
		return EncryptedGroupSecrets{NewMember: kp.Ref(b.g.suite), Secrets: ct}, err
	})
	return err
}
