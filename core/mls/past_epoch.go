// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// A pastEpoch still opens application messages that arrive late (FS-7). Its tree
// is read from the page versions of its time, so that a message is attributed to
// who was at that leaf then (CRD-7).
type pastEpoch struct {
	context      GroupContext
	contextBytes []byte
	senderData   core.Secret
	own          LeafIndex
	tree         *tree
	messages     *secretTree
	replaced     []pageVersion // page versions that end with this epoch
}

// asEpoch is what opens messages of the current epoch.
func (g *Group) asEpoch() *pastEpoch {
	return &pastEpoch{context: g.context, contextBytes: g.contextBytes, senderData: g.secrets.senderData,
		own: g.own, tree: g.tree, messages: g.messages}
}

func (p *pastEpoch) record(leaves uint32) []byte {
	b := appendOpaque([]byte{recordFormat}, p.contextBytes)
	b = appendOpaque(b, p.senderData.Bytes())
	b = appendU32(appendU32(b, uint32(p.own)), leaves)
	return appendList(b, p.replaced, func(v pageVersion, b []byte) []byte { return append(b, v.key()...) })
}

// pastEpoch returns a kept epoch, from memory or from its record.
func (g *Group) pastEpoch(ctx context.Context, env *Env, epoch uint64) (*pastEpoch, error) {
	for _, p := range g.past {
		if p.context.Epoch == epoch {
			return p, nil
		}
	}
	data, err := env.Fetch.One(ctx, RecordPastEpoch, epochKey(epoch))
	if err != nil {
		return nil, err
	}
	if data == nil {
		return nil, fmt.Errorf("past epoch %d: %w", epoch, core.ErrDamaged)
	}
	p := &pastEpoch{}
	var leaves uint32
	err = unmarshalRecord("past epoch", data, func(r *reader) {
		p.contextBytes = r.opaque()
		r.within(p.contextBytes, func(r *reader) { p.context = readGroupContext(r) })
		p.senderData = core.NewSecret(r.opaque())
		p.own = LeafIndex(r.u32())
		leaves = r.u32()
		r.list(func(r *reader) { p.replaced = append(p.replaced, readPageVersion(r)) })
	})
	if err != nil {
		return nil, err
	}
	p.tree = loadTree(g.suite, leaves, epoch)
	p.messages = loadSecretTree(g.suite, epoch, leaves, g.config.limits())
	return p, nil
}

// withPast returns the group with a past epoch at hand, loaded or in memory before.
func (g *Group) withPast(p *pastEpoch) *Group {
	if slices.Contains(g.past, p) {
		return g
	}
	next := *g
	next.past = append(slices.Clip(g.past), p)
	return &next
}

// withPastMessages returns the group with the secret tree of a past epoch replaced,
// if the epoch is at hand.
func (g *Group) withPastMessages(epoch uint64, messages *secretTree) *Group {
	next := *g
	next.past = slices.Clone(g.past)
	for i, p := range next.past {
		if p.context.Epoch == epoch {
			was := *p
			was.messages = messages
			next.past[i] = &was
		}
	}
	return &next
}
