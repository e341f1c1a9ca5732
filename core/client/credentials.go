// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A Credential is one of ours, with its signature key. Suites with the same
// signature scheme share it.
type Credential struct {
	Credential   core.Credential
	Scheme       core.SignatureScheme
	SignatureKey []byte // public
	sequence     uint64 // later ones are newer
}

// identity is the record of who we are, and the head of our credentials.
type identity struct {
	id   core.ClientID
	next uint64 // sequence of the next credential
}

func (i identity) encode() []byte { return newEncoder().bytes([]byte(i.id)).u64(i.next) }

func decodeIdentity(value []byte) (i identity, err error) {
	err = decodeRecord("the client", value, func(d *decoder) { i = identity{core.ClientID(d.bytes()), d.u64()} })
	return i, err
}

// InitMLS makes the identity of this client: its id and, for the signature scheme
// of each suite, a key with a basic credential. ErrInitialized if it has one. No
// key packages are made.
func (t *Transaction) InitMLS(ctx context.Context, id core.ClientID, suites ...core.SuiteID) error {
	return t.do(ctx, func() error { return t.initMLS(ctx, id, suites) })
}

func (t *Transaction) initMLS(ctx context.Context, id core.ClientID, suites []core.SuiteID) error {
	if len(id) == 0 || len(suites) == 0 {
		return fmt.Errorf("client id and suites: %w", ErrEmptyInput)
	}
	_, found, err := t.segment.getExpected(ctx, at(tableClient, ""), theOnly)
	if err != nil {
		return err
	}
	if found {
		return ErrInitialized
	}
	who := identity{id: id}
	var made []core.SignatureScheme
	for _, s := range suites {
		suite, err := t.client.suites.Suite(s)
		if err != nil {
			return err
		}
		p := suite.Parameters()
		if slices.Contains(made, p.Scheme) {
			continue
		}
		if _, err := t.addCredential(ctx, &who, p, core.BasicCredential(id)); err != nil {
			return err
		}
		made = append(made, p.Scheme)
	}
	t.segment.put(at(tableClient, ""), theOnly, who.encode())
	return nil
}

// addCredential makes a key and stores it with a credential; the caller stores who.
func (t *Transaction) addCredential(ctx context.Context, who *identity, p core.SuiteParameters, c core.Credential) (Credential, error) {
	signer, err := t.newKey(ctx, p.Signature)
	if err != nil {
		return Credential{}, err
	}
	own := Credential{Credential: c, Scheme: p.Scheme, SignatureKey: signer.Public(), sequence: who.next}
	if _, err := t.client.auth.Validate(c, own.SignatureKey, t.client.now(), core.PurposeMember); err != nil {
		return Credential{}, err
	}
	who.next++
	record := newEncoder().u16(uint16(own.Scheme)).bytes(own.SignatureKey).bytes(mls.MarshalCredential(c))
	t.segment.put(at(tableCredential, ""), be64(own.sequence), record)
	return own, nil
}

// NewCredential makes a fresh signature key for the scheme of a suite, with a
// basic credential. It becomes the newest; [Conversation.Rotate] takes it into use.
func (t *Transaction) NewCredential(ctx context.Context, suite core.SuiteID) (Credential, error) {
	return in(ctx, t, func() (Credential, error) { return t.newCredential(ctx, suite) })
}

func (t *Transaction) newCredential(ctx context.Context, suite core.SuiteID) (Credential, error) {
	s, err := t.client.suites.Suite(suite)
	if err != nil {
		return Credential{}, err
	}
	r, found, err := t.segment.getExpected(ctx, at(tableClient, ""), theOnly)
	if err != nil {
		return Credential{}, err
	}
	if !found {
		return Credential{}, ErrNotInitialized
	}
	who, err := decodeIdentity(r.Value)
	if err != nil {
		return Credential{}, err
	}
	own, err := t.addCredential(ctx, &who, s.Parameters(), core.BasicCredential(who.id))
	if err != nil {
		return Credential{}, err
	}
	t.segment.put(at(tableClient, ""), theOnly, who.encode())
	return own, nil
}

// Credentials lists ours, oldest first.
func (t *Transaction) Credentials(ctx context.Context) ([]Credential, error) {
	return in(ctx, t, func() ([]Credential, error) { return credentials(ctx, t.segment) })
}

func credentials(ctx context.Context, s *segment) ([]Credential, error) {
	answers, err := s.read(ctx, query{place: at(tableCredential, "")})
	if err != nil {
		return nil, err
	}
	var list []Credential
	for _, r := range answers[0] {
		own := Credential{sequence: binary.BigEndian.Uint64(r.Key)}
		var encoded []byte
		err := decodeRecord("a credential", r.Value, func(d *decoder) {
			own.Scheme, own.SignatureKey, encoded = core.SignatureScheme(d.u16()), d.bytes(), d.bytes()
		})
		if err != nil {
			return nil, err
		}
		if own.Credential, err = mls.UnmarshalCredential(encoded); err != nil {
			return nil, fmt.Errorf("credential record: %w", core.ErrDamaged)
		}
		list = append(list, own)
	}
	return list, nil
}

// orBasic is the type of a credential: 0 is basic.
func orBasic(kind core.CredentialType) core.CredentialType {
	if kind == 0 {
		return core.CredentialBasic
	}
	return kind
}

// newest finds our newest credential of a type for a scheme.
func (t *Transaction) newest(ctx context.Context, scheme core.SignatureScheme, kind core.CredentialType) (Credential, error) {
	list, err := credentials(ctx, t.segment)
	if err != nil {
		return Credential{}, err
	}
	if len(list) == 0 {
		return Credential{}, ErrNotInitialized
	}
	for _, c := range slices.Backward(list) {
		if c.Scheme == scheme && c.Credential.Type == orBasic(kind) {
			return c, nil
		}
	}
	return Credential{}, ErrCredentialNotFound
}

// ownSigner is newest with the key that signs for it.
func (t *Transaction) ownSigner(ctx context.Context, suite core.Suite, kind core.CredentialType) (Credential, core.Signer, error) {
	own, err := t.newest(ctx, suite.Parameters().Scheme, kind)
	if err != nil {
		return Credential{}, nil, err
	}
	signer, err := t.signer(ctx, own.SignatureKey)
	return own, signer, err
}

// ClientID is who we are; ErrNotInitialized.
func (t *Transaction) ClientID(ctx context.Context) (core.ClientID, error) {
	return in(ctx, t, func() (core.ClientID, error) { return clientID(ctx, t.segment) })
}

func clientID(ctx context.Context, s *segment) (core.ClientID, error) {
	r, found, err := s.get(ctx, at(tableClient, ""), theOnly)
	if err != nil {
		return "", err
	}
	if !found {
		return "", ErrNotInitialized
	}
	who, err := decodeIdentity(r.Value)
	return who.id, err
}

// ClientPublicKey is the public signature key of our newest credential of a type
// for a suite.
func (t *Transaction) ClientPublicKey(ctx context.Context, suite core.SuiteID, kind core.CredentialType) ([]byte, error) {
	return in(ctx, t, func() ([]byte, error) {
		s, err := t.client.suites.Suite(suite)
		if err != nil {
			return nil, err
		}
		c, err := t.newest(ctx, s.Parameters().Scheme, kind)
		return c.SignatureKey, err
	})
}
