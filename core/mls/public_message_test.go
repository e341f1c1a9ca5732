// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// Every bit of a PublicMessage counts.
func TestPublicMessageBitFlips(t *testing.T) {
	t.Parallel()
	eachSuite(t, func(t *testing.T, suite core.Suite) {
		g := newWireGroup(t, suite)
		for kind, tag := range map[ContentType][]byte{ContentProposal: nil, ContentCommit: []byte("tag")} {
			message := g.sealPublic(t, g.content(kind), tag)
			if a, err := g.open(t, message); err != nil || a.Content.Sender.Leaf != g.leaf {
				t.Fatal(err)
			}
			for i := range message {
				changed := bytes.Clone(message)
				changed[i] ^= 1 << (i % 8)
				_, err := g.open(t, changed)
				if !errors.Is(err, core.ErrInvalid) {
					t.Errorf("byte %d: %v", i, err)
				}
			}
		}
	})
}

// FR-3, CS-8: the membership tag is there, whole, and this group's.
func TestMembershipTag(t *testing.T) {
	t.Parallel()
	g := newWireGroup(t, suiteOf(t, core.SuiteX25519AES128Ed25519))
	m := must(UnmarshalMLSMessage(g.sealPublic(t, g.content(ContentProposal), nil))).PublicMessage
	right := m.MembershipTag
	for _, tag := range [][]byte{nil, {}, right[:1], right[:31], append(bytes.Clone(right), 0), make([]byte, 32)} {
		m.MembershipTag = tag
		if _, err := unprotectPublic(g.suite, g.membership, g.context, m); !errors.Is(err, ErrAuthentication) {
			t.Errorf("tag %x: %v", tag, err)
		}
	}
	m.MembershipTag = right
	if _, err := unprotectPublic(g.suite, g.membership, []byte("another context"), m); !errors.Is(err, ErrAuthentication) {
		t.Errorf("another context: %v", err)
	}
	if _, err := unprotectPublic(g.suite, core.NewSecret(make([]byte, 32)), g.context, m); !errors.Is(err, ErrAuthentication) {
		t.Errorf("another key: %v", err)
	}
	for _, tag := range [][]byte{nil, {}, right[:1]} {
		if sameTag(tag, nil) || sameTag(nil, tag) || sameTag(right, tag) {
			t.Errorf("tag %x is equal to something", tag)
		}
	}
}

// FR-1, FR-4, XS-2: the whole matrix of senders and contents, both ways.
func TestSenderMatrix(t *testing.T) {
	t.Parallel()
	g := newWireGroup(t, suiteOf(t, core.SuiteX25519AES128Ed25519))
	add := &Add{KeyPackage: &KeyPackage{Version: MLS10, LeafNode: &LeafNode{Source: LeafUpdate}}}
	update := &Update{LeafNode: &LeafNode{Source: LeafUpdate}}
	path := &UpdatePath{LeafNode: &LeafNode{Source: LeafUpdate}}
	psk := &PreSharedKey{PSK: PreSharedKeyID{Type: PSKExternal}}
	for _, sender := range []SenderType{SenderMember, SenderExternal, SenderNewMemberProposal, SenderNewMemberCommit} {
		for _, c := range []struct {
			name    string
			content FramedContent
			allowed map[SenderType]bool
		}{
			{"application", FramedContent{ContentType: ContentApplication}, nil},
			{"add", FramedContent{ContentType: ContentProposal, Proposal: add}, map[SenderType]bool{SenderMember: true, SenderExternal: true, SenderNewMemberProposal: true}},
			{"update", FramedContent{ContentType: ContentProposal, Proposal: update}, map[SenderType]bool{SenderMember: true}},
			{"remove", FramedContent{ContentType: ContentProposal, Proposal: &Remove{}}, map[SenderType]bool{SenderMember: true, SenderExternal: true}},
			{"psk", FramedContent{ContentType: ContentProposal, Proposal: psk}, map[SenderType]bool{SenderMember: true, SenderExternal: true}},
			{"reinit", FramedContent{ContentType: ContentProposal, Proposal: &ReInit{Version: MLS10}}, map[SenderType]bool{SenderMember: true, SenderExternal: true}},
			{"external init", FramedContent{ContentType: ContentProposal, Proposal: &ExternalInit{}}, map[SenderType]bool{SenderMember: true}},
			{"extensions", FramedContent{ContentType: ContentProposal, Proposal: &GroupContextExtensions{}}, map[SenderType]bool{SenderMember: true, SenderExternal: true}},
			{"commit", FramedContent{ContentType: ContentCommit, Commit: &Commit{}}, map[SenderType]bool{SenderMember: true}},
			{"commit with path", FramedContent{ContentType: ContentCommit, Commit: &Commit{Path: path}}, map[SenderType]bool{SenderMember: true, SenderNewMemberCommit: true}},
		} {
			content := c.content
			content.GroupID, content.Epoch, content.Sender = g.groupID, g.epoch, Sender{Type: sender}
			a := g.sign(t, WirePublicMessage, &content, nil)
			m, err := protectPublic(g.suite, g.membership, g.context, a)
			if (err == nil) != c.allowed[sender] || err != nil && !errors.As(err, new(*RuleError)) {
				t.Errorf("sender %d sends %s: %v", sender, c.name, err)
			}
			if err != nil { // as a peer that does not check would send it
				m = &PublicMessage{Content: &content, Auth: a.Auth}
				m.MembershipTag = m.membershipTag(g.suite, g.membership, g.context)
			}
			if (len(m.MembershipTag) != 0) != (sender == SenderMember) && err == nil {
				t.Errorf("sender %d: tag %x", sender, m.MembershipTag)
			}
			got, err := g.open(t, (&MLSMessage{PublicMessage: m}).Marshal())
			if (err == nil) != c.allowed[sender] || err != nil && !errors.As(err, new(*RuleError)) {
				t.Errorf("sender %d, received %s: %v", sender, c.name, err)
			}
			if err == nil {
				wantBytes(t, "content", got.Marshal(), a.Marshal())
			}
		}
	}
}

// FR-2: the context counts for members and external joiners alone, and the wire
// format and the content for all.
func TestSignedContext(t *testing.T) {
	t.Parallel()
	g := newWireGroup(t, suiteOf(t, core.SuiteX25519AES128Ed25519))
	for sender, bound := range map[SenderType]bool{SenderMember: true, SenderExternal: false, SenderNewMemberProposal: false, SenderNewMemberCommit: true} {
		c := g.content(ContentProposal)
		c.Sender = Sender{Type: sender}
		a := g.sign(t, WirePublicMessage, c, nil)
		if err := verifyContent(g.suite, g.signer.Public(), g.context, a); err != nil {
			t.Errorf("sender %d: %v", sender, err)
		}
		if err := verifyContent(g.suite, g.signer.Public(), []byte("another"), a); (err != nil) != bound || err != nil && !errors.Is(err, ErrAuthentication) {
			t.Errorf("sender %d in another context: %v", sender, err)
		}
		a.WireFormat = WirePrivateMessage
		if err := verifyContent(g.suite, g.signer.Public(), g.context, a); !errors.Is(err, ErrAuthentication) {
			t.Errorf("sender %d in another wire format: %v", sender, err)
		}
	}
	a := g.sign(t, WirePrivateMessage, g.content(ContentProposal), nil)
	if _, err := protectPublic(g.suite, g.membership, g.context, a); !errors.As(err, new(*RuleError)) {
		t.Errorf("content signed as PrivateMessage: %v", err)
	}
}
