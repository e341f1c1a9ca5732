// SPDX-License-Identifier: Apache-2.0

// Package nodejs_test runs the conformance suites on the plugin in Node.js.
package nodejs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/plugins/host"
)

// npm has the packages of package-lock.json, from the Makefile's target peer.
const npm = "../../../bin/peers/nodejs/node_modules"

// installed is a folder with the plugin, as its author would have it, and why there is none.
var installed, errInstalled = func() (folder string, err error) {
	modules, err := filepath.Abs(npm)
	if err == nil {
		_, err = os.Stat(modules)
	}
	if err == nil {
		_, err = exec.LookPath("node")
	}
	if err != nil {
		return "", fmt.Errorf("%w: run \"make peer\"", err)
	}
	if folder, err = os.MkdirTemp("", "nodejs"); err != nil {
		return "", err
	}
	err = os.Symlink(modules, filepath.Join(folder, "node_modules"))
	for _, name := range []string{
		"plugin.mjs", "store.mjs", "keys.mjs", "certificate.mjs", "errors.mjs", "controller.proto", "../../internal/wire/plugin.proto",
	} {
		var text []byte
		if err == nil {
			text, err = os.ReadFile(name)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, filepath.Base(name)), text, 0o700)
		}
	}
	return folder, err
}()

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(installed)
	os.Exit(code)
}

// here ends a test that cannot be done.
func here(t testing.TB) {
	t.Helper()
	if errInstalled != nil {
		coretest.Lacking(t, errInstalled.Error())
	}
}

// launch starts the plugin on a folder of its own.
func launch(ctx context.Context, t testing.TB, folder string) (*host.Plugin, error) {
	t.Helper()
	here(t)
	return launchAt(ctx, t, filepath.Join(installed, "plugin.mjs"), folder)
}

func launchAt(ctx context.Context, t testing.TB, path, folder string) (*host.Plugin, error) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal(err)
	}
	return host.Launch(ctx, host.Config{
		Name: "nodejs", Path: path, Unpinned: true, StartTimeout: time.Minute,
		Env:    []string{"PATH=" + filepath.Dir(node), "FOLDER=" + folder},
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Backoff: time.Hour,
	})
}

func launched(t testing.TB) *host.Plugin {
	t.Helper()
	p, err := launch(t.Context(), t, t.TempDir())
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

// All run on one process, whose store is emptied each time: to start one takes longer.
func TestKeystore(t *testing.T) {
	t.Parallel()
	p := launched(t)
	coretest.TestKeystore(t, func(t *testing.T) core.Keystore {
		store, err := p.Keystore("")
		if err != nil {
			t.Fatal(err)
		}
		var all core.Batch
		for table := range 256 {
			all.Dels = append(all.Dels, core.Range{Table: core.Table(table)})
		}
		if err := store.Apply(t.Context(), all); err != nil {
			t.Fatal(err)
		}
		return store
	})
}

// alone is a keystore that ends its plugin when it is closed.
type alone struct {
	core.Keystore
	p *host.Plugin
}

func (a alone) Close() error { return errors.Join(a.Keystore.Close(), a.p.Close()) }

func TestKeystoreOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	var last *host.Plugin
	open := func(ctx context.Context, folder string) (core.Keystore, error) {
		p, err := launch(ctx, t, folder)
		if err != nil {
			return nil, err
		}
		last = p
		store, err := p.Keystore("")
		return alone{store, p}, err
	}
	ran := 0
	for _, c := range coretest.KeystoreChecks(open, func() { last.Kill() }) {
		if !slices.Contains([]string{"reopened", "open twice", "killed"}, c.Name) {
			continue // see TestKeystore
		}
		ran++
		for _, failure := range c.Run(t.Context()).Failures {
			t.Errorf("%s: %s", c.Name, failure)
		}
	}
	if ran != 3 {
		t.Errorf("%d of 3 checks", ran)
	}
}

func TestCryptoProvider(t *testing.T) {
	t.Parallel()
	p := launched(t)
	coretest.TestCryptoProvider(t, func(t *testing.T) core.CryptoProvider {
		c, err := p.CryptoProvider("")
		if err != nil {
			t.Fatal(err)
		}
		return c
	})
}

func TestKeyWrapper(t *testing.T) {
	t.Parallel()
	plugins := []*host.Plugin{launched(t), launched(t)}
	coretest.TestKeyWrapper(t, func(t *testing.T, key int) core.KeyWrapper {
		w, err := plugins[key].KeyWrapper("")
		if err != nil {
			t.Fatal(err)
		}
		return w
	})
}

func put(t testing.TB, store core.Keystore, key string) {
	t.Helper()
	p := core.Put{Table: 1, Key: []byte(key), Value: []byte("value"), Version: core.NewVersion()}
	if err := store.Apply(t.Context(), core.Batch{Puts: []core.Put{p}}); err != nil {
		t.Fatal(err)
	}
}

// What a crash left of a batch at the end of the file is nothing; what is wrong elsewhere
// is no crash, and the store is not used.
func TestTornFile(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	file := filepath.Join(folder, "store")
	var first, whole []byte
	life(t, folder, func(store core.Keystore) {
		put(t, store, "a")
		first = read(t, file)
		put(t, store, "b")
		whole = read(t, file)
	})
	size := len(first)
	if !bytes.HasPrefix(whole, first) || len(whole) < size+50 {
		t.Fatalf("%d and %d bytes", size, len(whole))
	}
	flipped := func(at int) []byte {
		b := bytes.Clone(whole)
		b[at] ^= 1
		return b
	}
	for name, c := range map[string]struct {
		left []byte
		torn bool
	}{
		"a part of the length":       {whole[:size+2], true},
		"no body":                    {whole[:size+40], true},
		"a part of the body":         {whole[:len(whole)-1], true},
		"the body's last byte":       {flipped(len(whole) - 1), true},
		"zeros":                      {append(bytes.Clone(first), make([]byte, 100)...), true},
		"zeros before a batch":       {append(append(bytes.Clone(first), make([]byte, 100)...), first...), false},
		"the length of the last":     {flipped(size), false},
		"the length of the first":    {flipped(0), false},
		"a byte in the first's body": {flipped(size - 1), false},
	} {
		if err := os.WriteFile(file, c.left, 0o600); err != nil {
			t.Fatal(err)
		}
		life(t, folder, func(store core.Keystore) {
			if !c.torn {
				_, err := store.Read(t.Context(), nil)
				if errApply := store.Apply(t.Context(), core.Batch{}); core.Kind(err) != core.ErrDamaged || core.Kind(errApply) != core.ErrDamaged {
					t.Errorf("%s: %v, %v, want ErrDamaged", name, err, errApply)
				}
				return
			}
			put(t, store, "c")
			answers, err := store.Read(t.Context(), []core.Query{{Table: 1}})
			if err != nil || len(answers[0]) != 2 || string(answers[0][0].Key) != "a" || string(answers[0][1].Key) != "c" {
				t.Errorf("%s: %v, %v", name, answers, err)
			}
		})
		if !c.torn && !bytes.Equal(read(t, file), c.left) {
			t.Errorf("%s: the damaged file was changed", name)
		}
	}
}

// What is overwritten does not stay in the file for good.
func TestFileIsWrittenAnew(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	life(t, folder, func(store core.Keystore) {
		p := core.Put{Table: 1, Key: []byte("a"), Value: make([]byte, 1<<20)}
		for range 30 {
			p.Version = core.NewVersion()
			if err := store.Apply(t.Context(), core.Batch{Puts: []core.Put{p}}); err != nil {
				t.Fatal(err)
			}
		}
		put(t, store, "b")
		if n := len(read(t, filepath.Join(folder, "store"))); n > 20<<20 {
			t.Errorf("the file of a record of 1 MiB has %d bytes", n)
		}
	})
	life(t, folder, func(store core.Keystore) {
		if answers, err := store.Read(t.Context(), []core.Query{{Table: 1}}); err != nil || len(answers[0]) != 2 {
			t.Errorf("%d records, %v", len(answers[0]), err)
		}
	})
}

// A batch for which there is no room is refused, and leaves nothing behind.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	here(t)
	folder := t.TempDir()
	limited := filepath.Join(folder, "limited")
	script := "#!/bin/sh\nulimit -f 4096 && exec " + filepath.Join(installed, "plugin.mjs") + "\n" // 2 MiB
	if err := os.WriteFile(limited, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := launchAt(t.Context(), t, limited, folder)
	if err != nil {
		t.Fatal(err)
	}
	store, err := p.Keystore("")
	if err != nil {
		t.Fatal(err)
	}
	put(t, store, "a")
	large := core.Batch{Puts: []core.Put{
		{Table: 1, Key: []byte("b"), Value: make([]byte, 1<<20), Version: core.NewVersion()},
		{Table: 1, Key: []byte("c"), Value: make([]byte, 1<<20), Version: core.NewVersion()},
	}}
	if err := store.Apply(t.Context(), large); core.Kind(err) != core.ErrUnavailable {
		t.Errorf("%v, want ErrUnavailable", err)
	}
	put(t, store, "d")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	life(t, folder, func(store core.Keystore) {
		answers, err := store.Read(t.Context(), []core.Query{{Table: 1}})
		if err != nil || len(answers[0]) != 2 || string(answers[0][1].Key) != "d" {
			t.Errorf("%v, %v", answers, err)
		}
	})
}

// A file that cannot be written anew, as on a disk that is full, is used as it is.
func TestFileThatStays(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	file := filepath.Join(folder, "store")
	life(t, folder, func(store core.Keystore) { put(t, store, "a") })
	torn := append(read(t, file), 1, 2, 3)
	if err := errors.Join(os.WriteFile(file, torn, 0o600), os.Mkdir(file+".new", 0o700)); err != nil {
		t.Fatal(err)
	}
	life(t, folder, func(store core.Keystore) { put(t, store, "b") })
	life(t, folder, func(store core.Keystore) {
		if answers, err := store.Read(t.Context(), []core.Query{{Table: 1}}); err != nil || len(answers[0]) != 2 {
			t.Errorf("%v, %v", answers, err)
		}
	})
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// life is one of the plugin, from its start to its end.
func life(t testing.TB, folder string, f func(core.Keystore)) {
	t.Helper()
	p, err := launch(t.Context(), t, folder)
	if err != nil {
		t.Fatal(err)
	}
	store, err := p.Keystore("")
	if err != nil {
		t.Fatal(err)
	}
	f(store)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// Keys outlive the process, also one that was made but whose answer was lost.
func TestKeysAreKept(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "master.key.new"), []byte("half of"), 0o600); err != nil { // of a process that was killed
		t.Fatal(err)
	}
	spec := core.KeySpec{ID: [16]byte{7}, Algorithm: core.ECDSAP256, Use: core.UseSign}
	var ref core.KeyRef
	for range 2 {
		p, err := launch(t.Context(), t, folder)
		if err != nil {
			t.Fatal(err)
		}
		c, err := p.CryptoProvider("")
		if err != nil {
			t.Fatal(err)
		}
		key, err := c.GenerateKey(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if ref != "" && key.Ref() != ref {
			t.Errorf("the same ID is %s, and was %s", key.Ref(), ref)
		}
		ref = key.Ref()
		if _, soft := key.(core.SoftwareKey); soft {
			t.Error("the key leaves the plugin")
		}
		p.Kill()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Nobody but the host gets in, though the socket be open to him.
func TestStranger(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	launched(t)
	sockets, err := filepath.Glob(filepath.Join(os.TempDir(), "*", "plugin"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("sockets: %q, %v", sockets, err)
	}
	conn, err := net.Dial("unix", sockets[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stranger := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	err = stranger.Handshake()
	if err == nil { // TLS 1.3 tells the client later
		_, err = stranger.Read(make([]byte, 1))
	}
	if err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v", err)
	}
}

// Somebody who starts it by hand is told what it is.
func TestStartedByHand(t *testing.T) {
	t.Parallel()
	here(t)
	cmd := exec.Command("node", filepath.Join(installed, "plugin.mjs"))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "This is a plugin of Conclave") {
		t.Errorf("%v: %s", err, out)
	}
}
