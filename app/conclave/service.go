// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"
	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app"
	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

func (p *program) delivery() *cobra.Command {
	var flags config.Config
	var file string
	var rolledBack bool
	cmd := &cobra.Command{
		Use:         "delivery",
		Annotations: only("home", "json", "verbose"),
		Short:       "Run the reference delivery service",
		Long: `Run a small delivery service until it is interrupted: it hands out key packages,
orders what is sent to a group and keeps it for the members. It sees no plaintext,
but it sees who is in which group and when they write.

It keeps its state in delivery.db in the home folder unless --store says otherwise.
Without a certificate it listens on this machine only: on a Unix socket, which only
you can open, or on a loopback address.`,
		Example: `  conclave delivery
  conclave delivery --listen unix:///run/conclave/delivery.sock --store sqlite:///var/lib/conclave/delivery.db
  conclave delivery --listen 127.0.0.1:0 --store memory:`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := config.Default(p.home)
			c.Keystore = "sqlite:delivery.db"
			if file != "" {
				var err error
				if c, err = config.Load(file); err != nil {
					return err
				}
			}
			here, err := fromHere(flags)
			if err != nil {
				return err
			}
			var options []fx.Option
			if rolledBack {
				options = append(options, fx.Replace(modules.RolledBack(client.NothingLost)))
			}
			return p.serve(cmd.Context(), c.Over(here), options...)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "read this TOML file first")
	cmd.Flags().StringVar(&flags.Listen, "listen", "", `where to listen: "unix:///PATH" or "HOST:PORT" (default "127.0.0.1:9420")`)
	cmd.Flags().StringVar(&flags.Keystore, "store", "", `where to keep state: "sqlite:///PATH", "postgres://USER@HOST/DATABASE" or "memory:" (default "sqlite:delivery.db")`)
	cmd.Flags().StringVar(&flags.Certificate, "tls-cert", "", "PEM file of the certificate, to listen beyond this machine")
	cmd.Flags().StringVar(&flags.PrivateKey, "tls-key", "", "PEM file of the certificate's private key")
	cmd.Flags().BoolVar(&rolledBack, "rolled-back", false, "start although the database was put back to an older state")
	return cmd
}

// addressed is where a service can be reached.
type addressed struct {
	Address string `json:"address"`
}

// serve runs a delivery service until the context ends or it fails.
func (p *program) serve(ctx context.Context, c config.Config, options ...fx.Option) error {
	if err := os.MkdirAll(c.Folder, 0o700); err != nil {
		return err
	}
	var s *modules.Service
	a := app.NewService(c, append(options, fx.Populate(&s))...)
	err := app.Run(ctx, a, func(ctx context.Context) error {
		if err := p.result(addressed{s.Address()}, "delivery service at %s\n", s.Address()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-a.Wait():
		}
		return nil
	})
	if errors.Is(err, core.ErrRolledBack) {
		return hint(err, "it shows a state from the past: who has registered since has to do so again, and conversations that went on since have to be joined again. If there is no newer one: --rolled-back")
	}
	if errors.Is(err, core.ErrConflict) {
		return hint(err, "does it run already? Another needs another --listen")
	}
	if errors.Is(err, core.ErrDenied) {
		return hint(err, "beyond this machine it needs a certificate: --tls-cert FILE --tls-key FILE; without one, --listen 127.0.0.1:PORT or unix:PATH")
	}
	return err
}
