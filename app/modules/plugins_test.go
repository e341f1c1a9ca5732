// SPDX-License-Identifier: Apache-2.0

package modules_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app"
	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/plugins/host"
	"github.com/conclave-mls/conclave/plugins/sdk"
	"github.com/conclave-mls/conclave/providers/basic"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// TestMain is also the plugin of the tests, which is this program again.
func TestMain(m *testing.M) {
	if os.Getenv("PLUGIN") == "" {
		os.Exit(tests(m))
	}
	p, err := everything()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	sdk.Serve(p)
}

// self is this program, where a plugin may be: nobody else may write to the folder.
var self string

func tests(m *testing.M) int {
	folder, err := os.MkdirTemp("", "modules")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(folder) }()
	self = filepath.Join(folder, "plugin")
	path, err := os.Executable()
	if err == nil {
		var program []byte
		if program, err = os.ReadFile(path); err == nil {
			err = os.WriteFile(self, program, 0o700)
		}
	}
	if err != nil {
		panic(err)
	}
	return m.Run()
}

// everything has each part, and keys and a wrapper a second time. Its starts and its end
// have a line in a file.
func everything() (p sdk.Plugin, err error) {
	if err := journal("start"); err != nil {
		return p, err
	}
	store, err := sqlite.Open(context.Background(), os.Getenv("FILE"))
	if err != nil {
		return p, err
	}
	wrapper := func(n byte) core.KeyWrapper {
		w, err := seal.RawKey(core.NewSecret(bytes.Repeat([]byte{n}, 32)))
		if err != nil {
			panic(err)
		}
		return w
	}
	return sdk.Plugin{
		Keystore: journalled{store}, CryptoProvider: pure.New(), Issuer: basic.New(), KeyWrapper: wrapper(1),
		Instances: map[string]sdk.Plugin{"other": {CryptoProvider: pure.New(), KeyWrapper: wrapper(2)}},
	}, nil
}

type journalled struct{ core.Keystore }

func (j journalled) Close() error { return errors.Join(j.Keystore.Close(), journal("end")) }

func journal(line string) error {
	f, err := os.OpenFile(os.Getenv("PLUGIN"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, line)
	return errors.Join(err, f.Close())
}

// withPlugin is a configuration in a new folder with the plugins "all" and "same", which
// both are this program.
func withPlugin(t *testing.T) config.Config {
	t.Helper()
	c := config.Default(t.TempDir())
	env := func(name string) map[string]string {
		return map[string]string{"PLUGIN": name + ".journal", "FILE": name + ".db"} // it runs in the folder
	}
	c.Keystore, c.Key = "plugin:all", "plugin:all"
	c.Plugins = map[string]config.Plugin{
		"all":  {Path: self, Unpinned: true, Env: env("all")},
		"same": {Path: self, Unpinned: true, Env: env("same")},
	}
	return c
}

// wrote is what a plugin has put into its journal.
func wrote(t *testing.T, c config.Config, name string) string {
	t.Helper()
	text, err := os.ReadFile(c.File(name + ".journal"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(text)), " ")
}

var quiet = fx.Replace(slog.New(slog.DiscardHandler))

// use runs f with the client of a configuration.
func use(t *testing.T, c config.Config, f func(context.Context, *client.Transaction) error, options ...fx.Option) error {
	t.Helper()
	var cl *client.Client
	return app.Run(t.Context(), app.New(c, append(options, quiet, fx.Populate(&cl))...), func(ctx context.Context) error {
		return cl.Transaction(ctx, f)
	})
}

func identify(ctx context.Context, tx *client.Transaction) error {
	return tx.InitMLS(ctx, "alice", core.SuiteX25519AES128Ed25519)
}

// Store, keys, key wrapper and issuer are in one plugin, which is one process, and keeps
// what it was given for the next one.
func TestEverythingInAPlugin(t *testing.T) {
	t.Parallel()
	c := withPlugin(t)
	c.Crypto, c.Issuer, c.Audit = "plugin:all/other", "plugin:all", "file:audit.log"
	if err := use(t, c, identify); err != nil {
		t.Fatal(err)
	}
	if got := wrote(t, c, "all"); got != "start end" {
		t.Errorf("the plugin: %s", got)
	}
	err := use(t, c, func(ctx context.Context, tx *client.Transaction) error {
		id, err := tx.ClientID(ctx)
		if id != "alice" {
			t.Errorf("client %q", id)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if audit, err := os.ReadFile(c.File("audit.log")); err != nil || !bytes.Contains(audit, []byte(`"generate","key":"plugin:all/other/pure:Ed25519/`)) {
		t.Errorf("the keys are elsewhere: %s, %v", audit, err)
	}
	if got := wrote(t, c, "all"); got != "start end start end" {
		t.Errorf("the plugin: %s", got)
	}
	if got := wrote(t, c, "same"); got != "" {
		t.Errorf("a plugin that nobody names: %s", got)
	}
	c.Key = "plugin:all/other"
	if err := use(t, c, identify); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("another instance of the key wrapper: %v", err)
	}
}

// The delivery service has its keystore in a plugin, too.
func TestServiceInAPlugin(t *testing.T) {
	t.Parallel()
	c := withPlugin(t)
	c.Listen = "127.0.0.1:0"
	err := app.Run(t.Context(), app.NewService(c, quiet), func(context.Context) error { return nil })
	if got := wrote(t, c, "all"); err != nil || got != "start end" {
		t.Errorf("%v; the plugin: %s", err, got)
	}
}

type closing struct {
	core.Keystore
	closed *error
}

func (c closing) Close() error {
	_, *c.closed = c.Read(context.Background(), []core.Query{{Table: 1}})
	return c.Keystore.Close()
}

// The plugin outlives the parts that are in it, also if a later part cannot be made.
func TestPluginClosesLast(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]string{"in order": "plugin:all", "a failure": "passphrase:"} {
		c := withPlugin(t)
		c.Key = key
		c.Keystore = "watched:"
		never := errors.New("never closed")
		closed := never
		watched := fx.Provide(fx.Annotate(func(p *modules.Plugins) modules.Opener[core.Keystore] {
			return modules.Opener[core.Keystore]{Scheme: "watched", Open: func(ctx context.Context, _ config.URI) (core.Keystore, error) {
				plugin, err := p.Launch(ctx, "all")
				if err != nil {
					return nil, err
				}
				ks, err := plugin.Keystore("")
				return closing{ks, &closed}, err
			}}
		}, fx.ResultTags(`group:"openers"`)))
		err := use(t, c, identify, watched)
		if (key == "passphrase:") != errors.Is(err, core.ErrDenied) || closed != nil {
			t.Errorf("%s: %v; the keystore, when it was closed: %v", name, err, closed)
		}
		if got := wrote(t, c, "all"); got != "start end" {
			t.Errorf("%s: the plugin: %s", name, got)
		}
	}
}

// providers runs f with the crypto provider of a configuration.
func keysOf(t *testing.T, c config.Config, crypto string, f func(context.Context, core.CryptoProvider) error) {
	t.Helper()
	c.Keystore, c.Key, c.Crypto = "memory:", "random:", crypto
	var keys core.CryptoProvider
	if err := app.Run(t.Context(), app.New(c, quiet, fx.Populate(&keys)), func(ctx context.Context) error { return f(ctx, keys) }); err != nil {
		t.Errorf("%s: %v", crypto, err)
	}
}

// Wherever new keys are made, those of each plugin and in software open; a key is found by
// its reference alone, and what is of nobody opens nowhere.
func TestKeysOfSeveralPlugins(t *testing.T) {
	t.Parallel()
	c := withPlugin(t)
	where := map[string]string{"pure:": "pure:", "plugin:all": "plugin:all//pure:", "plugin:all/other": "plugin:all/other/pure:", "plugin:same": "plugin:same//pure:"}
	made := map[string]core.SoftwareKey{}
	for crypto, begins := range where {
		keysOf(t, c, crypto, func(ctx context.Context, keys core.CryptoProvider) error {
			key, err := keys.GenerateKey(ctx, core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
			if err != nil {
				return err
			}
			if !strings.HasPrefix(string(key.Ref()), begins) {
				t.Errorf("%s has made %s", crypto, key.Ref())
			}
			made[crypto] = key.(core.SoftwareKey)
			return nil
		})
	}
	for crypto := range where {
		keysOf(t, c, crypto, func(ctx context.Context, keys core.CryptoProvider) error {
			for other, key := range made {
				again, err := keys.OpenKey(ctx, key.Ref(), key.Material())
				if err != nil || !bytes.Equal(again.Public(), key.Public()) {
					t.Errorf("%s opens a key of %s: %v", crypto, other, err)
				}
			}
			inner := strings.TrimPrefix(string(made["plugin:all"].Ref()), "plugin:all//")
			for _, ref := range []string{
				"plugin:gone//" + inner, "plugin:all", "plugin:all/other", "plugin:all//", "plugin:" + inner, "plugin:/" + inner, "plugin:../x//" + inner,
				"pkcs11:token=acme;id=%01", "elsewhere:" + inner, "",
			} {
				if _, err := keys.OpenKey(ctx, core.KeyRef(ref), made["plugin:all"].Material()); !errors.Is(err, core.ErrDenied) {
					t.Errorf("%s opens %q: %v", crypto, ref, err)
				}
			}
			if _, err := keys.OpenKey(ctx, core.KeyRef("plugin:all/none/"+inner), made["plugin:all"].Material()); !errors.Is(err, core.ErrNotFound) {
				t.Errorf("%s opens a key of an instance that there is not: %v", crypto, err)
			}
			return nil
		})
	}
}

// Keys of a plugin that does not start are neither made nor opened nor deleted: nothing else
// takes its place.
func TestKeysOfAPluginThatIsDown(t *testing.T) {
	t.Parallel()
	c := withPlugin(t)
	broken := c.Plugins["same"]
	broken.Env = map[string]string{"PLUGIN": c.File("none/journal")}
	c.Plugins["same"] = broken
	keysOf(t, c, "pure:", func(ctx context.Context, keys core.CryptoProvider) error {
		ref := core.KeyRef("plugin:same//pure:Ed25519/x")
		if _, err := keys.OpenKey(ctx, ref, core.NewSecret(make([]byte, 32))); !errors.Is(err, core.ErrUnavailable) {
			t.Errorf("open: %v", err)
		}
		if deleter, ok := core.ProviderOf(keys, ref).(core.KeyDeleter); !ok || !errors.Is(deleter.DeleteKey(ctx, ref), core.ErrUnavailable) {
			t.Errorf("delete: %v", ok)
		}
		return nil
	})
	c.Crypto = "plugin:same"
	if err := use(t, c, identify); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("make: %v", err)
	}
}

// Who wants a key of a plugin that says nothing waits for as long as he has said.
func TestKeyOfASilentPlugin(t *testing.T) {
	t.Parallel()
	c := withPlugin(t)
	silent := filepath.Join(c.Folder, "silent")
	if err := errors.Join(os.Chmod(c.Folder, 0o700), os.WriteFile(silent, []byte("#!/bin/sh\nexec /bin/sleep 100\n"), 0o700)); err != nil {
		t.Fatal(err)
	}
	c.Plugins["silent"] = config.Plugin{Path: silent, Unpinned: true}
	keysOf(t, c, "pure:", func(ctx context.Context, keys core.CryptoProvider) error {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		if _, err := keys.OpenKey(short, "plugin:silent//x", core.Secret{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("open: %v", err)
		}
		return nil
	})
}

// Whoever only reads messages does not need the issuer's plugin.
func TestIssuerOnDemand(t *testing.T) {
	t.Parallel()
	c := withPlugin(t)
	c.Keystore, c.Key, c.Issuer = "memory:", "random:", "plugin:all"
	var issuer core.CredentialIssuer
	err := app.Run(t.Context(), app.New(c, quiet, fx.Populate(&issuer)), func(ctx context.Context) error {
		if got := wrote(t, c, "all"); got != "" {
			t.Errorf("launched before it was asked: %s", got)
		}
		for range 2 {
			if _, err := issuer.Describe(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if got := wrote(t, c, "all"); err != nil || got != "start end" {
		t.Errorf("%v; the plugin: %s", err, got)
	}
}

// A plugin that cannot be used says so by its name, and of what kind that is.
func TestPluginRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*config.Config, *config.Plugin)
		want   error
		plugin bool
	}{
		"another executable": {func(_ *config.Config, p *config.Plugin) { p.Unpinned, p.SHA256 = false, strings.Repeat("00", 32) }, core.ErrDenied, true},
		"no executable":      {func(_ *config.Config, p *config.Plugin) { p.Path = "" }, core.ErrNotFound, true},
		"no plugin":          {func(_ *config.Config, p *config.Plugin) { p.Env = nil; p.Args = []string{"-test.list=none"} }, core.ErrUnavailable, true},
		"no such instance":   {func(c *config.Config, _ *config.Plugin) { c.Keystore = "plugin:all/other" }, core.ErrNotFound, true},
		"no table":           {func(c *config.Config, _ *config.Plugin) { c.Keystore = "plugin:none" }, core.ErrInvalid, false},
		"no name":            {func(c *config.Config, _ *config.Plugin) { c.Issuer = "plugin:" }, core.ErrInvalid, false},
	} {
		c := withPlugin(t)
		p := c.Plugins["all"]
		test.change(&c, &p)
		c.Plugins["all"] = p
		err := app.Run(t.Context(), app.New(c, quiet, fx.Invoke(func(core.Keystore, core.CredentialIssuer) {})), func(context.Context) error { return nil })
		e := (*modules.PluginError)(nil)
		if !errors.Is(err, test.want) || errors.As(err, &e) != test.plugin || test.plugin && (e.Name != "all" || !strings.Contains(err.Error(), "plugin all: ")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What the configuration takes as a name is what a host does.
func TestNames(t *testing.T) {
	t.Parallel()
	for name, good := range map[string]bool{
		"a": true, "0": true, "a-b": true, "a-": true, strings.Repeat("x", 32): true,
		"": false, "-": false, "-a": false, "A": false, "a/b": false, "..": false, "a.b": false, "é": false, strings.Repeat("x", 33): false,
	} {
		file := filepath.Join(t.TempDir(), "conclave.toml")
		if err := os.WriteFile(file, fmt.Appendf(nil, "[plugin.%q]\nunpinned = true\n", name), 0o600); err != nil {
			t.Fatal(err)
		}
		_, ours := config.Load(file)
		_, theirs := host.Launch(t.Context(), host.Config{Name: name, Path: "relative", Unpinned: true})
		if (ours == nil) != good || strings.Contains(theirs.Error(), "name ") == good {
			t.Errorf("%q: %v, %v", name, ours, theirs)
		}
	}
}
