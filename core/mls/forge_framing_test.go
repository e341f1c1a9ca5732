// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// A Forgery is a message that nobody who keeps the rules makes: each step of making
// one can be changed, and everything after it is done as it should be.
type Forgery struct {
	Wire       WireFormat
	SignedAs   WireFormat // that the signature is made for; 0: Wire
	Context    []byte     // GroupContext that the signature covers; nil: the group's
	Signer     core.Signer
	Content    func(*FramedContent)          // begins as a member's, empty
	Signed     func(*AuthenticatedContent)   // before the membership tag or the encryption
	Tagged     func(*PublicMessage)          // when the membership tag is there
	Inside     func(plaintext []byte) []byte // PrivateMessageContent
	Encrypted  func(*PrivateMessage)         // before the sender data is encrypted
	SenderLeaf *LeafIndex                    // what the sender data say
	Sealed     func(*PrivateMessage)         // in the end
}

// Forge makes the message with the keys of g's epoch. Nothing of g is used up.
func (f Forgery) Forge(ctx context.Context, env *Env, g *Group) ([]byte, error) {
	c := g.content(nil)
	f.Content(c)
	if f.SignedAs == 0 {
		f.SignedAs = f.Wire
	}
	if f.Context == nil {
		f.Context = g.contextBytes
	}
	a, err := signFramedContent(ctx, f.Signer, f.SignedAs, c, f.Context)
	if err != nil {
		return nil, err
	}
	a.WireFormat = f.Wire
	if f.Signed != nil {
		f.Signed(a)
	}
	if f.Wire == WirePublicMessage {
		return f.public(g, a), nil
	}
	return f.private(ctx, env, g, a)
}

func (f Forgery) public(g *Group, a *AuthenticatedContent) []byte {
	m := &PublicMessage{Content: a.Content, Auth: a.Auth}
	if m.Content.Sender.Type == SenderMember {
		m.MembershipTag = m.membershipTag(g.suite, g.secrets.membership, g.contextBytes)
	}
	if f.Tagged != nil {
		f.Tagged(m)
	}
	return (&MLSMessage{PublicMessage: m}).Marshal()
}

func (f Forgery) private(ctx context.Context, env *Env, g *Group, a *AuthenticatedContent) ([]byte, error) {
	c := a.Content
	plaintext, err := padContent(a, PaddingNone, g.suite.Parameters().Nt)
	if err != nil {
		return nil, err
	}
	if f.Inside != nil {
		plaintext = f.Inside(plaintext)
	}
	m := &PrivateMessage{GroupID: c.GroupID, Epoch: c.Epoch, ContentType: c.ContentType, AuthenticatedData: c.AuthenticatedData}
	_, err = g.messages.seal(ctx, env.Fetch, &record.WriteSet{}, c.Sender.Leaf, c.ContentType.ratchetKind(), func(generation uint32, key, nonce core.Secret) error {
		aead, err := g.suite.AEAD(key)
		if err != nil {
			return err
		}
		d := newSenderData(c.Sender.Leaf, generation)
		m.Ciphertext = aead.Seal(nil, d.guard(nonce), plaintext, m.contentAAD())
		if f.Encrypted != nil {
			f.Encrypted(m)
		}
		if f.SenderLeaf != nil {
			d.leaf = *f.SenderLeaf
		}
		return m.sealSenderData(g.suite, g.secrets.senderData, d)
	})
	if err != nil {
		return nil, err
	}
	if f.Sealed != nil {
		f.Sealed(m)
	}
	return (&MLSMessage{PrivateMessage: m}).Marshal(), nil
}

// ForgedRef is the reference of the proposal in a PublicMessage.
func ForgedRef(suite core.Suite, message []byte) (ProposalRef, error) {
	m, err := UnmarshalMLSMessage(message)
	if err != nil {
		return nil, err
	}
	p := m.PublicMessage
	return (&AuthenticatedContent{WireFormat: WirePublicMessage, Content: p.Content, Auth: p.Auth}).proposalRef(suite), nil
}

// PrivateContentAADs are the two AADs of a PrivateMessage.
func PrivateContentAADs(m *PrivateMessage) (content, senderData []byte) {
	return m.contentAAD(), m.senderDataAAD()
}

// WaitingUpdates counts the private keys of own Update proposals that g keeps.
func WaitingUpdates(ctx context.Context, env *Env, g *Group) (int, error) {
	keys, err := g.loadKeys(ctx, env)
	if err != nil {
		return 0, err
	}
	return len(keys.updates), nil
}

// PendingContent is the commit of a pending commit and its confirmation tag.
func PendingContent(p *PendingCommit) (commit, tag []byte) {
	return p.content.Content.Commit.Marshal(), p.content.Auth.ConfirmationTag
}

// TreeOf gives the hash of a serialized tree, whatever else is wrong with it.
func TreeOf(suite core.Suite, nodes []Node) (data, hash []byte, err error) {
	t, err := importTree(suite, nodes)
	if err != nil {
		return nil, nil, err
	}
	return t.appendTo(nil), t.hash(), nil
}

// SignLeaf signs a leaf for a place in a group.
func SignLeaf(ctx context.Context, signer core.Signer, leaf *LeafNode, groupID []byte, at LeafIndex) error {
	return leaf.sign(ctx, signer, groupID, at)
}
