// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/plugins/host"
	"github.com/conclave-mls/conclave/providers/pure"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// TestTokenPlugin is about plugins/examples/token, which is built and started as it is: the
// conformance suites with the token behind it, and what its crash is for a client.
func TestTokenPlugin(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := os.Chmod(folder, 0o700); err != nil { // where others may write no plugin is started
		t.Fatal(err)
	}
	x := tokenPlugin{path: filepath.Join(folder, "conclave-plugin-token")}
	run(t, "go", "build", "-o", x.path, "github.com/conclave-mls/conclave/plugins/examples/token")
	var err error
	if x.sum, err = host.Sum(x.path); err != nil {
		t.Fatal(err)
	}
	t.Run("conforms", func(t *testing.T) {
		t.Parallel()
		x.conforms(t)
	})
	t.Run("wraps keys", func(t *testing.T) {
		t.Parallel()
		x.wraps(t)
	})
	t.Run("does not start", func(t *testing.T) {
		t.Parallel()
		x.refuses(t)
	})
	t.Run("crashes", func(t *testing.T) {
		t.Parallel()
		x.crashes(t)
	})
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// A tokenPlugin is the program.
type tokenPlugin struct {
	path string
	sum  []byte
}

func (x tokenPlugin) config(t testing.TB, k *softhsmtest.Token, env ...string) host.Config {
	return host.Config{
		Name: "token", Path: x.path, SHA256: x.sum, Dir: t.TempDir(),
		Env:    slices.Concat(k.Env(), []string{"URI=" + k.URI(), "LATCH=latch"}, env),
		Logger: slog.New(slog.DiscardHandler), Backoff: 10 * time.Millisecond,
	}
}

func launch(t testing.TB, cfg host.Config) *host.Plugin {
	t.Helper()
	p, err := host.Launch(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func keysOf(t testing.TB, p *host.Plugin) core.CryptoProvider {
	t.Helper()
	keys, err := p.CryptoProvider("")
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func wrapperOf(t testing.TB, p *host.Plugin) core.KeyWrapper {
	t.Helper()
	w, err := p.KeyWrapper("")
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// conforms: the suite, with all algorithms of the token, and HPKE with a key in it.
func (x tokenPlugin) conforms(t *testing.T) {
	keys := keysOf(t, launch(t, x.config(t, softhsmtest.New(t))))
	got, err := keys.Algorithms(t.Context())
	want := slices.Sorted(slices.Values(can["softhsm"]))
	if slices.Sort(got); err != nil || !slices.Equal(got, want) {
		t.Fatalf("the token has %v (%v), want %v", got, err, want)
	}
	source := pure.New()
	for id, alg := range sameKEM {
		suite, err := source.Suite(id)
		if err != nil {
			t.Fatal(err)
		}
		key, err := keys.GenerateKey(t.Context(), core.KeySpec{ID: [16]byte(random(16)), Algorithm: alg, Use: core.UseDecrypt})
		if err != nil {
			t.Fatal(err)
		}
		decapsulates(t, suite, key)
	}
	coretest.TestCryptoProvider(t, func(*testing.T) core.CryptoProvider { return keys })
}

// wraps: the suite, by each method.
func (x tokenPlugin) wraps(t *testing.T) {
	k := softhsmtest.New(t)
	token := open(t, k.URI())
	for _, method := range kekMethods["softhsm"] {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			var w [2]core.KeyWrapper
			for i := range w {
				uri := generateKEK(t, token, fmt.Sprint(method, i), method)
				w[i] = wrapperOf(t, launch(t, x.config(t, k, "KEK="+uri)))
				if direct := wrapper(t, token, uri); w[i].ID() != direct.ID() {
					t.Errorf("behind the plugin it is %s, not %s", w[i].ID(), direct.ID())
				}
			}
			coretest.TestKeyWrapper(t, func(_ *testing.T, key int) core.KeyWrapper { return w[key] })
		})
	}
}

// refuses: a plugin that cannot do its work says why, and ends. It tries a PIN once, in
// however many lives.
func (x tokenPlugin) refuses(t *testing.T) {
	k := softhsmtest.New(t)
	wrong := *k
	wrong.PINFile = filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(wrong.PINFile, []byte("not "+k.PIN), 0o600); err != nil {
		t.Fatal(err)
	}
	spy := softhsmtest.Spy(t, &wrong)
	dir := t.TempDir()
	for name, c := range map[string]struct {
		k    *softhsmtest.Token
		env  []string
		says string
	}{
		"wrong PIN":   {spy, nil, "PIN"},
		"no such KEK": {k, []string{"KEK=pkcs11:object=none"}, "object=none"},
		"no token":    {softhsmtest.Given("pkcs11:token=none?module-path=" + k.ModulePath), k.Env(), "none"},
		"no URI":      {softhsmtest.Given(""), nil, ""},
	} {
		for range 3 {
			r := &records{}
			cfg := x.config(t, k, c.env...)
			cfg.Dir, cfg.Logger = dir, slog.New(r)
			cfg.Env = slices.Concat(k.Env(), spy.Env(), []string{"URI=" + c.k.URI(), "LATCH=latch"}, c.env)
			p, err := host.Launch(t.Context(), cfg)
			if core.Kind(err) != core.ErrUnavailable {
				t.Errorf("%s: %v", name, err)
			}
			if err == nil {
				_ = p.Close()
			}
			if text := r.text(); text == "" || !strings.Contains(text, c.says) {
				t.Errorf("%s: the plugin says %q", name, text)
			}
		}
	}
	if n := len(spy.Calls(t, "C_Login")); n != 1 {
		t.Errorf("the wrong PIN was tried %d times", n)
	}
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
	text := rec.Message
	rec.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	r.all = append(r.all, text)
	return nil
}
func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }

func (r *records) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.all, "\n")
}

// crashes: the vendor's module brings its process down, in C, in the middle of a signature.
// That process is the plugin's: the client lives, is told that the token is not there now,
// has changed nothing, and goes on when the plugin is back.
func (x tokenPlugin) crashes(t *testing.T) {
	k := softhsmtest.New(t)
	kek := generateKEK(t, open(t, k.URI()), "kek", "")

	folder := t.TempDir()
	module, file := filepath.Join(folder, "crashing.so"), filepath.Join(folder, "crash")
	headers := run(t, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11")
	run(t, run(t, "go", "env", "CC"), "-shared", "-fPIC", "-pthread", "-I", headers, "-o", module, "testdata/crashing.c", "-ldl")
	crashing := *k
	crashing.ModulePath = module
	r := &records{}
	cfg := x.config(t, &crashing, "KEK="+kek, "CRASH="+file, "CRASHING_MODULE="+k.ModulePath)
	cfg.Logger, cfg.Restarts = slog.New(r), 100
	p := launch(t, cfg)
	crash := func() {
		t.Helper()
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	deaths := func() int { return strings.Count(r.text(), "plugin is down") }

	w := wrapperOf(t, p)
	dek := random(32)
	blob := wrap(t, w, dek, "aad")
	c := newPair(t, keysOf(t, p), mls.HandshakePublic)
	c.alice.Say(t, chat, "before")
	c.hears(c.bob, "before")
	for i, op := range []struct {
		name string
		f    onChat
	}{{"a message", send("lost")}, {"a commit", updateKeys}, {"a message", send("lost again")}} {
		writes := c.store.Applies()
		crash()
		err := c.alice.Transaction(t.Context(), op.f.run)
		if core.Kind(err) != core.ErrUnavailable || errors.Is(err, core.ErrUnknownOutcome) {
			t.Fatalf("%s by a plugin that crashes: %v", op.name, err)
		}
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%s: nothing has crashed: %v", op.name, err)
		}
		if n := c.store.Applies() - writes; n != 0 {
			t.Errorf("%s that failed was written %d times", op.name, n)
		}
		if pending, err := c.alice.View(chat).HasPendingCommit(t.Context()); pending || err != nil {
			t.Errorf("%s that failed left a commit: %v, %v", op.name, pending, err)
		}
		// Reading needs no signature, and bob's key is elsewhere.
		text := fmt.Sprint("meanwhile ", i)
		c.bob.Say(t, chat, text)
		c.hears(c.alice, text)
		c.do(c.alice, send("after "+text))
		c.hears(c.bob, "after "+text)
		if got := deaths(); got != i+1 {
			t.Errorf("after %d crashes the plugin has died %d times", i+1, got)
		}
		if got, err := w.Unwrap(t.Context(), blob, []byte("aad")); err != nil || !bytes.Equal(got.Bytes(), dek) {
			t.Errorf("after a crash the wrapping key gives another key, %v", err)
		}
	}
	c.do(c.alice, updateKeys)
	c.do(c.alice, rotate(suite))
	c.alice.Say(t, chat, "with a new key")
	c.hears(c.bob, "with a new key")
}
