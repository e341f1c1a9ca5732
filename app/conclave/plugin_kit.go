// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/plugins/host"
)

func (p *program) pluginTest() *cobra.Command {
	var env, only []string
	cmd := &cobra.Command{
		Use:   "test PATH [-- ARGS...]",
		Short: "Test a plugin: whether it does what its parts have to do",
		Long: `Run the conformance kit of whatever a plugin offers, every instance of it, and report each
check: ok, fail with what was expected and what came, or skip if there was nothing to look
at. The exit code is 1 if one has failed. With --json a line has "part", "instance",
"check", "status", "failures", "reason" of a skip, and "said", what the plugin wrote; the
last one has "passed", "failed" and "skipped".

For each check the plugin is started anew, in a new and empty folder, for which {folder}
stands in --env and ARGS; its state has to be there. It is also killed, and must then have
what it had. So give it nothing that is in use.`,
		Example: `  conclave plugin test ./conclave-plugin-store --env FILE={folder}/store
  conclave plugin test ./conclave-plugin-store --check killed --check order
  conclave plugin test ./conclave-plugin-ca --json -- --ephemeral`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := hostConfig(args[0], args[1:], env)
			if err != nil {
				return err
			}
			return p.testPlugin(cmd.Context(), cfg, only)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	cmd.Flags().StringArrayVar(&env, "env", nil, "NAME=VALUE for its environment, which has nothing else; several times")
	cmd.Flags().StringArrayVar(&only, "check", nil, "make only the check of this name; several times")
	return cmd
}

// checkTime is how long one check may take.
const checkTime = 2 * time.Minute

// testPlugin makes the checks of all that a plugin offers, or only those of some names.
func (p *program) testPlugin(ctx context.Context, cfg host.Config, only []string) error {
	b := &bench{cfg: cfg}
	if err := host.Check(cfg.Path); errors.Is(err, core.ErrNotFound) {
		return hint(err, "give the PATH of the program; a NAME is not enough, as what has a table in %s may be in use", configName)
	}
	offers, err := b.offers(ctx)
	if used := (*usedError)(nil); errors.As(err, &used) {
		return hint(err, "nothing was written. Have its state where {folder} is, in --env and ARGS, or in its working directory")
	}
	if err != nil {
		for _, line := range b.words.take() {
			p.notice("it says: %s", line)
		}
		return hint(err, "conclave plugin verify says more; does it need something that --env NAME=VALUE, or ARGS after --, can give it?")
	}
	var count struct {
		Passed  int `json:"passed"`
		Failed  int `json:"failed"`
		Skipped int `json:"skipped"`
	}
	for _, o := range offers {
		checks := slices.DeleteFunc(b.checks(o, offers), func(c coretest.Check) bool {
			return len(only) > 0 && !slices.Contains(only, c.Name)
		})
		if !p.json && len(checks) > 0 {
			p.printf("%s\n", plain(offered(o)))
		}
		for i, c := range checks {
			p.progress.at(plain(offered(o)), i, len(checks))
			r := b.run(ctx, c)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			status := "ok"
			switch {
			case len(r.Failures) > 0:
				status = "fail"
				count.Failed++
			case r.Skipped != "":
				status = "skip"
				count.Skipped++
			default:
				count.Passed++
			}
			if err := p.checked(o, status, r, b.words.take()); err != nil {
				return err
			}
		}
	}
	if count.Passed+count.Failed+count.Skipped == 0 {
		var names []string
		for _, o := range offers {
			for _, c := range b.checks(o, offers) {
				if !slices.Contains(names, c.Name) {
					names = append(names, c.Name)
				}
			}
		}
		return hint(fmt.Errorf("no check is called %s: %w", strings.Join(only, ", or "), core.ErrNotFound), "there are: %s", strings.Join(names, ", "))
	}
	if err := p.result(count, "\n%d passed, %d failed, %d skipped\n", count.Passed, count.Failed, count.Skipped); err != nil {
		return err
	}
	if count.Failed > 0 {
		return errTold
	}
	return nil
}

// checked tells of one check; what the plugin has said, if that was not all well.
func (p *program) checked(o host.Offer, status string, r coretest.Result, words []string) error {
	text := fmt.Sprintf("  %-4s  %s\n", status, r.Name)
	line := func(what, s string) {
		const most = 600
		if len(s) > most {
			s = s[:most] + "..."
		}
		text += fmt.Sprintf("          %s%s\n", what, plain(s))
	}
	if r.Skipped != "" {
		line("", r.Skipped)
	}
	for _, f := range r.Failures {
		line("", f)
	}
	if status != "fail" {
		words = nil
	}
	for _, w := range words {
		line("it says: ", w)
	}
	return p.result(struct {
		Part     string   `json:"part"`
		Instance string   `json:"instance,omitempty"`
		Check    string   `json:"check"`
		Status   string   `json:"status"`
		Failures []string `json:"failures,omitempty"`
		Reason   string   `json:"reason,omitempty"`
		Said     []string `json:"said,omitempty"`
	}{o.Part.String(), o.Instance, r.Name, status, r.Failures, r.Skipped, words}, "%s", text)
}

// A bench is where a plugin is tested: it has the processes of the check that is made.
type bench struct {
	cfg   host.Config
	words said

	sharing sync.Mutex // while one is launched that others want
	mu      sync.Mutex
	all     []*host.Plugin
	at      map[string]*host.Plugin // those that a check may share, by folder
}

// A usedError says that a store has records where it should have none: it may be in use, and
// the checks delete what they find.
type usedError struct{ offer host.Offer }

func (e *usedError) Error() string {
	return plain(offered(e.offer)) + ": there are records, though it was started in an empty folder: " + core.ErrDenied.Error()
}

func (e *usedError) Unwrap() error { return core.ErrDenied }

// empty reads whether any table has a record.
func empty(ctx context.Context, store core.Keystore) (bool, error) {
	var queries []core.Query
	for table := range 256 {
		queries = append(queries, core.Query{Table: core.Table(table), KeysOnly: true, Limit: 1})
	}
	answers, err := store.Read(ctx, queries)
	return !slices.ContainsFunc(answers, func(a []core.Record) bool { return len(a) > 0 }), err
}

// offers starts the plugin once, to ask what there is to test, and looks whether its stores
// are empty.
func (b *bench) offers(ctx context.Context) ([]host.Offer, error) {
	folder, err := os.MkdirTemp("", "conclave-test-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	p, err := b.launch(ctx, folder)
	if err != nil {
		return nil, err
	}
	for _, o := range p.Offers() {
		if o.Part != host.PartKeystore {
			continue
		}
		store, err := p.Keystore(o.Instance)
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		none, err := empty(ctx, store)
		if err == nil && !none {
			err = &usedError{o}
		}
		if err != nil { // nobody knows what it has: nothing is written
			return nil, errors.Join(err, p.Close())
		}
	}
	return p.Offers(), p.Close()
}

// run makes one check.
func (b *bench) run(ctx context.Context, c coretest.Check) coretest.Result {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	defer b.end(false)
	return c.Run(ctx)
}

// launch starts a process of its own in a folder.
func (b *bench) launch(ctx context.Context, folder string) (*host.Plugin, error) {
	cfg := inFolder(b.cfg, folder)
	cfg.Logger = slog.New(b.words.handler())
	p, err := host.Launch(ctx, cfg)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, p)
	return p, nil
}

// shared is the process in a folder.
func (b *bench) shared(ctx context.Context, folder string) (*host.Plugin, error) {
	b.sharing.Lock()
	defer b.sharing.Unlock()
	b.mu.Lock()
	p, ok := b.at[folder]
	b.mu.Unlock()
	if ok {
		return p, nil
	}
	p, err := b.launch(ctx, folder)
	if err == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.at = map[string]*host.Plugin{folder: p}
	}
	return p, err
}

// crash kills all processes, and has the next ones be new.
func (b *bench) crash() { b.end(true) }

func (b *bench) end(kill bool) {
	b.mu.Lock()
	all := b.all
	b.all, b.at = nil, nil
	b.mu.Unlock()
	for _, p := range all {
		if kill {
			p.Kill()
		}
		_ = p.Close() // never fails
	}
}

// checks are those of an instance of a part.
func (b *bench) checks(o host.Offer, offers []host.Offer) []coretest.Check {
	switch o.Part {
	case host.PartKeystore:
		return coretest.KeystoreChecks(func(ctx context.Context, folder string) (core.Keystore, error) {
			p, err := b.launch(ctx, folder)
			if err != nil {
				return nil, err
			}
			store, err := p.Keystore(o.Instance)
			return processStore{store, p}, err
		}, b.crash)
	case host.PartCryptoProvider:
		return coretest.ProviderChecks(partIn(b, func(p *host.Plugin) (core.CryptoProvider, error) { return p.CryptoProvider(o.Instance) }), b.crash)
	case host.PartIssuer:
		return coretest.IssuerChecks(partIn(b, func(p *host.Plugin) (core.CredentialIssuer, error) { return p.Issuer(o.Instance) }), b.crash)
	}
	// The suite wants a second key, which is that of another instance.
	other := ""
	found := false
	for _, another := range offers {
		if another.Part == o.Part && another.Wrapper != o.Wrapper && !found {
			other, found = another.Instance, true
		}
	}
	return coretest.WrapperChecks(func(ctx context.Context, folder string, key int) (core.KeyWrapper, error) {
		instance := o.Instance
		if key > 0 {
			if instance = other; !found {
				return nil, fmt.Errorf("a second key wrapper to compare with, as another instance: %w", coretest.ErrSkip)
			}
		}
		return partIn(b, func(p *host.Plugin) (core.KeyWrapper, error) { return p.KeyWrapper(instance) })(ctx, folder)
	}, b.crash)
}

// partIn takes a part of the process in a folder.
func partIn[T any](b *bench, part func(*host.Plugin) (T, error)) coretest.Open[T] {
	return func(ctx context.Context, folder string) (t T, err error) {
		p, err := b.shared(ctx, folder)
		if err != nil {
			return t, err
		}
		return part(p)
	}
}

// processStore ends its process when it is closed, as a store does that is opened again.
type processStore struct {
	core.Keystore
	process *host.Plugin
}

// Close implements core.Keystore.
func (s processStore) Close() error { return errors.Join(s.Keystore.Close(), s.process.Close()) }
