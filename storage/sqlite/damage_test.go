// SPDX-License-Identifier: Apache-2.0

package sqlite_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

const pageSize = 4096

// A sealedModel is what a client has put into a store.
type sealedModel struct {
	key    []byte
	scopes map[scopeOf]map[string][]byte
}

type scopeOf struct {
	table core.Table
	scope string
}

func (m *sealedModel) wrapper(t *testing.T) core.KeyWrapper {
	t.Helper()
	w, err := seal.RawKey(core.NewSecret(bytes.Clone(m.key)))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// damageable makes a store of about 200 pages with all kinds of them: index and
// table, inner pages, long values, free pages.
func damageable(t *testing.T) (content []byte, m *sealedModel) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store")
	m = &sealedModel{key: bytes.Repeat([]byte{7}, 32), scopes: map[scopeOf]map[string][]byte{}}
	ks := open(t, path)
	s, err := seal.Open(t.Context(), ks, m.wrapper(t), "tenant")
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		where := scopeOf{core.Table(1 + i%3), fmt.Sprint("scope ", i%20)}
		b := seal.Batch{}
		for j := range 8 {
			key, value := fmt.Appendf(nil, "%03d.%d", i, j), make([]byte, random.IntN(900))
			if j == 0 {
				value = make([]byte, 9000) // pages of its own
			}
			_, _ = rand.NewChaCha8([32]byte{byte(i), byte(j)}).Read(value)
			b.Puts = append(b.Puts, seal.Put{Table: where.table, Scope: []byte(where.scope), Key: key, Value: value})
			if m.scopes[where] == nil {
				m.scopes[where] = map[string][]byte{}
			}
			m.scopes[where][string(key)] = value
		}
		if _, err := s.Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	b := seal.Batch{}
	for i := range 10 {
		where := scopeOf{core.Table(1 + i%3), fmt.Sprint("scope ", i%20)}
		delete(m.scopes[where], fmt.Sprintf("%03d.0", i))
		b.Dels = append(b.Dels, seal.Range{Table: where.table, Scope: []byte(where.scope), Prefix: fmt.Appendf(nil, "%03d.0", i)})
	}
	if _, err := s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), ks.Close()); err != nil {
		t.Fatal(err)
	}
	content = contentOf(t, path)
	if n := len(content) / pageSize; n < 180 || n > 260 {
		t.Fatalf("the store has %d pages", n)
	}
	return content, m
}

// use opens a store and compares all that it says with the model, each record by
// its key and each scope as a whole, then writes. It returns how many typed errors
// there were; a wrong answer or another error fails the test.
func (m *sealedModel) use(t *testing.T, what, path string) (refused int) {
	t.Helper()
	typed := func(step string, err error) bool {
		if err == nil {
			return false
		}
		if !errors.Is(err, core.ErrDamaged) && !errors.Is(err, core.ErrRolledBack) && !errors.Is(err, core.ErrWrongKey) {
			t.Errorf("%s: %s: error %v", what, step, err)
		}
		refused++
		return true
	}
	ctx := context.Background()
	ks, err := sqlite.Open(ctx, path)
	if typed("open", err) {
		return refused
	}
	defer func() { typed("close", ks.Close()) }()
	s, err := seal.Open(ctx, ks, m.wrapper(t), "tenant")
	if typed("unseal", err) {
		return refused
	}
	defer func() { typed("close", s.Close()) }()
	for where, records := range m.scopes {
		scan := func(limit int) {
			found, err := s.Read(ctx, []seal.Query{{Table: where.table, Scope: []byte(where.scope), Limit: limit}})
			if typed("scan", err) {
				return
			}
			if len(found[0]) != min(limit, len(records)) {
				t.Errorf("%s: scan of %v has %d records, not %d", what, where, len(found[0]), len(records))
			}
			for _, r := range found[0] {
				if value, ok := records[string(r.Key)]; !ok || !bytes.Equal(value, r.Value) {
					t.Errorf("%s: scan of %v has a wrong record %q", what, where, r.Key)
				}
			}
		}
		scan(1000)
		scan(3)
		for key, value := range records {
			found, err := s.Read(ctx, []seal.Query{{Table: where.table, Scope: []byte(where.scope), Prefix: []byte(key)}})
			if typed("read", err) {
				continue
			}
			if len(found[0]) != 1 || !bytes.Equal(found[0][0].Value, value) {
				t.Errorf("%s: %v %q is wrong (%d records)", what, where, key, len(found[0]))
			}
		}
		if where.scope != "scope 1" {
			continue // few writes: each is synced
		}
		_, err := s.Apply(ctx, seal.Batch{Puts: []seal.Put{{Table: 9, Scope: []byte(where.scope), Key: []byte("k"), Value: make([]byte, 5000)}}})
		if !typed("apply", err) {
			found, err := s.Read(ctx, []seal.Query{{Table: 9, Scope: []byte(where.scope)}})
			if !typed("read back", err) && (len(found[0]) != 1 || len(found[0][0].Value) != 5000) {
				t.Errorf("%s: what was put is not there", what)
			}
		}
	}
	return refused
}

// Each page is zeroed in turn, and the file is cut off at many places: whoever
// reads it gets a typed error or right answers.
func TestDamage(t *testing.T) {
	t.Parallel()
	content, m := damageable(t)
	path := filepath.Join(t.TempDir(), "store")
	try := func(what string, content []byte) int {
		for _, suffix := range []string{"-wal", "-shm"} {
			_ = os.Remove(path + suffix)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return m.use(t, what, path)
	}
	if n := try("undamaged", content); n != 0 {
		t.Fatalf("%d errors without any damage", n)
	}
	noticed := 0
	for page := range len(content) / pageSize {
		damaged := bytes.Clone(content)
		clear(damaged[page*pageSize : (page+1)*pageSize])
		if try(fmt.Sprint("page ", page+1), damaged) > 0 {
			noticed++
		}
	}
	t.Logf("%d of %d zeroed pages were noticed", noticed, len(content)/pageSize)
	cuts := []int{0, 1, 99, 100, 511, 512, pageSize, len(content) - 1, len(content) - 100, len(content) - pageSize/2, len(content) - pageSize}
	for range 60 {
		cuts = append(cuts, rand.IntN(len(content)))
	}
	for _, n := range slices.Compact(cuts) {
		if try(fmt.Sprint("cut to ", n), content[:n]) == 0 {
			t.Errorf("cut to %d of %d bytes: nothing is noticed", n, len(content))
		}
	}
}

// A part of a page can be lost such that records are missing and nothing else is
// wrong: Check notices that.
func TestCheckNotices(t *testing.T) {
	t.Parallel()
	content, m := damageable(t)
	missed := 0
	for range 60 {
		at := rand.IntN(len(content)/512) * 512
		damaged := bytes.Clone(content)
		clear(damaged[at : at+512])
		path := write(t, t.TempDir(), "store", damaged)
		s, err := sqlite.Open(t.Context(), path)
		if err == nil {
			err = s.Check(t.Context())
			s.Close()
		}
		switch {
		case err == nil:
			missed++
			m.use(t, fmt.Sprint("from byte ", at), path) // values that do not authenticate
		case !errors.Is(err, core.ErrDamaged):
			t.Errorf("from byte %d: error %v", at, err)
		}
	}
	if missed == 60 {
		t.Error("nothing is noticed")
	}
}
