// SPDX-License-Identifier: Apache-2.0

//go:build unix

package host_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/host"
)

// folder makes a plugin folder with one plugin, whatever the umask is.
func folder(t *testing.T) (dir, path string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "plugins")
	must(t, os.Chmod(filepath.Dir(dir), 0o700), os.Mkdir(dir, 0o700))
	path = filepath.Join(dir, "conclave-plugin-good")
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700))
	return dir, path
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// Each change lets somebody else put another executable there. It is refused wherever the
// path comes from: by Find, by List and before a start.
func TestPermissionRules(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, dir, path string) error{
		"group may write to the executable":    func(_ *testing.T, _, path string) error { return os.Chmod(path, 0o770) },
		"world may write to the executable":    func(_ *testing.T, _, path string) error { return os.Chmod(path, 0o707) },
		"group may write to the folder":        func(_ *testing.T, dir, _ string) error { return os.Chmod(dir, 0o770) },
		"world may write to the folder":        func(_ *testing.T, dir, _ string) error { return os.Chmod(dir, 0o777) },
		"the folder is sticky":                 func(_ *testing.T, dir, _ string) error { return os.Chmod(dir, 0o777|os.ModeSticky) },
		"world may write to the one above":     func(_ *testing.T, dir, _ string) error { return os.Chmod(filepath.Dir(dir), 0o777) },
		"it is not executable":                 func(_ *testing.T, _, path string) error { return os.Chmod(path, 0o600) },
		"it is a folder":                       func(_ *testing.T, _, path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"it is a loop":                         func(_ *testing.T, _, path string) error { return errors.Join(os.Remove(path), os.Symlink(path, path)) },
		"a link to a file that others write":   linked(func(dir, path string) error { return os.Chmod(path, 0o777) }),
		"a link to a folder that others write": linked(func(dir, path string) error { return os.Chmod(dir, 0o777) }),
		"a link to a sticky folder":            linked(func(dir, path string) error { return os.Chmod(dir, 0o777|os.ModeSticky) }),
		"a link through a folder that others write": func(t *testing.T, _, path string) error {
			between, good := t.TempDir(), path+"-good"
			return errors.Join(os.Rename(path, good), os.Chmod(between, 0o777),
				os.Symlink(good, filepath.Join(between, "x")), os.Symlink(filepath.Join(between, "x"), path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, path := folder(t)
			if got, err := host.Find(dir, "good"); err != nil || got != path {
				t.Fatalf("before: %q, %v", got, err)
			}
			must(t, change(t, dir, path))
			refused(t, dir, path)
		})
	}
}

// linked puts another plugin in the place of the folder's, by a symbolic link to it.
func linked(change func(dir, path string) error) func(*testing.T, string, string) error {
	return func(t *testing.T, _, path string) error {
		otherDir, otherPath := folder(t)
		return errors.Join(os.Remove(path), os.Symlink(otherPath, path), change(otherDir, otherPath))
	}
}

func refused(t *testing.T, dir, path string) {
	t.Helper()
	if got, err := host.Find(dir, "good"); core.Kind(err) != core.ErrDenied || got != "" {
		t.Errorf("Find: %q, %v, want ErrDenied", got, err)
	}
	all, err := host.List(dir)
	if i := slices.IndexFunc(all, func(f host.Found) bool { return f.Name == "good" }); i < 0 || core.Kind(all[i].Err) != core.ErrDenied {
		t.Errorf("List: %v, %v, want ErrDenied", all, err)
	}
	_, err = host.Launch(context.Background(), host.Config{Name: "good", Path: path, Unpinned: true, Logger: slog.New(slog.DiscardHandler)})
	if core.Kind(err) != core.ErrDenied {
		t.Errorf("Launch: %v, want ErrDenied", err)
	}
}

// A file, a link or a folder of another user is refused, though nobody else may write to it.
func TestForeignOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away; TestOwned has the rule itself")
	}
	const other = 65534
	for name, change := range map[string]func(dir, path string) error{
		"executable":   func(_, path string) error { return os.Chown(path, other, -1) },
		"folder":       func(dir, _ string) error { return os.Chown(dir, other, -1) },
		"folder above": func(dir, _ string) error { return os.Chown(filepath.Dir(dir), other, -1) },
		"a symbolic link": func(_, path string) error {
			return errors.Join(os.Rename(path, path+"-x"), os.Symlink(path+"-x", path), os.Lchown(path, other, -1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, path := folder(t)
			must(t, change(dir, path))
			refused(t, dir, path)
		})
	}
}

// A link that only we can change, to where only we can write, is as good as a file; so is
// a sticky folder higher up.
func TestGoodPaths(t *testing.T) {
	t.Parallel()
	dir, path := folder(t)
	must(t, os.Chmod(filepath.Dir(dir), 0o777|os.ModeSticky))
	for name, target := range map[string]string{"absolute": path, "relative": "./conclave-plugin-good", "up": "../plugins/./conclave-plugin-good"} {
		must(t, os.Symlink(target, filepath.Join(dir, "conclave-plugin-"+name)))
		if got, err := host.Find(dir, name); err != nil || got != filepath.Join(dir, "conclave-plugin-"+name) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestFindByName(t *testing.T) {
	t.Parallel()
	dir, _ := folder(t)
	must(t, os.WriteFile(filepath.Join(dir, "../conclave-plugin-x"), []byte("#!/bin/sh\n"), 0o700))
	for _, name := range []string{"", "/", "..", "../x", "../conclave-plugin-x", "good/", "/bin/true", "good\x00", "Good", "-good", "é", strings.Repeat("a", 33), strings.Repeat("../", 2000)} {
		got, err := host.Find(dir, name)
		if core.Kind(err) != core.ErrInvalid || got != "" || len(err.Error()) > 200 {
			t.Errorf("%.40q: %q, %v, want ErrInvalid", name, got, err)
		}
	}
	for _, where := range []string{dir, filepath.Join(dir, "none")} {
		if _, err := host.Find(where, "other"); core.Kind(err) != core.ErrNotFound {
			t.Errorf("in %s: %v, want ErrNotFound", where, err)
		}
	}
	_, err := host.Find(filepath.Join(dir, "conclave-plugin-good"), "x")
	if err == nil {
		t.Error("a file is a folder")
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	dir, path := folder(t)
	for _, name := range []string{"conclave-plugin-Bad", "conclave-plugin-", "README"} {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o700))
	}
	all, err := host.List(dir)
	if err != nil || len(all) != 3 {
		t.Fatalf("%v, %v", all, err)
	}
	if all[2].Name != "good" || all[2].Path != path || all[2].Err != nil {
		t.Errorf("the good one: %v", all[2])
	}
	for _, f := range all[:2] {
		if core.Kind(f.Err) != core.ErrInvalid {
			t.Errorf("%s: %v, want ErrInvalid", f.Path, f.Err)
		}
	}
	if _, err := host.List(filepath.Join(dir, "none")); core.Kind(err) != core.ErrNotFound {
		t.Errorf("no folder: %v, want ErrNotFound", err)
	}
	if _, err := host.Sum(filepath.Join(dir, "none")); core.Kind(err) != core.ErrNotFound {
		t.Errorf("no file: %v, want ErrNotFound", err)
	}
}

// ownPlugin is a copy of this program, for a test that changes it.
func ownPlugin(t *testing.T, role string) host.Config {
	t.Helper()
	dir, _ := folder(t)
	cfg := config(role)
	path := filepath.Join(dir, "conclave-plugin-test")
	must(t, copyFile(path, cfg.Path))
	cfg.Path = path
	return cfg
}

// What takes the place of a plugin while it runs is not started, nor is it later.
func TestReplacedWhileRunning(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(path string) error{
		"replaced": func(path string) error {
			return errors.Join(os.Remove(path), os.WriteFile(path, []byte("#!/bin/sh\ntouch \"$0.ran\"\n"), 0o700))
		},
		"changed": func(path string) error { // it cannot be written to while it runs
			b, err := os.ReadFile(path)
			b = bytes.Replace(b, []byte("the plugin comes back in another shape"), []byte("THE PLUGIN COMES BACK IN ANOTHER SHAPE"), 1)
			return errors.Join(err, os.WriteFile(path+".new", b, 0o700), os.Rename(path+".new", path))
		},
		"made writable": func(path string) error { return os.Chmod(path, 0o722) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := ownPlugin(t, "memory+crash")
			p := launch(t, cfg)
			store := keystore(t, p)
			must(t, change(cfg.Path))
			if _, err := store.Read(t.Context(), []core.Query{{Table: 1}}); err != nil {
				t.Errorf("what runs: %v", err)
			}
			_ = store.Apply(t.Context(), core.Batch{Puts: []core.Put{put("die before", "")}})
			for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
				_, err := store.Read(t.Context(), nil)
				if core.Kind(err) == core.ErrDenied && !errors.Is(err, core.ErrUnavailable) {
					break
				}
				if core.Kind(err) != core.ErrUnavailable || time.Now().After(end) {
					t.Fatalf("%v, want ErrUnavailable and then ErrDenied", err)
				}
			}
			must(t, copyFile(cfg.Path, config("").Path)) // the right one again: somebody has to look at it first
			for range 20 {
				if _, err := store.Read(t.Context(), nil); core.Kind(err) != core.ErrDenied {
					t.Errorf("later: %v, want ErrDenied", err)
				}
				time.Sleep(time.Millisecond)
			}
			if _, err := os.Stat(cfg.Path + ".ran"); err == nil {
				t.Error("the other executable was started")
			}
		})
	}
}

// An unpinned plugin works, in the folder that it is given, and the log says that it is one.
func TestUnpinnedInAFolder(t *testing.T) {
	t.Parallel()
	r := &records{}
	cfg := config("sqlite", "FILE=store")
	cfg.Dir, cfg.Logger, cfg.SHA256, cfg.Unpinned = t.TempDir(), slog.New(r), nil, true
	must(t, keystore(t, launch(t, cfg)).Apply(t.Context(), core.Batch{Puts: []core.Put{put("key", "")}}))
	if _, err := os.Stat(filepath.Join(cfg.Dir, "store")); err != nil {
		t.Error(err)
	}
	if !r.has("plugin is not pinned") {
		t.Error("the log does not say that it is not pinned")
	}
}
