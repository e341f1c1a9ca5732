// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"
	"errors"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/postgres"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// Keystore is where state lives: "sqlite:FILE", "postgres://USER@HOST/DATABASE?..." (see
// [postgres.Open]), "plugin:NAME" or "memory:". What becomes of one that was put back to an
// older state: see [RolledBack].
func Keystore() fx.Option {
	return fx.Module("keystore",
		fx.Supply(RolledBack(client.Refuse)),
		part[core.Keystore]("keystore", func(c config.Config) string { return c.Keystore }),
		Scheme("memory", func(_ context.Context, u config.URI) (core.Keystore, error) {
			return memory.New(), u.Nothing()
		}),
		fx.Provide(
			fx.Annotate(pluginKeystore, fx.ResultTags(group)),
			fx.Annotate(postgresOpener, fx.ResultTags(group)),
			fx.Annotate(sqliteOpener, fx.ResultTags(group))))
}

func postgresOpener(then RolledBack) Opener[core.Keystore] {
	return Opener[core.Keystore]{"postgres", func(ctx context.Context, u config.URI) (core.Keystore, error) {
		return opened(then,
			func() (core.Keystore, error) { return postgres.Open(ctx, u.Text()) },
			func() (core.Keystore, error) { return postgres.OpenRolledBack(ctx, u.Text()) })
	}}
}

func sqliteOpener(then RolledBack) Opener[core.Keystore] {
	return Opener[core.Keystore]{"sqlite", func(ctx context.Context, u config.URI) (core.Keystore, error) {
		file, err := u.File()
		if err != nil {
			return nil, err
		}
		return opened(then,
			func() (core.Keystore, error) { return sqlite.Open(ctx, file) },
			func() (core.Keystore, error) { return sqlite.OpenRolledBack(ctx, file) })
	}}
}

// opened opens a store, also one that was put back if somebody has said what to do then.
func opened(then RolledBack, open, rolledBack func() (core.Keystore, error)) (core.Keystore, error) {
	ks, err := open()
	if errors.Is(err, core.ErrRolledBack) && then != RolledBack(client.Refuse) {
		ks, err = rolledBack()
	}
	if err != nil { // ks may be a nil of its own type
		return nil, err
	}
	return ks, nil
}
