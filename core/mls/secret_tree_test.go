// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

var testLimits = ratchetLimits{tolerance: 2, maxForward: 1000}

var errRefused = errors.New("refused")

// ratchetRecords is a store of one group; it counts what it is asked and told.
type ratchetRecords struct {
	values  map[string][]byte // by kind and key
	fetches int
	bytes   int // of the last write set: keys and values
}

func (m *ratchetRecords) apply(ws *record.WriteSet) {
	if m.values == nil {
		m.values = map[string][]byte{}
	}
	for _, d := range ws.Dels {
		maps.DeleteFunc(m.values, func(key string, _ []byte) bool {
			return strings.HasPrefix(key, string(byte(d.Kind))+string(d.Prefix))
		})
	}
	m.bytes = 0
	put := map[string]bool{}
	for _, p := range ws.Puts {
		key := string(byte(p.Kind)) + string(p.Key)
		if put[key] {
			panic("a key is put twice")
		}
		put[key] = true
		m.values[key] = bytes.Clone(p.Value)
		m.bytes += len(p.Key) + len(p.Value)
	}
}

func (m *ratchetRecords) fetch(_ context.Context, queries []record.Query) ([][]record.Record, error) {
	m.fetches++
	answers := make([][]record.Record, len(queries))
	for i, q := range queries {
		for _, key := range slices.Sorted(maps.Keys(m.values)) {
			if strings.HasPrefix(key, string(byte(q.Kind))+string(q.Prefix)) && (q.Limit == 0 || len(answers[i]) < q.Limit) {
				answers[i] = append(answers[i], record.Record{Kind: q.Kind, Key: []byte(key[1:]), Value: bytes.Clone(m.values[key])})
			}
		}
	}
	return answers, nil
}

func (m *ratchetRecords) count(kind record.Kind) (n int) {
	for key := range m.values {
		if key[0] == byte(kind) {
			n++
		}
	}
	return n
}

// treeUser uses one secret tree, in memory or from records, and never keeps a
// value that a failed step left behind.
type treeUser struct {
	t      *testing.T
	tree   *secretTree
	store  ratchetRecords
	reload bool
}

func newTreeUser(t *testing.T, suite core.Suite, leaves uint32, limits ratchetLimits, secret []byte) *treeUser {
	u := &treeUser{t: t}
	var ws record.WriteSet
	u.tree = newSecretTree(suite, 3, leaves, limits, core.NewSecret(bytes.Clone(secret)), &ws)
	u.store.apply(&ws)
	return u
}

// done makes a step durable and wipes what it retired, as a client does.
func (u *treeUser) done(next *secretTree, ws *record.WriteSet) {
	u.tree = next
	u.store.apply(ws)
	for _, s := range ws.Retired {
		s.Wipe()
	}
	if u.reload {
		u.load()
	}
}

func (u *treeUser) load() {
	floors := u.tree.floors
	u.tree = loadSecretTree(u.tree.suite, u.tree.epoch, u.tree.width, u.tree.limits)
	u.tree.floors = floors
}

func (u *treeUser) seal(leaf LeafIndex, kind ratchetKind) (generation uint32, key []byte, err error) {
	var ws record.WriteSet
	next, err := u.tree.seal(context.Background(), u.store.fetch, &ws, leaf, kind, func(g uint32, k, n core.Secret) error {
		generation, key = g, slices.Concat(k.Bytes(), n.Bytes())
		return nil
	})
	if err == nil {
		u.done(next, &ws)
	}
	return generation, key, err
}

// open first tries with a use that refuses, which must not change anything.
func (u *treeUser) open(leaf LeafIndex, kind ratchetKind, generation uint32) (key []byte, err error) {
	ctx := context.Background()
	var ws record.WriteSet
	var first []byte
	next, err := u.tree.open(ctx, u.store.fetch, &ws, leaf, kind, generation, func(k, n core.Secret) error {
		first = slices.Concat(k.Bytes(), n.Bytes())
		return errRefused
	})
	if next != nil || len(ws.Puts)+len(ws.Dels)+len(ws.Retired) != 0 || err == nil {
		u.t.Fatalf("a refused step left %v, %v", ws, err)
	}
	next, err = u.tree.open(ctx, u.store.fetch, &ws, leaf, kind, generation, func(k, n core.Secret) error {
		key = slices.Concat(k.Bytes(), n.Bytes())
		return nil
	})
	if !bytes.Equal(first, key) {
		u.t.Fatal("a refused message changed the key")
	}
	if err != nil {
		if next != nil || len(ws.Puts)+len(ws.Dels)+len(ws.Retired) != 0 {
			u.t.Fatalf("a failed step left %v", ws)
		}
		return nil, err
	}
	u.done(next, &ws)
	return key, nil
}

// naiveTree is RFC 9420 section 9 written down without any thought of deleting:
// the keys of generation g are computed from the root each time they are asked for.
type naiveTree struct {
	suite  core.Suite
	root   core.Secret
	leaves uint32
}

func (n naiveTree) key(leaf LeafIndex, kind ratchetKind, generation uint32) []byte {
	nh := n.suite.Parameters().Nh
	var descend func(secret core.Secret, first, width uint32) core.Secret
	descend = func(secret core.Secret, first, width uint32) core.Secret {
		if width == 1 {
			return secret
		}
		if uint32(leaf) < first+width/2 {
			return descend(must(expandWithLabel(n.suite, secret, "tree", []byte("left"), nh)), first, width/2)
		}
		return descend(must(expandWithLabel(n.suite, secret, "tree", []byte("right"), nh)), first+width/2, width/2)
	}
	width := uint32(1)
	for width < n.leaves {
		width *= 2
	}
	label := "handshake"
	if kind == applicationRatchet {
		label = "application"
	}
	secret := must(deriveSecret(n.suite, descend(n.root, 0, width), label))
	for g := range generation {
		secret = must(deriveTreeSecret(n.suite, secret, "secret", g, nh))
	}
	p := n.suite.Parameters()
	return slices.Concat(
		must(deriveTreeSecret(n.suite, secret, "key", generation, p.Nk)).Bytes(),
		must(deriveTreeSecret(n.suite, secret, "nonce", generation, p.Nn)).Bytes())
}

// naiveRatchet says what becomes of a message, from nothing but the list of those before it.
type naiveRatchet struct {
	head uint64 // one beyond the highest generation seen
	used map[uint32]bool
}

func (n *naiveRatchet) take(generation uint32, limits ratchetLimits) error {
	g := uint64(generation)
	switch {
	case g >= n.head && g-n.head > uint64(limits.maxForward):
		return ErrTooFarAhead
	case g < n.head && g+uint64(limits.tolerance) < n.head:
		return ErrTooOld
	case n.used[generation]:
		return ErrDuplicateMessage
	}
	n.used[generation] = true
	n.head = max(n.head, g+1)
	return nil
}

// Deliveries in any order give the naive tree's keys and the naive ratchet's
// refusals, in memory and with everything read back from records between steps.
func TestSecretTreeAgainstNaive(t *testing.T) {
	t.Parallel()
	eachSuite(t, func(t *testing.T, suite core.Suite) {
		for round := range 12 {
			random := rand.New(rand.NewPCG(uint64(round), uint64(suite.ID())))
			leaves := uint32(1 + random.IntN(20))
			limits := ratchetLimits{tolerance: uint32(random.IntN(6)), maxForward: uint32(random.IntN(15))}
			secret := bytes.Repeat([]byte{byte(round + 1)}, suite.Parameters().Nh)
			naive := naiveTree{suite, core.NewSecret(secret), leaves}
			memory, reloading := newTreeUser(t, suite, leaves, limits, secret), newTreeUser(t, suite, leaves, limits, secret)
			reloading.reload = true
			reloading.load()
			models := map[uint32]*naiveRatchet{}
			for range 60 {
				leaf, kind := LeafIndex(random.Uint32N(min(leaves, 4))*7%leaves), ratchetKind(random.IntN(2))
				model := models[ratchetID(leaf, kind)]
				if model == nil {
					model = &naiveRatchet{used: map[uint32]bool{}}
					models[ratchetID(leaf, kind)] = model
				}
				generation := uint32(max(0, int(model.head)+random.IntN(2*int(limits.tolerance)+6)-int(limits.tolerance)-3))
				if random.IntN(8) == 0 {
					generation = uint32(model.head) + limits.maxForward + random.Uint32N(2) // at the edge
				}
				want := model.take(generation, limits)
				for name, u := range map[string]*treeUser{"memory": memory, "reloading": reloading} {
					key, err := u.open(leaf, kind, generation)
					if !errors.Is(err, want) || want == nil && !bytes.Equal(key, naive.key(leaf, kind, generation)) {
						t.Fatalf("round %d, %s: leaf %d, kind %d, generation %d with %v: %x, %v, want %v", round, name, leaf, kind, generation, limits, key, err, want)
					}
				}
			}
			if !maps.EqualFunc(memory.store.values, reloading.store.values, bytes.Equal) {
				t.Fatal("the two left different records")
			}
			if memory.store.fetches != 0 {
				t.Errorf("a tree in memory fetched %d times", memory.store.fetches)
			}
		}
	})
}

// Own generations follow one another across reloads and are what others expect.
func TestSealOpen(t *testing.T) {
	t.Parallel()
	eachSuite(t, func(t *testing.T, suite core.Suite) {
		secret := bytes.Repeat([]byte{9}, suite.Parameters().Nh)
		sender, receiver := newTreeUser(t, suite, 5, testLimits, secret), newTreeUser(t, suite, 5, testLimits, secret)
		sender.reload = true
		for want := range uint32(4) {
			generation, key, err := sender.seal(3, applicationRatchet)
			if err != nil || generation != want {
				t.Fatalf("generation %d, %v, want %d", generation, err, want)
			}
			got, err := receiver.open(3, applicationRatchet, generation)
			if err != nil || !bytes.Equal(got, key) {
				t.Fatalf("%x, %v, want %x", got, err, key)
			}
		}
	})
}

// FS-8: each leaf is covered by one frontier node or by its two ratchets; what
// was above a used leaf is gone, from memory and from records.
func TestFrontier(t *testing.T) {
	t.Parallel()
	suite := suiteOf(t, core.SuiteX25519AES128Ed25519)
	for leaves := uint32(1); leaves <= 17; leaves++ {
		u := newTreeUser(t, suite, leaves, testLimits, make([]byte, 32))
		width := u.tree.width
		if u.store.count(RecordTreeNode) != 1 || len(u.store.values) != 1 {
			t.Fatalf("a new epoch has records %v", u.store.values)
		}
		for i := range leaves {
			leaf := LeafIndex(i * 19 % leaves)
			if _, err := u.open(leaf, handshakeRatchet, 0); err != nil {
				t.Fatal(err)
			}
			covered := map[uint32]int{}
			for node := range u.tree.nodes.All() {
				span := node &^ (node + 1) // 2^k-1 for a node of level k
				for n := node - span; n <= node+span; n += 2 {
					covered[n/2]++
				}
			}
			for id := range u.tree.ratchets.All() {
				if id&1 == 0 {
					covered[id/2]++
				}
			}
			for n := range width {
				if covered[n] != 1 {
					t.Fatalf("%d leaves: leaf %d is covered %d times", leaves, n, covered[n])
				}
			}
			nodes := slices.Collect(maps.Keys(maps.Collect(u.tree.nodes.All())))
			if len(nodes) != u.store.count(RecordTreeNode) {
				t.Fatalf("%d nodes in memory, %d records", len(nodes), u.store.count(RecordTreeNode))
			}
			for _, node := range nodes {
				if _, ok := u.store.values[string(byte(RecordTreeNode))+string(u.tree.nodeKey(node))]; !ok {
					t.Fatalf("no record of node %d", node)
				}
			}
		}
		if leaves == width && u.store.count(RecordTreeNode) != 0 {
			t.Errorf("%d leaves, all used: frontier nodes remain", leaves)
		}
	}
}

// FS-4: a generation far ahead is refused before anything is derived.
func TestTooFarAhead(t *testing.T) {
	t.Parallel()
	suite := &countingSuite{Suite: suiteOf(t, core.SuiteX25519AES128Ed25519)}
	u := newTreeUser(t, suite, 2, testLimits, make([]byte, 32))
	if _, err := u.open(0, applicationRatchet, 0); err != nil {
		t.Fatal(err)
	}
	suite.expands = 0
	for _, generation := range []uint32{1002, 1 << 20, math.MaxUint32} {
		if _, err := u.open(0, applicationRatchet, generation); !errors.Is(err, ErrTooFarAhead) {
			t.Errorf("generation %d: %v", generation, err)
		}
	}
	if suite.expands != 0 {
		t.Errorf("%d keys were derived", suite.expands)
	}
	if _, err := u.open(0, applicationRatchet, 1001); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	// Twice (once refused): a step for each generation, keys for the window alone.
	if want := 2 * (1001 + 2*2); suite.expands != want {
		t.Errorf("%d derivations, want %d", suite.expands, want)
	}
}

type countingSuite struct {
	core.Suite
	expands int
	made    []core.Secret
}

func (s *countingSuite) Expand(prk core.Secret, info []byte, length int) (core.Secret, error) {
	s.expands++
	secret, err := s.Suite.Expand(prk, info, length)
	s.made = append(s.made, secret)
	return secret, err
}

// FS-11: after each step, whatever was there or derived is in the tree, retired or
// wiped; a refused step leaves nothing.
func TestDroppedSecretsAreWiped(t *testing.T) {
	t.Parallel()
	suite := &countingSuite{Suite: suiteOf(t, core.SuiteX25519AES128Ed25519)}
	u := newTreeUser(t, suite, 8, testLimits, bytes.Repeat([]byte{1}, 32))
	identities := func(list []core.Secret) map[*byte]bool {
		set := map[*byte]bool{}
		for _, s := range list {
			set[&s.Bytes()[0]] = true
		}
		return set
	}
	for i, step := range []struct {
		leaf       LeafIndex
		generation uint32
		refuse     bool
	}{{3, 5, true}, {3, 5, false}, {3, 9, true}, {3, 9, false}, {3, 8, true}, {3, 8, false}, {2, 0, false}, {3, 12, false}} {
		suite.made = nil
		var ws record.WriteSet
		next, err := u.tree.open(context.Background(), u.store.fetch, &ws, step.leaf, applicationRatchet, step.generation, func(_, _ core.Secret) error {
			if step.refuse {
				return errRefused
			}
			return nil
		})
		if step.refuse {
			next = u.tree
		} else if err != nil {
			t.Fatal(err)
		}
		before, after, retired := u.tree.secrets(), identities(next.secrets()), identities(ws.Retired)
		for _, s := range append(before, suite.made...) {
			if id := &s.Bytes()[0]; !after[id] && !retired[id] && !bytes.Equal(s.Bytes(), make([]byte, s.Len())) {
				t.Errorf("step %d: a secret of %d bytes is neither kept nor retired nor wiped", i, s.Len())
			}
		}
		for id := range retired {
			if after[id] {
				t.Errorf("step %d: a secret in use is retired", i)
			}
		}
		u.tree = next
	}
}

// FS-6: the last generations: a receiver takes 2^32-1, and nothing after it; a sender
// stops before it.
func TestLastGeneration(t *testing.T) {
	t.Parallel()
	suite := suiteOf(t, core.SuiteX25519AES128Ed25519)
	for _, next := range []uint64{math.MaxUint32 - 3, math.MaxUint32} {
		u := newTreeUser(t, suite, 2, testLimits, make([]byte, 32))
		if _, err := u.open(1, applicationRatchet, 0); err != nil {
			t.Fatal(err)
		}
		r := &ratchet{next: next, secret: core.NewSecret(make([]byte, 32))}
		put := u.tree.ratchetRecord(1, applicationRatchet, r)
		u.store.apply(&record.WriteSet{Puts: []record.Record{put}})
		u.load()
		sealing := *u
		sealing.store = ratchetRecords{values: maps.Clone(u.store.values)}
		for g := next; g < math.MaxUint32; g++ {
			if got, _, err := sealing.seal(1, applicationRatchet); err != nil || uint64(got) != g {
				t.Fatalf("sent %d, %v, want %d", got, err, g)
			}
			sealing.load()
		}
		if _, _, err := sealing.seal(1, applicationRatchet); !errors.Is(err, ErrExhausted) {
			t.Errorf("behind the end: %v", err)
		}
		if _, err := u.open(1, applicationRatchet, math.MaxUint32); err != nil {
			t.Fatalf("the last generation: %v", err)
		}
		u.load()
		for generation, want := range map[uint32]error{
			math.MaxUint32: ErrDuplicateMessage, math.MaxUint32 - 2: ErrTooOld, 0: ErrTooOld,
		} {
			if _, err := u.open(1, applicationRatchet, generation); !errors.Is(err, want) {
				t.Errorf("generation %d after the last: %v", generation, err)
			}
		}
		if _, _, err := u.seal(1, applicationRatchet); !errors.Is(err, ErrExhausted) {
			t.Errorf("sending after the last: %v", err)
		}
	}
}

// A floor moves the own ratchet ahead, once, upward only, across reloads.
func TestFloor(t *testing.T) {
	t.Parallel()
	suite := suiteOf(t, core.SuiteX25519AES128Ed25519)
	secret := bytes.Repeat([]byte{5}, 32)
	naive := naiveTree{suite, core.NewSecret(secret), 4}
	u := newTreeUser(t, suite, 4, testLimits, secret)
	expect := func(kind ratchetKind, want uint32) {
		t.Helper()
		generation, key, err := u.seal(2, kind)
		if err != nil || generation != want || !bytes.Equal(key, naive.key(2, kind, want)) {
			t.Errorf("kind %d: generation %d, %v, want %d", kind, generation, err, want)
		}
	}
	expect(applicationRatchet, 0)
	u.tree = u.tree.withFloor(applicationRatchet, 1500)
	u.tree = u.tree.withFloor(applicationRatchet, 7) // does not lower
	expect(handshakeRatchet, 0)
	expect(applicationRatchet, 1500)
	u.load()
	expect(applicationRatchet, 1501)
	u.tree = u.tree.withFloor(applicationRatchet, 1502+maxOwnForward+1)
	if _, _, err := u.seal(2, applicationRatchet); !errors.Is(err, ErrExhausted) {
		t.Errorf("an absurd floor: %v", err)
	}
	expect(handshakeRatchet, 1)
}

// Missing and damaged records are told as damage; nothing is changed.
func TestDamagedSecretTree(t *testing.T) {
	t.Parallel()
	suite := suiteOf(t, core.SuiteX25519AES128Ed25519)
	fresh := func() *treeUser {
		u := newTreeUser(t, suite, 8, testLimits, make([]byte, 32))
		for _, g := range []uint32{3, 2} {
			if _, err := u.open(1, applicationRatchet, g); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := u.open(1, applicationRatchet, 6); err != nil { // leaves 5 in the window
			t.Fatal(err)
		}
		u.load()
		return u
	}
	u := fresh()
	if _, err := u.open(1, applicationRatchet, 5); err != nil {
		t.Fatalf("undamaged: %v", err)
	}
	for key, value := range fresh().store.values {
		wrong := [][]byte{nil, {}, {recordFormat + 1}, append([]byte{recordFormat + 1}, value[1:]...), append(bytes.Clone(value), 0)}
		for n := range value {
			wrong = append(wrong, value[:n])
		}
		for _, v := range wrong {
			u := fresh()
			if u.store.values[key] = v; v == nil {
				delete(u.store.values, key)
			}
			leaf, kind := LeafIndex(4), applicationRatchet
			if record.Kind(key[0]) == RecordRatchet {
				leaf, kind = 1, ratchetKind(key[len(key)-1])
			} else { // a leaf below the node
				var node uint32
				for _, b := range []byte(key[len(key)-4:]) {
					node = node<<8 | uint32(b)
				}
				leaf = LeafIndex((node - node&^(node+1)) / 2)
			}
			if _, err := u.open(leaf, kind, 8); !errors.Is(err, core.ErrDamaged) {
				t.Fatalf("record %x damaged to %x: %v", key, v, err)
			}
			if _, _, err := u.seal(leaf, kind); !errors.Is(err, core.ErrDamaged) {
				t.Fatalf("record %x damaged to %x, sending: %v", key, v, err)
			}
		}
	}
	at := func(generation uint32) messageKey {
		return messageKey{generation: generation, key: core.NewSecret(make([]byte, 16)), nonce: core.NewSecret(make([]byte, 12))}
	}
	for what, r := range map[string]*ratchet{
		"beyond the end":        {next: 1<<32 + 1, secret: core.NewSecret(make([]byte, 32))},
		"a short secret":        {next: 8, secret: core.NewSecret(make([]byte, 31))},
		"a skipped key ahead":   {next: 8, secret: core.NewSecret(make([]byte, 32)), skipped: []messageKey{at(8)}},
		"skipped keys twice":    {next: 8, secret: core.NewSecret(make([]byte, 32)), skipped: []messageKey{at(6), at(6)}},
		"skipped keys disorder": {next: 8, secret: core.NewSecret(make([]byte, 32)), skipped: []messageKey{at(7), at(6)}},
	} {
		u := fresh()
		u.store.apply(&record.WriteSet{Puts: []record.Record{u.tree.ratchetRecord(1, applicationRatchet, r)}})
		if _, err := u.open(1, applicationRatchet, 8); !errors.Is(err, core.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	u = fresh()
	failing := func(context.Context, []record.Query) ([][]record.Record, error) { return nil, core.ErrUnavailable }
	if _, err := u.tree.open(context.Background(), failing, &record.WriteSet{}, 0, handshakeRatchet, 0, nil); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("a failing fetch: %v", err)
	}
	short := func(context.Context, []record.Query) ([][]record.Record, error) { return nil, nil }
	if _, err := u.tree.open(context.Background(), short, &record.WriteSet{}, 0, handshakeRatchet, 0, nil); !errors.Is(err, core.ErrDamaged) {
		t.Errorf("a fetch without answers: %v", err)
	}
	for _, leaf := range []LeafIndex{8, 1 << 30, 1 << 31, math.MaxUint32} {
		if _, err := u.open(leaf, handshakeRatchet, 0); !errors.As(err, new(*RuleError)) {
			t.Errorf("leaf %d: %v", leaf, err)
		}
	}
}

// FS-2, FS-7: what was used is in no record afterwards, and after the epoch's end
// there are none; what was retired is wiped without harm to what remains.
func TestUsedSecretsAreGone(t *testing.T) {
	t.Parallel()
	suite := suiteOf(t, core.SuiteX25519AES128Ed25519)
	secret := bytes.Repeat([]byte{0xAB}, 32)
	u := newTreeUser(t, suite, 4, testLimits, secret)
	holds := func(secret []byte) bool {
		for _, v := range u.store.values {
			if bytes.Contains(v, secret) {
				return true
			}
		}
		return false
	}
	if !holds(secret) {
		t.Fatal("the root is not stored")
	}
	key, err := u.open(1, applicationRatchet, 2)
	if err != nil || holds(secret) || holds(key[:16]) {
		t.Fatalf("%v; the root or the key is still stored", err)
	}
	late := naiveTree{suite, core.NewSecret(secret), 4}.key(1, applicationRatchet, 1)
	if !holds(late[:16]) {
		t.Fatal("a skipped key is not stored")
	}
	if _, err := u.open(1, applicationRatchet, 1); err != nil || holds(late[:16]) {
		t.Fatalf("%v; the skipped key is still stored", err)
	}
	for _, s := range u.tree.secrets() {
		if s.IsZero() || bytes.Equal(s.Bytes(), make([]byte, s.Len())) {
			t.Fatal("a secret in use was wiped")
		}
	}
	var ws record.WriteSet
	deleteEpoch(&ws, 2)
	u.store.apply(&ws)
	if len(u.store.values) == 0 {
		t.Fatal("another epoch's end deleted ours")
	}
	deleteEpoch(&ws, 3)
	u.store.apply(&ws)
	if len(u.store.values) != 0 {
		t.Errorf("records after the end of the epoch: %v", u.store.values)
	}
}

// The value before a step stays usable until its secrets are retired: a step that
// is dropped has changed nothing.
func TestAbortedSteps(t *testing.T) {
	t.Parallel()
	suite := suiteOf(t, core.SuiteX25519AES128Ed25519)
	ctx := context.Background()
	u := newTreeUser(t, suite, 8, testLimits, bytes.Repeat([]byte{1}, 32))
	keep := func(out *[]byte) func(_, _ core.Secret) error {
		return func(k, _ core.Secret) error { *out = bytes.Clone(k.Bytes()); return nil }
	}
	for _, generation := range []uint32{0, 2, 1, 3} {
		var dropped, kept []byte
		if _, err := u.tree.open(ctx, nil, &record.WriteSet{}, 6, applicationRatchet, generation, keep(&dropped)); err != nil {
			t.Fatal(err)
		}
		var ws record.WriteSet
		next, err := u.tree.open(ctx, nil, &ws, 6, applicationRatchet, generation, keep(&kept))
		if err != nil || !bytes.Equal(dropped, kept) {
			t.Fatalf("generation %d: %x then %x, %v", generation, dropped, kept, err)
		}
		u.done(next, &ws)
	}
	// Several steps in one write set leave what they leave one by one.
	a, b := newTreeUser(t, suite, 8, testLimits, make([]byte, 32)), newTreeUser(t, suite, 8, testLimits, make([]byte, 32))
	var together record.WriteSet
	tree := a.tree
	for i, leaf := range []LeafIndex{6, 7, 6, 0, 6} {
		next, err := tree.open(ctx, nil, &together, leaf, applicationRatchet, uint32(i), keep(new([]byte)))
		if err != nil {
			t.Fatal(err)
		}
		tree = next
		if _, err := b.open(leaf, applicationRatchet, uint32(i)); err != nil {
			t.Fatal(err)
		}
	}
	a.store.apply(&together)
	if !maps.EqualFunc(a.store.values, b.store.values, bytes.Equal) {
		t.Error("steps written together differ from steps written one by one")
	}
}

// What a message costs the store does not grow with the group, but for the first
// one of a sender in an epoch.
func TestRecordSizes(t *testing.T) {
	t.Parallel()
	for _, id := range []core.SuiteID{core.SuiteX25519AES128Ed25519, core.SuiteX448AES256Ed448} {
		suite := suiteOf(t, id)
		for _, leaves := range []uint32{2, 1000, 50_000} {
			u := newTreeUser(t, suite, leaves, testLimits, make([]byte, suite.Parameters().Nh))
			u.reload = true
			entered := u.store.bytes
			u.load()
			if _, err := u.open(1, applicationRatchet, 0); err != nil {
				t.Fatal(err)
			}
			first, fetches := u.store.bytes, u.store.fetches
			if _, err := u.open(1, applicationRatchet, 1); err != nil {
				t.Fatal(err)
			}
			plain := u.store.bytes
			if _, err := u.open(1, applicationRatchet, 10); err != nil { // the most that is kept
				t.Fatal(err)
			}
			skipping := u.store.bytes
			if _, _, err := u.seal(0, applicationRatchet); err != nil {
				t.Fatal(err)
			}
			t.Logf("suite %v, %d leaves: new epoch %d bytes, first message %d, next %d, skipping %d, own first %d",
				id, leaves, entered, first, plain, skipping, u.store.bytes)
			if plain > 300 || skipping > 300 || entered > 100 || leaves <= 1000 && first > 2048 {
				t.Error("too much")
			}
			if fetches != 2 { // one, and one for the refused try of this test
				t.Errorf("%d fetches for one message", fetches)
			}
		}
	}
}

func BenchmarkRatchetForward(b *testing.B) {
	suite := suiteOf(b, core.SuiteX25519AES128Ed25519)
	r := &ratchet{secret: core.NewSecret(make([]byte, 32))}
	for b.Loop() {
		if _, _, err := r.forward(suite, 1000, 2); err != nil {
			b.Fatal(err)
		}
	}
}
