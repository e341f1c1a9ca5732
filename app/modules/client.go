// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/audit"
)

// An Observer hears of the client's events. Replace it to listen.
type Observer func(client.Event)

// A Tenant is whose records the client uses in its keystore, so that several clients
// can share one: the configuration's, unless it is replaced.
type Tenant string

// RolledBack is what to do about a keystore that was put back to an older state: the
// engine that finds this, and the client that learns of it, refuse to open unless it is
// replaced by client.Recover or client.NothingLost.
type RolledBack client.AfterRollback

// Client is the client over all the other parts, and the seams that have one
// implementation so far: who credentials are of, see e2ei.ClientOf, the reference delivery
// service. Replace the [client.Config], which is empty, for what is no part.
func Client() fx.Option {
	return fx.Module("client",
		fx.Supply(Observer(func(client.Event) {}), client.Config{}),
		fx.Provide(
			func(c config.Config) Tenant { return Tenant(c.Tenant) },
			authenticator,
			delivery.NewTransport,
			func(t *delivery.Transport) client.Transport { return t },
			openClient))
}

// openTime is how long a client may wait for a keystore that loses its answers: nobody
// can interrupt it.
const openTime = time.Minute

func openClient(ks core.Keystore, w core.KeyWrapper, suites core.SuiteSource, keys core.CryptoProvider,
	auth core.Authenticator, t client.Transport, o Observer, log *slog.Logger, a AuditLog, tenant Tenant, then RolledBack, cfg client.Config, lc fx.Lifecycle) (*client.Client, error) {
	ctx := context.Background()
	store, err := seal.Open(ctx, ks, audit.KeyWrapper(w, a.Logger), string(tenant))
	if err != nil {
		return nil, err
	}
	cfg.Store, cfg.Suites, cfg.Keys, cfg.Authenticator = store, suites, audit.Keys(keys, a.Logger), auth
	cfg.Transport, cfg.Observe, cfg.Logger, cfg.RolledBack = t, o, log, client.AfterRollback(then)
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	c, err := client.Open(ctx, cfg)
	if err != nil {
		_ = store.Close() // the first error counts
		return nil, err
	}
	lc.Append(fx.StopHook(func(ctx context.Context) error {
		err := c.Close(ctx)
		if errors.Is(err, core.ErrUnavailable) || errors.Is(err, core.ErrUnknownOutcome) {
			log.Info("the keystore has gone away before it was closed; nothing is lost by that", "error", err)
			return nil
		}
		return err
	}))
	return c, nil
}
