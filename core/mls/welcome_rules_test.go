// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// A door is a Welcome of alice's for zoe, before it is closed: it can be changed.
type door struct {
	t                   *testing.T
	alice, bob, mallory *member
	zoe                 *member
	all                 party
	bundle              mls.CommitBundle
	tree                []byte // out of band; nil: inside
}

// newDoor adds zoe to a group of three, who has leaf 3 then.
func newDoor(t *testing.T, params mls.CommitParams) *door {
	t.Helper()
	d := &door{t: t, zoe: newMember(t, 1, "zoe", mls.DefaultConfig)}
	d.alice, d.bob, d.mallory, d.all = threesome(t, mls.DefaultConfig, nil)
	d.all = d.all.commitAll(t, d.bob, mls.CommitParams{ForcePath: true}) // there are parents
	params.Proposals = append(params.Proposals, adding(d.zoe))
	for _, m := range d.all {
		m.psks["psk"] = []byte("key")
	}
	var err error
	if d.bundle, err = d.alice.commit(params); err != nil {
		t.Fatal(err)
	}
	return d
}

func sameSecrets(b []byte) []byte { return b }

// forge makes the Welcome anew, with another GroupInfo or other secrets.
func (d *door) forge(info func(*mls.GroupInfo), secrets func([]byte) []byte) []byte {
	d.t.Helper()
	return d.forgeAs(d.alice.signer(), info, secrets)
}

func (d *door) forgeAs(signer core.Signer, info func(*mls.GroupInfo), secrets func([]byte) []byte) []byte {
	d.t.Helper()
	message, err := mls.ForgeWelcome(d.t.Context(), d.alice.env(), d.alice.g(), d.alice.pending, signer, info, secrets)
	if err != nil {
		d.t.Fatal(err)
	}
	return message
}

// enter joins; find is zoe's key packages.
func (d *door) enter(suites core.SuiteSource, message []byte, find func([]byte) (*mls.KeyPackageBundle, error)) (*mls.Group, *mls.Joined, *record.WriteSet, error) {
	d.t.Helper()
	m, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		return nil, nil, nil, err
	}
	env := d.zoe.env()
	env.Suites = suites
	return mls.Join(d.t.Context(), env, mls.JoinParams{Welcome: m.Welcome, Config: d.zoe.config, Tree: d.tree,
		KeyPackage: func(_ context.Context, ref []byte) (*mls.KeyPackageBundle, error) { return find(ref) }})
}

func (d *door) own(ref []byte) (*mls.KeyPackageBundle, error) {
	if bytes.Equal(ref, d.zoe.bundle.KeyPackage.Ref(d.zoe.suite)) {
		return d.zoe.bundle, nil
	}
	return nil, core.ErrNotFound
}

// refused checks the error, and that there is nothing beside it.
func (d *door) refused(what string, message []byte, rule string, want error) {
	d.t.Helper()
	g, joined, ws, err := d.enter(provider, message, d.own)
	if rule != "" && !isRule(err, rule) || rule == "" && !errors.Is(err, want) || g != nil || joined != nil || ws != nil {
		d.t.Errorf("%s: %v, want %s %v", what, err, rule, want)
	}
}

// open checks that the Welcome is good in the end.
func (d *door) open(message []byte) *mls.Joined {
	d.t.Helper()
	g, joined, ws, err := d.enter(provider, message, d.own)
	if err != nil {
		d.t.Fatal(err)
	}
	d.zoe.set(g, ws)
	return joined
}

// WEL-1: Welcome, key package and GroupInfo are of one suite; of the entries of a
// Welcome ours is found by its reference, be it whichever of our key packages.
func TestWelcomeSuiteAndReference(t *testing.T) {
	t.Parallel()
	d := newDoor(t, mls.CommitParams{})
	other := func(message []byte) []byte { // 3 differs from 1 in the AEAD alone
		m, err := mls.UnmarshalMLSMessage(message)
		if err != nil {
			t.Fatal(err)
		}
		m.Welcome.Suite = core.SuiteX25519ChaChaEd25519
		return m.Marshal()
	}
	find := func([]byte) (*mls.KeyPackageBundle, error) { return d.zoe.bundle, nil } // by a reference of suite 3
	if _, _, _, err := d.enter(provider, other(d.bundle.Welcome), find); !isRule(err, "WEL-1") {
		t.Errorf("a Welcome of another suite: %v", err)
	}
	d.refused("a GroupInfo of another suite", d.forge(func(i *mls.GroupInfo) { i.GroupContext.Suite = core.SuiteX25519ChaChaEd25519 }, sameSecrets), "WEL-1", nil)
	only := onlySuite{provider, core.SuiteP256AES128P256}
	if _, _, _, err := d.enter(only, d.bundle.Welcome, d.own); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("a suite that we lack: %v", err)
	}
	nobody := func([]byte) (*mls.KeyPackageBundle, error) { return nil, core.ErrNotFound }
	if _, _, _, err := d.enter(provider, d.bundle.Welcome, nobody); !errors.Is(err, mls.ErrNoKeyPackage) {
		t.Errorf("a Welcome to somebody else: %v", err)
	}
	failing := func([]byte) (*mls.KeyPackageBundle, error) { return nil, core.ErrUnavailable }
	if _, _, _, err := d.enter(provider, d.bundle.Welcome, failing); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("a store that does not answer: %v", err)
	}
	// Many entries, and several key packages of ours, of which the second last is meant.
	alice, config := d.alice, mls.DefaultConfig
	alice.discard()
	var list []mls.Proposal
	var ours []*mls.KeyPackageBundle
	for i := range 5 {
		list = append(list, adding(newMember(t, 1, fmt.Sprint("joiner ", i), config)))
	}
	for range 4 {
		d.zoe.keyPackage()
		ours = append(ours, d.zoe.bundle)
	}
	list = slices.Insert(list, 3, mls.Proposal(&mls.Add{KeyPackage: ours[2].KeyPackage}))
	b, err := alice.commit(mls.CommitParams{Proposals: list})
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	_, joined, _, err := d.enter(provider, b.Welcome, func(ref []byte) (*mls.KeyPackageBundle, error) {
		asked++
		for _, k := range ours {
			if bytes.Equal(ref, k.KeyPackage.Ref(d.zoe.suite)) {
				return k, nil
			}
		}
		return nil, core.ErrNotFound
	})
	if err != nil || asked != 4 || !bytes.Equal(joined.KeyPackage.InitKey, ours[2].KeyPackage.InitKey) {
		t.Errorf("%d entries were looked at, %v", asked, err)
	}
}

// onlySuite supports one suite.
type onlySuite struct {
	core.SuiteSource
	id core.SuiteID
}

func (o onlySuite) Suite(id core.SuiteID) (core.Suite, error) {
	if id != o.id {
		return nil, core.ErrUnsupported
	}
	return o.SuiteSource.Suite(id)
}

// WEL-2: the GroupInfo is signed by the member that it names.
func TestGroupInfoSigner(t *testing.T) {
	t.Parallel()
	d := newDoor(t, mls.CommitParams{})
	for _, leaf := range []mls.LeafIndex{4, 7, 1 << 30, 1 << 31, math.MaxUint32} {
		d.refused(fmt.Sprint("signer ", leaf), d.forge(func(i *mls.GroupInfo) { i.Signer = leaf }, sameSecrets), "WEL-2", nil)
	}
	d.refused("another member", d.forge(func(i *mls.GroupInfo) { i.Signer = d.bob.g().OwnLeaf() }, sameSecrets), "", mls.ErrAuthentication)
	d.refused("a stranger", d.forgeAs(newMember(t, 1, "x", mls.DefaultConfig).signer(), func(*mls.GroupInfo) {}, sameSecrets), "", mls.ErrAuthentication)
	d.alice.discard()
	if _, err := d.alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: d.bob.g().OwnLeaf()}, adding(newMember(t, 1, "yves", mls.DefaultConfig)), adding(d.zoe)}}); err != nil {
		t.Fatal(err)
	}
	d.open(d.forge(func(*mls.GroupInfo) {}, sameSecrets))
}

// WEL-3: the tree comes in the GroupInfo or beside it, is that of the GroupContext, and
// without any it is said that it lacks.
func TestTreeOfWelcome(t *testing.T) {
	t.Parallel()
	d := newDoor(t, mls.CommitParams{OmitTree: true})
	d.refused("no tree", d.bundle.Welcome, "", mls.ErrMissingTree)
	before, err := d.alice.g().RatchetTree(t.Context(), d.alice.env())
	if err != nil {
		t.Fatal(err)
	}
	d.tree = before
	d.refused("the tree of the epoch before", d.bundle.Welcome, "WEL-3", nil)
	d.tree = []byte{1}
	d.refused("no tree at all", d.bundle.Welcome, "", mls.ErrMalformed)
	d.all.deliver(t, d.alice, d.bundle.Commit)
	d.alice.merge()
	if d.tree, err = d.alice.g().RatchetTree(t.Context(), d.alice.env()); err != nil {
		t.Fatal(err)
	}
	d.open(d.bundle.Welcome)
	append(d.all, d.zoe).agree(t)

	inside := newDoor(t, mls.CommitParams{})
	inside.tree = before // what the GroupInfo carries counts
	inside.open(inside.bundle.Welcome)
	again := newDoor(t, mls.CommitParams{})
	again.refused("another tree inside", again.forge(func(i *mls.GroupInfo) { i.Extensions[0].Data = before }, sameSecrets), "WEL-3", nil)
}

// A forgedTree is something that is wrong with a GroupInfo and its tree, though the
// hash of the tree and the signature are right.
type forgedTree struct {
	what   string
	rule   string
	change func(i *mls.GroupInfo, nodes []mls.Node) []mls.Node
}

var forgedTrees = []forgedTree{
	{"a leaf's signature", "LEAF-1", func(_ *mls.GroupInfo, n []mls.Node) []mls.Node {
		leaf := *n[6].Leaf // unmerged: in no parent hash
		leaf.Signature = bytes.Clone(leaf.Signature)
		leaf.Signature[9] ^= 1
		n[6].Leaf = &leaf
		return n
	}},
	{"a parent hash", "TREE-10", func(_ *mls.GroupInfo, n []mls.Node) []mls.Node {
		parent := *n[1].Parent
		parent.ParentHash = make([]byte, 32)
		n[1].Parent = &parent
		return n
	}},
	{"an encryption key twice", "LEAF-4", func(_ *mls.GroupInfo, n []mls.Node) []mls.Node {
		parent := *n[1].Parent
		parent.EncryptionKey = n[0].Leaf.EncryptionKey
		n[1].Parent = &parent
		return n
	}},
	{"a signature key twice", "LEAF-4", func(_ *mls.GroupInfo, n []mls.Node) []mls.Node {
		leaf := *n[6].Leaf
		leaf.SignatureKey = n[2].Leaf.SignatureKey
		n[6].Leaf = &leaf
		return n
	}},
	{"an encryption key that is none", "CS-2", func(_ *mls.GroupInfo, n []mls.Node) []mls.Node {
		leaf := *n[6].Leaf
		leaf.EncryptionKey = make([]byte, 32)
		n[6].Leaf = &leaf
		return n
	}},
	{"a blank at the end", "TREE-2", func(_ *mls.GroupInfo, n []mls.Node) []mls.Node {
		return append(n, mls.Node{}, mls.Node{})
	}},
	{"a leaf where a parent belongs", "TREE-2", func(_ *mls.GroupInfo, n []mls.Node) []mls.Node {
		n[1] = n[0]
		return n
	}},
	{"unmerged leaves that are not there", "TREE-7", func(_ *mls.GroupInfo, n []mls.Node) []mls.Node {
		parent := *n[1].Parent
		parent.UnmergedLeaves = []mls.LeafIndex{2}
		n[1].Parent = &parent
		return n
	}},
	{"an extension that we do not know", "LEAF-8", func(i *mls.GroupInfo, n []mls.Node) []mls.Node {
		i.GroupContext.Extensions = mls.Extensions{unknownExtension}
		return n
	}},
	{"an extension that does not belong there", "PRP-8", func(i *mls.GroupInfo, n []mls.Node) []mls.Node {
		i.GroupContext.Extensions = mls.Extensions{{Type: mls.ExtensionApplicationID, Data: []byte{0}}}
		return n
	}},
	{"an extension of the group twice", "GRE-4", func(i *mls.GroupInfo, n []mls.Node) []mls.Node {
		i.GroupContext.Extensions = mls.Extensions{requireX509(), requireX509()}
		return n
	}},
	{"an extension of the GroupInfo twice", "GRE-4", func(i *mls.GroupInfo, n []mls.Node) []mls.Node {
		i.Extensions = append(i.Extensions, unknownExtension, unknownExtension)
		return n
	}},
	{"another tree hash", "WEL-3", func(i *mls.GroupInfo, n []mls.Node) []mls.Node {
		i.GroupContext.TreeHash = make([]byte, 32)
		return n
	}},
}

// applyTo makes the forged tree part of the GroupInfo.
func (f forgedTree) applyTo(t *testing.T, suite core.Suite, i *mls.GroupInfo) {
	t.Helper()
	nodes, err := mls.UnmarshalRatchetTree(i.Extensions[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	nodes = f.change(i, nodes)
	i.Extensions[0].Data = mls.MarshalRatchetTree(nodes)
	if _, hash, err := mls.TreeOf(suite, nodes); err == nil && f.rule != "WEL-3" {
		i.GroupContext.TreeHash = hash
	}
}

// WEL-4, mlspp#363: who joins checks the whole tree and what the group asks for; an
// extension of the GroupInfo that is not known does not matter.
func TestTreeIsValidatedOnJoin(t *testing.T) {
	t.Parallel()
	d := newDoor(t, mls.CommitParams{})
	for _, f := range forgedTrees {
		d.refused(f.what, d.forge(func(i *mls.GroupInfo) { f.applyTo(t, d.zoe.suite, i) }, sameSecrets), f.rule, nil)
	}
	d.open(d.forge(func(i *mls.GroupInfo) { i.Extensions = append(i.Extensions, unknownExtension) }, sameSecrets))
	d.all.deliver(t, d.alice, d.bundle.Commit)
	d.alice.merge()
	append(d.all, d.zoe).agree(t)
}

// WEL-5: our leaf is the one of the key package to the byte; one of the same client
// with the same keys is not it.
func TestOwnLeafIsTheKeyPackages(t *testing.T) {
	t.Parallel()
	d := newDoor(t, mls.CommitParams{})
	similar := *d.zoe.bundle
	kp, leaf := *similar.KeyPackage, *similar.KeyPackage.LeafNode
	leaf.Capabilities.Suites = leaf.Capabilities.Suites[:1]
	kp.LeafNode, similar.KeyPackage = &leaf, &kp
	if err := mls.ForgeKeyPackage(t.Context(), d.zoe.signer(), &kp); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := d.enter(provider, d.bundle.Welcome, func([]byte) (*mls.KeyPackageBundle, error) { return &similar, nil }); !isRule(err, "WEL-5") {
		t.Errorf("a leaf with our keys: %v", err)
	}
	again := *d.zoe.bundle
	fresh := newMember(t, 1, "zoe", mls.DefaultConfig)
	fresh.signers = d.zoe.signers
	again.KeyPackage = fresh.keyPackage()
	if _, _, _, err := d.enter(provider, d.bundle.Welcome, func([]byte) (*mls.KeyPackageBundle, error) { return &again, nil }); !isRule(err, "WEL-5") {
		t.Errorf("a leaf with our identity and signature key: %v", err)
	}
	d.open(d.bundle.Welcome)
}

// WEL-6: a path secret is that of the lowest node that we share with who signed, and
// all keys above follow from it; blank nodes and nodes that are not on the path take
// no step.
func TestPathSecretOfWelcome(t *testing.T) {
	t.Parallel()
	d := newDoor(t, mls.CommitParams{ForcePath: true})
	with := func(path []byte) func([]byte) []byte {
		return func(b []byte) []byte {
			s, err := mls.UnmarshalGroupSecrets(b)
			if err != nil {
				t.Fatal(err)
			}
			s.PathSecret = core.NewSecret(path)
			return s.Marshal()
		}
	}
	same := func(*mls.GroupInfo) {}
	d.refused("another secret", d.forge(same, with(make([]byte, 32))), "PATH-5", nil)
	d.refused("a short secret", d.forge(same, with(make([]byte, 31))), "PATH-5", nil)
	ours := d.forgeAs(d.zoe.signer(), func(i *mls.GroupInfo) { i.Signer = 3 }, with(make([]byte, 32)))
	d.refused("from ourselves", ours, "WEL-6", nil)
	pathless := newDoor(t, mls.CommitParams{})
	pathless.refused("a secret without a path", pathless.forge(same, with(make([]byte, 32))), "PATH-5", nil)
	d.open(d.bundle.Welcome)
	d.all.deliver(t, d.alice, d.bundle.Commit)
	d.alice.merge()
	all := append(d.all, d.zoe)
	all.agree(t)
	all.commitAll(t, d.bob, mls.CommitParams{ForcePath: true}).talk(t)

	// A sparse tree: of 12, only the leaves 0, 3, 4, 9 and 11 are left, and some of the
	// nodes above them have keys.
	alice := newMember(t, 1, "member 0", mls.DefaultConfig)
	alice.create("sparse", nil)
	all = party{alice}
	var list []mls.Proposal
	for i := range 11 {
		m := newMember(t, 1, fmt.Sprint("member ", i+1), mls.DefaultConfig)
		m.reload = false
		all, list = append(all, m), append(list, adding(m))
	}
	all = all[:1].commitAll(t, alice, mls.CommitParams{Proposals: list, ForcePath: true}, all[1:]...)
	for _, m := range all {
		all = all.commitAll(t, m, mls.CommitParams{ForcePath: true})
	}
	list = nil
	for _, leaf := range []mls.LeafIndex{1, 2, 5, 6, 7, 8, 10} {
		list = append(list, &mls.Remove{Removed: leaf})
	}
	all = all.commitAll(t, all[4], mls.CommitParams{Proposals: list})
	all = all.commitAll(t, all[4], mls.CommitParams{ForcePath: true})
	for i := range all[:2] {
		for by := range 5 { // they come to leaves 1, 2, 5 and on, into the filled and the blank
			zoe := newMember(t, 1, fmt.Sprint("zoe ", i, by), mls.DefaultConfig)
			all = all.commitAll(t, all[by], mls.CommitParams{Proposals: []mls.Proposal{adding(zoe)}, ForcePath: true}, zoe)
		}
		all = all.commitAll(t, all[i], mls.CommitParams{ForcePath: true})
		all = all.commitAll(t, all[len(all)-1], mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: all[len(all)-2].g().OwnLeaf()}}})
	}
	all.talk(t)
}

// WEL-7: the confirmation tag of the GroupInfo is that of the epoch.
func TestConfirmationTagOfWelcome(t *testing.T) {
	t.Parallel()
	d := newDoor(t, mls.CommitParams{})
	for _, tag := range [][]byte{nil, {0}, make([]byte, 32)} {
		d.refused(fmt.Sprintf("tag %x", tag), d.forge(func(i *mls.GroupInfo) { i.ConfirmationTag = tag }, sameSecrets), "", mls.ErrAuthentication)
	}
	d.refused("another epoch", d.forge(func(i *mls.GroupInfo) { i.GroupContext.Epoch++ }, sameSecrets), "", mls.ErrAuthentication)
	d.open(d.bundle.Welcome)
}

// WEL-8: who is welcomed sees the members, the extensions and who invites before
// anything is stored, and may leave it at that.
func TestWelcomeIsStaged(t *testing.T) {
	t.Parallel()
	d := newDoor(t, mls.CommitParams{})
	for range 2 {
		g, joined, ws, err := d.enter(provider, d.bundle.Welcome, d.own)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, m := range joined.Members {
			names = append(names, string(m.Credential.Identity))
		}
		if !slices.Equal(names, []string{"alice", "bob", "mallory", "zoe"}) || string(joined.Inviter.Credential.Identity) != "alice" || joined.Inviter.Leaf != 0 {
			t.Errorf("members %q, inviter %+v", names, joined.Inviter)
		}
		if string(g.GroupID()) != "group" || g.Epoch() != 3 || g.OwnLeaf() != 3 || len(g.Extensions()) != 0 || len(ws.Puts) == 0 {
			t.Errorf("group %q, epoch %d, leaf %d", g.GroupID(), g.Epoch(), g.OwnLeaf())
		}
		if d.zoe.stored.dump() != "" {
			t.Error("something is stored")
		}
	}
}

// WEL-10: one Welcome serves many, and needs no external_pub.
func TestOneWelcomeForMany(t *testing.T) {
	t.Parallel()
	alice, _, _, all := threesome(t, mls.DefaultConfig, nil)
	var joiners []*member
	var list []mls.Proposal
	for i := range 9 {
		m := newMember(t, 1, fmt.Sprint("joiner ", i), mls.DefaultConfig)
		joiners, list = append(joiners, m), append(list, adding(m))
	}
	all.commitAll(t, alice, mls.CommitParams{Proposals: list, ForcePath: true}, joiners...).talk(t)
	d := newDoor(t, mls.CommitParams{})
	d.open(d.forge(func(i *mls.GroupInfo) { i.Extensions = i.Extensions[:1] }, sameSecrets)) // the tree
	d.all.deliver(t, d.alice, d.bundle.Commit)
	d.alice.merge()
	append(d.all, d.zoe).talk(t)
}

// WEL-11: to join a group of n costs n signature checks, and one of the GroupInfo;
// they run on all cores.
func TestCostOfJoining(t *testing.T) {
	t.Parallel()
	const n = 64
	d := &door{t: t, zoe: newMember(t, 1, "zoe", mls.DefaultConfig), alice: newMember(t, 1, "alice", mls.DefaultConfig)}
	d.alice.create("group", nil)
	list := []mls.Proposal{adding(d.zoe)}
	for i := range n - 2 {
		list = append(list, adding(newMember(t, 1, fmt.Sprint("joiner ", i), mls.DefaultConfig)))
	}
	b, err := d.alice.commit(mls.CommitParams{Proposals: list})
	if err != nil {
		t.Fatal(err)
	}
	p := newProbe()
	p.pause = time.Millisecond
	if _, _, _, err := d.enter(p, b.Welcome, d.own); err != nil {
		t.Fatal(err)
	}
	if p.verified.Load() != n+1 || p.opened.Load() != 1 || p.sealed.Load() != 0 {
		t.Errorf("%d signatures, %d ciphertexts", p.verified.Load(), p.opened.Load())
	}
	if cores := runtime.GOMAXPROCS(0); cores > 1 && p.most.Load() < 2 {
		t.Errorf("%d signatures at once on %d cores", p.most.Load(), cores)
	}
}

// WEL-12: the PSKs are needed to open the GroupInfo; without one it is said that it
// lacks, and with another one nothing opens.
func TestWelcomeWithPSK(t *testing.T) {
	t.Parallel()
	d := newDoor(t, mls.CommitParams{})
	d.alice.discard()
	b, err := d.alice.commit(mls.CommitParams{Proposals: []mls.Proposal{d.alice.g().NewExternalPSK([]byte("psk")), adding(d.zoe)}})
	if err != nil {
		t.Fatal(err)
	}
	d.refused("no PSK", b.Welcome, "", mls.ErrMissingPSK)
	d.zoe.psks["psk"] = []byte("another")
	d.refused("another PSK", b.Welcome, "", mls.ErrAuthentication)
	d.zoe.psks["psk"] = []byte("key")
	d.open(b.Welcome)
	d.all.deliver(t, d.alice, b.Commit)
	d.alice.merge()
	append(d.all, d.zoe).agree(t)
}

// WEL-13: a joiner has the transcript of the others: it takes their next commit, and
// they its own.
func TestTranscriptOfJoiner(t *testing.T) {
	t.Parallel()
	d := newDoor(t, mls.CommitParams{})
	d.open(d.bundle.Welcome)
	d.all.deliver(t, d.alice, d.bundle.Commit)
	d.alice.merge()
	all := append(d.all, d.zoe)
	all.agree(t)
	for _, by := range []*member{d.mallory, d.zoe, d.alice} {
		all = all.commitAll(t, by, mls.CommitParams{ForcePath: true})
	}
}
