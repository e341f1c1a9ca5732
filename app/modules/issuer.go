// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/providers/basic"
)

// Issuer is who vouches for the client: with "basic:" nobody does; with
// "localca:CERTIFICATES?key=KEY" whoever has the key of a CA; with "acme:DIRECTORY" a server,
// see [ACME]; with "manual:" somebody who is brought a request and gives a certificate. The
// last three are opened when they are first asked.
func Issuer() fx.Option {
	return fx.Module("issuer",
		part[core.CredentialIssuer]("issuer", func(c config.Config) string { return c.Issuer }),
		Scheme("basic", func(_ context.Context, u config.URI) (core.CredentialIssuer, error) {
			return basic.New(), u.Nothing()
		}),
		fx.Provide(fx.Annotate(localCA, fx.ResultTags(group))))
}
