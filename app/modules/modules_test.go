// SPDX-License-Identifier: Apache-2.0

package modules_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app"
	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/providers/crl"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A store of one's own under a scheme of one's own.
func ExampleScheme() {
	open := func(_ context.Context, u config.URI) (core.Keystore, error) {
		fmt.Println("opening", u)
		return memory.New(), nil
	}
	c := config.Default("/nowhere")
	c.Keystore, c.Key = "mystore:here", "random:"
	var cl *client.Client
	a := app.New(c, modules.Scheme("mystore", open), fx.Populate(&cl))
	err := app.Run(context.Background(), a, func(ctx context.Context) error {
		list, err := cl.Conversations(ctx)
		fmt.Println(len(list), "conversations")
		return err
	})
	fmt.Println(err)
	// Output:
	// opening mystore:here
	// 0 conversations
	// <nil>
}

// openKey opens a store with the key of a configuration.
func openKey(t *testing.T, folder, keystore, key string, options ...fx.Option) error {
	t.Helper()
	c := config.Default(folder)
	c.Keystore, c.Key = keystore, key
	var cl *client.Client
	return app.Run(t.Context(), app.New(c, append(options, fx.Populate(&cl))...), func(ctx context.Context) error {
		_, err := cl.Conversations(ctx)
		return err
	})
}

// Revocation lists may be in the networks that the configuration names.
func TestListNetworks(t *testing.T) {
	t.Parallel()
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	for networks, want := range map[string]error{
		"": crl.ErrNetwork, "10.0.0.0/8": crl.ErrNetwork, "10.0.0.0/8 127.0.0.0/8": core.ErrNotFound, "127.0.0.1": core.ErrInvalid,
	} {
		c := config.Default(t.TempDir())
		c.Keystore, c.Key, c.ListNetworks = "memory:", "random:", networks
		var lists *crl.Fetcher
		err := app.Run(t.Context(), app.New(c, fx.Populate(&lists)), func(ctx context.Context) error {
			_, err := lists.Fetch(ctx, server.URL+"/crl")
			return err
		})
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", networks, err, want)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestKeyFile(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "store.key")
	if err := openKey(t, folder, "memory:", "file:store.key"); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("no file: %v", err)
	}
	if err := modules.NewKeyFile(path); err != nil {
		t.Fatal(err)
	}
	if err := modules.NewKeyFile(path); !errors.Is(err, core.ErrConflict) {
		t.Errorf("a second time: %v", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || len(text) != 65 {
		t.Errorf("mode %v, %d bytes, %v", info.Mode(), len(text), err)
	}
	for range 2 { // made, and opened again
		if err := openKey(t, folder, "sqlite:store.db", "file:store.key"); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := openKey(t, folder, "sqlite:store.db", "file:store.key"); !errors.Is(err, core.ErrDenied) {
		t.Errorf("readable by others: %v", err)
	}
	other := filepath.Join(folder, "other.key")
	if err := modules.NewKeyFile(other); err != nil {
		t.Fatal(err)
	}
	if err := openKey(t, folder, "sqlite:store.db", "file:other.key"); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("another key: %v", err)
	}
	for name, bad := range map[string]string{
		"short":   string(text[:62]),
		"long":    string(text[:64]) + "00",
		"letters": "0123456789abcdeg" + string(text[16:]),
		"nothing": "",
	} {
		if err := os.WriteFile(other, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		err := openKey(t, folder, "memory:", "file:other.key")
		if !errors.Is(err, core.ErrInvalid) || strings.Contains(err.Error(), "0123") || strings.Contains(err.Error(), "invalid byte") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPassphrase(t *testing.T) {
	folder := t.TempDir()
	say := func(text string) fx.Option {
		return fx.Replace(modules.Passphrase(func(context.Context) (core.Secret, error) { return core.NewSecret([]byte(text)), nil }))
	}
	for range 2 {
		if err := openKey(t, folder, "sqlite:store.db", "passphrase:", say("open sesame")); err != nil {
			t.Fatal(err)
		}
	}
	if err := openKey(t, folder, "sqlite:store.db", "passphrase:", say("open barley")); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("another passphrase: %v", err)
	}
	if err := openKey(t, folder, "sqlite:store.db", "passphrase:", say("")); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("an empty passphrase: %v", err)
	}
	if err := openKey(t, folder, "sqlite:store.db", "random:"); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("a random key: %v", err)
	}
}

// The audit log is a file that only its owner can read, to which every run appends;
// without one the lines are in the program's log.
func TestAudit(t *testing.T) {
	folder := t.TempDir()
	c := config.Default(folder)
	c.Keystore, c.Key, c.Audit = "memory:", "random:", "file:audit.log"
	identify := func(options ...fx.Option) {
		t.Helper()
		var cl *client.Client
		err := app.Run(t.Context(), app.New(c, append(options, fx.Populate(&cl))...), func(ctx context.Context) error {
			return cl.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
				return tx.InitMLS(ctx, "alice", core.SuiteX25519AES128Ed25519)
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	identify()
	path := filepath.Join(folder, "audit.log")
	once, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, operation := range []string{"wrap", "generate"} {
		if n := strings.Count(string(once), `"audit":{"operation":"`+operation+`",`); n == 0 {
			t.Errorf("no %s in %s", operation, once)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	identify()
	if twice, err := os.ReadFile(path); err != nil || strings.Count(string(twice), "\n") != 2*strings.Count(string(once), "\n") || !strings.HasPrefix(string(twice), string(once)) {
		t.Errorf("after the second run: %s, %v", twice, err)
	}

	c.Audit = "file:none/audit.log"
	var cl *client.Client
	if err := app.Run(t.Context(), app.New(c, fx.Populate(&cl)), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("where no file can be: %v", err)
	}
	c.Audit = "log:"
	var log strings.Builder
	identify(fx.Replace(slog.New(slog.NewTextHandler(&log, nil))))
	if !strings.Contains(log.String(), "level=INFO msg=audit audit.operation=generate audit.key=pure:Ed25519/") {
		t.Errorf("in the log: %s", log.String())
	}
}
