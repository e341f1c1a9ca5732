// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/providers/pure"
)

// Crypto is where private signature keys live: "pure:" is in software, "pkcs11:..." in the
// token of an RFC 7512 URI, see hsm.ParseURI.
func Crypto() fx.Option {
	return fx.Module("crypto",
		part[core.CryptoProvider]("crypto", func(c config.Config) string { return c.Crypto }),
		Scheme("pure", func(_ context.Context, u config.URI) (core.CryptoProvider, error) {
			return pure.New(), u.Nothing()
		}),
		fx.Provide(fx.Annotate(tokenKeys, fx.ResultTags(group))))
}

// Suites are the cipher suites: they are in software wherever the keys live.
func Suites() fx.Option {
	return fx.Module("suites", fx.Provide(func() core.SuiteSource { return pure.New() }))
}
