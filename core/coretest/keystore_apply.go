// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

func keystoreExpectations(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	v := k.puts(put(1, "a", "1"), put(1, "b", "2"), put(2, "c", "3"))
	var none core.Version
	almost := v[0]
	almost[15] ^= 1

	// Alone, met: nothing happens.
	k.apply(core.Batch{Expect: []core.Expectation{expect(1, "a", v[0]), expect(1, "b", v[1]), expect(2, "c", v[2]), expect(1, "d", none)}})
	for _, c := range []struct {
		name string
		not  core.Expectation
	}{
		{"another version", expect(1, "a", core.NewVersion())},
		{"one bit off", expect(1, "a", almost)},
		{"the version of another record", expect(1, "a", v[1])},
		{"present, expected absent", expect(1, "a", none)},
		{"absent, expected present", expect(1, "d", core.NewVersion())},
		{"a prefix of a key", expect(1, "aa", v[0])},
		{"another table", expect(2, "a", v[0])},
		{"absent in this table", expect(1, "c", v[2])},
	} {
		k.refused(c.name, core.ErrConflict, core.Batch{Expect: []core.Expectation{c.not}})
		// Wherever it stands among others that hold, and whatever else the batch does.
		met := []core.Expectation{expect(1, "a", v[0]), expect(1, "b", v[1]), expect(2, "c", v[2])}
		for at := range len(met) + 1 {
			k.refused(fmt.Sprintf("%s, number %d of 4", c.name, at+1), core.ErrConflict, core.Batch{
				Expect: slices.Insert(slices.Clone(met), at, c.not),
				Dels:   []core.Range{del(1, "b")},
				Puts:   []core.Put{put(1, "a", "new"), put(2, "d", "new")},
			})
		}
	}

	// Expectations see the state before the batch, not its own changes.
	k.refused("absent after its own delete", core.ErrConflict,
		core.Batch{Expect: []core.Expectation{expect(1, "a", none)}, Dels: []core.Range{del(1, "a")}})
	p := put(1, "a", "again")
	k.refused("present after its own put", core.ErrConflict,
		core.Batch{Expect: []core.Expectation{expect(1, "a", p.Version)}, Puts: []core.Put{p}})
	k.apply(core.Batch{Expect: []core.Expectation{expect(1, "a", v[0])}, Dels: []core.Range{del(1, "a")}, Puts: []core.Put{p}})
	k.has(p)
}

// keystoreResealed puts other values with the versions that the records have: the
// same plaintext under a newer data key.
func keystoreResealed(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	p := put(1, "a", "sealed once")
	beside := put(1, "b", "another record")
	k.puts(p, beside)
	for _, value := range []string{"sealed twice, with a longer header", "thrice", ""} {
		again := p
		again.Value = []byte(value)
		k.apply(core.Batch{Expect: []core.Expectation{expect(1, "a", p.Version)}, Puts: []core.Put{again}})
		k.has(again)
	}
	// Whoever read it before the change may still go on from there.
	k.apply(core.Batch{Expect: []core.Expectation{expect(1, "a", p.Version)}, Puts: []core.Put{put(1, "c", "")}})
	k.refused("expected absent", core.ErrConflict, core.Batch{Expect: []core.Expectation{expect(1, "a", core.Version{})}})
	next := put(1, "a", "next")
	k.apply(core.Batch{Expect: []core.Expectation{expect(1, "a", p.Version)}, Puts: []core.Put{next}})
	k.has(next)
	k.has(beside)
}

// keystoreExpectTwice has the same expectation more than once, and expectations
// that cannot both hold.
func keystoreExpectTwice(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	v := k.puts(put(1, "a", "1"))[0]
	is, absent := expect(1, "a", v), expect(1, "b", core.Version{})
	k.apply(core.Batch{Expect: []core.Expectation{is, absent, is, is, absent}, Puts: []core.Put{put(1, "c", "")}})
	isNot, present := expect(1, "a", core.NewVersion()), expect(1, "b", core.NewVersion())
	for name, b := range map[string][]core.Expectation{
		"two versions":         {is, isNot},
		"two versions, turned": {isNot, is},
		"there and absent":     {is, expect(1, "a", core.Version{})},
		"absent and there":     {absent, present},
	} {
		k.refused(name, core.ErrConflict, core.Batch{Expect: b, Puts: []core.Put{put(1, "c", "refused")}})
	}
}

func keystoreRecreated(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	old := k.puts(put(1, "a", "same"))[0]
	k.apply(core.Batch{Dels: []core.Range{del(1, "a")}})
	k.refused("deleted", core.ErrConflict, core.Batch{Expect: []core.Expectation{expect(1, "a", old)}})
	again := put(1, "a", "same")
	k.apply(core.Batch{Expect: []core.Expectation{expect(1, "a", core.Version{})}, Puts: []core.Put{again}})
	k.refused("deleted and recreated", core.ErrConflict,
		core.Batch{Expect: []core.Expectation{expect(1, "a", old)}, Puts: []core.Put{put(1, "a", "stale")}})
	k.has(again)
	k.puts(put(1, "a", "other"))
	back := put(1, "a", "same")
	k.puts(back)
	k.refused("same value again", core.ErrConflict, core.Batch{Expect: []core.Expectation{expect(1, "a", again.Version)}})
	k.has(back)
}

func keystoreDeletes(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	fill := func() {
		k.puts(put(1, "g1\x00", "a"), put(1, "g1\x01", "b"), put(1, "g1\xff", "c"), put(1, "g2\x00", "d"), put(1, "h", "e"),
			put(1, "\xff\xff\x00", "f"), put(1, "\xff\xff\xff", "g"), put(2, "g1\x00", "h"))
	}
	left := func(name string, want ...string) {
		t.Helper()
		sameKeys(t, name, k.read(query(1, ""))[0], want)
		sameKeys(t, name+", other table", k.read(query(2, ""))[0], []string{"g1\x00"})
	}
	fill()
	k.apply(core.Batch{Dels: []core.Range{del(1, "absent"), del(1, "g1")}})
	left("one prefix", "g2\x00", "h", "\xff\xff\x00", "\xff\xff\xff")
	fill()
	k.apply(core.Batch{Dels: []core.Range{del(1, "\xff\xff"), del(1, "g1\x01")}})
	left("a prefix of high bytes and a full key", "g1\x00", "g1\xff", "g2\x00", "h")
	fill()
	k.apply(core.Batch{Dels: []core.Range{del(1, "g"), del(1, "g1"), del(1, "g")}})
	left("ranges that overlap", "h", "\xff\xff\x00", "\xff\xff\xff")

	// What a batch puts survives its own ranges.
	fill()
	kept, fresh := put(1, "g1\x01", "kept"), put(1, "g1\x02", "fresh")
	k.apply(core.Batch{Dels: []core.Range{del(1, "g")}, Puts: []core.Put{kept, fresh}})
	left("delete, then put", "g1\x01", "g1\x02", "h", "\xff\xff\x00", "\xff\xff\xff")
	k.has(kept)
	k.has(fresh)
	k.apply(core.Batch{Dels: []core.Range{del(1, "")}})
	left("everything")
}

func keystoreAtomic(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	var puts []core.Put
	for i := range 50 {
		puts = append(puts, put(core.Table(1+i%2), fmt.Sprintf("k%02d", i), "before"))
	}
	v := k.puts(puts...)
	change := core.Batch{Dels: []core.Range{del(1, "k0"), del(2, "k4")}}
	for i := range 50 {
		change.Puts = append(change.Puts, put(core.Table(1+i%2), fmt.Sprintf("k%02d", 25+i), "after"))
	}
	for _, at := range []int{0, 25, 49} {
		change.Expect = nil
		for i := range 50 {
			e := expect(core.Table(1+i%2), fmt.Sprintf("k%02d", i), v[i])
			if i == at {
				e.Version = core.NewVersion()
			}
			change.Expect = append(change.Expect, e)
		}
		k.refused(fmt.Sprintf("expectation %d of 50 fails", at+1), core.ErrConflict, change)
	}
	change.Expect[49].Version = v[49]
	k.apply(change)
	for _, p := range change.Puts {
		k.has(p)
	}
	k.absent(1, "k00")
	k.absent(1, "k08")
	k.has(puts[1])
}

// keystoreModel runs random batches and queries beside a map. It is the same
// run each time, so a failure can be looked into.
func keystoreModel(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	random := rand.New(rand.NewPCG(1, 2))
	type name struct {
		table core.Table
		key   string
	}
	model := map[name]core.Put{}
	// Prefix-free: the first byte says how long the key is.
	key := func() string {
		n := 1 + random.IntN(3)
		b := []byte{byte(n)}
		for range n {
			b = append(b, []byte{0, 1, 0x7f, 0x80, 0xff}[random.IntN(5)])
		}
		return string(b)
	}
	table := func() core.Table { return core.Table(1 + random.IntN(2)) }
	prefix := func() string { s := key(); return s[:1+random.IntN(len(s))] }

	for step := range 300 {
		b := core.Batch{}
		holds := true
		for range random.IntN(4) {
			n := name{table(), key()}
			e := expect(n.table, n.key, model[n].Version)
			if random.IntN(12) == 0 {
				e.Version = core.NewVersion()
				holds = false
			}
			b.Expect = append(b.Expect, e)
		}
		for range random.IntN(5) / 3 {
			b.Dels = append(b.Dels, del(table(), prefix()))
		}
		put1 := map[name]bool{}
		for range random.IntN(8) {
			n := name{table(), key()}
			if !put1[n] {
				put1[n] = true
				b.Puts = append(b.Puts, put(n.table, n.key, strings.Repeat(string(rune('a'+step%26)), random.IntN(3000))))
			}
		}
		err := k.store.Apply(t.Context(), b)
		if holds && err != nil || !holds && !errors.Is(err, core.ErrConflict) {
			t.Fatalf("step %d: got error %v; the expectations hold: %v", step, err, holds)
		}
		if holds {
			for _, d := range b.Dels {
				for n := range model {
					if n.table == d.Table && strings.HasPrefix(n.key, string(d.Prefix)) {
						delete(model, n)
					}
				}
			}
			for _, p := range b.Puts {
				model[name{p.Table, string(p.Key)}] = p
			}
		}

		queries := []core.Query{{Table: 1}, {Table: 2, Prefix: []byte(prefix()), After: []byte(key()), Limit: random.IntN(4)}, {Table: table(), Prefix: []byte(prefix())}}
		for i, answer := range k.read(queries...) {
			q := queries[i]
			var want []core.Put
			for n, p := range model {
				if n.table == q.Table && strings.HasPrefix(n.key, string(q.Prefix)) && n.key > string(q.After) {
					want = append(want, p)
				}
			}
			slices.SortFunc(want, func(a, b core.Put) int { return cmp.Compare(string(a.Key), string(b.Key)) })
			if q.Limit > 0 && len(want) > q.Limit {
				want = want[:q.Limit]
			}
			if !slices.EqualFunc(answer, want, func(r core.Record, p core.Put) bool {
				return bytes.Equal(r.Key, p.Key) && bytes.Equal(r.Value, p.Value) && r.Version == p.Version
			}) {
				t.Fatalf("step %d: query %d gives %s, which is not what was put", step, i, keysOf(answer))
			}
		}
	}
}

func keystoreMalformed(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	k.puts(put(1, "a", "1"))
	fine := put(1, "fine", "2")
	noVersion := put(1, "b", "3")
	noVersion.Version = core.Version{}
	for name, b := range map[string]core.Batch{
		"put without a key":          {Puts: []core.Put{fine, put(1, "", "x")}},
		"put without a version":      {Puts: []core.Put{fine, noVersion}},
		"a key put twice":            {Puts: []core.Put{fine, put(1, "b", "x"), put(1, "b", "y")}},
		"the first put comes again":  {Puts: []core.Put{fine, put(1, "b", "x"), fine}},
		"expectation without a key":  {Expect: []core.Expectation{expect(1, "", core.Version{})}, Puts: []core.Put{fine}},
		"malformed and a conflict":   {Expect: []core.Expectation{expect(1, "a", core.Version{})}, Puts: []core.Put{put(1, "", "x")}},
		"malformed after its delete": {Dels: []core.Range{del(1, "a")}, Puts: []core.Put{noVersion}},
	} {
		k.refused(name, core.ErrInvalid, b)
	}
	k.apply(core.Batch{Puts: []core.Put{put(1, "b", "one key, two tables"), put(2, "b", "one key, two tables")}})
}
