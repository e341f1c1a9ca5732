// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// A world is a group with its messages on their way, and the model beside it.
type world struct {
	testing.TB // the rapid run
	draw       *rapid.T
	suite      core.SuiteID
	id         string
	config     mls.Config
	mixed      bool // each member has a wire format of its own
	actors     []*actor
	outsider   *member // who signs for the external senders
	watcher    *modelWatcher
	before     *world // the group that this one comes from
	letters    []*letter
	epochs     []*modelEpoch // that somebody was in
	keys       keyring
	marks      int
	nonces     int
	groups     map[string]*modelEpoch // by epoch authenticator
	calm       bool                   // nothing is lost
	log        []string
}

// An actor is a client with its real group, and the model of it.
type actor struct {
	*member
	*modelMember
	rich    bool
	bundles []*modelBundle
}

// observed is what the first member in an epoch had; all others must have it too.
type observed struct{ treeHash, authenticator, export, tag, tree []byte }

// What was checked so far, for the soak.
var modelCount struct{ epochs, members, messages, attacks atomic.Int64 }

// A drawn test fails through rapid, which then finds the shortest run that fails.
type drawn struct {
	testing.TB
	rapid *rapid.T
}

func (d drawn) Helper()                      {}
func (d drawn) Context() context.Context     { return d.rapid.Context() }
func (d drawn) Log(args ...any)              { d.rapid.Log(args...) }
func (d drawn) Logf(f string, args ...any)   { d.rapid.Logf(f, args...) }
func (d drawn) Fatal(args ...any)            { d.rapid.Fatal(args...) }
func (d drawn) Fatalf(f string, args ...any) { d.rapid.Fatalf(f, args...) }
func (d drawn) Error(args ...any)            { d.rapid.Fatal(args...) }
func (d drawn) Errorf(f string, args ...any) { d.rapid.Fatalf(f, args...) }
func (d drawn) FailNow()                     { d.rapid.FailNow() }
func (d drawn) Failed() bool                 { return d.rapid.Failed() }

func newWorld(t testing.TB, r *rapid.T, suite core.SuiteID, handshake mls.HandshakePolicy, id string) *world {
	w := &world{TB: drawn{t, r}, draw: r, suite: suite, id: id, groups: map[string]*modelEpoch{}}
	w.keys = keyring{map[int]string{}, map[string]int{}}
	w.config = mls.DefaultConfig
	w.config.Handshake = handshake
	w.config.MaxPastEpochs = []uint32{0, 1, 3}[w.pick(3)]
	w.config.ResumptionEpochs = []uint32{0, 1, 3}[w.pick(3)]
	w.config.OutOfOrder = []uint32{0, 2, 1000}[w.pick(3)]
	w.config.MaxForward = []uint32{1000, 3}[w.pick(2)]
	w.config.SendWithProposals = w.pick(3) > 0
	w.config.TreeOutOfBand = w.rarely(4)
	w.mixed = w.rarely(4)
	w.outsider = newMember(w, suite, "outsider", w.config)
	w.outsider.newSigner()
	return w
}

func (w *world) newActor(name string) *actor {
	config := w.config
	if config.AcceptAnyWire = w.mixed; w.mixed {
		config.Handshake = []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate}[w.pick(2)]
	}
	a := &actor{member: newMember(w, w.suite, name, config)}
	a.grease = w.pick(2) == 0
	a.modelMember = &modelMember{limits: config, known: map[string]bool{}}
	w.actors = append(w.actors, a)
	return a
}

// pick draws a number below n. Rapid likes small ones a little better.
func (w *world) pick(n int) int { return rapid.IntRange(0, n-1).Draw(w.draw, "pick") }

func (w *world) rarely(n int) bool { return w.pick(n) == n-1 }

func (w *world) note(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }

// fail stops the run; the text is the same each time, so that rapid can shrink it.
func (w *world) fail(format string, args ...any) {
	for _, line := range w.log {
		w.Log(line)
	}
	w.Fatalf(format, args...)
}

func (w *world) expect(v verdict, err error, format string, args ...any) {
	if !v.fits(err) {
		w.Log("the error: ", err)
		w.fail("%s: %s, the model says %s", fmt.Sprintf(format, args...), outcome(err), v)
	}
}

func (v verdict) String() string {
	if v.fine() {
		return "ok"
	}
	return fmt.Sprint(v.rules, v.errs)
}

// outcome names an error without what is random in it.
func outcome(err error) string {
	var rule *mls.RuleError
	if errors.As(err, &rule) {
		return rule.Rule
	}
	for _, known := range []error{mls.ErrMalformed, mls.ErrAuthentication, mls.ErrWrongGroup, mls.ErrWrongEpoch, mls.ErrDuplicateMessage, mls.ErrTooOld,
		mls.ErrTooFarAhead, mls.ErrOwnMessage, mls.ErrMissingProposal, mls.ErrMissingPSK, mls.ErrMissingTree, mls.ErrNoKeyPackage,
		mls.ErrPendingProposals, mls.ErrInactive, mls.ErrExhausted, core.ErrDenied, core.ErrUnsupported, core.ErrDamaged, core.ErrInvalid, core.ErrNotFound} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	if err == nil {
		return "ok"
	}
	return "another error"
}

func (w *world) mark() int { w.marks++; return w.marks }

func (w *world) senders() mls.Extension {
	var list []mls.ExternalSender
	for _, s := range w.outsider.signers {
		list = append(list, mls.ExternalSender{SignatureKey: s.Public(), Credential: core.BasicCredential("outsider")})
	}
	return mls.ExternalSendersExtension(list)
}

// capabilities of rich clients have the extension.
func (a *actor) capabilitiesOf(rich bool) mls.Capabilities {
	c := mls.DefaultCapabilities(provider.Suites())
	if rich {
		c.Extensions = append(c.Extensions, richExtension)
	}
	return c
}

// newBundle makes a key package.
func (w *world) newBundle(a *actor) *modelBundle {
	lastResort := w.rarely(6)
	b, err := mls.NewKeyPackage(w.Context(), mls.KeyPackageParams{
		Suite: a.suite, Signer: a.signer(), Credential: core.BasicCredential(core.ClientID(a.name)),
		Capabilities: a.capabilitiesOf(a.rich), Lifetime: mls.NoLifetime, Grease: a.grease, LastResort: lastResort,
	})
	if err != nil {
		w.fail("key package: %s", outcome(err))
	}
	if b, err = mls.UnmarshalKeyPackageBundle(provider, b.Marshal()); err != nil {
		w.fail("key package: %s", outcome(err))
	}
	m := &modelBundle{owner: a, bundle: b, ref: string(b.KeyPackage.Ref(a.suite)),
		leaf: &modelLeaf{name: a.name, key: len(a.signers) - 1, rich: a.rich, mark: w.mark()}}
	a.bundles = append(a.bundles, m)
	return m
}

// begin creates the group.
func (w *world) begin() {
	for i := range 2 + w.pick(19) {
		a := w.newActor(fmt.Sprint("m", i))
		a.rich = w.pick(3) > 0
		for k := range 3 {
			if w.pick(4) > 0 {
				a.learn(k)
			}
		}
	}
	a := w.actors[0]
	list := extensionList(w.pick(int(extensionLists)))
	if list.demands() != "" {
		a.rich = true
	}
	g, ws, err := mls.Create(w.Context(), a.env(), mls.CreateParams{
		Suite: a.suite, GroupID: []byte(w.id), Signer: a.signer(), Credential: core.BasicCredential(core.ClientID(a.name)),
		Capabilities: a.capabilitiesOf(a.rich), Lifetime: mls.NoLifetime, Extensions: list.real(w.senders()), Config: a.limits,
	})
	if err != nil {
		w.fail("create: %s", outcome(err))
	}
	a.set(g, ws)
	e := &modelEpoch{tree: newModelTree(&modelLeaf{name: a.name, rich: a.rich, mark: w.mark()}), extensions: list}
	a.arrive(e)
	w.look(a)
	out := w.outside(e)
	var values []modelItem
	var params mls.CommitParams
	for _, o := range out[w.pick(len(out)+1)/2:] {
		p := w.add(w.newBundle(o), 0)
		values, params.Proposals = append(values, modelItem{p, false}), append(params.Proposals, p.real)
	}
	w.accept(w.stageOf(a, 0, values, params), false)
}

// look compares a member with the model, and so with all others.
func (w *world) look(a *actor) {
	g, e := a.g(), a.at
	modelCount.members.Add(1)
	if g.Epoch() != e.number || g.Active() != a.active || !sameExtensions(g.Extensions(), e.extensions.real(w.senders())) || int(g.OwnLeaf()) != e.tree.find(a.name) {
		w.fail("%s: epoch %d active %v leaf %d, the model says epoch %d active %v leaf %d", a.name,
			g.Epoch(), g.Active(), g.OwnLeaf(), e.number, a.active, e.tree.find(a.name))
	}
	tree, err := g.RatchetTree(w.Context(), a.env())
	if err != nil {
		w.Log(err, "window", w.config.MaxPastEpochs, "reload", a.reload)
		for _, r := range a.stored[mls.RecordPage] {
			w.Logf("page %x %d", r.Key, len(r.Value))
		}
		w.fail("%s: tree: %s", a.name, outcome(err))
	}
	now := observed{treeHash: g.TreeHash(), authenticator: g.EpochAuthenticator(), tag: g.ConfirmationTag(), tree: tree}
	if a.active {
		secret, err := g.Export("model", []byte("context"), 32)
		if err != nil {
			w.fail("%s: export: %s", a.name, outcome(err))
		}
		now.export = secret.Bytes()
	} else if _, err := g.Export("model", nil, 32); !errors.Is(err, mls.ErrInactive) {
		w.fail("%s: export of a group that has ended: %s", a.name, outcome(err))
	}
	if e.seen == nil {
		if diff := e.tree.compare(tree, &w.keys, w.signatureKey); diff != "" {
			w.fail("%s in epoch %d: %s", a.name, e.number, diff)
		}
		e.seen = &now
		w.epochs = append(w.epochs, e)
		if w.groups[string(now.authenticator)] != nil {
			w.fail("epoch %d has the authenticator of another", e.number)
		}
		w.groups[string(now.authenticator)] = e
		modelCount.epochs.Add(1)
	}
	s := e.seen
	if !bytes.Equal(s.treeHash, now.treeHash) || !bytes.Equal(s.authenticator, now.authenticator) || !bytes.Equal(s.tag, now.tag) ||
		!bytes.Equal(s.tree, now.tree) || a.active && !bytes.Equal(s.export, now.export) {
		w.fail("%s does not agree with the others about epoch %d", a.name, e.number)
	}
	checkPageVersions(w, a.member, uint64(w.config.MaxPastEpochs))
	w.lookAtProposals(a)
}

func (w *world) signatureKey(l *modelLeaf) []byte { return w.actor(l.name).signers[l.key].Public() }

func (w *world) actor(name string) *actor {
	for _, a := range w.actors {
		if a.name == name {
			return a
		}
	}
	return nil
}

func (w *world) lookAtProposals(a *actor) {
	i := 0
	for p, err := range a.g().PendingProposals(w.Context(), a.env()) {
		if err != nil || i >= len(a.waiting) || string(p.Ref) != a.waiting[i].ref {
			w.fail("%s: proposal %d is not the one that waits: %s", a.name, i, outcome(err))
		}
		i++
	}
	if i != len(a.waiting) {
		w.fail("%s: %d proposals, the model has %d", a.name, i, len(a.waiting))
	}
}

func sameExtensions(a, b mls.Extensions) bool {
	return slices.EqualFunc(a, b, func(a, b mls.Extension) bool { return a.Type == b.Type && bytes.Equal(a.Data, b.Data) })
}

// members lists who takes itself for a member.
func (w *world) members() (list []*actor) {
	for _, a := range w.actors {
		if a.in() {
			list = append(list, a)
		}
	}
	return list
}

// at lists the members in an epoch.
func (w *world) at(e *modelEpoch) (list []*actor) {
	for _, a := range w.members() {
		if a.at == e {
			list = append(list, a)
		}
	}
	return list
}

// one draws a member, nil if there is none.
func (w *world) one() *actor {
	if list := w.members(); len(list) > 0 {
		return list[w.pick(len(list))]
	}
	return nil
}

// deliver gives a letter to somebody, who was in the group once at least.
func (w *world) deliver(a *actor, l *letter) bool {
	own := a.at.tree.find(a.name)
	v := a.judge(l, a.name)
	modelCount.messages.Add(1)
	if v.fine() && w.rarely(5) { // worked through and thrown away
		m, _ := mls.UnmarshalMLSMessage(l.bytes)
		_, _, _, err := a.g().Process(w.Context(), a.env(), m)
		w.expect(v, err, "%s in %d, first try: %s", a.name, a.at.number, l)
	}
	before := snapshot(a.stored)
	got, err := a.process(l.bytes)
	w.expect(v, err, "%s in %d: %s", a.name, a.at.number, l)
	if err != nil {
		if !before.same(a.stored) {
			w.fail("%s: %s was refused and changed the store", a.name, l)
		}
		return false
	}
	waiting, was := a.waiting, a.at
	a.take(l, a.name)
	w.note("%s takes %s", a.name, l)
	switch got := got.(type) {
	case *mls.ApplicationMessage:
		if l.content != mls.ContentApplication || string(got.Data) != l.text || string(got.Sender.Credential.Identity) != l.name ||
			int(got.Sender.Leaf) != l.from || got.Epoch != l.epoch.number || string(got.AuthenticatedData) != "aad" {
			w.fail("%s: %s came out as something else", a.name, l)
		}
	case *mls.ReceivedProposal:
		if l.content == mls.ContentProposal && l.proposal.ref == "" {
			l.proposal.ref = string(got.Ref)
		}
		if l.content != mls.ContentProposal || string(got.Ref) != l.proposal.ref || got.Proposal.Type() != l.proposal.kind || got.Sender.Type != l.sender {
			w.fail("%s: %s came out as something else", a.name, l)
		}
		w.lookAtProposals(a)
	case *mls.ReceivedCommit:
		if l.content != mls.ContentCommit || got.SelfRemoved != l.commit.removes(own) {
			w.fail("%s: %s came out as something else", a.name, l)
		}
		if !got.SelfRemoved || !slices.ContainsFunc(l.commit.list, func(p modelItem) bool { return p.byReference && !slices.Contains(waiting, p.modelProposal) }) {
			w.lookAtChanges(a, l.commit, got, was, waiting) // who is removed need not know all
		}
		w.look(a)
	}
	if w.rarely(4) {
		w.deliver(a, l) // again
	}
	return true
}

// lookAtChanges compares what a commit is said to have changed with the model.
func (w *world) lookAtChanges(a *actor, c *modelCommit, got *mls.ReceivedCommit, was *modelEpoch, waiting []*modelProposal) {
	var added, removed, updated, want []string
	names := func(list []mls.Member) (names []string) {
		for _, m := range list {
			names = append(names, fmt.Sprint(m.Leaf, " ", string(m.Credential.Identity)))
		}
		slices.Sort(names)
		return names
	}
	at := func(i int, name string) string { return fmt.Sprint(i, " ", name) }
	unused := len(slices.DeleteFunc(slices.Clone(waiting), func(p *modelProposal) bool {
		return slices.ContainsFunc(c.list, func(q modelItem) bool { return q.modelProposal == p })
	}))
	for _, p := range c.list {
		switch p.kind {
		case mls.ProposalAdd:
			added = append(added, at(c.result.tree.find(p.leaf.name), p.leaf.name))
		case mls.ProposalRemove:
			removed = append(removed, at(p.target, was.tree.leaf(p.target).name))
		case mls.ProposalUpdate:
			updated = append(updated, at(p.from, p.leaf.name))
		}
	}
	if c.leaf != nil && !c.external {
		updated = append(updated, at(c.place, c.leaf.name))
	}
	for _, l := range [][]string{added, removed, updated} {
		slices.Sort(l)
		want = append(append(want, l...), ";")
	}
	have := append(append(names(got.Added), ";"), append(append(names(got.Removed), ";"), append(names(got.Updated), ";")...)...)
	covered := len(c.list)
	if c.external {
		covered++ // the ExternalInit, which the model does not know
	}
	if !slices.Equal(have, want) || len(got.Unused) != unused || len(got.Proposals) != covered {
		w.fail("%s: commit of %s in %d: changed %v, %d unused; the model says %v, %d", a.name, c.by.name, was.number, have, len(got.Unused), want, unused)
	}
	place := c.place
	if !c.external {
		place = was.tree.find(c.by.name)
	}
	if got.External != c.external || int(got.Committer.Leaf) != place || string(got.Committer.Credential.Identity) != c.by.name {
		w.fail("%s: the commit of %s at %d is said to be of %s at %d", a.name, c.by.name, place, got.Committer.Credential.Identity, got.Committer.Leaf)
	}
}

func (l *letter) String() string {
	what := "message"
	switch l.content {
	case mls.ContentProposal:
		what = fmt.Sprint("proposal of type ", l.proposal.kind)
	case mls.ContentCommit:
		what = "commit"
		if l.commit.external {
			what = "external commit"
		}
	}
	if l.private {
		what = fmt.Sprint("private ", what, " ", l.generation)
	}
	return fmt.Sprintf("%s of %s in %d", what, l.name, l.epoch.number)
}

// A shot is what a store held at a time.
type shot map[record.Kind][]record.Record

func snapshot(r records) shot {
	s := shot{}
	for kind, list := range r {
		s[kind] = slices.Clone(list)
	}
	return s
}

func (s shot) same(r records) bool {
	for kind := range r {
		if !slices.EqualFunc(s[kind], r[kind], func(a, b record.Record) bool { return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) }) {
			return false
		}
	}
	return true
}
