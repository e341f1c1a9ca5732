// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app"
	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/audit"
)

func (p *program) keystoreChangeKey() *cobra.Command {
	var target string
	var extractable bool
	cmd := &cobra.Command{
		Use:   "change-key --to URI",
		Short: "Put the database under another key: a key in a token, a key file, a passphrase",
		Long: `Put the database under another key, and use that from now on: conclave.toml will say so.
The other key is one in a token, which is there (conclave hsm generate --kek), one in a
plugin, a file that is made, or a passphrase. If it is interrupted, run it again.

Older copies of the database, backups among them, open with the old key only. Whoever
had that can have the data key, too: conclave keystore rotate-key makes a new one.`,
		Example: `  conclave keystore change-key --to 'pkcs11:token=acme;object=kek2?module-name=softhsm2&pin-source=env:PIN'
  conclave keystore change-key --to file:new.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.existing()
			if err != nil {
				return err
			}
			if err := anyURI("to", target); err != nil {
				return err
			}
			there, err := fromHere(config.Config{Key: target})
			if err != nil {
				return err
			}
			to := c.Over(there)
			u, err := to.URI(to.Key)
			switch {
			case err != nil:
				return err
			case same(c, c.Key, to.Key):
				return p.result(keyName{shown(to, to.Key)}, "the database is under %s already; nothing to do\n", plain(shown(to, to.Key)))
			case u.Scheme == "random":
				return fmt.Errorf("a key that nobody keeps: %w", core.ErrInvalid)
			}
			if err := p.tokensReady(cmd.Context(), config.Config{Crypto: "pure:", Key: to.Key, Folder: to.Folder}, extractable); err != nil {
				return err
			}
			return p.changeKey(cmd.Context(), c, to)
		},
	}
	cmd.Flags().StringVar(&target, "to", "", "URI of the other key: pkcs11:..., plugin:NAME, file:FILE or passphrase:")
	cmd.Flags().BoolVar(&extractable, "extractable", false, extractableFlag)
	_ = cmd.MarkFlagRequired("to")
	return cmd
}

func (p *program) changeKey(ctx context.Context, c, to config.Config) error {
	path, _, err := fileOf(to, to.Key, "file")
	if path != "" && errors.Is(err, fs.ErrNotExist) {
		if err := modules.NewKeyFile(path); err != nil {
			return err
		}
	}
	p.confirm = strings.HasPrefix(to.Key, "passphrase:")
	err = p.wrapper(ctx, to, func(ctx context.Context, fresh core.KeyWrapper, plugins fx.Option) error {
		p.confirm = false
		return p.keystoreOf(ctx, c, func(ctx context.Context, k sealedKeystore) error {
			if _, err := present(ctx, c)(k.raw, modules.Tenant(k.tenant)); err != nil {
				return err
			}
			store, err := seal.Open(ctx, k.raw, k.key, k.tenant)
			if errors.Is(err, core.ErrWrongKey) {
				done, again := seal.Open(ctx, k.raw, fresh, k.tenant)
				if again == nil { // an earlier attempt got so far
					return done.Close()
				}
			}
			if err != nil {
				return err
			}
			return errors.Join(store.Rewrap(ctx, k.key, fresh), store.Close())
		}, plugins)
	})
	if err != nil {
		return err
	}
	if err := config.Rekey(filepath.Join(p.home, configName), to.Key); err != nil {
		return hint(err, "the database is under the new key, and conclave.toml does not say so: run it again")
	}
	if old, _, err := fileOf(c, c.Key, "file"); old != "" && err == nil {
		p.notice("%s opens older copies and backups; without it they are of no use, and with it they can be read", old)
	}
	return p.result(keyName{shown(to, to.Key)}, "the database is under %s, which is used from now on\n", plain(shown(to, to.Key)))
}

type keyName struct {
	Key string `json:"key"`
}

// wrapper runs f with the key of a configuration, and what has another application use the
// same plugins.
func (p *program) wrapper(ctx context.Context, c config.Config, f func(context.Context, core.KeyWrapper, fx.Option) error) error {
	var key core.KeyWrapper
	var plugins *modules.Plugins
	var log modules.AuditLog
	options := append([]fx.Option{fx.Replace(modules.Passphrase(p.passphrase)), fx.Populate(&key, &log, &plugins)}, p.options...)
	return app.Run(ctx, app.New(c, options...), func(ctx context.Context) error {
		return f(ctx, audit.KeyWrapper(key, log.Logger), fx.Replace(plugins))
	})
}
