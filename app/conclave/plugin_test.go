// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/plugins/sdk"
	"github.com/conclave-mls/conclave/providers/basic"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// bePlugin is the plugin of the tests, which is this program under another name. Its
// arguments are what it has, and what is wrong with that.
func bePlugin() {
	var p sdk.Plugin
	for _, arg := range os.Args[1:] {
		if err := give(&p, arg); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	sdk.Serve(p)
}

func give(p *sdk.Plugin, what string) (err error) {
	file := os.Getenv("FILE")
	if file == "" {
		file = "store.db"
	}
	switch what {
	case "store":
		p.Keystore, err = sqlite.Open(context.Background(), file)
	case "memory":
		p.Keystore = memory.New()
	case "keys":
		p.CryptoProvider = pure.New()
	case "issuer":
		p.Issuer = basic.New()
	case "kek":
		p.KeyWrapper, err = seal.RawKey(core.NewSecret(bytes.Repeat([]byte{7}, 32)))
	case "alice", "bob":
		var instance sdk.Plugin
		key := core.NewSecret(bytes.Repeat([]byte(what[:1]), 32))
		instance.KeyWrapper, err = seal.RawKey(key)
		instance.CryptoProvider = pure.New()
		if p.Instances == nil {
			p.Instances = map[string]sdk.Plugin{}
		}
		p.Instances[what] = instance
	case "fails":
		err = errors.New("no licence for this machine\x1b[31m")
	// Wrong ones, of what is there already.
	case "half":
		p.Keystore = wrongStore{p.Keystore, what}
	case "forgets", "dies":
		p.Keystore = wrongStore{p.Keystore, what}
	case "truncates":
		p.CryptoProvider = truncating{p.CryptoProvider}
	case "repeats":
		p.Issuer = &repeating{CredentialIssuer: p.Issuer}
	case "visit":
		p.Issuer = visiting{p.Issuer}
	case "random":
		key := make([]byte, 32)
		_, _ = rand.Read(key)
		p.KeyWrapper, err = seal.RawKey(core.NewSecret(key))
	default:
		err = fmt.Errorf("nothing is called %q", what)
	}
	return err
}

// A wrongStore is not atomic, forgets an expectation, or dies.
type wrongStore struct {
	core.Keystore
	how string
}

func (w wrongStore) Apply(ctx context.Context, b core.Batch) error {
	switch {
	case w.how == "half" && len(b.Puts) > 1 && b.Check() == nil:
		if err := w.Keystore.Apply(ctx, core.Batch{Puts: b.Puts[:len(b.Puts)/2]}); err != nil {
			return err
		}
	case w.how == "forgets" && len(b.Expect) > 1:
		b.Expect = b.Expect[:len(b.Expect)-1]
	case w.how == "dies":
		panic("out of paper")
	}
	return w.Keystore.Apply(ctx, b)
}

// truncating signs the beginning of a message.
type truncating struct{ core.CryptoProvider }

func (t truncating) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	key, err := t.CryptoProvider.GenerateKey(ctx, spec)
	return truncated(key), err
}

func (t truncating) OpenKey(ctx context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
	key, err := t.CryptoProvider.OpenKey(ctx, ref, material)
	return truncated(key), err
}

func truncated(key core.PrivateKey) core.PrivateKey {
	signer, ok := key.(core.Signer)
	if !ok {
		return key
	}
	return truncatingKey{signer, key.(core.SoftwareKey)}
}

type truncatingKey struct {
	core.Signer
	soft core.SoftwareKey
}

func (k truncatingKey) Material() core.Secret { return k.soft.Material() }

func (k truncatingKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return k.Signer.Sign(ctx, message[:min(len(message), 20)])
}

// repeating wants the same of everybody, again and again.
type repeating struct{ core.CredentialIssuer }

func (*repeating) Advance(ctx context.Context, _ []byte, _ core.Input) (core.Step, error) {
	return core.Step{State: []byte("state"), Need: core.Need{Sign: &core.SignNeed{Message: []byte("again")}}}, ctx.Err()
}

func (r *repeating) Begin(ctx context.Context, _ core.IssueRequest) (core.Step, error) {
	return r.Advance(ctx, nil, core.Input{})
}

// visiting has a person log in.
type visiting struct{ core.CredentialIssuer }

func (visiting) Begin(ctx context.Context, _ core.IssueRequest) (core.Step, error) {
	need := core.Need{Visit: &core.VisitNeed{URL: "https://idp.example/\x1b[31m", RedirectURI: "http://127.0.0.1/"}}
	return core.Step{State: []byte("state"), Need: need}, ctx.Err()
}

// install puts this program into a folder that only we can write to.
func install(folder string, names ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(folder, 0o700), os.Chmod(folder, 0o700)); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(folder, "conclave-plugin-"+name), program, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// A line of the report of conclave plugin test.
type reported struct {
	Part, Instance, Check, Status, Reason string
	Failures, Said                        []string
	Passed, Failed, Skipped               int
}

// tested runs the kit.
func tested(t *testing.T, plugin string, args ...string) (lines []reported, code int) {
	t.Helper()
	out, stderr, code := output(t, append([]string{"--home", t.TempDir(), "--json", "plugin", "test", plugin}, args...)...)
	for line := range strings.Lines(out) {
		var r reported
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		lines = append(lines, r)
	}
	if len(lines) == 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	return lines, code
}

// The kit finds nothing wrong with a plugin that has everything, several times; and says which
// check a wrong one fails, what was expected and what came, and what the plugin said.
func TestPluginTest(t *testing.T) {
	folder := t.TempDir()
	if err := install(folder, "store"); err != nil {
		t.Fatal(err)
	}
	plugin := filepath.Join(folder, "conclave-plugin-store")
	t.Run("all is well", func(t *testing.T) {
		t.Parallel()
		lines, code := tested(t, plugin, "--env", "FILE={folder}/db", "--", "store", "keys", "issuer", "kek")
		last := lines[len(lines)-1]
		if code != 0 || last.Failed > 0 || last.Passed < 60 || last.Passed+last.Skipped != len(lines)-1 {
			t.Errorf("exit code %d, %+v", code, last)
		}
		found := map[string]int{}
		for _, r := range lines[:len(lines)-1] {
			found[r.Part+"/"+r.Instance]++
			if r.Status != "ok" && (r.Status != "skip" || r.Reason == "") {
				t.Errorf("%+v", r)
			}
		}
		for part, least := range map[string]int{"keystore/": 30, "crypto provider/": 17, "issuer/": 12, "key wrapper/": 9} {
			if found[part] < least {
				t.Errorf("%d checks of %s", found[part], part)
			}
		}
	})
	t.Run("every instance", func(t *testing.T) {
		t.Parallel()
		lines, code := tested(t, plugin, "--check", "another key", "--check", "signs", "--check", "keys outlive a crash", "--", "kek", "alice", "bob")
		found := map[string]string{}
		for _, r := range lines[:len(lines)-1] {
			found[r.Part+"/"+r.Instance] += r.Check + " " + r.Status + ", "
		}
		const key, wrapper = "signs ok, keys outlive a crash ok, ", "another key ok, keys outlive a crash ok, "
		want := map[string]string{"key wrapper/": wrapper, "key wrapper/alice": wrapper, "key wrapper/bob": wrapper, "crypto provider/alice": key, "crypto provider/bob": key}
		if code != 0 || !maps.Equal(found, want) {
			t.Errorf("exit code %d: %q", code, found)
		}
	})
	for _, c := range []struct {
		gives, check, failure, said string
	}{
		{"store half", "a failed batch changes nothing", "changed the store", ""},
		{"store forgets", "expectations", "got error <nil>, want core.ErrConflict", ""},
		{"store dies", "order", "unknown outcome", "panic: out of paper"},
		{"memory", "reopened", "record 6b657074 of table 1 is missing", ""},
		{"memory", "killed", "and now there are 0, 0 and 0", ""},
		{"memory", "open twice", "", ""},
		{"keys truncates", "signs", "does not verify", ""},
		{"issuer repeats", "issues", "no end after 100 steps", ""},
		{"random", "keys outlive a crash", "wrong key", ""},
	} {
		t.Run(c.gives+", "+c.check, func(t *testing.T) {
			t.Parallel()
			lines, code := tested(t, plugin, append([]string{"--check", c.check, "--"}, strings.Fields(c.gives)...)...)
			r, last := lines[0], lines[len(lines)-1]
			if code != 1 || len(lines) != 2 || r.Check != c.check || r.Status != "fail" || last.Failed != 1 || last.Passed != 0 {
				t.Fatalf("exit code %d: %+v", code, lines)
			}
			if !strings.Contains(strings.Join(r.Failures, "\n"), c.failure) || !strings.Contains(strings.Join(r.Said, "\n"), c.said) {
				t.Errorf("%q; the plugin says %q", r.Failures, r.Said)
			}
		})
	}
	for gives, want := range map[string]struct{ check, skipped string }{
		"issuer visit": {"issues", "a person visits"},
		"kek":          {"another key", "a second key wrapper to compare with"},
	} {
		lines, code := tested(t, plugin, append([]string{"--check", want.check, "--"}, strings.Fields(gives)...)...)
		if code != 0 || len(lines) != 2 || lines[0].Status != "skip" || !strings.Contains(lines[0].Reason, want.skipped) {
			t.Errorf("%s: exit code %d: %+v", gives, code, lines)
		}
	}
	used := filepath.Join(folder, "used.db")
	store, err := sqlite.Open(t.Context(), used)
	if err != nil {
		t.Fatal(err)
	}
	kept := core.Put{Table: 200, Key: []byte("key"), Value: []byte("value"), Version: core.NewVersion()}
	if err := errors.Join(store.Apply(t.Context(), core.Batch{Puts: []core.Put{kept}}), store.Close()); err != nil {
		t.Fatal(err)
	}
	// For a person, and without what would change the terminal.
	out, _, code := output(t, "plugin", "test", plugin, "--check", "issues", "--check", "describes itself", "--", "issuer", "visit", "keys", "truncates")
	if want := "issuer\n  ok    describes itself\n  skip  issues\n          this issuer wants"; code != 0 || !strings.HasPrefix(out, want) ||
		!strings.HasSuffix(out, "\n1 passed, 0 failed, 1 skipped\n") || strings.Contains(out, "\x1b") {
		t.Errorf("exit code %d: %s", code, out)
	}
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no such check":      {[]string{plugin, "--check", "everything", "--", "keys"}, "no check is called everything"},
		"which checks":       {[]string{plugin, "--check", "everything", "--", "keys"}, "there are: lists its algorithms, makes the keys it lists, "},
		"it does not start":  {[]string{plugin, "--", "fails"}, `it says: level=INFO msg="no licence for this machine`},
		"it offers nothing":  {[]string{plugin}, `it says: level=INFO msg="plugin: it offers nothing"`},
		"no plugin":          {[]string{"/bin/sh"}, "conclave plugin verify says more"},
		"no file":            {[]string{filepath.Join(folder, "none")}, "none: not found"},
		"a store in use":     {[]string{plugin, "--env", "FILE=" + used, "--", "store"}, "there are records, though it was started in an empty folder: denied"},
		"no variable":        {[]string{plugin, "--env", "FILE"}, "is not NAME=VALUE"},
		"no name of one":     {[]string{plugin, "--env", "=x"}, "is not NAME=VALUE"},
		"no path of program": {nil, "it is called so: conclave plugin test PATH"},
	} {
		if out, stderr, code := output(t, append([]string{"plugin", "test"}, c.args...)...); code != 1 || out != "" || !strings.Contains(stderr, c.says) || strings.Contains(stderr, "\x1b") {
			t.Errorf("%s: exit code %d: %s%s", name, code, out, stderr)
		}
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "conclave-test-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// What a plugin writes is kept to its end, and to a bound.
func TestSaid(t *testing.T) {
	t.Parallel()
	var s said
	for i := range 3 * saidLines {
		if _, err := s.Write(fmt.Appendf(nil, "%d %s\n", i, strings.Repeat("x", 2*saidBytes))); err != nil {
			t.Fatal(err)
		}
	}
	lines := s.take()
	if len(lines) != saidLines || len(lines[0]) != saidBytes || !strings.HasPrefix(lines[saidLines-1], fmt.Sprint(3*saidLines-1)) {
		t.Errorf("%d lines, of %d bytes", len(lines), len(lines[0]))
	}
	if again := s.take(); again != nil {
		t.Errorf("%q", again)
	}
}

// Homes with plugins, from nothing to a conversation, and what is said when one is not as it was.
func TestPluginScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/plugin",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitfor": waitFor,
			"install": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(install(ts.MkAbs(args[0]), args[1:]...))
			},
			"append": func(ts *testscript.TestScript, _ bool, args []string) {
				text := ts.ReadFile(args[0])
				if slices.Contains([]string{"stdout", "stderr"}, args[1]) {
					ts.Fatalf("append FILE TO")
				}
				f, err := os.OpenFile(ts.MkAbs(args[1]), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
				ts.Check(err)
				_, err = f.WriteString(text)
				ts.Check(errors.Join(err, f.Close()))
			},
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("TMPDIR", os.TempDir()) // short enough for the path of a socket
			return os.Chmod(e.WorkDir, 0o700)
		},
	})
}
