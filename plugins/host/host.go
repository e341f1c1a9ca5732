// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// Config says which program a plugin is and how it is looked after.
type Config struct {
	Name   string // 1 to 32 of a-z, 0-9 and -: names the plugin in references of keys and in errors
	Path   string // of the executable, absolute
	SHA256 []byte // of the executable, 32 bytes; tried before every start
	// Unpinned does without SHA256, for the development of a plugin.
	Unpinned bool
	Args     []string
	Env      []string // "NAME=value"; nothing else of our environment is passed on
	Dir      string   // its working directory; "": ours
	Logger   *slog.Logger

	StartTimeout time.Duration // 0: 10 seconds
	CallTimeout  time.Duration // of each call, if its context has no earlier deadline; 0: 30 seconds
	// Restarts is how often in a row a plugin that dies within a minute is started again;
	// then it stays core.ErrUnavailable. 0: 10; negative: never.
	Restarts int
	Backoff  time.Duration // before the first restart, doubled each time up to 30 seconds; 0: 100 ms
}

// steady is how long a plugin must live for its restarts to be counted from 0 again.
const steady = time.Minute

const maxBackoff = 30 * time.Second

func (c *Config) check() error {
	if err := checkName(c.Name); err != nil {
		return err
	}
	if !filepath.IsAbs(c.Path) || strings.ContainsRune(c.Path, 0) {
		return fmt.Errorf("plugin %s: %q is no absolute path: %w", c.Name, c.Path, core.ErrInvalid)
	}
	for _, e := range c.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" || strings.ContainsRune(e, 0) {
			return fmt.Errorf("plugin %s: its environment: an entry that is not NAME=value: %w", c.Name, core.ErrInvalid)
		}
	}
	if c.Unpinned == (len(c.SHA256) > 0) || !c.Unpinned && len(c.SHA256) != sha256.Size {
		return fmt.Errorf("plugin %s: either the SHA-256 of its executable is given, or that it is unpinned: %w", c.Name, core.ErrDenied)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Logger = c.Logger.With("plugin", c.Name)
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{{&c.StartTimeout, 10 * time.Second}, {&c.CallTimeout, 30 * time.Second}, {&c.Backoff, 100 * time.Millisecond}} {
		if *d.value <= 0 {
			*d.value = d.usual
		}
	}
	if c.Restarts == 0 {
		c.Restarts = 10
	}
	return nil
}

// A Plugin is a program under supervision. It is safe for concurrent use.
type Plugin struct {
	cfg    Config
	dir    string // private: the sockets are below it
	offers []*wire.Offer

	stop       context.CancelFunc
	supervised chan struct{}

	mu      sync.Mutex
	running *process // nil: it is down
	down    error    // why
}

// A process is one life of a plugin.
type process struct {
	client  *plugin.Client
	conn    *grpc.ClientConn
	started time.Time
	exited  <-chan struct{}
}

// Launch starts a plugin and asks what it offers. ErrInvalid: the configuration is
// malformed. ErrDenied: the executable is not the pinned one, or nothing pins it, or
// somebody besides root and us may write to it or to a folder above it, but for sticky
// ones such as /tmp higher up. These rules hold for each start: a plugin that breaks them
// later is not started again. ErrUnavailable: it does not start, or does not keep to the
// protocol. The context is for the launch alone; [Plugin.Close] ends the plugin.
func Launch(ctx context.Context, cfg Config) (*Plugin, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "conclave-plugin-") // nobody else may enter it
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w: %w", cfg.Name, core.ErrUnavailable, err)
	}
	p := &Plugin{cfg: cfg, dir: dir, supervised: make(chan struct{})}
	p.running, p.offers, err = p.start(ctx)
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("plugin %s: %w", cfg.Name, err)
	}
	ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	go p.supervise(ctx, p.running)
	return p, nil
}

// Close stops the plugin, which may finish within two seconds, and waits for its end.
// Calls under way fail, calls after it are ErrClosed. Closing twice is not an error.
func (p *Plugin) Close() error {
	p.stop()
	<-p.supervised
	return nil
}

// start makes one process and asks what it offers.
func (p *Plugin) start(ctx context.Context) (*process, []*wire.Offer, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	path, err := permitted(p.cfg.Path)
	if err != nil {
		return nil, nil, err
	}
	// Whoever could replace the file from here on is root or we: it may be named by its path.
	if err := p.pinned(path); err != nil {
		return nil, nil, err
	}
	exited := make(chan struct{})
	cmd := exec.Command(path, p.cfg.Args...)
	cmd.Env = slices.Clone(p.cfg.Env)
	cmd.Dir = p.cfg.Dir
	config := &plugin.ClientConfig{
		HandshakeConfig:  wire.Handshake,
		VersionedPlugins: wire.Versions(nil),
		RunnerFunc: func(_ hclog.Logger, spec *exec.Cmd, _ string) (runner.Runner, error) {
			cmd.Env = append(cmd.Env, spec.Env...)
			return newChild(cmd, exited)
		},
		StartTimeout:     p.cfg.StartTimeout,
		Stderr:           &lines{log: p.cfg.Logger},
		SyncStdout:       &lines{log: p.cfg.Logger},
		SyncStderr:       &lines{log: p.cfg.Logger},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Logger:           hclog.NewNullLogger(),
		AutoMTLS:         true,
		SkipHostEnv:      true,
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: p.dir},
		GRPCDialOptions: []grpc.DialOption{grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(wire.MaxFromPlugin), grpc.MaxCallSendMsgSize(wire.MaxToPlugin))},
	}
	proc := &process{client: plugin.NewClient(config), started: time.Now(), exited: exited}
	offers, err := p.greet(ctx, proc)
	if err != nil {
		proc.client.Kill()
		return nil, nil, fmt.Errorf("start: %w: %w", core.ErrUnavailable, err)
	}
	return proc, offers, nil
}

// pinned compares the executable with its checksum.
func (p *Plugin) pinned(path string) error {
	if p.cfg.Unpinned {
		return nil
	}
	sum, err := Sum(path)
	if err != nil {
		return fmt.Errorf("%w: %w", core.ErrUnavailable, err)
	}
	if !bytes.Equal(sum, p.cfg.SHA256) {
		return fmt.Errorf("its executable is not the one whose SHA-256 is configured: %w", core.ErrDenied)
	}
	return nil
}

// greet connects and asks what the plugin offers.
func (p *Plugin) greet(ctx context.Context, proc *process) ([]*wire.Offer, error) {
	client, err := proc.client.Client()
	if err != nil {
		return nil, err
	}
	conn, err := client.Dispense(wire.Name)
	if err != nil {
		return nil, err
	}
	proc.conn = conn.(*grpc.ClientConn)
	ctx, cancel := context.WithTimeout(ctx, p.cfg.StartTimeout)
	defer cancel()
	m, err := wire.NewPluginClient(proc.conn).Describe(ctx, &wire.DescribeRequest{})
	if err != nil {
		return nil, err
	}
	return m.GetOffers(), checkOffers(m.GetOffers())
}

// checkOffers refuses what does not keep to the protocol.
func checkOffers(offers []*wire.Offer) error {
	type name struct {
		part     wire.Part
		instance string
	}
	seen := map[name]bool{}
	for _, o := range offers {
		n := name{o.GetPart(), o.GetInstance()}
		switch {
		case n.part < wire.Part_PART_KEYSTORE || n.part > wire.Part_PART_KEY_WRAPPER:
			return fmt.Errorf("it offers a part that is none: %d", n.part)
		case n.instance != "" && !wire.IsName(n.instance):
			return fmt.Errorf("it offers an instance with a bad name: %.40q", n.instance)
		case seen[n]:
			return fmt.Errorf("it offers %s %q twice", n.part, n.instance)
		case n.part == wire.Part_PART_KEY_WRAPPER && o.GetWrapperId() == "":
			return errors.New("it offers a key wrapper without an ID")
		}
		seen[n] = true
	}
	if len(seen) == 0 || len(seen) > wire.MaxOffers {
		return fmt.Errorf("it offers %d instances", len(seen))
	}
	return nil
}

// offer finds one: ErrNotFound if the plugin does not have it.
func (p *Plugin) offer(part wire.Part, instance string) (*wire.Offer, error) {
	for _, o := range p.offers {
		if o.GetPart() == part && o.GetInstance() == instance {
			return o, nil
		}
	}
	return nil, fmt.Errorf("plugin %s: instance %q of %s: %w", p.cfg.Name, instance, part, core.ErrNotFound)
}

// supervise starts the plugin again when it dies.
func (p *Plugin) supervise(ctx context.Context, proc *process) {
	defer close(p.supervised)
	defer func() {
		p.set(nil, core.ErrClosed)
		if proc != nil {
			proc.client.Kill()
		}
		_ = os.RemoveAll(p.dir)
	}()
	stayDown := func(why error) {
		p.set(nil, why)
		p.cfg.Logger.Error("plugin stays down", "error", why)
		<-ctx.Done()
	}
	failures := 0
	for {
		if proc != nil {
			select {
			case <-ctx.Done():
				return
			case <-proc.exited:
			}
			p.set(nil, fmt.Errorf("the plugin has died: %w", core.ErrUnavailable))
			p.cfg.Logger.Warn("plugin died")
			proc.client.Kill() // lets go of what belonged to it
			if time.Since(proc.started) >= steady {
				failures = 0
			}
			proc = nil
		}
		if failures++; failures > p.cfg.Restarts {
			stayDown(fmt.Errorf("the plugin died too often: %w", core.ErrUnavailable))
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(p.cfg.Backoff<<min(failures-1, 16), maxBackoff)):
		}
		next, offers, err := p.start(ctx)
		if err == nil && !sameOffers(offers, p.offers) {
			next.client.Kill()
			err = errors.New("it offers something else than before")
		}
		if errors.Is(err, core.ErrDenied) {
			stayDown(fmt.Errorf("not started again: %w", err))
			return
		}
		if err != nil {
			p.cfg.Logger.Error("plugin not started again", "error", err)
			continue
		}
		proc = next
		p.set(proc, nil)
		p.cfg.Logger.Info("plugin started again", "restarts", failures)
	}
}

func sameOffers(a, b []*wire.Offer) bool {
	has := func(all []*wire.Offer, o *wire.Offer) bool {
		return slices.ContainsFunc(all, func(other *wire.Offer) bool { return proto.Equal(o, other) })
	}
	return len(a) == len(b) && !slices.ContainsFunc(a, func(o *wire.Offer) bool { return !has(b, o) })
}

func (p *Plugin) set(running *process, down error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running, p.down = running, down
}

// conn is the connection, or why there is none.
func (p *Plugin) conn() (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		return nil, p.down
	}
	return p.running.conn, nil
}
