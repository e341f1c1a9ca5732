// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core/mls"
)

// Commits: made, chosen by the delivery service, and followed.

// stage makes a commit that nobody has taken yet.
func (w *world) stage() *modelCommit {
	a := w.one()
	if a == nil {
		return nil
	}
	own := a.at.tree.find(a.name)
	var params mls.CommitParams
	var values []modelItem
	if out := w.outside(a.at); len(out) > 0 && w.rarely(4) {
		for range 1 + w.pick(len(out)) {
			p := w.add(w.newBundle(out[0]), own)
			values, out = append(values, modelItem{p, false}), out[1:]
		}
	}
	few := w.pick(2) == 0
	if list := a.at.tree.leaves(); w.rarely(8) { // make holes
		for range 1 + w.pick(len(list)) {
			if i := w.pick(len(list)); list[i] != nil && i != own {
				p := &modelProposal{kind: mls.ProposalRemove, sender: mls.SenderMember, from: own, target: i, real: &mls.Remove{Removed: mls.LeafIndex(i)}}
				values, list[i] = append(values, modelItem{p, false}), nil
			}
		}
	}
	for range w.pick(4) {
		if few && len(values) > 0 {
			break
		}
		item := modelItem{w.proposal(a.at, a), false}
		if with := append(slices.Clip(values), item); len(a.at.breaches(with, own)) == 0 || w.rarely(10) {
			values = with
		}
		if w.rarely(20) {
			values = append(values, item)
		}
	}
	for _, p := range values {
		params.Proposals = append(params.Proposals, p.real)
	}
	return w.stageOf(a, own, values, params)
}

func (w *world) stageOf(a *actor, own int, values []modelItem, params mls.CommitParams) *modelCommit {
	params.ForcePath, params.OmitTree = w.calm || w.pick(2) == 0, w.rarely(5)
	key, rich := a.at.tree.leaf(own).key, a.at.tree.leaf(own).rich
	wants := params.ForcePath
	if w.rarely(6) {
		params.Leaf.SignatureKey, key, wants = a.newSigner(), len(a.signers)-1, true
	}
	for _, p := range a.waiting { // the newest Update of our own goes into the path
		if p.kind == mls.ProposalUpdate && p.from == own {
			if wants = true; params.Leaf.SignatureKey == nil {
				key, rich = p.leaf.key, p.leaf.rich
			}
		}
	}
	v, strict := a.judgeOwn(values, own)
	bundle, err := a.commit(params)
	if err != nil || strict {
		w.expect(v, err, "%s in %d: commit", a.name, a.at.number)
		return nil
	}
	c := &modelCommit{by: a, from: a.at, bundle: bundle, tree: !params.OmitTree && !w.config.TreeOutOfBand}
	for _, p := range a.pending.Proposals() {
		c.list = append(c.list, w.item(a, values, p))
	}
	if wrong := a.wrongSelection(values, c.list, own); wrong != "" {
		w.fail("%s in %d: commit: %s", a.name, a.at.number, wrong)
	}
	if path := pathRequired(c.list) || wants; path != a.pending.HasPath() {
		w.fail("%s in %d: commit has a path: %v", a.name, a.at.number, !path)
	} else if path {
		c.leaf = &modelLeaf{name: a.name, key: key, rich: rich, mark: w.mark()}
	}
	if c.follow(w.mark); c.leaf != nil && !c.leaf.rich && c.result.extensions.demands() != "" {
		// Our own Update is left out like anybody's that does not fit.
		c.leaf.key, c.leaf.rich = a.at.tree.leaf(own).key, a.at.tree.leaf(own).rich
	}
	if i := slices.IndexFunc(c.result.tree.leaves(), func(l *modelLeaf) bool { return l != nil && !l.rich }); i >= 0 && c.result.extensions.demands() != "" {
		w.fail("%s in %d: commit: leaf %d does not support what the group demands", a.name, a.at.number, i)
	}
	c.sent = &letter{content: mls.ContentCommit, sender: mls.SenderMember, epoch: a.at, name: a.name, from: own, commit: c, bytes: bundle.Commit}
	if a.limits.Handshake == mls.HandshakePrivate {
		c.sent.private, c.sent.generation = true, a.spend(false)
	}
	a.staged = c
	w.note("%s stages a commit in %d: %s", a.name, a.at.number, c)
	return c
}

// item finds the proposal that our commit covers.
func (w *world) item(a *actor, values []modelItem, got mls.ReceivedProposal) modelItem {
	if len(got.Ref) > 0 {
		for _, p := range a.waiting {
			if p.ref == string(got.Ref) {
				return modelItem{p, true}
			}
		}
	}
	for _, p := range values {
		if bytes.Equal(mls.MarshalProposal(p.real), mls.MarshalProposal(got.Proposal)) {
			return p
		}
	}
	w.fail("%s: the commit covers a proposal that is not there", a.name)
	return modelItem{}
}

func (c *modelCommit) String() string {
	s := fmt.Sprint("path ", c.leaf != nil, ", types")
	for _, p := range c.list {
		s += fmt.Sprint(" ", p.kind)
		switch p.kind {
		case mls.ProposalAdd:
			s += " of " + p.leaf.name
		case mls.ProposalRemove:
			s += fmt.Sprint(" of ", p.target)
		}
	}
	return s
}

// acceptOne lets the delivery service choose a commit that waits. Now and then it
// lies: it lets some members have another one than the rest.
func (w *world) acceptOne() {
	var list []*modelCommit
	for _, a := range w.members() {
		if a.staged != nil {
			list = append(list, a.staged)
		}
	}
	if len(list) > 0 {
		w.accept(list[w.pick(len(list))], w.rarely(5))
	}
}

// accept makes a commit the group's, unless another one was before it.
func (w *world) accept(c *modelCommit, fork bool) {
	if c == nil || c.by.staged != c || c.from.next != nil && !fork {
		return
	}
	a := c.by
	if c.from.next == nil {
		c.from.next = c.result
	}
	if !c.first {
		w.letters = append(w.letters, c.sent)
	}
	if !c.first && w.rarely(4) { // our own commit, coming back
		w.deliver(a, c.sent)
	}
	if a.at == c.from {
		w.merge(a, c)
	}
	for _, o := range w.at(c.from) {
		if (!fork || w.pick(2) == 0) && !w.lost() {
			w.deliver(o, c.sent)
		}
	}
	for _, p := range c.adds() {
		if !w.lost() {
			w.welcome(p.bundle.owner, c)
		}
	}
}

// merge is what a member does when its commit was accepted.
func (w *world) merge(a *actor, c *modelCommit) {
	stale := a.pending
	waiting, was := a.waiting, a.at
	result := a.merge()
	a.enter(c.result)
	w.note("%s merges its commit of %d", a.name, was.number)
	w.lookAtChanges(a, c, result, was, waiting)
	w.look(a)
	if a.active {
		_, _, _, err := a.g().Merge(w.Context(), a.env(), stale)
		w.expect(refused(mls.ErrWrongEpoch), err, "%s: merge again", a.name)
	}
}

// dropOne forgets a commit that the delivery service has refused.
func (w *world) dropOne() {
	if a := w.one(); a != nil && a.staged != nil {
		a.stored.apply(a.g().DropPending())
		a.staged, a.pending = nil, nil
	}
}

// catchUp gives most members all that they have missed, as far as they can take it,
// and some client a Welcome that comes late.
func (w *world) catchUp() {
	if e := w.recentEpoch(); e != nil && e.commit != nil && len(e.commit.adds()) > 0 {
		w.welcome(e.commit.adds()[0].bundle.owner, e.commit)
	}
	for _, a := range w.members() {
		if !w.rarely(6) {
			w.follow(a)
		}
	}
}

// follow is false if the member cannot go on.
func (w *world) follow(a *actor) bool {
	for a.in() && a.at.next != nil {
		c := a.at.next.commit
		for _, p := range c.list {
			if p.byReference && !slices.Contains(a.waiting, p.modelProposal) {
				w.deliver(a, p.sent)
			}
			if p.psk != "" {
				a.known[p.psk], a.psks[p.psk] = true, []byte("the secret of "+p.psk)
			}
		}
		if !w.deliver(a, c.sent) {
			return false
		}
	}
	return a.in()
}
