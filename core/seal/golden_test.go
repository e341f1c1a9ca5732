// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

// What format 1 wrote must stay readable. The file has a record of the keystore
// per line: table, key, version, value. To add a format, write one with
// dumpGolden and leave the old files as they are.
func TestGolden(t *testing.T) {
	t.Parallel()
	ks := golden(t)
	for tenant, w := range map[string]core.KeyWrapper{"raw": wrapper(t, 1), "passphrase": passphrase(t, "correct horse battery staple")} {
		s, err := seal.Open(t.Context(), ks, w, tenant)
		if err != nil {
			t.Fatal(err)
		}
		is(t, tenant, contents(t, s, seal.Query{Table: 1, Scope: []byte("group")}), "a=one of "+tenant, "b=")
		is(t, tenant, contents(t, s, seal.Query{Table: 2, Scope: []byte("group")}), "=two of "+tenant)
	}
}

// golden is a keystore with what the file holds.
func golden(t testing.TB) core.Keystore {
	t.Helper()
	content, err := os.ReadFile("testdata/format-1.txt")
	if err != nil {
		t.Fatal(err)
	}
	ks := memory.New()
	for line := range strings.Lines(string(content)) {
		var table core.Table
		var key, version, value string
		if _, err := fmt.Sscan(line, &table, &key, &version, &value); err != nil {
			t.Fatal(err)
		}
		value = strings.TrimPrefix(value, "-") // an empty one
		p := core.Put{Table: table, Key: unhex(t, key), Value: unhex(t, value), Version: core.Version(unhex(t, version))}
		if err := ks.Apply(t.Context(), core.Batch{Puts: []core.Put{p}}); err != nil {
			t.Fatal(err)
		}
	}
	return ks
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// dumpGolden writes the file.
func dumpGolden(t *testing.T, path string) {
	t.Helper()
	ks := memory.New()
	for tenant, w := range map[string]core.KeyWrapper{"raw": wrapper(t, 1), "passphrase": passphrase(t, "correct horse battery staple")} {
		s, err := seal.Open(t.Context(), ks, w, tenant)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, s, puts(put(1, "group", "a", "one of "+tenant), put(1, "group", "b", ""), put(2, "group", "", "two of "+tenant)))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	for table := core.Table(0); table <= 2; table++ {
		answers, err := ks.Read(t.Context(), []core.Query{{Table: table}})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range answers[0] {
			value := cmp.Or(hex.EncodeToString(r.Value), "-")
			fmt.Fprintf(&out, "%d %x %x %s\n", table, r.Key, r.Version, value)
		}
	}
	if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The golden file of the newest format can still be made.
func TestDumpGolden(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/new"
	dumpGolden(t, path)
	made, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile("testdata/format-1.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(made) != len(kept) {
		t.Errorf("the format now takes %d bytes, format 1 took %d", len(made), len(kept))
	}
}
