// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

// asked notes what a keystore is asked for and answers.
type asked struct {
	core.Keystore
	note func(core.Query, []core.Record)
}

func (a *asked) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	found, err := a.Keystore.Read(ctx, queries)
	for i := range found {
		a.note(queries[i], found[i])
	}
	return found, err
}

// Whatever is listed for a tenant, the keystore hands out no record of another.
func TestListingNeverCrosses(t *testing.T) {
	t.Parallel()
	ks := &asked{memory.New(), func(core.Query, []core.Record) {}}
	var stores []*seal.Store
	for i := range 20 {
		s := openTenant(t, ks, fmt.Sprint("tenant ", i))
		for j := range 5 {
			apply(t, s, puts(put(1, "scope", fmt.Sprint(j), "value"), put(2, fmt.Sprint("scope ", j), "", "")))
		}
		stores = append(stores, s)
	}
	seen := map[string]int{} // record to whose it is
	for i, s := range stores {
		ks.note = func(q core.Query, found []core.Record) {
			for _, r := range found {
				name := fmt.Sprintf("%d/%x", q.Table, r.Key)
				if owner, ok := seen[name]; ok && owner != i {
					t.Errorf("tenant %d was shown what is of tenant %d", i, owner)
				}
				seen[name] = i
			}
		}
		n := 0
		for table := core.Table(1); table < 3; table++ {
			if err := s.Each(t.Context(), table, func(seal.Record) error { n++; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if report, err := s.Verify(t.Context(), nil); err != nil || report.Records != 10 || n != 10 {
			t.Errorf("%+v, %v, %d", report, err, n)
		}
		if _, err := s.Backup(t.Context(), &bytes.Buffer{}, nil); err != nil {
			t.Error(err)
		}
		rotate(t, s)
	}
	if len(seen) < 200 {
		t.Errorf("%d records were seen", len(seen))
	}
}

// What killed processes left is removed after a time, and what is in use is not.
func TestReceiptsAreSwept(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	receipts := func(ks core.Keystore) (n int) {
		for key := range dump(t, ks) {
			if len(key) == len("0/")+28 { // the others in table 0 have 16 bytes
				n++
			}
		}
		return n
	}
	synctest.Test(t, func(t *testing.T) {
		ks := memory.New()
		lives := open(t, ks)
		for range 3 { // killed
			apply(t, open(t, ks), seal.Batch{Puts: []seal.Put{{Table: 200, Scope: []byte("scope")}}})
		}
		apply(t, lives, seal.Batch{Puts: []seal.Put{{Table: 200, Scope: []byte("scope")}}})
		for range 70 {
			time.Sleep(day)
			apply(t, lives, seal.Batch{Puts: []seal.Put{{Table: 200, Scope: []byte("scope")}}})
			open(t, ks)
		}
		// One that is in use, and those that the one that lives has left in 60 days.
		if n := receipts(ks); n < 8 || n > 9 {
			t.Errorf("%d receipts", n)
		}
		if err := lives.Close(); err != nil {
			t.Error(err)
		}
		if n := receipts(ks); n != 0 {
			t.Errorf("%d receipts after a clean end", n)
		}
	})
}

func TestExists(t *testing.T) {
	ctx := t.Context()
	ks := memory.New()
	wrapper, err := seal.RawKey(core.NewSecret(bytes.Repeat([]byte{1}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // asking does not make it
		if there, err := seal.Exists(ctx, ks, "a"); there || err != nil {
			t.Fatalf("before Open: %v, %v", there, err)
		}
	}
	store, err := seal.Open(ctx, ks, wrapper, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if there, err := seal.Exists(ctx, ks, "a"); !there || err != nil {
		t.Errorf("after Open: %v, %v", there, err)
	}
	if there, err := seal.Exists(ctx, ks, "b"); there || err != nil {
		t.Errorf("another tenant: %v, %v", there, err)
	}
}
