// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"golang.org/x/crypto/cryptobyte"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// A backup is the sealed records of a tenant as they are in the keystore, without the
// receipts, and the root record before them:
//
//	opaque magic[16] = "conclave backup" and the format, 1
//	opaque root_record<V>
//	struct { uint8 table; opaque key<V>; opaque version[16]; opaque value<V> } records[]
//	uint8  end = 0
//	opaque mac[32]
//
// The MAC is HMAC-SHA-256 over all that stands before it, with a key of the keyring: a
// record that is missing, or one from another backup, is noticed.
var backupMagic = []byte("conclave backup\x01")

const maxRoot = core.MaxValue // what a wrapper may make of 32 bytes is its own affair

// Backup writes all records of the tenant as they are at one moment, sealed, while the
// Store is in use. core.ErrConflict: the keystore is no [core.Snapshotter] and somebody
// wrote meanwhile; try again, or stop those. Damaged records are copied and reported.
// What it writes is complete only if the error is nil. ErrMoved. progress may be nil.
func (s *Store) Backup(ctx context.Context, to io.Writer, progress Progress) (Report, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return Report{}, core.ErrClosed
	}
	var report Report
	err := s.still(ctx, func(from *still) error {
		mac := hmac.New(sha256.New, from.ring.mac("backup"))
		out := bufio.NewWriter(io.MultiWriter(to, mac))
		head := vlbytes.Append(bytes.Clone(backupMagic), from.own.root.Value)
		if _, err := out.Write(head); err != nil {
			return err
		}
		err := s.all(ctx, from, progress, func(ring *keyring, table core.Table, page []core.Record) error {
			s.report(&report, ring, table, page)
			for _, r := range page {
				if _, err := out.Write(encodeRecord(table, r)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if _, err := out.Write([]byte{byte(ownTable)}); err != nil {
			return err
		}
		if err := out.Flush(); err != nil {
			return err
		}
		_, err = to.Write(mac.Sum(nil))
		return err
	})
	if err != nil {
		return report, fmt.Errorf("seal: backup: %w", err)
	}
	return report, nil
}

func encodeRecord(table core.Table, r core.Record) []byte {
	b := vlbytes.Append([]byte{byte(table)}, r.Key)
	return vlbytes.Append(append(b, r.Version[:]...), r.Value)
}

// A still is a state of the keystore that does not change while it is read.
type still struct {
	reader
	own  own
	ring *keyring // of that state
}

func (f *still) read(ctx context.Context, queries []core.Query) ([][]core.Record, *keyring, error) {
	found, err := f.Read(ctx, queries)
	if err == nil && len(found) != len(queries) {
		err = damaged(0, "the store gave %d answers to %d queries", len(found), len(queries))
	}
	return found, f.ring, err
}

// still calls f with a state of the keystore. If the keystore cannot hold one, f reads
// what is there, and it is found out afterwards whether somebody wrote meanwhile.
func (s *Store) still(ctx context.Context, f func(*still) error) error {
	from := &still{reader: s.ks}
	ks, holds := s.ks.(core.Snapshotter)
	if holds {
		snapshot, err := ks.Snapshot(ctx)
		if err != nil {
			return err
		}
		defer snapshot.Close()
		from.reader = snapshot
	}
	var before []byte
	var err error
	if !holds { // also before the root record is read, which must open what is read then
		from.ring = s.ring.Load() // what blinds is the same in all
		if before, err = s.versions(ctx, from); err != nil {
			return err
		}
	}
	if from.own, err = readOwn(ctx, from, s.tenant); err != nil {
		return err
	}
	if from.own.root.Key == nil {
		return noRoot(s.tenant)
	}
	r, err := parseRoot(from.own.root.Value, s.tenant)
	if err != nil {
		return err
	}
	if r.moved { // nobody could restore it
		return ErrMoved
	}
	if from.ring, err = r.keyring(s.ring.Load().secret, from.own.generation); err != nil {
		return fmt.Errorf("the wrapping key is another one since the store was opened: %w", core.ErrWrongKey)
	}
	defer from.ring.blinding.Wipe()
	if err := f(from); err != nil || holds {
		return err
	}
	after, err := s.versions(ctx, from)
	if err == nil && !bytes.Equal(before, after) {
		err = fmt.Errorf("somebody wrote meanwhile, and this keystore cannot show an earlier state: %w", core.ErrConflict)
	}
	return err
}

// versions is a digest of what there is, but the receipts.
func (s *Store) versions(ctx context.Context, from *still) ([]byte, error) {
	digest := sha256.New()
	o, err := readOwn(ctx, from, s.tenant)
	if err != nil {
		return nil, err
	}
	digest.Write(o.root.Version[:])
	digest.Write(o.generation[:])
	tables, _, err := s.count(ctx, from)
	if err != nil {
		return nil, err
	}
	for _, table := range tables {
		q := core.Query{Table: table, Prefix: from.ring.prefix[:], Limit: pageOfKeys, KeysOnly: true}
		err := paged(ctx, from, q, func(_ *keyring, page []core.Record) error {
			for _, r := range page {
				digest.Write(encodeRecord(table, core.Record{Key: r.Key, Version: r.Version}))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return digest.Sum(nil), nil
}

// Restore fills a keystore with a backup. Nobody has the tenant until all of it was
// read and found right; an attempt that was interrupted leaves no trace that the next
// would not remove. The tenant begins a new incarnation, see [Store.Incarnation]: what
// is restored is a state from the past.
//
// ErrExists: the keystore has the tenant. ErrWrongKey: w is not the wrapping key of the
// backup. ErrDamaged: it is not complete, or was changed, or is none. ErrUnsupported: a
// newer version of this package made it.
func Restore(ctx context.Context, ks core.Keystore, w core.KeyWrapper, tenant string, from io.Reader, progress Progress) (Report, error) {
	report, err := restore(ctx, ks, w, tenant, from, progress)
	if err != nil {
		return report, fmt.Errorf("seal: restore: %w", err)
	}
	return report, nil
}

func restore(ctx context.Context, ks core.Keystore, w core.KeyWrapper, tenant string, from io.Reader, progress Progress) (Report, error) {
	in := &backupReader{in: bufio.NewReader(from)}
	value, err := in.head()
	if err != nil {
		return Report{}, err
	}
	r, err := parseRoot(value, tenant)
	if err != nil {
		return Report{}, err
	}
	ring, err := unlock(ctx, own{root: core.Record{Value: value}}, w, tenant)
	if err != nil {
		return Report{}, err
	}
	defer ring.wipe()
	if r.moved {
		return Report{}, ErrMoved
	}
	in.begin(ring)
	l, err := beginLoading(ctx, ks, tenant, ring)
	if err != nil {
		return Report{}, err
	}
	report, err := in.load(ctx, l, ring, progress)
	if err == nil {
		err = l.end(ctx, value, core.NewVersion())
	}
	if err != nil {
		l.abandon(ctx)
	}
	return report, err
}

// load loads all records, and is right about them if the error is nil.
func (b *backupReader) load(ctx context.Context, l *loading, ring *keyring, progress Progress) (report Report, err error) {
	for {
		table, record, err := b.next()
		if err != nil {
			return report, err
		}
		if table == ownTable {
			return report, b.end()
		}
		if !bytes.HasPrefix(record.Key, ring.prefix[:]) {
			return report, errBackup
		}
		if err := l.put(ctx, table, record); err != nil {
			return report, err
		}
		report.Records++
		report.Bytes += int64(len(record.Key) + len(record.Value))
		if progress != nil && report.Records%pageOfScan == 0 {
			progress(report.Records, 0)
		}
	}
}

var errBackup = fmt.Errorf("not a whole backup: %w", core.ErrDamaged)

// A backupReader reads a backup. No length in it makes it allocate more than a record
// may have.
type backupReader struct {
	in  *bufio.Reader
	got []byte // what was read before there was a MAC
	mac hash.Hash
}

func (b *backupReader) head() ([]byte, error) {
	magic, err := b.bytes(len(backupMagic))
	if err != nil {
		return nil, err
	}
	if last := len(magic) - 1; !bytes.Equal(magic[:last], backupMagic[:last]) {
		return nil, fmt.Errorf("this is no backup: %w", core.ErrDamaged)
	} else if magic[last] != backupMagic[last] {
		return nil, fmt.Errorf("backup of format %d: %w", magic[last], core.ErrUnsupported)
	}
	return b.vector(maxRoot)
}

// begin starts the MAC.
func (b *backupReader) begin(ring *keyring) {
	b.mac = hmac.New(sha256.New, ring.mac("backup"))
	b.mac.Write(b.got)
	b.got = nil
}

// next gives a record; table 0 is the end of them.
func (b *backupReader) next() (core.Table, core.Record, error) {
	table, err := b.bytes(1)
	if err != nil || core.Table(table[0]) == ownTable {
		return ownTable, core.Record{}, err
	}
	var r core.Record
	if r.Key, err = b.vector(core.MaxKey); err != nil {
		return 0, core.Record{}, err
	}
	version, err := b.bytes(len(r.Version))
	if err != nil {
		return 0, core.Record{}, err
	}
	copy(r.Version[:], version)
	if r.Value, err = b.vector(core.MaxValue); err != nil {
		return 0, core.Record{}, err
	}
	if len(r.Key) < blindLen || r.Version == (core.Version{}) {
		return 0, core.Record{}, errBackup
	}
	return core.Table(table[0]), r, nil
}

// end verifies what stands behind the records.
func (b *backupReader) end() error {
	want := b.mac.Sum(nil)
	mac, err := b.bytes(len(want))
	if err != nil {
		return err
	}
	if _, err := b.in.ReadByte(); !errors.Is(err, io.EOF) || !hmac.Equal(mac, want) {
		return errBackup
	}
	return nil
}

func (b *backupReader) bytes(n int) ([]byte, error) {
	out := make([]byte, n)
	if _, err := io.ReadFull(b.in, out); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errBackup
		}
		return nil, err
	}
	if b.mac != nil {
		b.mac.Write(out)
	} else {
		b.got = append(b.got, out...)
	}
	return out, nil
}

func (b *backupReader) vector(longest int) ([]byte, error) {
	first, err := b.bytes(1)
	if err != nil {
		return nil, err
	}
	rest, err := b.bytes(1<<(first[0]>>6) - 1) // 0, 1, 3; 7 for a length that there is not
	if err != nil {
		return nil, err
	}
	s := cryptobyte.String(append(first, rest...))
	n, ok := vlbytes.ReadLength(&s)
	if !ok || n > longest {
		return nil, errBackup
	}
	return b.bytes(n)
}
