// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app"
	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/audit"
)

func (p *program) keystore() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "keystore",
		Short:   "Look after the database: verify, back up, restore, move, change its key",
		Example: "  conclave keystore backup /media/stick/alice.backup\n  conclave keystore rotate-key",
		Args:    noCommand,
		RunE:    p.group,
	}
	cmd.AddCommand(p.keystoreInfo(), p.keystoreVerify(), p.keystoreBackup(), p.keystoreRestore(), p.keystoreCopy(), p.keystoreRotateKey(), p.keystoreChangeKey())
	for _, c := range cmd.Commands() {
		c.Annotations = only("home", "json", "verbose", "passphrase-file", "keystore", "key")
	}
	return cmd
}

// A sealedKeystore is a keystore with what opens the client's records in it.
type sealedKeystore struct {
	config config.Config
	raw    core.Keystore
	key    core.KeyWrapper
	tenant string
	// plugins are those that are in use: two stores of one plugin are in the same process.
	plugins fx.Option
}

// keystoreOf runs f with the keystore that a configuration names, without a client.
func (p *program) keystoreOf(ctx context.Context, c config.Config, f func(context.Context, sealedKeystore) error, more ...fx.Option) error {
	var raw core.Keystore
	var key core.KeyWrapper
	var log modules.AuditLog
	var tenant modules.Tenant
	var plugins *modules.Plugins
	options := append([]fx.Option{fx.Replace(modules.Passphrase(p.passphrase)), fx.Populate(&raw, &key, &log, &tenant, &plugins)}, p.options...)
	options = append(options, more...)
	return wrongKey(c, app.Run(ctx, app.New(c, options...), func(ctx context.Context) error {
		return f(ctx, sealedKeystore{c, raw, audit.KeyWrapper(key, log.Logger), string(tenant), fx.Replace(plugins)})
	}))
}

// opened runs f with the records of the home folder's client.
func (p *program) opened(ctx context.Context, f func(context.Context, sealedKeystore, *seal.Store) error) error {
	c, err := p.existing()
	if err != nil {
		return err
	}
	return p.keystoreOf(ctx, c, func(ctx context.Context, k sealedKeystore) (err error) {
		if _, err := present(ctx, c)(k.raw, modules.Tenant(k.tenant)); err != nil {
			return err
		}
		store, err := seal.Open(ctx, k.raw, k.key, k.tenant)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, store.Close()) }()
		return f(ctx, k, store)
	})
}

// step is a seal.Progress that shows what is done.
func (p *program) step(what string) seal.Progress {
	return func(done, total int) { p.progress.at(what, done, total) }
}

// counts are the part of a report that programs read.
type counts struct {
	Records int   `json:"records"`
	Bytes   int64 `json:"bytes"`
	Damaged int   `json:"damaged,omitempty"`
}

func countsOf(r seal.Report) counts { return counts{r.Records, r.Bytes, r.Damaged} }

func (p *program) keystoreInfo() *cobra.Command {
	return &cobra.Command{
		Use:   "info",
		Short: "Show where the records are, what seals them and how many there are",
		Long: `Show where the records are, which key wraps their data key, the generation of that,
and how many records there are. Damaged ones are counted; see conclave keystore verify.`,
		Example: "  conclave keystore info --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.opened(cmd.Context(), func(ctx context.Context, k sealedKeystore, store *seal.Store) error {
				info, err := store.Info(ctx)
				if err != nil {
					return err
				}
				report, err := store.Verify(ctx, p.step("records"))
				if err != nil {
					return err
				}
				uri, err := k.config.URI(k.config.Keystore)
				if err != nil {
					return err
				}
				rotating := ""
				if info.Rotating {
					rotating = ", and an older one: conclave keystore rotate-key finishes that"
				}
				return p.result(struct {
					Keystore string `json:"keystore"`
					Key      string `json:"key"`
					DataKey  uint32 `json:"data_key"`
					Rotating bool   `json:"rotating,omitempty"`
					counts
				}{uri.String(), info.Wrapper, info.DataKey, info.Rotating, countsOf(report)},
					"keystore  %s\nkey       %s\ndata key  number %d%s\nrecords   %d, %d bytes, %d damaged\n",
					plain(uri.String()), plain(info.Wrapper), info.DataKey, rotating, report.Records, report.Bytes, report.Damaged)
			})
		},
	}
}

func (p *program) keystoreVerify() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Read everything and look whether it is whole",
		Long: `Read the whole database: its structure, if the engine can look at that, and every
record, which has to authenticate. The exit code is 1 if something is damaged. It can
be used meanwhile.`,
		Example: "  conclave keystore verify",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.opened(cmd.Context(), func(ctx context.Context, k sealedKeystore, store *seal.Store) error {
				if engine, ok := k.raw.(interface{ Check(context.Context) error }); ok {
					if err := engine.Check(ctx); err != nil {
						return err
					}
				}
				report, err := store.Verify(ctx, p.step("verified"))
				if err != nil {
					return err
				}
				if report.Damaged > 0 {
					return hint(fmt.Errorf("%d of %d records are damaged: %w", report.Damaged, report.Records, report.Last),
						"what belongs to a conversation goes with it: conclave chat rejoin NAME; if a backup is newer than the damage: conclave keystore restore")
				}
				return p.result(countsOf(report), "all %d records are whole, %d bytes\n", report.Records, report.Bytes)
			})
		},
	}
}

func (p *program) keystoreBackup() *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy all records as they are now into a file, sealed",
		Long: `Copy all records, as they are at this moment, into a new file, while the database may
be in use. They stay sealed: the file is of use only to who has the key, which is not in
it. Keep a copy of conclave.toml and of store.key (or the passphrase), elsewhere.

A backup is a state from the past as soon as you go on. See conclave keystore restore.`,
		Example: "  conclave keystore backup alice.backup",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.opened(cmd.Context(), func(ctx context.Context, _ sealedKeystore, store *seal.Store) error {
				var report seal.Report
				size, err := writeNew(args[0], func(w io.Writer) (err error) {
					report, err = store.Backup(ctx, w, p.step("backed up"))
					return err
				})
				if err != nil {
					return err
				}
				if report.Damaged > 0 {
					p.notice("%d records are damaged, and so they are in the backup: conclave keystore verify", report.Damaged)
				}
				return p.result(struct {
					File string `json:"file"`
					Size int64  `json:"size"`
					counts
				}{args[0], size, countsOf(report)}, "%d records are in %s, %d bytes\n", report.Records, args[0], size)
			})
		},
	}
}

// writeNew makes a file, readable by its owner only, and removes it again if it cannot be
// written to its end. core.ErrConflict: it is there already.
func writeNew(path string, write func(io.Writer) error) (size int64, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return 0, hint(fmt.Errorf("%s is there already: %w", path, core.ErrConflict), "take another name")
	}
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		err = fmt.Errorf("%s cannot be made: %w", path, e.Err)
	}
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	info, statErr := f.Stat()
	if err := errors.Join(err, statErr, f.Close()); err != nil {
		return 0, err
	}
	if folder, err := os.Open(filepath.Dir(path)); err == nil { // its name has to last, too
		_ = folder.Sync() // not every system can
		_ = folder.Close()
	}
	return info.Size(), nil
}

func (p *program) keystoreRestore() *cobra.Command {
	return &cobra.Command{
		Use:   "restore FILE",
		Short: "Fill an empty database with a backup",
		Long: `Fill the database of the home folder with a backup. The folder has conclave.toml and
store.key (or you know the passphrase) from when the backup was made, and no database,
or one in which this client is not.

What is restored is a state from the past, whose keys were used since. So nothing works
until conclave recover has brought you back into your conversations.`,
		Example: "  conclave keystore restore alice.backup\n  conclave recover",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.configuration()
			if errors.Is(err, core.ErrNotFound) {
				return hint(err, "put it there, and store.key if there was one, from when the backup was made; or say with --home where they are")
			}
			if err != nil {
				return err
			}
			from, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer from.Close()
			return p.keystoreOf(cmd.Context(), c, func(ctx context.Context, k sealedKeystore) error {
				report, err := seal.Restore(ctx, k.raw, k.key, k.tenant, from, p.step("restored"))
				switch {
				case errors.Is(err, seal.ErrExists):
					return hint(err, "nothing was changed; a backup is restored where there is nothing: move the database away, or take another --home")
				case errors.Is(err, core.ErrDamaged):
					return hint(err, "%s is of no use; nothing was restored: take another backup", args[0])
				case errors.Is(err, core.ErrWrongKey) && strings.HasPrefix(c.Key, hsm.Scheme+":"):
					return hint(err, "the backup needs the key from when it was made, which the message names by its check value; nothing was restored: give it with --key URI. conclave hsm test URI --time 0 shows the check value of a key")
				case errors.Is(err, core.ErrWrongKey) && !strings.HasPrefix(c.Key, "passphrase:"):
					return hint(err, "the backup needs the key from when it was made; nothing was restored: put back conclave.toml and store.key from then")
				}
				if err != nil {
					return err
				}
				next := "conclave recover"
				if kept, err := config.Load(filepath.Join(p.home, configName)); err == nil && !same(c, c.Key, kept.Key) {
					next = fmt.Sprintf("conclave recover --key %s, and then conclave keystore change-key --key %s --to %s",
						word(shown(c, c.Key)), word(shown(c, c.Key)), word(shown(c, kept.Key)))
				}
				return p.result(countsOf(report), "%d records are restored; now: %s\n", report.Records, p.here(next))
			})
		},
	}
}

func (p *program) keystoreCopy() *cobra.Command {
	var target string
	cmd := &cobra.Command{
		Use:   "copy --to URI",
		Short: "Move to another database, of whatever kind",
		Long: `Copy all records, sealed as they are, into another database, and use that from now on:
conclave.toml will say so. The old one stays as it is but opens no more, for two that go
on from one state would use the same keys. If it is interrupted, run it again.`,
		Example: "  conclave keystore copy --to postgres://alice@db.example.org/conclave",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.existing()
			if err != nil {
				return err
			}
			if err := anyURI("to", target); err != nil {
				return err
			}
			there, err := fromHere(config.Config{Keystore: target})
			if err != nil {
				return err
			}
			return p.keystoreOf(cmd.Context(), c, func(ctx context.Context, from sealedKeystore) error {
				return p.keystoreOf(ctx, c.Over(there), func(ctx context.Context, to sealedKeystore) error {
					return p.moveTo(ctx, from, to)
				}, from.plugins)
			})
		},
	}
	cmd.Flags().StringVar(&target, "to", "", "URI of the other database: sqlite:FILE, postgres://..., plugin:NAME")
	_ = cmd.MarkFlagRequired("to")
	return cmd
}

func (p *program) moveTo(ctx context.Context, from, to sealedKeystore) error {
	if same(from.config, from.config.Keystore, to.config.Keystore) {
		return fmt.Errorf("that is the database which you have: %w", core.ErrInvalid)
	}
	report, err := seal.Move(ctx, from.raw, to.raw, from.key, from.tenant, p.step("copied"))
	if errors.Is(err, seal.ErrExists) {
		// It may be what an earlier attempt has brought there.
		was, is := opens(ctx, from), opens(ctx, to)
		if !errors.Is(was, seal.ErrMoved) || is != nil {
			return hint(err, "nothing was changed; take a database in which this client is not")
		}
		err = nil
	}
	if err != nil {
		return err
	}
	file := filepath.Join(p.home, configName)
	if err := config.Move(file, p.within(to.config.Keystore)); err != nil {
		return err
	}
	uri, err := to.config.URI(to.config.Keystore)
	if err != nil {
		return err
	}
	return p.result(struct {
		Keystore string `json:"keystore"`
		counts
	}{uri.String(), countsOf(report)}, "%d records are in %s, which is used from now on; what is in the old database can be deleted\n", report.Records, plain(uri.String()))
}

// within writes the URI of a file in the home folder as one that moves with the folder.
func (p *program) within(uri string) string {
	path, found := strings.CutPrefix(uri, config.FileURI("sqlite", p.home+string(filepath.Separator)))
	if !found || strings.ContainsAny(path, "%?#:") {
		return uri
	}
	return "sqlite:" + path
}

// opens says why a client's records do not open.
func opens(ctx context.Context, k sealedKeystore) error {
	store, err := seal.Open(ctx, k.raw, k.key, k.tenant)
	if err != nil {
		return err
	}
	return store.Close()
}

func (p *program) keystoreRotateKey() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate-key",
		Short: "Seal everything with a new data key and destroy the old one",
		Long: `Make a new data key, seal every record with it, and destroy the old one. The database
can be used meanwhile. If it is interrupted, run it again: it goes on. Older copies of
the database, and pages that the medium still has, open with the old data key only,
which is then nowhere but in older copies, wrapped.`,
		Example: "  conclave keystore rotate-key",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.opened(cmd.Context(), func(ctx context.Context, _ sealedKeystore, store *seal.Store) error {
				report, err := store.Rotate(ctx, p.step("sealed anew"))
				if err != nil {
					return hint(err, "nothing is lost, and the database can be used; run it again to finish it")
				}
				info, err := store.Info(ctx)
				if err != nil {
					return err
				}
				if report.Damaged > 0 {
					p.notice("%d records were damaged before and nobody can read them: conclave keystore verify", report.Damaged)
				}
				return p.result(struct {
					DataKey uint32 `json:"data_key"`
					counts
				}{info.DataKey, countsOf(report)}, "all %d records are sealed with data key number %d, and the old one is destroyed\n", report.Records, info.DataKey)
			})
		},
	}
}
