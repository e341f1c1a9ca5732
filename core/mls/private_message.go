// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// protectPrivate encrypts a signed content of our own (RFC 9420 section 6.3) with
// the next generation of our ratchet. The message must not leave before ws is
// durable (FS-1). [core.ErrTooLarge] if it does not fit a vector; [ErrExhausted].
func protectPrivate(ctx context.Context, fetch record.Fetch, ws *record.WriteSet, tree *secretTree, senderDataSecret core.Secret, a *AuthenticatedContent, padding Padding) (*secretTree, *PrivateMessage, error) {
	suite, c := tree.suite, a.Content
	if a.WireFormat != WirePrivateMessage || c.Sender.Type != SenderMember {
		return nil, nil, breach("FR-9", "only a member's content signed as PrivateMessage can be encrypted")
	}
	plaintext, err := padContent(a, padding, suite.Parameters().Nt)
	if err != nil {
		return nil, nil, err
	}
	m := &PrivateMessage{GroupID: c.GroupID, Epoch: c.Epoch, ContentType: c.ContentType, AuthenticatedData: c.AuthenticatedData}
	next, err := tree.seal(ctx, fetch, ws, c.Sender.Leaf, c.ContentType.ratchetKind(), func(generation uint32, key, nonce core.Secret) error {
		aead, err := suite.AEAD(key)
		if err != nil {
			return err
		}
		d := newSenderData(c.Sender.Leaf, generation)
		m.Ciphertext = aead.Seal(plaintext[:0], d.guard(nonce), plaintext, m.contentAAD())
		return m.sealSenderData(suite, senderDataSecret, d)
	})
	if err != nil {
		return nil, nil, err
	}
	return next, m, nil
}

// padContent encodes PrivateMessageContent, with room for the tag behind it.
func padContent(a *AuthenticatedContent, padding Padding, tag int) ([]byte, error) {
	c := a.Content
	b := make([]byte, 0, len(c.Application)+256+tag)
	b = a.Auth.append(c.appendBody(b), c.ContentType)
	total := padding.length(len(b) + tag)
	if total > vlbytes.MaxLength {
		return nil, fmt.Errorf("message of %d bytes: %w", total, core.ErrTooLarge)
	}
	if total > cap(b) {
		b = append(make([]byte, 0, total), b...)
	}
	n := len(b)
	b = b[:total-tag]
	clear(b[n:])
	return b, nil
}

// unprotectPrivate is the second step of receiving: it decrypts the content with
// the key that openSenderData told of, and gives it to check, which verifies the
// signature and all that makes the message acceptable. Only if check succeeds is
// the key used up (FS-3). A flaw of the content is told as such only to those who
// hold the key; everything before is [ErrAuthentication].
func unprotectPrivate(ctx context.Context, fetch record.Fetch, ws *record.WriteSet, tree *secretTree, m *PrivateMessage, d senderData, check func(*AuthenticatedContent) error) (*secretTree, error) {
	return tree.open(ctx, fetch, ws, d.leaf, m.ContentType.ratchetKind(), d.generation, func(key, nonce core.Secret) error {
		aead, err := tree.suite.AEAD(key)
		if err != nil {
			return err
		}
		plaintext, err := aead.Open(nil, d.guard(nonce), m.Ciphertext, m.contentAAD())
		if err != nil {
			return ErrAuthentication
		}
		a, err := m.readContent(plaintext, d.leaf)
		if err != nil {
			return err
		}
		return check(a)
	})
}

// readContent decodes PrivateMessageContent; whatever follows the authentication
// data is padding and must be zero (FR-7). The result aliases plaintext.
func (m *PrivateMessage) readContent(plaintext []byte, leaf LeafIndex) (*AuthenticatedContent, error) {
	c := &FramedContent{
		GroupID:           m.GroupID,
		Epoch:             m.Epoch,
		Sender:            Sender{Type: SenderMember, Leaf: leaf},
		AuthenticatedData: m.AuthenticatedData,
		ContentType:       m.ContentType,
	}
	r := &reader{s: cryptobyte.String(plaintext)}
	c.readBody(r)
	a := &AuthenticatedContent{WireFormat: WirePrivateMessage, Content: c, Auth: readAuthData(r, c.ContentType)}
	if r.bad {
		return nil, fmt.Errorf("PrivateMessageContent: %w", ErrMalformed)
	}
	for _, b := range r.s {
		if b != 0 {
			return nil, breach("FR-7", "padding is not zero")
		}
	}
	return a, nil
}

// contentAAD is PrivateContentAAD.
func (m *PrivateMessage) contentAAD() []byte {
	b := make([]byte, 0, len(m.GroupID)+len(m.AuthenticatedData)+20)
	b = append(appendU64(appendOpaque(b, m.GroupID), m.Epoch), byte(m.ContentType))
	return appendOpaque(b, m.AuthenticatedData)
}
