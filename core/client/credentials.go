// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A Credential is one of ours, with its signature key. Suites with the same
// signature scheme share it.
type Credential struct {
	Ref          CredentialRef
	Credential   core.Credential
	Scheme       core.SignatureScheme
	SignatureKey []byte // public
}

// A CredentialRef names one of our credentials in our store, once the transaction
// that made it is durable. Newer ones have greater numbers; 0 names none.
type CredentialRef uint64

func (r CredentialRef) key() []byte { return be64(uint64(r)) }

// is says whether a leaf has this credential.
func (c Credential) is(leaf *mls.LeafNode) bool {
	return leaf != nil && sameCredential(leaf, &mls.LeafNode{Credential: c.Credential, SignatureKey: c.SignatureKey})
}

// same says whether two are one credential, for one key.
func (c Credential) same(other Credential) bool {
	return c.is(&mls.LeafNode{Credential: other.Credential, SignatureKey: other.SignatureKey})
}

func sameCredential(a, b *mls.LeafNode) bool {
	return bytes.Equal(a.SignatureKey, b.SignatureKey) &&
		bytes.Equal(mls.MarshalCredential(a.Credential), mls.MarshalCredential(b.Credential))
}

func (c Credential) encode() []byte {
	return newEncoder().u16(uint16(c.Scheme)).bytes(c.SignatureKey).bytes(mls.MarshalCredential(c.Credential))
}

func decodeCredential(key, value []byte) (c Credential, err error) {
	if len(key) != 8 {
		return c, fmt.Errorf("key of a credential: %w", core.ErrDamaged)
	}
	c.Ref = CredentialRef(binary.BigEndian.Uint64(key))
	var encoded []byte
	err = decodeRecord("a credential", value, func(d *decoder) {
		c.Scheme, c.SignatureKey, encoded = core.SignatureScheme(d.u16()), d.bytes(), d.bytes()
	})
	if err != nil {
		return c, err
	}
	if c.Credential, err = mls.UnmarshalCredential(encoded); err != nil {
		return c, fmt.Errorf("credential record: %w", core.ErrDamaged)
	}
	return c, nil
}

// A CredentialFilter chooses among our credentials; a zero field lets all pass.
type CredentialFilter struct {
	Type         core.CredentialType
	Suite        core.SuiteID // that signs with the credential's scheme
	ClientID     core.ClientID
	SignatureKey []byte // public
}

// Credentials lists those of ours that pass the filter, oldest first.
func (t *Transaction) Credentials(ctx context.Context, filter CredentialFilter) ([]Credential, error) {
	return in(ctx, t, func() ([]Credential, error) { return t.client.filtered(ctx, t.segment, filter) })
}

// Credentials is [Transaction.Credentials] of what is durable.
func (c *Client) Credentials(ctx context.Context, filter CredentialFilter) ([]Credential, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	defer c.done()
	return c.filtered(ctx, newSegment(c.store), filter)
}

func (c *Client) filtered(ctx context.Context, s *segment, f CredentialFilter) ([]Credential, error) {
	var scheme core.SignatureScheme
	if f.Suite != 0 {
		suite, err := c.suites.Suite(f.Suite)
		if err != nil {
			return nil, err
		}
		scheme = suite.Parameters().Scheme
	}
	all, err := credentials(ctx, s)
	if err != nil {
		return nil, err
	}
	var list []Credential
	for _, own := range all {
		if f.Type != 0 && own.Credential.Type != f.Type || f.Suite != 0 && own.Scheme != scheme ||
			len(f.SignatureKey) > 0 && !bytes.Equal(own.SignatureKey, f.SignatureKey) {
			continue
		}
		if f.ClientID != "" {
			who, err := c.auth.Validate(own.Credential, own.SignatureKey, c.now(), core.PurposeIdentify)
			if err != nil {
				return nil, err
			}
			if who.ClientID != f.ClientID {
				continue
			}
		}
		list = append(list, own)
	}
	return list, nil
}

// credentials lists all of ours, oldest first.
func credentials(ctx context.Context, s *segment) (list []Credential, err error) {
	answers, err := s.read(ctx, query{place: at(tableCredential, "")})
	if err != nil {
		return nil, err
	}
	for _, r := range answers[0] {
		own, err := decodeCredential(r.Key, r.Value)
		if err != nil {
			return nil, err
		}
		list = append(list, own)
	}
	return list, nil
}

// NewCredential makes a fresh signature key for the scheme of a suite, with a basic
// credential. It becomes the newest, which new conversations and key packages have;
// [Conversation.SetCredential] takes it into use in one that is there. There may be
// several for a scheme; [Transaction.RemoveCredential] takes one away.
func (t *Transaction) NewCredential(ctx context.Context, suite core.SuiteID) (Credential, error) {
	return in(ctx, t, func() (Credential, error) {
		s, err := t.client.suites.Suite(suite)
		if err != nil {
			return Credential{}, err
		}
		return t.newCredential(ctx, s.Parameters())
	})
}

func (t *Transaction) newCredential(ctx context.Context, p core.SuiteParameters) (Credential, error) {
	who, err := t.initialized(ctx)
	if err != nil {
		return Credential{}, err
	}
	own, err := t.makeCredential(ctx, &who, p, core.BasicCredential(who.id))
	if err != nil {
		return Credential{}, err
	}
	t.putIdentity(who)
	return own, nil
}

// AddCredential keeps a credential that was issued to us for a signature key that
// another credential of ours has: both share it, and the key goes with the last of
// them. It becomes the newest of its type. ErrWrongCredential: it is not our client's,
// or the key is not ours. ErrCredentialExists: we have it for this key.
func (t *Transaction) AddCredential(ctx context.Context, credential core.Credential, signatureKey []byte) (Credential, error) {
	return in(ctx, t, func() (Credential, error) {
		who, err := t.initialized(ctx)
		if err != nil {
			return Credential{}, err
		}
		list, err := credentials(ctx, t.segment)
		if err != nil {
			return Credential{}, err
		}
		list = slices.DeleteFunc(list, func(c Credential) bool { return !bytes.Equal(c.SignatureKey, signatureKey) })
		if len(list) == 0 {
			return Credential{}, fmt.Errorf("signature key: %w: %w", ErrWrongCredential, core.ErrNotFound)
		}
		for _, c := range list {
			if bytes.Equal(mls.MarshalCredential(c.Credential), mls.MarshalCredential(credential)) {
				return Credential{}, ErrCredentialExists
			}
		}
		own, err := t.putCredential(ctx, &who, list[0].Scheme, credential, signatureKey)
		if err != nil {
			return Credential{}, err
		}
		t.putIdentity(who)
		return own, nil
	})
}

// makeCredential makes a key and stores it with a credential; the caller stores who.
func (t *Transaction) makeCredential(ctx context.Context, who *identity, p core.SuiteParameters, c core.Credential) (Credential, error) {
	signer, err := t.newKey(ctx, p.Signature)
	if err != nil {
		return Credential{}, err
	}
	return t.putCredential(ctx, who, p.Scheme, c, signer.Public())
}

// putCredential stores a credential for a key; the caller stores who.
func (t *Transaction) putCredential(ctx context.Context, who *identity, scheme core.SignatureScheme, c core.Credential, key []byte) (Credential, error) {
	auth := &authenticator{ctx, t.client, t.segment}
	is, err := auth.Validate(c, key, t.client.now(), core.PurposeMember)
	if err != nil {
		return Credential{}, err
	}
	if is.ClientID != who.id {
		return Credential{}, ErrWrongCredential
	}
	own := Credential{Ref: CredentialRef(who.next), Credential: c, Scheme: scheme, SignatureKey: key}
	who.next++
	t.segment.put(at(tableCredential, ""), own.Ref.key(), own.encode())
	return own, nil
}

// orBasic is the type of a credential: 0 is basic.
func orBasic(kind core.CredentialType) core.CredentialType {
	if kind == 0 {
		return core.CredentialBasic
	}
	return kind
}

// credential finds one of ours; ErrCredentialNotFound.
func credential(ctx context.Context, s *segment, ref CredentialRef) (Credential, error) {
	r, found, err := s.get(ctx, at(tableCredential, ""), ref.key())
	if err != nil {
		return Credential{}, err
	}
	if !found {
		return Credential{}, ErrCredentialNotFound
	}
	return decodeCredential(r.Key, r.Value)
}

// newest finds our newest credential of a type for a scheme.
func newest(ctx context.Context, s *segment, scheme core.SignatureScheme, kind core.CredentialType) (Credential, error) {
	list, err := credentials(ctx, s)
	if err != nil {
		return Credential{}, err
	}
	for _, c := range slices.Backward(list) {
		if c.Scheme == scheme && c.Credential.Type == orBasic(kind) {
			return c, nil
		}
	}
	if _, err := clientID(ctx, s); err != nil {
		return Credential{}, err
	}
	if kind == core.CredentialX509 {
		return Credential{}, ErrEnrollmentNotDone
	}
	return Credential{}, ErrCredentialNotFound
}

// choose finds the credential of a reference or, if that is 0, our newest of a type,
// and the key that signs for it. One for another scheme is ErrWrongCredential.
func (t *Transaction) choose(ctx context.Context, scheme core.SignatureScheme, kind core.CredentialType, ref CredentialRef) (own Credential, signer core.Signer, err error) {
	if ref == 0 {
		own, err = newest(ctx, t.segment, scheme, kind)
	} else {
		own, err = credential(ctx, t.segment, ref)
	}
	if err == nil && own.Scheme != scheme {
		err = fmt.Errorf("signature scheme %d where %d is needed: %w", own.Scheme, scheme, ErrWrongCredential)
	}
	if err != nil {
		return Credential{}, nil, err
	}
	signer, err = t.signer(ctx, own.SignatureKey)
	if errors.Is(err, core.ErrDamaged) {
		if _, again := credential(ctx, t.segment, own.Ref); errors.Is(again, ErrCredentialNotFound) {
			err = fmt.Errorf("the credential was removed meanwhile: %w", core.ErrConflict)
		}
	}
	return own, signer, err
}

// ownSigner is choose for a leaf that is to be made: what is missing is made now if
// it is a basic credential.
func (t *Transaction) ownSigner(ctx context.Context, suite core.Suite, kind core.CredentialType, ref CredentialRef) (Credential, core.Signer, error) {
	p := suite.Parameters()
	own, signer, err := t.choose(ctx, p.Scheme, kind, ref)
	if ref != 0 || orBasic(kind) != core.CredentialBasic || !errors.Is(err, ErrCredentialNotFound) {
		return own, signer, err
	}
	if own, err = t.newCredential(ctx, p); err != nil {
		return Credential{}, nil, err
	}
	signer, err = t.signer(ctx, own.SignatureKey)
	return own, signer, err
}

// leafParams is what rotates our leaf in a conversation to a credential.
func (t *Transaction) leafParams(ctx context.Context, h *held, ref CredentialRef) (mls.LeafParams, error) {
	suite, err := t.client.suites.Suite(h.group.Suite())
	if err != nil {
		return mls.LeafParams{}, err
	}
	own, signer, err := t.choose(ctx, suite.Parameters().Scheme, 0, ref)
	return mls.LeafParams{Credential: &own.Credential, SignatureKey: signer}, err
}

// ClientPublicKey is the public signature key of our newest credential of a type
// (0: basic) for a suite. ErrCredentialNotFound; ErrNotInitialized.
func (t *Transaction) ClientPublicKey(ctx context.Context, suite core.SuiteID, kind core.CredentialType) ([]byte, error) {
	return in(ctx, t, func() ([]byte, error) { return t.client.publicKey(ctx, t.segment, suite, kind) })
}

// ClientPublicKey is [Transaction.ClientPublicKey] of what is durable.
func (c *Client) ClientPublicKey(ctx context.Context, suite core.SuiteID, kind core.CredentialType) ([]byte, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	defer c.done()
	return c.publicKey(ctx, newSegment(c.store), suite, kind)
}

func (c *Client) publicKey(ctx context.Context, s *segment, id core.SuiteID, kind core.CredentialType) ([]byte, error) {
	suite, err := c.suites.Suite(id)
	if err != nil {
		return nil, err
	}
	own, err := newest(ctx, s, suite.Parameters().Scheme, kind)
	return own.SignatureKey, err
}
