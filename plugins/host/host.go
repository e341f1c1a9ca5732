// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

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
	// then it is core.ErrUnavailable and, as it stays that, core.ErrClosed. 0: 10; negative: never.
	Restarts int
	Backoff  time.Duration // before the first restart, doubled each time up to 30 seconds; 0: 100 ms
	// Health is how often the plugin is asked whether it is well, and how long it may take
	// to answer: one that does not is killed and started again. 0: 10 seconds
	Health time.Duration

	versions map[int]plugin.PluginSet // of the protocol: all that we have
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
	}{{&c.StartTimeout, 10 * time.Second}, {&c.CallTimeout, 30 * time.Second}, {&c.Backoff, 100 * time.Millisecond}, {&c.Health, 10 * time.Second}} {
		if *d.value <= 0 {
			*d.value = d.usual
		}
	}
	if c.Restarts == 0 {
		c.Restarts = 10
	}
	if c.versions == nil {
		c.versions = wire.Versions(nil)
	}
	return nil
}

// A Plugin is a program under supervision. It is safe for concurrent use.
type Plugin struct {
	cfg    Config
	offers []*wire.Offer

	stop       context.CancelFunc
	supervised chan struct{}

	mu      sync.Mutex
	running *process // nil: it is down
	down    error    // why
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
	if cfg.Unpinned {
		cfg.Logger.Warn("plugin is not pinned: any executable at its path is started", "path", cfg.Path)
	}
	p := &Plugin{cfg: cfg, supervised: make(chan struct{})}
	proc, err := p.start(ctx)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", cfg.Name, err)
	}
	p.running, p.offers = proc, proc.offers
	ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	go p.supervise(ctx, proc)
	return p, nil
}

// Close stops the plugin, which may finish within two seconds, and waits for its end.
// Calls under way fail, calls after it are ErrClosed. Closing twice is not an error.
func (p *Plugin) Close() error {
	p.stop()
	<-p.supervised
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
	stayDown := func(why error) {
		p.set(nil, why)
		p.cfg.Logger.Error("plugin stays down", "error", why)
		<-ctx.Done()
	}
	defer func() { p.set(nil, core.ErrClosed) }()
	for failures := 0; ; {
		if proc != nil {
			why := p.watch(ctx, proc)
			p.set(nil, why)
			proc.stop()
			if ctx.Err() != nil {
				return
			}
			p.cfg.Logger.Warn("plugin is down", "error", why)
			if time.Since(proc.started) >= steady {
				failures = 0
			}
			proc = nil
		}
		if failures++; failures > p.cfg.Restarts {
			stayDown(fmt.Errorf("the plugin died too often: %w: %w", core.ErrUnavailable, core.ErrClosed))
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(p.cfg.Backoff<<min(failures-1, 16), maxBackoff)):
		}
		next, err := p.start(ctx)
		if err == nil && !sameOffers(next.offers, p.offers) {
			next.stop()
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

// watch waits until a process has ended, or answers no more and so is killed, or is to be
// stopped. It says what calls are told meanwhile.
func (p *Plugin) watch(ctx context.Context, proc *process) error {
	tick := time.NewTicker(p.cfg.Health)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return core.ErrClosed
		case <-proc.child.exited:
			return fmt.Errorf("the plugin has died: %w", core.ErrUnavailable)
		case <-tick.C:
		}
		limited, cancel := context.WithTimeout(ctx, p.cfg.Health)
		offers, err := proc.describe(limited)
		cancel()
		if err == nil && !sameOffers(offers, p.offers) {
			err = errors.New("it offers something else than before")
		}
		if err != nil && ctx.Err() == nil {
			_ = proc.child.Kill(ctx)
			return fmt.Errorf("the plugin is not well: %s: %w", wire.Clean(err.Error()), core.ErrUnavailable)
		}
	}
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
