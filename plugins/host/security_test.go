// SPDX-License-Identifier: Apache-2.0

//go:build unix

package host_test

import (
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
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/host"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// A plugin that does not greet as it should is refused, and nothing of it is left: TestMain
// looks for processes, goroutines and sockets.
func TestBadGreetings(t *testing.T) {
	t.Parallel()
	for role, text := range map[string]string{
		"silent": "not ready within 500ms", "ends": "it ended: exit status 3", "garbage": "hello, this is no handshake  [31m", "a long line": "Unrecognized",
		"no numbers": "version", "tcp": "it listens at tcp", "elsewhere": "it listens at unix", "climbing": "it listens at unix",
		"net/rpc": "netrpc", "no TLS": "not ready within 500ms", "bad certificate": "cert", "floods before": "Unrecognized",
		"offers too much": "more than 256", "offers nothings": "larger than max", "plain": "does not look like a TLS handshake", "another certificate": "failed to verify certificate",
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			cfg := config(role, "DIR="+t.TempDir())
			if strings.Contains(text, "500ms") {
				cfg.StartTimeout = 500 * time.Millisecond
			}
			_, err := host.Launch(t.Context(), cfg)
			if core.Kind(err) != core.ErrUnavailable || !strings.Contains(err.Error(), text) || len(err.Error()) > 5000 || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%.200v, want ErrUnavailable with %q", err, text)
			}
		})
	}
	t.Run("the caller gives up", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := host.Launch(ctx, config("no TLS")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want DeadlineExceeded", err)
		}
	})
}

// lying is a plugin that tells a lie on demand.
func lying(t *testing.T) *host.Plugin {
	t.Helper()
	cfg := config("lies")
	cfg.CallTimeout = 300 * time.Millisecond
	return launch(t, cfg)
}

// Whatever a keystore answers: an error of the right kind, of a length fit for a log.
func TestLyingKeystore(t *testing.T) {
	t.Parallel()
	store := keystore(t, lying(t))
	for lie, want := range map[int]error{
		tooLarge: core.ErrUnavailable, tooMuch: core.ErrUnavailable, drips: core.ErrUnavailable, saysNothing: core.ErrUnavailable,
		emptyWithoutEnd: core.ErrUnavailable, notAsked: core.ErrUnavailable, longText: core.ErrConflict, weGaveUp: core.ErrUnavailable,
		longStatus: core.ErrUnavailable, bigHeaders: core.ErrUnavailable, unknownCode: core.ErrUnavailable,
		noCode: core.ErrUnavailable,
	} {
		q := core.Query{Table: core.Table(lie)}
		if lie == notAsked {
			q.Prefix = []byte("a")
		}
		answers, err := store.Read(t.Context(), []core.Query{q})
		checkLie(t, fmt.Sprintf("read: lie %d", lie), err, want)
		if answers != nil {
			t.Errorf("lie %d: it has an answer", lie)
		}
	}
	for lie, want := range map[int]error{
		tooLarge: core.ErrUnknownOutcome, saysNothing: core.ErrUnknownOutcome, longText: core.ErrConflict, weGaveUp: core.ErrUnavailable,
		longStatus: core.ErrUnknownOutcome, bigHeaders: core.ErrUnknownOutcome, unknownCode: core.ErrUnavailable,
		noCode: core.ErrUnknownOutcome,
	} {
		p := put("key", "value")
		p.Table = core.Table(lie)
		checkLie(t, fmt.Sprintf("apply: lie %d", lie), store.Apply(t.Context(), core.Batch{Puts: []core.Put{p}}), want)
	}
	// Before the last part nothing has happened: the answer comes at the first of nine.
	parts := core.Batch{}
	for i := range 9 {
		p := put(fmt.Sprint(i), string(make([]byte, core.MaxValue)))
		p.Table = noCode
		parts.Puts = append(parts.Puts, p)
	}
	checkLie(t, "apply: no code, early", store.Apply(t.Context(), parts), core.ErrUnavailable)
	// Whose time is up, if the caller has set one.
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := store.Read(ctx, []core.Query{{Table: drips}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller's deadline: %v", err)
	}
	// None of this has hurt it, or us.
	if _, err := store.Read(t.Context(), []core.Query{{Table: honest}}); err != nil {
		t.Error(err)
	}
}

func checkLie(t *testing.T, what string, err, want error) {
	t.Helper()
	if core.Kind(err) != want || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s: %.200v, want %v", what, err, want)
	}
	if err != nil && (len(err.Error()) > 5000 || strings.ContainsAny(err.Error(), "\x1b\n")) {
		t.Errorf("%s: an error of %d bytes: %.40q", what, len(err.Error()), err)
	}
}

func TestLyingProvider(t *testing.T) {
	t.Parallel()
	p, err := lying(t).CryptoProvider("")
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Algorithms(t.Context())
	checkLie(t, "algorithms", err, core.ErrUnavailable)
	for name := range keyLies {
		if name == "material of its own" {
			_, err = p.OpenKey(t.Context(), core.KeyRef("plugin:test//"+name), core.NewSecret([]byte("ours")))
			checkLie(t, "open with material: "+name, err, core.ErrUnavailable)
			_, err = p.OpenKey(t.Context(), core.KeyRef("plugin:test//"+name), core.Secret{})
			checkLie(t, "open: "+name, err, core.ErrUnavailable)
			continue // a new key may have material
		}
		spec := core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign, Label: name}
		_, err := p.GenerateKey(t.Context(), spec)
		checkLie(t, "generate: "+name, err, core.ErrUnavailable)
		_, err = p.(core.KeyImporter).ImportKey(t.Context(), spec, core.NewSecret([]byte("material")))
		checkLie(t, "import: "+name, err, core.ErrUnavailable)
		if strings.HasPrefix(name, "another a") || name == "no ability" {
			continue // only the plugin knows that of a key it has
		}
		_, err = p.OpenKey(t.Context(), core.KeyRef("plugin:test//"+name), core.Secret{})
		checkLie(t, "open: "+name, err, core.ErrUnavailable)
	}
	_, err = p.OpenKey(t.Context(), "plugin:test//no lie", core.NewSecret([]byte("ours")))
	checkLie(t, "open: no material", err, core.ErrUnavailable)
	for ability, use := range map[string]core.KeyUse{"another ability": core.UseDecrypt, "": core.UseSign} {
		_, err := p.GenerateKey(t.Context(), core.KeySpec{Algorithm: core.Ed25519, Use: use, Label: ability})
		checkLie(t, "generate a good one", err, nil)
	}
	_, err = p.GenerateKey(t.Context(), core.KeySpec{Algorithm: core.Ed25519, Use: core.UseDecrypt})
	checkLie(t, "generate one to decrypt that signs", err, core.ErrUnavailable)
	_, err = p.OpenKey(t.Context(), "plugin:test//another key", core.Secret{})
	checkLie(t, "open: another key", err, core.ErrUnavailable)
	_, err = p.(core.KeyAttester).AttestKey(t.Context(), "plugin:test//x", nil)
	checkLie(t, "attest", err, core.ErrUnavailable)

	key, err := p.GenerateKey(t.Context(), core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
	if err != nil {
		t.Fatal(err)
	}
	for input, want := range map[string]error{
		"empty": core.ErrUnavailable, "absurd": core.ErrUnavailable, "too large": core.ErrUnavailable,
		"never": core.ErrUnavailable, "text": core.ErrConflict, "": nil,
	} {
		_, err := key.(core.Signer).Sign(t.Context(), []byte(input))
		checkLie(t, "sign: "+input, err, want)
	}
}

func TestLyingIssuerAndWrapper(t *testing.T) {
	t.Parallel()
	p := lying(t)
	i, err := p.Issuer("")
	must(t, err)
	_, err = i.Describe(t.Context())
	checkLie(t, "describe", err, core.ErrUnavailable)
	for handle := range stepLies {
		step, err := i.Begin(t.Context(), core.IssueRequest{Handle: handle})
		checkLie(t, "begin: "+handle, err, core.ErrUnavailable)
		if step.State != nil {
			t.Errorf("%s: it has a state", handle)
		}
	}
	if _, err := i.Begin(t.Context(), core.IssueRequest{}); err != nil {
		t.Error(err)
	}
	w, err := p.KeyWrapper("")
	must(t, err)
	_, err = w.Wrap(t.Context(), core.NewSecret([]byte("dek")), nil)
	checkLie(t, "wrap", err, core.ErrUnavailable)
	dek, err := w.Unwrap(t.Context(), []byte("blob"), nil)
	checkLie(t, "unwrap", err, core.ErrUnavailable)
	if !dek.IsZero() {
		t.Error("a key with an error")
	}
}

// What is offered and not served is refused when it is asked for, by a clear error.
func TestOffersThatAreNotServed(t *testing.T) {
	t.Parallel()
	p := launch(t, config("offers nothing it has"))
	_, err := keystore(t, p).Read(t.Context(), nil)
	checkLie(t, "read", err, core.ErrUnavailable)
	checkLie(t, "apply", keystore(t, p).Apply(t.Context(), core.Batch{Puts: []core.Put{put("k", "v")}}), core.ErrUnknownOutcome)
	w, err := p.KeyWrapper("")
	must(t, err)
	_, err = w.Wrap(t.Context(), core.NewSecret([]byte("dek")), nil)
	checkLie(t, "wrap", err, core.ErrUnavailable)
	i, err := p.Issuer("")
	must(t, err)
	_, err = i.Describe(t.Context())
	checkLie(t, "describe", err, core.ErrUnavailable)

	c, err := launch(t, config("offers features")).CryptoProvider("")
	must(t, err)
	key, err := c.GenerateKey(t.Context(), core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
	must(t, err)
	checkLie(t, "delete", c.(core.KeyDeleter).DeleteKey(t.Context(), key.Ref()), core.ErrUnavailable)
	_, err = c.(core.KeyAttester).AttestKey(t.Context(), key.Ref(), nil)
	checkLie(t, "attest", err, core.ErrUnavailable)
	if !strings.Contains(fmt.Sprint(err), "Unimplemented") {
		t.Errorf("%v does not say why", err)
	}
}

// until waits for a call to end as it should.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// A plugin that offers something else while it runs is started again, and is good again
// if it then offers the same; one that does not is never used.
func TestChangedOffers(t *testing.T) {
	t.Parallel()
	r := &records{}
	cfg := config("offers another thing later")
	cfg.Health, cfg.Logger, cfg.Restarts = 100*time.Millisecond, slog.New(r), 1000
	store := keystore(t, launch(t, cfg))
	until(t, "it is not found out", func() bool {
		return r.has("plugin is down error=the plugin is not well: it offers something else than before")
	})
	until(t, "it is not started again", func() bool { return r.has("plugin started again") })
	again(t, func() error { _, err := store.Read(t.Context(), []core.Query{{Table: honest}}); return err })

	cfg = config("offers another thing after a restart", "DIR="+t.TempDir())
	r = &records{}
	cfg.Logger, cfg.Restarts = slog.New(r), 3
	p := launch(t, cfg)
	kill(t, p)
	store = keystore(t, p)
	until(t, "it is used, or tried without end", func() bool {
		_, err := store.Read(t.Context(), []core.Query{{Table: honest}})
		if err != nil && !errors.Is(err, core.ErrUnavailable) {
			t.Fatal(err)
		}
		return err != nil && strings.Contains(err.Error(), "too often")
	})
	if r.has("plugin started again") {
		t.Error("it was used")
	}
}

// kill kills the process of a plugin.
func kill(t *testing.T, p *host.Plugin) { must(t, signal(p, syscall.SIGKILL)) }

// signal does nothing to a plugin that is down.
func signal(p *host.Plugin, s syscall.Signal) error {
	pid := host.PID(p)
	if pid == 0 {
		return nil
	}
	return syscall.Kill(pid, s)
}

func (r *records) has(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.all, func(rec record) bool { return strings.HasPrefix(rec.text, text) })
}

// What answers no more is killed and comes back; calls meanwhile are refused.
func TestHealth(t *testing.T) {
	t.Parallel()
	for role, stall := range map[string]func(*host.Plugin) error{
		"memory": func(p *host.Plugin) error { return signal(p, syscall.SIGSTOP) },
		"hangs":  func(*host.Plugin) error { return nil },
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			r := &records{}
			cfg := config(role)
			cfg.Health, cfg.Restarts, cfg.Logger = 300*time.Millisecond, 1000, slog.New(r)
			p := launch(t, cfg)
			store, was := keystore(t, p), host.PID(p)
			must(t, stall(p))
			until(t, "it is not killed", func() bool {
				_, err := store.Read(t.Context(), []core.Query{{Table: honest}})
				if err != nil && core.Kind(err) != core.ErrUnavailable {
					t.Errorf("meanwhile: %v, want ErrUnavailable", err)
				}
				return r.has("plugin is down error=the plugin is not well")
			})
			until(t, "it does not come back", func() bool { return r.has("plugin started again") })
			again(t, func() error { _, err := store.Read(t.Context(), []core.Query{{Table: honest}}); return err })
			if alive(was) {
				t.Error("the one that does not answer is still there")
			}
		})
	}
}

// Close ends whatever is there: a plugin that does not want to end or cannot, and what it
// has started in its group; what has left that is not waited for.
func TestForcedStop(t *testing.T) {
	t.Parallel()
	t.Run("stays", func(t *testing.T) {
		t.Parallel()
		closed(t, launch(t, config("stays")))
	})
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		p := launch(t, config("memory"))
		must(t, signal(p, syscall.SIGSTOP))
		closed(t, p)
	})
	t.Run("floods", func(t *testing.T) {
		t.Parallel()
		r := &records{}
		cfg := config("floods")
		cfg.Logger = slog.New(r)
		p := launch(t, cfg)
		store := keystore(t, p)
		until(t, "nothing is left out", func() bool {
			must(t, store.Apply(t.Context(), core.Batch{Puts: []core.Put{put("k", "v")}}))
			return r.has("plugin writes too much")
		})
		closed(t, p)
	})
	for name, env := range map[string]string{"breeds": "SETSID=", "breeds freely": "SETSID=1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &records{}
			cfg := config("breeds", env)
			cfg.Logger = slog.New(r)
			p := launch(t, cfg)
			var pid int
			until(t, "no child", func() bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				for _, rec := range r.all {
					if n, _ := fmt.Sscanf(rec.text, "pid=%d", &pid); n == 1 {
						return true
					}
				}
				return false
			})
			kill(t, p) // and it comes back, though the child holds its output
			until(t, "it does not come back", func() bool { return r.has("plugin started again") })
			closed(t, p)
			if env == "SETSID=" {
				until(t, "what it has started is still there", func() bool { return !alive(pid) })
				return
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, rec := range r.all {
				if n, _ := fmt.Sscanf(rec.text, "pid=%d", &pid); n == 1 {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		})
	}
}

// A plugin of another language needs TLS and the services of the protocol. It is never
// asked for the broker of go-plugin, by which it could ask for connections without end.
func TestBarePlugin(t *testing.T) {
	t.Parallel()
	r := &records{}
	cfg := config("bare")
	cfg.Logger = slog.New(r)
	p := launch(t, cfg)
	if _, err := keystore(t, p).Read(t.Context(), []core.Query{{Table: honest}}); err != nil {
		t.Error(err)
	}
	closed(t, p)
	if !r.has("asked for /plugin.GRPCController/Shutdown") || r.has("asked for /plugin.GRPCBroker/") {
		t.Errorf("the log has %v", r.all)
	}
}

func closed(t *testing.T, p *host.Plugin) {
	t.Helper()
	pid := host.PID(p)
	must(t, p.Close())
	if alive(pid) {
		t.Error("its process is still there")
	}
	if _, err := keystore(t, p).Read(t.Context(), nil); core.Kind(err) != core.ErrClosed {
		t.Errorf("a call after it: %v, want ErrClosed", err)
	}
}

// Nobody but the host can talk to a plugin: another user does not come to its socket, and
// who does has no certificate that it takes.
func TestStranger(t *testing.T) {
	t.Parallel()
	p := launch(t, config("memory"))
	folder := host.Socket(p)
	info, err := os.Stat(folder)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the folder of the socket has the mode %s", info.Mode())
	}
	sockets, err := filepath.Glob(filepath.Join(folder, "*"))
	must(t, err)
	if len(sockets) != 1 {
		t.Fatalf("sockets: %q", sockets)
	}
	if os.Geteuid() == 0 {
		path, _ := self()
		cmd := exec.Command(path)
		cmd.Env = []string{"ROLE=stranger", "SOCKET=" + sockets[0]}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if want := "uid 65534: permission denied, permission denied\n"; err != nil || string(out) != want {
			t.Errorf("another user: %q, %v, want %q", out, err, want)
		}
	}
	for name, creds := range map[string]credentials.TransportCredentials{
		"no TLS":              insecure.NewCredentials(),
		"no certificate":      credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}),
		"another certificate": credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{ownCertificate()}}),
	} {
		conn, err := grpc.NewClient("unix:"+sockets[0], grpc.WithTransportCredentials(creds))
		must(t, err)
		if m, err := wire.NewPluginClient(conn).Describe(t.Context(), &wire.DescribeRequest{}); err == nil {
			t.Errorf("%s: it answers %v", name, m)
		}
		must(t, conn.Close())
	}
	if _, err := keystore(t, p).Read(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// Without the host's certificate a plugin would have to serve anybody: it serves nobody.
func TestPluginWithoutHost(t *testing.T) {
	t.Parallel()
	path, _ := self()
	for want, env := range map[string]string{
		"the host has no certificate": wire.Handshake.MagicCookieKey + "=" + wire.Handshake.MagicCookieValue,
		"This binary is a plugin":     "PLUGIN_CLIENT_CERT=x",
	} {
		cmd := exec.Command(path)
		cmd.Env = []string{"ROLE=memory", env}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), want) {
			t.Errorf("%q, %v, want status 1 and %q", out, err, want)
		}
	}
}

// beStranger tries what another user can try.
func beStranger() {
	socket := os.Getenv("SOCKET")
	_, list := os.ReadDir(filepath.Dir(socket))
	conn, dial := net.Dial("unix", socket)
	if dial == nil {
		_ = conn.Close()
	}
	fmt.Printf("uid %d: %v, %v\n", os.Getuid(), errno(list), errno(dial))
}

func errno(err error) error {
	var n syscall.Errno
	if errors.As(err, &n) {
		return n
	}
	return err
}

// Host and plugin take the highest version that both have; without one they say which
// they have.
func TestVersions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		role, only string
		host       []int
		want       string // "": it works
	}{
		"an old plugin of the SDK, a newer host": {"memory", "", []int{1, 2}, ""},
		"an old plugin, a newer host":            {"version 1", "", []int{1, 2}, ""},
		"a newer plugin, an old host":            {"version 2", "", []int{1}, ""},
		"both new":                               {"version 2", "", []int{1, 2}, ""},
		"a plugin that is too old":               {"version 1", "", []int{2, 3}, "it speaks version 1 of the protocol, this program [2 3]"},
		"a plugin of the SDK that is too old":    {"memory", "", []int{3, 2}, "it speaks version 1 of the protocol, this program [2 3]"},
		"a plugin that is too new":               {"version 2", "yes", []int{1}, "it speaks version 2 of the protocol, this program [1]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := host.Launch(t.Context(), host.Speaking(config(c.role, "ONLY="+c.only), c.host...))
			if c.want == "" {
				must(t, err)
				_, err = keystore(t, p).Read(t.Context(), []core.Query{{Table: honest}})
				must(t, err, p.Close())
				return
			}
			if !errors.Is(err, core.ErrUnsupported) || !errors.Is(err, core.ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want ErrUnsupported and ErrUnavailable with %q", err, c.want)
			}
		})
	}
}

// Many calls at once while the plugin is killed again and again: each ends, by an answer
// or by an error that says what the caller has to know.
func TestCallsWhileItDies(t *testing.T) {
	t.Parallel()
	cfg := config("memory")
	cfg.Restarts = 1000
	p := launch(t, cfg)
	store := keystore(t, p)
	var calls sync.WaitGroup
	for n := range 8 {
		calls.Go(func() {
			for range 100 {
				err := store.Apply(t.Context(), core.Batch{Puts: []core.Put{put(fmt.Sprint("k", n), "value")}})
				if k := core.Kind(err); err != nil && k != core.ErrUnavailable && k != core.ErrUnknownOutcome {
					t.Errorf("apply: %v", err)
				}
				if _, err := store.Read(t.Context(), []core.Query{{Table: 1}}); err != nil && core.Kind(err) != core.ErrUnavailable {
					t.Errorf("read: %v", err)
				}
			}
		})
	}
	for range 5 {
		again(t, func() error { _, err := store.Read(t.Context(), nil); return err })
		_ = signal(p, syscall.SIGKILL)
	}
	calls.Wait()
	again(t, func() error { _, err := store.Read(t.Context(), nil); return err })
}
