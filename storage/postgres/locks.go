// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/fnv"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// What an expectation says must still hold when the batch is committed, also that a
// record is absent, and a range that is deleted must have nothing in it that came
// meanwhile. A row that is absent cannot be locked, nor can a range, and SERIALIZABLE,
// which watches both, fails batches that have nothing to do with one another as soon as
// their rows share a page of the index. So every batch takes advisory locks first, which
// end with its transaction, and only the statement after that looks at the state.
//
// There are three levels, each lock under those above it:
//
//	store   shared by all, exclusive for a range that is not within one scope
//	scope   a table and the first 16 bytes of the key: shared by keys, exclusive for ranges
//	key     shared if it is only expected, exclusive if it is put
//
// Two batches that could see each other's effects have a lock in common, which at least
// one of them has alone: what was committed before is seen, in one order for all. Locks
// are taken in the order of their numbers, so nobody waits in a circle. They are kept in
// the server's memory, which has room for about 64 of each connection. A batch with more
// keys locks the scopes into which it puts, alone; one that also expects too many keys
// elsewhere locks those scopes alone too, for a lock that it shared would not keep away
// who locks keys; and one with too many scopes locks the store.
const (
	maxLocks  = 64
	scopeSize = 16 // bytes of a key, see core/seal
)

// A lockSpace keeps the locks of a store from those of others in the same database.
type lockSpace [sha256.Size]byte

func lockSpaceOf(schema string) lockSpace { return sha256.Sum256([]byte("conclave " + schema)) }

// number names a lock. If two have the same number, batches wait for one another that
// need not.
func (s *lockSpace) number(name ...byte) int64 {
	h := fnv.New128a()
	_, _ = h.Write(s[:])
	_, _ = h.Write(name)
	return int64(binary.BigEndian.Uint64(h.Sum(nil)))
}

func (s *lockSpace) store() int64 { return s.number() }

func (s *lockSpace) scope(table core.Table, key []byte) int64 {
	return s.number(append([]byte{1, byte(table)}, key[:min(scopeSize, len(key))]...)...)
}

func (s *lockSpace) key(table core.Table, key []byte) int64 {
	return s.number(append([]byte{2, byte(table)}, key...)...)
}

// of returns the locks that a batch needs, ascending, and which of them alone.
func (s *lockSpace) of(b *core.Batch) (numbers []int64, alone []bool) {
	locks := s.by(b, keys)
	for level := scopesOfPuts; len(locks) > maxLocks && level <= scopes; level++ {
		locks = s.by(b, level)
	}
	if len(locks) > maxLocks {
		locks = map[int64]bool{s.store(): true}
	}
	for n := range locks {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		alone = append(alone, locks[n])
	}
	return numbers, alone
}

// What a batch locks alone, besides ranges.
const (
	keys         = iota // each key that it puts
	scopesOfPuts        // each scope into which it puts
	scopes              // each scope of which it names a key
)

// by collects the locks of a batch at a level.
func (s *lockSpace) by(b *core.Batch, level int) map[int64]bool {
	locks := map[int64]bool{s.store(): false}
	lock := func(number int64, alone bool) { locks[number] = locks[number] || alone }
	for i := range b.Puts {
		p := &b.Puts[i]
		lock(s.scope(p.Table, p.Key), level > keys)
		if level == keys {
			lock(s.key(p.Table, p.Key), true)
		}
	}
	for i := range b.Dels {
		if d := &b.Dels[i]; len(d.Prefix) >= scopeSize {
			lock(s.scope(d.Table, d.Prefix), true)
		} else {
			lock(s.store(), true)
		}
	}
	for i := range b.Expect {
		e := &b.Expect[i]
		scope := s.scope(e.Table, e.Key)
		lock(scope, level == scopes)
		if !locks[scope] {
			lock(s.key(e.Table, e.Key), false)
		}
	}
	return locks
}
