// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
)

func (p *program) init() *cobra.Command {
	var suite uint16
	var ask, extractable bool
	var tenant, trusted string
	var e enrolment
	cmd := &cobra.Command{
		Use:   "init ID",
		Short: "Make an identity and register it at a delivery service",
		Long: `Make an identity in the home folder and make it known to a delivery service, so
that others can add it to conversations. ID names one device of a person: each
device has its own, such as alice and alice-phone.

The folder gets conclave.toml, the encrypted database store.db and store.key, which
opens it and which only you can read. With --passphrase there is no key file: the
passphrase is asked for each time, or read from --passphrase-file, which is enough here.

With --crypto and the URI of a PKCS#11 token, private signature keys are made and stay in
the token; with --kek and the URI of a key in one, that seals the database. See
conclave hsm. --keystore, --crypto, --kek and --issuer also take "plugin:NAME", if
conclave.toml is there and has a table of that plugin: see conclave plugin.

With --issuer the identity gets a certificate, by which others see that you are verified:
see conclave identity. --trust is the PEM file of the root CA above it. If somebody has to
log in or to sign a request, and that did not come to its end, run the same command again.

If the service cannot be reached, run the same command again later. As long as it has
not accepted ID, another one can be taken in the same way, and --delivery be another.`,
		Example: `  conclave init alice
  conclave init alice --delivery unix:///run/conclave/delivery.sock
  conclave init alice --issuer 'localca:ca.pem?key=ca.key' --trust ca.pem
  conclave --home ~/phone init alice-phone --passphrase
  conclave init alice --crypto 'pkcs11:token=acme?module-name=softhsm2&pin-source=file:/etc/acme/pin'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := core.ClientID(args[0])
			if id == "" || len(id) > 128 || plain(args[0]) != args[0] {
				return fmt.Errorf("an id has 1 to 128 bytes and no control characters: %w", core.ErrInvalid)
			}
			if suite > 7 {
				return fmt.Errorf("suite %d, there are 1 to 7: %w", suite, core.ErrInvalid)
			}
			h := &holder{program: p}
			register := func(ctx context.Context, c config.Config, m *messenger.Messenger) error {
				h.Messenger = m
				if err := p.certify(ctx, h, c, id, trusted, e); err != nil {
					return err
				}
				switch err := m.Register(ctx, id); {
				case isToken(err):
					return err
				case errors.Is(err, core.ErrConflict):
					return hint(err, "a home holds one identity; another one in another home: conclave --home FOLDER init ID. If this one is of no use, delete %s", p.home)
				case errors.Is(err, core.ErrDenied):
					return hint(err, "an id belongs to one home; another id: conclave init ID. If the service has refused something else, conclave doctor looks at it")
				case err != nil:
					return err
				}
				if err := p.remember(filepath.Join(p.home, configName), c); err != nil {
					return err
				}
				return p.result(struct {
					ID   string `json:"id"`
					Home string `json:"home"`
				}{args[0], p.home}, "%s is ready, in %s\n", id, p.home)
			}
			var used config.Config
			abandoned := false
			err := p.inNewHome(cmd.Context(), config.Config{Suite: core.SuiteID(suite), Tenant: tenant}, ask, extractable, func(ctx context.Context, c config.Config, m *messenger.Messenger) error {
				used = c
				both, err := proteusStateOf(ctx, h.own)
				if err != nil {
					return err
				}
				if both.fingerprint == "" { // that would go with the other identity
					abandoned, err = m.Abandon(ctx, id)
				}
				if abandoned || err != nil {
					return err
				}
				return register(ctx, c, m)
			}, fx.Populate(&h.own, &h.call))
			if err != nil || !abandoned {
				return err
			}
			return p.openWith(cmd.Context(), used, func(ctx context.Context, m *messenger.Messenger) error { return register(ctx, used, m) },
				fx.Populate(&h.own, &h.call))
		},
	}
	cmd.Flags().Uint16Var(&suite, "suite", 0, "cipher suite of RFC 9420, 1 to 7 (default 1)")
	cmd.Flags().StringVar(&p.flags.Issuer, "issuer", "", "URI of who issues a certificate (default \"basic:\", nobody)")
	cmd.Flags().StringVar(&trusted, "trust", "", "PEM file of CAs to trust, as with conclave identity trust add")
	e.nameFlags(cmd)
	e.loginFlags(cmd)
	cmd.Flags().StringVar(&tenant, "tenant", "", "name of this client among those that share the --keystore (default \"conclave\")")
	passphraseFlag(cmd, &ask)
	cmd.Flags().StringVar(&p.flags.Key, "kek", "", "URI of the key that seals the database, such as one in a token; --key is the same")
	cmd.Flags().BoolVar(&extractable, "extractable", false, extractableFlag)
	cmd.MarkFlagsMutuallyExclusive("passphrase", "kek")
	return cmd
}

// certify gets the certificate of a new identity, if the issuer is not basic. What the
// issuer cannot do without a person is asked for here; Register could not.
func (p *program) certify(ctx context.Context, h *holder, c config.Config, id core.ClientID, trusted string, e enrolment) error {
	if trusted != "" {
		text, err := readFile(trusted, e2ei.MaxPEM)
		if err == nil {
			_, _, err = trustIn(ctx, h.own, text)
		}
		if err != nil {
			return err
		}
	}
	if u, err := c.URI(c.Issuer); err != nil || u.Scheme == "basic" {
		return err
	}
	if _, err := h.ID(ctx); !errors.Is(err, client.ErrNotInitialized) {
		return err
	}
	if err := e.ready(ctx, h, id); err != nil {
		return err
	}
	got, err := h.Enroll(ctx, client.IssueParams{ClientID: id, Handle: e.handle, DisplayName: e.name}, e.answers(h).answer)
	if errors.Is(err, messenger.ErrNobody) { // who is named would not be asked
		return hint(err, "nobody is asked for a basic credential: name an issuer of certificates, or write issuer = \"basic:\" into %s", configName)
	}
	if err != nil {
		return p.untilLater(err)
	}
	return p.certificateOf(ctx, h, got)
}

const extractableFlag = "use a key of a token that can leave it all the same"

// passphraseFlag is for commands that can make a home.
func passphraseFlag(cmd *cobra.Command, ask *bool) {
	cmd.Flags().BoolVar(ask, "passphrase", false, "seal the database with a passphrase instead of a key file")
}

// noHome says that there is no configuration.
func (p *program) noHome() bool {
	_, err := os.Stat(filepath.Join(p.home, configName))
	return errors.Is(err, fs.ErrNotExist)
}

// inNewHome runs f with the messenger of a home that is made if it is missing.
func (p *program) inNewHome(ctx context.Context, c config.Config, ask, extractable bool, f func(context.Context, config.Config, *messenger.Messenger) error, more ...fx.Option) error {
	opened := false
	file := filepath.Join(p.home, configName)
	before, err := os.ReadFile(file)
	fresh := errors.Is(err, fs.ErrNotExist)
	defer func() { // what it says does not work: the next attempt may say something else
		switch now, err := os.ReadFile(file); {
		case opened || err != nil:
		case fresh:
			_ = os.Remove(file)
		case !bytes.Equal(now, before):
			_ = os.WriteFile(file, before, 0o600)
		}
	}()
	p.confirm = true
	c, err = p.prepare(ctx, c, ask, extractable)
	if err != nil {
		return err
	}
	return p.openWith(ctx, c, func(ctx context.Context, m *messenger.Messenger) error {
		opened = true
		return f(ctx, c, m)
	}, more...)
}

// prepare makes the home folder, or finds it as an earlier attempt left it.
func (p *program) prepare(ctx context.Context, c config.Config, ask, extractable bool) (config.Config, error) {
	if err := os.MkdirAll(p.home, 0o700); err != nil {
		return config.Config{}, err
	}
	chosen, named := c.Suite != 0, c.Tenant != ""
	if ask || p.passphraseFile != "" { // who gives a passphrase wants it to be what seals
		c.Key = "passphrase:"
	}
	flags, err := fromHere(p.flags)
	if err != nil {
		return config.Config{}, err
	}
	given := c.Over(flags)
	c = config.Default(p.home).Over(given)
	c.Listen = "" // of a service only
	file := filepath.Join(p.home, configName)
	err = c.Save(file)
	if errors.Is(err, core.ErrConflict) {
		err = p.fill(file, given)
	}
	if err != nil {
		return config.Config{}, err
	}
	asked := c
	if c, err = config.Load(file); err != nil {
		return config.Config{}, mend(err)
	}
	differs := func(given bool, have, want string) bool { return given && !same(c, have, want) }
	if chosen && c.Suite != asked.Suite || named && c.Tenant != asked.Tenant || differs(ask || flags.Key != "", c.Key, asked.Key) ||
		differs(flags.Issuer != "", c.Issuer, asked.Issuer) || differs(flags.Keystore != "", c.Keystore, asked.Keystore) || differs(flags.Crypto != "", c.Crypto, asked.Crypto) {
		return config.Config{}, hint(fmt.Errorf("%s says something else: %w", file, core.ErrConflict),
			"the home was set up with another suite or key, or is kept elsewhere; leave --suite, --tenant, --issuer, --passphrase, --kek, --key, --keystore and --crypto out, or take another folder with --home")
	}
	c = c.Over(flags)
	if err := p.tokensReady(ctx, c, extractable); err != nil {
		return config.Config{}, err
	}
	key, err := c.URI(c.Key)
	if err != nil || key.Scheme != "file" {
		return c, err
	}
	if database, _, err := fileOf(c, c.Keystore, "sqlite"); database != "" && err == nil && !named {
		return c, nil // a fresh key would not open it
	}
	path, err := key.File()
	if err != nil {
		return config.Config{}, err
	}
	if err := modules.NewKeyFile(path); err != nil && !errors.Is(err, core.ErrConflict) {
		return config.Config{}, err
	}
	return c, nil
}

// fill adds what was given to a configuration that was written before, if that does not say
// it, and if there is no database yet, for which it would have been something else.
func (p *program) fill(file string, given config.Config) error {
	c, err := config.Read(file)
	if err != nil {
		return mend(err)
	}
	c = config.Default(p.home).Over(given).Over(c)
	if database, _, err := fileOf(c, c.Keystore, "sqlite"); database != "" && err == nil {
		return nil
	}
	return config.Fill(file, given)
}

// same says that two URIs of a configuration name the same.
func same(c config.Config, a, b string) bool {
	for _, scheme := range fileSchemes {
		pathA, _, _ := fileOf(c, a, scheme)
		pathB, _, _ := fileOf(c, b, scheme)
		if pathA != "" && pathA == pathB {
			return true
		}
	}
	return a == b
}

// remember writes down at which delivery service the identity is now.
func (p *program) remember(file string, c config.Config) error {
	kept, err := config.Load(file)
	if err != nil || same(kept, kept.Delivery, c.Delivery) {
		return err
	}
	kept.Delivery = c.Delivery
	if kept.Listen == config.Default("").Listen {
		kept.Listen = "" // of a service only
	}
	return kept.Replace(file)
}
