// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// anyWire takes handshakes in either format.
var anyWire = func() mls.Config {
	c := mls.DefaultConfig
	c.AcceptAnyWire = true
	return c
}()

var bothWires = []mls.WireFormat{mls.WirePublicMessage, mls.WirePrivateMessage}

// forge makes a message of a member with the keys of its epoch.
func (m *member) forge(f mls.Forgery) []byte {
	m.t.Helper()
	if f.Signer == nil {
		f.Signer = m.signer()
	}
	message, err := f.Forge(m.t.Context(), m.env(), m.g())
	if err != nil {
		m.t.Fatal(err)
	}
	return message
}

func proposing(p mls.Proposal) func(*mls.FramedContent) {
	return func(c *mls.FramedContent) { c.ContentType, c.Proposal = mls.ContentProposal, p }
}

func saying(text string) func(*mls.FramedContent) {
	return func(c *mls.FramedContent) { c.ContentType, c.Application = mls.ContentApplication, []byte(text) }
}

func committing(commit *mls.Commit) func(*mls.FramedContent) {
	return func(c *mls.FramedContent) { c.ContentType, c.Commit = mls.ContentCommit, commit }
}

// nothingFor processes a message that must be refused: with the error go no group,
// no content and no changes.
func nothingFor(t *testing.T, what string, m *member, message []byte) error {
	t.Helper()
	parsed, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		return err
	}
	g, result, ws, err := m.g().Process(t.Context(), m.env(), parsed)
	if err == nil || g != nil || result != nil || ws != nil {
		t.Errorf("%s: %v with %v, %v, %v", what, err, g, result, ws)
	}
	return err
}

// FR-1: application data is a PrivateMessage whatever the policy for handshakes, and
// refused in a PublicMessage though signature and membership tag hold.
func TestApplicationDataIsPrivate(t *testing.T) {
	t.Parallel()
	alice, bob, _, all := threesome(t, anyWire, nil)
	message, err := alice.send("hello")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := mls.UnmarshalMLSMessage(message); err != nil || m.PrivateMessage == nil {
		t.Errorf("sent as wire format %d, %v", m.WireFormat(), err)
	}
	wantRefusal(t, "public application data", bob, alice.forge(mls.Forgery{Wire: mls.WirePublicMessage, Content: saying("hello")}), "FR-1", nil)
	all.talk(t)
}

// FR-2: a content that was signed for one wire format is nothing in the other, and
// who joins from outside signs the GroupContext of the GroupInfo.
func TestSignatureCoversWireFormatAndContext(t *testing.T) {
	t.Parallel()
	alice, bob, _, _ := threesome(t, anyWire, nil)
	for _, wire := range bothWires {
		f := mls.Forgery{Wire: wire, Content: proposing(alice.g().NewResumptionPSK(0))}
		f.SignedAs = mls.WirePublicMessage + mls.WirePrivateMessage - wire
		wantRefusal(t, fmt.Sprint("cross-wrapped in ", wire), bob, alice.forge(f), "", mls.ErrAuthentication)
		f.SignedAs, f.Context = wire, []byte("another context")
		wantRefusal(t, fmt.Sprint("another context in ", wire), bob, alice.forge(f), "", mls.ErrAuthentication)
	}
	zoe := newMember(t, 1, "zoe", anyWire)
	commit := externally(t, zoe, alice)
	m, err := mls.UnmarshalMLSMessage(commit)
	if err != nil {
		t.Fatal(err)
	}
	again := mls.Forgery{
		Wire: mls.WirePublicMessage, Signer: zoe.signer(), Context: []byte("another context"),
		Content: func(c *mls.FramedContent) { *c = *m.PublicMessage.Content },
		Signed:  func(a *mls.AuthenticatedContent) { a.Auth.ConfirmationTag = m.PublicMessage.Auth.ConfirmationTag },
	}
	wantRefusal(t, "an external commit to another context", bob, alice.forge(again), "", mls.ErrAuthentication)
	again.Context = nil
	if _, err := bob.process(alice.forge(again)); err != nil {
		t.Error(err)
	}
}

// externally makes an external commit of one by the GroupInfo of another.
func externally(t *testing.T, joiner, by *member) []byte {
	t.Helper()
	info, err := by.g().GroupInfo(t.Context(), by.env(), mls.GroupInfoParams{})
	if err != nil {
		t.Fatal(err)
	}
	commit, err := joiner.joinExternal(info)
	if err != nil {
		t.Fatal(err)
	}
	return commit
}

// FR-3, GHSA-8x3w-qj7j-gqhf: a member's PublicMessage has a whole membership tag, the
// only right one, and no signature is looked at before; nobody else's has one.
func TestMembershipTagComesFirst(t *testing.T) {
	t.Parallel()
	alice, bob, _, _ := threesome(t, mls.DefaultConfig, nil)
	p := newProbe()
	good := mls.Forgery{Wire: mls.WirePublicMessage, Content: proposing(alice.g().NewResumptionPSK(0))}
	if _, err := p.processWith(bob, alice.forge(good)); err != nil || p.verified.Load() != 1 {
		t.Fatalf("%d signatures, %v", p.verified.Load(), err)
	}
	for what, change := range map[string]func(tag []byte) []byte{
		"no tag":    func([]byte) []byte { return nil },
		"zeroes":    func(tag []byte) []byte { return make([]byte, len(tag)) },
		"a byte":    func(tag []byte) []byte { return tag[:1] },
		"truncated": func(tag []byte) []byte { return tag[:31] },
		"longer":    func(tag []byte) []byte { return append(bytes.Clone(tag), 0) },
		"a bit off": func(tag []byte) []byte { tag[9] ^= 1; return tag },
	} {
		bad := good
		bad.Tagged = func(m *mls.PublicMessage) { m.MembershipTag = change(m.MembershipTag) }
		message := alice.forge(bad)
		wantRefusal(t, what, bob, message, "", mls.ErrAuthentication)
		if _, err := p.processWith(bob, message); err == nil || p.verified.Load() != 0 {
			t.Errorf("%s: %d signatures were looked at, %v", what, p.verified.Load(), err)
		}
	}
	stripped := alice.forge(good)
	wantRefusal(t, "cut off", bob, stripped[:len(stripped)-33], "", mls.ErrMalformed)
	commit := externally(t, newMember(t, 1, "zoe", mls.DefaultConfig), alice)
	wantRefusal(t, "an outsider's tag", bob, append(bytes.Clone(commit), stripped[len(stripped)-33:]...), "", mls.ErrMalformed)
	if _, err := bob.process(commit); err != nil {
		t.Error(err)
	}
}

// FR-4: what a commit carries by value fits who sends it, a member or a joiner.
func TestProposalsOfCommitters(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	leaf, err := mallory.g().OwnLeafNode(t.Context(), mallory.env())
	if err != nil {
		t.Fatal(err)
	}
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	commit := externally(t, zoe, alice)
	for what, c := range map[string]struct {
		p                mls.Proposal
		member, external string // rule
	}{
		"add":           {&mls.Add{KeyPackage: newMember(t, 1, "yves", mls.DefaultConfig).keyPackage()}, "", "FR-4"},
		"update":        {&mls.Update{LeafNode: leaf}, "PRP-2", "PRP-2"},
		"remove":        {&mls.Remove{Removed: 9}, "PRP-4", "PRP-4"},
		"psk":           {alice.g().NewExternalPSK([]byte("unknown")), "", ""},
		"reinit":        {&mls.ReInit{GroupID: []byte("g"), Version: 1, Suite: 1}, "", "FR-4"},
		"external init": {&mls.ExternalInit{KEMOutput: make([]byte, 32)}, "FR-4", "EXT-2"}, // the second one
		"extensions":    {&mls.GroupContextExtensions{}, "PRP-7", "FR-4"},
	} {
		one := &mls.Commit{Proposals: []mls.ProposalOrRef{{Proposal: c.p}}}
		want := func(rule string) error { // what comes next: there is no such tag, or no such PSK
			if rule != "" {
				return nil
			}
			if what == "psk" {
				return mls.ErrMissingPSK
			}
			return mls.ErrAuthentication
		}
		wantRefusal(t, what+" by a member", bob, mallory.forge(mls.Forgery{Wire: mls.WirePublicMessage, Content: committing(one)}), c.member, want(c.member))
		message, err := mls.ForgeExternalCommit(t.Context(), bob.g(), zoe.signer(), commit, func(commit *mls.Commit) {
			commit.Proposals = append(commit.Proposals, one.Proposals...)
		})
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, what+" by a joiner", bob, message, c.external, want(c.external))
	}
	for what, change := range map[string]func(*mls.FramedContent){
		"a joiner's commit without path": committing(&mls.Commit{}),
		"a joiner's proposal":            proposing(&mls.Remove{Removed: 0}),
		"a joiner's application data":    saying("hello"),
	} {
		forged := mallory.forge(mls.Forgery{Wire: mls.WirePublicMessage, Signer: zoe.signer(), Content: func(c *mls.FramedContent) {
			change(c)
			c.Sender = mls.Sender{Type: mls.SenderNewMemberCommit}
		}})
		rule := "FR-4"
		if what == "a joiner's application data" {
			rule = "FR-1"
		}
		wantRefusal(t, what, bob, forged, rule, nil)
	}
}

// FR-5: commits have a confirmation tag and nothing else has, in both wire formats.
func TestConfirmationTagOfCommitsAlone(t *testing.T) {
	t.Parallel()
	alice, bob, _, _ := threesome(t, anyWire, nil)
	proposal := proposing(alice.g().NewResumptionPSK(0))
	tag := append([]byte{32}, make([]byte, 32)...)
	// As it travels: the tag is the last before the membership tag, or before the padding.
	public := func(message []byte, with bool) []byte {
		at := len(message) - 33
		if with {
			return append(append(bytes.Clone(message[:at]), tag...), message[at:]...)
		}
		return append(bytes.Clone(message[:at-33]), message[at:]...)
	}
	commit := mls.Forgery{Wire: mls.WirePublicMessage, Content: committing(&mls.Commit{}),
		Signed: func(a *mls.AuthenticatedContent) { a.Auth.ConfirmationTag = make([]byte, 32) }}
	wantRefusal(t, "public commit without", bob, public(alice.forge(commit), false), "", mls.ErrMalformed)
	wantRefusal(t, "public proposal with", bob, public(alice.forge(mls.Forgery{Wire: mls.WirePublicMessage, Content: proposal}), true), "", mls.ErrMalformed)
	commit.Wire = mls.WirePrivateMessage
	commit.Inside = func(plaintext []byte) []byte { return plaintext[:len(plaintext)-33] }
	wantRefusal(t, "private commit without", bob, alice.forge(commit), "", mls.ErrMalformed)
	for what, content := range map[string]func(*mls.FramedContent){"proposal": proposal, "text": saying("x")} {
		wantRefusal(t, "private "+what+" with", bob, alice.forge(mls.Forgery{Wire: mls.WirePrivateMessage, Content: content,
			Inside: func(plaintext []byte) []byte { return append(plaintext, tag...) }}), "FR-7", nil) // it can only be padding, and is not
	}
}

// FR-6: another group, another epoch and a sender that is not there are told apart,
// before anything else of the message is looked at.
func TestSenderMustBeThere(t *testing.T) {
	t.Parallel()
	alice, bob, _, _ := threesome(t, anyWire, nil) // leaf 3 is blank
	for _, wire := range bothWires {
		remove := proposing(&mls.Remove{Removed: 77})
		forge := func(change func(*mls.FramedContent)) []byte {
			return alice.forge(mls.Forgery{Wire: wire, Content: func(c *mls.FramedContent) { remove(c); change(c) }})
		}
		wantRefusal(t, "another group", bob, forge(func(c *mls.FramedContent) { c.GroupID = []byte("other"); c.Epoch = 99 }), "", mls.ErrWrongGroup)
		for _, epoch := range []uint64{0, 2, math.MaxUint64} {
			message := forge(func(c *mls.FramedContent) { c.Epoch = epoch })
			wantRefusal(t, "another epoch", bob, message, "", mls.ErrWrongEpoch)
			var wrong *mls.EpochError
			if _, err := bob.process(message); !errors.As(err, &wrong) || wrong.Message != epoch || wrong.Group != 1 {
				t.Errorf("epoch %d: %v", epoch, err)
			}
		}
		for leaf, rule := range map[mls.LeafIndex]string{3: "FR-6", 4: "FR-9", 1 << 30: "FR-9", 1 << 31: "FR-9", math.MaxUint32: "FR-9"} {
			f := mls.Forgery{Wire: wire, Content: remove}
			if wire == mls.WirePublicMessage {
				rule = "FR-6"
				f.Content = func(c *mls.FramedContent) { remove(c); c.Sender.Leaf = leaf }
			} else {
				f.SenderLeaf = &leaf
			}
			wantRefusal(t, fmt.Sprintf("wire %d, leaf %d", wire, leaf), bob, alice.forge(f), rule, nil)
		}
	}
}

// FR-7: proposals and commits share a ratchet; which of them a PrivateMessage holds is
// bound by the AAD of the content and by that of the sender data.
func TestContentTypeIsBound(t *testing.T) {
	t.Parallel()
	alice, bob, _, _ := threesome(t, anyWire, nil)
	flip := func(m *mls.PrivateMessage) { m.ContentType = mls.ContentCommit }
	f := mls.Forgery{Wire: mls.WirePrivateMessage, Content: proposing(alice.g().NewResumptionPSK(0))}
	content, senderData := f, f
	content.Encrypted = flip // the sender data agree with it
	wantRefusal(t, "content", bob, alice.forge(content), "", mls.ErrAuthentication)
	senderData.Encrypted = flip
	senderData.Sealed = func(m *mls.PrivateMessage) { m.ContentType = mls.ContentProposal }
	wantRefusal(t, "sender data", bob, alice.forge(senderData), "", mls.ErrAuthentication)
	f.Inside = func(plaintext []byte) []byte { return append(plaintext, 0, 0, 1) }
	wantRefusal(t, "padding", bob, alice.forge(f), "FR-7", nil)
	f.Inside = func(plaintext []byte) []byte { return append(plaintext, 0, 0, 0) }
	if _, err := bob.process(alice.forge(f)); err != nil {
		t.Error(err)
	}
}

// FR-9: what is our own and comes back is told to be, and is not a failure of
// decryption; it changes nothing.
func TestEcho(t *testing.T) {
	t.Parallel()
	for _, handshake := range []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate} {
		config := mls.DefaultConfig
		config.Handshake, config.SendWithProposals = handshake, true
		alice, _, _, _ := threesome(t, config, nil)
		text, err := alice.send("hello")
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, "own text", alice, text, "", mls.ErrOwnMessage)
		proposal, err := alice.propose(&mls.Remove{Removed: 1})
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, "own proposal", alice, proposal, "", mls.ErrOwnMessage)
		b, err := alice.commit(mls.CommitParams{ForcePath: true})
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, "own commit", alice, b.Commit, "", mls.ErrOwnMessage)
		alice.merge()
		wantRefusal(t, "own text of the epoch before", alice, text, "", mls.ErrOwnMessage)
	}
}

// FR-10: the authenticated data arrive as they were given, with this message and no
// other, and are bound by the signature as well as by the tag or the encryption.
func TestAuthenticatedData(t *testing.T) {
	t.Parallel()
	for _, handshake := range []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate} {
		config := mls.DefaultConfig
		config.Handshake, config.SendWithProposals = handshake, true
		alice, bob, _, _ := threesome(t, config, nil)
		for _, aad := range [][]byte{nil, {0}, bytes.Repeat([]byte("aad"), 100)} {
			sent := func(g *mls.Group, message []byte, ws *record.WriteSet, err error) mls.Processed {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				alice.set(g, ws)
				got, err := bob.process(message)
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			got := sent(alice.g().Protect(t.Context(), alice.env(), []byte("x"), aad)).(*mls.ApplicationMessage).AuthenticatedData
			if !bytes.Equal(got, aad) {
				t.Errorf("text: %x", got)
			}
			g, p, ws, err := alice.g().Propose(t.Context(), alice.env(), alice.g().NewResumptionPSK(alice.g().Epoch()), aad)
			if err != nil {
				t.Fatal(err)
			}
			if got := sent(g, p.Message, ws, nil).(*mls.ReceivedProposal).AuthenticatedData; !bytes.Equal(got, aad) {
				t.Errorf("proposal: %x", got)
			}
			g, c, ws, err := alice.g().Commit(t.Context(), alice.env(), mls.CommitParams{AuthenticatedData: aad})
			if err != nil {
				t.Fatal(err)
			}
			alice.pending = c
			got = sent(g, c.Message(), ws, nil).(*mls.ReceivedCommit).AuthenticatedData
			if own := alice.merge().AuthenticatedData; !bytes.Equal(got, aad) || !bytes.Equal(own, aad) {
				t.Errorf("commit: %x and %x", got, own)
			}
		}
	}
	alice, bob, _, _ := threesome(t, anyWire, nil)
	for _, wire := range bothWires {
		content := proposing(alice.g().NewResumptionPSK(1))
		f := mls.Forgery{Wire: wire, Content: func(c *mls.FramedContent) { content(c); c.AuthenticatedData = []byte("aad") }}
		outside, inside := f, f
		outside.Tagged = func(m *mls.PublicMessage) { m.Content.AuthenticatedData = []byte("bad") }
		outside.Sealed = func(m *mls.PrivateMessage) { m.AuthenticatedData = []byte("bad") }
		inside.Signed = func(a *mls.AuthenticatedContent) { a.Content.AuthenticatedData = []byte("bad") }
		for what, f := range map[string]mls.Forgery{"outside": outside, "inside": inside} {
			wantRefusal(t, fmt.Sprintf("wire %d, changed %s", wire, what), bob, alice.forge(f), "", mls.ErrAuthentication)
		}
	}
}

// FR-11: which wire formats a member sends and takes handshakes in. Outsiders always
// send PublicMessages.
func TestHandshakePolicies(t *testing.T) {
	t.Parallel()
	for _, handshake := range []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate} {
		for _, mixed := range []bool{false, true} {
			config := mls.DefaultConfig
			config.Handshake, config.AcceptAnyWire = handshake, mixed
			alice, bob, _, _ := threesome(t, config, nil)
			for _, wire := range bothWires {
				message := alice.forge(mls.Forgery{Wire: wire, Content: proposing(alice.g().NewResumptionPSK(1))})
				if mixed || wire == mls.WireFormat(handshake) {
					if _, err := bob.process(message); err != nil {
						t.Errorf("policy %d, mixed %v, wire %d: %v", handshake, mixed, wire, err)
					}
				} else {
					wantRefusal(t, fmt.Sprintf("policy %d, wire %d", handshake, wire), bob, message, "FR-11", nil)
				}
			}
			b, err := alice.commit(mls.CommitParams{ForcePath: true})
			if err != nil {
				t.Fatal(err)
			}
			if m, err := mls.UnmarshalMLSMessage(b.Commit); err != nil || m.WireFormat() != mls.WireFormat(handshake) {
				t.Errorf("policy %d: a commit of wire format %d, %v", handshake, m.WireFormat(), err)
			}
			commit := externally(t, newMember(t, 1, "zoe", config), alice)
			if m, err := mls.UnmarshalMLSMessage(commit); err != nil || m.PublicMessage == nil {
				t.Errorf("an external commit of wire format %d, %v", m.WireFormat(), err)
			}
			if _, err := bob.process(commit); err != nil {
				t.Error(err)
			}
		}
	}
}

// FR-12: all that a policy leaves to be seen of a length is the length of the
// ciphertext; the data arrive whole.
func TestPaddedLengths(t *testing.T) {
	t.Parallel()
	for padding, most := range map[mls.Padding]int{mls.PaddingNone: 256, mls.Padding128: 4, 1024: 2, mls.PaddingPadme: 40} {
		config := mls.DefaultConfig
		config.PadTo = padding
		alice, bob := newMember(t, 1, "alice", config), newMember(t, 1, "bob", config)
		alice.reload, bob.reload = false, false
		alice.create("g", nil)
		party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}}, bob)
		lengths := map[int]int{}
		for n := range 256 {
			if n%16 != 0 && padding != mls.PaddingNone {
				continue
			}
			message, err := alice.send(string(make([]byte, n)))
			if err != nil {
				t.Fatal(err)
			}
			lengths[len(message)]++
			if got, err := bob.process(message); err != nil || len(got.(*mls.ApplicationMessage).Data) != n {
				t.Fatalf("%d bytes: %v, %v", n, got, err)
			}
		}
		if len(lengths) > most || len(lengths) == 1 && most > 4 {
			t.Errorf("padding %d: %d lengths", padding, len(lengths))
		}
		if padding == mls.PaddingNone && len(lengths) < 200 {
			t.Errorf("no padding: %d lengths", len(lengths))
		}
	}
}

// FR-13: whatever does not hold, outsider and member alike are told that it does not
// and no more, and the content goes nowhere.
func TestUnverifiedContentIsNotReturned(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, _ := threesome(t, anyWire, nil)
	private := mls.Forgery{Wire: mls.WirePrivateMessage, Content: saying("secret text")}
	public := mls.Forgery{Wire: mls.WirePublicMessage, Content: proposing(alice.g().NewResumptionPSK(1))}
	change := func(f mls.Forgery, change func(*mls.Forgery)) []byte { change(&f); return alice.forge(f) }
	for what, message := range map[string][]byte{
		"sender data": change(private, func(f *mls.Forgery) {
			f.Sealed = func(m *mls.PrivateMessage) { m.EncryptedSenderData[3] ^= 1 }
		}),
		"ciphertext": change(private, func(f *mls.Forgery) {
			f.Encrypted = func(m *mls.PrivateMessage) { m.Ciphertext[len(m.Ciphertext)-1] ^= 1 }
		}),
		"private signature": change(private, func(f *mls.Forgery) { f.Signer = mallory.signer() }),
		"public signature":  change(public, func(f *mls.Forgery) { f.Signer = mallory.signer() }),
		"membership tag": change(public, func(f *mls.Forgery) {
			f.Tagged = func(m *mls.PublicMessage) { m.MembershipTag[0] ^= 1 }
		}),
		"confirmation tag": change(public, func(f *mls.Forgery) {
			f.Content = committing(&mls.Commit{Proposals: []mls.ProposalOrRef{{Proposal: alice.g().NewResumptionPSK(1)}}})
		}),
	} {
		if err := nothingFor(t, what, bob, message); err == nil || err.Error() != mls.ErrAuthentication.Error() {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, message := range map[string][]byte{
		"padding": change(private, func(f *mls.Forgery) { f.Inside = func(b []byte) []byte { return append(b, 1) } }),
		"cut":     change(private, func(f *mls.Forgery) { f.Inside = func(b []byte) []byte { return b[:20] } }),
		"sender":  change(private, func(f *mls.Forgery) { f.SenderLeaf = new(mls.LeafIndex); *f.SenderLeaf = 3 }),
	} {
		if err := nothingFor(t, what, bob, message); !errors.Is(err, core.ErrInvalid) || bytes.Contains([]byte(err.Error()), []byte("secret")) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FR-14: the authenticated data are in the AAD of the content and not in that of the
// sender data, which can be opened without it.
func TestAADs(t *testing.T) {
	t.Parallel()
	m := &mls.PrivateMessage{GroupID: []byte("gid"), Epoch: 0x0102, ContentType: mls.ContentCommit, AuthenticatedData: []byte("aad")}
	content, senderData := mls.PrivateContentAADs(m)
	common := []byte("\x03gid\x00\x00\x00\x00\x00\x00\x01\x02\x03")
	if !bytes.Equal(content, append(bytes.Clone(common), "\x03aad"...)) || !bytes.Equal(senderData, common) {
		t.Errorf("%x and %x", content, senderData)
	}
}
