// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/host"
)

func (p *program) pluginVerify() *cobra.Command {
	var env []string
	cmd := &cobra.Command{
		Use:   "verify NAME|PATH [-- ARGS...]",
		Short: "Look whether a plugin may be started, starts, and what it offers",
		Long: `Look whether a plugin may be started: who can write to it, and whether it is the program
that conclave.toml pins; and start it, to see which version of the protocol it speaks and
what it offers. The exit code is 1 if something is wrong. What it writes is shown.

For a plugin that has no table in conclave.toml give the PATH of the program, or its NAME if
it is in the plugin folder, and what it needs, with --env and after --. If all is well the output is its table for conclave.toml,
with the sha256 that pins it, and comments: look at the program first, the pin only says
that it is the same one from now on.`,
		Example: `  conclave plugin verify store
  conclave plugin verify ./conclave-plugin-store --env FILE=alice.store >> ~/.conclave/conclave.toml`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, problem := p.configured()
			path := args[0]
			name := !strings.ContainsRune(path, filepath.Separator) // a file that is here is ./FILE
			if problem != nil {                                     // it may be that the table is what it lacks
				p.notice("%s", plain(problem.Error()))
				c = config.Default(p.home)
			}
			if _, configured := c.Plugins[path]; configured {
				if len(args) > 1 || len(env) > 0 {
					return hint(fmt.Errorf("--env and ARGS are for a PATH: %w", core.ErrInvalid), "%s has them in [plugin.%s]", configName, args[0])
				}
				return p.verifyName(cmd.Context(), c, args[0])
			}
			if name { // of one that has no table yet
				var err error
				if path, err = host.Find(c.File(c.PluginFolder), path); err != nil {
					return hint(err, "conclave plugin list has those that there are; a file that is here is ./%s", args[0])
				}
			}
			return p.verifyPath(cmd.Context(), c, path, args[1:], env)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if p.findHome() != nil || len(args) > 0 { // the flags were read after the first time
				return nil, cobra.ShellCompDirectiveDefault
			}
			c, _ := p.configured() // with an error it has none
			return slices.Sorted(maps.Keys(c.Plugins)), cobra.ShellCompDirectiveDefault
		},
	}
	cmd.Flags().StringArrayVar(&env, "env", nil, "NAME=VALUE for its environment, which has nothing else; several times")
	return cmd
}

func (p *program) verifyName(ctx context.Context, c config.Config, name string) error {
	cfg, err := modules.HostConfig(c, name)
	cfg.Name = name
	e := examine(ctx, cfg, err)
	d := p.reportOn(e, !isTerminal(p.out))
	d.verdicts(e, c)
	return d.end(ctx)
}

// reportOn is who tells of a plugin: in comments where the output may go into a configuration,
// and to a person where something is wrong.
func (p *program) reportOn(e examined, comments bool) *doctor {
	switch {
	case p.json:
		return &doctor{program: p}
	case e.err != nil:
		return &doctor{program: &program{out: p.err, err: p.err, homeGiven: p.homeGiven}}
	case comments:
		return &doctor{program: p, prefix: "# "}
	}
	return &doctor{program: p}
}

// verdicts has a line for each step.
func (d *doctor) verdicts(e examined, c config.Config) {
	step := func(name, well string, args ...any) bool {
		if e.step == name {
			for _, line := range e.said {
				d.warn("says", "", "%s", line)
			}
			d.fail(name, e.do(), "%v", e.err)
			return false
		}
		d.ok(name, well, args...)
		return true
	}
	if !step(stepPlace, "%s: only you and root can write there", e.path) {
		return
	}
	if !e.given && c.Plugins[e.name].Unpinned {
		d.warn(stepChecksum, fmt.Sprintf("sha256 = %q in [plugin.%s] of %s, in the place of unpinned, pins it", e.sum, e.name, configName), "it is unpinned: whatever is there is started")
	} else if !step(stepChecksum, "sha256 %s", e.sum) {
		return
	}
	if !step(stepStart, "it speaks version %d of the protocol", e.version) {
		return
	}
	for _, o := range e.offers {
		d.ok("offers", "%s", offered(o))
	}
	d.instances(e, c)
}

// plugins looks at those that the configuration names. One that nothing uses may have older
// keys, which are found when they are wanted.
func (d *doctor) plugins(ctx context.Context, c config.Config) (usable bool) {
	usable = true
	for _, name := range slices.Sorted(maps.Keys(c.Plugins)) {
		cfg, err := modules.HostConfig(c, name)
		cfg.Name = name
		e, used := examine(ctx, cfg, err), uses(c, name)
		switch {
		case e.err == nil && c.Plugins[name].Unpinned:
			d.warn("plugin", fmt.Sprintf("sha256 = %q in [plugin.%s] of %s, in the place of unpinned, pins it", e.sum, name, configName), "%s starts, but it is unpinned: whatever is there is started", name)
		case e.err == nil:
			d.ok("plugin", "%s starts, and offers %s", name, allOffered(e.offers))
		case len(used) == 0:
			d.warn("plugin", e.do(), "%s: %v", name, e.err)
		default:
			usable = false
			for _, line := range e.said {
				d.warn("plugin", "", "%s says: %s", name, line)
			}
			d.fail("plugin", e.do(), "%s, which has %s: %v", name, strings.Join(used, ", "), e.err)
		}
		if e.err == nil && !d.instances(e, c) {
			usable = false
		}
	}
	return usable
}

// instances looks whether the plugin has what the configuration wants of it.
func (d *doctor) instances(e examined, c config.Config) (all bool) {
	all = true
	for _, line := range []struct {
		name, text string
		part       host.Part
	}{
		{"keystore", c.Keystore, host.PartKeystore}, {"key", c.Key, host.PartKeyWrapper}, {"crypto", c.Crypto, host.PartCryptoProvider}, {"issuer", c.Issuer, host.PartIssuer},
	} {
		u, err := c.URI(line.text)
		if err != nil || u.Scheme != config.PluginScheme {
			continue
		}
		name, instance, err := c.PluginOf(u)
		if err != nil || name != e.name {
			continue
		}
		if !slices.ContainsFunc(e.offers, func(o host.Offer) bool { return o.Part == line.part && o.Instance == instance }) {
			all = false
			d.fail("offers", fmt.Sprintf("the lines above have what it offers; mend %s = in %s", line.name, configName), "%s = %q: it has no such %s", line.name, line.text, line.part)
		}
	}
	return all
}

// pluginNamed finds the name in that of a file.
var pluginNamed = regexp.MustCompile(`^(?:conclave-plugin-)?([a-z0-9][a-z0-9-]{0,31})(?:\..*)?$`)

func (p *program) verifyPath(ctx context.Context, c config.Config, path string, args, env []string) error {
	cfg, err := hostConfig(path, args, env)
	if err != nil {
		return err
	}
	cfg.Dir = p.home // where it will run
	if _, err := os.Stat(p.home); err != nil {
		if cfg.Dir, err = os.MkdirTemp("", "conclave-verify-"); err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(cfg.Dir) }()
	}
	e := examine(ctx, cfg, nil)
	e.given = true
	d := p.reportOn(e, true)
	d.verdicts(e, config.Config{})
	if e.err != nil {
		return d.end(ctx)
	}
	table := config.Plugin{Path: cfg.Path, SHA256: e.sum, Args: args}
	if usual, _ := host.Find(c.File(c.PluginFolder), cfg.Name); usual == cfg.Path {
		table.Path = ""
	}
	for _, v := range env {
		if table.Env == nil {
			table.Env = map[string]string{}
		}
		name, value, _ := strings.Cut(v, "=")
		table.Env[name] = value
	}
	var text bytes.Buffer
	encoder := toml.NewEncoder(&text)
	encoder.Indent = ""
	err = encoder.Encode(map[string]map[string]config.Plugin{"plugin": {cfg.Name: table}})
	lines := strings.TrimPrefix(text.String(), "[plugin]\n") + "\n" // what follows says it, too
	if err != nil {
		return err
	}
	if _, ok := c.Plugins[cfg.Name]; ok {
		p.notice("%s has a table [plugin.%s] already: this one belongs in its place", configName, cfg.Name)
	}
	d.err = errors.Join(d.err, p.result(struct {
		Name     string      `json:"name"`
		File     string      `json:"file"`
		SHA256   string      `json:"sha256"`
		Protocol int         `json:"protocol"`
		Offers   []offerJSON `json:"offers"`
		Table    string      `json:"table"`
	}{cfg.Name, e.path, e.sum, e.version, offersJSON(e.offers), lines}, "\n%s", lines))
	return d.end(ctx)
}

// hostConfig is that of a plugin which is no part of a configuration.
func hostConfig(path string, args, env []string) (host.Config, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return host.Config{}, err
	}
	for _, v := range env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			return host.Config{}, fmt.Errorf("--env %q is not NAME=VALUE: %w", v, core.ErrInvalid)
		}
	}
	name := "plugin"
	if m := pluginNamed.FindStringSubmatch(filepath.Base(path)); m != nil {
		name = m[1]
	}
	return host.Config{Name: name, Path: path, Unpinned: true, Args: args, Env: env, Backoff: 10 * time.Millisecond}, nil
}

// inFolder is the configuration with the folder in the place of {folder}, where it also runs.
func inFolder(cfg host.Config, folder string) host.Config {
	replace := func(all []string) (out []string) {
		for _, s := range all {
			out = append(out, strings.ReplaceAll(s, "{folder}", folder))
		}
		return out
	}
	cfg.Args, cfg.Env, cfg.Dir = replace(cfg.Args), replace(cfg.Env), folder
	return cfg
}
