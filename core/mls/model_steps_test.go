// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// The steps of a run: what members do in a group.

// step does one thing, with some of the groups in memory and others loaded anew.
func (w *world) step() {
	which := w.pick(1 << 20)
	for i, a := range w.actors {
		a.reload = which>>(i%20)&1 == 0
	}
	switch k := w.pick(32); {
	case k < 3:
		if a := w.one(); a != nil {
			for range 1 + w.pick(3) {
				w.send(a)
			}
		}
	case k < 8:
		w.read()
	case k < 12:
		if a := w.one(); a != nil {
			for range 1 + w.pick(3) {
				w.propose(a)
			}
		}
	case k < 13:
		w.proposeFromOutside()
	case k < 16:
		w.stage()
	case k < 22:
		w.accept(w.stage(), false)
	case k < 24:
		w.acceptOne()
	case k < 25:
		w.dropOne()
	case k < 27:
		w.catchUp()
	case k < 29:
		w.enterFromOutside()
	case k < 30:
		w.actors[w.pick(len(w.actors))].learn(w.pick(3))
	default:
		w.attack()
	}
	w.watch()
}

// send sends a text that nobody gets at once. Now and then the step is thrown away
// after the message has left, and its generation counts as burnt.
func (w *world) send(a *actor) {
	v := fine
	if len(a.waiting) > 0 && !a.limits.SendWithProposals {
		v = refused(mls.ErrPendingProposals)
	}
	text := fmt.Sprint("text ", len(w.letters))
	g, message, ws, err := a.g().Protect(w.Context(), a.env(), []byte(text), []byte("aad"))
	w.expect(v, err, "%s in %d: send", a.name, a.at.number)
	if err != nil {
		return
	}
	if w.rarely(4) {
		w.burn(a, g)
	} else {
		a.set(g, ws)
	}
	w.letters = append(w.letters, &letter{content: mls.ContentApplication, sender: mls.SenderMember, epoch: a.at, name: a.name,
		from: a.at.tree.find(a.name), private: true, generation: a.spend(true), text: text, bytes: message})
	w.note("%s sends %s", a.name, w.letters[len(w.letters)-1])
}

// burn stores only that a generation was used.
func (w *world) burn(a *actor, g *mls.Group) {
	epoch, floors := g.SentGenerations()
	stored, err := mls.RaiseFloors(a.floors(epoch), floors)
	if err != nil {
		w.fail("floors: %s", outcome(err))
	}
	key := binary.BigEndian.AppendUint64(nil, epoch)
	a.stored.apply(&mls.WriteSet{Puts: []mls.Record{{Kind: mls.RecordFloors, Key: key, Value: stored}}})
	a.group = a.group.WithFloors(floors)
}

func (m *member) floors(epoch uint64) []byte {
	for _, r := range m.stored[mls.RecordFloors] {
		if binary.BigEndian.Uint64(r.Key) == epoch {
			return r.Value
		}
	}
	return nil
}

// read delivers some letters, new and old ones, in any order.
func (w *world) read() {
	if len(w.letters) == 0 {
		return
	}
	for range 1 + w.pick(6) {
		a := w.actors[w.pick(len(w.actors))]
		if a.at != nil {
			w.deliver(a, w.letters[len(w.letters)-1-w.pick(min(len(w.letters), 100))])
		}
	}
}

// lost is whether a message does not come.
func (w *world) lost() bool { return !w.calm && w.rarely(10) }

// spread delivers a letter to those in its epoch; some do not get it.
func (w *world) spread(l *letter) {
	for _, a := range w.at(l.epoch) {
		if a.name != l.name && !w.lost() {
			w.deliver(a, l)
		}
	}
}

// learn gives somebody a pre-shared key.
func (a *actor) learn(k int) {
	name := fmt.Sprint("psk", k)
	a.known[name], a.psks[name] = true, []byte("the secret of "+name)
}

// proposal draws a proposal, seen from an epoch. Some are nonsense.
func (w *world) proposal(e *modelEpoch, a *actor) *modelProposal {
	p := &modelProposal{from: e.tree.find(a.name), sender: mls.SenderMember}
	switch k := w.pick(16); {
	case k < 5: // somebody from outside, or from inside
		o := w.actors[w.pick(len(w.actors))]
		if out := w.outside(e); len(out) > 0 && !w.rarely(6) {
			o = out[w.pick(len(out))]
		}
		if n := len(o.bundles); n > 0 && !w.rarely(3) {
			p.bundle = o.bundles[w.pick(n)]
		} else {
			p.bundle = w.newBundle(o)
		}
		p = w.add(p.bundle, p.from)
	case k < 9:
		p.kind, p.target = mls.ProposalRemove, w.pick(len(e.tree.leaves()))
		for range 3 {
			if e.tree.leaf(p.target) == nil {
				p.target = w.pick(len(e.tree.leaves()) + 1)
			}
		}
		switch unmerged := e.tree.unmerged(); {
		case len(unmerged) > 0 && w.pick(3) == 0:
			p.target = unmerged[w.pick(len(unmerged))]
		case w.pick(4) == 0: // shrink from the right
			for p.target = len(e.tree.leaves()) - 1; e.tree.leaf(p.target) == nil; p.target-- {
			}
		}
		p.real = &mls.Remove{Removed: mls.LeafIndex(p.target)}
	case k < 11:
		p.kind, p.psk = mls.ProposalPSK, fmt.Sprint("psk", w.pick(3))
		p.nonce = w.nonce()
		p.real = a.g().NewExternalPSK([]byte(p.psk))
	case k < 13:
		p.kind, p.pskEpoch = mls.ProposalPSK, e.number-min(e.number, uint64(w.pick(4)))
		p.nonce = w.nonce()
		p.real = a.g().NewResumptionPSK(p.pskEpoch)
	default:
		p.kind, p.extensions = mls.ProposalGroupContextExtensions, extensionList(w.pick(int(extensionLists)))
		p.real = &mls.GroupContextExtensions{Extensions: p.extensions.real(w.senders())}
	}
	return p
}

func (w *world) add(b *modelBundle, from int) *modelProposal {
	return &modelProposal{kind: mls.ProposalAdd, sender: mls.SenderMember, from: from, bundle: b, leaf: b.leaf, real: &mls.Add{KeyPackage: b.bundle.KeyPackage}}
}

// outside lists who could be added in an epoch.
func (w *world) outside(e *modelEpoch) (list []*actor) {
	for _, a := range w.actors {
		if e.tree.find(a.name) < 0 && (a.rich || e.extensions.demands() == "") {
			list = append(list, a)
		}
	}
	return list
}

func (w *world) nonce() int { w.nonces++; return w.nonces }

// propose sends a proposal on its own.
func (w *world) propose(a *actor) {
	var sent *mls.SentProposal
	var p *modelProposal
	var g *mls.Group
	var ws *mls.WriteSet
	var err error
	if v := fine; w.pick(3) == 0 {
		own := a.at.tree.find(a.name)
		now := a.at.tree.leaf(own)
		p = &modelProposal{kind: mls.ProposalUpdate, sender: mls.SenderMember, from: own,
			leaf: &modelLeaf{name: a.name, key: now.key, rich: now.rich, mark: w.mark()}}
		params := mls.LeafParams{}
		if w.pick(2) == 0 {
			params.SignatureKey, p.leaf.key = a.newSigner(), len(a.signers)-1
		}
		if w.rarely(4) {
			p.leaf.rich = !now.rich
			c := a.capabilitiesOf(p.leaf.rich)
			params.Capabilities = &c
		}
		g, sent, ws, err = a.g().ProposeUpdate(w.Context(), a.env(), params, nil)
		w.expect(v, err, "%s in %d: propose an update", a.name, a.at.number)
	} else {
		if p = w.proposal(a.at, a); w.rarely(8) && len(a.waiting) > 0 { // what somebody proposed already
			if again := a.waiting[w.pick(len(a.waiting))]; again.kind != mls.ProposalUpdate {
				*p = *again
				p.sent, p.sender, p.from = nil, mls.SenderMember, a.at.tree.find(a.name)
			}
		}
		switch {
		case p.kind == mls.ProposalRemove && a.at.tree.leaf(p.target) == nil:
			v = breaks("PRP-4")
		case p.kind == mls.ProposalPSK && !a.has(p):
			v = refused(mls.ErrMissingPSK)
		}
		g, sent, ws, err = a.g().Propose(w.Context(), a.env(), p.real, nil)
		w.expect(v, err, "%s in %d: propose type %d", a.name, a.at.number, p.kind)
	}
	if err != nil {
		return
	}
	w.proposed(a, p, g, sent, ws)
	if w.rarely(10) {
		w.dropProposal(a, a.waiting[len(a.waiting)-1])
	} else if !w.rarely(4) {
		w.spread(w.letters[len(w.letters)-1])
	}
}

// proposed sends a proposal that was made.
func (w *world) proposed(a *actor, p *modelProposal, g *mls.Group, sent *mls.SentProposal, ws *mls.WriteSet) {
	a.set(g, ws)
	p.ref = string(sent.Ref)
	for _, l := range w.letters { // said twice with a signature that is not random, it is the same
		if l.proposal != nil && l.proposal.ref == p.ref {
			p = l.proposal
		}
	}
	l := &letter{content: mls.ContentProposal, sender: mls.SenderMember, epoch: a.at, name: a.name, from: p.from, proposal: p, bytes: sent.Message}
	if a.limits.Handshake == mls.HandshakePrivate {
		l.private, l.generation = true, a.spend(false)
	}
	if p.sent == nil {
		p.sent = l
	}
	if !slices.Contains(a.waiting, p) {
		a.waiting = append(a.waiting, p)
	}
	w.letters = append(w.letters, l)
	w.note("%s makes %s", a.name, l)
	w.lookAtProposals(a)
}

// dropProposal is what a member does when the delivery service refuses a proposal.
func (w *world) dropProposal(a *actor, p *modelProposal) {
	g, ws, err := a.g().DropProposal(w.Context(), a.env(), mls.ProposalRef(p.ref))
	w.expect(fine, err, "%s: drop a proposal", a.name)
	a.set(g, ws)
	i := slices.Index(a.waiting, p)
	a.waiting = slices.Delete(slices.Clone(a.waiting), i, i+1)
	w.lookAtProposals(a)
}

// proposeFromOutside sends a proposal of an external sender, or of a client that
// wants to come in.
func (w *world) proposeFromOutside() {
	a := w.one()
	if a == nil {
		return
	}
	p := w.proposal(a.at, a)
	l := &letter{content: mls.ContentProposal, epoch: a.at, name: "outsider", from: -1, proposal: p}
	sender, signer := mls.Sender{Type: mls.SenderExternal, Index: uint32(w.pick(3))}, w.outsider.signers[0]
	if sender.Index == 1 {
		signer = w.outsider.signers[1]
	}
	if p.kind == mls.ProposalAdd && w.pick(2) == 0 {
		sender, signer = mls.Sender{Type: mls.SenderNewMemberProposal}, p.bundle.owner.signers[p.leaf.key]
	}
	message, err := mls.ProposeExternal(w.Context(), a.env(), mls.ExternalProposalParams{
		Suite: w.suite, GroupID: []byte(w.id), Epoch: a.at.number, Sender: sender, Signer: signer, Proposal: p.real})
	w.expect(fine, err, "propose type %d from outside", p.kind)
	p.sender, p.from, l.sender, l.index, l.bytes = sender.Type, -1, sender.Type, sender.Index, message
	p.sent = l // whoever takes it first says what its reference is
	if i := slices.IndexFunc(w.letters, func(l *letter) bool { return bytes.Equal(l.bytes, message) }); i >= 0 {
		l = w.letters[i] // said twice
	}
	w.letters = append(w.letters, l)
	w.note("from outside: %s", l)
	w.spread(l)
}

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
func (w *world) settle(a *actor, e *modelEpoch, g *mls.Group, ws *mls.WriteSet) {
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
