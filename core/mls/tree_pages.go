// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// The tree is cut into pages by subtrees, so that the path of a leaf crosses few
// of them and a page never moves: the tree grows and shrinks at its right edge.
// A page of level 0 is the complete subtree over 8 leaves; one of level L is the
// complete subtree of three levels above it, truncated by the tree's height, and
// holds the tree hashes of the 8 subtrees below, so that a change is hashed without
// their pages. A page that does not exist stands for a subtree that is all blank.

const (
	leafPageLevels  = 4  // levels 0 to 3
	leafPageNodes   = 15 // in array order
	upperPageLevels = 3
	upperPageNodes  = 1<<upperPageLevels - 1
	pageFanOut      = 1 << upperPageLevels // pages below an upper page
)

// pageLevels is the number of page levels of a tree.
func pageLevels(depth int) int {
	return 1 + (max(depth, leafPageLevels-1)-leafPageLevels+upperPageLevels)/upperPageLevels
}

// pageTop is the highest node level in pages of a level.
func pageTop(level int) int { return leafPageLevels - 1 + level*upperPageLevels }

// pageCount is the number of pages of a level, 0 if the tree is too low for it.
func pageCount(depth, level int) int {
	if level >= pageLevels(depth) {
		return 0
	}
	return 1 << max(depth-pageTop(level), 0)
}

// pageNodesAt is how many nodes the topmost page has.
func pageNodesAt(depth int) int {
	if depth < leafPageLevels {
		return 2<<depth - 1
	}
	return 1<<(depth-pageTop(pageLevels(depth)-2)) - 1
}

// locate finds a node: its page and its place in it, in array order.
func locate(n NodeIndex) (level, index, slot int) {
	at := int(n) + 1
	if k := n.level(); k >= leafPageLevels {
		level = (k-leafPageLevels)/upperPageLevels + 1
		at >>= leafPageLevels + (level-1)*upperPageLevels
		return level, at / pageFanOut, at%pageFanOut - 1
	}
	return 0, at / (leafPageNodes + 1), at%(leafPageNodes+1) - 1
}

// pageRoot is the topmost node of a page, unless the tree is lower than that.
func pageRoot(level, index int) NodeIndex {
	return NodeIndex((2*index+1)<<pageTop(level) - 1)
}

// A page is immutable but for the tree that owns it.
type page struct {
	owner  *treeOwner
	nodes  []Node
	hashes [][]byte // nil: not known
	below  [][]byte // upper pages: hashes of the subtrees below; nil: not known or beyond the tree
}

func newPage(level int) *page {
	if level == 0 {
		return &page{nodes: make([]Node, leafPageNodes), hashes: make([][]byte, leafPageNodes)}
	}
	return &page{nodes: make([]Node, upperPageNodes), hashes: make([][]byte, upperPageNodes), below: make([][]byte, pageFanOut)}
}

type pageID struct {
	level uint8
	index uint32
}

// A pageRef is one version of a page, shared by all trees that have it.
type pageRef struct {
	asOf  uint64 // the version is the newest not later than this epoch
	state atomic.Pointer[pageState]
}

// A pageState never changes.
type pageState struct {
	page   *page  // nil: blank
	epoch  uint64 // of the stored version
	stored bool   // there is a stored version
	dirty  bool   // changed since
}

func (r *pageRef) loadedState() *pageState {
	s := r.state.Load()
	if s == nil {
		panic("mls: a tree page is used before it was asked for") // a mistake of this package
	}
	return s
}

func newPageRef(s pageState) *pageRef {
	r := &pageRef{}
	r.state.Store(&s)
	return r
}

// page returns a page that is loaded; nil if it is blank.
func (t *tree) page(level, index int) *page {
	ref := t.pages[level][index]
	if ref == nil {
		return nil
	}
	return ref.loadedState().page
}

// own returns a page that may be changed.
func (t *tree) own(level, index int) *page {
	if t.frozen.Load() {
		panic("mls: a tree is changed after it was shared") // a mistake of this package
	}
	s := pageState{}
	if ref := t.pages[level][index]; ref != nil {
		s = *ref.loadedState()
	}
	if s.page != nil && s.page.owner == t.owner {
		return s.page
	}
	p := newPage(level)
	if s.page != nil {
		copy(p.nodes, s.page.nodes)
		copy(p.hashes, s.page.hashes)
		copy(p.below, s.page.below)
	}
	p.owner = t.owner
	s.page, s.dirty = p, true
	t.pages[level][index] = newPageRef(s)
	return p
}

// A pageVersion names a stored version of a page.
type pageVersion struct {
	level uint8
	index uint32
	epoch uint64
}

// key is the key of its record: 13 bytes.
func (v pageVersion) key() []byte {
	return appendU64(appendU32([]byte{v.level}, v.index), ^v.epoch)
}

func readPageVersion(r *reader) pageVersion {
	return pageVersion{level: r.u8(), index: r.u32(), epoch: ^r.u64()}
}

// writePages puts each page that changed since edit, under a new epoch; the tree
// is shared from then on. It returns the versions that nobody needs who does not
// look at an earlier epoch: those that were replaced, and the empty records that
// hide a page which is gone.
func (t *tree) writePages(ws *record.WriteSet, epoch uint64) (replaced []pageVersion) {
	t.hash()
	bury := func(v pageVersion) {
		v.epoch = epoch
		ws.Put(RecordPage, v.key(), nil)
		replaced = append(replaced, v)
	}
	for level, refs := range t.pages {
		for index, ref := range refs {
			if ref == nil {
				continue
			}
			s := ref.state.Load()
			if s == nil || !s.dirty {
				continue
			}
			v := pageVersion{level: uint8(level), index: uint32(index), epoch: s.epoch}
			if s.stored && s.epoch != epoch {
				replaced = append(replaced, v)
			}
			if level < len(t.pages)-1 && t.isBlankPage(level, index) {
				if s.stored {
					bury(v)
				}
				refs[index] = nil
				continue
			}
			v.epoch = epoch
			ws.Put(RecordPage, v.key(), t.appendPage(nil, level, index))
			refs[index] = newPageRef(pageState{page: s.page, epoch: epoch, stored: true})
		}
	}
	for _, id := range sortedPages(t.dropped) {
		v := pageVersion{level: id.level, index: id.index, epoch: t.dropped[id]}
		if v.epoch != epoch {
			replaced = append(replaced, v)
		}
		if level := int(id.level); level < len(t.pages) && int(id.index) < len(t.pages[level]) && t.pages[level][id.index] != nil {
			continue // the tree grew again, and the page was put above
		}
		bury(v)
	}
	t.dropped = nil
	t.frozen.Store(true)
	return replaced
}

func sortedPages(m map[pageID]uint64) []pageID {
	ids := make([]pageID, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b pageID) int {
		return bytes.Compare(pageVersion{level: a.level, index: a.index}.key(), pageVersion{level: b.level, index: b.index}.key())
	})
	return ids
}

// isBlankPage reports whether a page and all below it are known to be blank.
func (t *tree) isBlankPage(level, index int) bool {
	for _, n := range t.page(level, index).nodes {
		if n != (Node{}) {
			return false
		}
	}
	if level > 0 {
		for _, ref := range t.pages[level-1][pageFanOut*index:][:pageFanOut] {
			if ref != nil {
				return false
			}
		}
	}
	return true
}

// appendPage encodes a page: its nodes in order, then the hashes below it. The
// hashes within it are cheap to make again.
func (t *tree) appendPage(b []byte, level, index int) []byte {
	b = append(b, recordFormat)
	p := t.page(level, index)
	for _, n := range p.nodes {
		b = n.append(b)
	}
	for i := range p.below {
		var h []byte
		if below := pageFanOut*index + i; below < len(t.pages[level-1]) {
			h = t.nodeHash(pageRoot(level-1, below))
		}
		b = appendOpaque(b, h)
	}
	return b
}

// readPage decodes a page; an empty record is a blank page.
func (t *tree) readPage(level, index int, data []byte) (*page, error) {
	if len(data) == 0 {
		return nil, nil
	}
	p := newPage(level)
	err := unmarshalRecord("tree page", data, func(r *reader) {
		for i := range p.nodes {
			p.nodes[i] = readNode(r)
			isLeaf := level == 0 && i%2 == 0
			if p.nodes[i].Parent != nil && isLeaf || p.nodes[i].Leaf != nil && !isLeaf {
				r.fail()
			}
		}
		for i := range p.below {
			h := r.opaque()
			within := pageFanOut*index+i < len(t.pages[level-1])
			if within != (len(h) > 0) {
				r.fail()
			}
			if within { // what is empty must be nil: the tree may grow
				p.below[i] = h
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// loadTree returns the tree of an epoch, of which nothing is loaded yet: need,
// needLeaf or needAll come before every use.
func loadTree(suite core.Suite, leafCount uint32, epoch uint64) *tree {
	t := &tree{suite: suite}
	for t.depth < 30 && t.size() < leafCount {
		t.depth++
	}
	t.resize(t.depth)
	for level := range t.pages {
		refs := make([]pageRef, len(t.pages[level]))
		for index := range refs {
			refs[index].asOf = epoch
			t.pages[level][index] = &refs[index]
		}
	}
	t.frozen.Store(true)
	return t
}

// need loads the pages on the paths of the leaves, in one call of fetch. Leaves
// out of range are passed over.
func (t *tree) need(ctx context.Context, fetch record.Fetch, leaves ...LeafIndex) error {
	var want []pageID
	for _, i := range leaves {
		if uint32(i) >= t.size() {
			continue
		}
		_, index, _ := locate(i.node())
		for level := range t.pages {
			want = append(want, pageID{uint8(level), uint32(index)})
			index /= pageFanOut
		}
	}
	return t.load(ctx, fetch, want)
}

// needLeaf loads the page of one leaf.
func (t *tree) needLeaf(ctx context.Context, fetch record.Fetch, i LeafIndex) error {
	if uint32(i) >= t.size() {
		return nil
	}
	_, index, _ := locate(i.node())
	err := t.load(ctx, fetch, []pageID{{0, uint32(index)}})
	if errors.Is(err, errUnproven) {
		return t.need(ctx, fetch, i)
	}
	return err
}

// needAll loads the whole tree.
func (t *tree) needAll(ctx context.Context, fetch record.Fetch) error {
	var want []pageID
	for level, refs := range t.pages {
		for index := range refs {
			want = append(want, pageID{uint8(level), uint32(index)})
		}
	}
	return t.load(ctx, fetch, want)
}

// errUnproven: there is no record of a page, and the page above is not at hand to
// say that it is blank.
var errUnproven = errors.New("mls: missing tree page")

// load fetches the pages that are not loaded.
func (t *tree) load(ctx context.Context, fetch record.Fetch, want []pageID) error {
	want = slices.DeleteFunc(want, func(id pageID) bool {
		ref := t.pages[id.level][id.index]
		return ref == nil || ref.state.Load() != nil
	})
	if len(want) == 0 {
		return nil
	}
	// Upper pages first: they say whether a page below may be missing.
	slices.SortFunc(want, func(a, b pageID) int {
		if a.level != b.level {
			return int(b.level) - int(a.level)
		}
		return int(int64(a.index) - int64(b.index))
	})
	want = slices.Compact(want)
	found, err := t.fetchPages(ctx, fetch, want)
	if err != nil {
		return err
	}
	for _, id := range want {
		level, index := int(id.level), int(id.index)
		s := pageState{}
		if rec, ok := found[id]; ok {
			s.epoch, s.stored = rec.epoch, true
			if s.page, err = t.readPage(level, index, rec.value); err != nil {
				return fmt.Errorf("tree page %d of level %d: %w", id.index, id.level, err)
			}
		}
		if s.page == nil {
			if err := t.proveBlank(level, index); err != nil {
				return fmt.Errorf("tree page %d of level %d: %w", id.index, id.level, err)
			}
			s = pageState{} // an empty record goes with the versions it hides
		}
		t.pages[level][index].state.CompareAndSwap(nil, &s)
	}
	return nil
}

// proveBlank makes sure that a page without a record is blank and not lost: a
// writer elsewhere may have deleted what this tree still refers to.
func (t *tree) proveBlank(level, index int) error {
	if level == len(t.pages)-1 {
		return core.ErrDamaged // over every group there is a member
	}
	ref := t.pages[level+1][index/pageFanOut]
	if ref == nil {
		return nil
	}
	s := ref.state.Load()
	if s == nil {
		return errUnproven
	}
	if s.page == nil || bytes.Equal(s.page.below[index%pageFanOut], t.blankHash(pageRoot(level, index))) {
		return nil
	}
	return core.ErrDamaged
}

type foundPage struct {
	epoch uint64
	value []byte
}

// scanFrom is the number of pages from which on one query for all versions of all
// pages is cheaper than a query for each; past epochs add few versions.
const scanFrom = 32

// fetchPages finds the newest version not later than its reference's epoch of each page.
func (t *tree) fetchPages(ctx context.Context, fetch record.Fetch, want []pageID) (map[pageID]foundPage, error) {
	queries := []record.Query{{Kind: RecordPage}}
	if pages := 1 << max(t.depth-pageTop(0), 0); len(want) < scanFrom || 2*len(want) < pages {
		queries = queries[:0]
		for _, id := range want {
			v := pageVersion{level: id.level, index: id.index, epoch: t.pages[id.level][id.index].asOf}
			q := record.Query{Kind: RecordPage, Prefix: v.key()[:5], Limit: 1}
			if v.epoch++; v.epoch != 0 { // the key before the one of the epoch itself
				q.After = v.key()
			}
			queries = append(queries, q)
		}
	}
	answers, err := fetch(ctx, queries)
	if err != nil {
		return nil, err
	}
	found := make(map[pageID]foundPage, len(want))
	for _, records := range answers {
		for _, rec := range records {
			var v pageVersion
			if err := unmarshal("key of a tree page", rec.Key, func(r *reader) { v = readPageVersion(r) }); err != nil {
				return nil, fmt.Errorf("tree page: %w", core.ErrDamaged)
			}
			id := pageID{v.level, v.index}
			if int(id.level) >= len(t.pages) || int(id.index) >= len(t.pages[id.level]) {
				continue // beyond the tree of this epoch
			}
			ref := t.pages[id.level][id.index]
			if _, newer := found[id]; newer || ref == nil || v.epoch > ref.asOf {
				continue
			}
			found[id] = foundPage{v.epoch, rec.Value}
		}
	}
	return found, nil
}
