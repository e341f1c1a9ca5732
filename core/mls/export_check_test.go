// SPDX-License-Identifier: Apache-2.0

package mls

import "context"

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
