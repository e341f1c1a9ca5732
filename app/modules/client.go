// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"
	"log/slog"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/audit"
)

// An Observer hears of the client's events. Replace it to listen.
type Observer func(client.Event)

// Client is the client over all the other parts, and the seams that have one
// implementation so far: basic credentials, the reference delivery service.
func Client() fx.Option {
	return fx.Module("client",
		fx.Supply(Observer(func(client.Event) {})),
		fx.Provide(
			func() core.Authenticator { return client.Basic{} },
			delivery.NewTransport,
			func(t *delivery.Transport) client.Transport { return t },
			openClient))
}

func openClient(ks core.Keystore, w core.KeyWrapper, suites core.SuiteSource, keys core.CryptoProvider,
	auth core.Authenticator, t client.Transport, o Observer, log *slog.Logger, a AuditLog, lc fx.Lifecycle) (*client.Client, error) {
	ctx := context.Background()
	store, err := seal.Open(ctx, ks, audit.KeyWrapper(w, a.Logger), "conclave")
	if err != nil {
		return nil, err
	}
	c, err := client.Open(ctx, client.Config{
		Store: store, Suites: suites, Keys: audit.Keys(keys, a.Logger), Authenticator: auth, Transport: t, Observe: o, Logger: log,
	})
	if err != nil {
		_ = store.Close() // the first error counts
		return nil, err
	}
	lc.Append(fx.StopHook(c.Close))
	return c, nil
}
