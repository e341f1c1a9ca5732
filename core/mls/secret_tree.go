// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"fmt"
	"math/bits"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// A secretTree gives the keys of all messages of one epoch (RFC 9420 section 9).
// It is an immutable value and only as large as what was used: every leaf is
// covered either by exactly one frontier node, from which its ratchets can still
// be derived, or by its two ratchets. Using a leaf replaces the frontier node
// above it by the siblings on the way down (FS-8). Both kinds of covers are
// records; those that are in memory need no fetch.
type secretTree struct {
	suite    core.Suite
	epoch    uint64
	width    uint32 // leaves of the full tree, a power of two
	limits   ratchetLimits
	nodes    trie[core.Secret] // frontier, by node index
	ratchets trie[*ratchet]    // by ratchetID
	floors   [2]uint32         // first generation to send with, by kind
}

// ratchetID is a ratchet's place in the trie: two for a leaf, as in the records.
func ratchetID(leaf LeafIndex, kind ratchetKind) uint32 { return uint32(leaf)<<1 | uint32(kind) }

// loadSecretTree is the tree of an epoch whose records are stored. Leaves is the
// number of leaves of the ratchet tree, blank ones included.
func loadSecretTree(suite core.Suite, epoch uint64, leaves uint32, limits ratchetLimits) *secretTree {
	width := uint32(1)
	if leaves > 1 {
		width = 1 << bits.Len32(leaves-1)
	}
	return &secretTree{suite: suite, epoch: epoch, width: width, limits: limits}
}

// newSecretTree is the tree of a new epoch. It owns the encryption secret.
func newSecretTree(suite core.Suite, epoch uint64, leaves uint32, limits ratchetLimits, encryptionSecret core.Secret, ws *record.WriteSet) *secretTree {
	t := loadSecretTree(suite, epoch, leaves, limits)
	root := t.width - 1
	t.nodes = t.nodes.With(root, encryptionSecret)
	ws.Put(RecordTreeNode, t.nodeKey(root), treeNodeRecord(encryptionSecret))
	return t
}

// withFloor makes own messages of a kind start at a generation, or later: the
// ones before it were burnt. A floor is never lowered.
func (t *secretTree) withFloor(kind ratchetKind, generation uint32) *secretTree {
	next := *t
	next.floors[kind] = max(next.floors[kind], generation)
	return &next
}

// seal calls use with the key of the next generation of our own ratchet. If use
// succeeds it returns the next value, in which that key can never come again, and
// writes to ws.
func (t *secretTree) seal(ctx context.Context, fetch record.Fetch, ws *record.WriteSet, leaf LeafIndex, kind ratchetKind, use func(generation uint32, key, nonce core.Secret) error) (*secretTree, error) {
	s := t.step()
	r, err := s.reach(ctx, fetch, leaf, kind)
	if err != nil {
		return nil, s.abandon(err)
	}
	generation, err := r.sendGeneration(t.floors[kind])
	if err != nil {
		return nil, s.abandon(err)
	}
	next, key, err := r.forward(t.suite, generation, 0)
	if err != nil {
		return nil, s.abandon(err)
	}
	defer key.wipe()
	s.replace(leaf, kind, r, next)
	if err := use(generation, key.key, key.nonce); err != nil {
		return nil, s.abandon(err)
	}
	return s.commit(ws), nil
}

// open calls use with the key of a sender's generation. Only if use succeeds does
// it return the next value, in which the key is gone, and write to ws (FS-2,
// FS-3). A generation too far ahead is refused before anything is derived (FS-4).
func (t *secretTree) open(ctx context.Context, fetch record.Fetch, ws *record.WriteSet, leaf LeafIndex, kind ratchetKind, generation uint32, use func(key, nonce core.Secret) error) (*secretTree, error) {
	s := t.step()
	r, err := s.reach(ctx, fetch, leaf, kind)
	if err != nil {
		return nil, s.abandon(err)
	}
	var next *ratchet
	var key messageKey
	switch {
	case uint64(generation) < r.next:
		if key, err = r.find(generation, t.limits); err != nil {
			return nil, s.abandon(err)
		}
		next = r.without(generation) // the key stays in r, and goes when r goes
	case uint64(generation)-r.next > uint64(t.limits.maxForward):
		return nil, s.abandon(ErrTooFarAhead)
	default:
		if next, key, err = r.forward(t.suite, generation, t.limits.tolerance); err != nil {
			return nil, s.abandon(err)
		}
		defer key.wipe()
	}
	s.replace(leaf, kind, r, next)
	if err := use(key.key, key.nonce); err != nil {
		return nil, s.abandon(err)
	}
	return s.commit(ws), nil
}

// secrets lists all secrets in memory, for Retire when the epoch ends.
func (t *secretTree) secrets() (list []core.Secret) {
	for _, secret := range t.nodes.All() {
		list = append(list, secret)
	}
	for _, r := range t.ratchets.All() {
		list = append(list, r.secrets()...)
	}
	return list
}

// deleteEpoch removes the stored secrets of an epoch that leaves the window (FS-7).
func deleteEpoch(ws *record.WriteSet, epoch uint64) {
	ws.Del(RecordRatchet, epochKey(epoch))
	ws.Del(RecordTreeNode, epochKey(epoch))
}

// A treeStep gathers what one use of a ratchet changes. Nothing of it counts
// before it is committed.
type treeStep struct {
	next   secretTree
	writes record.WriteSet
	fresh  []core.Secret // derived or loaded by this step
}

func (t *secretTree) step() *treeStep { return &treeStep{next: *t} }

// commit hands out the changes.
func (s *treeStep) commit(ws *record.WriteSet) *secretTree {
	ws.Follow(&s.writes)
	return &s.next
}

// abandon wipes what only the step knows.
func (s *treeStep) abandon(err error) error {
	for _, secret := range s.fresh {
		secret.Wipe()
	}
	return err
}

// replace puts the ratchet that a message left behind in the place of r.
func (s *treeStep) replace(leaf LeafIndex, kind ratchetKind, r, next *ratchet) {
	if next.next != r.next {
		s.fresh = append(s.fresh, next.secret)
		for _, k := range next.skipped {
			if uint64(k.generation) >= r.next {
				s.fresh = append(s.fresh, k.key, k.nonce)
			}
		}
	}
	s.next.ratchets = s.next.ratchets.With(ratchetID(leaf, kind), next)
	s.writes.Puts = append(s.writes.Puts, s.next.ratchetRecord(leaf, kind, next))
	s.writes.Retire(r.dropped(next)...)
}

// reach finds a ratchet: in memory, or derived from a node in memory, or with one
// fetch that asks for all places where it can be.
func (s *treeStep) reach(ctx context.Context, fetch record.Fetch, leaf LeafIndex, kind ratchetKind) (*ratchet, error) {
	t := &s.next
	if uint32(leaf) >= t.width {
		return nil, breach("FR-6", "leaf %d of %d", leaf, t.width)
	}
	if r, ok := t.ratchets.Get(ratchetID(leaf, kind)); ok {
		return r, nil
	}
	path := t.path(leaf)
	for i := len(path) - 1; i >= 0; i-- {
		if secret, ok := t.nodes.Get(path[i].index); ok {
			return s.derive(path[i:], secret, leaf, kind)
		}
	}

	queries := []record.Query{{Kind: RecordRatchet, Prefix: t.ratchetKey(leaf, kind), Limit: 1}}
	for _, n := range path {
		queries = append(queries, record.Query{Kind: RecordTreeNode, Prefix: t.nodeKey(n.index), Limit: 1})
	}
	answers, err := fetch(ctx, queries)
	if err != nil {
		return nil, err
	}
	if len(answers) != len(queries) {
		return nil, fmt.Errorf("%d answers to %d queries: %w", len(answers), len(queries), core.ErrDamaged)
	}
	value := func(i int) []byte {
		if len(answers[i]) == 0 || !bytes.Equal(answers[i][0].Key, queries[i].Prefix) {
			return nil
		}
		return answers[i][0].Value
	}
	if v := value(0); v != nil {
		var r *ratchet
		err := unmarshalRecord("ratchet", v, func(in *reader) { r = readRatchet(in, t.suite) })
		if err != nil {
			return nil, err
		}
		s.fresh = append(s.fresh, r.secrets()...)
		return r, nil
	}
	for i := len(path) - 1; i >= 0; i-- {
		if v := value(i + 1); v != nil {
			secret, err := readTreeNode(v, t.suite)
			if err != nil {
				return nil, err
			}
			s.fresh = append(s.fresh, secret)
			return s.derive(path[i:], secret, leaf, kind)
		}
	}
	return nil, fmt.Errorf("secrets of leaf %d in epoch %d: %w", leaf, t.epoch, core.ErrDamaged)
}

// derive goes down from a frontier node, which it consumes, to a leaf: it leaves
// the siblings on the way and the leaf's two ratchets.
func (s *treeStep) derive(path []treePathNode, secret core.Secret, leaf LeafIndex, kind ratchetKind) (*ratchet, error) {
	t := &s.next
	s.writes.Del(RecordTreeNode, t.nodeKey(path[0].index))
	t.nodes = t.nodes.Without(path[0].index)
	for i, n := range path[1:] {
		var children [2]core.Secret
		for side, name := range []string{"left", "right"} {
			child, err := expandWithLabel(t.suite, secret, "tree", []byte(name), t.suite.Parameters().Nh)
			if err != nil {
				return nil, err
			}
			s.fresh = append(s.fresh, child)
			children[side] = child
		}
		if i > 0 {
			secret.Wipe()
		} else {
			s.writes.Retire(secret)
		}
		secret = children[n.side]
		sibling := children[1-n.side]
		t.nodes = t.nodes.With(n.sibling, sibling)
		s.writes.Put(RecordTreeNode, t.nodeKey(n.sibling), treeNodeRecord(sibling))
	}
	if len(path) > 1 {
		defer secret.Wipe()
	} else {
		s.writes.Retire(secret)
	}

	var ratchets [2]*ratchet
	for k := range ratchets {
		r, err := newRatchet(t.suite, secret, ratchetKind(k))
		if err != nil {
			return nil, err
		}
		s.fresh = append(s.fresh, r.secret)
		ratchets[k] = r
	}
	other := 1 - kind // the one asked for is stored after its step
	t.ratchets = t.ratchets.With(ratchetID(leaf, other), ratchets[other])
	s.writes.Puts = append(s.writes.Puts, t.ratchetRecord(leaf, other, ratchets[other]))
	return ratchets[kind], nil
}

// A treePathNode is a node on the way to a leaf; side and sibling say how it
// hangs below the node before it.
type treePathNode struct {
	index, sibling uint32
	side           int // 0 left, 1 right
}

// path lists the nodes from the root down to a leaf. The node over the leaves
// first to first+width-1 has index 2*first+width-1.
func (t *secretTree) path(leaf LeafIndex) []treePathNode {
	first, width := uint32(0), t.width
	path := make([]treePathNode, 1, bits.Len32(width))
	path[0].index = width - 1
	for width > 1 {
		width /= 2
		n := treePathNode{index: 2*first + width - 1, sibling: 2*(first+width) + width - 1}
		if uint32(leaf) >= first+width {
			first += width
			n = treePathNode{index: n.sibling, sibling: n.index, side: 1}
		}
		path = append(path, n)
	}
	return path
}

func (t *secretTree) nodeKey(node uint32) []byte { return appendU32(epochKey(t.epoch), node) }

func (t *secretTree) ratchetKey(leaf LeafIndex, kind ratchetKind) []byte {
	return append(appendU32(epochKey(t.epoch), uint32(leaf)), byte(kind))
}

func (t *secretTree) ratchetRecord(leaf LeafIndex, kind ratchetKind, r *ratchet) record.Record {
	return record.Record{Kind: RecordRatchet, Key: t.ratchetKey(leaf, kind), Value: r.append(nil)}
}

func treeNodeRecord(secret core.Secret) []byte {
	return append([]byte{recordFormat}, secret.Bytes()...)
}

func readTreeNode(record []byte, suite core.Suite) (secret core.Secret, err error) {
	err = unmarshalRecord("secret tree node", record, func(r *reader) {
		secret = core.NewSecret(r.take(suite.Parameters().Nh))
	})
	return secret, err
}
