// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
)

func Example() {
	c, err := config.Load("examples/passphrase.toml")
	if err != nil {
		fmt.Println(err)
		return
	}
	uri, err := c.URI(c.Keystore)
	if err != nil {
		fmt.Println(err)
		return
	}
	file, err := uri.File()
	fmt.Println(uri.Scheme, file, err)
	fmt.Println(c.Crypto, c.Suite)
	// Output:
	// sqlite /var/lib/conclave/alice.db <nil>
	// pure: 0x0001
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "conclave.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLoadOverDefaults(t *testing.T) {
	t.Parallel()
	file := write(t, "keystore = \"memory:\"\nsuite = 7\n")
	got, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default(filepath.Dir(file))
	want.Keystore, want.Suite = "memory:", 7
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"unknown key":   `keystroke = "memory:"`,
		"not TOML":      `keystore = memory`,
		"no scheme":     `keystore = "store.db"`,
		"bad escape":    `keystore = "sqlite:%zz"`,
		"suite by name": `suite = "X25519"`,
		"suite too big": `suite = 65536`,
	} {
		if c, err := config.Load(write(t, text)); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	if _, err := config.Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("no file: %v", err)
	}
}

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "conclave.toml")
	want := config.Config{
		Keystore: config.FileURI("sqlite", "/a folder/100%?.db"), Key: "passphrase:", Crypto: "pure:", Audit: "file:audit.log", Issuer: "basic:",
		Delivery: "unix:socket", Suite: 2, Listen: "unix:socket", Certificate: "cert.pem", PrivateKey: "key.pem", Folder: filepath.Dir(file),
	}
	if err := want.Save(file); err != nil {
		t.Fatal(err)
	}
	got, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := want.Save(file); !errors.Is(err, core.ErrConflict) {
		t.Errorf("a second time: %v", err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	uri, err := got.URI(got.Keystore)
	if err != nil {
		t.Fatal(err)
	}
	if path, err := uri.File(); err != nil || path != "/a folder/100%?.db" {
		t.Errorf("path %q, %v", path, err)
	}
}

func TestURI(t *testing.T) {
	t.Parallel()
	c := config.Config{Folder: "/home/alice"}
	for text, want := range map[string]string{
		"sqlite:store.db":           "/home/alice/store.db",
		"SQLite:a%20b/store.db":     "/home/alice/a b/store.db",
		"sqlite:///var/lib/x.db":    "/var/lib/x.db",
		"file:../store.key":         "/home/store.key",
		"unix:///run/conclave.sock": "/run/conclave.sock",
	} {
		uri, err := c.URI(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := uri.File(); err != nil || got != want || uri.String() != text {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
		if err := uri.Nothing(); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s takes nothing: %v", text, err)
		}
	}
	uri, err := c.URI("memory:")
	if err != nil || uri.Scheme != "memory" || uri.Nothing() != nil {
		t.Errorf("memory: %v, %v, %v", uri, err, uri.Nothing())
	}
	if _, err := uri.File(); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("a file in %v: %v", uri, err)
	}
}
