// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"math"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// wantRefusal processes a message that must be refused for a rule (or with an
// error, if the rule is empty) and must change nothing.
func wantRefusal(t *testing.T, what string, m *member, message []byte, rule string, want error) {
	t.Helper()
	before := m.stored.dump()
	_, err := m.process(message)
	var breached *mls.RuleError
	switch {
	case rule == "" && !errors.Is(err, want), rule != "" && (!errors.As(err, &breached) || breached.Rule != rule):
		t.Errorf("%s: got %v, want %s %v", what, err, rule, want)
	case m.stored.dump() != before || !m.g().Active():
		t.Errorf("%s: something has changed", what)
	}
}

// PRP-2, PRP-3, PRP-4, PRP-7, PSK-1, PSK-2, PSK-3, KP-1, CS-8: commits that no member
// who keeps the rules makes, signed and tagged as a member can.
func TestForgedCommits(t *testing.T) {
	t.Parallel()
	for _, wire := range []mls.WireFormat{mls.WirePublicMessage, mls.WirePrivateMessage} {
		config := mls.DefaultConfig
		config.AcceptAnyWire = true
		alice, bob, mallory, _ := threesome(t, config, nil)
		me := mallory.g().OwnLeaf()
		forge := func(commit *mls.Commit, tag []byte) []byte {
			t.Helper()
			message, err := mls.ForgeMessage(t.Context(), mallory.env(), mallory.g(), wire,
				mls.Sender{Type: mls.SenderMember, Leaf: me}, mallory.signers[0], nil, commit, tag)
			if err != nil {
				t.Fatal(err)
			}
			return message
		}
		psk := func(change func(*mls.PreSharedKeyID)) *mls.PreSharedKey {
			p := mallory.g().NewExternalPSK([]byte("psk"))
			change(&p.PSK)
			return p
		}
		gce := func(l ...mls.Extension) *mls.GroupContextExtensions {
			return &mls.GroupContextExtensions{Extensions: l}
		}
		leaf, err := mallory.g().OwnLeafNode(t.Context(), mallory.env())
		if err != nil {
			t.Fatal(err)
		}
		zoe, yves := newMember(t, 1, "zoe", config), newMember(t, 1, "yves", config)
		add := func(m *member, change func(*mls.KeyPackage)) *mls.Add {
			kp := m.keyPackage()
			change(kp)
			if err := mls.ForgeKeyPackage(t.Context(), m.signer(), kp); err != nil {
				t.Fatal(err)
			}
			return &mls.Add{KeyPackage: kp}
		}
		same := func(*mls.KeyPackage) {}
		broken := zoe.keyPackage()
		broken.Signature[0] ^= 1
		one := psk(func(*mls.PreSharedKeyID) {})
		for _, c := range []struct {
			what string
			list []mls.Proposal
			rule string
			want error
		}{
			{"nothing, without a path", nil, "PRP-7", nil},
			{"a Remove without a path", []mls.Proposal{&mls.Remove{Removed: 0}}, "PRP-7", nil},
			{"new extensions without a path", []mls.Proposal{gce()}, "PRP-7", nil},
			{"a Remove of the committer", []mls.Proposal{&mls.Remove{Removed: me}}, "PRP-3", nil},
			{"a Remove twice", []mls.Proposal{&mls.Remove{Removed: 0}, &mls.Remove{Removed: 0}}, "PRP-3", nil},
			{"a Remove of a blank leaf", []mls.Proposal{&mls.Remove{Removed: 3}}, "PRP-4", nil},
			{"a Remove beyond the tree", []mls.Proposal{&mls.Remove{Removed: 4}}, "PRP-4", nil},
			{"a Remove of leaf 2^31", []mls.Proposal{&mls.Remove{Removed: 1 << 31}}, "PRP-4", nil},
			{"a Remove of the last index", []mls.Proposal{&mls.Remove{Removed: math.MaxUint32}}, "PRP-4", nil},
			{"an Update by value", []mls.Proposal{&mls.Update{LeafNode: leaf}}, "PRP-2", nil},
			{"an ExternalInit", []mls.Proposal{&mls.ExternalInit{KEMOutput: make([]byte, 32)}}, "FR-4", nil},
			{"a short nonce", []mls.Proposal{psk(func(p *mls.PreSharedKeyID) { p.Nonce = p.Nonce[1:] })}, "PSK-1", nil},
			{"no nonce", []mls.Proposal{psk(func(p *mls.PreSharedKeyID) { p.Nonce = nil })}, "PSK-1", nil},
			{"a PSK twice", []mls.Proposal{one, one}, "PSK-2", nil},
			{"a branch", []mls.Proposal{psk(func(p *mls.PreSharedKeyID) { p.Type, p.Usage = mls.PSKResumption, mls.ResumptionBranch })}, "PSK-3", nil},
			{"a reinit", []mls.Proposal{psk(func(p *mls.PreSharedKeyID) { p.Type, p.Usage = mls.PSKResumption, mls.ResumptionReInit })}, "PSK-3", nil},
			{"an unknown PSK", []mls.Proposal{one}, "", mls.ErrMissingPSK},
			{"the PSK of a future epoch", []mls.Proposal{mallory.g().NewResumptionPSK(99)}, "", mls.ErrMissingPSK},
			{"new extensions twice", []mls.Proposal{gce(), gce()}, "PRP-3", nil},
			{"a ratchet tree for a group extension", []mls.Proposal{gce(mls.Extension{Type: mls.ExtensionRatchetTree})}, "PRP-8", nil},
			{"an extension twice", []mls.Proposal{gce(mls.Extension{Type: 0xF001}, mls.Extension{Type: 0xF001})}, "GRE-4", nil},
			{"required capabilities that are none", []mls.Proposal{gce(mls.Extension{Type: mls.ExtensionRequiredCapabilities, Data: []byte{1}})}, "", mls.ErrMalformed},
			{"a ReInit and more", []mls.Proposal{&mls.ReInit{GroupID: []byte("g"), Version: 1, Suite: 1}, add(zoe, same)}, "PRP-3", nil},
			{"a ReInit to an older version", []mls.Proposal{&mls.ReInit{GroupID: []byte("g"), Suite: 1}}, "RE-4", nil},
			{"an Add of a member", []mls.Proposal{add(bob, same)}, "PRP-3", nil},
			{"a client twice", []mls.Proposal{add(zoe, same), add(zoe, same)}, "PRP-3", nil},
			{"a key package whose signature is broken", []mls.Proposal{&mls.Add{KeyPackage: broken}}, "", mls.ErrAuthentication},
			{"a key package of another suite", []mls.Proposal{add(yves, func(k *mls.KeyPackage) { k.Suite = 2 })}, "KP-1", nil},
			{"an init key that is the leaf's", []mls.Proposal{add(yves, func(k *mls.KeyPackage) { k.InitKey = k.LeafNode.EncryptionKey })}, "KP-1", nil},
			{"an init key of small order", []mls.Proposal{add(yves, func(k *mls.KeyPackage) { k.InitKey = make([]byte, 32) })}, "CS-2", nil},
			{"a leaf key of small order", []mls.Proposal{add(yves, func(k *mls.KeyPackage) { k.LeafNode.EncryptionKey = make([]byte, 32) })}, "CS-2", nil},
			{"the key of a parent or a member", []mls.Proposal{add(yves, func(k *mls.KeyPackage) { k.LeafNode.EncryptionKey = leaf.EncryptionKey })}, "LEAF-4", nil},
			{"a leaf that does not know its credential", []mls.Proposal{add(yves, func(k *mls.KeyPackage) { k.LeafNode.Capabilities.Credentials = nil })}, "CRD-4", nil},
			{"a leaf with an extension that is not listed", []mls.Proposal{add(yves, func(k *mls.KeyPackage) { k.LeafNode.Extensions = mls.Extensions{{Type: 0xF001}} })}, "LEAF-5", nil},
			{"a good Add, but the tag", []mls.Proposal{add(yves, same)}, "", mls.ErrAuthentication},
		} {
			commit := &mls.Commit{}
			for _, p := range c.list {
				commit.Proposals = append(commit.Proposals, mls.ProposalOrRef{Proposal: p})
			}
			for _, tag := range [][]byte{make([]byte, 32), nil, {0}} {
				wantRefusal(t, fmt.Sprintf("wire format %d: %s", wire, c.what), alice, forge(commit, tag), c.rule, c.want)
			}
		}
		unknown := &mls.Commit{Proposals: []mls.ProposalOrRef{{Reference: []byte("unknown")}}}
		wantRefusal(t, "an unknown reference", alice, forge(unknown, nil), "", mls.ErrMissingProposal)
	}
}

// EXT-2, CRD-2, LEAF-3: external commits that break the rules, signed as whoever
// knows the GroupInfo can.
func TestForgedExternalCommits(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	info, err := alice.g().GroupInfo(t.Context(), alice.env(), mls.GroupInfoParams{})
	if err != nil {
		t.Fatal(err)
	}
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	good, err := zoe.joinExternal(info)
	if err != nil {
		t.Fatal(err)
	}
	remove := func(i mls.LeafIndex) mls.ProposalOrRef { return mls.ProposalOrRef{Proposal: &mls.Remove{Removed: i}} }
	for _, c := range []struct {
		what   string
		rule   string
		want   error
		change func(*mls.Commit)
	}{
		{"no ExternalInit", "EXT-2", nil, func(c *mls.Commit) { c.Proposals = nil }},
		{"two", "EXT-2", nil, func(c *mls.Commit) { c.Proposals = append(c.Proposals, c.Proposals[0]) }},
		{"two Removes", "EXT-2", nil, func(c *mls.Commit) { c.Proposals = append(c.Proposals, remove(0), remove(1)) }},
		{"an Add", "FR-4", nil, func(c *mls.Commit) {
			c.Proposals = append(c.Proposals, mls.ProposalOrRef{Proposal: &mls.Add{KeyPackage: mallory.keyPackage()}})
		}},
		{"new extensions", "FR-4", nil, func(c *mls.Commit) {
			c.Proposals = append(c.Proposals, mls.ProposalOrRef{Proposal: &mls.GroupContextExtensions{}})
		}},
		{"a Remove of a blank leaf", "PRP-4", nil, func(c *mls.Commit) { c.Proposals = append(c.Proposals, remove(3)) }},
		{"a kem_output that is none", "", core.ErrInvalid, func(c *mls.Commit) {
			c.Proposals = []mls.ProposalOrRef{{Proposal: &mls.ExternalInit{KEMOutput: make([]byte, 32)}}}
		}},
		{"an empty kem_output", "", core.ErrInvalid, func(c *mls.Commit) {
			c.Proposals = []mls.ProposalOrRef{{Proposal: &mls.ExternalInit{}}}
		}},
		{"a node too few", "PATH-2", nil, func(c *mls.Commit) { c.Path.Nodes = c.Path.Nodes[1:] }},
		{"a leaf signed for another place", "", mls.ErrAuthentication, func(c *mls.Commit) { c.Path.LeafNode.Signature[9] ^= 1 }},
		{"nothing but the tag", "", mls.ErrAuthentication, func(*mls.Commit) {}},
	} {
		message, err := mls.ForgeExternalCommit(t.Context(), bob.g(), zoe.signer(), good, c.change)
		if err != nil {
			t.Fatal(err)
		}
		if c.what == "nothing but the tag" {
			message[len(message)-1] ^= 1
		}
		wantRefusal(t, c.what, bob, message, c.rule, c.want)
	}
	if _, err := bob.process(good); err != nil {
		t.Error(err)
	}
}

// damages gives a copy of data for every byte, with one bit of it flipped, and
// some that are cut.
func damages(data []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for i := range data {
			for _, bit := range []byte{0x01, 0x80} {
				damaged := bytes.Clone(data)
				damaged[i] ^= bit
				if !yield(i, damaged) {
					return
				}
			}
		}
	}
}

// COM-13: whatever is damaged inside a handshake that a member signed and tagged is
// refused; what decodes gets as far as it can.
func TestDamagedInside(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	me := mls.Sender{Type: mls.SenderMember, Leaf: mallory.g().OwnLeaf()}
	alice.reload, bob.reload = false, false
	mallory.psks["psk"], bob.psks["psk"] = []byte("key"), []byte("key")
	b, err := mallory.commit(mls.CommitParams{Proposals: []mls.Proposal{
		&mls.Add{KeyPackage: newMember(t, 1, "zoe", mls.DefaultConfig).keyPackage()}, &mls.Remove{Removed: alice.g().OwnLeaf()},
		mallory.g().NewExternalPSK([]byte("psk")), &mls.GroupContextExtensions{},
	}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mls.UnmarshalMLSMessage(b.Commit)
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	before := bob.stored.dump()
	for i, damaged := range damages(m.PublicMessage.Content.Commit.Marshal()) {
		commit, err := mls.UnmarshalCommit(damaged)
		if err != nil {
			continue
		}
		tried++
		message, err := mls.ForgeMessage(ctx, mallory.env(), mallory.g(), mls.WirePublicMessage, me, mallory.signers[0], nil, commit, m.PublicMessage.Auth.ConfirmationTag)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bob.process(message); !errors.Is(err, core.ErrInvalid) && !errors.Is(err, core.ErrNotFound) && !errors.Is(err, core.ErrDenied) && !errors.Is(err, core.ErrUnsupported) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	if bob.stored.dump() != before || tried < 500 {
		t.Errorf("something has changed, or only %d were tried", tried)
	}

	// Proposals: what is refused changes nothing, and what is taken keeps nobody
	// from committing.
	tried = 0
	leaf, err := mallory.g().OwnLeafNode(ctx, mallory.env())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []mls.Proposal{
		&mls.Add{KeyPackage: newMember(t, 1, "yves", mls.DefaultConfig).keyPackage()}, &mls.Update{LeafNode: leaf}, &mls.Remove{Removed: 1},
		mallory.g().NewResumptionPSK(1), &mls.ReInit{GroupID: []byte("g"), Version: 1, Suite: 1},
		&mls.GroupContextExtensions{Extensions: mls.Extensions{mls.RequiredCapabilities{Credentials: []core.CredentialType{1}}.Extension()}},
	} {
		for i, damaged := range damages(mls.MarshalProposal(p)) {
			body, err := mls.UnmarshalProposal(damaged)
			if err != nil {
				continue
			}
			tried++
			message, err := mls.ForgeMessage(ctx, mallory.env(), mallory.g(), mls.WirePublicMessage, me, mallory.signers[0], body, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := bob.process(message); err != nil && !errors.Is(err, core.ErrInvalid) && !errors.Is(err, core.ErrDenied) && !errors.Is(err, core.ErrUnsupported) {
				t.Fatalf("%T, byte %d: %v", p, i, err)
			}
		}
	}
	if _, err := bob.commit(mls.CommitParams{}); err != nil || tried < 200 {
		t.Errorf("%d were tried: %v", tried, err)
	}
}

// WEL-2, WEL-3, WEL-4, WEL-5, WEL-6, WEL-7, WEL-12: whatever is wrong inside a Welcome that a member signed
// and encrypted is refused.
func TestDamagedInsideWelcome(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	alice, _, _, _ := threesome(t, mls.DefaultConfig, nil)
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	if _, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: zoe.keyPackage()}}}); err != nil {
		t.Fatal(err)
	}
	welcome := func(info func(*mls.GroupInfo), secrets func([]byte) []byte) []byte {
		t.Helper()
		message, err := mls.ForgeWelcome(ctx, alice.env(), alice.g(), alice.pending, alice.signer(), info, secrets)
		if err != nil {
			t.Fatal(err)
		}
		return message
	}
	sameInfo, same := func(*mls.GroupInfo) {}, func(b []byte) []byte { return b }
	refused := func(what string, message []byte) {
		t.Helper()
		if err := zoe.join(message); !errors.Is(err, core.ErrInvalid) && !errors.Is(err, core.ErrNotFound) && !errors.Is(err, core.ErrUnsupported) || len(zoe.stored) != 0 {
			t.Errorf("%s: %v", what, err)
		}
	}
	var secrets []byte
	welcome(sameInfo, func(b []byte) []byte { secrets = bytes.Clone(b); return b })
	for i, damaged := range damages(secrets) {
		refused(fmt.Sprintf("group secrets, byte %d", i), welcome(sameInfo, func([]byte) []byte { return damaged }))
	}
	var info []byte
	welcome(func(i *mls.GroupInfo) {
		i.Extensions = i.Extensions[:1] // the ratchet tree: who is welcomed needs no external_pub
		info = i.Marshal()
	}, same)
	tried := 0
	for i, damaged := range damages(info[:len(info)-64]) { // not its signature, which is made anew
		changed, err := mls.UnmarshalGroupInfo(append(damaged, info[len(info)-64:]...))
		if err != nil {
			continue
		}
		tried++
		refused(fmt.Sprintf("GroupInfo, byte %d", i), welcome(func(i *mls.GroupInfo) { *i = *changed }, same))
	}
	if tried < 500 {
		t.Errorf("only %d were tried", tried)
	}
	if err := zoe.join(welcome(sameInfo, same)); err != nil {
		t.Error(err)
	}
}
