// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/binary"
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
	Suite      core.SuiteID
	Credential CredentialRef
	Expires    time.Time
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
	suite      core.SuiteID // of the key
	ref        []byte
	kind       core.CredentialType
	credential CredentialRef
	notAfter   uint64 // Unix seconds
	lastResort bool
}

func (p pooled) encode() []byte {
	e := newEncoder().bytes(p.ref).u16(uint16(p.kind)).u64(uint64(p.credential))
	return e.u64(p.notAfter).flag(p.lastResort)
}

func decodePooled(key, value []byte) (p pooled, err error) {
	if len(key) != 2+8 {
		return p, fmt.Errorf("key of a key package: %w", core.ErrDamaged)
	}
	p.key, p.suite = key, core.SuiteID(binary.BigEndian.Uint16(key))
	err = decodeRecord("a key package", value, func(d *decoder) {
		p.ref, p.kind, p.credential = d.bytes(), core.CredentialType(d.u16()), CredentialRef(d.u64())
		p.notAfter, p.lastResort = d.u64(), d.flag()
	})
	return p, err
}

// usableOnce says whether it is of a suite (0: any) and a type, and no last resort.
func (p pooled) usableOnce(suite core.SuiteID, kind core.CredentialType) bool {
	return (suite == 0 || p.suite == suite) && p.kind == orBasic(kind) && !p.lastResort
}

func (p pooled) expired(now time.Time) bool { return uint64(max(now.Unix(), 0)) >= p.notAfter }

// A pool is the set of our key packages.
type pool struct {
	*set
	t    *Transaction
	list []pooled
}

var poolPlace = at(tablePool, "")

// pool reads our key packages of all suites.
func (t *Transaction) pool(ctx context.Context) (p *pool, err error) {
	p = &pool{t: t}
	if p.set, err = t.segment.set(ctx, poolPlace); err != nil {
		return nil, err
	}
	p.list, err = poolList(ctx, t.segment, 0)
	return p, err
}

// poolList lists the key packages of a suite; of all if it is 0.
func poolList(ctx context.Context, s *segment, suite core.SuiteID) ([]pooled, error) {
	var prefix []byte
	if suite != 0 {
		prefix = be16(uint16(suite))
	}
	return items(ctx, s, poolPlace, prefix, decodePooled)
}

// remove takes packages and their private keys away.
func (p *pool) remove(which func(pooled) bool) {
	p.list = slices.DeleteFunc(p.list, func(e pooled) bool {
		if !which(e) {
			return false
		}
		p.set.remove(e.key)
		p.s.del(at(tableKeyPackage, string(e.ref)), theOnly)
		return true
	})
}

// prune is KP-6's sweep of what has expired.
func (p *pool) prune() { p.remove(func(e pooled) bool { return e.expired(p.t.client.now()) }) }

// A KeyPackageOptions says what key packages are made. The zero value makes packages
// that are used once, for the client's most preferred suite, with our newest basic
// credential, valid for 84 days.
type KeyPackageOptions struct {
	Suite         core.SuiteID
	Credential    core.CredentialType
	CredentialRef CredentialRef // not 0: this one of ours, instead of the newest of the type
	// Lifetime begins an hour ago, for clocks that differ, and ends so much from now.
	// With that hour it is at most Config.MaxLifetime, else core.ErrInvalid.
	Lifetime   time.Duration
	LastResort bool // the package survives its use
}

// MakeKeyPackages makes n more key packages, and takes expired ones of all suites
// away. ErrCredentialNotFound: there is no such credential, and none is made.
func (t *Transaction) MakeKeyPackages(ctx context.Context, o KeyPackageOptions, n int) ([]KeyPackage, error) {
	return in(ctx, t, func() ([]KeyPackage, error) { return t.makeKeyPackages(ctx, o, n) })
}

// NewKeyPackages makes n more key packages for a suite, with our newest credential
// of a type, and takes expired ones of all suites away.
func (t *Transaction) NewKeyPackages(ctx context.Context, suite core.SuiteID, kind core.CredentialType, n int) ([]KeyPackage, error) {
	return t.MakeKeyPackages(ctx, KeyPackageOptions{Suite: suite, Credential: kind}, n)
}

// NewLastResortKeyPackage makes a key package that survives its use.
func (t *Transaction) NewLastResortKeyPackage(ctx context.Context, suite core.SuiteID, kind core.CredentialType) (KeyPackage, error) {
	list, err := t.MakeKeyPackages(ctx, KeyPackageOptions{Suite: suite, Credential: kind, LastResort: true}, 1)
	if err != nil {
		return KeyPackage{}, err
	}
	return list[0], nil
}

func (t *Transaction) makeKeyPackages(ctx context.Context, o KeyPackageOptions, n int) ([]KeyPackage, error) {
	m, err := t.maker(ctx, o)
	if err != nil {
		return nil, err
	}
	m.prune()
	return m.add(ctx, n)
}

// A maker adds key packages with one of our credentials to the pool.
type maker struct {
	*pool
	suite    core.Suite
	own      Credential
	signer   core.Signer
	last     bool
	lifetime mls.Lifetime
}

// maker reads the pool and is ready to add.
func (t *Transaction) maker(ctx context.Context, o KeyPackageOptions) (*maker, error) {
	if o.Suite == 0 {
		o.Suite = t.client.suites.Suites()[0]
	}
	suite, err := t.client.suites.Suite(o.Suite)
	if err != nil {
		return nil, err
	}
	m := &maker{suite: suite, last: o.LastResort}
	if m.own, m.signer, err = t.choose(ctx, suite.Parameters().Scheme, o.Credential, o.CredentialRef); err != nil {
		return nil, err
	}
	if m.lifetime, err = t.client.lifetime(o.Lifetime); err != nil {
		return nil, err
	}
	m.pool, err = t.pool(ctx)
	return m, err
}

// lifetime is that of a key package; 0 is the usual one.
func (c *Client) lifetime(d time.Duration) (mls.Lifetime, error) {
	if d == 0 {
		d = keyPackageLifetime
	}
	l := mls.Lifetime{NotBefore: unix(c.now().Add(-clockSkew)), NotAfter: unix(c.now().Add(d))}
	if d < time.Second || c.cfg.MaxLifetime > 0 && l.NotAfter-l.NotBefore > uint64(c.cfg.MaxLifetime/time.Second) {
		return l, fmt.Errorf("lifetime of a key package, %v: %w", d, core.ErrInvalid)
	}
	return l, nil
}

// add makes n key packages. Whoever removes the credential meanwhile, or has done so,
// meets the head of the pool or the credential.
func (m *maker) add(ctx context.Context, n int) (list []KeyPackage, err error) {
	c := m.t.client
	_, found, err := m.s.getExpected(ctx, at(tableCredential, ""), m.own.Ref.key())
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, ErrCredentialNotFound
	}
	for range n {
		bundle, err := mls.NewKeyPackage(ctx, mls.KeyPackageParams{
			Suite: m.suite, Signer: m.signer, Credential: m.own.Credential, Capabilities: mls.DefaultCapabilities(c.suites.Suites()),
			Lifetime: m.lifetime, LastResort: m.last, Grease: !c.cfg.NoGrease,
			Now: c.now(), MaxLifetime: c.cfg.MaxLifetime,
		})
		if err != nil {
			return nil, err
		}
		list = append(list, m.put(bundle).published(bundle.KeyPackage))
	}
	return list, nil
}

// put adds a key package with its private keys.
func (m *maker) put(b *mls.KeyPackageBundle) pooled {
	e := pooled{
		key: slices.Concat(be16(uint16(m.suite.ID())), be64(m.next)), suite: m.suite.ID(), ref: b.KeyPackage.Ref(m.suite),
		kind: m.own.Credential.Type, credential: m.own.Ref, notAfter: m.lifetime.NotAfter, lastResort: m.last,
	}
	m.set.put(e.key, e.encode())
	m.s.put(at(tableKeyPackage, string(e.ref)), theOnly, b.Marshal())
	m.list = append(m.list, e)
	return e
}

// published is what the application gets of a key package.
func (e pooled) published(k *mls.KeyPackage) KeyPackage {
	return KeyPackage{
		Ref: e.ref, Message: (&mls.MLSMessage{KeyPackage: k}).Marshal(), LastResort: e.lastResort,
		Suite: e.suite, Credential: e.credential, Expires: time.Unix(int64(e.notAfter), 0),
	}
}

// KeyPackages returns n key packages of a suite and a type of credential (0: basic)
// that may be used once: those that are there, the newest of them, oldest first, and
// before them as many fresh ones as are lacking. Nothing marks what was published: the
// next call returns the same; see [Transaction.NewKeyPackages] for fresh ones. Expired
// ones go first.
func (t *Transaction) KeyPackages(ctx context.Context, suite core.SuiteID, kind core.CredentialType, n int) ([]KeyPackage, error) {
	return in(ctx, t, func() ([]KeyPackage, error) {
		m, err := t.maker(ctx, KeyPackageOptions{Suite: suite, Credential: kind})
		if err != nil {
			return nil, err
		}
		m.prune()
		var have []KeyPackage
		for _, e := range slices.Backward(m.list) {
			if len(have) >= n {
				break
			}
			if !e.usableOnce(m.suite.ID(), kind) {
				continue
			}
			k, err := t.stored(ctx, e)
			if err != nil {
				return nil, err
			}
			have = append(have, k)
		}
		slices.Reverse(have)
		if len(have) >= n {
			return have, nil
		}
		fresh, err := m.add(ctx, n-len(have))
		return append(fresh, have...), err
	})
}

// StoredKeyPackages lists all key packages that we keep, of all suites, with those
// of last resort and those that have expired: nothing is taken away.
func (t *Transaction) StoredKeyPackages(ctx context.Context) ([]KeyPackage, error) {
	return in(ctx, t, func() (list []KeyPackage, err error) {
		pool, err := poolList(ctx, t.segment, 0)
		for _, e := range pool {
			k, err := t.stored(ctx, e)
			if err != nil {
				return nil, err
			}
			list = append(list, k)
		}
		return list, err
	})
}

// stored reads what was published of a key package.
func (t *Transaction) stored(ctx context.Context, e pooled) (KeyPackage, error) {
	bundle, err := t.keyPackage(ctx, e.ref)
	if err != nil {
		return KeyPackage{}, err
	}
	return e.published(bundle.KeyPackage), nil
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

// CountKeyPackages tells how many valid key packages of a suite (0: any) and a type of
// credential (0: basic) may be used once.
func (t *Transaction) CountKeyPackages(ctx context.Context, suite core.SuiteID, kind core.CredentialType) (int, error) {
	return in(ctx, t, func() (int, error) { return t.client.countKeyPackages(ctx, t.segment, suite, kind) })
}

// CountKeyPackages is [Transaction.CountKeyPackages] of what is durable.
func (c *Client) CountKeyPackages(ctx context.Context, suite core.SuiteID, kind core.CredentialType) (int, error) {
	if err := c.open(); err != nil {
		return 0, err
	}
	defer c.done()
	return c.countKeyPackages(ctx, newSegment(c.store), suite, kind)
}

func (c *Client) countKeyPackages(ctx context.Context, s *segment, suite core.SuiteID, kind core.CredentialType) (n int, err error) {
	list, err := poolList(ctx, s, suite)
	for _, e := range list {
		if e.usableOnce(suite, kind) && !e.expired(c.now()) {
			n++
		}
	}
	return n, err
}

// DeleteKeyPackages deletes the listed key packages with their private keys, and
// all that have expired. References that are not ours are no error; none at all is
// ErrEmptyInput. Credentials stay, whoever uses them: see
// [Transaction.RemoveCredential].
func (t *Transaction) DeleteKeyPackages(ctx context.Context, refs ...[]byte) error {
	return t.do(ctx, func() error {
		if len(refs) == 0 {
			return ErrEmptyInput
		}
		return t.deleteKeyPackages(ctx, func(e pooled) bool {
			return slices.ContainsFunc(refs, func(ref []byte) bool { return slices.Equal(ref, e.ref) })
		})
	})
}

// DeleteKeyPackagesOf deletes all key packages with one of our credentials, and all
// that have expired. Having none is no error.
func (t *Transaction) DeleteKeyPackagesOf(ctx context.Context, ref CredentialRef) error {
	return t.do(ctx, func() error {
		return t.deleteKeyPackages(ctx, func(e pooled) bool { return e.credential == ref })
	})
}

// DeleteStaleKeyPackages deletes the key packages, of all suites with the signature
// scheme of the given one, whose credential is not our newest of a type (0: basic),
// and all that have expired. Having none is no error. Only after others have replaced
// them at the service: else those who are added by them find an [ErrOrphanWelcome].
// ErrCredentialNotFound if there is no credential of the type.
func (t *Transaction) DeleteStaleKeyPackages(ctx context.Context, suite core.SuiteID, kind core.CredentialType) error {
	return t.do(ctx, func() error {
		s, err := t.client.suites.Suite(suite)
		if err != nil {
			return err
		}
		scheme := s.Parameters().Scheme
		current, err := newest(ctx, t.segment, scheme, kind)
		if err != nil {
			return err
		}
		list, err := credentials(ctx, t.segment)
		if err != nil {
			return err
		}
		stale := map[CredentialRef]bool{}
		for _, c := range list {
			stale[c.Ref] = c.Scheme == scheme && c.Ref != current.Ref
		}
		return t.deleteKeyPackages(ctx, func(e pooled) bool { return stale[e.credential] })
	})
}

func (t *Transaction) deleteKeyPackages(ctx context.Context, which func(pooled) bool) error {
	p, err := t.pool(ctx)
	if err != nil {
		return err
	}
	p.prune()
	p.remove(which)
	return nil
}

// consume takes a key package away that a Welcome has used, unless it is a last
// resort, and tells its credential.
func (t *Transaction) consume(ctx context.Context, ref []byte) (CredentialRef, error) {
	p, err := t.pool(ctx)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(p.list, func(e pooled) bool { return slices.Equal(ref, e.ref) })
	if i < 0 {
		return 0, fmt.Errorf("the key package is gone: %w", core.ErrConflict)
	}
	used := p.list[i]
	if !used.lastResort {
		p.remove(func(e pooled) bool { return slices.Equal(ref, e.ref) })
	}
	return used.credential, nil
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
	if ofHistory(m.KeyPackage.LeafNode.Credential) {
		return nil, errHistoryID
	}
	return m.KeyPackage, nil
}

func unix(t time.Time) uint64 { return uint64(max(t.Unix(), 0)) }
