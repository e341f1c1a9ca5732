// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

func keystoreRoundTrip(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	if answers := k.read(); len(answers) != 0 {
		t.Errorf("no query has %d answers", len(answers))
	}
	for i, answer := range k.read(core.Query{}, query(1, "a"), query(255, "\xff")) {
		if len(answer) != 0 {
			t.Errorf("query %d of an empty store gives %s", i, keysOf(answer))
		}
	}
	k.apply(core.Batch{})

	everyByte := make([]byte, 256)
	for i := range everyByte {
		everyByte[i] = byte(i)
	}
	large := make([]byte, 100_000)
	_, _ = rand.Read(large)
	records := []core.Put{
		put(1, "a", "one"),
		put(1, "\x00", "zero byte for a key"),
		put(1, "\xff\xff", "high bytes for a key"),
		put(1, "it's; DROP TABLE --", "text that means something elsewhere"),
		put(1, "nil", ""),
		put(1, "bytes", string(everyByte)),
		put(1, "large", string(large)),
	}
	records[4].Value = nil
	k.puts(records...)
	for _, p := range records {
		k.has(p)
	}
	k.absent(1, "c")

	// A record that is put again has the new value and version, shorter or longer.
	for _, value := range []string{"", "longer than before, by a good deal", "x"} {
		p := put(1, "a", value)
		k.puts(p)
		k.has(p)
	}
	if got := k.read(query(1, ""))[0]; len(got) != len(records) {
		t.Errorf("the table has %d records, want %d", len(got), len(records))
	}
}

// orderKeys are prefix-free, ascending, and cross the places where text or
// signed comparison would order them otherwise.
var orderKeys = []string{
	"\x00\x00", "\x00\x01", "\x00\xff", "\x01\x00\x00", "\x01\x00\x01", "A", "Z", "_", "a\x00", "a\x01b", "a\x7f", "a\x80",
	"a\xff\x00", "a\xff\xfe", "a\xff\xff\x00", "a\xff\xff\xff", "b", "\x7f", "\x80", "\xc3\xa4", "\xff\x00", "\xff\xfe",
	"\xff\xff\x00", "\xff\xff\xff",
}

// orderPrefixes includes prefixes with no successor of their own length.
var orderPrefixes = []string{"", "\x00", "\x01", "\x01\x00", "a", "a\xff", "a\xff\xff", "\x7f", "\x80", "\xff", "\xff\xff", "\xff\xff\xff", "nothing"}

// inOrder stores orderKeys in some other order.
func (k *kit) inOrder() {
	k.Helper()
	for i := range orderKeys {
		// 7 and the number of keys have no common divisor.
		key := orderKeys[(i*7+3)%len(orderKeys)]
		k.puts(put(1, key, "value of "+key))
	}
}

func keystoreOrder(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	k.inOrder()
	for _, prefix := range orderPrefixes {
		got := k.read(query(1, prefix))[0]
		sameKeys(t, "prefix "+prefix, got, withPrefix(prefix))
		for _, r := range got {
			if string(r.Value) != "value of "+string(r.Key) {
				t.Errorf("record %q has the value of another", r.Key)
			}
		}
	}
	// A full key is a prefix of its own record only.
	for _, key := range orderKeys {
		sameKeys(t, "full key", k.read(query(1, key))[0], []string{key})
	}
}

func withPrefix(prefix string) (want []string) {
	for _, key := range orderKeys {
		if strings.HasPrefix(key, prefix) {
			want = append(want, key)
		}
	}
	return want
}

func keystorePages(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	k.inOrder()
	// Also after what no key is, below and above everything with the prefix, and
	// with prefixes that are a full key.
	afters := append(slices.Clone(orderKeys), "", "\x00", "a", "a\xff", "\xff\xff\xff\xff", "absent", "\xff", "b\x00",
		strings.Repeat("\xff", core.MaxKey), strings.Repeat("\x00", core.MaxKey))
	for _, prefix := range append(slices.Clone(orderPrefixes), "A", "b", "\x00\x00", "a\xff\xff\xff", "\xff\xff\xff") {
		for _, after := range afters {
			var want []string
			for _, key := range withPrefix(prefix) {
				if after == "" || key > after {
					want = append(want, key)
				}
			}
			limits := []int{0, 1, 2, len(want), len(want) + 1, math.MaxInt32, math.MaxInt}
			var queries []core.Query
			for _, limit := range limits {
				queries = append(queries, core.Query{Table: 1, Prefix: []byte(prefix), After: []byte(after), Limit: limit})
			}
			for i, got := range k.read(queries...) {
				cut := want
				if limits[i] > 0 && limits[i] < len(cut) {
					cut = cut[:limits[i]]
				}
				sameKeys(t, fmt.Sprintf("prefix %q, after %q, limit %d", prefix, after, limits[i]), got, cut)
			}
		}
	}
	if _, err := k.store.Read(t.Context(), []core.Query{{Table: 1, Limit: -1}}); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("negative limit: got error %v, want ErrInvalid", err)
	}
}

func keystoreKeysOnly(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	records := []core.Put{put(1, "a1", "one"), put(1, "a2", strings.Repeat("long", 10_000)), put(1, "a3", "")}
	k.puts(records...)
	got := k.read(
		core.Query{Table: 1, Prefix: []byte("a"), KeysOnly: true},
		core.Query{Table: 1, Prefix: []byte("a"), After: []byte("a1"), Limit: 1, KeysOnly: true},
		query(1, "a2"),
	)
	sameKeys(t, "keys only", got[0], []string{"a1", "a2", "a3"})
	sameKeys(t, "keys only, a page", got[1], []string{"a2"})
	for i, r := range got[0] {
		if len(r.Value) != 0 {
			t.Errorf("record %q came with a value", r.Key)
		}
		if i < len(records) && r.Version != records[i].Version {
			t.Errorf("record %q came with the wrong version", r.Key)
		}
	}
	if len(got[2]) != 1 || !bytes.Equal(got[2][0].Value, records[1].Value) {
		t.Error("a query with values beside one without has none")
	}
}

func keystoreTables(t testing.TB, open func() core.Keystore) {
	k := newKit(t, open)
	records := []core.Put{put(0, "k", "table 0"), put(1, "k", "table 1"), put(2, "k", "table 2"), put(255, "k", "table 255")}
	k.puts(records...)
	for _, p := range records {
		k.has(p)
	}
	k.refused("the version of another table's record", core.ErrConflict,
		core.Batch{Expect: []core.Expectation{expect(1, "k", records[2].Version)}})
	k.apply(core.Batch{Dels: []core.Range{del(1, "")}})
	k.absent(1, "k")
	for _, p := range []core.Put{records[0], records[2], records[3]} {
		k.has(p)
	}
}
