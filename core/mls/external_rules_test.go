// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// parseInfo decodes a GroupInfo of a member's group.
func parseInfo(t *testing.T, data []byte) *mls.GroupInfo {
	t.Helper()
	m, err := mls.UnmarshalMLSMessage(data)
	if err != nil {
		t.Fatal(err)
	}
	return m.GroupInfo
}

// comeIn joins from outside, with parameters that may be changed.
func (m *member) comeIn(info *mls.GroupInfo, change func(*mls.ExternalParams)) ([]byte, error) {
	p := mls.ExternalParams{
		GroupInfo: info, Signer: m.signer(), Credential: core.BasicCredential(core.ClientID(m.name)), Capabilities: m.capabilities(), Config: m.config,
		Replace: func(o mls.Member) bool { return string(o.Credential.Identity) == m.name },
	}
	change(&p)
	g, commit, ws, err := mls.JoinExternal(m.t.Context(), m.env(), p)
	if err != nil {
		return nil, err
	}
	m.stored = records{}
	m.set(g, ws)
	return commit, nil
}

// EXT-1, ts-mls#449: external_pub is a struct that holds a key with its length, inside
// the data of an extension that has another; nobody comes in without it.
func TestExternalPub(t *testing.T) {
	t.Parallel()
	alice, _, _, _ := threesome(t, mls.DefaultConfig, nil)
	info := parseInfo(t, alice.groupInfo())
	data, ok := info.Extensions.Find(mls.ExtensionExternalPub)
	if !ok || len(data) != 33 || data[0] != 32 {
		t.Fatalf("external_pub is %x", data)
	}
	wire := append([]byte{0, 4, 33}, data...)
	if !bytes.Contains(alice.groupInfo(), wire) {
		t.Errorf("%x is not in the GroupInfo", wire)
	}
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	for what, c := range map[string]struct {
		data []byte
		rule string
		want error
	}{
		"missing":              {nil, "", core.ErrUnsupported},
		"a bare key":           {data[1:], "", mls.ErrMalformed},
		"longer":               {append(bytes.Clone(data), 0), "", mls.ErrMalformed},
		"a key of small order": {append([]byte{32}, make([]byte, 32)...), "CS-2", nil},
		"a short key":          {[]byte{1, 1}, "CS-2", nil},
	} {
		forged, err := mls.ForgeGroupInfo(t.Context(), alice.env(), alice.g(), alice.signer(), func(i *mls.GroupInfo) {
			if i.Extensions[1].Data = c.data; c.data == nil {
				i.Extensions = slices.Delete(i.Extensions, 1, 2)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := zoe.joinExternal(forged); c.rule != "" && !isRule(err, c.rule) || c.rule == "" && !errors.Is(err, c.want) || len(zoe.stored) != 0 {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// EXT-2: what an external commit has to be, beyond TestForgedExternalCommits: it has a
// path, no membership tag, nothing twice, and who comes back brings another key.
func TestExternalCommitForm(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	bob.psks["psk"] = []byte("key")
	old, err := mallory.g().OwnLeafNode(t.Context(), mallory.env())
	if err != nil {
		t.Fatal(err)
	}
	id := alice.g().NewExternalPSK([]byte("psk")).PSK
	again := newMember(t, 1, "mallory", mls.DefaultConfig)
	again.psks["psk"] = []byte("key")
	good, err := again.comeIn(parseInfo(t, alice.groupInfo()), func(p *mls.ExternalParams) { p.PSKs = []mls.PreSharedKeyID{id} })
	if err != nil {
		t.Fatal(err)
	}
	m, err := mls.UnmarshalMLSMessage(good)
	if err != nil {
		t.Fatal(err)
	}
	commit := m.PublicMessage.Content.Commit
	var types []mls.ProposalType
	for _, p := range commit.Proposals {
		types = append(types, p.Proposal.Type())
	}
	if m.PublicMessage.MembershipTag != nil || m.PublicMessage.Content.Sender != (mls.Sender{Type: mls.SenderNewMemberCommit}) || commit.Path == nil ||
		!slices.Equal(types, []mls.ProposalType{mls.ProposalExternalInit, mls.ProposalRemove, mls.ProposalPSK}) {
		t.Errorf("made of %v, by %+v", types, m.PublicMessage.Content.Sender)
	}
	resign := func(c *mls.Commit, at mls.LeafIndex) {
		if err := mls.SignLeaf(t.Context(), again.signer(), c.Path.LeafNode, []byte("group"), at); err != nil {
			t.Fatal(err)
		}
	}
	psk := mls.ProposalOrRef{Proposal: &mls.PreSharedKey{PSK: id}}
	for _, c := range []struct {
		what, rule string
		want       error
		change     func(*mls.Commit)
	}{
		{"the old encryption key", "LEAF-3", nil, func(c *mls.Commit) { c.Path.LeafNode.EncryptionKey = old.EncryptionKey; resign(c, 2) }},
		{"a leaf that is not a commit's", "LEAF-2", nil, func(c *mls.Commit) { c.Path.LeafNode.Source = mls.LeafUpdate; resign(c, 2) }},
		{"a reference", "EXT-2", nil, func(c *mls.Commit) { c.Proposals = append(c.Proposals, mls.ProposalOrRef{Reference: make([]byte, 32)}) }},
		{"two inits", "EXT-2", nil, func(c *mls.Commit) { c.Proposals = append(c.Proposals, c.Proposals[0]) }},
		{"two removes", "EXT-2", nil, func(c *mls.Commit) {
			c.Proposals = append(c.Proposals, mls.ProposalOrRef{Proposal: &mls.Remove{Removed: 0}})
		}},
		{"no init", "EXT-2", nil, func(c *mls.Commit) { c.Proposals = c.Proposals[1:] }},
		{"no remove, and is there already", "PRP-3", nil, func(c *mls.Commit) { c.Proposals = slices.Delete(c.Proposals, 1, 2); resign(c, 3) }},
		{"a PSK twice", "PSK-2", nil, func(c *mls.Commit) { c.Proposals = append(c.Proposals, psk) }},
		{"another's leaf", "", core.ErrDenied, func(c *mls.Commit) { c.Proposals[1].Proposal = &mls.Remove{Removed: 0}; resign(c, 0) }},
	} {
		message, err := mls.ForgeExternalCommit(t.Context(), bob.g(), again.signer(), good, c.change)
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, c.what, bob, message, c.rule, c.want)
	}
	if r, err := bob.process(good); err != nil || !r.(*mls.ReceivedCommit).External || len(r.(*mls.ReceivedCommit).Removed) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	party{bob, again}.agree(t)
}

// EXT-3, openmls#1793, openmls#2164, mlspp#447: the joiner takes the leftmost leaf that
// is blank when its old one is gone, and if there is none the tree grows; a tree that
// the removal makes smaller is no exception.
func TestLeafOfJoiner(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what    string
		members int
		removed []mls.LeafIndex
		resync  int // -1: somebody new
		leaf    mls.LeafIndex
		size    int // nodes of the tree
	}{
		{"somebody new in a full tree", 4, nil, -1, 4, 9},
		{"somebody new in a blank leaf", 4, []mls.LeafIndex{1}, -1, 1, 7},
		{"leaf 0 again", 4, nil, 0, 0, 7},
		{"the last leaf again", 4, nil, 3, 3, 7},
		{"the last leaf again, which made the tree larger", 5, nil, 4, 4, 9},
		{"the last leaf again, into a blank one", 5, []mls.LeafIndex{1}, 4, 1, 7},
		{"leaf 0 again, into itself", 4, []mls.LeafIndex{2}, 0, 0, 7},
		{"leaf 3 again, into a blank one", 4, []mls.LeafIndex{0}, 3, 0, 5},
		{"the last but one, at leaf 8", 9, []mls.LeafIndex{1, 2, 3, 4, 5, 6, 7}, 8, 1, 3},
		{"leaf 0 again, of a tree that is right-heavy", 5, []mls.LeafIndex{1, 2, 3}, 0, 0, 9},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			all := make(party, c.members)
			var adds, removes []mls.Proposal
			for i := range all {
				all[i] = newMember(t, 1, fmt.Sprint("member ", i), mls.DefaultConfig)
				if i > 0 {
					adds = append(adds, adding(all[i]))
				}
			}
			by := all[c.members-1]
			if c.resync == c.members-1 {
				by = all[c.members-2]
				if len(c.removed) > 0 {
					by = all[0]
					if c.removed[0] == 0 {
						by = all[1]
					}
				}
			}
			all[0].create("group", nil)
			live := all[:1].commitAll(t, all[0], mls.CommitParams{Proposals: adds, ForcePath: true}, all[1:]...)
			live = live.commitAll(t, all[c.members-1], mls.CommitParams{ForcePath: true})
			if c.removed != nil {
				for _, leaf := range c.removed {
					removes = append(removes, &mls.Remove{Removed: leaf})
				}
				live = live.commitAll(t, by, mls.CommitParams{Proposals: removes})
			}
			joiner := newMember(t, 1, "zoe", mls.DefaultConfig)
			if c.resync >= 0 {
				joiner = newMember(t, 1, fmt.Sprint("member ", c.resync), mls.DefaultConfig)
				live = slices.DeleteFunc(live, func(m *member) bool { return m == all[c.resync] })
			}
			commit := externally(t, joiner, live[len(live)-1])
			live.deliver(t, nil, commit)
			live = append(live, joiner)
			live.agree(t)
			data, err := live[0].g().RatchetTree(t.Context(), live[0].env())
			if err != nil {
				t.Fatal(err)
			}
			nodes, err := mls.UnmarshalRatchetTree(data)
			if err != nil {
				t.Fatal(err)
			}
			if joiner.g().OwnLeaf() != c.leaf || len(nodes) != c.size {
				t.Errorf("at leaf %d of a tree of %d nodes, want %d of %d", joiner.g().OwnLeaf(), len(nodes), c.leaf, c.size)
			}
			if string(nodes[2*c.leaf].Leaf.Credential.Identity) != joiner.name || nodes[2*c.leaf].Leaf.Source != mls.LeafCommit {
				t.Errorf("at leaf %d is %+v", c.leaf, nodes[2*c.leaf].Leaf)
			}
			live.commitAll(t, joiner, mls.CommitParams{ForcePath: true}).talk(t)
		})
	}
}

// EXT-4: an external commit is signed with the key of the leaf in its path and with no
// other, a member's least of all.
func TestSignerOfExternalCommit(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	good := externally(t, zoe, alice)
	for what, signer := range map[string]core.Signer{"another key of hers": newMember(t, 1, "zoe", mls.DefaultConfig).signer(), "a member's": mallory.signer()} {
		message, err := mls.ForgeExternalCommit(t.Context(), bob.g(), signer, good, func(*mls.Commit) {})
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, what, bob, message, "", mls.ErrAuthentication)
	}
	swapped, err := mls.ForgeExternalCommit(t.Context(), bob.g(), mallory.signer(), good, func(c *mls.Commit) {
		c.Path.LeafNode.SignatureKey = mallory.signer().Public()
		if err := mls.SignLeaf(t.Context(), mallory.signer(), c.Path.LeafNode, []byte("group"), zoe.g().OwnLeaf()); err != nil {
			t.Fatal(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "with a member's key in its leaf", bob, swapped, "LEAF-4", nil)
	if _, err := bob.process(good); err != nil {
		t.Error(err)
	}
}

// EXT-5: a kem_output that is none, or of another group, is refused like any other
// thing that is wrong.
func TestKEMOutput(t *testing.T) {
	t.Parallel()
	for _, suite := range []core.SuiteID{1, 2} {
		alice, bob := newMember(t, suite, "alice", mls.DefaultConfig), newMember(t, suite, "bob", mls.DefaultConfig)
		alice.create("group", nil)
		party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{adding(bob)}}, bob)
		zoe := newMember(t, suite, "zoe", mls.DefaultConfig)
		good := externally(t, zoe, alice)
		m, err := mls.UnmarshalMLSMessage(good)
		if err != nil {
			t.Fatal(err)
		}
		right := m.PublicMessage.Content.Commit.Proposals[0].Proposal.(*mls.ExternalInit).KEMOutput
		another := bytes.Clone(right)
		another[len(another)-1] ^= 1
		for what, output := range map[string][]byte{
			"empty": {}, "short": right[:len(right)-1], "long": append(bytes.Clone(right), 0), "zeroes": make([]byte, len(right)),
			"another": another, "another's key": bob.keyPackage().InitKey,
		} {
			message, err := mls.ForgeExternalCommit(t.Context(), bob.g(), zoe.signer(), good, func(c *mls.Commit) {
				c.Proposals[0].Proposal = &mls.ExternalInit{KEMOutput: output}
			})
			if err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, what, bob, message, "", core.ErrInvalid)
		}
		if _, err := bob.process(good); err != nil {
			t.Error(err)
		}
	}
}

// EXT-6: who joins from outside checks the GroupInfo and the whole tree before a commit
// is made, and so does who only watches.
func TestGroupInfoIsValidated(t *testing.T) {
	t.Parallel()
	d := newDoor(t, mls.CommitParams{})
	d.open(d.bundle.Welcome)
	d.all.deliver(t, d.alice, d.bundle.Commit)
	d.alice.merge()
	forge := func(signer core.Signer, change func(*mls.GroupInfo)) []byte {
		t.Helper()
		info, err := mls.ForgeGroupInfo(t.Context(), d.alice.env(), d.alice.g(), signer, change)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	yves := newMember(t, 1, "yves", mls.DefaultConfig)
	refused := func(what string, info []byte, rule string, want error) {
		t.Helper()
		_, err := yves.joinExternal(info)
		if rule != "" && !isRule(err, rule) || rule == "" && !errors.Is(err, want) || len(yves.stored) != 0 {
			t.Errorf("%s: %v, want %s %v", what, err, rule, want)
		}
		_, err = mls.Observe(yves.env(), parseInfo(t, info), nil)
		if rule != "" && !isRule(err, rule) || rule == "" && !errors.Is(err, want) {
			t.Errorf("%s, for an observer: %v, want %s %v", what, err, rule, want)
		}
	}
	for _, f := range forgedTrees {
		refused(f.what, forge(d.alice.signer(), func(i *mls.GroupInfo) { f.applyTo(t, yves.suite, i) }), f.rule, nil)
	}
	same := func(*mls.GroupInfo) {}
	refused("a stranger's signature", forge(yves.signer(), same), "", mls.ErrAuthentication)
	refused("another member's signature", forge(d.bob.signer(), same), "", mls.ErrAuthentication)
	refused("a signer who is not there", forge(d.alice.signer(), func(i *mls.GroupInfo) { i.Signer = 99 }), "WEL-2", nil)
	refused("no tree", forge(d.alice.signer(), func(i *mls.GroupInfo) { i.Extensions = i.Extensions[1:] }), "", mls.ErrMissingTree)
	// The confirmation tag is bound through the commit: nobody else comes to its secrets.
	commit, err := yves.joinExternal(forge(d.alice.signer(), func(i *mls.GroupInfo) { i.ConfirmationTag = make([]byte, 32) }))
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "a commit to another confirmation tag", d.bob, commit, "", mls.ErrAuthentication)
}

// EXT-7: members take an external commit while they have a commit staged and proposals
// wait; the proposals are dropped and reported.
func TestExternalCommitBesideOthers(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, alice, _, mallory *member, all party) {
		info := alice.groupInfo()
		message, err := mallory.proposeUpdate(mls.LeafParams{})
		if err != nil {
			t.Fatal(err)
		}
		all.deliver(t, mallory, message)
		for _, m := range all {
			if _, err := m.commit(mls.CommitParams{Proposals: []mls.Proposal{adding(newMember(t, 1, "of "+m.name, m.config))}}); err != nil {
				t.Fatal(err)
			}
		}
		zoe := newMember(t, 1, "zoe", alice.config)
		commit, err := zoe.joinExternal(info)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			r, err := m.process(commit)
			if err != nil {
				t.Fatalf("%s: %v", m.name, err)
			}
			if c := r.(*mls.ReceivedCommit); len(c.Unused) != 1 || !c.External || string(c.Committer.Credential.Identity) != "zoe" || c.Committer.Leaf != zoe.g().OwnLeaf() {
				t.Errorf("%s: %+v", m.name, c)
			}
			if len(m.stored[mls.RecordPending])+len(m.stored[mls.RecordProposal]) != 0 {
				t.Errorf("%s: something still waits", m.name)
			}
		}
		all = append(all, zoe)
		all.agree(t)
		all.talk(t)
	})
}

// EXT-8: who comes in from outside may bring PSKs; who lacks one cannot follow until it
// is there.
func TestExternalCommitWithPSK(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	ids := []mls.PreSharedKeyID{alice.g().NewExternalPSK([]byte("one")).PSK, alice.g().NewExternalPSK([]byte("two")).PSK}
	bring := func(p *mls.ExternalParams) { p.PSKs = ids }
	info := parseInfo(t, alice.groupInfo())
	if _, err := zoe.comeIn(info, bring); !errors.Is(err, mls.ErrMissingPSK) || len(zoe.stored) != 0 {
		t.Errorf("without the PSKs: %v", err)
	}
	for _, m := range []*member{zoe, alice, mallory} {
		m.psks["one"], m.psks["two"] = []byte("first"), []byte("second")
	}
	commit, err := zoe.comeIn(info, bring)
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "no PSK", bob, commit, "", mls.ErrMissingPSK)
	bob.psks["one"], bob.psks["two"] = []byte("second"), []byte("first")
	wantRefusal(t, "other PSKs", bob, commit, "", mls.ErrAuthentication)
	bob.psks["one"], bob.psks["two"] = []byte("first"), []byte("second")
	all := party{alice, bob, mallory}
	all.deliver(t, nil, commit)
	append(all, zoe).agree(t)
}

// EXT-9: any member signs the GroupInfo of its epoch, with the tree or without, with
// external_pub or without; who is no member any more signs none.
func TestGroupInfoOfEachEpoch(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, all := threesome(t, mls.DefaultConfig, nil)
	var before *mls.GroupInfo
	for range 2 {
		for _, m := range all {
			for _, p := range []mls.GroupInfoParams{{}, {OmitTree: true}, {OmitExternalPub: true}, {OmitTree: true, OmitExternalPub: true}} {
				message, err := m.g().GroupInfo(t.Context(), m.env(), p)
				if err != nil {
					t.Fatal(err)
				}
				info := parseInfo(t, message)
				_, tree := info.Extensions.Find(mls.ExtensionRatchetTree)
				_, pub := info.Extensions.Find(mls.ExtensionExternalPub)
				if tree == p.OmitTree || pub == p.OmitExternalPub || info.Signer != m.g().OwnLeaf() || info.GroupContext.Epoch != m.g().Epoch() ||
					!bytes.Equal(info.ConfirmationTag, m.g().ConfirmationTag()) || !bytes.Equal(info.GroupContext.TreeHash, m.g().TreeHash()) {
					t.Errorf("%s: %+v gives %+v", m.name, p, info)
				}
				outOfBand, err := m.g().RatchetTree(t.Context(), m.env())
				if err != nil {
					t.Fatal(err)
				}
				zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
				commit, err := zoe.comeIn(info, func(e *mls.ExternalParams) { e.Tree = outOfBand })
				if p.OmitExternalPub {
					if !errors.Is(err, core.ErrUnsupported) {
						t.Errorf("joined without external_pub: %v", err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if _, err := newProbe().processWith(alice, commit); err != nil {
					t.Errorf("by the GroupInfo of %s: %v", m.name, err)
				}
			}
		}
		if before != nil {
			late := newMember(t, 1, "late", mls.DefaultConfig)
			commit, err := late.comeIn(before, func(*mls.ExternalParams) {})
			if err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, "by the GroupInfo of the epoch before", alice, commit, "", mls.ErrWrongEpoch)
		}
		before = parseInfo(t, alice.groupInfo())
		all = all.commitAll(t, bob, mls.CommitParams{ForcePath: true})
	}
	b, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: mallory.g().OwnLeaf()}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mallory.process(b.Commit); err != nil {
		t.Fatal(err)
	}
	if _, err := mallory.g().GroupInfo(t.Context(), mallory.env(), mls.GroupInfoParams{}); !errors.Is(err, mls.ErrInactive) {
		t.Errorf("of who is removed: %v", err)
	}
}
