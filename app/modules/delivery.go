// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/delivery"
)

// Delivery is the client side of the delivery service: "unix:SOCKET",
// "http://LOOPBACK:PORT" or "https://HOST". Its [delivery.ClientOptions] can be
// replaced.
func Delivery() fx.Option {
	dial := func(scheme string) fx.Option {
		return fx.Provide(fx.Annotate(func(o delivery.ClientOptions) Opener[*delivery.Client] {
			return Opener[*delivery.Client]{scheme, func(_ context.Context, u config.URI) (*delivery.Client, error) {
				address := u.String()
				if scheme == "unix" {
					file, err := u.File()
					if err != nil {
						return nil, err
					}
					address = "unix:" + file
				}
				return delivery.Dial(address, o)
			}}
		}, fx.ResultTags(group)))
	}
	return fx.Module("delivery",
		part[*delivery.Client]("delivery", func(c config.Config) string { return c.Delivery }),
		fx.Supply(delivery.ClientOptions{}),
		dial("unix"), dial("http"), dial("https"))
}
