// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/host"
	"github.com/conclave-mls/conclave/providers/pure"
)

// Plugins are the plugins of the configuration that the program uses: each is one process,
// whichever parts are in it. It is launched when the first of them is opened, and closed
// after the last.
type Plugins struct {
	config config.Config
	log    *slog.Logger

	mu  sync.Mutex
	all map[string]*launched // nil once it is closed
}

// A launched plugin is one that was asked for.
type launched struct {
	turn   chan struct{} // has one element while somebody launches it, or closes it
	plugin *host.Plugin  // nil if that has not worked; to read with the turn
}

// A PluginError says that a plugin of the configuration cannot be used.
type PluginError struct {
	Name string
	Err  error
}

func (e *PluginError) Error() string { return e.Err.Error() }
func (e *PluginError) Unwrap() error { return e.Err }

// SharedPlugins has all parts use the same [Plugins]. Replace it by that of another
// application where one has two.
func SharedPlugins() fx.Option {
	return fx.Module("plugins", fx.Provide(func(c config.Config, log *slog.Logger, lc fx.Lifecycle) *Plugins {
		p := &Plugins{config: c, log: log, all: map[string]*launched{}}
		lc.Append(fx.StopHook(p.close))
		return p
	}))
}

func (p *Plugins) close() (err error) {
	p.mu.Lock()
	all := p.all
	p.all = nil
	p.mu.Unlock()
	for _, l := range all {
		l.turn <- struct{}{}
		if l.plugin != nil {
			err = errors.Join(err, l.plugin.Close())
		}
	}
	return err
}

// named finds a plugin, which may not be launched yet.
func (p *Plugins) named(name string) (*launched, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		return nil, fmt.Errorf("plugin %s: %w", name, core.ErrClosed)
	}
	if p.all[name] == nil {
		p.all[name] = &launched{turn: make(chan struct{}, 1)}
	}
	return p.all[name], nil
}

// Launch gives the plugin of a name. core.ErrDenied: the configuration does not have it, or
// it is not the executable that it has; core.ErrNotFound: there is no such executable.
func (p *Plugins) Launch(ctx context.Context, name string) (*host.Plugin, error) {
	l, err := p.named(name)
	if err != nil {
		return nil, err
	}
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, &PluginError{name, fmt.Errorf("plugin %s: %w", name, ctx.Err())}
	}
	defer func() { <-l.turn }()
	if l.plugin != nil {
		return l.plugin, nil
	}
	if _, err := p.named(name); err != nil {
		return nil, err // it was closed while we waited
	}
	cfg, err := HostConfig(p.config, name)
	var plugin *host.Plugin
	if err == nil {
		cfg.Logger = p.log
		plugin, err = host.Launch(ctx, cfg)
	}
	if err != nil {
		return nil, &PluginError{name, err}
	}
	l.plugin = plugin
	return plugin, nil
}

// HostConfig is how the plugin of a name is launched. core.ErrDenied: the configuration has
// no table of it, or others may write where it is; core.ErrNotFound: its executable is not in
// the plugin folder.
func HostConfig(c config.Config, name string) (host.Config, error) {
	plugin, ok := c.Plugins[name]
	if !ok {
		return host.Config{}, fmt.Errorf("plugin %s: the configuration has no table of it: %w", name, core.ErrDenied)
	}
	path := c.File(plugin.Path)
	if plugin.Path == "" {
		var err error
		if path, err = host.Find(c.File(c.PluginFolder), name); err != nil {
			return host.Config{}, err
		}
	}
	return host.Config{
		Name: name, Path: path, SHA256: plugin.Sum(), Unpinned: plugin.Unpinned,
		Args: plugin.Args, Env: plugin.Environment(), Dir: c.Folder,
	}, nil
}

// pluginPart is the opener of a part that can be in a plugin.
func pluginPart[T any](p *Plugins, part func(*host.Plugin, string) (T, error)) Opener[T] {
	return Opener[T]{config.PluginScheme, func(ctx context.Context, u config.URI) (T, error) {
		name, instance, err := p.config.PluginOf(u)
		if err != nil {
			return *new(T), err
		}
		return partOf(ctx, p, name, instance, part)
	}}
}

func partOf[T any](ctx context.Context, p *Plugins, name, instance string, part func(*host.Plugin, string) (T, error)) (t T, err error) {
	plugin, err := p.Launch(ctx, name)
	if err != nil {
		return t, err
	}
	if t, err = part(plugin, instance); err != nil {
		return t, &PluginError{name, err}
	}
	return t, nil
}

// Openers of the parts.

func pluginKeystore(p *Plugins) Opener[core.Keystore] {
	return pluginPart(p, (*host.Plugin).Keystore)
}

func pluginKEK(p *Plugins) Opener[core.KeyWrapper] {
	return pluginPart(p, (*host.Plugin).KeyWrapper)
}

// pluginIssuer is launched when it is first asked.
func pluginIssuer(p *Plugins) Opener[core.CredentialIssuer] {
	open := pluginPart(p, (*host.Plugin).Issuer).Open
	return Opener[core.CredentialIssuer]{config.PluginScheme, func(_ context.Context, u config.URI) (core.CredentialIssuer, error) {
		if _, _, err := p.config.PluginOf(u); err != nil {
			return nil, err
		}
		return &onDemand{open: func(ctx context.Context) (core.CredentialIssuer, error) { return open(ctx, u) }}, nil
	}}
}

// pluginCrypto makes new keys in the plugin.
func pluginCrypto(p *Plugins) Opener[core.CryptoProvider] {
	open := pluginPart(p, (*host.Plugin).CryptoProvider).Open
	return Opener[core.CryptoProvider]{config.PluginScheme, func(ctx context.Context, u config.URI) (core.CryptoProvider, error) {
		keys, err := open(ctx, u)
		if err != nil {
			return nil, err
		}
		return router(p, keys, nil), nil
	}}
}

// pluginKeys finds the keys that are in plugins by the beginning of their references,
// "plugin:NAME/INSTANCE/". It makes none.
type pluginKeys struct{ plugins *Plugins }

// Provider implements core.KeyChooser.
func (k pluginKeys) Provider(ref core.KeyRef) core.CryptoProvider {
	parts := strings.SplitN(strings.TrimPrefix(string(ref), config.PluginScheme+":"), "/", 3)
	if len(parts) < 3 {
		return noProvider{fmt.Errorf("reference %q is of no plugin: %w", ref, core.ErrDenied)}
	}
	return lateKeys{k.plugins, parts[0], parts[1]}
}

func (k pluginKeys) Algorithms(ctx context.Context) ([]core.KeyAlgorithm, error) {
	return k.Provider("").Algorithms(ctx)
}

func (k pluginKeys) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	return k.Provider("").GenerateKey(ctx, spec)
}

func (k pluginKeys) OpenKey(ctx context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
	return k.Provider(ref).OpenKey(ctx, ref, material)
}

// lateKeys are the keys of a plugin that is launched when one is wanted, in the time of who
// wants it. Where it cannot be had, no key is deleted either, so that none is forgotten before.
type lateKeys struct {
	plugins        *Plugins
	name, instance string
}

func (k lateKeys) provider(ctx context.Context) (core.CryptoProvider, error) {
	return partOf(ctx, k.plugins, k.name, k.instance, (*host.Plugin).CryptoProvider)
}

func (k lateKeys) Algorithms(ctx context.Context) ([]core.KeyAlgorithm, error) {
	keys, err := k.provider(ctx)
	if err != nil {
		return nil, err
	}
	return keys.Algorithms(ctx)
}

func (k lateKeys) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	keys, err := k.provider(ctx)
	if err != nil {
		return nil, err
	}
	return keys.GenerateKey(ctx, spec)
}

func (k lateKeys) OpenKey(ctx context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
	keys, err := k.provider(ctx)
	if err != nil {
		return nil, fmt.Errorf("the key %q: %w", ref, err)
	}
	return keys.OpenKey(ctx, ref, material)
}

// DeleteKey implements core.KeyDeleter; of a plugin that deletes none the key stays.
func (k lateKeys) DeleteKey(ctx context.Context, ref core.KeyRef) error {
	keys, err := k.provider(ctx)
	if err != nil {
		return fmt.Errorf("the key %q: %w", ref, err)
	}
	deleter, ok := keys.(core.KeyDeleter)
	if !ok {
		return fmt.Errorf("the key %q: its plugin deletes none: %w", ref, core.ErrUnsupported)
	}
	return deleter.DeleteKey(ctx, ref)
}

// noProvider stands for one that there is not.
type noProvider struct{ err error }

func (n noProvider) Algorithms(context.Context) ([]core.KeyAlgorithm, error) { return nil, n.err }

func (n noProvider) GenerateKey(context.Context, core.KeySpec) (core.PrivateKey, error) {
	return nil, n.err
}

func (n noProvider) OpenKey(context.Context, core.KeyRef, core.Secret) (core.PrivateKey, error) {
	return nil, n.err
}

// router has new keys made by one provider, and opens those that are in plugins, and those
// of the others by their schemes. What is of none is for the first to refuse.
func router(p *Plugins, makes core.CryptoProvider, others map[string]core.CryptoProvider) *core.KeyRouter {
	all := map[string]core.CryptoProvider{config.PluginScheme: pluginKeys{p}, "pure": pure.New()}
	maps.Copy(all, others)
	return &core.KeyRouter{Default: makes, Providers: all}
}
