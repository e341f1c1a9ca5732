// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A KeyPackage lets others add us to a conversation, once, or again and again if
// it is a last resort.
type KeyPackage struct {
	Ref        []byte // KeyPackageRef
	Message    []byte // MLSMessage, to be published
	LastResort bool
}

// Key packages are valid from an hour ago, for clocks that differ, for 84 days.
const (
	keyPackageLifetime = 84 * 24 * time.Hour
	clockSkew          = time.Hour
)

// DefaultMaxLifetime lets key packages pass that are valid for a year, with a margin.
// RFC 9420 section 7.2 has every application choose a maximum.
const DefaultMaxLifetime = 400 * 24 * time.Hour

// pooled is what the pool knows of a key package without its keys.
type pooled struct {
	key        []byte
	ref        []byte
	kind       core.CredentialType
	notAfter   uint64 // Unix seconds
	lastResort bool
}

func (p pooled) expired(now time.Time) bool { return uint64(max(now.Unix(), 0)) >= p.notAfter }

// A pool is the set of our key packages as a segment sees it. Everything decided
// on the whole set expects its head, and every change replaces it.
type pool struct {
	t    *Transaction
	next uint64
	list []pooled
}

// pool reads our key packages of all suites.
func (t *Transaction) pool(ctx context.Context) (*pool, error) {
	p := &pool{t: t}
	r, found, err := t.segment.getExpected(ctx, at(tablePool, ""), theOnly)
	if err != nil {
		return nil, err
	}
	if found {
		if err := decodeRecord("the key packages", r.Value, func(d *decoder) { p.next = d.u64() }); err != nil {
			return nil, err
		}
	}
	p.list, err = poolList(ctx, t.segment, 0)
	return p, err
}

// poolList lists the key packages of a suite; of all if it is 0.
func poolList(ctx context.Context, s *segment, suite core.SuiteID) (list []pooled, err error) {
	prefix := item()
	if suite != 0 {
		prefix = item(be16(uint16(suite)))
	}
	answers, err := s.read(ctx, query{place: at(tablePool, ""), prefix: prefix})
	if err != nil {
		return nil, err
	}
	for _, r := range answers[0] {
		e := pooled{key: r.Key}
		err := decodeRecord("a key package", r.Value, func(d *decoder) {
			e.ref, e.kind, e.notAfter, e.lastResort = d.bytes(), core.CredentialType(d.u16()), d.u64(), d.flag()
		})
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

func (p *pool) changed() { p.t.segment.put(at(tablePool, ""), theOnly, newEncoder().u64(p.next)) }

// remove takes packages and their private keys away.
func (p *pool) remove(which func(pooled) bool) (removed int) {
	p.list = slices.DeleteFunc(p.list, func(e pooled) bool {
		if !which(e) {
			return false
		}
		p.t.segment.del(at(tablePool, ""), e.key)
		p.t.segment.del(at(tableKeyPackage, string(e.ref)), theOnly)
		removed++
		return true
	})
	if removed > 0 {
		p.changed()
	}
	return removed
}

// prune is KP-6's sweep of what has expired.
func (p *pool) prune() { p.remove(func(e pooled) bool { return e.expired(p.t.client.now()) }) }

// A maker adds key packages with one of our credentials to the pool.
type maker struct {
	*pool
	suite  core.Suite
	own    Credential
	signer core.Signer
}

// maker reads the pool, takes what has expired away and is ready to add.
func (t *Transaction) maker(ctx context.Context, id core.SuiteID, kind core.CredentialType) (*maker, error) {
	suite, err := t.client.suites.Suite(id)
	if err != nil {
		return nil, err
	}
	own, signer, err := t.ownSigner(ctx, suite, kind)
	if err != nil {
		return nil, err
	}
	p, err := t.pool(ctx)
	if err != nil {
		return nil, err
	}
	p.prune()
	return &maker{p, suite, own, signer}, nil
}

// add makes n key packages.
func (m *maker) add(ctx context.Context, n int, lastResort bool) (list []KeyPackage, err error) {
	c := m.t.client
	now := c.now()
	lifetime := mls.Lifetime{NotBefore: unix(now.Add(-clockSkew)), NotAfter: unix(now.Add(keyPackageLifetime))}
	for range n {
		bundle, err := mls.NewKeyPackage(ctx, mls.KeyPackageParams{
			Suite: m.suite, Signer: m.signer, Credential: m.own.Credential, Capabilities: mls.DefaultCapabilities(c.suites.Suites()),
			Lifetime: lifetime, LastResort: lastResort, Grease: c.grease,
			Now: now, MaxLifetime: c.longest,
		})
		if err != nil {
			return nil, err
		}
		k := keyPackageOf(bundle.KeyPackage.Ref(m.suite), bundle.KeyPackage)
		record := newEncoder().bytes(k.Ref).u16(uint16(m.own.Credential.Type)).u64(lifetime.NotAfter).flag(lastResort)
		m.t.segment.put(at(tablePool, ""), item(be16(uint16(m.suite.ID())), be64(m.next)), record)
		m.t.segment.put(at(tableKeyPackage, string(k.Ref)), theOnly, bundle.Marshal())
		m.next++
		m.changed()
		list = append(list, k)
	}
	return list, nil
}

func keyPackageOf(ref []byte, k *mls.KeyPackage) KeyPackage {
	return KeyPackage{Ref: ref, Message: (&mls.MLSMessage{KeyPackage: k}).Marshal(), LastResort: k.IsLastResort()}
}

// NewKeyPackages makes n more key packages for a suite, with our newest credential
// of a type, and takes expired ones of all suites away.
func (t *Transaction) NewKeyPackages(ctx context.Context, suite core.SuiteID, kind core.CredentialType, n int) ([]KeyPackage, error) {
	return t.makeKeyPackages(ctx, suite, kind, n, false)
}

// NewLastResortKeyPackage makes a key package that survives its use.
func (t *Transaction) NewLastResortKeyPackage(ctx context.Context, suite core.SuiteID, kind core.CredentialType) (KeyPackage, error) {
	list, err := t.makeKeyPackages(ctx, suite, kind, 1, true)
	if err != nil {
		return KeyPackage{}, err
	}
	return list[0], nil
}

func (t *Transaction) makeKeyPackages(ctx context.Context, suite core.SuiteID, kind core.CredentialType, n int, lastResort bool) ([]KeyPackage, error) {
	return in(ctx, t, func() ([]KeyPackage, error) {
		m, err := t.maker(ctx, suite, kind)
		if err != nil {
			return nil, err
		}
		return m.add(ctx, n, lastResort)
	})
}

// KeyPackages returns n key packages that may be used once: those that are there,
// newest first, and as many fresh ones before them as are lacking. Nothing marks
// what was published: the next call returns the same. Expired ones go first.
func (t *Transaction) KeyPackages(ctx context.Context, suite core.SuiteID, kind core.CredentialType, n int) ([]KeyPackage, error) {
	return in(ctx, t, func() ([]KeyPackage, error) {
		m, err := t.maker(ctx, suite, kind)
		if err != nil {
			return nil, err
		}
		prefix := item(be16(uint16(suite)))
		var have []KeyPackage
		for _, e := range slices.Backward(m.list) {
			if len(have) == n {
				break
			}
			if e.kind != orBasic(kind) || e.lastResort || !slices.Equal(e.key[:len(prefix)], prefix) {
				continue
			}
			bundle, err := t.keyPackage(ctx, e.ref)
			if err != nil {
				return nil, err
			}
			have = append(have, keyPackageOf(e.ref, bundle.KeyPackage))
		}
		fresh, err := m.add(ctx, n-len(have), false)
		return append(fresh, have...), err
	})
}

// keyPackage finds one of ours; core.ErrNotFound if the reference is not.
func (t *Transaction) keyPackage(ctx context.Context, ref []byte) (*mls.KeyPackageBundle, error) {
	r, found, err := t.segment.get(ctx, at(tableKeyPackage, string(ref)), theOnly)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("key package: %w", core.ErrNotFound)
	}
	return mls.UnmarshalKeyPackageBundle(t.client.suites, r.Value)
}

// CountKeyPackages tells how many valid key packages of a suite and a type may be
// used once.
func (t *Transaction) CountKeyPackages(ctx context.Context, suite core.SuiteID, kind core.CredentialType) (int, error) {
	return in(ctx, t, func() (n int, err error) {
		list, err := poolList(ctx, t.segment, suite)
		for _, e := range list {
			if e.kind == orBasic(kind) && !e.lastResort && !e.expired(t.client.now()) {
				n++
			}
		}
		return n, err
	})
}

// DeleteKeyPackages deletes the listed key packages with their private keys, and
// all that have expired. References that are not ours are no error; none at all is
// ErrEmptyInput. Credentials stay.
func (t *Transaction) DeleteKeyPackages(ctx context.Context, refs ...[]byte) error {
	return t.do(ctx, func() error {
		if len(refs) == 0 {
			return ErrEmptyInput
		}
		p, err := t.pool(ctx)
		if err != nil {
			return err
		}
		p.prune()
		p.remove(func(e pooled) bool {
			return slices.ContainsFunc(refs, func(ref []byte) bool { return slices.Equal(ref, e.ref) })
		})
		return nil
	})
}

// consume takes a key package away that a Welcome has used.
func (t *Transaction) consume(ctx context.Context, ref []byte) error {
	p, err := t.pool(ctx)
	if err != nil {
		return err
	}
	if p.remove(func(e pooled) bool { return slices.Equal(ref, e.ref) }) == 0 {
		return fmt.Errorf("the key package is gone: %w", core.ErrConflict)
	}
	return nil
}

// parseKeyPackage reads a published key package.
func parseKeyPackage(message []byte) (*mls.KeyPackage, error) {
	m, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		return nil, err
	}
	if m.KeyPackage == nil {
		return nil, errors.Join(errors.New("not a key package"), mls.ErrMalformed)
	}
	return m.KeyPackage, nil
}

func unix(t time.Time) uint64 { return uint64(max(t.Unix(), 0)) }
