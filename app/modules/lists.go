// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/providers/crl"
)

// Lists fetches revocation lists: from public addresses and from the networks of the
// configuration. Replace its [crl.Config] for a way of one's own.
func Lists() fx.Option {
	return fx.Module("lists", fx.Provide(listConfig, func(cfg crl.Config, lc fx.Lifecycle) *crl.Fetcher {
		f := crl.New(cfg)
		lc.Append(fx.StopHook(f.Close))
		return f
	}))
}

func listConfig(c config.Config) (crl.Config, error) {
	var networks []netip.Prefix
	for _, text := range strings.Fields(c.ListNetworks) {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return crl.Config{}, fmt.Errorf("crl_networks: %q is no network such as 10.0.0.0/8: %w", text, core.ErrInvalid)
		}
		networks = append(networks, network)
	}
	return crl.Config{HTTP: &http.Client{Transport: crl.Transport(networks...)}}, nil
}
