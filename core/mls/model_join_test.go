// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"context"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// How clients come in: by Welcome and by external commits.

// welcome lets a client join.
func (w *world) welcome(a *actor, c *modelCommit) {
	if a.in() && a.at.number >= c.result.number || a == c.by {
		return // the client would not ask to
	}
	var v verdict
	var leaf *modelBundle
	for _, p := range c.adds() {
		if slices.Contains(a.bundles, p.bundle) {
			leaf = p.bundle
		}
	}
	m, err := mls.UnmarshalMLSMessage(c.bundle.Welcome)
	w.expect(fine, err, "Welcome")
	params := mls.JoinParams{Welcome: m.Welcome, Config: a.limits, KeyPackage: a.findBundle}
	if !c.tree && c.result.seen != nil && !w.rarely(10) {
		params.Tree = c.result.seen.tree
	}
	if !c.tree && params.Tree == nil {
		v = refused(mls.ErrMissingTree)
	}
	for _, p := range c.list {
		switch {
		case p.kind != mls.ProposalPSK:
		case p.before != nil:
			old := w.before.actor(a.name)
			v = v.or(old.judgeSuccessor(p.before))
			params.Predecessor = func(context.Context, []byte) (*mls.Group, *mls.Env, error) {
				if old.at == nil {
					return nil, nil, core.ErrNotFound
				}
				return old.g(), old.env(), nil
			}
		case p.psk == "" || !a.known[p.psk]:
			v = refused(mls.ErrMissingPSK) // PSK-7, WEL-12
		}
	}
	if leaf == nil {
		v = refused(mls.ErrNoKeyPackage)
	}
	g, joined, ws, err := mls.Join(w.Context(), a.env(), params)
	w.expect(v, err, "%s joins %d", a.name, c.result.number)
	if err != nil {
		return
	}
	if len(joined.Members) != c.result.tree.count() || string(joined.Inviter.Credential.Identity) != c.by.name {
		w.fail("%s joins %d: %d members, invited by %s", a.name, c.result.number, len(joined.Members), joined.Inviter.Credential.Identity)
	}
	w.note("%s joins %d", a.name, c.result.number)
	if joined.KeyPackage.IsLastResort() != leaf.bundle.KeyPackage.IsLastResort() {
		w.fail("%s joins %d by another key package", a.name, c.result.number)
	}
	if !joined.KeyPackage.IsLastResort() { // KP-4
		a.bundles = slices.DeleteFunc(a.bundles, func(b *modelBundle) bool { return b == leaf })
	}
	w.settle(a, c.result, g, ws)
}

func (a *actor) findBundle(_ context.Context, ref []byte) (*mls.KeyPackageBundle, error) {
	for _, b := range a.bundles {
		if b.ref == string(ref) {
			return b.bundle, nil
		}
	}
	return nil, core.ErrNotFound
}

// settle begins a client's life in an epoch.
func (w *world) settle(a *actor, e *modelEpoch, g *mls.Group, ws *record.WriteSet) {
	a.stored, a.pending = records{}, nil
	a.set(g, ws)
	a.arrive(e)
	w.look(a)
}

// enterFromOutside is an external commit of somebody, who may be a member already.
func (w *world) enterFromOutside() {
	by := w.one()
	if by == nil || by.at.next != nil {
		return
	}
	a := w.actors[w.pick(len(w.actors))]
	if a == by {
		return
	}
	e := by.at
	c := &modelCommit{by: a, from: e, external: true}
	var v verdict
	omitTree, omitPub := w.rarely(4), w.rarely(12)
	info := e.commit.groupInfo()
	if info == nil || w.pick(3) > 0 {
		var err error
		info, err = by.g().GroupInfo(w.Context(), by.env(), mls.GroupInfoParams{OmitTree: omitTree, OmitExternalPub: omitPub})
		w.expect(fine, err, "%s: GroupInfo", by.name)
		omitTree = omitTree || w.config.TreeOutOfBand
	} else { // the one that came with the commit that began the epoch
		omitTree, omitPub = !e.commit.tree, false
	}
	m, err := mls.UnmarshalMLSMessage(info)
	w.expect(fine, err, "GroupInfo")
	params := mls.ExternalParams{
		GroupInfo: m.GroupInfo, Signer: a.signer(), Credential: core.BasicCredential(core.ClientID(a.name)),
		Capabilities: a.capabilitiesOf(a.rich), Config: a.limits,
	}
	was := e.tree.find(a.name)
	if omitTree && !w.rarely(8) {
		params.Tree = e.seen.tree
	}
	if was >= 0 {
		if !w.rarely(8) {
			params.Replace = func(o mls.Member) bool { return string(o.Credential.Identity) == a.name }
			c.list = append(c.list, modelItem{&modelProposal{kind: mls.ProposalRemove, target: was}, false})
		} else {
			v = v.or(breaks("PRP-3", "LEAF-4")) // it is there already, perhaps with the same key
		}
	}
	if omitPub {
		v = v.or(refused(core.ErrUnsupported))
	}
	if omitTree && params.Tree == nil {
		v = v.or(refused(mls.ErrMissingTree))
	}
	if rule := e.extensions.demands(); rule != "" && !a.rich {
		v = v.or(breaks(rule))
	}
	for range w.pick(6) / 4 {
		p := &modelProposal{kind: mls.ProposalPSK, psk: fmt.Sprint("psk", w.pick(3)), nonce: w.nonce()}
		real := by.g().NewExternalPSK([]byte(p.psk))
		params.PSKs = append(params.PSKs, real.PSK)
		c.list = append(c.list, modelItem{p, false})
		if !a.known[p.psk] {
			v = v.or(refused(mls.ErrMissingPSK))
		}
	}
	g, commit, ws, err := mls.JoinExternal(w.Context(), a.env(), params)
	w.expect(v, err, "%s enters from outside after %d", a.name, e.number)
	if err != nil || w.rarely(8) { // refused by the delivery service
		return
	}
	c.leaf = &modelLeaf{name: a.name, key: len(a.signers) - 1, rich: a.rich, mark: w.mark()}
	c.follow(w.mark)
	c.sent = &letter{content: mls.ContentCommit, sender: mls.SenderNewMemberCommit, epoch: e, name: a.name, from: -1, commit: c, bytes: commit}
	e.next = c.result
	w.letters = append(w.letters, c.sent)
	w.note("%s enters from outside after %d at leaf %d: %s", a.name, e.number, c.place, c)
	w.settle(a, c.result, g, ws)
	for _, o := range w.at(e) {
		if w.rarely(4) {
			w.attackWith(o, c.sent, w.letters[w.pick(len(w.letters))])
		}
		if !w.lost() {
			w.deliver(o, c.sent)
		}
	}
}

func (c *modelCommit) groupInfo() []byte {
	if c == nil {
		return nil
	}
	return c.bundle.GroupInfo
}
