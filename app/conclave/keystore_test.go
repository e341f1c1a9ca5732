// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// Records that were changed are counted, and verify fails.
func TestKeystoreVerifyDamaged(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	c := config.Default(home)
	if err := errors.Join(c.Save(filepath.Join(home, configName)), modules.NewKeyFile(filepath.Join(home, "store.key"))); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := (&program{in: &out, out: &out, err: &out}).execute(t.Context(), append([]string{"--home", home}, args...))
		return out.String(), err
	}
	p := &program{home: home}
	err := p.keystoreOf(t.Context(), c, func(ctx context.Context, k sealedKeystore) error {
		store, err := seal.Open(ctx, k.raw, k.key, k.tenant)
		if err != nil {
			return err
		}
		defer store.Close()
		_, err = store.Apply(ctx, seal.Batch{Puts: []seal.Put{{Table: 1, Key: []byte("a")}, {Table: 1, Key: []byte("b")}, {Table: 1, Key: []byte("c")}}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := run("keystore", "verify"); err != nil || !strings.Contains(out, "all 3 records are whole") {
		t.Errorf("%s, %v", out, err)
	}
	store, err := sqlite.Open(t.Context(), filepath.Join(home, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	found, err := store.Read(t.Context(), []core.Query{{Table: 1}})
	if err != nil {
		t.Fatal(err)
	}
	r := found[0][1]
	r.Value[len(r.Value)-1]++
	err = store.Apply(t.Context(), core.Batch{Puts: []core.Put{{Table: 1, Key: r.Key, Value: r.Value, Version: r.Version}}})
	if err := errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := run("keystore", "verify"); !errors.Is(err, core.ErrDamaged) || !strings.Contains(err.Error(), "1 of 3 records are damaged") {
		t.Errorf("%v", err)
	}
	if out, err := run("keystore", "info"); err != nil || !strings.Contains(out, "1 damaged") {
		t.Errorf("%s, %v", out, err)
	}
	if out, err := run("keystore", "backup", filepath.Join(home, "backup")); err != nil || !strings.Contains(out, "1 records are damaged") {
		t.Errorf("%s, %v", out, err)
	}
}
