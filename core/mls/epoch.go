// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// A transition is everything that a new epoch is made of, checked and complete.
type transition struct {
	tree    *tree // the working tree, all changes merged
	context GroupContext
	secrets *epochSecrets
	tag     []byte // confirmation tag
	own     LeafIndex
	keys    *privateKeys
	reinit  *ReInit
	leaving *pastEpoch // record of the epoch that leaves the window, if one does
}

// enter makes the value of the new epoch and writes down what changed. Nothing
// that depends on a peer can fail here.
func (g *Group) enter(tr transition, ws *record.WriteSet) *Group {
	next := &Group{
		suite:        g.suite,
		config:       g.config,
		context:      tr.context,
		contextBytes: marshal(&tr.context),
		interim:      interimTranscriptHash(g.suite, tr.context.ConfirmedTranscriptHash, tr.tag),
		tag:          tr.tag,
		own:          tr.own,
		active:       tr.reinit == nil,
		reinit:       tr.reinit,
		secrets:      tr.secrets,
		tree:         tr.tree,
		keys:         tr.keys,
		proposals:    &proposalStore{},
	}
	replaced := tr.tree.writePages(ws, tr.context.Epoch)
	next.oldest = tr.context.Epoch
	if g.secrets != nil {
		g.leave(next, tr.leaving, replaced, ws)
	}
	next.messages = newSecretTree(g.suite, tr.context.Epoch, tr.tree.size(), g.config.limits(), tr.secrets.encryption, ws)
	tr.secrets.encryption = core.Secret{} // it is the secret tree's now
	next.keys.write(ws)
	ws.Put(RecordHeader, nil, next.header())
	return next
}

func (c Config) limits() ratchetLimits {
	return ratchetLimits{tolerance: c.OutOfOrder, maxForward: c.MaxForward}
}

// leave turns the epoch g into a past one of next: it goes on opening late
// messages until it falls out of the window.
func (g *Group) leave(next *Group, leaving *pastEpoch, replaced []pageVersion, ws *record.WriteSet) {
	window := uint64(g.config.MaxPastEpochs)
	next.oldest = g.oldest
	if window == 0 {
		gone := &record.WriteSet{}
		for _, p := range replaced {
			gone.Del(RecordPage, p.key())
		}
		ws.Follow(gone) // blank versions, which hide pages from now on, have nothing to hide
		deleteEpoch(ws, g.context.Epoch)
		ws.Del(RecordFloors, epochKey(g.context.Epoch))
		next.oldest = next.context.Epoch
	} else {
		was := g.asEpoch()
		was.replaced = replaced
		ws.Put(RecordPastEpoch, epochKey(g.context.Epoch), was.record(g.tree.size()))
		next.past = append(slices.Clone(g.past), was)
	}
	if leaving != nil {
		for _, p := range leaving.replaced {
			ws.Del(RecordPage, p.key())
		}
		deleteEpoch(ws, leaving.context.Epoch)
		ws.Del(RecordFloors, epochKey(leaving.context.Epoch))
		ws.Del(RecordPastEpoch, epochKey(leaving.context.Epoch))
		ws.Retire(leaving.senderData)
		ws.Retire(leaving.messages.secrets()...)
		next.oldest = leaving.context.Epoch + 1
		next.past = slices.DeleteFunc(next.past, func(p *pastEpoch) bool { return p.context.Epoch < next.oldest })
	}
	next.resumption = append(slices.Clone(g.resumption), resumptionPSK{g.context.Epoch, g.secrets.resumption})
	for len(next.resumption) > int(g.config.ResumptionEpochs) {
		ws.Retire(next.resumption[0].secret)
		next.resumption = next.resumption[1:]
	}
	ws.Retire(g.secrets.exporter, g.secrets.external, g.secrets.confirmation, g.secrets.membership,
		g.secrets.authentication, g.secrets.init)
	if window == 0 {
		ws.Retire(g.secrets.senderData)
		ws.Retire(g.messages.secrets()...)
	}
	if g.keys != nil {
		ws.Retire(g.keys.retired(next.keys)...)
	}
	ws.Del(RecordProposal, nil)
	ws.Del(RecordPending, nil)
}

// leavingEpoch loads the past epoch that the next commit pushes out of the window.
func (g *Group) leavingEpoch(ctx context.Context, env *Env) (*pastEpoch, error) {
	if g.oldest == g.context.Epoch || g.context.Epoch-g.oldest < uint64(g.config.MaxPastEpochs) {
		return nil, nil
	}
	return g.pastEpoch(ctx, env, g.oldest)
}

// header encodes what is rewritten with each epoch.
func (g *Group) header() []byte {
	b := g.config.append([]byte{recordFormat})
	b = appendOpaque(b, g.contextBytes)
	b = appendOpaque(appendOpaque(b, g.interim), g.tag)
	b = appendU32(b, uint32(g.own))
	b = appendU32(b, g.tree.size())
	b = appendU64(b, g.oldest)
	b = appendPresent(b, g.active)
	b = appendPresent(b, g.reinit != nil)
	if g.reinit != nil {
		b = g.reinit.append(b)
	}
	b = appendList(b, g.resumption, func(p resumptionPSK, b []byte) []byte {
		return appendOpaque(appendU64(b, p.epoch), p.secret.Bytes())
	})
	return g.secrets.append(b)
}

// Load opens a group from its header record. Everything else is fetched when an
// operation needs it.
func Load(suites core.SuiteSource, header []byte) (*Group, error) {
	g := &Group{}
	var leaves uint32
	var suiteErr error
	err := unmarshalRecord("group header", header, func(r *reader) {
		g.config = readConfig(r)
		g.contextBytes = r.opaque()
		r.within(g.contextBytes, func(r *reader) { g.context = readGroupContext(r) })
		if g.suite, suiteErr = suites.Suite(g.context.Suite); suiteErr != nil {
			r.fail()
			return
		}
		g.interim, g.tag = r.opaque(), r.opaque()
		g.own = LeafIndex(r.u32())
		leaves = r.u32()
		g.oldest = r.u64()
		g.active = r.present()
		if r.present() {
			g.reinit = readProposalBody(r, ProposalReInit).(*ReInit)
		}
		r.list(func(r *reader) {
			g.resumption = append(g.resumption, resumptionPSK{epoch: r.u64(), secret: core.NewSecret(r.opaque())})
		})
		g.secrets = readEpochSecrets(r, g.suite)
	})
	if suiteErr != nil {
		return nil, suiteErr
	}
	if err != nil {
		return nil, err
	}
	g.tree = loadTree(g.suite, leaves, g.context.Epoch)
	g.messages = loadSecretTree(g.suite, g.context.Epoch, leaves, g.config.limits())
	return g, nil
}
