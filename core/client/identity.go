// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// identity is the record of who we are, and the head of our credentials: each that
// comes or goes replaces it, and what is decided on all of them expects it.
type identity struct {
	id          core.ClientID // empty: there are keys, and the id is still to come
	next        uint64        // ref of the next credential
	temporaries []temporary
}

// A temporary is a signature key that waits for the client id.
type temporary struct {
	id     core.ClientID
	scheme core.SignatureScheme
	key    []byte // public
}

func (i identity) encode() []byte {
	e := newEncoder().bytes([]byte(i.id)).u64(i.next)
	for _, t := range i.temporaries {
		e = e.flag(true).bytes([]byte(t.id)).u16(uint16(t.scheme)).bytes(t.key)
	}
	return e.flag(false)
}

func decodeIdentity(value []byte) (i identity, err error) {
	err = decodeRecord("the client", value, func(d *decoder) {
		i.id, i.next = core.ClientID(d.bytes()), d.u64()
		for d.flag() {
			i.temporaries = append(i.temporaries, temporary{core.ClientID(d.bytes()), core.SignatureScheme(d.u16()), d.bytes()})
		}
	})
	return i, err
}

// identity reads who we are; nobody else may change that meanwhile.
func (t *Transaction) identity(ctx context.Context) (identity, error) {
	r, found, err := t.segment.getExpected(ctx, at(tableClient, ""), theOnly)
	if err != nil || !found {
		return identity{next: 1}, err
	}
	return decodeIdentity(r.Value)
}

// initialized is identity of a client that knows its id.
func (t *Transaction) initialized(ctx context.Context) (identity, error) {
	who, err := t.identity(ctx)
	if err == nil && who.id == "" {
		err = ErrNotInitialized
	}
	return who, err
}

// uninitialized is identity of one that does not.
func (t *Transaction) uninitialized(ctx context.Context) (identity, error) {
	who, err := t.identity(ctx)
	if err == nil && who.id != "" {
		err = ErrInitialized
	}
	return who, err
}

func (t *Transaction) putIdentity(who identity) {
	t.segment.put(at(tableClient, ""), theOnly, who.encode())
}

// schemes lists what the suites sign with, each once.
func (c *Client) schemes(suites []core.SuiteID) (list []core.SuiteParameters, err error) {
	for _, id := range suites {
		suite, err := c.suites.Suite(id)
		if err != nil {
			return nil, err
		}
		p := suite.Parameters()
		if !slices.ContainsFunc(list, func(q core.SuiteParameters) bool { return q.Scheme == p.Scheme }) {
			list = append(list, p)
		}
	}
	return list, nil
}

// InitMLS makes the identity of this client: its id and, for the signature scheme
// of each suite, a key with a basic credential. ErrInitialized if it has one. As
// many key packages are made for each suite as [Config.InitialKeyPackages] says. A
// suite of another scheme is taken up later with [Transaction.NewCredential].
//
// Keys that [Transaction.GenerateKeypairs] has made before are deleted.
func (t *Transaction) InitMLS(ctx context.Context, id core.ClientID, suites ...core.SuiteID) error {
	return t.do(ctx, func() error {
		schemes, who, err := t.beforeInit(ctx, id, suites)
		if err != nil {
			return err
		}
		who.id = id
		for _, p := range schemes {
			if _, err := t.makeCredential(ctx, &who, p, core.BasicCredential(id)); err != nil {
				return err
			}
		}
		return t.initialize(ctx, &who, core.CredentialBasic, suites...)
	})
}

// initialize stores who we are from now on, after the credentials, takes away the keys that
// waited for an id, and makes key packages.
func (t *Transaction) initialize(ctx context.Context, who *identity, kind core.CredentialType, suites ...core.SuiteID) error {
	for _, old := range who.temporaries {
		if err := t.dropKey(ctx, old.key); err != nil {
			return err
		}
	}
	who.temporaries = nil
	t.putIdentity(*who)
	return t.initialKeyPackages(ctx, kind, suites)
}

// beforeInit checks what both ways to an identity are given, and that there is none.
func (t *Transaction) beforeInit(ctx context.Context, id core.ClientID, suites []core.SuiteID) ([]core.SuiteParameters, identity, error) {
	if len(id) == 0 || len(suites) == 0 {
		return nil, identity{}, fmt.Errorf("client id and suites: %w", ErrEmptyInput)
	}
	if IsHistoryClient(id) {
		return nil, identity{}, errHistoryID
	}
	schemes, err := t.client.schemes(suites)
	if err != nil {
		return nil, identity{}, err
	}
	who, err := t.uninitialized(ctx)
	return schemes, who, err
}

// GenerateKeypairs makes a signature key for the scheme of each suite before the
// client id is known, for example because the service gives it out for the public
// keys. The result names the keys, in the order of the schemes: 16 random bytes each,
// for [Transaction.InitMLSWithClientID]. ErrInitialized if the client has an identity.
func (t *Transaction) GenerateKeypairs(ctx context.Context, suites ...core.SuiteID) ([]core.ClientID, error) {
	return in(ctx, t, func() ([]core.ClientID, error) {
		if len(suites) == 0 {
			return nil, fmt.Errorf("suites: %w", ErrEmptyInput)
		}
		schemes, err := t.client.schemes(suites)
		if err != nil {
			return nil, err
		}
		who, err := t.uninitialized(ctx)
		if err != nil {
			return nil, err
		}
		var names []core.ClientID
		for _, p := range schemes {
			signer, err := t.newKey(ctx, p.Signature)
			if err != nil {
				return nil, err
			}
			name := core.ClientID(RandomBytes(16))
			who.temporaries = append(who.temporaries, temporary{name, p.Scheme, signer.Public()})
			names = append(names, name)
		}
		t.putIdentity(who)
		return names, nil
	})
}

// InitMLSWithClientID gives the client its id, and each key of
// [Transaction.GenerateKeypairs] a basic credential of that id. The names must be
// those of all keys that were made: fewer are ErrTooManyIdentities; more, or others,
// or none for the scheme of a suite, are ErrNoProvisionalIdentity. ErrInitialized if
// the client has an identity. Key packages are made as in [Transaction.InitMLS].
func (t *Transaction) InitMLSWithClientID(ctx context.Context, id core.ClientID, names []core.ClientID, suites ...core.SuiteID) error {
	return t.do(ctx, func() error {
		schemes, who, err := t.beforeInit(ctx, id, suites)
		if err != nil {
			return err
		}
		made := who.temporaries
		switch {
		case len(made) > len(names):
			return fmt.Errorf("%d keys, %d names: %w", len(made), len(names), ErrTooManyIdentities)
		case len(made) < len(names):
			return fmt.Errorf("%d keys, %d names: %w", len(made), len(names), ErrNoProvisionalIdentity)
		}
		for _, m := range made {
			if !slices.Contains(names, m.id) {
				return fmt.Errorf("a name is not that of a key: %w", ErrNoProvisionalIdentity)
			}
		}
		for _, p := range schemes {
			if !slices.ContainsFunc(made, func(m temporary) bool { return m.scheme == p.Scheme }) {
				return fmt.Errorf("signature scheme %d: %w", p.Scheme, ErrNoProvisionalIdentity)
			}
		}
		who.id, who.temporaries = id, nil
		for _, m := range made {
			if _, err := t.putCredential(ctx, &who, m.scheme, core.BasicCredential(id), m.key); err != nil {
				return err
			}
		}
		return t.initialize(ctx, &who, core.CredentialBasic, suites...)
	})
}

// initialKeyPackages makes what the configuration asks for.
func (t *Transaction) initialKeyPackages(ctx context.Context, kind core.CredentialType, suites []core.SuiteID) error {
	n := t.client.cfg.InitialKeyPackages
	if n == 0 {
		return nil
	}
	for _, suite := range slices.Compact(slices.Sorted(slices.Values(suites))) {
		if _, err := t.makeKeyPackages(ctx, KeyPackageOptions{Suite: suite, Credential: kind}, n); err != nil {
			return err
		}
	}
	return nil
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
	if err == nil && who.id == "" {
		err = ErrNotInitialized
	}
	return who.id, err
}
