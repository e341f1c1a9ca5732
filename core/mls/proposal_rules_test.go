// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// pendingRefs lists the references of the proposals that wait.
func (m *member) pendingRefs() (refs []string) {
	m.t.Helper()
	for p, err := range m.g().PendingProposals(m.t.Context(), m.env()) {
		if err != nil {
			m.t.Fatal(err)
		}
		refs = append(refs, string(p.Ref))
	}
	return refs
}

// offer makes a proposal, by the rules or not, and gives it to others; the result
// names it in a commit.
func offer(t *testing.T, from *member, p mls.Proposal, to ...*member) mls.ProposalOrRef {
	t.Helper()
	message := from.forge(mls.Forgery{Wire: mls.WirePublicMessage, Content: proposing(p)})
	party(to).deliver(t, from, message)
	ref, err := mls.ForgedRef(from.suite, message)
	if err != nil {
		t.Fatal(err)
	}
	return mls.ProposalOrRef{Reference: ref}
}

// forgeCommit frames a commit of a member with a confirmation tag of zeroes.
func (m *member) forgeCommit(path *mls.UpdatePath, list ...mls.ProposalOrRef) []byte {
	m.t.Helper()
	return m.forge(mls.Forgery{Wire: mls.WirePublicMessage, Content: committing(&mls.Commit{Proposals: list, Path: path}),
		Signed: func(a *mls.AuthenticatedContent) { a.Auth.ConfirmationTag = make([]byte, 32) }})
}

// newUpdate is an Update proposal of a member with a fresh key, of which nobody has
// the private half.
func (m *member) newUpdate() *mls.Update {
	m.t.Helper()
	leaf, err := m.g().OwnLeafNode(m.t.Context(), m.env())
	if err != nil {
		m.t.Fatal(err)
	}
	key, err := m.suite.GenerateKeyPair()
	if err != nil {
		m.t.Fatal(err)
	}
	next := *leaf
	next.Source, next.EncryptionKey = mls.LeafUpdate, key.Public()
	if err := mls.ForgeLeaf(m.t.Context(), m.signer(), m.g(), &next); err != nil {
		m.t.Fatal(err)
	}
	return &mls.Update{LeafNode: &next}
}

func adding(m *member) *mls.Add { return &mls.Add{KeyPackage: m.keyPackage()} }

// addingPoor proposes somebody who supports basic credentials and nothing else.
func addingPoor(t *testing.T, m *member) *mls.Add {
	t.Helper()
	kp := m.keyPackage()
	kp.LeafNode.Capabilities.Credentials = []core.CredentialType{core.CredentialBasic}
	if err := mls.ForgeKeyPackage(t.Context(), m.signer(), kp); err != nil {
		t.Fatal(err)
	}
	m.bundle.KeyPackage = kp
	return &mls.Add{KeyPackage: kp}
}

// requireX509 is a group extension that addingPoor does not fulfil.
func requireX509() mls.Extension {
	return mls.RequiredCapabilities{Credentials: []core.CredentialType{core.CredentialBasic, core.CredentialX509}}.Extension()
}

// unknownExtension is one that nobody in these tests supports.
var unknownExtension = mls.Extension{Type: 0xF123}

// PRP-1: a proposal is found by the hash of the content as it was signed and framed,
// in its own epoch only; a reference that is not known is named.
func TestProposalReferences(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, all := threesome(t, anyWire, nil)
	for _, handshake := range []mls.WireFormat{mls.WirePublicMessage, mls.WirePrivateMessage} {
		g, sent, ws, err := bob.g().Propose(t.Context(), bob.env(), bob.g().NewResumptionPSK(1), nil)
		if err != nil {
			t.Fatal(err)
		}
		m, err := mls.UnmarshalMLSMessage(sent.Message)
		if err != nil {
			t.Fatal(err)
		}
		content := mls.AuthenticatedContent{WireFormat: handshake, Content: m.PublicMessage.Content, Auth: m.PublicMessage.Auth}
		label, value := "MLS 1.0 Proposal Reference", content.Marshal()
		input := append(append([]byte{byte(len(label))}, label...), 0x40|byte(len(value)>>8), byte(len(value)))
		if same := bytes.Equal(sent.Ref, bob.suite.Hash(input, value)); same != (handshake == mls.WirePublicMessage) {
			t.Errorf("wire %d: the reference is %x", handshake, []byte(sent.Ref))
		}
		bob.set(g, ws)
		all.deliver(t, bob, sent.Message)
	}
	refs := alice.pendingRefs()
	if len(refs) != 2 || !slices.Equal(refs, bob.pendingRefs()) || !slices.Equal(refs, mallory.pendingRefs()) {
		t.Fatalf("%x wait", refs)
	}
	known := mls.ProposalOrRef{Reference: mls.ProposalRef(refs[0])}
	wantRefusal(t, "another reference", alice, mallory.forgeCommit(nil, mls.ProposalOrRef{Reference: make([]byte, 32)}), "", mls.ErrMissingProposal)
	wantRefusal(t, "the epoch of the reference", alice, mallory.forgeCommit(nil, known), "", mls.ErrAuthentication) // but for the tag
	for _, ref := range refs {
		g, ws, err := mallory.g().DropProposal(t.Context(), mallory.env(), mls.ProposalRef(ref))
		if err != nil {
			t.Fatal(err)
		}
		mallory.set(g, ws)
	}
	all = all.commitAll(t, mallory, mls.CommitParams{ForcePath: true})
	for _, m := range []*member{alice, bob} {
		late := mallory.forgeCommit(nil, known)
		wantRefusal(t, "the epoch after", m, late, "", mls.ErrMissingProposal)
		if _, err := m.process(late); err == nil || !strings.Contains(err.Error(), hex.EncodeToString(known.Reference)) {
			t.Errorf("%v does not name %x", err, []byte(known.Reference))
		}
	}
	all.talk(t)
}

// PRP-2: an Update replaces the leaf of who proposed it, and there is none by value.
func TestUpdateIsForItsSender(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, all := threesome(t, mls.DefaultConfig, nil)
	wantRefusal(t, "by value", alice, mallory.forgeCommit(nil, mls.ProposalOrRef{Proposal: mallory.newUpdate()}), "PRP-2", nil)
	if _, err := mallory.commit(mls.CommitParams{Proposals: []mls.Proposal{mallory.newUpdate()}}); !isRule(err, "PRP-2") {
		t.Errorf("made by value: %v", err)
	}
	if _, err := mallory.propose(mallory.newUpdate()); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("proposed with a leaf of one's own making: %v", err)
	}
	// another's leaf, which only its place and signature tell from one's own
	wantRefusal(t, "another's leaf", alice, mallory.forge(mls.Forgery{Wire: mls.WirePublicMessage, Content: proposing(bob.newUpdate())}), "", mls.ErrAuthentication)
	message, err := bob.proposeUpdate(mls.LeafParams{})
	if err != nil {
		t.Fatal(err)
	}
	all.deliver(t, bob, message)
	before := leafKeys(t, alice)
	all = all.commitAll(t, alice, mls.CommitParams{})
	for i, key := range leafKeys(t, alice) {
		if fresh := key != before[i]; fresh != (mls.LeafIndex(i) != mallory.g().OwnLeaf()) { // alice by her path
			t.Errorf("leaf %d has a new key: %v", i, fresh)
		}
	}
	all.talk(t)
}

// leafKeys lists the encryption keys of the leaves of a group without blanks.
func leafKeys(t *testing.T, m *member) (keys []string) {
	t.Helper()
	data, err := m.g().RatchetTree(t.Context(), m.env())
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := mls.UnmarshalRatchetTree(data)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(nodes); i += 2 {
		keys = append(keys, string(nodes[i].Leaf.EncryptionKey))
	}
	return keys
}

func isRule(err error, rule string) bool {
	var breached *mls.RuleError
	return errors.As(err, &breached) && breached.Rule == rule
}

// PRP-3: what does not go together in one commit is refused by who receives it, and
// by who is asked to make it; of what others have proposed, the committer takes what
// goes together and leaves the rest.
func TestListsThatDoNotGoTogether(t *testing.T) {
	t.Parallel()
	type cast struct{ alice, bob, mallory *member }
	psk := func(c cast) mls.Proposal { return c.bob.g().NewResumptionPSK(1) }
	gce := func(l ...mls.Extension) mls.Proposal { return &mls.GroupContextExtensions{Extensions: l} }
	for what, c := range map[string]struct {
		rule string
		list func(c cast) []mls.ProposalOrRef // by value: ours; by reference: what everybody has
		take int                              // how many of the references an honest committer takes
	}{
		"own update": {"PRP-3", func(c cast) []mls.ProposalOrRef {
			return []mls.ProposalOrRef{offer(t, c.mallory, c.mallory.newUpdate(), c.alice)}
		}, 1}, // it is another's for alice
		"two updates": {"PRP-3", func(c cast) []mls.ProposalOrRef {
			return []mls.ProposalOrRef{offer(t, c.bob, c.bob.newUpdate(), c.alice), offer(t, c.bob, c.bob.newUpdate(), c.alice)}
		}, 1},
		"update and remove": {"PRP-3", func(c cast) []mls.ProposalOrRef {
			return []mls.ProposalOrRef{offer(t, c.bob, c.bob.newUpdate(), c.alice), offer(t, c.mallory, &mls.Remove{Removed: 1}, c.alice)}
		}, 1},
		"remove and update": {"PRP-3", func(c cast) []mls.ProposalOrRef {
			return []mls.ProposalOrRef{offer(t, c.mallory, &mls.Remove{Removed: 1}, c.alice), offer(t, c.bob, c.bob.newUpdate(), c.alice)}
		}, 1},
		"two removes": {"PRP-3", func(c cast) []mls.ProposalOrRef {
			return []mls.ProposalOrRef{offer(t, c.mallory, &mls.Remove{Removed: 1}, c.alice), offer(t, c.bob, &mls.Remove{Removed: 1}, c.alice)}
		}, 1},
		"remove of the committer": {"PRP-3", func(c cast) []mls.ProposalOrRef {
			return []mls.ProposalOrRef{offer(t, c.bob, &mls.Remove{Removed: 2}, c.alice)}
		}, 1}, // alice may commit it
		"one client twice": {"PRP-3", func(c cast) []mls.ProposalOrRef {
			zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
			return []mls.ProposalOrRef{offer(t, c.bob, adding(zoe), c.alice), offer(t, c.bob, adding(zoe), c.alice)}
		}, 1},
		"a client that is there": {"PRP-3", func(c cast) []mls.ProposalOrRef {
			return []mls.ProposalOrRef{offer(t, c.mallory, adding(newMember(t, 1, "bob", mls.DefaultConfig)), c.alice)}
		}, 0},
		"a psk twice": {"PSK-2", func(c cast) []mls.ProposalOrRef {
			p := psk(c)
			return []mls.ProposalOrRef{offer(t, c.bob, p, c.alice), offer(t, c.mallory, p, c.alice)}
		}, 1},
		"extensions twice": {"PRP-3", func(c cast) []mls.ProposalOrRef {
			return []mls.ProposalOrRef{offer(t, c.bob, gce(), c.alice), offer(t, c.bob, gce(requireX509()), c.alice)}
		}, 1},
		"reinit and more": {"PRP-3", func(c cast) []mls.ProposalOrRef {
			return []mls.ProposalOrRef{offer(t, c.bob, &mls.ReInit{GroupID: []byte("g"), Version: 1, Suite: 1}, c.alice), offer(t, c.bob, psk(c), c.alice)}
		}, 1},
		"a leaf that does not fit": {"LEAF-7", func(c cast) []mls.ProposalOrRef {
			return []mls.ProposalOrRef{offer(t, c.bob, addingPoor(t, newMember(t, 1, "zoe", mls.DefaultConfig)), c.alice)}
		}, 0},
		"an extension that not all know": {"LEAF-8", func(c cast) []mls.ProposalOrRef {
			return []mls.ProposalOrRef{offer(t, c.bob, gce(unknownExtension), c.alice)}
		}, 0},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, mls.Extensions{requireX509()})
			list := c.list(cast{alice, bob, mallory})
			var path *mls.UpdatePath
			if c.rule != "LEAF-7" { // an Add needs none, and would change it
				path = pathOf(t, mallory)
			}
			wantRefusal(t, "received", alice, mallory.forgeCommit(path, list...), c.rule, nil)
			b, err := alice.commit(mls.CommitParams{ForcePath: true})
			if err != nil {
				t.Fatal(err)
			}
			m, err := mls.UnmarshalMLSMessage(b.Commit)
			if err != nil {
				t.Fatal(err)
			}
			if got := len(m.PublicMessage.Content.Commit.Proposals); got != c.take {
				t.Errorf("the committer took %d", got)
			}
		})
	}
	// An honest member does not make by value what the others would refuse.
	alice, _, _, all := threesome(t, mls.DefaultConfig, mls.Extensions{requireX509()})
	one := alice.g().NewResumptionPSK(1)
	zoe, yves := newMember(t, 1, "zoe", mls.DefaultConfig), newMember(t, 1, "yves", mls.DefaultConfig)
	for what, c := range map[string]struct {
		rule string
		list []mls.Proposal
	}{
		"ourselves":       {"PRP-3", []mls.Proposal{&mls.Remove{Removed: 0}}},
		"a remove twice":  {"PRP-3", []mls.Proposal{&mls.Remove{Removed: 1}, &mls.Remove{Removed: 1}}},
		"a client twice":  {"PRP-3", []mls.Proposal{adding(zoe), adding(zoe)}},
		"a member":        {"PRP-3", []mls.Proposal{adding(newMember(t, 1, "bob", mls.DefaultConfig))}},
		"a psk twice":     {"PSK-2", []mls.Proposal{one, one}},
		"two extensions":  {"PRP-3", []mls.Proposal{gce(), gce()}},
		"a reinit, more":  {"PRP-3", []mls.Proposal{&mls.ReInit{GroupID: []byte("g"), Version: 1, Suite: 1}, one}},
		"an ExternalInit": {"FR-4", []mls.Proposal{&mls.ExternalInit{KEMOutput: make([]byte, 32)}}},
		"a poor leaf":     {"LEAF-7", []mls.Proposal{addingPoor(t, yves)}},
	} {
		before := alice.stored.dump()
		if _, err := alice.commit(mls.CommitParams{Proposals: c.list}); !isRule(err, c.rule) || alice.stored.dump() != before {
			t.Errorf("making %s: %v", what, err)
		}
	}
	// A client may come again in the commit that removes it.
	again := newMember(t, 1, "bob", mls.DefaultConfig)
	all = all.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{adding(again), &mls.Remove{Removed: 1}}}, again)
	all.talk(t)
}

// pathOf is the path of a commit of the member over some proposals, to be sent with
// others.
func pathOf(t *testing.T, m *member, list ...mls.Proposal) *mls.UpdatePath {
	t.Helper()
	_, p, _, err := mls.ForgeCommit(t.Context(), m.env(), m.g(), append(list, &mls.GroupContextExtensions{Extensions: m.g().Extensions()}))
	if err != nil {
		t.Fatal(err)
	}
	message, err := mls.UnmarshalMLSMessage(p.Message())
	if err != nil {
		t.Fatal(err)
	}
	return message.PublicMessage.Content.Commit.Path
}

// PRP-4: only who is there can be removed, and only a member can propose an update.
func TestTargetsAreOccupied(t *testing.T) {
	t.Parallel()
	alice, _, mallory, _ := threesome(t, mls.DefaultConfig, nil) // leaf 3 is blank
	for _, leaf := range []mls.LeafIndex{3, 4, 1 << 30, 1 << 31, 1<<32 - 1} {
		remove := &mls.Remove{Removed: leaf}
		wantRefusal(t, fmt.Sprint("proposed: ", leaf), alice, mallory.forge(mls.Forgery{Wire: mls.WirePublicMessage, Content: proposing(remove)}), "PRP-4", nil)
		wantRefusal(t, fmt.Sprint("committed: ", leaf), alice, mallory.forgeCommit(nil, mls.ProposalOrRef{Proposal: remove}), "PRP-4", nil)
		before := alice.stored.dump()
		if _, err := alice.propose(remove); !isRule(err, "PRP-4") || alice.stored.dump() != before {
			t.Errorf("proposing the removal of %d: %v", leaf, err)
		}
	}
}

// PRP-5, openmls#1703: of what waits for one leaf the committer takes a Remove before
// any Update, and of Updates the newest. Who proposed the others keeps nothing of them.
func TestOneProposalForALeaf(t *testing.T) {
	t.Parallel()
	for _, remove := range []string{"never", "first", "last"} {
		alice, bob, mallory, all := threesome(t, mls.DefaultConfig, nil)
		waiting := 0
		offer := func(from *member, message []byte, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			waiting++
			all.deliver(t, from, message)
		}
		removing := &mls.Remove{Removed: bob.g().OwnLeaf()}
		if remove == "first" {
			message, err := mallory.propose(removing)
			offer(mallory, message, err)
		}
		var updates []string
		for range 2 {
			message, err := bob.proposeUpdate(mls.LeafParams{})
			offer(bob, message, err)
			m, err := mls.UnmarshalMLSMessage(message)
			if err != nil {
				t.Fatal(err)
			}
			updates = append(updates, string(m.PublicMessage.Content.Proposal.(*mls.Update).LeafNode.EncryptionKey))
		}
		if remove == "last" {
			message, err := mallory.propose(removing)
			offer(mallory, message, err)
		}
		if n, err := mls.WaitingUpdates(t.Context(), bob.env(), bob.g()); err != nil || n != 2 {
			t.Errorf("%d updates wait, %v", n, err)
		}
		b, err := alice.commit(mls.CommitParams{})
		if err != nil {
			t.Fatal(err)
		}
		all.deliver(t, alice, b.Commit)
		result := alice.merge()
		if len(result.Proposals) != 1 || len(result.Unused) != waiting-1 {
			t.Errorf("removed %s: %d taken, %d left", remove, len(result.Proposals), len(result.Unused))
		}
		if remove != "never" {
			if bob.g().Active() || len(result.Removed) != 1 {
				t.Error("bob is still there")
			}
			continue
		}
		all.agree(t)
		if key := leafKeys(t, mallory)[bob.g().OwnLeaf()]; key != updates[1] {
			t.Errorf("bob's key is %x, not the newest", key)
		}
		if n, err := mls.WaitingUpdates(t.Context(), bob.env(), bob.g()); err != nil || n != 0 {
			t.Errorf("%d updates wait, %v", n, err)
		}
		all.commitAll(t, alice, mls.CommitParams{ForcePath: true}).talk(t) // encrypted to that key
	}
}

// PRP-2, PRP-3: an Update of our own that waits is not in our commit; what it says is
// what the path's leaf says, with the newest if there are several. A Remove of ourselves
// waits for somebody else.
func TestOwnProposalsInOwnCommit(t *testing.T) {
	t.Parallel()
	alice, bob, _, all := threesome(t, mls.DefaultConfig, nil)
	var newest core.Signer
	for range 2 {
		newest = alice.newSigner()
		message, err := alice.proposeUpdate(mls.LeafParams{SignatureKey: newest})
		if err != nil {
			t.Fatal(err)
		}
		all.deliver(t, alice, message)
	}
	// what the commit itself says of our leaf counts more
	b, err := alice.commit(mls.CommitParams{Leaf: mls.LeafParams{Extensions: &mls.Extensions{{Type: mls.ExtensionApplicationID, Data: []byte{1, 'x'}}}}})
	if err != nil {
		t.Fatal(err)
	}
	leaf := alice.pending.PathLeaf()
	if leaf == nil || !bytes.Equal(leaf.SignatureKey, newest.Public()) || len(alice.pending.Proposals()) != 0 {
		t.Fatalf("%d proposals, leaf %+v", len(alice.pending.Proposals()), leaf)
	}
	if id, ok := leaf.Extensions.Find(mls.ExtensionApplicationID); !ok || string(id) != "\x01x" {
		t.Errorf("the leaf's extensions are %+v", leaf.Extensions)
	}
	all.deliver(t, alice, b.Commit)
	alice.merge()
	all.agree(t)
	if n, err := mls.WaitingUpdates(t.Context(), alice.env(), alice.g()); err != nil || n != 0 {
		t.Errorf("%d updates wait, %v", n, err)
	}
	all.talk(t)

	message, err := alice.propose(&mls.Remove{Removed: alice.g().OwnLeaf()})
	if err != nil {
		t.Fatal(err)
	}
	all.deliver(t, alice, message)
	if _, err := alice.commit(mls.CommitParams{}); err != nil || len(alice.pending.Proposals()) != 0 {
		t.Errorf("%d proposals, %v", len(alice.pending.Proposals()), err)
	}
	alice.discard()
	rest := all.commitAll(t, bob, mls.CommitParams{})
	if len(rest) != 2 || alice.g().Active() {
		t.Errorf("%d are left", len(rest))
	}
}

// A commit that removes us and names very many proposals that we have not seen is
// worked through in linear time.
func TestManyUnknownReferences(t *testing.T) {
	t.Parallel()
	_, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	var list []mls.ProposalOrRef
	for i := range 50_000 {
		list = append(list, mls.ProposalOrRef{Reference: binary.BigEndian.AppendUint32(nil, uint32(i))})
	}
	message := mallory.forgeCommit(pathOf(t, mallory), append(list, mls.ProposalOrRef{Proposal: &mls.Remove{Removed: bob.g().OwnLeaf()}})...)
	start := time.Now()
	_, err := bob.process(message)
	if took := time.Since(start); took > 5*time.Second { // it takes some milliseconds
		t.Errorf("it took %v: %v", took, err)
	}
}
