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

// Groups that come from the group: branches and re-initialised ones.

// another is the world of a group that comes from this one, with the same clients.
func (w *world) another(suite core.SuiteID, id string) *world {
	handshake := []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate}[w.pick(2)]
	next := newWorld(w.TB.(drawn).TB, w.draw, suite, handshake, id)
	next.before = w
	next.log = append(next.log, fmt.Sprintf("from here on a group of suite %d, which comes from another", suite))
	for _, old := range w.actors {
		a := next.newActor(old.name)
		a.rich = old.rich
		for name := range old.known {
			a.known[name], a.psks[name] = true, old.psks[name]
		}
	}
	return next
}

// branch makes a group of some members of an epoch.
func (w *world) branch(e *modelEpoch) *world {
	list := w.at(e)
	if len(list) == 0 {
		return nil
	}
	old := list[w.pick(len(list))]
	next := w.another(w.suite, "branch")
	var with []*actor
	strangers := false
	for _, a := range next.actors {
		member := e.tree.find(a.name) >= 0
		if a.name != old.name && (member && w.pick(3) > 0 || w.rarely(40)) {
			with = append(with, a)
			strangers = strangers || !member
		}
	}
	var v verdict
	if strangers {
		v = breaks("RE-5")
	}
	return next.succeed(old, e, with, next.extensionsFor(old, with), v, (*mls.Group).Branch)
}

// extensionsFor draws extensions that all support.
func (w *world) extensionsFor(by *actor, with []*actor) extensionList {
	poor := func(a *actor) bool { return !a.rich }
	list := extensionList(w.pick(int(extensionLists)))
	if list.demands() != "" && (!by.rich || slices.ContainsFunc(with, poor)) {
		return noExtensions
	}
	return list
}

// reinitialize ends the group and begins another with the same members.
func (w *world) reinitialize(e *modelEpoch) *world {
	list := w.at(e)
	if len(list) == 0 || e.next != nil {
		return nil
	}
	id := []string{"next", w.id}[w.pick(2)]
	next := w.another(core.SuiteID(1+w.pick(7)), id)
	var with []*actor
	for _, l := range e.tree.leaves() {
		if l != nil {
			with = append(with, next.actor(l.name))
		}
	}
	extensions := next.extensionsFor(with[0], with)
	p := &modelProposal{kind: mls.ProposalReInit, sender: mls.SenderMember,
		real: &mls.ReInit{GroupID: []byte(id), Version: mls.MLS10, Suite: next.suite, Extensions: extensions.real(next.senders())}}
	by := list[w.pick(len(list))]
	w.calm = true
	w.send(by) // to be read when the group has ended
	late := w.letters[len(w.letters)-1]
	var c *modelCommit
	if w.pick(2) == 0 {
		c = w.stageOf(by, by.at.tree.find(by.name), []modelItem{{p, false}}, mls.CommitParams{Proposals: []mls.Proposal{p.real}})
	} else {
		from := list[w.pick(len(list))]
		p.from = from.at.tree.find(from.name)
		g, sent, ws, err := from.g().Propose(w.Context(), from.env(), p.real, nil)
		w.expect(fine, err, "%s: propose a ReInit", from.name)
		w.proposed(from, p, g, sent, ws)
		w.spread(w.letters[len(w.letters)-1])
		c = w.stageOf(by, by.at.tree.find(by.name), nil, mls.CommitParams{})
	}
	w.accept(c, false)
	if c == nil || !c.result.ended {
		return nil // other proposals waited: the ReInit could not stand alone
	}
	ended := c.result
	list = slices.DeleteFunc(slices.Clone(w.actors), func(a *actor) bool { return a.at != ended })
	for _, a := range list { // RE-1
		w.deliver(a, late)
		_, _, _, err := a.g().Protect(w.Context(), a.env(), []byte("text"), nil)
		w.expect(refused(mls.ErrInactive), err, "%s: send in a group that has ended", a.name)
		_, _, _, err = a.g().Commit(w.Context(), a.env(), mls.CommitParams{})
		w.expect(refused(mls.ErrInactive), err, "%s: commit in a group that has ended", a.name)
	}
	old := list[w.pick(len(list))]
	with = slices.DeleteFunc(with, func(a *actor) bool { return a.name == old.name })
	var v verdict
	if len(with) > 0 && w.rarely(6) { // somebody is forgotten
		next.succeed(old, ended, with[1:], extensions, breaks("RE-2"), (*mls.Group).Reinitialize)
	}
	return next.succeed(old, ended, with, extensions, v, (*mls.Group).Reinitialize)
}

// A succession is Group.Branch or Group.Reinitialize.
type succession func(*mls.Group, context.Context, *mls.Env, mls.SuccessorParams) (*mls.Group, *mls.PendingCommit, *record.WriteSet, error)

// succeed makes the new group; all who are in it join.
func (w *world) succeed(old *actor, e *modelEpoch, with []*actor, extensions extensionList, v verdict, how succession) *world {
	a := w.actor(old.name)
	c := &modelCommit{by: a, first: true}
	params := mls.SuccessorParams{
		GroupID: []byte(w.id), Extensions: extensions.real(w.senders()), Signer: a.signer(),
		Credential: core.BasicCredential(core.ClientID(a.name)), Capabilities: a.capabilitiesOf(a.rich), Lifetime: mls.NoLifetime,
		ForcePath: w.pick(2) == 0, OmitTree: w.rarely(4), Config: a.limits,
	}
	for _, o := range with {
		b := w.newBundle(o)
		params.KeyPackages = append(params.KeyPackages, b.bundle.KeyPackage)
		c.list = append(c.list, modelItem{w.add(b, 0), false})
	}
	c.list = append(c.list, modelItem{&modelProposal{kind: mls.ProposalPSK, before: e, nonce: w.nonce()}, false})
	g, pending, ws, err := how(old.g(), w.Context(), old.env(), params)
	w.expect(v, err, "%s begins a group from epoch %d", a.name, e.number)
	if err != nil {
		return nil
	}
	a.set(g, ws)
	if a.pending = pending; a.reload {
		if a.pending, err = mls.LoadPending(a.stored[mls.RecordPending][0].Value); err != nil {
			w.fail("%s: load the first commit: %s", a.name, outcome(err))
		}
	}
	first := &modelEpoch{tree: newModelTree(&modelLeaf{name: a.name, key: len(a.signers) - 1, rich: a.rich, mark: w.mark()}), extensions: extensions}
	a.arrive(first)
	w.look(a)
	c.from, c.tree = first, !params.OmitTree && !w.config.TreeOutOfBand
	if params.ForcePath {
		c.leaf = &modelLeaf{name: a.name, key: len(a.signers) - 1, rich: a.rich, mark: w.mark()}
	}
	if pending.HasPath() != params.ForcePath {
		w.fail("the first commit has a path: %v", pending.HasPath())
	}
	if c.bundle, err = a.pending.Bundle(w.Context(), a.env(), a.g()); err != nil {
		w.fail("%s: the first commit: %s", a.name, outcome(err))
	}
	c.follow(w.mark)
	c.sent = &letter{content: mls.ContentCommit, sender: mls.SenderMember, epoch: first, name: a.name, commit: c, bytes: c.bundle.Commit}
	if a.limits.Handshake == mls.HandshakePrivate {
		c.sent.private, c.sent.generation = true, a.spend(false)
	}
	a.staged = c
	w.accept(c, false)
	return w
}

// mislead gives somebody a message of another group.
func (w *world) mislead(o *world) {
	a := w.actors[w.pick(len(w.actors))]
	if a.at == nil || len(o.letters) == 0 {
		return
	}
	_, err := a.process(o.letters[w.pick(len(o.letters))].bytes)
	w.expect(refused(mls.ErrWrongGroup), err, "%s: a message of group %s", a.name, o.id)
}
