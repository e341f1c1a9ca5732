// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

func Example() {
	ctx := context.Background()
	keystore := memory.New()
	defer keystore.Close()

	key := core.NewSecret(make([]byte, 32)) // a real one is random
	wrapper, err := seal.RawKey(key)
	if err != nil {
		panic(err)
	}
	store, err := seal.Open(ctx, keystore, wrapper, "alice")
	if err != nil {
		panic(err)
	}
	defer store.Close()

	group := []byte("group 1")
	versions, err := store.Apply(ctx, seal.Batch{Puts: []seal.Put{
		{Table: 1, Scope: group, Key: []byte("header"), Value: []byte("epoch 7")},
	}})
	if err != nil {
		panic(err)
	}
	answers, err := store.Read(ctx, []seal.Query{{Table: 1, Scope: group}})
	if err != nil {
		panic(err)
	}
	for _, r := range answers[0] {
		fmt.Printf("%s: %s, as put: %v\n", r.Key, r.Value, r.Version == versions[0])
	}
	// Output:
	// header: epoch 7, as put: true
}

// wrapper makes a RawKey wrapper of 32 equal bytes.
func wrapper(t testing.TB, b byte) core.KeyWrapper {
	t.Helper()
	w, err := seal.RawKey(core.NewSecret(bytes.Repeat([]byte{b}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func open(t testing.TB, ks core.Keystore) *seal.Store {
	t.Helper()
	return openTenant(t, ks, "tenant")
}

func openTenant(t testing.TB, ks core.Keystore, tenant string) *seal.Store {
	t.Helper()
	s, err := seal.Open(t.Context(), ks, wrapper(t, 1), tenant)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func apply(t testing.TB, s *seal.Store, b seal.Batch) []core.Version {
	t.Helper()
	versions, err := s.Apply(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if len(versions) != len(b.Puts) {
		t.Fatalf("%d versions of %d puts", len(versions), len(b.Puts))
	}
	return versions
}

func put(table core.Table, scope, key, value string) seal.Put {
	return seal.Put{Table: table, Scope: []byte(scope), Key: []byte(key), Value: []byte(value)}
}

func puts(p ...seal.Put) seal.Batch { return seal.Batch{Puts: p} }

// contents reads a table and scope: "key=value" in order.
func contents(t testing.TB, s *seal.Store, q seal.Query) []string {
	t.Helper()
	answers, err := s.Read(t.Context(), []seal.Query{q})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range answers[0] {
		out = append(out, string(r.Key)+"="+string(r.Value))
	}
	return out
}

func is(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// dump is all that a keystore holds.
func dump(t testing.TB, ks core.Keystore) map[string]string {
	t.Helper()
	all := map[string]string{}
	for table := range 4 {
		answers, err := ks.Read(t.Context(), []core.Query{{Table: core.Table(table)}})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range answers[0] {
			all[fmt.Sprintf("%d/%s", table, r.Key)] = string(r.Version[:]) + string(r.Value)
		}
	}
	return all
}

func TestReadAndApply(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	s := open(t, ks)
	apply(t, s, puts(
		put(1, "g1", "b", "2"), put(1, "g1", "a", "1"), put(1, "g1", "c", ""),
		put(1, "g2", "a", "other scope"), put(2, "g1", "a", "other table"), put(1, "g3", "", "no key"), put(1, "", "a", "no scope"),
	))
	// The same through the same store, and through one that opens what is there.
	for range 2 {
		is(t, "scope", contents(t, s, seal.Query{Table: 1, Scope: []byte("g1")}), "a=1", "b=2", "c=")
		is(t, "prefix", contents(t, s, seal.Query{Table: 1, Scope: []byte("g1"), Prefix: []byte("b")}), "b=2")
		is(t, "after", contents(t, s, seal.Query{Table: 1, Scope: []byte("g1"), After: []byte("a")}), "b=2", "c=")
		is(t, "limit", contents(t, s, seal.Query{Table: 1, Scope: []byte("g1"), Limit: 2}), "a=1", "b=2")
		is(t, "keys only", contents(t, s, seal.Query{Table: 1, Scope: []byte("g1"), KeysOnly: true}), "a=", "b=", "c=")
		is(t, "other scope", contents(t, s, seal.Query{Table: 1, Scope: []byte("g2")}), "a=other scope")
		is(t, "other table", contents(t, s, seal.Query{Table: 2, Scope: []byte("g1")}), "a=other table")
		is(t, "no key", contents(t, s, seal.Query{Table: 1, Scope: []byte("g3")}), "=no key")
		is(t, "no scope", contents(t, s, seal.Query{Table: 1}), "a=no scope")
		is(t, "nothing", contents(t, s, seal.Query{Table: 3, Scope: []byte("g1")}))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, ks)
	}

	// Expectations, ranges, then puts.
	v := apply(t, s, puts(put(1, "g1", "a", "new")))
	_, err := s.Apply(t.Context(), seal.Batch{Expect: []seal.Expectation{{Table: 1, Scope: []byte("g1"), Key: []byte("a")}}, Puts: []seal.Put{put(1, "g1", "a", "wrong")}})
	if !errors.Is(err, core.ErrConflict) {
		t.Errorf("present, expected absent: got error %v", err)
	}
	_, err = s.Apply(t.Context(), seal.Batch{Expect: []seal.Expectation{{Table: 1, Scope: []byte("g1"), Key: []byte("a"), Version: core.NewVersion()}}})
	if !errors.Is(err, core.ErrConflict) {
		t.Errorf("another version: got error %v", err)
	}
	apply(t, s, seal.Batch{
		Expect: []seal.Expectation{{Table: 1, Scope: []byte("g1"), Key: []byte("a"), Version: v[0]}, {Table: 1, Scope: []byte("g1"), Key: []byte("d")}},
		Dels:   []seal.Range{{Table: 1, Scope: []byte("g1")}, {Table: 1, Scope: []byte("g2"), Prefix: []byte("b")}},
		Puts:   []seal.Put{put(1, "g1", "d", "4")},
	})
	is(t, "after a batch", contents(t, s, seal.Query{Table: 1, Scope: []byte("g1")}), "d=4")
	is(t, "other scope", contents(t, s, seal.Query{Table: 1, Scope: []byte("g2")}), "a=other scope")
	is(t, "other table", contents(t, s, seal.Query{Table: 2, Scope: []byte("g1")}), "a=other table")

	// A check that changes nothing costs the store nothing.
	before := dump(t, ks)
	apply(t, s, seal.Batch{Expect: []seal.Expectation{{Table: 1, Scope: []byte("g1"), Key: []byte("a")}}})
	apply(t, s, seal.Batch{})
	if !maps.Equal(before, dump(t, ks)) {
		t.Error("a batch that only expects changed the store")
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	s := open(t, memory.New())
	key, value := strings.Repeat("k", seal.MaxKey), strings.Repeat("v", seal.MaxValue)
	apply(t, s, puts(put(1, "g", key, value)))
	is(t, "largest", contents(t, s, seal.Query{Table: 1, Scope: []byte("g"), Prefix: []byte(key)}), key+"="+value)
	p := put(1, "g", "a", "")
	for name, c := range map[string]struct {
		b    seal.Batch
		want error
	}{
		"key":            {puts(p, put(1, "g", key+"k", "")), core.ErrTooLarge},
		"value":          {puts(p, put(1, "g", "b", value+"v")), core.ErrTooLarge},
		"put twice":      {puts(p, p), core.ErrInvalid},
		"own table":      {puts(put(0, "g", "a", "")), core.ErrInvalid},
		"own table, del": {seal.Batch{Dels: []seal.Range{{}}}, core.ErrInvalid},
		"own table, exp": {seal.Batch{Expect: []seal.Expectation{{}}}, core.ErrInvalid},
	} {
		if _, err := s.Apply(t.Context(), c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: got error %v, want %v", name, err, c.want)
		}
	}
	if _, err := s.Read(t.Context(), []seal.Query{{}}); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("read of the own table: got error %v", err)
	}
	is(t, "after refusals", contents(t, s, seal.Query{Table: 1, Scope: []byte("g"), Prefix: []byte("a")}))
}

// What reaches the keystore names nothing and shows nothing.
func TestHidden(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	s := open(t, ks)
	apply(t, s, puts(put(1, "SCOPE", "key 1", "VALUE"), put(1, "SCOPE", "key 2", "VALUE"), put(2, "SCOPE", "key 1", "VALUE")))
	other := openTenant(t, ks, "other")
	apply(t, other, puts(put(1, "SCOPE", "key 1", "VALUE")))

	scopes := map[string]int{}
	for table := 1; table <= 2; table++ {
		answers, err := ks.Read(t.Context(), []core.Query{{Table: core.Table(table)}})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range answers[0] {
			scopes[string(r.Key[:16])]++
			if !bytes.HasPrefix(r.Key[16:], []byte("key ")) {
				t.Errorf("the clear part of a key is %q", r.Key[16:])
			}
		}
	}
	if got := slices.Sorted(maps.Values(scopes)); !slices.Equal(got, []int{1, 1, 2}) {
		t.Errorf("records lie together as %v, want the two of one table and tenant", got)
	}
	values := map[string]bool{}
	for key, value := range dump(t, ks) {
		for _, word := range []string{"SCOPE", "VALUE", "tenant", "other"} {
			if strings.Contains(key+value, word) {
				t.Errorf("the store can read %q", word)
			}
		}
		values[value] = true
	}
	if len(values) != len(dump(t, ks)) {
		t.Error("equal values are stored alike")
	}
	// Nor does another tenant see it, nor can it by moving what it sees.
	is(t, "tenant", contents(t, s, seal.Query{Table: 1, Scope: []byte("SCOPE"), KeysOnly: true}), "key 1=", "key 2=")
	is(t, "other tenant", contents(t, other, seal.Query{Table: 1, Scope: []byte("SCOPE"), KeysOnly: true}), "key 1=")
}

func TestWrongKey(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	s := open(t, ks)
	apply(t, s, puts(put(1, "g", "a", "kept")))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before := dump(t, ks)
	if _, err := seal.Open(t.Context(), ks, wrapper(t, 2), "tenant"); !errors.Is(err, core.ErrWrongKey) || errors.Is(err, core.ErrDamaged) {
		t.Errorf("another key: got error %v, want ErrWrongKey", err)
	}
	// One that claims the same id is found out when it opens the blob.
	if _, err := seal.Open(t.Context(), ks, namesake{wrapper(t, 2), wrapper(t, 1).ID()}, "tenant"); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("another key of the same id: got error %v, want ErrWrongKey", err)
	}
	if !maps.Equal(before, dump(t, ks)) {
		t.Error("a wrong key changed the store")
	}
	is(t, "with the right key", contents(t, open(t, ks), seal.Query{Table: 1, Scope: []byte("g")}), "a=kept")
}

type namesake struct {
	core.KeyWrapper
	id string
}

func (n namesake) ID() string { return n.id }

// tampered is a keystore that shows records otherwise than they are.
type tampered struct {
	core.Keystore
	change func(table core.Table, r *core.Record)
}

func (s *tampered) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	answers, err := s.Keystore.Read(ctx, queries)
	for i := range answers {
		for j := range answers[i] {
			s.change(queries[i].Table, &answers[i][j])
		}
	}
	return answers, err
}

// Every bit of value and version counts, and so does every bit of the root record.
func TestEveryBit(t *testing.T) {
	t.Parallel()
	ks := &tampered{Keystore: memory.New(), change: func(core.Table, *core.Record) {}}
	s := open(t, ks)
	apply(t, s, puts(put(1, "g", "a", "value")))
	read := func() error {
		_, err := s.Read(t.Context(), []seal.Query{{Table: 1, Scope: []byte("g"), Prefix: []byte("a")}})
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	flips := func(of func(*core.Record) []byte, table core.Table, try func() error, what string, want ...error) {
		t.Helper()
		for bit := 0; ; bit++ {
			flipped := false
			ks.change = func(in core.Table, r *core.Record) {
				if b := of(r); in == table && bit/8 < len(b) {
					b[bit/8] ^= 1 << (bit % 8)
					flipped = true
				}
			}
			err := try()
			if !flipped {
				if bit < 8*16 {
					t.Errorf("%s: only %d bits were tried", what, bit)
				}
				return
			}
			if !slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) }) {
				t.Errorf("%s: bit %d flipped: got error %v, want %v", what, bit, err, want)
			}
		}
	}
	flips(func(r *core.Record) []byte { return r.Value }, 1, read, "value", core.ErrDamaged)
	flips(func(r *core.Record) []byte { return r.Version[:] }, 1, read, "version", core.ErrDamaged)
	flips(func(r *core.Record) []byte { return r.Key }, 1, read, "key", core.ErrDamaged)
	reopen := func() error {
		_, err := seal.Open(t.Context(), ks, wrapper(t, 1), "tenant")
		return err
	}
	flips(func(r *core.Record) []byte { return r.Value }, 0, reopen, "root record", core.ErrDamaged, core.ErrWrongKey, core.ErrUnsupported)

	for _, n := range []int{0, 1, 5, 20, 25} {
		ks.change = func(_ core.Table, r *core.Record) { r.Value = r.Value[:min(n, len(r.Value))] }
		if err := read(); !errors.Is(err, core.ErrDamaged) {
			t.Errorf("value cut to %d bytes: got error %v", n, err)
		}
		if err := reopen(); !errors.Is(err, core.ErrDamaged) {
			t.Errorf("root record cut to %d bytes: got error %v", n, err)
		}
	}
	ks.change = func(_ core.Table, r *core.Record) { r.Value = append(r.Value, 0) }
	if err := read(); !errors.Is(err, core.ErrDamaged) {
		t.Errorf("one byte more: got error %v", err)
	}
	if err := reopen(); !errors.Is(err, core.ErrDamaged) {
		t.Errorf("root record with one byte more: got error %v", err)
	}
	ks.change = func(core.Table, *core.Record) {}
	if err := errors.Join(read(), reopen()); err != nil {
		t.Errorf("untouched again: %v", err)
	}
}

// A record that the store moves elsewhere, with its version, is not taken.
func TestMoved(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	s := open(t, ks)
	other := openTenant(t, ks, "other")
	for i, tenant := range []*seal.Store{s, other} {
		apply(t, tenant, puts(put(1, "g1", "a", fmt.Sprint("secret ", i)), put(1, "g1", "b", "x"), put(1, "g2", "a", "y"), put(2, "g1", "a", "z")))
	}
	type place struct {
		table core.Table
		key   string
	}
	var places []place
	from := map[place]core.Record{}
	for table := core.Table(1); table <= 2; table++ {
		answers, err := ks.Read(t.Context(), []core.Query{{Table: table}})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range answers[0] {
			p := place{table, string(r.Key)}
			places, from[p] = append(places, p), r
		}
	}
	everything := []seal.Query{{Table: 1, Scope: []byte("g1")}, {Table: 1, Scope: []byte("g2")}, {Table: 2, Scope: []byte("g1")}}
	for _, to := range places {
		for _, p := range places {
			r := from[p]
			if err := ks.Apply(t.Context(), core.Batch{Puts: []core.Put{{Table: to.table, Key: []byte(to.key), Value: r.Value, Version: r.Version}}}); err != nil {
				t.Fatal(err)
			}
			_, one := s.Read(t.Context(), everything)
			_, two := other.Read(t.Context(), everything)
			if err := errors.Join(one, two); (p != to) != errors.Is(err, core.ErrDamaged) {
				t.Errorf("a record moved from table %d to %d: got error %v", p.table, to.table, err)
			}
		}
		r := from[to]
		if err := ks.Apply(t.Context(), core.Batch{Puts: []core.Put{{Table: to.table, Key: []byte(to.key), Value: r.Value, Version: r.Version}}}); err != nil {
			t.Fatal(err)
		}
	}
}

// Many open a new tenant at once and share one set of keys.
func TestOpenTogether(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	stores := make([]*seal.Store, 8)
	var wg sync.WaitGroup
	for i := range stores {
		wg.Go(func() { stores[i] = open(t, ks) })
	}
	wg.Wait()
	for i, s := range stores {
		apply(t, s, puts(put(1, "g", fmt.Sprint(i), "x")))
	}
	for _, s := range stores {
		if got := contents(t, s, seal.Query{Table: 1, Scope: []byte("g")}); len(got) != len(stores) {
			t.Errorf("one of the stores sees %q", got)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	s := open(t, ks)
	root := dump(t, ks)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 20 {
				apply(t, s, puts(put(1, fmt.Sprint(i), fmt.Sprintf("%02d", n), "x")))
			}
			apply(t, s, seal.Batch{Dels: []seal.Range{{Table: 1, Scope: fmt.Append(nil, i)}}})
		})
	}
	wg.Wait()
	if len(dump(t, ks)) == len(root) {
		t.Error("there is no receipt to be removed")
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if _, err := s.Read(t.Context(), nil); !errors.Is(err, core.ErrClosed) {
			t.Errorf("read after close: got error %v", err)
		}
		if _, err := s.Apply(t.Context(), seal.Batch{}); !errors.Is(err, core.ErrClosed) {
			t.Errorf("apply after close: got error %v", err)
		}
	}
	if !maps.Equal(root, dump(t, ks)) {
		t.Error("a clean close leaves receipts")
	}
}

// Stats counts what a keystore that counts for itself sees.
func TestStats(t *testing.T) {
	t.Parallel()
	ks := &counting{Keystore: memory.New()}
	s := open(t, ks)
	*ks = counting{Keystore: ks.Keystore}
	apply(t, s, puts(put(1, "g", "a", "value")))
	apply(t, s, seal.Batch{Expect: []seal.Expectation{{Table: 1, Scope: []byte("g"), Key: []byte("b")}}, Dels: []seal.Range{{Table: 1, Scope: []byte("g")}}})
	if got := s.Stats(); got != ks.seen || got.Batches != 2 || got.Bytes == 0 {
		t.Errorf("counted %+v, the keystore saw %+v", got, ks.seen)
	}
}

type counting struct {
	core.Keystore
	seen seal.Stats
}

func (c *counting) Apply(ctx context.Context, b core.Batch) error {
	c.seen.Batches++
	for _, e := range b.Expect {
		c.seen.Bytes += int64(len(e.Key))
	}
	for _, d := range b.Dels {
		c.seen.Bytes += int64(len(d.Prefix))
	}
	for _, p := range b.Puts {
		c.seen.Bytes += int64(len(p.Key) + len(p.Value))
	}
	return c.Keystore.Apply(ctx, b)
}
