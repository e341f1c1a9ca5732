// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// The limits of both implementations, for each receive chain.
const (
	maxGap  = 1000 // messages that may be missing before one
	maxKept = 1000 // keys that are kept for those that are
)

// kept are the keys of messages that were passed over, in pages of 32 counters, ascending.
// Which there are is known; the keys are records of their own, read when they are needed,
// so that a message writes a page at most where it comes late, and else nothing of this.
type kept []page

// A page has the keys of the counters from 32 × number on.
type page struct {
	number uint32
	has    uint32      // bit i: the key of counter 32 × number + i
	keys   core.Secret // 64 bytes for each: cipher key, MAC key; zero: in the store
}

const pageKeySize = 64

// A loadPage reads the keys of a page from the store.
type loadPage func(number uint32) (core.Secret, error)

func (p page) load(load loadPage) (keys core.Secret, err error) {
	if !p.keys.IsZero() {
		return p.keys, nil
	}
	if keys, err = load(p.number); err == nil && keys.Len() != pageKeySize*bits.OnesCount32(p.has) {
		return core.Secret{}, damaged("kept keys", fmt.Errorf("page of %d bytes", keys.Len()))
	}
	return keys, err
}

// done erases keys that load has read from the store.
func (p page) done(keys core.Secret) {
	if p.keys.IsZero() {
		keys.Wipe()
	}
}

func (k kept) count() (n int) {
	for _, p := range k {
		n += bits.OnesCount32(p.has)
	}
	return n
}

// first is the lowest counter, of which there must be one.
func (k kept) first() uint32 { return k[0].number<<5 + uint32(bits.TrailingZeros32(k[0].has)) }

// end is the counter after the highest; 0 if there is none.
func (k kept) end() uint64 {
	if len(k) == 0 {
		return 0
	}
	last := k[len(k)-1]
	return uint64(last.number)<<5 + uint64(bits.Len32(last.has))
}

// find gives the page that has the key of a counter.
func (k kept) find(counter uint32) (i int, ok bool) {
	i, ok = slices.BinarySearchFunc(k, counter>>5, func(p page, number uint32) int {
		return int(int64(p.number) - int64(number))
	})
	return i, ok && k[i].has&(1<<(counter&31)) != 0
}

// get gives the keys of a counter, which find has found on page i, whose keys are loaded.
func (k kept) get(i int, counter uint32, keys core.Secret) messageKeys {
	at := pageKeySize * bits.OnesCount32(k[i].has&(1<<(counter&31)-1))
	b := slices.Clone(keys.Bytes()[at : at+pageKeySize])
	return messageKeys{core.NewSecret(b[:32:32]), core.NewSecret(b[32:]), counter}
}

// without is k without a counter, which find has found on page i, whose keys are loaded.
func (k kept) without(i int, counter uint32, keys core.Secret) kept {
	k = slices.Clone(k)
	p := &k[i]
	if p.has &^= 1 << (counter & 31); p.has == 0 {
		return slices.Delete(k, i, i+1)
	}
	at := pageKeySize * bits.OnesCount32(p.has&(1<<(counter&31)-1))
	p.keys = core.NewSecret(slices.Concat(keys.Bytes()[:at], keys.Bytes()[at+pageKeySize:]))
	return k
}

// with is k with the keys of later counters, ascending, and without the oldest that are
// then too many. It takes the keys over, also if it fails.
func (k kept) with(later []messageKeys, load loadPage) (_ kept, err error) {
	defer func() {
		if err != nil {
			wipeKeys(later)
		}
	}()
	k = slices.Clone(k)
	for over := k.count() + len(later) - maxKept; over > 0; {
		n := bits.OnesCount32(k[0].has)
		if n <= over {
			k, over = k[1:], over-n
			continue
		}
		keys, err := k[0].load(load)
		if err != nil {
			return nil, err
		}
		for ; over > 0; over-- {
			k[0].has &= k[0].has - 1 // the lowest bit
			n--
		}
		b, old := keys.Bytes(), k[0]
		k[0].keys = core.NewSecret(slices.Clone(b[len(b)-n*pageKeySize:]))
		old.done(keys)
	}
	for len(later) > 0 {
		p := page{number: later[0].counter >> 5}
		var before core.Secret
		var old page
		if last := len(k) - 1; last >= 0 && k[last].number == p.number {
			if before, err = k[last].load(load); err != nil {
				return nil, err
			}
			old, k = k[last], k[:last]
			p.has = old.has
		}
		n := 0
		for n < len(later) && later[n].counter>>5 == p.number {
			p.has |= 1 << (later[n].counter & 31)
			n++
		}
		keys := make([]byte, 0, before.Len()+n*pageKeySize)
		keys = append(keys, before.Bytes()...)
		old.done(before)
		for _, m := range later[:n] {
			keys = append(append(keys, m.cipher.Bytes()...), m.mac.Bytes()...)
			m.wipe()
		}
		p.keys = core.NewSecret(keys)
		k, later = append(k, p), later[n:]
	}
	return k, nil
}
