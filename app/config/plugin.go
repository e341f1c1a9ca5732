// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/conclave-mls/conclave/core"
)

// A Plugin is a program of somebody else's that has parts of this one. Exactly one of
// SHA256 and Unpinned is set.
type Plugin struct {
	Path     string            `toml:"path,omitempty"`     // of the executable; else it is conclave-plugin-NAME in the plugin folder
	SHA256   string            `toml:"sha256,omitempty"`   // of the executable, 64 hexadecimal digits
	Unpinned bool              `toml:"unpinned,omitempty"` // do without it, for the development of a plugin
	Args     []string          `toml:"args,omitempty"`
	Env      map[string]string `toml:"env,omitempty"` // its whole environment
}

// PluginScheme is that of "plugin:NAME" and "plugin:NAME/INSTANCE".
const PluginScheme = "plugin"

// pluginName is that of a plugin or of one of its instances, as package plugins/host has it.
const pluginName = `[a-z0-9][a-z0-9-]{0,31}`

var (
	isPlugin    = regexp.MustCompile(`^` + pluginName + `$`)
	isPluginURI = regexp.MustCompile(`^(?i:plugin):(` + pluginName + `)(?:/(` + pluginName + `))?$`)
)

// ErrNoTable: a URI names a plugin that the configuration does not have.
var ErrNoTable = fmt.Errorf("the configuration has no such table: %w", core.ErrInvalid)

// PluginOf is the plugin that a URI names, and which instance of it. core.ErrInvalid: the
// URI names none. ErrNoTable: the configuration has no table for it.
func (c Config) PluginOf(u URI) (name, instance string, err error) {
	m := isPluginURI.FindStringSubmatch(u.text)
	if m == nil {
		return "", "", fmt.Errorf(`%q: write "plugin:NAME" or "plugin:NAME/INSTANCE", of 1 to 32 of a-z, 0-9 and -: %w`, u, core.ErrInvalid)
	}
	if _, ok := c.Plugins[m[1]]; !ok {
		there := "" // one of those may be meant
		if len(c.Plugins) > 0 {
			there = fmt.Sprintf(" (there is %s)", strings.Join(slices.Sorted(maps.Keys(c.Plugins)), ", "))
		}
		return "", "", fmt.Errorf("%q: [plugin.%s]%s: %w", u, m[1], there, ErrNoTable)
	}
	return m[1], m[2], nil
}

// Sum is the checksum that pins the plugin, nil if it is unpinned.
func (p Plugin) Sum() []byte {
	sum, _ := hex.DecodeString(p.SHA256) // Load has looked
	return sum
}

// Environment is the plugin's, as "NAME=value".
func (p Plugin) Environment() []string {
	env := make([]string, 0, len(p.Env))
	for _, name := range slices.Sorted(maps.Keys(p.Env)) {
		env = append(env, name+"="+p.Env[name])
	}
	return env
}

// checkPlugins looks at the tables of plugins, and whether each that a URI names has one.
func (c Config) checkPlugins() error {
	for _, name := range slices.Sorted(maps.Keys(c.Plugins)) {
		if err := c.Plugins[name].check(name); err != nil {
			return fmt.Errorf("[plugin.%s]: %w: %w", name, err, core.ErrInvalid)
		}
	}
	for _, text := range []string{c.Keystore, c.Key, c.Crypto, c.Issuer} {
		if u, err := c.URI(text); err != nil || u.Scheme != PluginScheme {
			continue
		} else if _, _, err := c.PluginOf(u); err != nil {
			return err
		}
	}
	return nil
}

func (p Plugin) check(name string) error {
	if !isPlugin.MatchString(name) {
		return fmt.Errorf("a name has 1 to 32 of a-z, 0-9 and -")
	}
	if sum, err := hex.DecodeString(p.SHA256); p.SHA256 != "" && (err != nil || len(sum) != 32) {
		return fmt.Errorf("sha256 is not 64 hexadecimal digits")
	}
	if p.Unpinned == (p.SHA256 != "") {
		return fmt.Errorf(`either sha256 = "..." or unpinned = true, which is for the development of a plugin`)
	}
	for name, value := range p.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return fmt.Errorf("env: %q is no variable", name)
		}
	}
	for _, arg := range append(p.Args, p.Path) {
		if strings.Contains(arg, "\x00") {
			return fmt.Errorf("%q has a zero byte", arg)
		}
	}
	return nil
}
