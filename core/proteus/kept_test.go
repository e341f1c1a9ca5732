// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// A keptModel is a session with one receive chain, beside what it keeps: a list of
// counters, ascending. What the keys are follows from the counter.
type keptModel struct {
	session *Session
	list    []uint32
	next    uint64 // counter

	stored  *records
	was     *Session // as it is stored
	wasList []uint32
	loaded  []core.Secret // pages from the store
}

// What names the records of the chain.
const keptState, keptChain = 3, 7

func keysOf(counter uint32) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint32(nil, counter^0x5a5a5a5a), pageKeySize/4)
}

func keysFrom(from, to uint64) (keys []messageKeys) {
	for ; from < to; from++ {
		b := keysOf(uint32(from))
		keys = append(keys, messageKeys{core.NewSecret(b[:32:32]), core.NewSecret(b[32:]), uint32(from)})
	}
	return keys
}

func newKeptModel(next uint64) *keptModel {
	secret := func(b byte) core.Secret { return core.NewSecret(bytes.Repeat([]byte{b}, 32)) }
	s := &state{
		root: secret(1), send: sendChain{chainKey{secret(2), 0}, keyPair{secret(3), PublicKey{4}}}, numbers: keptChain + 1,
		receive: []receiveChain{{chain: chainKey{secret(5), 0}, ratchet: PublicKey{6}, number: keptChain}},
	}
	return &keptModel{session: &Session{states: []taggedState{{tag: Tag{9}, number: keptState, state: s}}}, stored: new(records), next: next}
}

func (m *keptModel) kept() kept { return m.session.states[0].state.receive[0].kept }

// set makes the session one with other kept keys.
func (m *keptModel) set(k kept) {
	s := *m.session.states[0].state
	s.receive = slices.Clone(s.receive)
	s.receive[0].kept = k
	m.session = &Session{states: []taggedState{{tag: Tag{9}, number: keptState, state: &s}}}
}

func (m *keptModel) load(number uint32) (core.Secret, error) {
	page, err := (&Env{Fetch: m.stored.fetch}).pages(context.Background(), keptState)(keptChain)(number)
	m.loaded = append(m.loaded, page)
	return page, err
}

// pass keeps the keys of n messages and then uses one.
func (m *keptModel) pass(t *rapid.T, n uint64) {
	n = min(n, maxIndex-m.next)
	later := keysFrom(m.next, m.next+n)
	k, err := m.kept().with(later, m.load)
	if err != nil {
		t.Fatal(err)
	}
	for _, keys := range later {
		if !isWiped(keys.cipher.Bytes()) || !isWiped(keys.mac.Bytes()) {
			t.Fatal("keys that are in a page are left")
		}
	}
	m.set(k)
	for range n {
		m.list = append(m.list, uint32(m.next))
		m.next++
	}
	m.list = slices.Clone(m.list[max(0, len(m.list)-1000):])
	m.next = min(m.next+1, maxIndex)
}

// late reads a message that was passed over, or was not.
func (m *keptModel) late(t *rapid.T, counter uint32) {
	at, is := slices.BinarySearch(m.list, counter)
	i, ok := m.kept().find(counter)
	if ok != is {
		t.Fatalf("%d is kept: %v, want %v", counter, ok, is)
	}
	if !ok {
		return
	}
	page, err := m.kept()[i].load(m.load)
	if err != nil {
		t.Fatal(err)
	}
	keys := m.kept().get(i, counter, page)
	if keys.counter != counter || !bytes.Equal(slices.Concat(keys.cipher.Bytes(), keys.mac.Bytes()), keysOf(counter)) {
		t.Fatalf("the keys of %d are others", counter)
	}
	old := m.kept()[i]
	m.set(m.kept().without(i, counter, page))
	old.done(page)
	m.list = slices.Delete(slices.Clone(m.list), at, at+1)
}

// pagesOf are the records of a list: by page, its keys.
func pagesOf(list []uint32) map[uint32]string {
	pages := map[uint32]string{}
	for _, counter := range list {
		if pages[counter/32] == "" {
			pages[counter/32] = string([]byte{recordFormat})
		}
		pages[counter/32] += string(keysOf(counter))
	}
	return pages
}

// save writes what has changed, which is what differs between the lists.
func (m *keptModel) save(t *rapid.T) {
	pages, old := pagesOf(m.list), pagesOf(m.wasList)
	w := m.session.Changes(m.was)
	wrote := map[uint32]string{}
	for _, r := range w.Puts {
		if r.Kind == RecordKept {
			number := binary.BigEndian.Uint32(r.Key[len(r.Key)-4:])
			if !bytes.Equal(r.Key, key(keptState, keptChain, number)) {
				t.Fatalf("record %x", r.Key)
			}
			wrote[number] = string(r.Value)
		}
	}
	for number, page := range pages {
		if old[number] == page {
			delete(pages, number)
		}
	}
	if !maps.Equal(wrote, pages) {
		t.Fatalf("wrote pages %v, want %v", slices.Sorted(maps.Keys(wrote)), slices.Sorted(maps.Keys(pages)))
	}
	m.stored.apply(w)
	m.was, m.wasList = m.session, m.list
	stored := map[uint32]string{}
	for _, r := range m.stored.list {
		if r.Kind == RecordKept {
			stored[binary.BigEndian.Uint32(r.Key[len(r.Key)-4:])] = string(r.Value)
		}
	}
	if !maps.Equal(stored, pagesOf(m.list)) {
		t.Fatalf("stored are pages %v of %v", slices.Sorted(maps.Keys(stored)), m.list)
	}
}

// check compares a session with a list. Nothing that was read from the store is left.
func (m *keptModel) check(t *rapid.T) {
	for _, page := range m.loaded {
		if !isWiped(page.Bytes()) {
			t.Fatal("a page is left")
		}
	}
	var list []uint32
	for _, p := range m.kept() {
		for i := range uint32(32) {
			if p.has&(1<<i) != 0 {
				list = append(list, p.number*32+i)
			}
		}
	}
	if !slices.Equal(list, m.list) || m.kept().count() != len(m.list) || len(list) > 0 && m.kept().first() != list[0] {
		t.Fatalf("kept are %d of %v, want %v", m.kept().count(), list, m.list)
	}
}

// The kept keys are those of a plain list, whatever is in memory and whatever in the store.
func TestKept(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newKeptModel(rapid.SampledFrom([]uint64{0, 1, 31, 32, 1000, maxIndex - 1500, maxIndex - 3}).Draw(t, "start"))
		m.save(t)
		gaps := rapid.OneOf(rapid.Uint64Range(0, 3), rapid.Uint64Range(25, 40), rapid.Uint64Range(900, 1000), rapid.Just(uint64(1000)))
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			before := m.session
			snapshot := inMemory(before)
			switch rapid.IntRange(0, 6).Draw(t, "step") {
			case 0, 1:
				m.pass(t, gaps.Draw(t, "gap"))
			case 2, 3:
				if len(m.list) > 0 {
					m.late(t, rapid.SampledFrom(m.list).Draw(t, "kept"))
				}
			case 4:
				m.late(t, uint32(rapid.Uint64Range(0, m.next).Draw(t, "any")))
			case 5:
				m.save(t)
			case 6: // a restart loses what was not saved, or nothing
				if rapid.Bool().Draw(t, "lose") {
					m.list, m.next = m.wasList, max(m.next, uint64(last(m.wasList))+1)
				} else {
					m.save(t)
				}
				s, err := LoadSession(context.Background(), m.stored.fetch)
				if err != nil {
					t.Fatal(err)
				}
				m.session, m.was, before = s, s, s
				snapshot = inMemory(s)
			}
			m.check(t)
			if m.was != before && !bytes.Equal(inMemory(before), snapshot) {
				t.Fatal("a session value has changed")
			}
		}
		m.save(t)
		b, err := m.session.states[0].state.receive[0].append(nil, func(uint32) loadPage { return m.load })
		if err != nil {
			t.Fatal(err)
		}
		if w := (&Session{}).Changes(m.session); len(w.Dels) == 0 {
			t.Fatal("a session without states deletes nothing")
		}
		var all []byte
		for _, counter := range m.list {
			k := keysOf(counter)
			all = appendWrapped(append(appendMap(all, 3), 0), k[:32])
			all = appendWrapped(append(all, 1), k[32:])
			all = appendUint(append(all, 2), uint64(counter))
		}
		if !bytes.HasSuffix(b, append(appendArray([]byte{2}, len(m.list)), all...)) {
			t.Fatal("encoded are other keys")
		}
		r := &reader{rest: append(appendArray(nil, len(m.list)), all...)}
		m.set(r.kept())
		if m.check(t); r.err != nil || len(r.rest) > 0 {
			t.Fatal(r.err)
		}
	})
}

func last(list []uint32) uint32 {
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1]
}

// A store that fails leaves everything as it was.
func TestKeptUnread(t *testing.T) {
	t.Parallel()
	failure := errors.New("the store is away")
	fails := func(uint32) (core.Secret, error) { return core.Secret{}, failure }
	k := kept{{number: 0, has: math.MaxUint32}, {number: 1, has: 1}}
	with := func(from, to uint64) error {
		later := keysFrom(from, to)
		_, err := k.with(later, fails)
		for _, m := range later {
			if !isWiped(m.cipher.Bytes()) || !isWiped(m.mac.Bytes()) {
				t.Fatalf("key %d is left", m.counter)
			}
		}
		return err
	}
	for name, f := range map[string]func() error{
		"one page":        func() error { _, err := k[0].load(fails); return err },
		"with, same page": func() error { return with(40, 45) },
		"with, too many":  func() error { return with(100, 1090) },
	} {
		if err := f(); !errors.Is(err, failure) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if k.count() != 33 || len(k) != 2 {
		t.Error("the kept keys have changed")
	}
	// Pages whose length is not that of their keys are damaged.
	for _, n := range []int{0, 1, pageKeySize - 1, pageKeySize, 32*pageKeySize - 1, 32*pageKeySize + 1} {
		short := func(uint32) (core.Secret, error) { return core.NewSecret(make([]byte, n)), nil }
		if _, err := k[0].load(short); !errors.Is(err, core.ErrDamaged) {
			t.Errorf("a page of %d bytes: %v", n, err)
		}
	}
}

// Read from the store are those pages only that a step needs, and written those only that
// it changes, however many keys there are.
func TestKeptIsLazy(t *testing.T) {
	t.Parallel()
	_, bob, toBob, toAlice := talking(t, 7)
	var messages [][]byte
	for range 2500 {
		var m []byte
		toBob, m = sends(t, toBob, "")
		messages = append(messages, m)
	}
	toAlice = bob.reads(t, toAlice, messages[900], "")
	toAlice = bob.reads(t, toAlice, messages[1001], "")
	toAlice = bob.store(t, toAlice)
	fetched := 0
	fetch := bob.stored.fetch
	for _, step := range []struct {
		message             int
		pages, wrote, bytes int
		name                string
	}{
		{1002, 0, 1, 600, "in sync"},
		{5, 1, 2, 3000, "late"},
		{1004, 1, 2, 3000, "ahead"},
		{2000, 1, 33, 65000, "as far ahead as may be"},
	} {
		fetched = 0
		env := bob.env()
		env.Fetch = func(ctx context.Context, queries []record.Query) ([][]record.Record, error) {
			fetched += len(queries)
			return fetch(ctx, queries)
		}
		d, err := toAlice.Decrypt(t.Context(), env, messages[step.message])
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		w := d.Session.Changes(toAlice)
		size := 0
		for _, r := range w.Puts {
			size += len(r.Value)
		}
		if fetched != step.pages || len(w.Puts) != step.wrote || size > step.bytes {
			t.Errorf("%s: fetched %d pages, wrote %d records of %d bytes", step.name, fetched, len(w.Puts), size)
		}
		bob.stored.apply(w)
		toAlice = bob.load(t)
	}
}
