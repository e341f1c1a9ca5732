// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// TestKeystore is the conformance suite of [core.Keystore]. Each call of open
// gives a new, empty store; the suite closes it. For a store that outlives the
// process, run [TestDurableKeystore] instead, which includes this one.
func TestKeystore(t *testing.T, open func(t *testing.T) core.Keystore) {
	t.Helper()
	runChecks(t, keystoreChecks, open)
}

var keystoreChecks = []check[core.Keystore]{
	{"round trip", keystoreRoundTrip},
	{"order", keystoreOrder},
	{"pages", keystorePages},
	{"keys only", keystoreKeysOnly},
	{"tables are apart", keystoreTables},
	{"expectations", keystoreExpectations},
	{"a deleted and recreated record is another", keystoreRecreated},
	{"ranges are deleted before puts", keystoreDeletes},
	{"a failed batch changes nothing", keystoreAtomic},
	{"random batches", keystoreModel},
	{"readers see whole batches", keystoreSnapshots},
	{"batches of many megabytes are whole", keystoreBigBatches},
	{"a sealed value is sealed anew", keystoreResealed},
	{"expectations twice", keystoreExpectTwice},
	{"no update is lost", keystoreCounter},
	{"two batches that expect the other's absence", keystoreSkew},
	{"ranges beside puts", keystoreRangeRaces},
	{"one of many creates", keystoreCreate},
	{"malformed batches", keystoreMalformed},
	{"limits of a record", keystoreRecordLimits},
	{"limits of a batch", keystoreBatchLimits},
	{"many records at once", keystoreMany},
	{"slices are neither kept nor changed", keystoreSlices},
	{"cancellation", keystoreCancelled},
	{"cancelled on the way", keystoreCancelledMidway},
	{"close", keystoreClose},
	{"close waits", keystoreCloseWaits},
	{"snapshots", keystoreStates},
}

// A kit is an open store with the shorthands of the checks. Its calls run with
// the test's context and end the test on an unexpected error.
type kit struct {
	testing.TB
	store core.Keystore
}

func newKit(t testing.TB, open func() core.Keystore) *kit {
	t.Helper()
	k := &kit{TB: t, store: open()}
	t.Cleanup(func() {
		if err := k.store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return k
}

// put makes a Put with a fresh version.
func put(table core.Table, key, value string) core.Put {
	return core.Put{Table: table, Key: []byte(key), Value: []byte(value), Version: core.NewVersion()}
}

func expect(table core.Table, key string, v core.Version) core.Expectation {
	return core.Expectation{Table: table, Key: []byte(key), Version: v}
}

func del(table core.Table, prefix string) core.Range {
	return core.Range{Table: table, Prefix: []byte(prefix)}
}

func query(table core.Table, prefix string) core.Query {
	return core.Query{Table: table, Prefix: []byte(prefix)}
}

func (k *kit) apply(b core.Batch) {
	k.Helper()
	if err := k.store.Apply(k.Context(), b); err != nil {
		k.Fatalf("apply: %v", err)
	}
}

// puts applies records and returns their versions.
func (k *kit) puts(puts ...core.Put) []core.Version {
	k.Helper()
	k.apply(core.Batch{Puts: puts})
	versions := make([]core.Version, len(puts))
	for i := range puts {
		versions[i] = puts[i].Version
	}
	return versions
}

// refused applies a batch that must fail with the sentinel and change nothing.
func (k *kit) refused(name string, want error, b core.Batch) {
	k.Helper()
	before := k.dump()
	err := k.store.Apply(k.Context(), b)
	if !errors.Is(err, want) {
		k.Errorf("%s: got error %v, want %s", name, err, sentinel(want))
	}
	if err != nil && errors.Is(err, core.ErrUnknownOutcome) && want != core.ErrUnknownOutcome {
		k.Errorf("%s: %v is also ErrUnknownOutcome, though nothing can have happened", name, err)
	}
	if after := k.dump(); !maps.Equal(before, after) {
		k.Errorf("%s: the refused batch changed the store", name)
	}
}

// sentinel is what an error is called in Go.
func sentinel(err error) string {
	for name, is := range map[string]error{"core.ErrConflict": core.ErrConflict, "core.ErrInvalid": core.ErrInvalid, "core.ErrTooLarge": core.ErrTooLarge} {
		if err == is {
			return name
		}
	}
	return err.Error()
}

func (k *kit) read(queries ...core.Query) [][]core.Record {
	k.Helper()
	answers, err := k.store.Read(k.Context(), queries)
	if err != nil {
		k.Fatalf("read: %v", err)
	}
	if len(answers) != len(queries) {
		k.Fatalf("read: %d answers to %d queries", len(answers), len(queries))
	}
	return answers
}

// one reads a single record, nil if it is absent.
func (k *kit) one(table core.Table, key string) *core.Record {
	k.Helper()
	answer := k.read(query(table, key))[0]
	switch {
	case len(answer) == 0:
		return nil
	case len(answer) > 1 || string(answer[0].Key) != key:
		k.Fatalf("a query for the full key %q gave %s", key, keysOf(answer))
	}
	return &answer[0]
}

// has fails unless the store holds exactly what was put, under its version.
func (k *kit) has(p core.Put) {
	k.Helper()
	r := k.one(p.Table, string(p.Key))
	switch {
	case r == nil:
		k.Errorf("record %x of table %d is missing", p.Key, p.Table)
	case !bytes.Equal(r.Value, p.Value):
		k.Errorf("record %x of table %d has the wrong value (%d bytes, want %d)", p.Key, p.Table, len(r.Value), len(p.Value))
	case r.Version != p.Version:
		k.Errorf("record %x of table %d has version %x, want %x", p.Key, p.Table, r.Version, p.Version)
	}
}

// absent fails if the record is there.
func (k *kit) absent(table core.Table, key string) {
	k.Helper()
	if k.one(table, key) != nil {
		k.Errorf("record %q of table %d is there", key, table)
	}
}

// dumpTables are the tables that the checks write.
var dumpTables = []core.Table{0, 1, 2, 3, 255}

// dump reads all records, as text, for comparisons.
func (k *kit) dump() map[string]string {
	k.Helper()
	queries := make([]core.Query, len(dumpTables))
	for i, table := range dumpTables {
		queries[i].Table = table
	}
	all := make(map[string]string)
	for i, answer := range k.read(queries...) {
		for _, r := range answer {
			all[fmt.Sprintf("%d/%x", dumpTables[i], r.Key)] = fmt.Sprintf("%x %x", r.Version, r.Value)
		}
	}
	return all
}

func keysOf(records []core.Record) string {
	keys := make([]string, len(records))
	for i, r := range records {
		keys[i] = fmt.Sprintf("%q", r.Key)
	}
	return "[" + strings.Join(keys, " ") + "]"
}

func sameKeys(t testing.TB, what string, got []core.Record, want []string) {
	t.Helper()
	if !slices.EqualFunc(got, want, func(r core.Record, key string) bool { return string(r.Key) == key }) {
		t.Errorf("%s: got %s, want %q", what, keysOf(got), want)
	}
}

// retry runs f until it gives something else than the errors that a caller
// should retry, or has given them a thousand times.
func retry(f func() error) (err error) {
	for range 1000 {
		if err = f(); !errors.Is(err, core.ErrConflict) && !errors.Is(err, core.ErrUnavailable) {
			break
		}
	}
	return err
}
