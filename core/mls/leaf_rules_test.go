// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// forgedUpdate is a proposal by m of its own leaf as change makes it; sign signs it.
func (m *member) forgedUpdate(change func(*mls.LeafNode), sign func(*mls.LeafNode) error) []byte {
	m.t.Helper()
	leaf, err := m.g().OwnLeafNode(m.t.Context(), m.env())
	if err != nil {
		m.t.Fatal(err)
	}
	key, err := m.suite.GenerateKeyPair()
	if err != nil {
		m.t.Fatal(err)
	}
	update := *leaf
	update.Source, update.EncryptionKey, update.ParentHash, update.Lifetime = mls.LeafUpdate, key.Public(), nil, mls.Lifetime{}
	change(&update)
	if sign == nil {
		sign = func(n *mls.LeafNode) error { return mls.ForgeLeaf(m.t.Context(), m.signers[0], m.g(), n) }
	}
	if err := sign(&update); err != nil {
		m.t.Fatal(err)
	}
	message, err := mls.ForgeMessage(m.t.Context(), m.env(), m.g(), mls.WirePublicMessage,
		mls.Sender{Type: mls.SenderMember, Leaf: m.g().OwnLeaf()}, m.signers[0], &mls.Update{LeafNode: &update}, nil, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	return message
}

// uncheckedCommit is a commit by m that is right in all but what it proposes.
func (m *member) uncheckedCommit(change func(*mls.LeafNode), proposals ...mls.Proposal) []byte {
	m.t.Helper()
	message, err := mls.ForgeUncheckedCommit(m.t.Context(), m.env(), m.g(), proposals, change, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	return message
}

// withTree is the GroupInfo of m with another tree, signed by m.
func (m *member) withTree(change func([]mls.Node)) []byte {
	m.t.Helper()
	info, err := mls.ForgeGroupInfo(m.t.Context(), m.env(), m.g(), m.signer(), func(i *mls.GroupInfo) {
		if err := mls.ForgeTree(m.suite, i, change); err != nil {
			m.t.Fatal(err)
		}
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return info
}

// LEAF-1: a leaf that was signed for another place or group is refused, from a member
// by Update, from outside by a path, and in a tree; a key package's is for any place.
func TestLeafOfAnotherPlace(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	alice, bob, mallory, p := threesome(t, mls.DefaultConfig, nil)
	own := mallory.g().OwnLeaf()
	for what, at := range map[string]struct {
		group string
		index mls.LeafIndex
	}{"another leaf": {"group", own - 1}, "another group": {"grouq", own}, "no group": {"", 0}} {
		message := mallory.forgedUpdate(func(*mls.LeafNode) {}, func(n *mls.LeafNode) error {
			return mls.ForgeLeafAt(ctx, mallory.signers[0], []byte(at.group), at.index, n)
		})
		wantRefusal(t, "an Update for "+what, alice, message, "", mls.ErrAuthentication)
		// An Observer does not see the tag, which would be wrong as well.
		info := infoOf(t, alice.groupInfo())
		o, err := mls.Observe(alice.env(), info, nil)
		if err != nil {
			t.Fatal(err)
		}
		zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
		commit, err := zoe.joinExternal(alice.groupInfo())
		if err != nil {
			t.Fatal(err)
		}
		commit, err = mls.ForgeExternalCommit(ctx, bob.g(), zoe.signer(), commit, func(c *mls.Commit) {
			if err := mls.ForgeLeafAt(ctx, zoe.signer(), []byte(at.group), at.index, c.Path.LeafNode); err != nil {
				t.Fatal(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		m, err := mls.UnmarshalMLSMessage(commit)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := o.Process(ctx, alice.env(), m); !errors.Is(err, mls.ErrAuthentication) {
			t.Errorf("a path for %s: %v", what, err)
		}
		// In a tree: mallory's leaf becomes one of source update.
		_, err = newMember(t, 1, "yves", mls.DefaultConfig).joinExternal(alice.withTree(func(nodes []mls.Node) {
			leaf := *nodes[2*own].Leaf
			leaf.Source, leaf.Lifetime = mls.LeafUpdate, mls.Lifetime{}
			if err := mls.ForgeLeafAt(ctx, mallory.signers[0], []byte(at.group), at.index, &leaf); err != nil {
				t.Fatal(err)
			}
			nodes[2*own].Leaf = &leaf
		}))
		wantBreach(t, "a tree with a leaf for "+what, "LEAF-1", err)
	}
	// Signed for its place it is good, and so is a key package's leaf at any place.
	message := mallory.forgedUpdate(func(*mls.LeafNode) {}, nil)
	for _, m := range p[:2] {
		if _, err := m.process(message); err != nil {
			t.Error(err)
		}
	}
	if _, err := newMember(t, 1, "zoe", mls.DefaultConfig).joinExternal(alice.withTree(func(nodes []mls.Node) {
		nodes[2].Leaf, nodes[4].Leaf = nodes[4].Leaf, nodes[2].Leaf
	})); err != nil {
		t.Errorf("key package leaves elsewhere: %v", err)
	}
}

// LEAF-2: each source has its place; in a tree all three stand side by side.
func TestLeafSources(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	alice, bob, mallory, p := threesome(t, mls.DefaultConfig, nil)
	all := []mls.LeafNodeSource{mls.LeafKeyPackage, mls.LeafUpdate, mls.LeafCommit}
	external := func(source mls.LeafNodeSource) []byte {
		zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
		commit, err := zoe.joinExternal(alice.groupInfo())
		if err != nil {
			t.Fatal(err)
		}
		commit, err = mls.ForgeExternalCommit(ctx, bob.g(), zoe.signer(), commit, func(c *mls.Commit) {
			c.Path.LeafNode.Source = source
			if err := mls.ForgeLeafAt(ctx, zoe.signer(), bob.g().GroupID(), 3, c.Path.LeafNode); err != nil {
				t.Fatal(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return commit
	}
	forge := func(source mls.LeafNodeSource, p mls.Proposal, c *mls.Commit) []byte {
		message, err := mls.ForgeMessage(ctx, mallory.env(), mallory.g(), mls.WirePublicMessage,
			mls.Sender{Type: mls.SenderMember, Leaf: mallory.g().OwnLeaf()}, mallory.signer(), p, c, make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		return message
	}
	b, err := mallory.commit(mls.CommitParams{ForcePath: true})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mls.UnmarshalMLSMessage(b.Commit)
	if err != nil {
		t.Fatal(err)
	}
	path := m.PublicMessage.Content.Commit.Path
	for _, source := range all {
		if source != mls.LeafKeyPackage {
			zoe := newcomer(t, "zoe", func(n *mls.LeafNode) { n.Source = source })
			wantBreach(t, "a key package", "LEAF-2", zoe.bundle.KeyPackage.Validate(zoe.suite, zoe.env().Now))
			message, err := mls.ForgeMessage(ctx, mallory.env(), mallory.g(), mls.WirePublicMessage,
				mls.Sender{Type: mls.SenderMember, Leaf: mallory.g().OwnLeaf()}, mallory.signer(), zoe.add(), nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, fmt.Sprintf("an Add with source %d", source), bob, message, "LEAF-2", nil)
		}
		if source != mls.LeafUpdate {
			message := mallory.forgedUpdate(func(n *mls.LeafNode) { n.Source = source }, nil)
			wantRefusal(t, fmt.Sprintf("an Update with source %d", source), bob, message, "LEAF-2", nil)
		}
		if source != mls.LeafCommit {
			leaf := *path.LeafNode
			leaf.Source = source
			if err := mls.ForgeLeaf(ctx, mallory.signer(), mallory.g(), &leaf); err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, fmt.Sprintf("a path with source %d", source), bob,
				forge(source, nil, &mls.Commit{Path: &mls.UpdatePath{LeafNode: &leaf, Nodes: path.Nodes}}), "LEAF-2", nil)
			wantRefusal(t, fmt.Sprintf("an external path with source %d", source), bob, external(source), "LEAF-2", nil)
		}
	}
	// All three in one tree.
	update, err := bob.proposeUpdate(mls.LeafParams{})
	if err != nil {
		t.Fatal(err)
	}
	p.deliver(t, bob, update)
	p.commitAll(t, alice, mls.CommitParams{})
	nodes, err := mls.UnmarshalRatchetTree(alice.tree())
	if err != nil {
		t.Fatal(err)
	}
	for i, source := range []mls.LeafNodeSource{mls.LeafCommit, mls.LeafUpdate, mls.LeafKeyPackage} {
		if n := nodes[2*i].Leaf; n.Source != source || (len(n.ParentHash) > 0) != (source == mls.LeafCommit) || (n.Lifetime != mls.Lifetime{}) != (source == mls.LeafKeyPackage) {
			t.Errorf("leaf %d: %+v", i, n)
		}
	}
	if _, err := newMember(t, 1, "zoe", mls.DefaultConfig).joinExternal(alice.groupInfo()); err != nil {
		t.Error(err)
	}
}

func (m *member) tree() []byte {
	m.t.Helper()
	tree, err := m.g().RatchetTree(m.t.Context(), m.env())
	if err != nil {
		m.t.Fatal(err)
	}
	return tree
}

// LEAF-3: whoever renews a leaf renews its encryption key, by Update, path or resync.
func TestLeafKeepsItsKey(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	own, err := mallory.g().OwnLeafNode(t.Context(), mallory.env())
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "an Update", bob, mallory.forgedUpdate(func(n *mls.LeafNode) { n.EncryptionKey = own.EncryptionKey }, nil), "LEAF-3", nil)
	b, err := mallory.commit(mls.CommitParams{ForcePath: true})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mls.UnmarshalMLSMessage(b.Commit)
	if err != nil {
		t.Fatal(err)
	}
	commit := m.PublicMessage.Content.Commit
	commit.Path.LeafNode.EncryptionKey = own.EncryptionKey
	if err := mls.ForgeLeaf(t.Context(), mallory.signer(), mallory.g(), commit.Path.LeafNode); err != nil {
		t.Fatal(err)
	}
	message, err := mls.ForgeMessage(t.Context(), mallory.env(), mallory.g(), mls.WirePublicMessage,
		mls.Sender{Type: mls.SenderMember, Leaf: mallory.g().OwnLeaf()}, mallory.signer(), nil, commit, m.PublicMessage.Auth.ConfirmationTag)
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "a path", bob, message, "LEAF-3", nil)
	info := alice.groupInfo()
	again := newMember(t, 1, mallory.name, mls.DefaultConfig)
	if message, err = again.joinExternal(info); err != nil {
		t.Fatal(err)
	}
	message, err = mls.ForgeExternalCommit(t.Context(), bob.g(), again.signer(), message, func(c *mls.Commit) {
		c.Path.LeafNode.EncryptionKey = own.EncryptionKey
	})
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "a resync", bob, message, "LEAF-3", nil)
}

// LEAF-4: no key is in a tree twice, whichever way a leaf gets there.
func TestKeysAreUnique(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	alice, bob, mallory, p := threesome(t, mls.DefaultConfig, nil)
	p.commitAll(t, alice, mls.CommitParams{ForcePath: true}) // so that there are parents
	nodes, err := mls.UnmarshalRatchetTree(alice.tree())
	if err != nil {
		t.Fatal(err)
	}
	leafKey, parentKey, signatureKey := nodes[2].Leaf.EncryptionKey, nodes[1].Parent.EncryptionKey, nodes[2].Leaf.SignatureKey
	bobs := bob.signer() // whoever had it could sign with it
	add := func(name string, signer core.Signer, encryption []byte) *mls.Add {
		kp := newMember(t, 1, name, mls.DefaultConfig).keyPackage()
		kp.LeafNode.SignatureKey = signer.Public()
		if encryption != nil {
			kp.LeafNode.EncryptionKey = encryption
		}
		if err := mls.ForgeKeyPackage(ctx, signer, kp); err != nil {
			t.Fatal(err)
		}
		return &mls.Add{KeyPackage: kp}
	}
	fresh := func() core.Signer { return newMember(t, 1, "key", mls.DefaultConfig).signer() }
	shared := fresh()
	for what, list := range map[string][]mls.Proposal{
		"an Add with a leaf's key":         {add("zoe", fresh(), leafKey)},
		"an Add with a parent's key":       {add("zoe", fresh(), parentKey)},
		"an Add with a signature key":      {add("zoe", bobs, nil)},
		"two Adds with one encryption key": {add("zoe", fresh(), []byte("0123456789abcdef0123456789abcdef")), add("yves", fresh(), []byte("0123456789abcdef0123456789abcdef"))},
		"two Adds with one signature key":  {add("zoe", shared, nil), add("yves", shared, nil)},
		"one beside new extensions":        {add("zoe", bobs, nil), &mls.GroupContextExtensions{}},
	} {
		_, err := alice.commit(mls.CommitParams{Proposals: list})
		wantBreach(t, what+", committed", "LEAF-4", err)
		wantRefusal(t, what, alice, mallory.uncheckedCommit(nil, list...), "LEAF-4", nil)
	}
	// A key that the leaf has first and a parent behind it.
	dave := newMember(t, 1, "dave", mls.DefaultConfig)
	p = p.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: dave.keyPackage()}}}, dave)
	p.commitAll(t, dave, mls.CommitParams{ForcePath: true})
	if nodes, err = mls.UnmarshalRatchetTree(alice.tree()); err != nil {
		t.Fatal(err)
	}
	behind := []mls.Proposal{&mls.Remove{Removed: bob.g().OwnLeaf()}, add("zoe", fresh(), nodes[5].Parent.EncryptionKey)}
	_, err = alice.commit(mls.CommitParams{Proposals: behind})
	wantBreach(t, "an Add with the key of a parent behind it", "LEAF-4", err)
	// A path with the signature key of another; its encryption keys are PATH-6.
	message, err := mls.ForgeUncheckedCommit(ctx, mallory.env(), mallory.g(), nil, func(n *mls.LeafNode) { n.SignatureKey = signatureKey }, bobs)
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "a path", alice, message, "LEAF-4", nil)
	// Updates with such keys wait in vain: nobody commits them.
	for what, change := range map[string]func(*mls.LeafNode){
		"a leaf's key":   func(n *mls.LeafNode) { n.EncryptionKey = leafKey },
		"a parent's key": func(n *mls.LeafNode) { n.EncryptionKey = parentKey },
	} {
		if _, err := alice.process(mallory.forgedUpdate(change, nil)); err != nil {
			t.Fatal(err)
		}
		if b, err := alice.commit(mls.CommitParams{}); err != nil || len(mustCommit(t, b.Commit).Proposals) > 0 {
			t.Errorf("an Update with %s is committed (%v)", what, err)
		}
	}
	alice, bob, mallory, p = threesome(t, mls.DefaultConfig, nil)
	update := mallory.forgedUpdate(func(n *mls.LeafNode) { n.SignatureKey = bob.signer().Public() }, func(n *mls.LeafNode) error {
		return mls.ForgeLeaf(ctx, bob.signer(), mallory.g(), n)
	})
	if _, err := alice.process(update); err != nil {
		t.Fatal(err)
	}
	if b, err := alice.commit(mls.CommitParams{}); err != nil || len(mustCommit(t, b.Commit).Proposals) > 0 {
		t.Errorf("an Update with a signature key is committed (%v)", err)
	}
	// At a join and for an observer.
	p.commitAll(t, alice, mls.CommitParams{ForcePath: true})
	for what, change := range map[string]func(nodes []mls.Node, n *mls.LeafNode) core.Signer{
		"a leaf's key": func(nodes []mls.Node, n *mls.LeafNode) core.Signer {
			n.EncryptionKey = nodes[2].Leaf.EncryptionKey
			return mallory.signer()
		},
		"a parent's key": func(nodes []mls.Node, n *mls.LeafNode) core.Signer {
			n.EncryptionKey = nodes[1].Parent.EncryptionKey
			return mallory.signer()
		},
		"a signature key": func(nodes []mls.Node, n *mls.LeafNode) core.Signer {
			n.SignatureKey = nodes[2].Leaf.SignatureKey
			return bob.signer()
		},
	} {
		info := alice.withTree(func(nodes []mls.Node) {
			leaf := *nodes[4].Leaf
			signer := change(nodes, &leaf)
			if err := mls.ForgeLeafAt(ctx, signer, nil, 0, &leaf); err != nil {
				t.Fatal(err)
			}
			nodes[4].Leaf = &leaf
		})
		_, err := newMember(t, 1, "zoe", mls.DefaultConfig).joinExternal(info)
		wantBreach(t, "a tree with "+what+" twice", "LEAF-4", err)
		_, err = mls.Observe(alice.env(), infoOf(t, info), nil)
		wantBreach(t, "a tree with "+what+" twice, observed", "LEAF-4", err)
	}
}

func mustCommit(t testing.TB, message []byte) *mls.Commit {
	t.Helper()
	m, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		t.Fatal(err)
	}
	return m.PublicMessage.Content.Commit
}

// LEAF-5, openmls#1763: a leaf has such extensions as it says it supports and as may
// be in a leaf; those of RFC 9420 need not be listed.
func TestLeafExtensions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	type change = func(*mls.LeafNode)
	with := func(t mls.ExtensionType, listed bool) change {
		return func(n *mls.LeafNode) {
			n.Extensions = mls.Extensions{{Type: t, Data: []byte{0}}}
			n.Capabilities.Extensions = nil
			if listed {
				n.Capabilities.Extensions = append(n.Capabilities.Extensions, t)
			}
		}
	}
	for _, c := range []struct {
		what   string
		change change
		good   bool
	}{
		{"application_id", with(mls.ExtensionApplicationID, false), true},
		{"a listed one", with(0xF001, true), true},
		{"a listed GREASE one", with(0x3A3A, true), true},
		{"one that is not listed", with(0xF001, false), false},
		{"a GREASE one that is not listed", with(0x3A3A, false), false},
		{"ratchet_tree", with(mls.ExtensionRatchetTree, false), false},
		{"ratchet_tree, listed", with(mls.ExtensionRatchetTree, true), false},
		{"required_capabilities", with(mls.ExtensionRequiredCapabilities, true), false},
		{"external_pub", with(mls.ExtensionExternalPub, true), false},
		{"external_senders", with(mls.ExtensionExternalSenders, true), false},
		{"last_resort", with(mls.ExtensionLastResort, true), false},
	} {
		alice, bob, mallory, p := threesome(t, mls.DefaultConfig, nil)
		tree := alice.withTree(func(nodes []mls.Node) {
			leaf := *nodes[4].Leaf
			c.change(&leaf)
			if err := mls.ForgeLeafAt(ctx, mallory.signer(), nil, 0, &leaf); err != nil {
				t.Fatal(err)
			}
			nodes[4].Leaf = &leaf
		})
		zoe := newcomer(t, "zoe", c.change)
		path := mallory.uncheckedCommit(c.change)
		if !c.good {
			wantBreach(t, c.what+", a key package", "LEAF-5", zoe.bundle.KeyPackage.Validate(zoe.suite, zoe.env().Now))
			wantRefusal(t, c.what+", an Update", bob, mallory.forgedUpdate(c.change, nil), "LEAF-5", nil)
			wantRefusal(t, c.what+", a path", bob, path, "LEAF-5", nil)
			wantRefusal(t, c.what+", an Add", bob, mallory.uncheckedCommit(nil, zoe.add()), "LEAF-5", nil)
			_, err := newMember(t, 1, "yves", mls.DefaultConfig).joinExternal(tree)
			wantBreach(t, c.what+", a tree", "LEAF-5", err)
			continue
		}
		if _, err := bob.process(mallory.forgedUpdate(c.change, nil)); err != nil {
			t.Errorf("%s, an Update: %v", c.what, err)
		}
		if _, err := bob.process(path); err != nil {
			t.Errorf("%s, a path: %v", c.what, err)
		}
		if _, err := newMember(t, 1, "yves", mls.DefaultConfig).joinExternal(tree); err != nil {
			t.Errorf("%s, a tree: %v", c.what, err)
		}
		party{alice, p[2]}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{zoe.add()}}, zoe)
	}
}

// LEAF-6, mls-rs#319: what we make lists the version, the suite and the credential
// type, and no default types; of what we receive only the version is asked for.
func TestCapabilitiesOfOurOwn(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	c := mls.DefaultCapabilities(provider.Suites())
	if len(c.Extensions)+len(c.Proposals) > 0 || len(c.Versions) == 0 || len(c.Suites) != len(provider.Suites()) {
		t.Errorf("capabilities %+v", c)
	}
	info := infoOf(t, alice.groupInfo())
	for what, lists := range map[string]struct {
		change   func(*mls.Capabilities)
		rule     string
		received bool // refused
	}{
		"no version":    {func(c *mls.Capabilities) { c.Versions = nil }, "LEAF-6", true},
		"another suite": {func(c *mls.Capabilities) { c.Suites = []core.SuiteID{2} }, "LEAF-6", false},
		"a default extension": {func(c *mls.Capabilities) {
			c.Extensions = []mls.ExtensionType{0xF001, mls.ExtensionExternalSenders}
		}, "LEAF-6", false},
		"a default proposal": {func(c *mls.Capabilities) {
			c.Proposals = []mls.ProposalType{0xF001, mls.ProposalAdd}
		}, "LEAF-6", false},
		"the last default proposal": {func(c *mls.Capabilities) {
			c.Proposals = []mls.ProposalType{mls.ProposalGroupContextExtensions}
		}, "LEAF-6", false},
		"not its credential": {func(c *mls.Capabilities) { c.Credentials = []core.CredentialType{2} }, "CRD-4", true},
	} {
		capabilities := alice.capabilities()
		lists.change(&capabilities)
		zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
		credential := core.BasicCredential("zoe")
		_, err := mls.NewKeyPackage(t.Context(), mls.KeyPackageParams{Suite: zoe.suite, Signer: zoe.signer(), Credential: credential, Capabilities: capabilities, Lifetime: mls.NoLifetime})
		wantBreach(t, what+", a key package", lists.rule, err)
		_, _, err = mls.Create(t.Context(), zoe.env(), mls.CreateParams{Suite: zoe.suite, GroupID: []byte("g"), Signer: zoe.signer(), Credential: credential, Capabilities: capabilities})
		wantBreach(t, what+", a group", lists.rule, err)
		_, _, _, err = mls.JoinExternal(t.Context(), zoe.env(), mls.ExternalParams{GroupInfo: info, Signer: zoe.signer(), Credential: credential, Capabilities: capabilities, Config: mls.DefaultConfig})
		wantBreach(t, what+", an external join", lists.rule, err)
		_, err = alice.proposeUpdate(mls.LeafParams{Capabilities: &capabilities})
		wantBreach(t, what+", an Update", lists.rule, err)
		if _, err = alice.commit(mls.CommitParams{Leaf: mls.LeafParams{Capabilities: &capabilities}}); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s, a path: %v", what, err)
		}
		message := mallory.uncheckedCommit(nil, newcomer(t, "zoe", func(n *mls.LeafNode) { lists.change(&n.Capabilities) }).add())
		if lists.received {
			wantRefusal(t, what, bob, message, lists.rule, nil)
			path := mallory.uncheckedCommit(func(n *mls.LeafNode) { lists.change(&n.Capabilities) })
			wantRefusal(t, what+", a path", bob, path, lists.rule, nil)
			continue
		}
		o, err := mls.Observe(bob.env(), info, nil)
		if err != nil {
			t.Fatal(err)
		}
		m, err := mls.UnmarshalMLSMessage(message)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := o.Process(t.Context(), bob.env(), m); err != nil {
			t.Errorf("%s, received: %v", what, err)
		}
	}
}

// LEAF-6: who is strict refuses leaves that list default types, wherever they come
// from, and others do not.
func TestStrictCapabilities(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	lists := func(n *mls.LeafNode) {
		n.Capabilities.Extensions = append(slices.Clone(n.Capabilities.Extensions), mls.ExtensionApplicationID)
	}
	zoe := newcomer(t, "zoe", lists)
	joiner := newMember(t, 1, "joiner", mls.DefaultConfig)
	external, err := joiner.joinExternal(alice.groupInfo())
	if err != nil {
		t.Fatal(err)
	}
	external, err = mls.ForgeExternalCommit(ctx, bob.g(), joiner.signer(), external, func(c *mls.Commit) {
		lists(c.Path.LeafNode)
		if err := mls.ForgeLeafAt(ctx, joiner.signer(), bob.g().GroupID(), 3, c.Path.LeafNode); err != nil {
			t.Fatal(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	tree := infoOf(t, alice.withTree(func(nodes []mls.Node) { nodes[2].Leaf = zoe.bundle.KeyPackage.LeafNode }))
	for what, message := range map[string][]byte{
		"an Update": mallory.forgedUpdate(lists, nil), "a path": mallory.uncheckedCommit(lists),
		"an Add": mallory.uncheckedCommit(nil, zoe.add()), "an external path": external,
	} {
		m, err := mls.UnmarshalMLSMessage(message)
		if err != nil {
			t.Fatal(err)
		}
		env := bob.env()
		env.StrictCapabilities = true
		_, _, _, err = bob.g().Process(ctx, env, m)
		wantBreach(t, what, "LEAF-6", err)
		if what == "an external path" { // its tag is wrong now, which an Observer does not see
			o, err := mls.Observe(bob.env(), infoOf(t, alice.groupInfo()), nil)
			if err == nil {
				_, _, err = o.Process(ctx, bob.env(), m)
			}
			if err != nil {
				t.Errorf("%s, not strict: %v", what, err)
			}
		} else if _, _, _, err := bob.g().Process(ctx, bob.env(), m); err != nil {
			t.Errorf("%s, not strict: %v", what, err)
		}
	}
	env := bob.env()
	if _, err := mls.Observe(env, tree, nil); err != nil {
		t.Errorf("a tree, not strict: %v", err)
	}
	env.StrictCapabilities = true
	_, err = mls.Observe(env, tree, nil)
	wantBreach(t, "a tree", "LEAF-6", err)
}

// LEAF-7, LEAF-8: who is in the group after a commit supports what it requires and
// uses after it, be it the commit that asks for more or a leaf that offers less.
func TestNewGroupContextIsSupported(t *testing.T) {
	t.Parallel()
	const x = 0xF001
	supports := func(n *mls.LeafNode) {
		n.Capabilities.Extensions = []mls.ExtensionType{x}
		n.Capabilities.Proposals = []mls.ProposalType{x}
		n.Capabilities.Credentials = append(n.Capabilities.Credentials, x)
	}
	requires := func(r mls.RequiredCapabilities) mls.Proposal {
		return &mls.GroupContextExtensions{Extensions: mls.Extensions{r.Extension()}}
	}
	for _, c := range []struct {
		what string
		gce  mls.Proposal
		rule string
	}{
		{"a required extension", requires(mls.RequiredCapabilities{Extensions: []mls.ExtensionType{x}}), "LEAF-7"},
		{"a required proposal type", requires(mls.RequiredCapabilities{Proposals: []mls.ProposalType{x}}), "LEAF-7"},
		{"a required credential type", requires(mls.RequiredCapabilities{Credentials: []core.CredentialType{x}}), "LEAF-7"},
		{"an extension", &mls.GroupContextExtensions{Extensions: mls.Extensions{{Type: x}}}, "LEAF-8"},
	} {
		able := func(name string) *member { return newcomer(t, name, supports) }
		unable := func(name string) *member { return newcomer(t, name, func(*mls.LeafNode) {}) }
		alice := newMember(t, 1, "alice", mls.DefaultConfig)
		alice.create("group", nil)
		capabilities := able("x").bundle.KeyPackage.LeafNode.Capabilities
		p := party{alice}.commitAll(t, alice, mls.CommitParams{Leaf: mls.LeafParams{Capabilities: &capabilities}})
		bob, mallory, dave := able("bob"), able("mallory"), unable("dave")
		p = p.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{bob.add(), mallory.add(), dave.add()}}, bob, mallory, dave)
		refused := func(what string, list ...mls.Proposal) {
			t.Helper()
			_, err := alice.commit(mls.CommitParams{Proposals: list})
			wantBreach(t, c.what+", "+what+", committed", c.rule, err)
			wantRefusal(t, c.what+", "+what+", received", bob, mallory.uncheckedCommit(nil, list...), c.rule, nil)
		}
		refused("a member lacks it", c.gce)
		remove := &mls.Remove{Removed: dave.g().OwnLeaf()}
		refused("a joiner lacks it", unable("zoe").add(), remove, c.gce)
		zoe := able("zoe")
		p = p.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{zoe.add(), remove, c.gce}}, zoe)
		refused("a later joiner lacks it", unable("yves").add())
		_, err := unable("yves").joinExternal(alice.groupInfo())
		wantBreach(t, c.what+", an external joiner lacks it", c.rule, err)
		less := func(n *mls.LeafNode) { n.Capabilities = alice.capabilities() }
		wantRefusal(t, c.what+", a path drops it", bob, mallory.uncheckedCommit(less), c.rule, nil)
		if _, err := alice.process(mallory.forgedUpdate(less, nil)); err != nil {
			t.Fatal(err)
		}
		if b, err := alice.commit(mls.CommitParams{}); err != nil || len(mustCommit(t, b.Commit).Proposals) > 0 {
			t.Errorf("%s: an Update that drops it is committed (%v)", c.what, err)
		}
		// In somebody else's tree.
		info := alice.withTree(func(nodes []mls.Node) {
			for i := range nodes { // without parents nothing but the leaf is wrong
				nodes[i].Parent = nil
				if n := nodes[i].Leaf; n != nil && n.Source != mls.LeafKeyPackage {
					leaf := *n
					leaf.Source, leaf.ParentHash = mls.LeafUpdate, nil
					if err := mls.ForgeLeafAt(t.Context(), alice.signer(), []byte("group"), mls.LeafIndex(i/2), &leaf); err != nil {
						t.Fatal(err)
					}
					nodes[i].Leaf = &leaf
				}
			}
			nodes[2].Leaf = unable("yves").bundle.KeyPackage.LeafNode
		})
		_, err = able("xavier").withCapabilities(capabilities).joinExternal(info)
		wantBreach(t, c.what+", a tree", c.rule, err)
		p = p.commitAll(t, alice, mls.CommitParams{ForcePath: true})
		p.talk(t)
		// Dropped from the context it is not asked for any more.
		yves := unable("yves")
		p.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{yves.add(), &mls.GroupContextExtensions{}}}, yves)
	}
}

func (m *member) withCapabilities(c mls.Capabilities) *member {
	m.able = &c
	return m
}

// LEAF-10: values that nobody knows make no difference in capabilities, whether the
// leaf is in a key package, an Update, a path or a tree.
func TestUnknownCapabilities(t *testing.T) {
	t.Parallel()
	_, bob, mallory, p := threesome(t, mls.DefaultConfig, nil)
	odd := func(n *mls.LeafNode) {
		n.Capabilities = mls.Capabilities{
			Versions: []mls.ProtocolVersion{0, 0x0A0A, mls.MLS10, 0xFFFF}, Suites: []core.SuiteID{0x1A1A, 1, 0xF000, 0},
			Extensions: []mls.ExtensionType{0x2A2A, 0xFFFF, 0, 0x0A}, Proposals: []mls.ProposalType{0xEAEA, 0, 0xF003},
			Credentials: []core.CredentialType{0xEAEA, 1, 2, 0xFF00, 0},
		}
	}
	zoe := newcomer(t, "zoe", odd)
	p = p.commitAll(t, bob, mls.CommitParams{Proposals: []mls.Proposal{zoe.add()}}, zoe)
	capabilities := zoe.bundle.KeyPackage.LeafNode.Capabilities
	update, err := mallory.proposeUpdate(mls.LeafParams{Capabilities: &capabilities})
	if err != nil {
		t.Fatal(err)
	}
	p.deliver(t, mallory, update)
	p = p.commitAll(t, bob, mls.CommitParams{Leaf: mls.LeafParams{Capabilities: &capabilities}})
	yves := newMember(t, 1, "yves", mls.DefaultConfig)
	commit, err := yves.joinExternal(bob.groupInfo())
	if err != nil {
		t.Fatal(err)
	}
	p.deliver(t, nil, commit)
	append(p, yves).talk(t)
}
