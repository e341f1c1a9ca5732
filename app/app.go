// SPDX-License-Identifier: Apache-2.0

// Package app puts a program together from its parts, with fx, as a
// configuration says (package config). Start with [New] for a client,
// [NewService] for the reference delivery service:
//
//	var c *client.Client
//	a := app.New(cfg, fx.Populate(&c))
//	err := app.Run(ctx, a, func(ctx context.Context) error { ... c.Transaction ... })
//
// Each part is a module of package modules; an option of New can add a scheme
// (modules.Scheme) or replace a part (fx.Decorate, fx.Replace). Parts are closed
// in the opposite order of their making, also if a later one could not be made.
//
// Nothing below app knows of fx. Do not import app from a library: its
// constructors are sqlite.Open, pure.New, client.Open and their like.
package app

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.uber.org/dig"
	"go.uber.org/fx"
	"go.uber.org/fx/fxevent"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
)

// New puts a client together: keystore, key, crypto, suites, audit log, issuer, delivery
// and the client over them. The error of a part that could not be made is that of
// [fx.App.Err]; nothing is left open then.
func New(c config.Config, options ...fx.Option) *fx.App {
	return build(Client(c), options)
}

// NewService puts a delivery service together: it listens from Start to Stop.
func NewService(c config.Config, options ...fx.Option) *fx.App {
	return build(Service(c), options)
}

// Client are the options of New, for fx.ValidateApp and for a container of one's
// own.
func Client(c config.Config) fx.Option {
	return fx.Options(common(c),
		modules.Keystore(), modules.Key(), modules.Crypto(), modules.Suites(), modules.Audit(),
		modules.Issuer(), modules.Lists(), modules.Delivery(), modules.Client())
}

// Service are the options of NewService.
func Service(c config.Config) fx.Option {
	return fx.Options(common(c), modules.Keystore(), modules.DeliveryService(), fx.Invoke(func(*modules.Service) {}))
}

// LevelTrace is that of what the container has to say: below what the parts do.
const LevelTrace = slog.LevelDebug - 4

// common has what belongs to every program: a container that tells slog what it
// does, at LevelTrace, and nobody else.
func common(c config.Config) fx.Option {
	return fx.Options(
		fx.Supply(c),
		fx.Provide(slog.Default),
		modules.SharedPlugins(),
		fx.WithLogger(func(log *slog.Logger) fxevent.Logger {
			l := &fxevent.SlogLogger{Logger: log}
			l.UseLogLevel(LevelTrace)
			l.UseErrorLevel(LevelTrace)
			return l
		}))
}

func build(base fx.Option, options []fx.Option) *fx.App {
	var undo undoing
	a := fx.New(base, fx.Decorate(undo.watch), fx.Options(options...))
	if a.Err() != nil {
		undo.all()
	}
	return a
}

// undoing remembers how to close what was made. fx itself forgets it when a later
// part fails, because the application was never started.
type undoing struct {
	fx.Lifecycle
	hooks []fx.Hook
}

func (u *undoing) watch(lc fx.Lifecycle) fx.Lifecycle {
	u.Lifecycle = lc
	return u
}

// Append implements fx.Lifecycle.
func (u *undoing) Append(h fx.Hook) {
	if h.OnStart == nil { // one that has to be started has nothing to undo
		u.hooks = append(u.hooks, h)
	}
	u.Lifecycle.Append(h)
}

func (u *undoing) all() {
	for i := len(u.hooks) - 1; i >= 0; i-- {
		_ = u.hooks[i].OnStop(context.Background()) // the error that counts is the first
	}
}

// stopTime is what closing the parts may take.
const stopTime = 15 * time.Second

// Run starts an application, calls f and stops the application, whatever f
// returns. Errors are those of the parts, without what the container has to say.
func Run(ctx context.Context, a *fx.App, f func(context.Context) error) (err error) {
	if err := a.Err(); err != nil {
		return dig.RootCause(err)
	}
	if err := a.Start(ctx); err != nil {
		return dig.RootCause(err)
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		err = errors.Join(err, a.Stop(last))
	}()
	return f(ctx)
}
