// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/host"
)

// TestMain is also the plugin, which is this program again.
func TestMain(m *testing.M) {
	if _, ok := os.LookupEnv("URI"); ok {
		main()
		return
	}
	os.Exit(m.Run())
}

// records keeps what is logged.
type records struct {
	slog.Handler
	mu  sync.Mutex
	all []string
}

func (r *records) Handle(_ context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, rec.Message)
	return nil
}
func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }

// A plugin without its token says what is wrong and ends. With a token it is tested in
// softhsm-test, TestTokenPlugin.
func TestWithoutToken(t *testing.T) {
	folder := t.TempDir() // this program again, copied: who built it may have let a group write to it
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile(path)
	path = filepath.Join(folder, "conclave-plugin-token")
	if err = errors.Join(err, os.Chmod(folder, 0o700), os.WriteFile(path, code, 0o700)); err != nil {
		t.Fatal(err)
	}
	uri := "URI=pkcs11:token=none?module-path=/no/such/module.so&pin-value=1"
	for says, env := range map[string][]string{
		"LATCH names no folder": {uri},
		"PKCS":                  {uri, "LATCH=latch"}, // no module, or a program that was built for none
	} {
		r := &records{}
		p, err := host.Launch(t.Context(), host.Config{
			Name: "token", Path: path, Unpinned: true, Dir: folder, Logger: slog.New(r), Env: env,
		})
		if core.Kind(err) != core.ErrUnavailable {
			t.Errorf("%v, want ErrUnavailable", err)
		}
		if err == nil {
			_ = p.Close()
		}
		r.mu.Lock()
		if all := strings.Join(r.all, "\n"); !strings.Contains(all, says) {
			t.Errorf("it says %q, want %q", all, says)
		}
		r.mu.Unlock()
	}
}
