// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

		"a plugin's unknown key":    "[plugin.x]\nunpinned = true\nfolder = \"x\"",
		"a plugin with a bad name":  "[plugin.\"../x\"]\nunpinned = true",
		"a plugin with a long name": "[plugin." + strings.Repeat("x", 33) + "]\nunpinned = true",
		"a hyphen first":            "[plugin.-x]\nunpinned = true",
		"neither pin nor none":      "[plugin.x]\n",
		"unpinned = false":          "[plugin.x]\nunpinned = false",
		"both pin and none":         "[plugin.x]\nunpinned = true\nsha256 = \"" + strings.Repeat("00", 32) + "\"",
		"a short pin":               "[plugin.x]\nsha256 = \"" + strings.Repeat("00", 31) + "\"",
		"a long pin":                "[plugin.x]\nsha256 = \"" + strings.Repeat("00", 33) + "\"",
		"a pin that is not hex":     "[plugin.x]\nsha256 = \"" + strings.Repeat("0g", 32) + "\"",
		"a pin with spaces":         "[plugin.x]\nsha256 = \" " + strings.Repeat("00", 32) + "\"",
		"a number in env":           "[plugin.x]\nunpinned = true\nenv = { N = 1 }",
		"= in env":                  "[plugin.x]\nunpinned = true\nenv = { \"A=B\" = \"\" }",
		"no name in env":            "[plugin.x]\nunpinned = true\nenv = { \"\" = \"x\" }",
		"a zero byte in env":        "[plugin.x]\nunpinned = true\nenv = { A = \"\\u0000\" }",
		"a zero byte in args":       "[plugin.x]\nunpinned = true\nargs = [\"\\u0000\"]",
		"a table of strings":        "[plugin]\nx = \"x\"",
		"a keystore of no plugin":   `keystore = "plugin:x"`,
		"a key of no plugin":        `key = "plugin:x/y"`,
		"a crypto of no plugin":     `crypto = "plugin:x"`,
		"an issuer of no plugin":    `issuer = "plugin:x"`,
		"a plugin without a name":   "issuer = \"plugin:\"\n[plugin.x]\nunpinned = true",
		"a plugin in capitals":      "issuer = \"plugin:X\"\n[plugin.x]\nunpinned = true",
		"an instance without name":  "issuer = \"plugin:x/\"\n[plugin.x]\nunpinned = true",
		"an instance of instances":  "issuer = \"plugin:x/y/z\"\n[plugin.x]\nunpinned = true",
		"a plugin with a query":     "issuer = \"plugin:x?y\"\n[plugin.x]\nunpinned = true",
		"a plugin as a host":        "issuer = \"plugin://x/y\"\n[plugin.x]\nunpinned = true",
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
		Keystore: config.FileURI("sqlite", "/a folder/100%?.db"), Tenant: "alice", Key: "passphrase:",
		Crypto: "pkcs11:token=a%20b;id=%01%a2?module-path=/x/y.so&pin-source=file:/a%20b&x-init-args=%27", Audit: "file:audit.log", Issuer: "basic:",
		Delivery: "unix:socket", Suite: 2, Listen: "unix:socket", Certificate: "cert.pem", PrivateKey: "key.pem", Folder: filepath.Dir(file),
		PluginFolder: "/opt/plugins", Plugins: map[string]config.Plugin{
			"store": {Path: "bin/store", Unpinned: true, Args: []string{"--x", ""}, Env: map[string]string{"B": "two words", "A.b": ""}},
			"0-0":   {SHA256: strings.Repeat("aB", 32)},
		},
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
	uri, err := got.URI(got.Crypto)
	if err != nil || uri.Scheme != "pkcs11" || uri.Text() != want.Crypto {
		t.Errorf("a token: %s, %v", uri.Text(), err)
	}
	if uri, err = got.URI(got.Keystore); err != nil {
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

// What is shown of a URI has no password, also where it is none.
func TestURIWithoutPassword(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"postgres://alice:hunter2@db:5432/x?sslmode=require":  "postgres://alice:xxxxx@db:5432/x?sslmode=require",
		"postgres://alice@db/x?sslpassword=hunter2&schema=a":  "postgres://alice@db/x?sslpassword=xxxxx&schema=a",
		"postgres://db/x?user=alice&Password=hunter2":         "postgres://db/x?user=alice&Password=xxxxx",
		"postgres://alice:hunter2@a:1,b:2/x":                  "postgres://alice:xxxxx@a:1,b:2/x",
		"postgres://alice:hunt@er2@db/x":                      "postgres://alice:xxxxx@db/x",
		"pkcs11:token=t;object=o?pin-value=hunter2&x=y":       "pkcs11:token=t;object=o?pin-value=xxxxx&x=y",
		"pkcs11:token=t?pin-value=hun ter2;s/e#r@e&t&x-y=z":   "pkcs11:token=t?pin-value=xxxxx&t&x-y=z",
		"http://127.0.0.1:9420":                               "http://127.0.0.1:9420",
		"sqlite:store.db":                                     "sqlite:store.db",
		"file:/home/alice@example.org:8080/password/store.db": "file:/home/alice@example.org:8080/password/store.db",
	} {
		u, err := config.Config{}.URI(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := fmt.Sprint(u); got != want || u.Text() != text {
			t.Errorf("%s: shown as %s, its text is %s", text, got, u.Text())
		}
	}
	for _, text := range []string{"postgres://alice:hunter2%@db/x", "postgres://alice:hunter2/@db/x", "postgres://a:b:hunter2@db: /x"} {
		if _, err := (config.Config{}).URI(text); !errors.Is(err, core.ErrInvalid) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", text, err)
		}
	}
	u, err := config.Config{}.URI("memory://alice:hunter2@db")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.File(); strings.Contains(fmt.Sprint(err, u.Nothing()), "hunter2") {
		t.Errorf("%v, %v", err, u.Nothing())
	}
}

// Another key leaves the keystore as it is.
func TestRekey(t *testing.T) {
	t.Parallel()
	file := write(t, "# by hand\nkey = \"file:a\" # old\nkeystore = \"sqlite:a.db\"\n")
	if err := config.Rekey(file, "pkcs11:object=k?pin-source=env:PIN"); err != nil {
		t.Fatal(err)
	}
	want := "# by hand\nkey = \"pkcs11:object=k?pin-source=env:PIN\"\nkeystore = \"sqlite:a.db\"\n"
	if text, err := os.ReadFile(file); err != nil || string(text) != want {
		t.Errorf("%q, %v", text, err)
	}
}

func TestMove(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ before, after string }{
		"with comments": {
			"# by hand\n  keystore = 'sqlite:a.db' # old\ntenant = \"x\"\n",
			"# by hand\nkeystore = \"postgres://u@h/d?schema=s\"\ntenant = \"x\"\n",
		},
		"none named":       {"# by hand\ntenant = \"x\"\n", ""},
		"within a string":  {"keystore = \"sqlite:a.db\"\ntenant = \"\"\"x\nkeystore = y\"\"\"\n", ""},
		"named by default": {"", ""},
		"with plugins": {
			"# by hand\nkeystore = \"plugin:a\" # old\n[plugin.a] # one\nunpinned = true\nenv = { A = \"b\" }\n",
			"# by hand\nkeystore = \"postgres://u@h/d?schema=s\"\n[plugin.a] # one\nunpinned = true\nenv = { A = \"b\" }\n",
		},
		"beside the same name in a plugin": {
			"keystore = \"plugin:a\" # old\n[plugin.a]\nunpinned = true\n[plugin.a.env] # all of it\nkeystore = \"its own\"\n",
			"keystore = \"postgres://u@h/d?schema=s\"\n[plugin.a]\nunpinned = true\n[plugin.a.env] # all of it\nkeystore = \"its own\"\n",
		},
		"in a plugin only": {"[plugin.a]\nunpinned = true\n[plugin.a.env]\nkeystore = \"its own\"\n", ""},
	} {
		file := filepath.Join(t.TempDir(), "conclave.toml")
		if err := os.WriteFile(file, []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		want, err := config.Load(file)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want.Keystore = "postgres://u@h/d?schema=s"
		if err := config.Move(file, want.Keystore); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := config.Load(file)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v, %s", name, err, diff)
		}
		if text, err := os.ReadFile(file); err != nil || c.after != "" && string(text) != c.after {
			t.Errorf("%s: %v, %s", name, err, text)
		}
	}
}

// A change that names a plugin without a table is refused, and changes nothing.
func TestMoveToNoPlugin(t *testing.T) {
	t.Parallel()
	const text = "keystore = \"plugin:a\"\n[plugin.a]\nunpinned = true\n"
	file := write(t, text)
	for name, err := range map[string]error{
		"move": config.Move(file, "plugin:b"), "rekey": config.Rekey(file, "plugin:b"), "reissue": config.Reissue(file, "plugin:b"),
	} {
		if !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != text {
		t.Errorf("%q, %v", got, err)
	}
}

// Options on top of a configuration leave its plugins as they are.
func TestPluginOf(t *testing.T) {
	t.Parallel()
	c, err := config.Load(write(t, "[plugin.a]\nsha256 = \""+strings.Repeat("0F", 32)+"\"\nenv = { B = \"2\", A = \"1 1\" }\n"))
	if err != nil {
		t.Fatal(err)
	}
	c = c.Over(config.Config{Crypto: "plugin:a/b"})
	u, err := c.URI(c.Crypto)
	if err != nil {
		t.Fatal(err)
	}
	if name, instance, err := c.PluginOf(u); name != "a" || instance != "b" || err != nil {
		t.Errorf("%s, %s, %v", name, instance, err)
	}
	if sum := c.Plugins["a"].Sum(); string(sum) != strings.Repeat("\x0f", 32) {
		t.Errorf("sum %x", sum)
	}
	if env := c.Plugins["a"].Environment(); fmt.Sprintf("%q", env) != `["A=1 1" "B=2"]` {
		t.Errorf("%q", env)
	}
	if c.PluginFolder != "plugins" {
		t.Errorf("folder %q", c.PluginFolder)
	}
}

// What a file leaves out is added, and the rest stays as it is.
func TestFill(t *testing.T) {
	t.Parallel()
	const table = "# a comment\n[plugin.a]\nunpinned = true # for now\n[plugin.a.env]\nkeystore = \"its own\"\n"
	given := config.Config{Keystore: "plugin:a", Crypto: "plugin:a/b", Suite: 2}
	for name, c := range map[string]struct{ before, after string }{
		"all of it":     {table, "keystore = \"plugin:a\"\ncrypto = \"plugin:a/b\"\nsuite = 2\n" + table},
		"some of it":    {"crypto = \"pure:\"\nsuite = 1\n" + table, "keystore = \"plugin:a\"\ncrypto = \"pure:\"\nsuite = 1\n" + table},
		"nothing of it": {"keystore = \"memory:\"\ncrypto = \"pure:\"\nsuite = 1\n" + table, "keystore = \"memory:\"\ncrypto = \"pure:\"\nsuite = 1\n" + table},
	} {
		file := write(t, c.before)
		if err := config.Fill(file, given); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if text, err := os.ReadFile(file); err != nil || string(text) != c.after {
			t.Errorf("%s: %v, %s", name, err, text)
		}
	}
	file := write(t, "tenant = \"x\"\n")
	if err := config.Fill(file, given); !errors.Is(err, config.ErrNoTable) {
		t.Errorf("a plugin without a table: %v", err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "tenant = \"x\"\n" {
		t.Errorf("%s, %v", text, err)
	}
	if err := config.Fill(filepath.Join(t.TempDir(), "none"), given); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("no file: %v", err)
	}
}
