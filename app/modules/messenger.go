// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// Progress hears how far long work is; see messenger.Parts. Replace it to listen.
type Progress func(what string, done, total int)

// Messenger is what the command line acts with. It is no fx.Module, because it
// replaces the Observer for the whole application.
func Messenger() fx.Option {
	return fx.Options(
		fx.Supply(new(messenger.Notices), Progress(nil)),
		fx.Decorate(func(_ Observer, n *messenger.Notices) Observer { return n.Observe }),
		fx.Provide(func(c *client.Client, s *delivery.Client, t *delivery.Transport, i core.CredentialIssuer, auth core.Authenticator,
			n *messenger.Notices, progress Progress, cfg config.Config) *messenger.Messenger {
			return messenger.New(messenger.Parts{Client: c, Service: s, Transport: t, Issuer: i, IssuerName: issuerName(cfg), Authenticator: auth, Notices: n, Suite: cfg.Suite, Progress: progress})
		}))
}

// issuerName is the issuer's URI, without what is secret in it.
func issuerName(c config.Config) string {
	u, err := c.URI(c.Issuer)
	if err != nil {
		return ""
	}
	return u.String()
}
