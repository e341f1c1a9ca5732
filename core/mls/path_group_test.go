// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// fill lets every member commit, so that there is no blank node over them.
func (p party) fill(t *testing.T) {
	t.Helper()
	for _, m := range p {
		p.commitAll(t, m, mls.CommitParams{ForcePath: true})
	}
}

// some is a group of n members, the first of which added the others.
func some(t *testing.T, n int, config mls.Config) party {
	t.Helper()
	var all party
	var adds []mls.Proposal
	for i := range n {
		m := newMember(t, 1, fmt.Sprintf("member %d", i), config)
		if all = append(all, m); i > 0 {
			adds = append(adds, &mls.Add{KeyPackage: m.keyPackage()})
		}
	}
	all[0].create("group", nil)
	return party{all[0]}.commitAll(t, all[0], mls.CommitParams{Proposals: adds}, all[1:]...)
}

// nodes are those of m's tree.
func nodes(t *testing.T, m *member) []mls.Node {
	t.Helper()
	data, err := m.g().RatchetTree(t.Context(), m.env())
	if err != nil {
		t.Fatal(err)
	}
	list, err := mls.UnmarshalRatchetTree(data)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// PATH-6, LEAF-4, ts-mls#627: a key of a path that is in the tree already or twice in
// the path is refused: any leaf's or parent's, a joiner's, the committer's own old ones.
func TestForgedPathKeys(t *testing.T) {
	t.Parallel()
	for _, handshake := range []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate} {
		config := mls.DefaultConfig
		config.Handshake = handshake
		p := some(t, 6, config)
		p.fill(t)
		alice, mallory := p[0], p[3]
		zoe := newMember(t, 1, "zoe", config)
		if _, err := mallory.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: zoe.keyPackage()}}, ForcePath: true}); err != nil {
			t.Fatal(err)
		}
		forge := func(change func(*mls.UpdatePath)) []byte {
			t.Helper()
			message, err := mls.ForgePath(t.Context(), mallory.env(), mallory.g(), mallory.pending, mallory.signer(), change)
			if err != nil {
				t.Fatal(err)
			}
			return message
		}
		own := 2 * int(mallory.g().OwnLeaf())
		for n, node := range append(nodes(t, alice), mls.Node{Leaf: zoe.bundle.KeyPackage.LeafNode}) {
			var key []byte
			switch {
			case node.Leaf != nil:
				key = node.Leaf.EncryptionKey
			case node.Parent != nil:
				key = node.Parent.EncryptionKey
			default:
				continue
			}
			for k := range len(mallory.pending.PathNodes()) {
				message := forge(func(u *mls.UpdatePath) { u.Nodes[k].EncryptionKey = key })
				wantRefusal(t, fmt.Sprintf("the key of node %d in step %d", n, k), alice, message, "PATH-6", nil)
			}
			rule := "PATH-6"
			if n == own {
				rule = "LEAF-3"
			}
			message := forge(func(u *mls.UpdatePath) { u.LeafNode.EncryptionKey = key })
			wantRefusal(t, fmt.Sprintf("the key of node %d in the leaf", n), alice, message, rule, nil)
		}
		wantRefusal(t, "a key twice", alice, forge(func(u *mls.UpdatePath) { u.Nodes[1].EncryptionKey = u.Nodes[0].EncryptionKey }), "PATH-6", nil)
		wantRefusal(t, "the leaf's key again", alice, forge(func(u *mls.UpdatePath) { u.Nodes[2].EncryptionKey = u.LeafNode.EncryptionKey }), "PATH-6", nil)
		if _, err := alice.process(forge(func(*mls.UpdatePath) {})); err != nil {
			t.Errorf("nothing changed: %v", err)
		}
	}
}

// TREE-11, PATH-2, LEAF-2: the other flaws of a path whose leaf and commit are signed.
func TestForgedPaths(t *testing.T) {
	t.Parallel()
	p := some(t, 5, mls.DefaultConfig)
	p.fill(t)
	alice, mallory := p[0], p[3]
	if _, err := mallory.commit(mls.CommitParams{ForcePath: true}); err != nil {
		t.Fatal(err)
	}
	own := mallory.g().OwnLeaf()
	for _, c := range []struct {
		what, rule string
		want       error
		change     func(*mls.UpdatePath)
	}{
		{"no node", "PATH-2", nil, func(u *mls.UpdatePath) { u.Nodes = nil }},
		{"a node too few", "PATH-2", nil, func(u *mls.UpdatePath) { u.Nodes = u.Nodes[1:] }},
		{"a ciphertext too few", "PATH-2", nil, func(u *mls.UpdatePath) { u.Nodes[1].Secrets = nil }},
		{"a ciphertext too many", "PATH-2", nil, func(u *mls.UpdatePath) { u.Nodes[0].Secrets = append(u.Nodes[0].Secrets, u.Nodes[0].Secrets[0]) }},
		{"ciphertexts of another step", "", mls.ErrAuthentication, func(u *mls.UpdatePath) {
			u.Nodes[1].Secrets[0], u.Nodes[0].Secrets[0] = u.Nodes[0].Secrets[0], u.Nodes[1].Secrets[0]
		}},
		{"a leaf of an Update", "LEAF-2", nil, func(u *mls.UpdatePath) { u.LeafNode.Source = mls.LeafUpdate }},
	} {
		message, err := mls.ForgePath(t.Context(), mallory.env(), mallory.g(), mallory.pending, mallory.signer(), c.change)
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, c.what, alice, message, c.rule, c.want)
	}
	for bit := 0; bit < 256; bit += 7 { // TREE-11
		message, err := mls.ForgeParentHash(t.Context(), mallory.env(), mallory.g(), mallory.pending, mallory.signer(), func(hash []byte) []byte {
			hash[bit/8] ^= 1 << (bit % 8)
			return hash
		})
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, fmt.Sprintf("bit %d of the parent hash of leaf %d", bit, own), alice, message, "TREE-11", nil)
	}
}

// PATH-7: path secrets are encrypted in the GroupContext to come, as far as it is
// known: next epoch, tree with the path merged, new extensions, old transcript.
func TestPathContext(t *testing.T) {
	t.Parallel()
	alice, r := recorded(t, 1, "alice", mls.DefaultConfig)
	bob := newMember(t, 1, "bob", mls.DefaultConfig)
	alice.create("group", nil)
	all := party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}}, bob)
	before := mls.ConfirmedHash(alice.g())
	extensions := mls.Extensions{mls.RequiredCapabilities{Credentials: []core.CredentialType{1}}.Extension()}
	r.infos = nil
	all.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.GroupContextExtensions{Extensions: extensions}}})
	context := mls.GroupContext{
		Version: mls.MLS10, Suite: 1, GroupID: []byte("group"), Epoch: 2,
		TreeHash: alice.g().TreeHash(), ConfirmedTranscriptHash: before, Extensions: extensions,
	}
	want := vlbytes.Append(vlbytes.Append(nil, []byte("MLS 1.0 UpdatePathNode")), context.Marshal())
	if len(r.infos) != 1 || !bytes.Equal(r.infos[0], want) {
		t.Errorf("encrypted in %x, not %x", r.infos, want)
	}
}

// PATH-9: a member who is alone commits, and who joins afterwards agrees.
func TestAlone(t *testing.T) {
	t.Parallel()
	alice, bob := newMember(t, 1, "alice", mls.DefaultConfig), newMember(t, 1, "bob", mls.DefaultConfig)
	alice.create("group", nil)
	seen := map[string]bool{string(alice.g().EpochAuthenticator()): true}
	for range 3 {
		if _, err := alice.commit(mls.CommitParams{ForcePath: true}); err != nil {
			t.Fatal(err)
		}
		if n := len(alice.pending.PathNodes()); n != 0 {
			t.Errorf("%d nodes", n)
		}
		alice.merge()
		seen[string(alice.g().EpochAuthenticator())] = true
	}
	if len(seen) != 4 {
		t.Error("an epoch came twice")
	}
	all := party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}, ForcePath: true}, bob)
	all.talk(t)
	all.commitAll(t, bob, mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: 0}}})
	all = party{bob}
	all.commitAll(t, bob, mls.CommitParams{ForcePath: true})
	if bob.g().OwnLeaf() != 1 {
		t.Error("bob is elsewhere")
	}
}

// PATH-10, mls-go#99, mls-go/leaf-key: what a commit needs of earlier keys is there after a reload:
// the key of a node in between, that of an own Update, the leaf key that it replaced
// if another commit wins.
func TestKeysSurviveReload(t *testing.T) {
	t.Parallel()
	p := some(t, 4, mls.DefaultConfig)
	alice, bob, carol, dave := p[0], p[1], p[2], p[3]
	p.commitAll(t, bob, mls.CommitParams{ForcePath: true})  // alice learns node 1
	p.commitAll(t, dave, mls.CommitParams{ForcePath: true}) // and uses it
	p.commitAll(t, carol, mls.CommitParams{ForcePath: true})
	for _, by := range []*member{dave, carol} { // two Updates, of which the commit takes the newest
		for range 2 {
			message, err := bob.proposeUpdate(mls.LeafParams{})
			if err != nil {
				t.Fatal(err)
			}
			p.deliver(t, bob, message)
		}
		p.commitAll(t, by, mls.CommitParams{})
		p.commitAll(t, alice, mls.CommitParams{ForcePath: true}) // to bob's new leaf alone
	}
	message, err := alice.proposeUpdate(mls.LeafParams{})
	if err != nil {
		t.Fatal(err)
	}
	p[1:].deliver(t, nil, message)
	if _, err := alice.commit(mls.CommitParams{ForcePath: true}); err != nil { // loses
		t.Fatal(err)
	}
	p.commitAll(t, dave, mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: bob.g().OwnLeaf()}}})
	p = party{alice, carol, dave}
	p.commitAll(t, carol, mls.CommitParams{ForcePath: true})
	p.talk(t)
}
