// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/host"
)

func (p *program) plugin() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plugin",
		Short: "Look at plugins: programs that have parts of this one, and test them",
		Long: `Look at plugins, and test them. A plugin is a program of somebody else's that has the
database, the private keys, the key that seals the database, or the issuer of certificates.

It is in the plugin folder, as conclave-plugin-NAME, and has a table in conclave.toml:

  [plugin.NAME]
  sha256 = "..."                      # of the program: no other one is started
  env    = { FILE = "alice.store" }   # all that it sees of the environment

and is then the part that says so: keystore = "plugin:NAME", and in the same way crypto, key
and issuer; "plugin:NAME/INSTANCE" if it has several. Nobody but you and root may be able to
write to the program and to the folders above it.`,
		Example: `  conclave plugin list
  conclave plugin verify ./conclave-plugin-store --env FILE=alice.store >> ~/.conclave/conclave.toml
  conclave plugin test ./conclave-plugin-store --env FILE={folder}/store`,
		Args: noCommand,
		RunE: p.group,
	}
	cmd.AddCommand(p.pluginList(), p.pluginVerify(), p.pluginTest())
	for _, c := range cmd.Commands() {
		c.Annotations = only("home", "json", "verbose")
	}
	return cmd
}

// configured is the configuration of the home folder, or the default if there is none.
func (p *program) configured() (config.Config, error) {
	c, err := config.Load(filepath.Join(p.home, configName))
	if errors.Is(err, core.ErrNotFound) {
		return config.Default(p.home), nil
	}
	if err != nil {
		return c, mend(err)
	}
	return c, nil
}

// uses are the lines of a configuration that name a plugin.
func uses(c config.Config, name string) (all []string) {
	for _, line := range []struct{ part, text string }{{"keystore", c.Keystore}, {"key", c.Key}, {"crypto", c.Crypto}, {"issuer", c.Issuer}} {
		if u, err := c.URI(line.text); err == nil && u.Scheme == config.PluginScheme {
			if of, _, err := c.PluginOf(u); err == nil && of == name {
				all = append(all, fmt.Sprintf("%s = %q", line.part, line.text))
			}
		}
	}
	return all
}

func (p *program) pluginList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the plugins that there are, and what each offers",
		Long: `List the plugins that conclave.toml names and those in the plugin folder: where each is,
whether it is pinned, what it is used for, and what it offers. One that has a table in
conclave.toml is started to ask for that, if it may be; others are not.`,
		Example: "  conclave plugin list\n  conclave plugin list --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, problem := p.configured()
			if problem != nil { // it is told at the end
				c = config.Default(p.home)
			}
			folder := c.File(c.PluginFolder)
			there, err := host.List(folder)
			if err != nil && !errors.Is(err, core.ErrNotFound) {
				return err
			}
			found := map[string]host.Found{}
			for _, f := range there {
				found[f.Name] = f
			}
			names := slices.AppendSeq(slices.Collect(maps.Keys(c.Plugins)), maps.Keys(found))
			slices.Sort(names)
			for _, name := range slices.Compact(names) {
				if err := p.listed(cmd.Context(), c, name, found[name]); err != nil {
					return err
				}
			}
			if problem != nil {
				return problem
			}
			if len(names) == 0 {
				p.notice("there is none: no table [plugin.NAME] in %s, and no %s", configName, filepath.Join(folder, "conclave-plugin-NAME"))
			}
			return cmd.Context().Err()
		},
	}
}

// listed tells of one plugin.
func (p *program) listed(ctx context.Context, c config.Config, name string, found host.Found) error {
	e := examined{name: name, path: found.Path, err: found.Err}
	table, configured := c.Plugins[name]
	pin, how, may := "none", "none, and no table in "+configName+": it is not started", "no"
	if configured {
		cfg, err := modules.HostConfig(c, name)
		if cfg.Path != "" {
			found.Path = cfg.Path
		}
		cfg.Name = name
		if e = examine(ctx, cfg, err); e.path == "" {
			e.path = filepath.Join(c.File(c.PluginFolder), "conclave-plugin-"+name)
		}
		switch {
		case table.Unpinned:
			pin, how = "unpinned", "none: unpinned"
		case e.step == stepPlace:
			pin, how = "unknown", "sha256, not compared"
		case e.step == stepChecksum:
			pin, how = "differs", "another program than the pinned one"
		default:
			pin, how = "matches", "sha256, as it should be"
		}
		if e.err == nil {
			may = "yes"
		}
	}
	wrong, kind := "", ""
	if e.err != nil {
		wrong, kind = e.err.Error(), kindOf(e.err)
	}
	used := uses(c, name)
	text := fmt.Sprintf("%s\n  file     %s\n  starts   %s\n  pin      %s\n", plain(name), plain(e.path), may, how)
	for _, line := range []struct{ what, text string }{
		{"used     ", strings.Join(used, ", ")}, {"offers   ", allOffered(e.offers)}, {"wrong    ", wrong}, {"said     ", strings.Join(e.said, "\n           ")},
	} {
		if line.text != "" && (line.what != "said     " || wrong != "") {
			text += "  " + line.what + printable(line.text) + "\n"
		}
	}
	return p.result(struct {
		Name       string      `json:"name"`
		File       string      `json:"file"`
		Configured bool        `json:"configured"`
		Starts     bool        `json:"starts"`
		Pin        string      `json:"pin"`
		SHA256     string      `json:"sha256,omitempty"`
		Used       []string    `json:"used,omitempty"`
		Protocol   int         `json:"protocol,omitempty"`
		Offers     []offerJSON `json:"offers,omitempty"`
		Error      string      `json:"error,omitempty"`
		Kind       string      `json:"kind,omitempty"`
		Said       []string    `json:"said,omitempty"`
	}{name, e.path, configured, may == "yes", pin, e.sum, used, e.version, offersJSON(e.offers), wrong, kind, e.said}, "%s", text)
}

// printable is plain for text of several lines.
func printable(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = plain(lines[i])
	}
	return strings.Join(lines, "\n")
}
