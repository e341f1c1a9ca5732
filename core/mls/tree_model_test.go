// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// A crowd is a group without messages: the tree, its pages in a store, and the
// private keys of every member.
type crowd struct {
	t       testing.TB
	suite   core.Suite
	groupID []byte
	epoch   uint64
	tree    *tree
	store   *pageStore
	members map[LeafIndex]*crowdMember
	dying   map[uint64][]pageVersion // versions that end with an epoch
}

type crowdMember struct {
	signer core.Signer
	keys   pathKeys
}

// newCrowd makes a group of n, of which the first adds the others without a path.
func newCrowd(t testing.TB, suite core.Suite, n int) *crowd {
	c := &crowd{t: t, suite: suite, groupID: []byte("crowd"), store: &pageStore{}, members: map[LeafIndex]*crowdMember{}, dying: map[uint64][]pageVersion{}}
	work := newTree(suite)
	for range n {
		leaf, m := c.newMember()
		i := work.addLeaf(leaf)
		m.hold(i.node())
		c.members[i] = m
	}
	c.enter(work)
	return c
}

// newMember makes a leaf as from a key package; its key is held at node 0.
func (c *crowd) newMember() (*LeafNode, *crowdMember) {
	signer, err := Pure.GenerateKey(context.Background(), core.KeySpec{Algorithm: c.suite.Parameters().Signature, Use: core.UseSign})
	if err != nil {
		c.t.Fatal(err)
	}
	m := &crowdMember{signer: signer.(core.Signer)}
	leaf := &LeafNode{Source: LeafKeyPackage, Lifetime: NoLifetime}
	return c.renew(leaf, m, 0), m
}

// renew signs a leaf with a fresh encryption key, which the member holds from now on.
func (c *crowd) renew(template *LeafNode, m *crowdMember, i LeafIndex) *LeafNode {
	key, err := c.suite.GenerateKeyPair()
	if err != nil {
		c.t.Fatal(err)
	}
	leaf := *template
	leaf.SignatureKey, leaf.Credential = m.signer.Public(), core.BasicCredential(core.ClientID(m.signer.Public()))
	leaf.EncryptionKey = key.Public()
	leaf.Capabilities = Capabilities{Versions: []ProtocolVersion{MLS10}, Suites: []core.SuiteID{c.suite.ID()}, Credentials: []core.CredentialType{core.CredentialBasic}}
	if err := leaf.sign(context.Background(), m.signer, c.groupID, i); err != nil {
		c.t.Fatal(err)
	}
	m.keys = m.keys.with(i.node(), key)
	return &leaf
}

// hold moves the leaf key of a new member to the place that it got.
func (m *crowdMember) hold(n NodeIndex) {
	m.keys = pathKeys{map[NodeIndex]*heldKey{n: m.keys.held[0]}}
}

func (c *crowd) context(treeHash []byte) []byte {
	return marshal(&GroupContext{Version: MLS10, Suite: c.suite.ID(), GroupID: c.groupID, Epoch: c.epoch + 1, TreeHash: treeHash})
}

func (c *crowd) enter(work *tree) {
	c.epoch++
	ws := &record.WriteSet{}
	replaced := work.writePages(ws, c.epoch)
	c.store.apply(c.t, ws)
	c.dying[c.epoch-1] = replaced
	c.tree = work
}

// forget deletes the page versions that ended with an epoch or before.
func (c *crowd) forget(epoch uint64) {
	ws := &record.WriteSet{}
	for e := range c.dying {
		if e <= epoch {
			for _, v := range c.dying[e] {
				ws.Del(RecordPage, v.key())
			}
			delete(c.dying, e)
		}
	}
	c.store.apply(c.t, ws)
}

// A change is what a commit does beside its path.
type change struct {
	updates, removes []LeafIndex
	adds             int
	join             bool // by an external commit
}

// commit applies a change with a path, as the committer and as everybody else does.
func (c *crowd) commit(committer LeafIndex, ch change) *UpdatePath {
	t, ctx := c.t, context.Background()
	t.Helper()
	updates := map[LeafIndex]*LeafNode{}
	for _, i := range ch.updates {
		leaf := *c.tree.leaf(i)
		leaf.Source, leaf.Lifetime, leaf.ParentHash = LeafUpdate, Lifetime{}, nil
		updates[i] = c.renew(&leaf, c.members[i], i)
	}
	joiners := make([]*LeafNode, ch.adds)
	members := make([]*crowdMember, ch.adds)
	for k := range joiners {
		joiners[k], members[k] = c.newMember()
	}
	apply := func() (work *tree, added []LeafIndex) {
		work = c.tree.edit()
		for i, leaf := range updates {
			work.updateLeaf(i, leaf)
		}
		for _, i := range ch.removes {
			work.removeLeaf(i)
		}
		work.truncate()
		for _, leaf := range joiners {
			added = append(added, work.addLeaf(leaf))
		}
		return work, added
	}
	before := c.tree.appendTo(nil)
	mine, added := apply()
	for _, i := range ch.removes {
		delete(c.members, i)
	}
	p := pathParams{suite: c.suite, tree: mine, own: committer, groupID: c.groupID, excluded: added, groupContext: c.context}
	if ch.join {
		var m *crowdMember
		p.leaf, m = c.newMember()
		p.own, p.signer = mine.reserveLeaf(), m.signer
		committer = p.own
		c.members[p.own] = m
	} else {
		p.leaf, p.signer, p.keys = mine.leaf(committer), c.members[committer].signer, c.members[committer].keys
	}
	path, created, err := createPath(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	data := marshal(path)
	if path, err = UnmarshalUpdatePath(data); err != nil {
		t.Fatal(err)
	}

	theirs, _ := apply()
	if ch.join && theirs.reserveLeaf() != committer {
		t.Fatal("the joiner's leaf is elsewhere")
	}
	if err := path.LeafNode.verify(c.suite, c.groupID, committer); err != nil {
		t.Fatal(err)
	}
	if err := mergePublicPath(theirs, committer, path, added); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(mine.hash(), theirs.hash()) || !bytes.Equal(mine.appendTo(nil), theirs.appendTo(nil)) {
		t.Fatal("the committer has another tree than the others")
	}
	for i, m := range c.members {
		if i == committer {
			m.keys = created.keys
			continue
		}
		secret, keys, err := decryptPath(ctx, theirs, i, m.keys.kept(theirs), committer, path, added, c.context(theirs.hash()))
		if err != nil {
			t.Fatalf("leaf %d: %v", i, err)
		}
		if !secret.Equal(created.commitSecret) {
			t.Fatalf("leaf %d: another commit secret", i)
		}
		m.keys = keys
	}
	for k, i := range added {
		members[k].hold(i.node())
		keys, err := pathFromSecret(theirs, i, committer, created.secretFor(i))
		if err != nil {
			t.Fatalf("joiner %d: %v", i, err)
		}
		maps.Copy(keys.held, members[k].keys.held)
		members[k].keys = keys
		c.members[i] = members[k]
	}
	if !bytes.Equal(before, c.tree.appendTo(nil)) {
		t.Fatal("the old tree changed")
	}
	c.enter(theirs)
	return path
}

// add adds members without a path.
func (c *crowd) add(n int) {
	work := c.tree.edit()
	for range n {
		leaf, m := c.newMember()
		i := work.addLeaf(leaf)
		m.hold(i.node())
		c.members[i] = m
	}
	for _, m := range c.members {
		m.keys = m.keys.kept(work)
	}
	c.enter(work)
}

// check compares the tree with a naive one, and each member's keys with the tree.
func (c *crowd) check() {
	t := c.t
	t.Helper()
	naive := naiveRatchetTree{c.suite, c.tree.export()}
	naive.extend()
	if len(naive.nodes) != int(2*c.tree.size()-1) {
		t.Fatalf("%d nodes, %d leaves", len(naive.nodes), c.tree.size())
	}
	for n := range naive.nodes {
		if !bytes.Equal(c.tree.nodeHash(NodeIndex(n)), naive.hash(n, nil)) {
			t.Fatalf("tree hash of node %d", n)
		}
		if p := naive.nodes[n].Parent; p != nil {
			x := NodeIndex(n)
			for _, s := range []NodeIndex{x.left(), x.right()} {
				if !bytes.Equal(c.tree.parentHash(p, s), naive.parentHash(p, int(s))) {
					t.Fatalf("parent hash of node %d with sibling %d", n, s)
				}
			}
		}
	}
	joined, err := importTree(c.suite, naive.trimmed())
	if err != nil {
		t.Fatal(err)
	}
	if err := joined.validate(c.groupID, true); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(joined.hash(), c.tree.hash()) {
		t.Fatal("tree hash of a joiner")
	}
	for i, m := range c.members {
		want := map[NodeIndex]bool{i.node(): true}
		for _, n := range c.tree.directPath(i) {
			if p := c.tree.node(n).Parent; p != nil && !slices.Contains(p.UnmergedLeaves, i) {
				want[n] = true
			}
		}
		var r reader
		r.s = m.keys.append(nil)
		stored := readPathKeys(&r)
		for n := range want {
			_, public, err := stored.opened(c.suite, n)
			if err != nil || !bytes.Equal(public, c.tree.encryptionKey(n)) {
				t.Fatalf("leaf %d: key of node %d: %v", i, n, err)
			}
		}
		if len(m.keys.held) != len(want) {
			t.Fatalf("leaf %d holds keys of %v, not of %v", i, slices.Sorted(maps.Keys(m.keys.held)), slices.Sorted(maps.Keys(want)))
		}
	}
}

// A naiveRatchetTree is the RFC's text, without caches, pages or cleverness.
type naiveRatchetTree struct {
	suite core.Suite
	nodes []Node
}

func (t *naiveRatchetTree) extend() {
	size := 1
	for size < len(t.nodes) {
		size = 2*size + 1
	}
	t.nodes = append(t.nodes, make([]Node, size-len(t.nodes))...)
}

func (t *naiveRatchetTree) trimmed() []Node {
	end := len(t.nodes)
	for t.nodes[end-1] == (Node{}) {
		end--
	}
	return t.nodes[:end]
}

func naiveNodeLevel(n int) (k int) {
	for n>>k&1 == 1 {
		k++
	}
	return k
}

// hash blanks the leaves without first (RFC 9420 section 7.9).
func (t *naiveRatchetTree) hash(n int, without []LeafIndex) []byte {
	node := t.nodes[n]
	k := naiveNodeLevel(n)
	if k == 0 {
		if node.Leaf != nil && slices.Contains(without, LeafIndex(n/2)) {
			node.Leaf = nil
		}
		b := appendPresent(appendU32([]byte{1}, uint32(n/2)), node.Leaf != nil)
		if node.Leaf != nil {
			b = append(b, node.Leaf.Marshal()...)
		}
		return t.suite.Hash(b)
	}
	b := appendPresent([]byte{2}, node.Parent != nil)
	if p := node.Parent; p != nil {
		b = appendOpaque(appendOpaque(b, p.EncryptionKey), p.ParentHash)
		var list []byte
		for _, i := range p.UnmergedLeaves {
			if !slices.Contains(without, i) {
				list = appendU32(list, uint32(i))
			}
		}
		b = appendOpaque(b, list)
	}
	half := 1 << (k - 1)
	return t.suite.Hash(b, appendOpaque(nil, t.hash(n-half, without)), appendOpaque(nil, t.hash(n+half, without)))
}

func (t *naiveRatchetTree) parentHash(p *ParentNode, sibling int) []byte {
	return t.suite.Hash(appendOpaque(nil, p.EncryptionKey), appendOpaque(nil, p.ParentHash), appendOpaque(nil, t.hash(sibling, p.UnmergedLeaves)))
}

func (t *naiveRatchetTree) resolution(n int) (list []int) {
	node := t.nodes[n]
	k := naiveNodeLevel(n)
	switch {
	case node.Parent != nil:
		list = append(list, n)
		for _, i := range node.Parent.UnmergedLeaves {
			list = append(list, int(2*i))
		}
	case node.Leaf != nil:
		list = append(list, n)
	case k > 0:
		list = append(t.resolution(n-1<<(k-1)), t.resolution(n+1<<(k-1))...)
	}
	return list
}

// linksTo lists the nodes below a parent p that section 7.9.2 calls parent-hash
// valid for it.
func (t *naiveRatchetTree) linksTo(p int) (list []int) {
	k := naiveNodeLevel(p)
	for d := p - 1<<k + 1; d < p+1<<k; d++ {
		var hash []byte
		switch node := t.nodes[d]; {
		case node.Leaf != nil && node.Leaf.Source == LeafCommit:
			hash = node.Leaf.ParentHash
		case node.Parent != nil:
			hash = node.Parent.ParentHash
		}
		if d == p || hash == nil {
			continue
		}
		child, sibling := p-1<<(k-1), p+1<<(k-1)
		if d > p {
			child, sibling = sibling, child
		}
		rest := t.resolution(child)
		at := slices.Index(rest, d)
		if at < 0 {
			continue
		}
		rest = slices.Delete(rest, at, at+1)
		slices.Sort(rest)
		var unmerged []int
		for _, i := range t.nodes[p].Parent.UnmergedLeaves {
			if int(2*i) > child-1<<(k-1) && int(2*i) < child+1<<(k-1) || int(2*i) == child {
				unmerged = append(unmerged, int(2*i))
			}
		}
		if slices.Equal(rest, unmerged) && bytes.Equal(hash, t.parentHash(t.nodes[p].Parent, sibling)) {
			list = append(list, d)
		}
	}
	return list
}

// valid is section 7.9.2: each parent node is linked to from below.
func (t *naiveRatchetTree) valid() bool {
	for n := range t.nodes {
		if t.nodes[n].Parent != nil && len(t.linksTo(n)) == 0 {
			return false
		}
	}
	return true
}

// step makes one random change.
func (c *crowd) step(r *rand.Rand, limit int) string {
	present := slices.Sorted(maps.Keys(c.members))
	room := max(0, limit-len(present))
	adds := r.IntN(min(3, room) + 1)
	if room > 8 && r.IntN(3) == 0 {
		adds = r.IntN(room)
	}
	if r.IntN(4) == 0 && adds > 0 {
		c.add(adds)
		return fmt.Sprintf("add %d", adds)
	}
	r.Shuffle(len(present), func(i, j int) { present[i], present[j] = present[j], present[i] })
	ch := change{adds: adds}
	committer, rest := present[0], present[1:]
	if r.IntN(6) == 0 {
		ch.join, ch.adds = true, 0
		if len(rest) > 0 && r.IntN(2) == 0 {
			ch.removes = rest[:1]
		}
	} else if len(rest) > 0 {
		n := r.IntN(min(4, len(rest)))
		if r.IntN(8) == 0 {
			n = r.IntN(len(rest) + 1)
		}
		ch.removes, rest = rest[:n], rest[n:]
		ch.updates = rest[:r.IntN(min(3, len(rest)+1))]
	}
	c.commit(committer, ch)
	return fmt.Sprintf("commit by %d: %+v", committer, ch)
}

// TREE-8, TREE-9, PATH-3, PATH-4, PATH-8, PATH-10, mls-rs#39: random groups in every
// suite have the hashes of a naive tree, all members reach the same commit secret, and
// each holds the keys of its path and no others.
func TestTreeRandom(t *testing.T) {
	t.Parallel()
	for _, suite := range allSuites(t) {
		t.Run(suite.Parameters().Name, func(t *testing.T) {
			t.Parallel()
			steps, limit := 12, 9
			if suite.ID() == core.SuiteX25519AES128Ed25519 {
				steps, limit = 60, 64
			}
			seed := rand.Uint64()
			r := rand.New(rand.NewPCG(seed, 0))
			c := newCrowd(t, suite, 1+r.IntN(limit))
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			type past struct {
				leaves uint32
				tree   []byte
			}
			history := map[uint64]past{}
			for range steps {
				done := c.step(r, limit)
				c.check()
				c.store.checkReload(t, c.tree, c.epoch, r)
				history[c.epoch] = past{c.tree.size(), c.tree.appendTo(nil)}
				if c.epoch > 5 {
					c.forget(c.epoch - 5) // only later epochs are looked at again
					for e := c.epoch - 4; e < c.epoch; e++ {
						if p, ok := history[e]; ok {
							old := loadTree(suite, p.leaves, e)
							if err := old.needAll(context.Background(), c.store.fetch); err != nil || !bytes.Equal(old.appendTo(nil), p.tree) {
								t.Fatalf("after %s: epoch %d seen from %d: %v", done, e, c.epoch, err)
							}
						}
					}
				}
			}
			c.forget(c.epoch - 1)
			if n := len(c.store.records); n != pagesOf(c.tree) {
				t.Errorf("%d records are left of a tree of %d pages", n, pagesOf(c.tree))
			}
		})
	}
}

func allSuites(t testing.TB) (suites []core.Suite) {
	for _, id := range Pure.Suites() {
		if id <= core.SuiteP384AES256P384 {
			suites = append(suites, testSuite(t, id))
		}
	}
	if len(suites) != 7 {
		t.Fatalf("%d suites", len(suites))
	}
	return suites
}

func testSuite(t testing.TB, id core.SuiteID) core.Suite {
	t.Helper()
	suite, err := Pure.Suite(id)
	if err != nil {
		t.Fatal(err)
	}
	return suite
}
