// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app"
	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
)

// A program is one run of the command line.
type program struct {
	in       io.Reader
	out, err io.Writer
	options  []fx.Option // of the application; the demonstration puts itself in between

	home           string
	homeGiven      string // as --home has it
	json           bool
	verbose        int // how often it was said
	passphraseFile string
	confirm        bool          // ask for the passphrase twice
	flags          config.Config // over the configuration file
	progress       progress
}

// configName is the configuration file in the home folder.
const configName = "conclave.toml"

func (p *program) execute(ctx context.Context, args []string) error {
	root := p.root()
	concerned(root, args)
	p.json = wantsJSON(args) // also if the arguments cannot be parsed
	root.SetArgs(args)
	root.SetIn(p.in)
	root.SetOut(p.out)
	root.SetErr(p.err)
	return root.ExecuteContext(ctx)
}

// root is the tree of commands.
func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "conclave",
		Short: "Encrypted group conversations (MLS, RFC 9420)",
		Long: `Encrypted group conversations (MLS, RFC 9420).

Everything of one identity is in its home folder: --home, else $CONCLAVE_HOME, else
.conclave in your own home folder.

The exit code is 0 if everything was done, else 1. With --json results are printed on
the standard output and what goes wrong on the error output, as values one a line: an
error has "error", "kind" and mostly "hint", one of Proteus its "code"; a remark has
"notice", a line of the log "msg".`,
		Example: `  conclave demo
  conclave delivery &
  conclave init alice
  conclave chat create friends
  conclave chat add friends bob
  conclave chat send friends "hello"
  conclave chat read friends --follow`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noCommand,
		RunE:          p.group,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			level := slog.LevelWarn
			if p.verbose > 0 {
				level = slog.LevelDebug
			}
			if p.verbose > 1 {
				level = app.LevelTrace
			}
			how := &slog.HandlerOptions{Level: level, ReplaceAttr: withoutTraces}
			var log slog.Handler = slog.NewTextHandler(p.err, how)
			if p.json {
				log = slog.NewJSONHandler(p.err, how)
			}
			slog.SetDefault(slog.New(log))
			p.progress.on = !p.json && isTerminal(p.err)
			p.progress.to = p.err
			return p.findHome()
		},
	}
	f := root.PersistentFlags()
	f.StringVar(&p.home, "home", "", "folder of the identity")
	f.BoolVar(&p.json, "json", false, "print JSON, one value a line; errors too, on the error output")
	f.CountVarP(&p.verbose, "verbose", "v", "log what happens and each use of a key, on the error output; -vv: also how the program is put together")
	f.StringVar(&p.passphraseFile, "passphrase-file", "", "read the passphrase from this file instead of asking")
	f.StringVar(&p.flags.Keystore, "keystore", "", "URI of the keystore, instead of the configuration's")
	f.StringVar(&p.flags.Key, "key", "", "URI of the key that seals the keystore, instead of the configuration's")
	f.StringVar(&p.flags.Crypto, "crypto", "", "URI of the crypto provider, instead of the configuration's")
	f.StringVar(&p.flags.Delivery, "delivery", "", "URI of the delivery service, instead of the configuration's")
	root.AddCommand(p.init(), p.chat(), p.identity(), p.keys(), p.keystore(), p.hsm(), p.plugin(), p.proteus(), p.recover(), p.doctor(), p.delivery(), p.demo(), p.demoMember(), p.demoCiphertext(), p.demoOpen(),
		p.vectors(), p.interopServer(), p.drive(), p.version())
	withUsage(root)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return hint(err, "%s --help shows the flags that there are", c.CommandPath())
	})
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	return root
}

// group is a command that has others below it, called without one of them.
func (p *program) group(cmd *cobra.Command, _ []string) error {
	if p.json {
		return hint(fmt.Errorf("%s: which command? %w", cmd.CommandPath(), core.ErrInvalid), "%s --help shows those that there are", cmd.CommandPath())
	}
	return cmd.Help()
}

// noCommand refuses what is none of the commands below, and says which may be meant.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		return hint(err, "did you mean %s %s?", cmd.CommandPath(), strings.Join(like, ", or "))
	}
	return hint(err, "%s --help shows those that there are", cmd.CommandPath())
}

// wantsJSON looks for --json among the arguments.
func wantsJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--json")
}

// rootFlags are the flags that every command accepts.
var rootFlags = []string{"home", "json", "verbose", "passphrase-file", "keystore", "key", "crypto", "delivery"}

// flagsOf is the annotation of a command that only some of the root's flags concern.
const flagsOf = "flags"

// only says which of the root's flags concern a command; the others are accepted
// and not shown.
func only(flags ...string) map[string]string {
	return map[string]string{flagsOf: strings.Join(flags, " ")}
}

// concerned hides the flags that do not concern the command that is called, from
// help and from completion.
func concerned(root *cobra.Command, args []string) {
	for len(args) > 0 && slices.Contains([]string{"help", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd}, args[0]) {
		args = args[1:]
	}
	cmd, _, err := root.Find(args)
	if err != nil || cmd.Annotations[flagsOf] == "" {
		return
	}
	shown := strings.Fields(cmd.Annotations[flagsOf])
	for _, name := range rootFlags {
		root.PersistentFlags().Lookup(name).Hidden = !slices.Contains(shown, name)
	}
}

// withoutTraces leaves out where in the code each part was named.
func withoutTraces(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 && (groups[0] == "stacktrace" || groups[0] == "moduletrace") {
		return slog.Attr{}
	}
	return a
}

// withUsage has every command show how it is called when its arguments are wrong.
func withUsage(c *cobra.Command) {
	check := c.Args
	if check != nil && c.Runnable() && !c.HasSubCommands() {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return hint(err, "it is called so: %s", c.UseLine())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		withUsage(sub)
	}
}

func (p *program) findHome() error {
	if latch := os.Getenv("CONCLAVE_LATCH"); latch != "" && !filepath.IsAbs(latch) {
		return fmt.Errorf("$CONCLAVE_LATCH is %q, and has to be an absolute path, for all have one folder: %w", latch, core.ErrInvalid)
	}
	p.homeGiven = p.home
	if p.home == "" {
		p.home = os.Getenv("CONCLAVE_HOME")
	}
	if p.home == "" {
		own, err := os.UserHomeDir()
		if err != nil {
			return fmt.Errorf("no home folder; give one with --home: %w", err)
		}
		p.home = filepath.Join(own, ".conclave")
	}
	home, err := filepath.Abs(p.home)
	p.home = home
	return err
}

// mendFile is what to do about a configuration that cannot be read.
const mendFile = "mend the file: the README and app/config/examples show what it has"

// mend says what to do about an error of a configuration.
func mend(err error) error {
	if errors.Is(err, config.ErrNoTable) {
		return err // which has a hint of its own
	}
	return hint(err, mendFile)
}

// configuration is that of the home folder with what the flags say.
func (p *program) configuration() (config.Config, error) {
	c, err := config.Load(filepath.Join(p.home, configName))
	if errors.Is(err, core.ErrNotFound) {
		return config.Config{}, hint(err, "make an identity with conclave init ID, or say with --home where it is")
	}
	if err != nil {
		return config.Config{}, mend(err)
	}
	flags, err := fromHere(p.flags)
	return c.Over(flags), err
}

// open runs f with the messenger of the home folder, and closes everything after.
func (p *program) open(ctx context.Context, f func(context.Context, *messenger.Messenger) error) error {
	c, err := p.existing()
	if err != nil {
		return err
	}
	return p.openWith(ctx, c, f, fx.Decorate(present(ctx, c)))
}

// present fails if the database does not have the client, which would be made, and hide
// what is wrong: another database or tenant, or one that was not restored to its end.
func present(ctx context.Context, c config.Config) func(core.Keystore, modules.Tenant) (core.Keystore, error) {
	return func(ks core.Keystore, tenant modules.Tenant) (core.Keystore, error) {
		switch there, err := seal.Exists(ctx, ks, string(tenant)); {
		case err != nil:
			return nil, err
		case !there:
			return nil, hint(fmt.Errorf("the database %s has no client %q: %w", shown(c, c.Keystore), tenant, core.ErrNotFound), noStore)
		}
		return ks, nil
	}
}

// existing is the configuration of a home that has its database.
func (p *program) existing() (config.Config, error) {
	c, err := p.configuration()
	if err != nil {
		return config.Config{}, err
	}
	if path, _, err := fileOf(c, c.Keystore, "sqlite"); errors.Is(err, fs.ErrNotExist) { // it would be made, and hide what is wrong
		return config.Config{}, hint(fmt.Errorf("the database %s is missing: %w", path, core.ErrNotFound), noStore)
	}
	return c, nil
}

func (p *program) openWith(ctx context.Context, c config.Config, f func(context.Context, *messenger.Messenger) error, more ...fx.Option) error {
	var m *messenger.Messenger
	options := append([]fx.Option{
		modules.Messenger(),
		fx.Replace(modules.Passphrase(p.passphrase)),
		fx.Replace(modules.Progress(p.progress.at)),
		fx.Populate(&m),
	}, p.options...)
	options = append(options, more...)
	return wrongKey(c, app.Run(ctx, app.New(c, options...), func(ctx context.Context) error {
		tell := func() {
			for _, notice := range m.Notices() {
				p.notice("%s", plain(notice))
			}
		}
		tell() // what was found when it was opened
		err := f(ctx, m)
		tell()
		if errors.Is(err, core.ErrWrongKey) {
			err = hint(err, "the key of the database was changed meanwhile: start this again")
		}
		return err
	}))
}
