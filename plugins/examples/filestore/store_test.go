// SPDX-License-Identifier: Apache-2.0

//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/plugins/host"
	"github.com/conclave-mls/conclave/storage/memory"
)

// TestMain is also the plugin of the tests, which is this program again.
func TestMain(m *testing.M) {
	if os.Getenv("FILE") != "" {
		main()
		return
	}
	os.Exit(run(m))
}

// program is a copy of this one, as who built it may have let a group write to it. The
// processes that the suite kills have it from this one, and remove nothing.
var program = os.Getenv(programName)

const programName = "FILESTORE_TEST_PROGRAM"

func run(m *testing.M) int {
	if program == "" {
		folder, err := os.MkdirTemp("", "filestore-test-") // for nobody else
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(folder)
		program = filepath.Join(folder, "conclave-plugin-filestore")
		path, err := os.Executable()
		var code []byte
		if err == nil {
			code, err = os.ReadFile(path)
		}
		if err = errors.Join(err, os.WriteFile(program, code, 0o700), os.Setenv(programName, program)); err != nil {
			panic(err)
		}
	}
	return m.Run()
}

// open waits less than the plugin does. It waits because a process that another test is
// starting has all our locks for a moment, between fork and exec.
func open(ctx context.Context, folder string) (core.Keystore, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s, err := Open(ctx, filepath.Join(folder, "store"))
	if err != nil {
		return nil, err
	}
	return s, nil
}

// A process is a store whose plugin ends with it.
type process struct {
	core.Keystore
	plugin *host.Plugin
}

func (p process) Close() error { return errors.Join(p.Keystore.Close(), p.plugin.Close()) }

func launch(ctx context.Context, folder string) (core.Keystore, error) {
	p, err := host.Launch(ctx, host.Config{
		Name: "filestore", Path: program, Unpinned: true, Env: []string{"FILE=" + filepath.Join(folder, "store")},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	store, err := p.Keystore("")
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return process{store, p}, nil
}

func TestStore(t *testing.T) {
	t.Parallel()
	coretest.TestDurableKeystore(t, open)
}

func TestStoreBehindPlugin(t *testing.T) {
	t.Parallel()
	coretest.TestDurableKeystore(t, launch)
}

func put(key, value string) core.Put {
	return core.Put{Table: 1, Key: []byte(key), Value: []byte(value), Version: core.NewVersion()}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dump is what a store holds.
func dump(t testing.TB, s core.Keystore) map[string]string {
	t.Helper()
	all := map[string]string{}
	for table := range 3 {
		answers, err := s.Read(context.Background(), []core.Query{{Table: core.Table(table)}})
		must(t, err)
		for _, r := range answers[0] {
			all[fmt.Sprintf("%d %x", table, r.Key)] = fmt.Sprintf("%x %x", r.Version, r.Value)
		}
	}
	return all
}

// made is a file of a few batches, where each ends, and what the store held then.
func made(t testing.TB) (text []byte, ends []int, held []map[string]string) {
	t.Helper()
	folder := t.TempDir()
	store, err := open(t.Context(), folder)
	must(t, err)
	s := store.(*Store)
	s.limit = 1 << 20
	at := func() {
		ends, held = append(ends, int(s.size)), append(held, dump(t, s))
	}
	at()
	for _, b := range []core.Batch{
		{Puts: []core.Put{put("a", "one"), put("b", "")}},
		{Dels: []core.Range{{Table: 1, Prefix: []byte("a")}}, Puts: []core.Put{put("c", "two")}},
		{Dels: []core.Range{{Table: 1}}},
	} {
		must(t, s.Apply(t.Context(), b))
		at()
	}
	must(t, s.Close())
	text, err = os.ReadFile(filepath.Join(folder, "store"))
	must(t, err)
	return text, ends, held
}

// A file that ends early holds the batches that are whole, as after a kill. One in which a
// byte has changed is refused, wherever that is.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	text, ends, held := made(t)
	if ends[len(ends)-1] != len(text) {
		t.Fatalf("the file has %d bytes, the store says %d", len(text), ends[len(ends)-1])
	}
	whole := 0
	for n := len(magic); n <= len(text); n++ {
		if whole+1 < len(ends) && n == ends[whole+1] {
			whole++
		}
		folder := t.TempDir()
		file := filepath.Join(folder, "store")
		must(t, os.WriteFile(file, text[:n], 0o600))
		s, err := open(t.Context(), folder)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if got := dump(t, s); !maps.Equal(got, held[whole]) {
			t.Errorf("%d bytes: %v, want %v", n, got, held[whole])
		}
		if info, err := os.Stat(file); err != nil || info.Size() != int64(ends[whole]) {
			t.Errorf("%d bytes: what was left of a batch is in the file still", n)
		}
		must(t, s.Close())
	}
	folder := t.TempDir()
	for i := range text {
		bad := bytes.Clone(text)
		bad[i] ^= 1
		must(t, os.WriteFile(filepath.Join(folder, "store"), bad, 0o600))
		if _, err := open(t.Context(), folder); core.Kind(err) != core.ErrDamaged {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if now, err := os.ReadFile(filepath.Join(folder, "store")); err != nil || !bytes.Equal(now, bad) {
			t.Errorf("byte %d changed: the damaged file was changed as well (%v)", i, err)
		}
	}
	// Zeros at the end are what a loss of power leaves; before something else they are damage.
	for _, tail := range []string{"\x00", strings.Repeat("\x00", headerLen), strings.Repeat("\x00", 5000)} {
		must(t, os.WriteFile(filepath.Join(folder, "store"), append(bytes.Clone(text), tail...), 0o600))
		s, err := open(t.Context(), folder)
		must(t, err)
		if got := dump(t, s); !maps.Equal(got, held[len(held)-1]) {
			t.Errorf("%d zeros: %v", len(tail), got)
		}
		must(t, s.Close())
		if now, err := os.ReadFile(filepath.Join(folder, "store")); err != nil || !bytes.Equal(now, text) {
			t.Errorf("%d zeros are in the file still (%v)", len(tail), err)
		}
		must(t, os.WriteFile(filepath.Join(folder, "store"), append(bytes.Clone(text), tail+strings.Repeat("x", headerLen)...), 0o600))
		if _, err := open(t.Context(), folder); core.Kind(err) != core.ErrDamaged {
			t.Errorf("%d zeros and something else: %v", len(tail), err)
		}
	}
	for n := range len(magic) {
		must(t, os.WriteFile(filepath.Join(folder, "store"), text[:n], 0o600))
		if _, err := open(t.Context(), folder); core.Kind(err) != core.ErrDamaged {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// The host learns that the file is damaged, and not only that there is no store.
func TestDamagedBehindPlugin(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	must(t, os.WriteFile(filepath.Join(folder, "store"), []byte("something else"), 0o600))
	s, err := launch(t.Context(), folder)
	must(t, err)
	defer s.Close()
	_, err = s.Read(t.Context(), nil)
	if applied := s.Apply(t.Context(), core.Batch{}); core.Kind(err) != core.ErrDamaged || core.Kind(applied) != core.ErrDamaged {
		t.Errorf("read: %v, apply: %v", err, applied)
	}
}

// The file grows with what is there, not with what was written.
func TestRewritten(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	file := filepath.Join(folder, "store")
	value := string(bytes.Repeat([]byte("v"), 100_000))
	kept := put("kept", value)
	var want map[string]string
	for range 3 {
		s, err := open(t.Context(), folder)
		must(t, err)
		must(t, s.Apply(t.Context(), core.Batch{Puts: []core.Put{kept}}))
		for range 40 {
			must(t, s.Apply(t.Context(), core.Batch{Puts: []core.Put{put("changing", value)}}))
		}
		want = dump(t, s)
		must(t, s.Close())
	}
	s, err := open(t.Context(), folder)
	must(t, err)
	defer s.Close()
	if got := dump(t, s); !maps.Equal(got, want) || len(got) != 2 {
		t.Errorf("%d records, want %d", len(got), len(want))
	}
	if info, err := os.Stat(file); err != nil || info.Size() > 2<<20 {
		t.Errorf("the file has %d bytes (%v)", info.Size(), err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v (%v)", info.Mode(), err)
	}
}

// What cannot be written has not happened, or it is not known whether it has; when writing
// works again so does the store.
func TestWritingFails(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	store, err := open(t.Context(), folder)
	must(t, err)
	s := store.(*Store)
	must(t, s.Apply(t.Context(), core.Batch{Puts: []core.Put{put("a", "")}}))
	before := dump(t, s)

	good := s.log
	readOnly, err := os.Open(filepath.Join(folder, "store"))
	must(t, err)
	s.log = readOnly
	if err := s.Apply(t.Context(), core.Batch{Puts: []core.Put{put("b", "")}}); core.Kind(err) != core.ErrUnknownOutcome {
		t.Errorf("apply: %v, want ErrUnknownOutcome", err)
	}
	if err := s.Apply(t.Context(), core.Batch{Puts: []core.Put{put("b", "")}}); core.Kind(err) != core.ErrUnavailable {
		t.Errorf("apply again: %v, want ErrUnavailable", err)
	}
	if got := dump(t, s); !maps.Equal(got, before) {
		t.Errorf("what failed is there: %v", got)
	}
	appends, err := os.OpenFile(filepath.Join(folder, "store"), os.O_WRONLY|os.O_APPEND, 0) // can be cut, but not be written at a place
	must(t, err)
	s.log = appends
	if err := s.Apply(t.Context(), core.Batch{Puts: []core.Put{put("b", "")}}); core.Kind(err) != core.ErrUnavailable {
		t.Errorf("apply where writing fails alone: %v, want ErrUnavailable", err)
	}
	s.log = good
	must(t, errors.Join(readOnly.Close(), appends.Close()))
	s.unsettled = true

	// Half of a batch is in the file, and goes.
	_, err = good.WriteAt([]byte("half of a batch"), s.size)
	must(t, err)
	must(t, s.Apply(t.Context(), core.Batch{Puts: []core.Put{put("c", "")}}))
	want := dump(t, s)
	must(t, s.Close())
	again, err := open(t.Context(), folder)
	must(t, err)
	if got := dump(t, again); !maps.Equal(got, want) || len(got) != 2 {
		t.Errorf("%v, want %v", got, want)
	}
	must(t, again.Close())

	// Where no new file can be made, the old one goes on.
	must(t, os.MkdirAll(filepath.Join(folder, "store.new", "in the way"), 0o700))
	again, err = open(t.Context(), folder)
	must(t, err)
	must(t, again.Apply(t.Context(), core.Batch{Puts: []core.Put{put("d", "")}}))
	want = dump(t, again)
	must(t, again.Close())
	again, err = open(t.Context(), folder)
	must(t, err)
	if got := dump(t, again); !maps.Equal(got, want) || len(got) != 3 {
		t.Errorf("%v, want %v", got, want)
	}
	must(t, again.Close())
	must(t, os.RemoveAll(filepath.Join(folder, "store.new")))

	// Half of a new file does not stay: the disk may be full of it.
	must(t, os.WriteFile(filepath.Join(folder, "store.new"), []byte("half of it"), 0o600))
	store, err = open(t.Context(), folder)
	must(t, err)
	s = store.(*Store)
	if _, err := os.Stat(filepath.Join(folder, "store.new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what another life has left is there still: %v", err)
	}
	records := s.records
	s.records = memory.New()
	must(t, s.records.Close()) // it cannot be read
	if err := s.rewrite(); err == nil {
		t.Error("a file of a store that cannot be read")
	}
	if _, err := os.Stat(filepath.Join(folder, "store.new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what failed is there still: %v", err)
	}
	s.records = records
	must(t, s.Apply(t.Context(), core.Batch{Puts: []core.Put{put("e", "")}}))
	must(t, s.Close())
	if _, err := open(t.Context(), filepath.Join(folder, "none")); core.Kind(err) != core.ErrUnavailable {
		t.Errorf("no such folder: %v", err)
	}
}

// A link is the file that it leads to: one process has it, by whatever name, and it is the
// one that is written anew.
func TestLink(t *testing.T) {
	t.Parallel()
	folder, other := t.TempDir(), t.TempDir()
	link := filepath.Join(other, "store")
	s, err := open(t.Context(), folder)
	must(t, err)
	must(t, os.Symlink(filepath.Join(folder, "store"), link))
	if _, err := open(t.Context(), other); core.Kind(err) != core.ErrUnavailable {
		t.Errorf("by the link: %v", err)
	}
	must(t, s.Close())
	s, err = open(t.Context(), other)
	must(t, err)
	must(t, s.Apply(t.Context(), core.Batch{Puts: []core.Put{put("a", "")}})) // after an opening this writes a new file
	want := dump(t, s)
	must(t, s.Close())
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
	s, err = open(t.Context(), folder)
	must(t, err)
	if got := dump(t, s); !maps.Equal(got, want) {
		t.Errorf("by its own name it has %v, want %v", got, want)
	}
	must(t, s.Close())
}

// Whatever is in a file, it is read as a state, of which a new file can be made, or refused.
func FuzzReplay(f *testing.F) {
	text, _, _ := made(f)
	f.Add(text, []byte{})
	f.Add([]byte(magic), text[len(magic)+headerLen:])
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, text, body []byte) {
		if len(body) > 0 { // a sum that is right lets it go further
			frame := append(make([]byte, headerLen), body...)
			seal(frame)
			text = append(bytes.Clone(text), frame...)
		}
		records := memory.New()
		size, err := replay(text, records)
		if err != nil {
			if core.Kind(err) != core.ErrDamaged {
				t.Fatal(err)
			}
			return
		}
		if size > int64(len(text)) {
			t.Fatalf("%d of %d bytes", size, len(text))
		}
		var anew bytes.Buffer
		n, err := writeAll(&anew, records)
		if err != nil || n != int64(anew.Len()) {
			t.Fatal(n, anew.Len(), err)
		}
		again := memory.New()
		if size, err := replay(anew.Bytes(), again); err != nil || size != n {
			t.Fatal(size, n, err)
		}
		if a, b := dump(t, records), dump(t, again); !maps.Equal(a, b) {
			t.Fatalf("%v, written anew %v", a, b)
		}
	})
}
