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
// token of an RFC 7512 URI, see hsm.ParseURI, "plugin:NAME" in a plugin. That is for new keys;
// those that there are open also if they are in software or in a plugin.
func Crypto() fx.Option {
	return fx.Module("crypto",
		part[core.CryptoProvider]("crypto", func(c config.Config) string { return c.Crypto }),
		fx.Provide(
			fx.Annotate(softwareKeys, fx.ResultTags(group)),
			fx.Annotate(tokenKeys, fx.ResultTags(group)),
			fx.Annotate(pluginCrypto, fx.ResultTags(group))))
}

func softwareKeys(c config.Config, p *Plugins) Opener[core.CryptoProvider] {
	return Opener[core.CryptoProvider]{"pure", func(_ context.Context, u config.URI) (core.CryptoProvider, error) {
		keys := pure.New()
		if len(c.Plugins) > 0 { // some may be there from before
			return router(p, keys, nil), u.Nothing()
		}
		return keys, u.Nothing()
	}}
}

// Suites are the cipher suites: they are in software wherever the keys live.
func Suites() fx.Option {
	return fx.Module("suites", fx.Provide(func() core.SuiteSource { return pure.New() }))
}
