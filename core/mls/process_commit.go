// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"fmt"
	"sync"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// An appliedCommit is what a commit of somebody else says that everybody can see:
// checked, and applied to a copy of the tree.
type appliedCommit struct {
	list    proposalList
	result  *ReceivedCommit
	sender  LeafIndex // in the new tree
	path    *UpdatePath
	work    *tree
	added   []LeafIndex
	context GroupContext // of the next epoch, but for the transcript hash
	psks    []PSK
}

func (c *appliedCommit) external() bool { return c.result.External }

// applyCommit takes a verified commit as far as it goes without a secret of the
// epoch, in the order of RFC 9420 section 12.4.2 (COM-13). An observer has no PSKs
// to look for, and neither has who is removed.
func (g *Group) applyCommit(ctx context.Context, env *Env, a *AuthenticatedContent) (*appliedCommit, error) {
	env = env.operation()
	c := a.Content
	external := c.Sender.Type == SenderNewMemberCommit
	store, err := g.loadProposals(ctx, env)
	if err != nil {
		return nil, err
	}
	list, err := g.resolve(env, c, store)
	if err != nil {
		return nil, err
	}
	if len(list) < len(c.Commit.Proposals) { // we are removed, beside something that we do not know
		return &appliedCommit{list: list, result: g.describe(list, nil, c, store)}, nil
	}
	if external {
		err = list.checkExternalList()
	} else {
		err = list.checkList(env, g.tree, c.Sender.Leaf)
	}
	if err != nil {
		return nil, err
	}
	path := c.Commit.Path
	ac := &appliedCommit{list: list, path: path, sender: c.Sender.Leaf, work: g.tree.edit(), context: g.context}
	ac.context.Epoch++
	ac.context.Extensions, ac.added = list.apply(ac.work, g.context.Extensions)
	ac.result = g.describe(list, ac.added, c, store)
	if !ac.result.SelfRemoved && g.secrets != nil {
		if ac.psks, err = g.gatherPSKs(ctx, env, list.pskIDs()); err != nil {
			return nil, err
		}
	}
	if path == nil && list.pathRequired(env) {
		return nil, breach("PRP-7", "the commit lacks the path that its proposals require")
	}
	if external {
		ac.sender = ac.work.reserveLeaf() // EXT-3: after the Remove
		ac.result.Committer, ac.result.External = memberAt(ac.sender, path.LeafNode), true
	}
	if path != nil {
		if err := g.checkPathLeaf(env, list, path.LeafNode, ac.sender, external); err != nil {
			return nil, err
		}
		if err := mergePublicPath(ac.work, ac.sender, path, ac.added); err != nil {
			return nil, err
		}
	}
	ac.context.TreeHash = ac.work.hash()
	return ac, g.checkResult(ac.work, &ac.context, list.freshLeaves(ac.sender, ac.added, path != nil))
}

// processCommit works a verified commit of somebody else through; nothing is
// visible before the confirmation tag holds (COM-13, KS-4).
func (g *Group) processCommit(ctx context.Context, env *Env, a *AuthenticatedContent, ws *record.WriteSet) (*Group, Processed, error) {
	c, err := g.applyCommit(ctx, env, a)
	if err != nil {
		return nil, nil, err
	}
	if c.result.SelfRemoved {
		// What follows is not for us to decrypt. All that is public was checked: an
		// outsider's commit, which nothing else binds to the group, can only replace
		// a leaf of its own client (EXT-2).
		return g.removed(ws), c.result, nil
	}
	keys, err := g.loadKeys(ctx, env)
	if err != nil {
		return nil, nil, err
	}
	if keys, err = g.promoteOwnUpdate(c.list, keys); err != nil {
		return nil, nil, err
	}
	next := c.context
	commitSecret := core.NewSecret(make([]byte, g.suite.Parameters().Nh))
	newKeys := &privateKeys{path: keys.path.kept(c.work)}
	if c.path != nil {
		commitSecret, newKeys.path, err = decryptPath(ctx, c.work, g.own, newKeys.path, c.sender, c.path, c.added, marshal(&next)) // PATH-7: not yet the new transcript
		if err != nil {
			return nil, nil, err
		}
	}
	initSecret := g.secrets.init
	if c.external() { // KS-9
		output := c.list.of(ProposalExternalInit)[0].proposal.(*ExternalInit).KEMOutput
		if initSecret, err = g.secrets.externalInitReceiver(ctx, output); err != nil {
			return nil, nil, err
		}
	}
	psk, err := pskSecret(g.suite, c.psks)
	if err != nil {
		return nil, nil, err
	}
	joiner, secrets, err := advance(g.suite, &next, g.interim, a, initSecret, commitSecret, psk)
	if err != nil {
		return nil, nil, err
	}
	if err := secrets.verifyConfirmationTag(next.ConfirmedTranscriptHash, a.Auth.ConfirmationTag); err != nil {
		return nil, nil, err
	}
	leaving, err := g.leavingEpoch(ctx, env)
	if err != nil {
		return nil, nil, err
	}
	ws.Retire(joiner, psk, commitSecret)
	if c.external() {
		ws.Retire(initSecret)
	}
	return g.enter(transition{
		tree: c.work, context: next, secrets: secrets, tag: a.Auth.ConfirmationTag,
		own: g.own, keys: newKeys, reinit: c.list.reinit(), leaving: leaving,
	}, ws), c.result, nil
}

// resolve replaces references by what was received under them. Proposals by value
// are checked here; those by reference were when they came (PRP-12).
func (g *Group) resolve(env *Env, c *FramedContent, store *proposalStore) (list proposalList, err error) {
	removed := sync.OnceValue(func() bool { return g.removesUs(c.Commit, store) }) // looks at all
	var byValue []Proposal
	for _, p := range c.Commit.Proposals {
		if p.Proposal == nil {
			if c.Sender.Type == SenderNewMemberCommit { // whatever it names; nobody has to look for it
				return nil, breach("EXT-2", "proposal by reference in an external commit")
			}
			found, ok := store.find(p.Reference)
			if !ok && removed() {
				continue
			}
			if !ok {
				return nil, fmt.Errorf("%x: %w", []byte(p.Reference), ErrMissingProposal) // PRP-1
			}
			list = append(list, found)
			continue
		}
		if p.Proposal.Type() == ProposalUpdate {
			return nil, breach("PRP-2", "update by value")
		}
		_, custom := p.Proposal.(*Custom)
		if !custom || c.Sender.Type != SenderMember || !removed() { // else nothing of it is for us
			byValue = append(byValue, p.Proposal)
		}
		list = append(list, sentProposal{proposal: p.Proposal, sender: c.Sender})
	}
	return list, g.checkProposals(env, byValue, c.Sender)
}

// promoteOwnUpdate puts the key of an own Update that the commit covers in the
// place of our leaf key (COM-7).
func (g *Group) promoteOwnUpdate(list proposalList, keys *privateKeys) (*privateKeys, error) {
	for _, p := range list.of(ProposalUpdate) {
		if p.sender.Leaf != g.own {
			continue
		}
		key, err := keys.update(g.suite, p.proposal.(*Update).LeafNode.EncryptionKey)
		if err != nil {
			return nil, err
		}
		return &privateKeys{path: keys.path.with(g.own.node(), key)}, nil
	}
	return keys, nil
}

// checkPathLeaf checks the committer's new leaf on its own: against the one it
// replaces, which for a resync is the removed one (EXT-2).
func (g *Group) checkPathLeaf(env *Env, list proposalList, leaf *LeafNode, sender LeafIndex, external bool) error {
	old := g.tree.leaf(sender)
	if external {
		old = nil
		for _, p := range list.of(ProposalRemove) {
			old = g.tree.leaf(p.proposal.(*Remove).Removed)
		}
	}
	if old != nil {
		return g.checkLeafUpdate(env, leaf, LeafCommit, old, sender)
	}
	if err := leaf.checkSelf(g.suite, LeafCommit); err != nil {
		return err
	}
	if err := leaf.verify(g.suite, g.context.GroupID, sender); err != nil {
		return err
	}
	if err := env.checkListed(leaf); err != nil {
		return err
	}
	if err := env.authenticate(leaf, nil); err != nil {
		return err
	}
	return checkNotIn(env, g.tree, leaf, sender)
}

func (l proposalList) reinit() *ReInit {
	for _, p := range l.of(ProposalReInit) {
		return p.proposal.(*ReInit)
	}
	return nil
}

// describe tells what a commit does, seen from the epoch that it ends. The committer
// from outside is the caller's to add.
func (g *Group) describe(list proposalList, leaves []LeafIndex, c *FramedContent, store *proposalStore) *ReceivedCommit {
	r := &ReceivedCommit{ReInit: list.reinit(), AuthenticatedData: c.AuthenticatedData}
	if c.Sender.Type == SenderMember {
		r.Committer = memberAt(c.Sender.Leaf, g.tree.leaf(c.Sender.Leaf))
	}
	used := map[string]bool{}
	updated := func(i LeafIndex, n *LeafNode) { r.Updated = append(r.Updated, memberAt(i, n)) }
	added := list.of(ProposalAdd)
	for _, p := range list {
		used[string(p.ref)] = true
		r.Proposals = append(r.Proposals, p.received())
		switch body := p.proposal.(type) {
		case *Remove:
			r.Removed = append(r.Removed, memberAt(body.Removed, g.tree.leaf(body.Removed)))
			r.SelfRemoved = r.SelfRemoved || body.Removed == g.own
		case *Update:
			updated(p.sender.Leaf, body.LeafNode)
		}
	}
	if c.Commit.Path != nil && c.Sender.Type == SenderMember {
		updated(c.Sender.Leaf, c.Commit.Path.LeafNode)
	}
	for n, i := range leaves {
		r.Added = append(r.Added, memberAt(i, added[n].proposal.(*Add).KeyPackage.LeafNode))
	}
	for _, p := range store.list {
		if !used[string(p.ref)] {
			r.Unused = append(r.Unused, p.received())
		}
	}
	return r
}

// removed ends the group for us (COM-4): nothing is sent or accepted any more. What
// opens late messages of kept epochs stays until the client wipes the group.
func (g *Group) removed(ws *record.WriteSet) *Group {
	next := *g
	next.active = false
	ws.Del(RecordProposal, nil)
	ws.Del(RecordPending, nil)
	next.proposals = &proposalStore{}
	ws.Put(RecordHeader, nil, next.header())
	return &next
}
