// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

var histories = flag.Int("histories", 1000, "how many histories TestSegmentModel compares to a map")

func openSealed(ctx context.Context, ks core.Keystore) (*seal.Store, error) {
	wrapper, err := seal.RawKey(core.NewSecret(make([]byte, 32)))
	if err != nil {
		return nil, err
	}
	return seal.Open(ctx, ks, wrapper, "device")
}

func openStore(t testing.TB, ks core.Keystore) *seal.Store {
	t.Helper()
	store, err := openSealed(t.Context(), ks)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// A history is what happens to a store, at random: segments that read and write, become
// durable or come to nothing, meet a segment of somebody else, or lose their process. A
// plain map does the same. What happens does not depend on the answers, so that another
// process can repeat it.
type history struct {
	rng   *rand.Rand
	long  bool // there are long values
	ks    *readCounter
	store *seal.Store

	durable map[string]entry // by place and key
	next    map[string]entry // what it will be when the write under way is done
	stamp   int

	// The open segment: what it did, in order, and what it expects.
	b        *client.Buffer
	log      []write
	expected map[string]int // stamps; 0: absent
}

// An entry of the map has a stamp, as a record has a version.
type entry struct {
	value string
	stamp int
}

// A write is a put, or a deletion of all that begins with the key.
type write struct {
	key   string // with its place
	value string
	del   bool
}

// A readCounter counts reads.
type readCounter struct {
	core.Keystore
	reads atomic.Int64
}

func (c *readCounter) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	c.reads.Add(1)
	return c.Keystore.Read(ctx, queries)
}

func newHistory(ctx context.Context, seed uint64, ks core.Keystore, durable map[string]entry) (h *history, err error) {
	h = &history{rng: rand.New(rand.NewPCG(seed, 1)), long: seed%20 == 0, ks: &readCounter{Keystore: ks}, durable: durable}
	if h.store, err = openSealed(ctx, h.ks); err == nil {
		h.begin()
	}
	return h, err
}

func (h *history) begin() {
	h.b, h.log, h.expected = client.NewBuffer(h.store), nil, map[string]int{}
}

// place and key are random; key has the bytes that tell long values from short ones.
func (h *history) place() int {
	if h.long {
		return client.LongPlaces + h.rng.IntN(client.BufferPlaces-client.LongPlaces)
	}
	return h.rng.IntN(client.BufferPlaces)
}

func (h *history) key() []byte {
	first := []byte{byte(mls.RecordRatchet), byte(mls.RecordHeader), byte(mls.RecordTreeNode)}
	if h.long { // fewer, so that they are replaced
		return []byte{first[h.rng.IntN(3)], 0}
	}
	return []byte{first[h.rng.IntN(3)], byte(h.rng.IntN(4))}
}

// keyOf is a key that the segment expects already, if there is one, or another.
func (h *history) keyOf() (place int, key []byte) {
	if known := slices.Sorted(maps.Keys(h.expected)); len(known) > 0 && h.rng.IntN(2) == 0 {
		name := known[h.rng.IntN(len(known))]
		return int(name[0]), []byte(name[1:])
	}
	return h.place(), h.key()
}

func (h *history) prefix() []byte { return h.key()[:h.rng.IntN(3)] }

func (h *history) value(place int, key []byte) []byte {
	v := fmt.Sprint(h.rng.IntN(1000))
	switch h.rng.IntN(8) {
	case 0:
		v = ""
	case 1, 2:
		if h.long && place >= client.LongPlaces && (place == client.LongPlaces || key[0] == byte(mls.RecordHeader)) {
			size := seal.MaxValue*(1+h.rng.IntN(2)) + h.rng.IntN(5) - 2 - 21*h.rng.IntN(2) // about where parts end
			v = strings.Repeat("long", size/4+1)[:size]
		}
	}
	return []byte(v)
}

func named(place int, key []byte) string { return string(append([]byte{byte(place)}, key...)) }

// over is what the writes make of a map, in order.
func (h *history) over(m map[string]entry, log []write) map[string]entry {
	m = maps.Clone(m)
	for _, w := range log {
		if w.del {
			maps.DeleteFunc(m, func(key string, _ entry) bool { return strings.HasPrefix(key, w.key) })
			continue
		}
		h.stamp++
		m[w.key] = entry{w.value, h.stamp}
	}
	return m
}

func (h *history) touched(key string) bool {
	return slices.ContainsFunc(h.log, func(w write) bool { return w.key == key || w.del && strings.HasPrefix(key, w.key) })
}

// step does something. An error says what is wrong.
func (h *history) step(ctx context.Context) error {
	place, key := h.place(), h.key()
	name := named(place, key)
	switch h.rng.IntN(16) {
	case 0, 1, 2, 3:
		v := h.value(place, key)
		h.log = append(h.log, write{key: name, value: string(v)})
		h.b.Put(place, key, v)
	case 4, 5:
		prefix := h.prefix()
		h.log = append(h.log, write{key: named(place, prefix), del: true})
		h.b.Del(place, prefix)
	case 6:
		return h.commit(ctx)
	case 7: // abort
		if h.rng.IntN(3) == 0 {
			h.begin()
		}
	case 8: // somebody else writes
		return h.meet(ctx)
	case 9: // the process ends, well or not
		if h.rng.IntN(3) == 0 {
			if h.rng.IntN(2) == 0 {
				if err := h.store.Close(); err != nil {
					return err
				}
			}
			var err error
			if h.store, err = openSealed(ctx, h.ks); err != nil {
				return err
			}
			h.begin()
		}
	case 10, 11:
		place, key := h.keyOf()
		name := named(place, key)
		if _, known := h.expected[name]; !known && !h.touched(name) {
			h.expected[name] = h.durable[name].stamp
		}
		r, found, err := h.b.GetExpected(ctx, place, key)
		return h.compareOne("expected", name, r, found, err)
	case 12:
		r, found, err := h.b.Get(ctx, place, key)
		return h.compareOne("get", name, r, found, err)
	default:
		return h.scan(ctx)
	}
	return nil
}

// commit makes the segment durable, unless somebody has changed what it expects.
func (h *history) commit(ctx context.Context) error {
	conflict := false
	for key, stamp := range h.expected {
		conflict = conflict || h.durable[key].stamp != stamp
	}
	h.next = h.durable
	if !conflict {
		h.next = h.over(h.durable, h.log)
	}
	err := h.b.Apply(ctx)
	if conflict != errors.Is(err, core.ErrConflict) || !conflict && err != nil {
		return fmt.Errorf("apply, conflict %v: %w", conflict, err)
	}
	h.durable = h.next
	h.begin()
	if h.long {
		return h.parts(ctx)
	}
	return nil
}

// meet has another segment write, of another process or of this one.
func (h *history) meet(ctx context.Context) error {
	store := h.store
	if h.rng.IntN(2) == 0 {
		var err error
		if store, err = openSealed(ctx, h.ks); err != nil {
			return err
		}
	}
	other := client.NewBuffer(store)
	var log []write
	for range 1 + h.rng.IntN(2) {
		place, key := h.keyOf()
		if h.rng.IntN(2) == 0 {
			log = append(log, write{key: named(place, key[:1]), del: true})
			other.Del(place, key[:1])
		}
		log = append(log, write{key: named(place, key), value: "other"})
		other.Put(place, key, []byte("other"))
	}
	h.next = h.over(h.durable, log)
	if err := other.Apply(ctx); err != nil {
		return err
	}
	h.durable = h.next
	return nil
}

// compareOne compares one record to the map.
func (h *history) compareOne(what, name string, r seal.Record, found bool, err error) error {
	want, there := h.over(h.durable, h.log)[name]
	if err != nil || found != there || string(r.Value) != want.value {
		return fmt.Errorf("%s %x: %v, %.20q, %w; want %v, %.20q", what, name, found, r.Value, err, there, want.value)
	}
	clear(r.Value) // it is ours
	return nil
}

// scan asks one or several questions at once: that is one read of the store, and one
// more if a value that is stored is longer than a record.
func (h *history) scan(ctx context.Context) error {
	var queries []client.BufferQuery
	for range 1 + h.rng.IntN(3) {
		q := client.BufferQuery{Place: h.place(), Prefix: h.prefix(), Limit: h.rng.IntN(4), KeysOnly: h.rng.IntN(3) == 0}
		if h.rng.IntN(2) == 0 {
			q.After = h.key()
		}
		queries = append(queries, q)
	}
	before := h.ks.reads.Load()
	answers, err := h.b.Read(ctx, queries...)
	if err != nil {
		return err
	}
	reads, most := h.ks.reads.Load()-before, int64(1)
	view := h.over(h.durable, h.log)
	for i, q := range queries {
		prefix := named(q.Place, q.Prefix)
		for key, e := range h.durable {
			if !q.KeysOnly && strings.HasPrefix(key, prefix) && len(e.value) >= seal.MaxValue {
				most = 2
			}
		}
		want := slices.DeleteFunc(slices.Sorted(maps.Keys(view)), func(key string) bool {
			return !strings.HasPrefix(key, prefix) || len(q.After) > 0 && bytes.Compare([]byte(key[1:]), q.After) <= 0
		})
		if q.Limit > 0 && len(want) > q.Limit {
			want = want[:q.Limit]
		}
		if len(answers[i]) != len(want) {
			return fmt.Errorf("%+v: %d records, want %d", q, len(answers[i]), len(want))
		}
		for j, r := range answers[i] {
			value := view[want[j]].value
			if q.KeysOnly {
				value = ""
			}
			if string(r.Key) != want[j][1:] || string(r.Value) != value {
				return fmt.Errorf("%+v: record %d is %x, %.20q, want %x, %.20q", q, j, r.Key, r.Value, want[j][1:], value)
			}
			clear(r.Value)
			clear(r.Key)
		}
	}
	if reads < 1 || reads > most {
		return fmt.Errorf("%d reads of the store for %+v", reads, queries)
	}
	return nil
}

// all compares everything that is stored.
func (h *history) all(ctx context.Context) error {
	h.begin()
	for place := range client.BufferPlaces {
		answers, err := h.b.Read(ctx, client.BufferQuery{Place: place})
		if err != nil {
			return err
		}
		n := 0
		for key := range h.durable {
			if key[0] == byte(place) {
				n++
			}
		}
		if len(answers[0]) != n {
			return fmt.Errorf("%d records are stored in place %d, want %d", len(answers[0]), place, n)
		}
		for _, r := range answers[0] {
			if want, found := h.durable[named(place, r.Key)]; !found || string(r.Value) != want.value {
				return fmt.Errorf("%x is stored as %.20q, want %.20q", r.Key, r.Value, want.value)
			}
		}
	}
	return h.parts(ctx)
}

// parts counts those of long values.
func (h *history) parts(ctx context.Context) error {
	parts, err := h.ks.Read(ctx, []core.Query{{Table: client.TableParts, KeysOnly: true}})
	if err != nil {
		return err
	}
	want := 0
	for _, e := range h.durable {
		if len(e.value) >= seal.MaxValue {
			want += (len(e.value) - 1) / client.PartLen
		}
	}
	if len(parts[0]) != want {
		return fmt.Errorf("%d parts of long values are stored, want %d", len(parts[0]), want)
	}
	return nil
}

const stepsOfHistory = 60

func (h *history) run(ctx context.Context) error {
	for n := range stepsOfHistory {
		if err := h.step(ctx); err != nil {
			return fmt.Errorf("step %d: %w", n, err)
		}
	}
	return h.all(ctx)
}

// core-crypto/transaction: compares random histories to a plain map. The process that
// ends is a store that is opened again without being closed; of every twenty-fifth history
// it is a process, killed before or after a write.
func TestSegmentModel(t *testing.T) {
	t.Parallel()
	n := *histories
	if testing.Short() {
		n = min(n, 100)
	}
	for part := range 2 { // one for each processor
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			t.Parallel()
			for seed := uint64(part); seed < uint64(n); seed += 2 {
				var err error
				switch {
				case seed%25 == 20:
					err = killedHistory(t, seed)
				case seed%50 == 10:
					err = historyOn(t, seed, openSQLite(t, filepath.Join(t.TempDir(), "store")))
				default:
					err = historyOn(t, seed, memory.New())
				}
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		})
	}
}

func openSQLite(t testing.TB, path string) core.Keystore {
	t.Helper()
	ks, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return ks
}

func historyOn(t testing.TB, seed uint64, ks core.Keystore) error {
	h, err := newHistory(t.Context(), seed, ks, map[string]entry{})
	if err == nil {
		err = h.run(t.Context())
	}
	return errors.Join(err, ks.Close())
}

// errPoint ends a history where the other process was killed.
var errPoint = errors.New("the point is reached")

// killedHistory has a process play a history and die at one of its points; here a map
// plays it up to there. Then life goes on in the store that is left.
func killedHistory(t testing.TB, seed uint64) error {
	killAt := 1 + int(seed/25)%12
	o := order{Dir: t.TempDir(), History: seed + 1, KillAt: killAt}
	_, killed := run(t, o)
	p := &points{}
	p.at = func(n int) {
		if n == killAt {
			panic(errPoint)
		}
	}
	var h *history
	err := func() (err error) {
		defer func() {
			if r := recover(); r == errPoint {
				err = errPoint
			} else if r != nil {
				panic(r)
			}
		}()
		if h, err = newHistory(t.Context(), seed, &mortal{memory.New(), p}, map[string]entry{}); err != nil {
			return err
		}
		p.armed.Store(true)
		return h.run(t.Context())
	}()
	if killed != (err == errPoint) || err != nil && !killed {
		return fmt.Errorf("killed: %v, here: %w", killed, err)
	}
	durable := h.durable
	if killed && killAt%2 == 0 { // behind the write
		durable = h.next
	}
	ks := openSQLite(t, filepath.Join(o.Dir, "store"))
	after, err := newHistory(t.Context(), seed+1, ks, durable)
	if err == nil {
		after.stamp = h.stamp
		if err = after.all(t.Context()); err == nil {
			after.begin()
			err = after.run(t.Context())
		}
	}
	return errors.Join(err, ks.Close())
}

// playHistory is the child's part of it.
func playHistory(ctx context.Context, o order) error {
	store, err := sqlite.Open(ctx, filepath.Join(o.Dir, "store"))
	if err != nil {
		return err
	}
	p := &points{killAt: o.KillAt}
	h, err := newHistory(ctx, o.History-1, &mortal{store, p}, map[string]entry{})
	if err != nil {
		return err
	}
	p.armed.Store(true)
	return errors.Join(h.run(ctx), store.Close())
}

func TestSegmentExpectations(t *testing.T) {
	t.Parallel()
	store := openStore(t, memory.New())
	a, b := client.NewBuffer(store), client.NewBuffer(store)
	for _, x := range []*client.Buffer{a, b} {
		x.Expect(0, []byte("k"), core.Version{})
		x.Put(0, []byte("k"), []byte("v"))
	}
	if err := a.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Apply(t.Context()); !errors.Is(err, core.ErrConflict) {
		t.Fatalf("the second: %v", err)
	}
}
