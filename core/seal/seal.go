// SPDX-License-Identifier: Apache-2.0

// Package seal stands between an engine and a [core.Keystore]: values are
// encrypted, keys are blinded, and a batch whose outcome is unknown is found out
// about. Start with [Open].
//
// The store behind it sees how many records there are, how large they are and
// which of them change together. It sees no name and no value, and it cannot
// change a value, nor pass one off as another's, without that being ErrDamaged.
// What it can do is to leave records out and to show older ones; the keys and
// versions of a KeysOnly query are its word alone.
//
// A key in the store is 16 bytes of HMAC-SHA-256, 6 for the tenant and 10 for table
// and scope, and then the caller's own 0 to 32 bytes in clear, so that the records of
// a scope lie together in the caller's order, and those of a tenant too. Put nothing
// secret there. Within a table and scope no key may be the beginning of another.
//
// A value is sealed with XChaCha20-Poly1305. The nonce is the record's version,
// which is 16 random bytes drawn here and never used twice; tenant, table, key
// and version are authenticated with it. The data key is made when a store is
// first opened and kept there, under a [core.KeyWrapper]. [Store.Rotate] replaces it
// while the store is in use, [Store.Rewrap] puts it under another wrapping key.
//
// [Store.Backup] and [Restore], and [Move], carry the records of a tenant as they are,
// sealed.
//
// Table 0 is this package's own. Closing a Store does not close the keystore:
// several tenants may share one.
package seal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/internal/parallel"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

const (
	// MaxKey is the longest clear part of a key, in bytes.
	MaxKey = core.MaxKey - blindLen
	// MaxValue is the longest value, in bytes. Longer ones are for the caller to
	// split: it knows where.
	MaxValue = core.MaxValue - headerLen - chacha20poly1305.Overhead

	blindLen     = 16
	headerLen    = 1 + 4 // format, generation of the data key
	recordFormat = 1
)

// A Query asks for the records of a table and scope whose key begins with
// Prefix, ascending by key; see [core.Query].
type Query struct {
	Table         core.Table
	Scope         []byte
	Prefix, After []byte
	Limit         int
	KeysOnly      bool
}

// A Record is what was put.
type Record struct {
	Key, Value []byte
	Version    core.Version
}

// An Expectation holds if the record has exactly this version before the batch;
// zero: it is absent.
type Expectation struct {
	Table      core.Table
	Scope, Key []byte
	Version    core.Version
}

// A Range names the records of a table and scope whose key begins with Prefix;
// all of the scope if it is empty.
type Range struct {
	Table         core.Table
	Scope, Prefix []byte
}

// A Put writes one record, new or not.
type Put struct {
	Table             core.Table
	Scope, Key, Value []byte
}

// A Batch is applied whole or not at all; see [core.Batch].
type Batch struct {
	Expect []Expectation
	Dels   []Range
	Puts   []Put
}

// Stats counts what a Store has handed to the keystore since it was opened.
type Stats struct {
	Batches int64 // calls of Apply, receipts of their own included
	Bytes   int64 // keys and sealed values in them
}

// A Store seals for one tenant of a keystore. It is safe for concurrent use.
type Store struct {
	ks          core.Keystore
	tenant      string
	incarnation core.Version

	mu      sync.RWMutex // held for reading by each call, for writing by Close
	closed  bool
	closing chan struct{} // closed by Close before it waits
	close   sync.Once
	ring    atomic.Pointer[keyring]
	slots   slots

	reloading gate

	batches atomic.Int64
	bytes   atomic.Int64
}

// Open opens the records of a tenant. If there are none, it makes the tenant's
// keys and has w wrap them. ErrWrongKey: they were wrapped by another key than
// w's; nothing is changed. ErrDamaged: the record that holds them is broken.
// ErrUnsupported: a newer version of this package made it. ErrMoved.
func Open(ctx context.Context, ks core.Keystore, w core.KeyWrapper, tenant string) (*Store, error) {
	ring, o, err := openRoot(ctx, ks, w, tenant)
	if err != nil {
		return nil, fmt.Errorf("seal: open: %w", err)
	}
	s := &Store{ks: ks, tenant: tenant, incarnation: o.incarnation, closing: make(chan struct{}), reloading: make(gate, 1)}
	s.slots.settling = make(gate, 1)
	s.ring.Store(ring)
	if ring.moved {
		ring.wipe()
		return nil, fmt.Errorf("seal: open: %w", ErrMoved)
	}
	s.sweepReceipts(ctx)
	return s, nil
}

// A gate is a lock for one, who may be looking for a lost outcome for as long as its
// context lasts: others wait for as long as theirs does.
type gate chan struct{}

func (g gate) enter(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g gate) leave() { <-g }

// ErrMoved: the tenant has moved to another keystore; see [Move]. It wraps
// core.ErrDenied.
var ErrMoved = fmt.Errorf("the records have moved to another keystore: %w", core.ErrDenied)

// maxTries bounds how often something is tried again because somebody else, or a
// batch that was lost, has changed what it was based on.
const maxTries = 8

// Read answers all queries from one consistent state. ErrDamaged: a record does
// not authenticate, or is not one that was asked for.
func (s *Store) Read(ctx context.Context, queries []Query) ([][]Record, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, core.ErrClosed
	}
	blinding := s.ring.Load() // what blinds is the same in all
	blinded := make([]core.Query, len(queries))
	for i, q := range queries {
		if q.Table == ownTable {
			return nil, errOwnTable
		}
		blinded[i] = core.Query{Table: q.Table, Prefix: blinding.key(q.Table, q.Scope, q.Prefix), Limit: q.Limit, KeysOnly: q.KeysOnly}
		if len(q.After) > 0 {
			blinded[i].After = blinding.key(q.Table, q.Scope, q.After)
		}
	}
	found, ring, err := s.read(ctx, blinded)
	if err != nil {
		return nil, err
	}
	answers, errs := make([][]Record, len(queries)), make([]error, len(queries))
	parallel.Do(len(queries), func(i int) {
		answers[i] = make([]Record, len(found[i]))
		for j, r := range found[i] {
			out := Record{Key: r.Key[blindLen:], Version: r.Version}
			if !queries[i].KeysOnly {
				if out.Value, errs[i] = s.open(ring, queries[i].Table, r); errs[i] != nil {
					return
				}
			}
			answers[i][j] = out
		}
	})
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return nil, errs[i]
	}
	return answers, nil
}

// read gives what the keystore has, and the keys that open it: if another process has
// made a new one, it is learnt, and what is there now is read again.
func (s *Store) read(ctx context.Context, queries []core.Query) ([][]core.Record, *keyring, error) {
	for try := 1; ; try++ {
		ring := s.ring.Load()
		found, err := s.ks.Read(ctx, queries)
		if err != nil {
			return nil, nil, err
		}
		if len(found) != len(queries) {
			return nil, nil, damaged(0, "the store gave %d answers to %d queries", len(found), len(queries))
		}
		unknown := false
		for i, q := range queries {
			for _, r := range found[i] {
				if !bytes.HasPrefix(r.Key, q.Prefix) || len(r.Key) < blindLen {
					return nil, nil, damaged(q.Table, "a record that was not asked for")
				}
				unknown = unknown || generationOf(r.Value) > ring.newest
			}
		}
		if !unknown || try == maxTries {
			return found, ring, nil
		}
		if err := s.reload(ctx); err != nil {
			return nil, nil, err
		}
		if s.ring.Load().newest == ring.newest { // nobody has made one: see open
			return found, ring, nil
		}
	}
}

// reload learns of data keys that another process has made or destroyed.
// ErrWrongKey: the wrapping key is another one since.
func (s *Store) reload(ctx context.Context) error {
	if err := s.reloading.enter(ctx); err != nil { // so that what was read last is what stays
		return err
	}
	defer s.reloading.leave()
	o, err := readOwn(ctx, s.ks, s.tenant)
	if err != nil {
		return err
	}
	if o.root.Key == nil {
		return noRoot(s.tenant)
	}
	r, err := parseRoot(o.root.Value, s.tenant)
	if err != nil {
		return err
	}
	ring, err := r.keyring(s.ring.Load().secret, o.generation)
	if err != nil {
		return fmt.Errorf("seal: there is a new data key, under another wrapping key: open the store again with that: %w", core.ErrWrongKey)
	}
	s.keep(ring, o.generation)
	return nil
}

// keep makes ring the one in use. The old one may be in use by others, so only its
// entry is replaced; the blinding key is the same, and wiped once, by Close.
func (s *Store) keep(ring *keyring, generation core.Version) {
	ring.blinding.Wipe()
	ring.blinding, ring.generation = s.ring.Load().blinding, generation
	s.ring.Store(ring)
}

// conflictIfOutdated is for who has read the root record: that the data keys are
// others since is a conflict like any other.
func conflictIfOutdated(err error) error {
	if errors.Is(err, errOutdated) {
		return fmt.Errorf("seal: %w: %w", err, core.ErrConflict)
	}
	return err
}

// Apply seals and applies a batch, and returns the versions of its puts in their
// order. ErrConflict: an expectation failed, nothing changed. ErrUnavailable: it
// did not happen, and a later try may succeed. ErrUnknownOutcome is left only
// where the context ends, or the store is closed or denies us, before the outcome of a
// batch that was lost on its way is found out; later batches of this Store wait until it
// is. ErrInvalid: table 0, or a key that is put twice. ErrTooLarge: a key over
// MaxKey, a value over MaxValue, or a batch over core.MaxBatch. ErrMoved.
func (s *Store) Apply(ctx context.Context, b Batch) ([]core.Version, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, core.ErrClosed
	}
	for try := 1; ; try++ {
		if s.ring.Load().moved { // unless that was taken back
			if err := s.reload(ctx); err != nil {
				return nil, err
			}
		}
		ring := s.ring.Load()
		if ring.moved {
			return nil, ErrMoved
		}
		sealed, versions, err := s.sealBatch(ring, b)
		if err != nil {
			return nil, err
		}
		if len(b.Dels)+len(b.Puts) == 0 {
			return nil, s.check(ctx, sealed)
		}
		err = s.applyWithReceipt(ctx, ring, sealed)
		if err == nil {
			return versions, nil
		}
		if !errors.Is(err, errOutdated) {
			return nil, err
		}
		if try == maxTries {
			return nil, fmt.Errorf("seal: the data key changes all the time: %w", core.ErrUnavailable)
		}
		if err := s.reload(ctx); err != nil {
			return nil, err
		}
	}
}

// check applies a batch that changes nothing, so that it does not matter whether
// a lost one happened.
func (s *Store) check(ctx context.Context, b core.Batch) error {
	err := s.apply(ctx, b)
	if errors.Is(err, core.ErrUnknownOutcome) {
		return fmt.Errorf("seal: %w", core.ErrUnavailable)
	}
	return err
}

// apply hands a batch to the store and counts it.
func (s *Store) apply(ctx context.Context, b core.Batch) error {
	n := 0
	for i := range b.Expect {
		n += len(b.Expect[i].Key)
	}
	for i := range b.Dels {
		n += len(b.Dels[i].Prefix)
	}
	for i := range b.Puts {
		n += len(b.Puts[i].Key) + len(b.Puts[i].Value)
	}
	s.batches.Add(1)
	s.bytes.Add(int64(n))
	return s.ks.Apply(ctx, b)
}

// Stats returns the counts so far.
func (s *Store) Stats() Stats {
	return Stats{Batches: s.batches.Load(), Bytes: s.bytes.Load()}
}

// EndSearch is for who is about to close the Store and waits for its users: from now on
// none of them waits for a store that is away. Whoever looks for a lost outcome tries
// once more, and then it is ErrUnknownOutcome; batches that come after a lost one, which
// may still happen, are ErrClosed. All else goes on.
func (s *Store) EndSearch() { s.close.Do(func() { close(s.closing) }) }

// Close waits for calls under way, ends their search for a lost outcome, removes
// the Store's receipts and forgets the keys. Calls after it are ErrClosed; closing
// twice is not an error. An error means only that receipts were left, which cost a
// few bytes each.
func (s *Store) Close() error {
	s.EndSearch()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.removeReceipts()
	s.ring.Load().wipe()
	return err
}

func (s *Store) sealBatch(ring *keyring, b Batch) (core.Batch, []core.Version, error) {
	out := core.Batch{
		Expect: make([]core.Expectation, len(b.Expect), len(b.Expect)+2), // the receipt and the data keys
		Dels:   make([]core.Range, len(b.Dels)),
		Puts:   make([]core.Put, len(b.Puts), len(b.Puts)+1),
	}
	for i, e := range b.Expect {
		if e.Table == ownTable {
			return core.Batch{}, nil, errOwnTable
		}
		out.Expect[i] = core.Expectation{Table: e.Table, Key: ring.key(e.Table, e.Scope, e.Key), Version: e.Version}
	}
	for i, d := range b.Dels {
		if d.Table == ownTable {
			return core.Batch{}, nil, errOwnTable
		}
		out.Dels[i] = core.Range{Table: d.Table, Prefix: ring.key(d.Table, d.Scope, d.Prefix)}
	}
	versions := make([]core.Version, len(b.Puts))
	for i, p := range b.Puts {
		if p.Table == ownTable {
			return core.Batch{}, nil, errOwnTable
		}
		if len(p.Value) > MaxValue {
			return core.Batch{}, nil, fmt.Errorf("seal: value of %d bytes in table %d: %w", len(p.Value), p.Table, core.ErrTooLarge)
		}
		versions[i] = core.NewVersion()
		out.Puts[i] = core.Put{Table: p.Table, Key: ring.key(p.Table, p.Scope, p.Key), Version: versions[i]}
	}
	parallel.Do(len(b.Puts), func(i int) {
		p := &out.Puts[i]
		p.Value = s.seal(ring, p.Table, p.Key, b.Puts[i].Value, p.Version)
	})
	return out, versions, nil
}

// seal makes a stored value: format, generation, ciphertext.
func (s *Store) seal(ring *keyring, table core.Table, key, value []byte, v core.Version) []byte {
	out := make([]byte, headerLen, headerLen+len(value)+chacha20poly1305.Overhead)
	out[0] = recordFormat
	binary.BigEndian.PutUint32(out[1:], ring.newest)
	nonce, aad := s.associated(table, key, v)
	return ring.keys[ring.newest].Seal(out, nonce, value, aad)
}

// open is the reverse of seal. It never says which check failed.
func (s *Store) open(ring *keyring, table core.Table, r core.Record) ([]byte, error) {
	aead := ring.keys[generationOf(r.Value)]
	if aead == nil {
		return nil, damaged(table, "no such format or data key")
	}
	nonce, aad := s.associated(table, r.Key, r.Version)
	value, err := aead.Open(nil, nonce, r.Value[headerLen:], aad)
	if err != nil {
		return nil, damaged(table, "does not authenticate")
	}
	return value, nil
}

// generationOf is the data key that a stored value says to be sealed with; 0, which
// there is not, if it says nothing.
func generationOf(value []byte) uint32 {
	if len(value) < headerLen || value[0] != recordFormat {
		return 0
	}
	return binary.BigEndian.Uint32(value[1:])
}

// associated gives what is authenticated with a value, at whose end is the version, and the
// nonce: the version and eight zeros, as unique as versions are. They share their memory.
func (s *Store) associated(table core.Table, key []byte, v core.Version) (nonce, aad []byte) {
	aad = make([]byte, 0, 64+len(s.tenant)+len(key))
	aad = append(aad, recordFormat)
	aad = vlbytes.Append(aad, []byte(s.tenant))
	aad = append(aad, byte(table))
	aad = vlbytes.Append(aad, key)
	aad = append(aad, v[:]...)
	n := len(aad)
	nonce = append(aad, make([]byte, chacha20poly1305.NonceSizeX-len(v))...)[n-len(v):]
	return nonce, aad[:n:n]
}

func join(scope, rest []byte) []byte {
	return append(append(make([]byte, 0, len(scope)+len(rest)), scope...), rest...)
}

var errOwnTable = fmt.Errorf("seal: table %d is not for use: %w", ownTable, core.ErrInvalid)

func damaged(table core.Table, why string, args ...any) error {
	return fmt.Errorf("seal: record of table %d: %s: %w", table, fmt.Sprintf(why, args...), core.ErrDamaged)
}
