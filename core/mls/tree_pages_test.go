// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// A pageStore answers as a store does.
type pageStore struct {
	records []record.Record // sorted by key
	calls   int
	asked   int
}

func (s *pageStore) find(key []byte) (int, bool) {
	return slices.BinarySearchFunc(s.records, key, func(r record.Record, key []byte) int { return bytes.Compare(r.Key, key) })
}

// apply fails the test if a key is put twice.
func (s *pageStore) apply(t testing.TB, ws *record.WriteSet) {
	t.Helper()
	for _, d := range ws.Dels {
		s.records = slices.DeleteFunc(s.records, func(r record.Record) bool { return bytes.HasPrefix(r.Key, d.Prefix) })
	}
	seen := map[string]bool{}
	for _, r := range ws.Puts {
		if r.Kind != RecordPage || len(r.Key) != 13 || seen[string(r.Key)] {
			t.Fatalf("kind %d, key %x", r.Kind, r.Key)
		}
		seen[string(r.Key)] = true
		i, found := s.find(r.Key)
		if found {
			s.records[i] = r
		} else {
			s.records = slices.Insert(s.records, i, r)
		}
	}
}

func (s *pageStore) fetch(_ context.Context, queries []record.Query) ([][]record.Record, error) {
	s.calls++
	s.asked += len(queries)
	answers := make([][]record.Record, len(queries))
	for k, q := range queries {
		i, _ := s.find(q.Prefix)
		for ; i < len(s.records) && bytes.HasPrefix(s.records[i].Key, q.Prefix); i++ {
			if bytes.Compare(s.records[i].Key, q.After) > 0 && (q.Limit == 0 || len(answers[k]) < q.Limit) {
				answers[k] = append(answers[k], s.records[i])
			}
		}
	}
	return answers, nil
}

// checkReload compares a tree with what the store gives back, whole and in parts.
func (s *pageStore) checkReload(t testing.TB, want *tree, epoch uint64, r *rand.Rand) {
	t.Helper()
	ctx := context.Background()
	whole := loadTree(want.suite, want.size(), epoch)
	if err := whole.needAll(ctx, s.fetch); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(whole.hash(), want.hash()) || !bytes.Equal(whole.appendTo(nil), want.appendTo(nil)) {
		t.Fatal("the tree is not read as it was written")
	}
	for n := range 2*NodeIndex(want.size()) - 1 {
		if !bytes.Equal(whole.nodeHash(n), want.nodeHash(n)) {
			t.Fatalf("tree hash of node %d after a reload", n)
		}
	}
	i := LeafIndex(r.Uint32N(want.size()))
	for _, load := range []func(*tree) error{
		func(t *tree) error { return t.needLeaf(ctx, s.fetch, i) },
		func(t *tree) error { return t.need(ctx, s.fetch, i) },
	} {
		part := loadTree(want.suite, want.size(), epoch)
		if err := load(part); err != nil {
			t.Fatal(err)
		}
		if got, want := part.leaf(i), want.leaf(i); (got == nil) != (want == nil) || got != nil && !got.equal(want) {
			t.Fatalf("leaf %d is not read as it was written", i)
		}
	}
	part := loadTree(want.suite, want.size(), epoch)
	if err := part.need(ctx, s.fetch, i); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(part.hash(), want.hash()) {
		t.Fatal("tree hash of a tree that is loaded in part")
	}
	// A change is hashed without the pages beside the path.
	a, b := part.edit(), want.edit()
	leaf := *firstLeaf(want)
	a.updateLeaf(i, &leaf)
	b.updateLeaf(i, &leaf)
	if !bytes.Equal(a.hash(), b.hash()) {
		t.Fatal("tree hash of a tree that is loaded in part, after a change")
	}
}

func firstLeaf(t *tree) *LeafNode {
	for _, leaf := range t.leaves() {
		return leaf
	}
	return nil
}

// pagesOf counts the pages that are not blank.
func pagesOf(t *tree) (n int) {
	for _, refs := range t.pages {
		for _, ref := range refs {
			if ref != nil {
				n++
			}
		}
	}
	return n
}

// wideTree is a tree of n leaves with made-up keys.
func wideTree(suite core.Suite, n int) *tree {
	t := newTree(suite)
	for i := range n {
		t.addLeaf(wideLeaf(i))
	}
	return t
}

func wideLeaf(i int) *LeafNode {
	key := func(kind byte) []byte { return appendU32(append(bytes.Repeat([]byte{kind}, 27), 0), uint32(i)) }
	return &LeafNode{EncryptionKey: key(1), SignatureKey: key(2), Credential: core.BasicCredential(core.ClientID(key(3))),
		Capabilities: Capabilities{Versions: []ProtocolVersion{MLS10}, Suites: []core.SuiteID{1, 2, 3, 4, 5, 6, 7}, Credentials: []core.CredentialType{1, 2}},
		Source:       LeafKeyPackage, Lifetime: NoLifetime, Signature: make([]byte, 64)}
}

func TestTreePagesLayout(t *testing.T) {
	t.Parallel()
	for depth := range 14 {
		size := NodeIndex(1) << depth
		slots := map[[3]int]bool{}
		for n := range 2*size - 1 {
			level, index, slot := locate(n)
			if level >= pageLevels(depth) || index >= pageCount(depth, level) || slots[[3]int{level, index, slot}] {
				t.Fatalf("depth %d: node %d lies at %d, %d, %d", depth, n, level, index, slot)
			}
			slots[[3]int{level, index, slot}] = true
			if level == pageLevels(depth)-1 && slot >= pageNodesAt(depth) {
				t.Fatalf("depth %d: node %d lies beyond the root page", depth, n)
			}
			if root := pageRoot(level, index); root < 2*size-1 && !root.covers(n) {
				t.Fatalf("depth %d: node %d is not below %d", depth, n, root)
			}
		}
	}
}

// A path in a big group crosses a leaf page and one page for every three levels;
// each fetch is one call.
func TestTreePagesAreFew(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := &pageStore{}
	tr := wideTree(testSuite(t, 1), 1000)
	ws := &record.WriteSet{}
	tr.writePages(ws, 7)
	if len(ws.Puts) != 125+16+2+1 {
		t.Errorf("%d pages", len(ws.Puts))
	}
	s.apply(t, ws)
	for _, c := range []struct {
		name   string
		load   func(*tree) error
		asked  int
		loaded int
	}{
		{"leaf", func(t *tree) error { return t.needLeaf(ctx, s.fetch, 700) }, 1, 1},
		{"path", func(t *tree) error { return t.need(ctx, s.fetch, 700) }, 4, 4},
		{"two paths", func(t *tree) error { return t.need(ctx, s.fetch, 700, 0, 1) }, 7, 7},
		{"all", func(t *tree) error { return t.needAll(ctx, s.fetch) }, 1, 144},
	} {
		cold := loadTree(tr.suite, 1024, 8)
		s.calls, s.asked = 0, 0
		if err := c.load(cold); err != nil {
			t.Fatal(err)
		}
		loaded := 0
		for _, refs := range cold.pages {
			for _, ref := range refs {
				if p := ref.state.Load(); p != nil && p.page != nil {
					loaded++
				}
			}
		}
		if s.calls != 1 || s.asked != c.asked || loaded != c.loaded {
			t.Errorf("%s: %d calls, %d queries, %d pages", c.name, s.calls, s.asked, loaded)
		}
		if err := c.load(cold); err != nil || s.calls != 1 {
			t.Errorf("%s: what is loaded is loaded again: %v", c.name, err)
		}
	}
	next := tr.edit()
	next.updateLeaf(700, wideLeaf(7000))
	ws = &record.WriteSet{}
	replaced := next.writePages(ws, 8)
	if len(ws.Puts) != 4 || len(replaced) != 4 || replaced[0].epoch != 7 {
		t.Errorf("%d pages are written, %v replaced", len(ws.Puts), replaced)
	}
	ws = &record.WriteSet{}
	if again := next.writePages(ws, 9); len(again) != 0 || len(ws.Puts) != 0 {
		t.Error("pages that are written are written again")
	}
}

func TestTreePagesLastEpoch(t *testing.T) {
	t.Parallel()
	s := &pageStore{}
	tr := wideTree(testSuite(t, 1), 9)
	for _, epoch := range []uint64{0, 5, math.MaxUint64} {
		tr = tr.edit()
		tr.updateLeaf(3, wideLeaf(int(epoch%1000)+50))
		ws := &record.WriteSet{}
		tr.writePages(ws, epoch)
		s.apply(t, ws)
	}
	for epoch, want := range map[uint64]int{0: 50, 4: 50, 5: 55, 6: 55, math.MaxUint64 - 1: 55, math.MaxUint64: math.MaxUint64%1000 + 50} {
		old := loadTree(tr.suite, 16, epoch)
		if err := old.needLeaf(context.Background(), s.fetch, 3); err != nil || !old.leaf(3).equal(wideLeaf(want)) {
			t.Errorf("epoch %d: %v", epoch, err)
		}
	}
}

// Growth after a truncation must not bring back what was there before.
func TestTreePagesAreBuried(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, c := range []struct {
		keep       LeafIndex
		sameCommit bool
	}{{40, true}, {40, false}, {5, true}, {5, false}} {
		s := &pageStore{}
		suite := testSuite(t, 1)
		epoch := uint64(0)
		var all []pageVersion
		write := func(tr *tree) *tree {
			ws := &record.WriteSet{}
			all = append(all, tr.writePages(ws, epoch)...)
			s.apply(t, ws)
			s.checkReload(t, tr, epoch, rand.New(rand.NewPCG(1, epoch)))
			epoch++
			return tr.edit()
		}
		tr := write(wideTree(suite, 200))
		for i := c.keep; i < 200; i++ {
			tr.removeLeaf(i)
		}
		for i := LeafIndex(8); i < min(24, c.keep); i++ { // blank pages in the middle
			tr.removeLeaf(i)
		}
		tr.truncate()
		if !c.sameCommit {
			tr = write(tr)
		}
		for i := range 60 {
			tr.addLeaf(wideLeaf(1000 + i))
		}
		tr = write(tr)
		for i := range 60 {
			tr.addLeaf(wideLeaf(2000 + i))
		}
		tr = write(tr)
		old := loadTree(suite, 256, 0)
		if err := old.needAll(ctx, s.fetch); err != nil || !bytes.Equal(old.hash(), wideTree(suite, 200).hash()) {
			t.Errorf("the first epoch is lost: %v", err)
		}
		ws := &record.WriteSet{}
		for _, v := range all {
			ws.Del(RecordPage, v.key())
		}
		s.apply(t, ws)
		s.checkReload(t, tr, epoch-1, rand.New(rand.NewPCG(2, epoch)))
		if len(s.records) != pagesOf(tr) {
			t.Errorf("%d records stay for %d pages", len(s.records), pagesOf(tr))
		}
	}
}

func TestTreePagesDamage(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	tr := wideTree(testSuite(t, 1), 200)
	tr.removeLeaf(8) // an all blank page
	for i := LeafIndex(9); i < 16; i++ {
		tr.removeLeaf(i)
	}
	ws := &record.WriteSet{}
	tr.writePages(ws, 3)
	full := &pageStore{}
	full.apply(t, ws)
	fresh := func() *tree { return loadTree(tr.suite, 256, 3) }
	damaged := func(name string, s *pageStore) {
		t.Helper()
		cold := fresh()
		if err := cold.needAll(ctx, s.fetch); !errors.Is(err, core.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for k, r := range full.records {
		lost := &pageStore{records: slices.Delete(slices.Clone(full.records), k, k+1)}
		damaged("a lost page", lost)
		i := LeafIndex(pageRoot(int(r.Key[0]), int(r.Key[4])).leaf())
		if err := fresh().needLeaf(ctx, lost.fetch, i); r.Key[0] == 0 && !errors.Is(err, core.ErrDamaged) {
			t.Errorf("leaf of a lost page: %v", err)
		}
		for name, value := range map[string][]byte{
			"format":    append([]byte{2}, r.Value[1:]...),
			"cut":       r.Value[:len(r.Value)-1],
			"too long":  append(bytes.Clone(r.Value), 0),
			"all blank": append([]byte{1}, make([]byte, len(r.Value)-1)...),
		} {
			s := &pageStore{records: slices.Clone(full.records)}
			s.records[k].Value = value
			damaged(name, s)
		}
	}
	s := &pageStore{records: slices.Clone(full.records)}
	s.records[0].Key = s.records[0].Key[:12]
	damaged("key", s)
	cold := fresh()
	if err := cold.needLeaf(ctx, full.fetch, 9); err != nil || cold.leaf(9) != nil {
		t.Errorf("a leaf of a blank page: %v", err)
	}
	if err := cold.need(ctx, full.fetch, 1<<31, math.MaxUint32); err != nil {
		t.Errorf("leaves out of range: %v", err)
	}
	stop := errors.New("stop")
	if err := fresh().needAll(ctx, func(context.Context, []record.Query) ([][]record.Record, error) { return nil, stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
}

// A page that was not asked for is a mistake that shows at once.
func TestTreePagesUnasked(t *testing.T) {
	t.Parallel()
	defer func() {
		if r, _ := recover().(string); !strings.Contains(r, "before it was asked for") {
			t.Errorf("%v", r)
		}
	}()
	loadTree(testSuite(t, 1), 16, 3).leaf(0)
}

// wideMerge merges a made-up path.
func wideMerge(t *tree, sender LeafIndex, round int) {
	steps := t.filteredDirectPath(sender)
	publics := make([][]byte, len(steps))
	for k := range publics {
		publics[k] = appendU32(appendU32(bytes.Repeat([]byte{byte(k)}, 24), uint32(sender)), uint32(round))
	}
	leaf := *wideLeaf(int(sender))
	leaf.Source, leaf.Lifetime = LeafCommit, Lifetime{}
	var nodes []*ParentNode
	nodes, leaf.ParentHash = t.pathNodes(steps, publics)
	t.mergePath(sender, &leaf, steps, nodes)
}

// BenchmarkTreePathCommit is what a commit with a path costs in a warm tree without
// blank nodes, apart from keys: hashes, parent hashes, and the pages that it writes.
func BenchmarkTreePathCommit(b *testing.B) {
	for _, n := range []int{8, 100, 1000, 10000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			t := wideTree(testSuite(b, 1), n)
			for i := 0; i < n; i += 2 {
				wideMerge(t, LeafIndex(i), 0)
			}
			t.writePages(&record.WriteSet{}, 1)
			written := 0
			round := 1
			for b.Loop() {
				round++
				next := t.edit()
				wideMerge(next, LeafIndex(round*7%n), round)
				next.hash()
				ws := &record.WriteSet{}
				next.writePages(ws, uint64(round))
				for _, r := range ws.Puts {
					written += len(r.Key) + len(r.Value)
				}
				t = next
			}
			b.ReportMetric(float64(written)/float64(round-1), "page-bytes/op")
		})
	}
}

// BenchmarkTreeLoad reads a whole tree.
func BenchmarkTreeLoad(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			s := &pageStore{}
			ws := &record.WriteSet{}
			t := wideTree(testSuite(b, 1), n)
			t.writePages(ws, 1)
			s.apply(b, ws)
			for b.Loop() {
				if err := loadTree(t.suite, t.size(), 1).needAll(context.Background(), s.fetch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
