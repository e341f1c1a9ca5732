// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/postgres"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// Keystore is where state lives: "sqlite:FILE", "postgres://USER@HOST/DATABASE?..." (see
// [postgres.Open]) or "memory:".
func Keystore() fx.Option {
	return fx.Module("keystore",
		part[core.Keystore]("keystore", func(c config.Config) string { return c.Keystore }),
		Scheme("memory", func(_ context.Context, u config.URI) (core.Keystore, error) {
			return memory.New(), u.Nothing()
		}),
		Scheme("postgres", func(ctx context.Context, u config.URI) (core.Keystore, error) {
			return postgres.Open(ctx, u.Text())
		}),
		Scheme("sqlite", func(ctx context.Context, u config.URI) (core.Keystore, error) {
			file, err := u.File()
			if err != nil {
				return nil, err
			}
			return sqlite.Open(ctx, file)
		}))
}
