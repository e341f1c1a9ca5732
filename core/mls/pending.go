// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// A PendingCommit is a commit of our own that nobody has accepted yet: an immutable
// value. With the group that made it, or what traffic has made of that group since,
// it gives the next epoch, and the messages to deliver; it is all that has to be
// stored.
type PendingCommit struct {
	epoch   uint64 // that it ends
	message []byte // MLSMessage, as it is sent
	content *AuthenticatedContent
	list    proposalList
	context GroupContext // of the next epoch
	joiner  core.Secret
	psk     core.Secret
	keys    *privateKeys // in the next epoch

	joiners       []EncryptedGroupSecrets
	externalPub   []byte     // of the next epoch
	withTree      bool       // GroupInfo carries the ratchet tree
	grease        Extensions // of the GroupInfo
	infoSignature []byte

	tree  *tree       // of the next epoch; nil if loaded: see apply
	added []LeafIndex // likewise
}

// Epoch is the epoch that the commit ends.
func (p *PendingCommit) Epoch() uint64 { return p.epoch }

// Message is the MLSMessage to send.
func (p *PendingCommit) Message() []byte { return bytes.Clone(p.message) }

// Added lists the leaves of the key packages that the commit adds.
func (p *PendingCommit) Added() (leaves []*LeafNode) {
	for _, a := range p.list.of(ProposalAdd) {
		leaves = append(leaves, a.proposal.(*Add).KeyPackage.LeafNode)
	}
	return leaves
}

// Proposals lists what the commit covers, by reference or by value.
func (p *PendingCommit) Proposals() (list []ReceivedProposal) {
	for _, s := range p.list {
		list = append(list, s.received())
	}
	return list
}

// HasPath reports whether the commit refreshes our own keys.
func (p *PendingCommit) HasPath() bool { return p.content.Content.Commit.Path != nil }

// PathLeaf is our leaf in the next epoch, nil without a path.
func (p *PendingCommit) PathLeaf() *LeafNode {
	if !p.HasPath() {
		return nil
	}
	return p.content.Content.Commit.Path.LeafNode
}

func (p *PendingCommit) record() []byte {
	b := appendU64([]byte{recordFormat}, p.epoch)
	b = appendOpaque(b, p.message)
	b = appendOpaque(b, marshal(p.content))
	b = appendList(b, p.list, func(s sentProposal, b []byte) []byte {
		return appendProposal(s.proposal, s.sender.append(appendOpaque(b, s.ref)))
	})
	b = appendOpaque(b, marshal(&p.context))
	b = appendOpaque(appendOpaque(b, p.joiner.Bytes()), p.psk.Bytes())
	b = p.keys.append(b)
	b = appendList(b, p.joiners, EncryptedGroupSecrets.append)
	b = appendPresent(appendOpaque(b, p.externalPub), p.withTree)
	b = p.grease.append(b)
	return appendOpaque(b, p.infoSignature)
}

// LoadPending decodes a RecordPending value.
func LoadPending(data []byte) (*PendingCommit, error) {
	p := &PendingCommit{content: &AuthenticatedContent{}}
	err := unmarshalRecord("pending commit", data, func(r *reader) {
		p.epoch = r.u64()
		p.message = r.opaque()
		r.within(r.opaque(), func(r *reader) {
			p.content.WireFormat = WireFormat(r.u16())
			p.content.Content = readFramedContent(r)
			p.content.Auth = readAuthData(r, p.content.Content.ContentType)
		})
		r.list(func(r *reader) {
			p.list = append(p.list, sentProposal{ref: r.opaque(), sender: readSender(r), proposal: readProposal(r)})
		})
		r.within(r.opaque(), func(r *reader) { p.context = readGroupContext(r) })
		p.joiner, p.psk = core.NewSecret(r.opaque()), core.NewSecret(r.opaque())
		p.keys = readPrivateKeys(r)
		r.list(func(r *reader) {
			p.joiners = append(p.joiners, EncryptedGroupSecrets{NewMember: r.opaque(), Secrets: readHPKECiphertext(r)})
		})
		p.externalPub = r.opaque()
		p.withTree = r.present()
		p.grease = readExtensions(r)
		p.infoSignature = r.opaque()
		if p.content.Content.Commit == nil {
			r.fail()
		}
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// apply returns the tree of the next epoch and the leaves that were added, made
// again from the group whose epoch the commit ends unless they are at hand.
func (p *PendingCommit) apply(ctx context.Context, env *Env, g *Group) (*tree, []LeafIndex, error) {
	fail := func(err error) (*tree, []LeafIndex, error) { return nil, nil, err }
	if g.context.Epoch != p.epoch {
		return fail(&EpochError{Message: p.epoch, Group: g.context.Epoch})
	}
	if err := g.tree.needAll(ctx, env.Fetch); err != nil {
		return fail(err)
	}
	if p.tree != nil {
		return p.tree, p.added, nil
	}
	work := g.tree.edit()
	_, added := p.list.apply(work, nil)
	if path := p.content.Content.Commit.Path; path != nil {
		if err := mergePublicPath(work, g.own, path, added); err != nil {
			return fail(err)
		}
	}
	if !bytes.Equal(work.hash(), p.context.TreeHash) {
		return fail(fmt.Errorf("pending commit of epoch %d: tree hash: %w", p.epoch, core.ErrDamaged))
	}
	return work, added, nil
}

// groupInfo rebuilds the GroupInfo of the next epoch, of which t is the tree.
func (p *PendingCommit) groupInfo(t *tree, own LeafIndex) *GroupInfo {
	info := newGroupInfo(p.context, p.content.Auth.ConfirmationTag, own, t, p.withTree, p.externalPub, p.grease)
	info.Signature = p.infoSignature
	return info
}

func (p *PendingCommit) encryptGroupInfo(suite core.Suite, info *GroupInfo) ([]byte, error) {
	aead, nonce, err := welcomeAEAD(suite, p.joiner, p.psk)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nonce.Bytes(), info.Marshal(), nil), nil
}

// A CommitBundle is what the delivery service gets: all MLSMessages. Welcome is
// empty if the commit adds nobody. With the tree out of band, the service needs
// [Group.RatchetTree] of the next epoch as well.
type CommitBundle struct {
	Commit, Welcome, GroupInfo []byte
}

// Bundle rebuilds the messages, byte for byte the same each time.
func (p *PendingCommit) Bundle(ctx context.Context, env *Env, g *Group) (_ CommitBundle, err error) {
	defer tooLarge(&err)
	t, _, err := p.apply(ctx, env, g)
	if err != nil {
		return CommitBundle{}, err
	}
	info := p.groupInfo(t, g.own)
	b := CommitBundle{Commit: p.Message(), GroupInfo: (&MLSMessage{GroupInfo: info}).Marshal()}
	if len(p.joiners) == 0 {
		return b, nil
	}
	encrypted, err := p.encryptGroupInfo(g.suite, info)
	if err != nil {
		return CommitBundle{}, err
	}
	b.Welcome = welcomeMessage(g.suite, encrypted, p.joiners...)
	return b, nil
}

// Welcomes is the bundle's Welcome divided: one for each leaf of Added, in its
// order, so that no joiner sees who else joins or carries what is for others (WEL-10).
func (p *PendingCommit) Welcomes(ctx context.Context, env *Env, g *Group) (_ [][]byte, err error) {
	defer tooLarge(&err)
	t, _, err := p.apply(ctx, env, g)
	if err != nil {
		return nil, err
	}
	encrypted, err := p.encryptGroupInfo(g.suite, p.groupInfo(t, g.own))
	if err != nil {
		return nil, err
	}
	var list [][]byte
	for _, j := range p.joiners {
		list = append(list, welcomeMessage(g.suite, encrypted, j))
	}
	return list, nil
}

func welcomeMessage(suite core.Suite, encryptedGroupInfo []byte, joiners ...EncryptedGroupSecrets) []byte {
	w := &Welcome{Suite: suite.ID(), Secrets: joiners, EncryptedGroupInfo: encryptedGroupInfo}
	return (&MLSMessage{Welcome: w}).Marshal()
}

// Merge begins the next epoch with our own commit, after the delivery service has
// accepted it. The group is the one that made the commit, or what traffic has
// made of it since.
func (g *Group) Merge(ctx context.Context, env *Env, p *PendingCommit) (_ *Group, _ *ReceivedCommit, _ *record.WriteSet, err error) {
	defer tooLarge(&err)
	if !g.active {
		return nil, nil, nil, ErrInactive
	}
	t, added, err := p.apply(ctx, env, g)
	if err != nil {
		return nil, nil, nil, err
	}
	secrets, err := epochFromJoiner(g.suite, p.joiner, p.psk, marshal(&p.context))
	if err != nil {
		return nil, nil, nil, err
	}
	leaving, err := g.leavingEpoch(ctx, env)
	if err != nil {
		return nil, nil, nil, err
	}
	store, err := g.loadProposals(ctx, env)
	if err != nil {
		return nil, nil, nil, err
	}
	result := g.describe(p.list, added, p.content.Content, store)
	ws := &record.WriteSet{}
	ws.Retire(p.joiner, p.psk)
	next := g.enter(transition{
		tree: t.edit(), context: p.context, secrets: secrets, tag: p.content.Auth.ConfirmationTag,
		own: g.own, keys: p.keys, reinit: p.list.reinit(), leaving: leaving,
	}, ws)
	return next, result, ws, nil
}

// DropPending forgets the pending commit. The generation that it spent stays spent.
func (g *Group) DropPending() *record.WriteSet {
	ws := &record.WriteSet{}
	ws.Del(RecordPending, nil)
	return ws
}
