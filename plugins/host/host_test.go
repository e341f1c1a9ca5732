// SPDX-License-Identifier: Apache-2.0

//go:build unix

package host_test

import (
	"bufio"
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
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/plugins/host"
	"github.com/conclave-mls/conclave/plugins/sdk"
	"github.com/conclave-mls/conclave/providers/basic"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// TestMain is also the plugins and the hosts of the tests, which are this program again.
func TestMain(m *testing.M) {
	role := os.Getenv("ROLE")
	switch role {
	case "":
		os.Exit(run(m))
	case "host":
		beHost()
	case "stranger":
		beStranger()
	default:
		if be := hostile[role]; be != nil {
			be()
			return
		}
		var p sdk.Plugin
		for part := range strings.SplitSeq(role, "+") {
			add(&p, part)
		}
		sdk.Serve(p)
	}
}

// run runs the tests, which have to leave nothing behind: no process, no goroutine and no
// socket.
func run(m *testing.M) int {
	tmp, err := os.MkdirTemp("", "host-test-")
	if err == nil {
		err = errors.Join(os.Chmod(tmp, 0o755), os.Setenv("TMPDIR", tmp))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	code := m.Run()
	processes, _ := filepath.Glob("/proc/[0-9]*/exe") // where the system has it
	for _, p := range processes {
		if exe, err := os.Readlink(p); err == nil && strings.HasPrefix(exe, tmp) {
			fmt.Fprintln(os.Stderr, "a process is left:", p)
			code = 1
		}
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "plugin-dir*")); len(left) > 0 {
		fmt.Fprintln(os.Stderr, "sockets are left:", left)
		code = 1
	}
	return code
}

func add(p *sdk.Plugin, part string) {
	switch part {
	case "memory":
		p.Keystore = memory.New()
	case "sqlite":
		store, err := sqlite.Open(context.Background(), os.Getenv("FILE"))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		p.Keystore = store
	case "bad close":
		p.Keystore = badClose{p.Keystore}
	case "crash":
		p.Keystore = crashing{p.Keystore}
	case "pure":
		p.CryptoProvider = pure.New()
	case "basic":
		p.Issuer = basic.New()
	case "wrapper":
		p.KeyWrapper = rawKey(0)
		p.Instances = map[string]sdk.Plugin{"other": {KeyWrapper: rawKey(1)}}
	case "talk":
		fmt.Fprintln(os.Stderr, "plain line")
		slog.New(slog.NewJSONHandler(os.Stderr, nil)).Warn("a warning", "n", 7)
	case "pid":
		fmt.Fprintf(os.Stderr, `{"level":"INFO","msg":"pid=%d"}`+"\n", os.Getpid())
	case "descriptors":
		var want, have syscall.Stat_t
		err := syscall.Stat(os.Getenv("FILE"), &want)
		for fd := 3; fd < 1024; fd++ {
			if syscall.Fstat(fd, &have) == nil && have.Dev == want.Dev && have.Ino == want.Ino {
				fmt.Fprintln(os.Stderr, "it has descriptor", fd)
			}
		}
		fmt.Fprintln(os.Stderr, "looked for it:", err)
	case "env":
		env := os.Environ()
		slices.Sort(env)
		for _, e := range env {
			name, _, _ := strings.Cut(e, "=")
			fmt.Fprintln(os.Stderr, "env", name)
		}
	default:
		addReal(p, part)
	}
}

// badClose cannot be closed.
type badClose struct{ core.Keystore }

func (badClose) Close() error { return errors.New("the disk is full") }

// crashing ends its process when a record with one of these keys is put.
type crashing struct{ core.Keystore }

func (c crashing) Apply(ctx context.Context, b core.Batch) error {
	dies := func(key string) bool {
		return slices.ContainsFunc(b.Puts, func(p core.Put) bool { return string(p.Key) == key })
	}
	if dies("die before") {
		fmt.Fprintln(os.Stderr, "last words")
		os.Exit(3)
	}
	err := c.Keystore.Apply(ctx, b)
	if dies("die after") {
		os.Exit(3)
	}
	return err
}

func rawKey(n byte) core.KeyWrapper {
	w, err := seal.RawKey(core.NewSecret(bytes.Repeat([]byte{n + 1}, 32)))
	if err != nil {
		panic(err)
	}
	return w
}

// self is this program and its checksum. It is a copy: who built it may have let a group
// write to it.
var self = sync.OnceValues(func() (path string, sum []byte) {
	original, err := os.Executable()
	path = os.Getenv(selfCopy)
	if err == nil && path == "" {
		var dir string
		if dir, err = os.MkdirTemp("", "self-"); err == nil {
			path = filepath.Join(dir, "conclave-plugin-test")
			// Another user may start it.
			err = errors.Join(os.Chmod(dir, 0o755), copyFile(path, original), os.Setenv(selfCopy, path))
		}
	}
	if err == nil {
		sum, err = host.Sum(path)
	}
	if err != nil {
		panic(err)
	}
	return path, sum
})

// selfCopy tells the processes that tests kill, and that so remove nothing, where the copy is.
const selfCopy = "PLUGINS_HOST_TEST_SELF"

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, b, 0o700); err != nil {
		return err
	}
	return os.Chmod(to, 0o755)
}

func config(role string, env ...string) host.Config {
	path, sum := self()
	return host.Config{
		Name: "test", Path: path, SHA256: sum, Env: append(env, "ROLE="+role),
		Logger: slog.New(slog.DiscardHandler), Backoff: time.Millisecond,
	}
}

func launch(t testing.TB, cfg host.Config) *host.Plugin {
	t.Helper()
	p, err := host.Launch(context.Background(), cfg)
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

func keystore(t testing.TB, p *host.Plugin) core.Keystore {
	t.Helper()
	store, err := p.Keystore("")
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestMemoryBehindPlugin(t *testing.T) {
	coretest.TestKeystore(t, func(t *testing.T) core.Keystore { return keystore(t, launch(t, config("memory"))) })
}

func TestSQLiteBehindPlugin(t *testing.T) {
	coretest.TestKeystore(t, func(t *testing.T) core.Keystore {
		return keystore(t, launch(t, config("sqlite", "FILE="+filepath.Join(t.TempDir(), "store"))))
	})
}

func TestPureBehindPlugin(t *testing.T) {
	p := launch(t, config("pure"))
	coretest.TestCryptoProvider(t, func(t *testing.T) core.CryptoProvider {
		c, err := p.CryptoProvider("")
		if err != nil {
			t.Fatal(err)
		}
		return c
	})
}

func TestBasicBehindPlugin(t *testing.T) {
	p := launch(t, config("basic"))
	coretest.TestCredentialIssuer(t, func(t *testing.T) core.CredentialIssuer {
		i, err := p.Issuer("")
		if err != nil {
			t.Fatal(err)
		}
		return i
	})
}

func TestKeyWrapperBehindPlugin(t *testing.T) {
	p := launch(t, config("wrapper"))
	coretest.TestKeyWrapper(t, func(t *testing.T, key int) core.KeyWrapper {
		w, err := p.KeyWrapper([]string{"", "other"}[key])
		if err != nil {
			t.Fatal(err)
		}
		return w
	})
}

func TestPartsThatAreNotOffered(t *testing.T) {
	p := launch(t, config("memory"))
	for name, err := range map[string]error{
		"Keystore":       second(p.Keystore("other")),
		"CryptoProvider": second(p.CryptoProvider("")),
		"Issuer":         second(p.Issuer("")),
		"KeyWrapper":     second(p.KeyWrapper("")),
	} {
		if !errors.Is(err, core.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// A socket has a short path.
func TestLongFolder(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	must(t, os.Mkdir(long, 0o700))
	cfg := config("memory")
	t.Setenv("TMPDIR", long)
	_, err := host.Launch(t.Context(), cfg)
	if core.Kind(err) != core.ErrUnavailable || !strings.Contains(err.Error(), "TMPDIR is too long") {
		t.Errorf("%v, want ErrUnavailable with what is wrong", err)
	}
	if left, err := os.ReadDir(long); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestLaunchRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*host.Config)
		want   error
	}{
		"another checksum":        {func(c *host.Config) { c.SHA256 = make([]byte, 32) }, core.ErrDenied},
		"half a checksum":         {func(c *host.Config) { c.SHA256 = c.SHA256[:16] }, core.ErrDenied},
		"no checksum":             {func(c *host.Config) { c.SHA256 = nil }, core.ErrDenied},
		"a checksum and unpinned": {func(c *host.Config) { c.Unpinned = true }, core.ErrDenied},
		"relative path":           {func(c *host.Config) { c.Path = "plugin" }, core.ErrInvalid},
		"a path with NUL":         {func(c *host.Config) { c.Path += "\x00" }, core.ErrInvalid},
		"no variable":             {func(c *host.Config) { c.Env = append(c.Env, "NAME") }, core.ErrInvalid},
		"no name of a variable":   {func(c *host.Config) { c.Env = append(c.Env, "=x") }, core.ErrInvalid},
		"a variable with NUL":     {func(c *host.Config) { c.Env = append(c.Env, "A=x\x00B=y") }, core.ErrInvalid},
		"no such file":            {func(c *host.Config) { c.Path = "/no such file" }, core.ErrUnavailable},
		"name with a slash":       {func(c *host.Config) { c.Name = "../test" }, core.ErrInvalid},
		"no name":                 {func(c *host.Config) { c.Name = "" }, core.ErrInvalid},
		"it offers nothing":       {func(c *host.Config) { c.Env = []string{"ROLE=nothing"} }, core.ErrUnavailable},
		"it ends at once":         {func(c *host.Config) { c.Path, c.SHA256, c.Unpinned = "/bin/true", nil, true }, core.ErrUnavailable},
	} {
		cfg := config("memory")
		c.change(&cfg)
		p, err := host.Launch(t.Context(), cfg)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err == nil {
			_ = p.Close()
		}
	}
}

func put(key, value string) core.Put {
	return core.Put{Table: 1, Key: []byte(key), Value: []byte(value), Version: core.NewVersion()}
}

// again repeats a call for as long as the plugin is not back.
func again(t testing.TB, f func() error) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if !errors.Is(err, core.ErrUnavailable) || time.Now().After(end) {
			t.Fatalf("the plugin does not come back: %v", err)
		}
	}
}

// A crash is an unknown outcome, whatever became of the batch, and the plugin comes back.
func TestCrashInApply(t *testing.T) {
	store := keystore(t, launch(t, config("sqlite+crash", "FILE="+filepath.Join(t.TempDir(), "store"))))
	for _, c := range []struct {
		key  string
		want int
	}{{"die after", 1}, {"die before", 0}} {
		p := put(c.key, "value")
		again(t, func() error { return store.Apply(t.Context(), core.Batch{Puts: []core.Put{put("x"+c.key, "")}}) })
		err := store.Apply(t.Context(), core.Batch{Puts: []core.Put{p}})
		if core.Kind(err) != core.ErrUnknownOutcome || errors.Is(err, core.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnknownOutcome alone", c.key, err)
		}
		again(t, func() error {
			answers, err := store.Read(t.Context(), []core.Query{{Table: 1, Prefix: p.Key}})
			if err == nil && (len(answers[0]) != c.want || c.want == 1 && answers[0][0].Version != p.Version) {
				t.Errorf("%s: %d records, want %d", c.key, len(answers[0]), c.want)
			}
			return err
		})
	}
}

// A plugin that died too often stays away; while it is down nothing can have happened.
func TestRestartLimit(t *testing.T) {
	r := &records{}
	cfg := config("memory+crash")
	cfg.Restarts, cfg.Logger = -1, slog.New(r)
	p := launch(t, cfg)
	store := keystore(t, p)
	b := core.Batch{Puts: []core.Put{put("die before", "")}}
	if err := store.Apply(t.Context(), b); !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := store.Read(t.Context(), nil); !errors.Is(err, core.ErrUnavailable) {
			t.Errorf("read: %v, want ErrUnavailable", err)
		}
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		err := store.Apply(t.Context(), b)
		if core.Kind(err) == core.ErrClosed && errors.Is(err, core.ErrUnavailable) && strings.Contains(err.Error(), "too often") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("apply: %v, want ErrUnavailable and ErrClosed", err)
		}
	}
	if !r.has("last words") {
		t.Error("the plugin's last words are lost")
	}
	// What no keystore takes is refused before the plugin is asked.
	if err := store.Apply(t.Context(), core.Batch{Puts: []core.Put{put("", "")}}); core.Kind(err) != core.ErrInvalid {
		t.Errorf("apply of an empty key: %v, want ErrInvalid", err)
	}
	if _, err := store.Read(t.Context(), []core.Query{{Limit: -1}}); core.Kind(err) != core.ErrInvalid {
		t.Errorf("read with a negative limit: %v, want ErrInvalid", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := store.Read(t.Context(), nil); !errors.Is(err, core.ErrClosed) {
		t.Errorf("read of a closed plugin: %v, want ErrClosed", err)
	}
}

// A losing keystore loses the answer to the next batch, and its plugin.
type losing struct {
	core.Keystore
	kill func()
}

func (l *losing) Apply(ctx context.Context, b core.Batch) error {
	err := l.Keystore.Apply(ctx, b)
	if l.kill == nil {
		return err
	}
	l.kill()
	l.kill = nil
	return core.ErrUnknownOutcome
}

// What became of a batch is not asked for ever of a plugin that stays down.
func TestLostForGood(t *testing.T) {
	cfg := config("memory")
	cfg.Restarts = -1
	p := launch(t, cfg)
	ks := &losing{Keystore: keystore(t, p)}
	s, err := seal.Open(t.Context(), ks, rawKey(0), "tenant")
	must(t, err)
	defer func() { _ = s.Close() }() // it cannot tidy up
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	b := seal.Batch{Puts: []seal.Put{{Table: 1, Value: []byte("x")}}}
	if _, err := s.Apply(ctx, b); err != nil {
		t.Fatal(err)
	}
	ks.kill = func() { kill(t, p) }
	if _, err := s.Apply(ctx, b); core.Kind(err) != core.ErrUnknownOutcome || ctx.Err() != nil {
		t.Errorf("the lost batch: %v, want ErrUnknownOutcome before the context ends", err)
	}
	if _, err := s.Apply(ctx, b); !errors.Is(err, core.ErrClosed) || !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("the next one: %v, want ErrClosed and ErrUnavailable", err)
	}
}

type record struct {
	level slog.Level
	text  string
}

// records keeps what is logged.
type records struct {
	slog.Handler
	mu  sync.Mutex
	all []record
}

func (r *records) Handle(_ context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := rec.Message
	rec.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	r.all = append(r.all, record{rec.Level, text})
	return nil
}
func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }

func TestLogAndEnvironment(t *testing.T) {
	t.Setenv("OF_THE_HOST", "secret")
	r := &records{}
	cfg := config("memory+bad close+talk+env", "OF_THE_PLUGIN=1")
	cfg.Logger = slog.New(r)
	if err := launch(t, cfg).Close(); err != nil { // all lines are read when it has ended
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, want := range []record{
		{slog.LevelInfo, "plain line"}, {slog.LevelWarn, "a warning said=[n=7]"}, {slog.LevelInfo, "env OF_THE_PLUGIN"},
		{slog.LevelInfo, `close keystore "": the disk is full`},
	} {
		if !slices.Contains(r.all, want) {
			t.Errorf("no record %v among %v", want, r.all)
		}
	}
	for _, rec := range r.all {
		name, ok := strings.CutPrefix(rec.text, "env ")
		if ok && !strings.HasPrefix(name, "PLUGIN_") && !slices.Contains([]string{"ROLE", "OF_THE_PLUGIN", "CONCLAVE_PLUGIN"}, name) {
			t.Errorf("the plugin has %s of the host's environment", name)
		}
	}
}

// What the host was started with does not go on to its plugins.
func TestDescriptorsAreNotPassedOn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(file, []byte("secret"), 0o600))
	f, err := os.Open(file)
	must(t, err)
	fd, err := syscall.Dup(int(f.Fd())) // not closed on exec
	must(t, err, f.Close())
	defer func() { _ = syscall.Close(fd) }()
	r := &records{}
	cfg := config("memory+descriptors", "FILE="+file)
	cfg.Logger = slog.New(r)
	must(t, launch(t, cfg).Close())
	if r.has("it has descriptor") || !r.has("looked for it: <nil>") {
		t.Errorf("the log has %v", r.all)
	}
}

// beHost is a host that says which process its plugin is and then waits to be killed.
func beHost() {
	path, err := os.Executable()
	var sum []byte
	if err == nil {
		sum, err = host.Sum(path)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, err = host.Launch(context.Background(), host.Config{
		Name: "test", Path: path, SHA256: sum, Env: []string{"ROLE=" + os.Getenv("PLUGIN")},
		Logger: slog.New(slog.NewTextHandler(os.Stdout, nil)),
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("launched")
	time.Sleep(time.Hour)
}

// A plugin ends with its host, though that had no time to stop it, and so does what it has
// started.
func TestNoOrphan(t *testing.T) {
	for _, role := range []string{"memory+pid", "breeds"} {
		t.Run(role, func(t *testing.T) { noOrphan(t, role) })
	}
}

func noOrphan(t *testing.T, role string) {
	path, _ := self()
	cmd := exec.Command(path)
	tmp := t.TempDir()
	cmd.Env = []string{"ROLE=host", "PLUGIN=" + role, "TMPDIR=" + tmp}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var line string
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "launched"; {
		line += lines.Text()
	}
	killed := cmd.Process.Kill()
	_ = cmd.Wait()
	_, number, _ := strings.Cut(strings.TrimSpace(line), "pid=")
	var pid int
	_, err = fmt.Sscanf(number, "%d", &pid)
	if pid == 0 || killed != nil {
		t.Fatalf("the host says %q (%v, %v)", line, err, killed)
	}
	for end := time.Now().Add(20 * time.Second); alive(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("the plugin outlives its host")
		}
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// alive says whether a process runs: one that has ended may still have its number.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil && !errors.Is(err, os.ErrNotExist)
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z")
}
