// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"

	"github.com/conclave-mls/conclave/core"
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
