// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

func keystoreRecordLimits(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	longest := put(1, strings.Repeat("k", core.MaxKey), "longest key")
	highest := put(1, strings.Repeat("\xff", core.MaxKey), "highest key")
	largest := put(1, "largest", strings.Repeat("v", core.MaxValue))
	k.puts(longest, highest, largest)
	for _, p := range []core.Put{longest, highest, largest} {
		k.has(p)
	}
	if got := k.read(query(1, "\xff"))[0]; len(got) != 1 {
		t.Errorf("a prefix of the highest key finds %d records", len(got))
	}
	if got := k.read(core.Query{Table: 1, After: highest.Key})[0]; len(got) != 0 {
		t.Errorf("after the highest key come %s", keysOf(got))
	}
	k.apply(core.Batch{
		Expect: []core.Expectation{expect(1, string(longest.Key), longest.Version)},
		Dels:   []core.Range{del(1, string(highest.Key))},
	})
	k.absent(1, string(highest.Key))

	tooLong := strings.Repeat("k", core.MaxKey+1)
	k.refused("key to put", core.ErrTooLarge, core.Batch{Puts: []core.Put{put(1, "fine", ""), put(1, tooLong, "")}})
	k.refused("key to expect", core.ErrTooLarge, core.Batch{Expect: []core.Expectation{expect(1, tooLong, core.Version{})}})
	k.refused("prefix to delete", core.ErrTooLarge, core.Batch{Dels: []core.Range{del(1, tooLong)}})
	k.refused("value", core.ErrTooLarge, core.Batch{Puts: []core.Put{put(1, "fine", ""), put(1, "v", strings.Repeat("v", core.MaxValue+1))}})
	for _, q := range []core.Query{query(1, tooLong), {Table: 1, After: []byte(tooLong)}} {
		if _, err := k.store.Read(t.Context(), []core.Query{q}); !errors.Is(err, core.ErrTooLarge) {
			t.Errorf("query for a key over the limit: got error %v, want ErrTooLarge", err)
		}
	}
}

// keystoreBatchLimits applies a batch of exactly MaxBatch bytes and reads it
// back in one answer; one byte more is too much for either.
func keystoreBatchLimits(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	value := bytes.Repeat([]byte{0xa5}, core.MaxValue)
	var b core.Batch
	room := core.MaxBatch
	for i := 0; room > 0; i++ {
		key := fmt.Appendf(nil, "k%03d", i)
		n := min(room-len(key), core.MaxValue)
		b.Puts = append(b.Puts, core.Put{Table: 1, Key: key, Value: value[:n], Version: core.NewVersion()})
		room -= len(key) + n
	}
	over := b
	over.Dels = []core.Range{del(2, "x")}
	if err := k.store.Apply(t.Context(), over); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("a batch of %d bytes and one: got error %v, want ErrTooLarge", core.MaxBatch, err)
	}
	if got := k.read(core.Query{Table: 1, KeysOnly: true})[0]; len(got) != 0 {
		t.Errorf("the refused batch left %d records", len(got))
	}
	k.apply(b)
	got := k.read(query(1, ""))[0]
	if len(got) != len(b.Puts) {
		t.Fatalf("read %d of %d records", len(got), len(b.Puts))
	}
	for i, r := range got {
		if !bytes.Equal(r.Key, b.Puts[i].Key) || !bytes.Equal(r.Value, b.Puts[i].Value) {
			t.Fatalf("record %d of the largest batch differs", i)
		}
	}
	k.puts(put(2, "x", ""))
	if _, err := k.store.Read(t.Context(), []core.Query{query(1, ""), query(2, "")}); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("an answer of %d bytes and one: got error %v, want ErrTooLarge", core.MaxBatch, err)
	}
	if got := k.read(core.Query{Table: 1, KeysOnly: true}, query(2, "")); len(got[0]) != len(b.Puts) {
		t.Errorf("keys only: %d of %d records", len(got[0]), len(b.Puts))
	}
	k.apply(core.Batch{Dels: []core.Range{del(1, "k")}})
}

// lots of records: with four parameters each more than 16 bits can count.
var lots = 20_000

// keystoreMany has as many puts, expectations, ranges and queries as fit easily:
// there is no limit to their number but that of bytes.
func keystoreMany(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	n := lots
	var b core.Batch
	for i := range n {
		b.Puts = append(b.Puts, put(1, fmt.Sprintf("k%05d", i), "v"))
	}
	k.apply(b)
	all := core.Batch{Puts: []core.Put{put(2, "head", "")}}
	var queries []core.Query
	for i, p := range b.Puts {
		all.Expect = append(all.Expect, core.Expectation{Table: 1, Key: p.Key, Version: p.Version})
		if i%20 == 0 {
			queries = append(queries, core.Query{Table: 1, Prefix: p.Key})
			all.Dels = append(all.Dels, core.Range{Table: 1, Prefix: p.Key})
		}
	}
	for i, answer := range k.read(queries...) {
		if len(answer) != 1 || answer[0].Version != b.Puts[20*i].Version {
			t.Fatalf("query %d of %d gives %s", i, len(queries), keysOf(answer))
		}
	}
	all.Expect[n-1].Version[0] ^= 1
	if err := k.store.Apply(t.Context(), all); !errors.Is(err, core.ErrConflict) {
		t.Errorf("the last of %d expectations: got error %v, want ErrConflict", n, err)
	}
	all.Expect[n-1].Version[0] ^= 1
	k.apply(all)
	if got := k.read(core.Query{Table: 1, KeysOnly: true})[0]; len(got) != n-len(all.Dels) {
		t.Errorf("%d of %d records are left after %d ranges", len(got), n, len(all.Dels))
	}
}

// roomy copies a slice into an array that goes on after it; the second slice is
// what must not be written to.
func roomy(s string) (given, beyond []byte) {
	a := append([]byte(s), "not yours"...)
	return a[:len(s)], a[len(s):]
}

// keystoreSlices overwrites everything it gave and was given, then looks again.
func keystoreSlices(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	b := core.Batch{
		Expect: []core.Expectation{expect(1, "absent", core.Version{})},
		Dels:   []core.Range{del(2, "gone")},
		Puts:   []core.Put{put(1, "key one", "value one"), put(1, "key two", "value two")},
	}
	given := fmt.Sprintf("%q", b)
	k.apply(b)
	if now := fmt.Sprintf("%q", b); now != given {
		t.Errorf("Apply changed its batch from %s to %s", given, now)
	}
	wreck := func(slices ...[]byte) {
		for _, s := range slices {
			for i := range s {
				s[i] ^= 0xff
			}
		}
	}
	wreck(b.Expect[0].Key, b.Dels[0].Prefix, b.Puts[0].Key, b.Puts[0].Value, b.Puts[1].Key, b.Puts[1].Value)

	q := core.Query{Table: 1, Prefix: []byte("key"), After: []byte("key a")}
	intact := func(name string) [][]core.Record {
		t.Helper()
		got := k.read(q)
		sameKeys(t, name, got[0], []string{"key one", "key two"})
		for _, r := range got[0] {
			if string(r.Value) != "value"+strings.TrimPrefix(string(r.Key), "key") {
				t.Errorf("%s: record %q has value %q", name, r.Key, r.Value)
			}
		}
		return got
	}
	got := intact("after the batch was overwritten")
	if string(q.Prefix) != "key" || string(q.After) != "key a" {
		t.Errorf("Read changed its query to prefix %q, after %q", q.Prefix, q.After)
	}
	for _, r := range got[0] {
		wreck(r.Key, r.Value)
	}
	intact("after an answer was overwritten")

	// What comes after a slice is somebody else's.
	var lent, beyond [6][]byte
	for i, text := range []string{"key", "key one", "absent", "gone", "key one", "value one"} {
		lent[i], beyond[i] = roomy(text)
	}
	_ = k.read(core.Query{Table: 1, Prefix: lent[0], After: lent[1]})
	k.apply(core.Batch{
		Expect: []core.Expectation{{Table: 1, Key: lent[2]}},
		Dels:   []core.Range{{Table: 2, Prefix: lent[3]}},
		Puts:   []core.Put{{Table: 1, Key: lent[4], Value: lent[5], Version: core.NewVersion()}},
	})
	for i := range beyond {
		if string(beyond[i]) != "not yours" {
			t.Errorf("the store wrote beyond %q, which it was given: %q", lent[i], beyond[i])
		}
	}

	// The answer must not change under the caller either.
	got = intact("before a change")
	k.puts(put(1, "key one", "VALUE ONE"), put(1, "key two", "VALUE TWO"))
	k.apply(core.Batch{Dels: []core.Range{del(1, "key")}})
	for _, r := range got[0] {
		if !strings.HasPrefix(string(r.Key), "key ") || !strings.HasPrefix(string(r.Value), "value ") {
			t.Errorf("an answer changed after it was given: %q is %q", r.Key, r.Value)
		}
	}
}
