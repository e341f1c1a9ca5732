// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
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
	a.stored.apply(&record.WriteSet{Puts: []record.Record{{Kind: mls.RecordFloors, Key: key, Value: stored}}})
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
	var ws *record.WriteSet
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
func (w *world) proposed(a *actor, p *modelProposal, g *mls.Group, sent *mls.SentProposal, ws *record.WriteSet) {
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
