// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// CheckNewContext is what a member checks of the group that a commit leaves behind,
// here one that changes the extensions only.
func CheckNewContext(ctx context.Context, env *Env, g *Group, l Extensions) error {
	if err := g.tree.needAll(ctx, env.Fetch); err != nil {
		return err
	}
	next := g.context
	next.Extensions = l
	return g.checkResult(g.tree, &next, nil)
}

// ForgeFromOutside frames a proposal of a sender outside the group, whatever it may
// propose.
func ForgeFromOutside(ctx context.Context, g *Group, from Sender, signer core.Signer, p Proposal) ([]byte, error) {
	c := g.content(nil)
	c.Sender, c.ContentType, c.Proposal = from, ContentProposal, p
	a, err := signFramedContent(ctx, signer, WirePublicMessage, c, nil)
	if err != nil {
		return nil, err
	}
	return (&MLSMessage{PublicMessage: &PublicMessage{Content: c, Auth: a.Auth}}).Marshal(), nil
}

// FillParents gives every parent node of the tree a key and a hash that are nobody's,
// as if everybody had committed, and begins an epoch with them.
func FillParents(g *Group) (*Group, *record.WriteSet) {
	work := g.tree.edit()
	for n := NodeIndex(1); n < 2*NodeIndex(work.size())-1; n += 2 {
		work.put(n, Node{Parent: &ParentNode{EncryptionKey: randomBytes(32), ParentHash: randomBytes(32)}})
	}
	for i := range work.leaves() {
		work.touch(i)
	}
	next := g.context
	next.Epoch++
	next.TreeHash = work.hash()
	secrets := must(epochFromSecret(g.suite, core.NewSecret(randomBytes(32))))
	ws := &record.WriteSet{}
	return g.enter(transition{tree: work, context: next, secrets: secrets, own: g.own, tag: randomBytes(32), keys: g.keys}, ws), ws
}
