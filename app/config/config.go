// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"

	"github.com/BurntSushi/toml"

	"github.com/conclave-mls/conclave/core"
)

// A Config says which parts to use. The zero value of a field is the default,
// see [Default].
type Config struct {
	Keystore string `toml:"keystore,omitempty"` // where state lives
	Tenant   string `toml:"tenant,omitempty"`   // whose records of the keystore, where several clients share one
	Key      string `toml:"key,omitempty"`      // what wraps the keystore's data keys
	Crypto   string `toml:"crypto,omitempty"`   // where private signature keys live
	Audit    string `toml:"audit,omitempty"`    // where each use of a key has its line
	Issuer   string `toml:"issuer,omitempty"`   // who vouches for the client
	Delivery string `toml:"delivery,omitempty"` // the delivery service: its address
	// ListNetworks are those of which revocation lists may be fetched beside public ones, such
	// as "10.0.0.0/8 192.168.0.0/16".
	ListNetworks string       `toml:"crl_networks,omitempty"`
	Suite        core.SuiteID `toml:"suite,omitzero"` // of new conversations and credentials

	// Of a delivery service only, which has a keystore besides.
	Listen      string `toml:"listen,omitempty"`      // "unix:PATH" or "HOST:PORT"
	Certificate string `toml:"certificate,omitempty"` // file of PEM, needed beyond this machine
	PrivateKey  string `toml:"private_key,omitempty"` // file of PEM

	PluginFolder string            `toml:"plugin_folder,omitempty"` // has the executables of plugins
	Plugins      map[string]Plugin `toml:"plugin,omitempty"`        // by name

	// Folder is where relative paths begin: that of the file.
	Folder string `toml:"-"`
}

// Default is an encrypted SQLite file beside its key in the folder, software
// keys, a basic credential and a delivery service on this machine.
func Default(folder string) Config {
	return Config{
		Keystore: "sqlite:store.db",
		Tenant:   "conclave",
		Key:      "file:store.key",
		Crypto:   "pure:",
		Audit:    "log:",
		Issuer:   "basic:",
		Delivery: "http://127.0.0.1:9420",
		Suite:    core.SuiteX25519AES128Ed25519,
		Listen:   "127.0.0.1:9420",
		Folder:   folder,

		PluginFolder: "plugins",
	}
}

// Over returns c with the fields that are set in o.
func (c Config) Over(o Config) Config {
	for i, given := range o.texts() {
		if *given != "" {
			*c.texts()[i] = *given
		}
	}
	if o.Suite != 0 {
		c.Suite = o.Suite
	}
	if o.Plugins != nil {
		c.Plugins = o.Plugins
	}
	return c
}

// texts are the fields that are text.
func (c *Config) texts() []*string {
	return []*string{
		&c.Keystore, &c.Tenant, &c.Key, &c.Crypto, &c.Audit, &c.Issuer, &c.Delivery, &c.ListNetworks,
		&c.Listen, &c.Certificate, &c.PrivateKey, &c.PluginFolder, &c.Folder,
	}
}

// Load reads a file over the defaults of its folder. core.ErrNotFound: there is
// no such file. core.ErrInvalid: it is not TOML, has a key that is none of ours, a
// URI that is none, or one of a plugin without a table.
func Load(file string) (Config, error) {
	read, err := Read(file)
	if err != nil {
		return Config{}, err
	}
	return Default(read.Folder).Over(read), nil
}

// Read is Load without the defaults: what the file leaves out is zero.
func Read(file string) (Config, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("configuration %s: %w", file, core.ErrNotFound)
	}
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	var read Config
	meta, err := toml.Decode(string(text), &read)
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w: %w", file, core.ErrInvalid, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return Config{}, fmt.Errorf("configuration %s: unknown key %q: %w", file, unknown[0].String(), core.ErrInvalid)
	}
	read.Folder = filepath.Dir(file)
	c := Default(read.Folder).Over(read)
	for _, uri := range []string{c.Keystore, c.Key, c.Crypto, c.Audit, c.Issuer, c.Delivery} {
		if _, err := c.URI(uri); err != nil {
			return Config{}, fmt.Errorf("configuration %s: %w", file, err)
		}
	}
	if err := c.checkPlugins(); err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", file, err)
	}
	return read, nil
}

// Move makes the configuration in a file name another keystore, and leaves the rest of
// the file, with its comments, as it is where that can be done.
func Move(file, keystore string) error {
	return change(file, "keystore", keystore, func(c *Config) { c.Keystore = keystore })
}

// Rekey does the same with the key of the keystore.
func Rekey(file, key string) error {
	return change(file, "key", key, func(c *Config) { c.Key = key })
}

// Reissue does the same with the issuer.
func Reissue(file, issuer string) error {
	return change(file, "issuer", issuer, func(c *Config) { c.Issuer = issuer })
}

func change(file, name, value string, set func(*Config)) error {
	c, err := Load(file)
	if err != nil {
		return err
	}
	set(&c)
	if err := c.checkPlugins(); err != nil {
		return fmt.Errorf("configuration %s: %w", file, err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	top := len(text) // the first table ends what may be meant
	if table := regexp.MustCompile(`(?m)^[ \t]*\[`).FindIndex(text); table != nil {
		top = table[0]
	}
	old := regexp.MustCompile(`(?m)^[ \t]*` + name + `[ \t]*=[^\n]*$`)
	changed := append(old.ReplaceAllLiteral(text[:top], []byte(name+" = "+strconv.Quote(value))), text[top:]...)
	return rewrite(file, changed, c)
}

// Fill adds to a file what it leaves out and given says, but for plugins, and leaves the rest
// of the file as it is where that can be done.
func Fill(file string, given Config) error {
	read, err := Read(file)
	if err != nil {
		return err
	}
	for i, has := range read.texts() {
		if *has != "" {
			*given.texts()[i] = ""
		}
	}
	if read.Suite != 0 {
		given.Suite = 0
	}
	given.Plugins = nil
	var text bytes.Buffer
	if err := toml.NewEncoder(&text).Encode(given); err != nil {
		return fmt.Errorf("configuration %s: %w", file, err)
	}
	if text.Len() == 0 {
		return nil
	}
	c := Default(read.Folder).Over(given).Over(read)
	if err := c.checkPlugins(); err != nil {
		return fmt.Errorf("configuration %s: %w", file, err)
	}
	was, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return rewrite(file, append(text.Bytes(), was...), c)
}

// rewrite replaces a file by a text, if that says what it has to.
func rewrite(file string, text []byte, c Config) error {
	var is Config
	if _, err := toml.Decode(string(text), &is); err != nil || !reflect.DeepEqual(Default(filepath.Dir(file)).Over(is), c) {
		return c.Replace(file)
	}
	return replace(file, func(fresh string) error { return write(fresh, text) })
}

// Replace writes the configuration over a file, as Save would have written it.
func (c Config) Replace(file string) error {
	return replace(file, c.Save)
}

func replace(file string, write func(fresh string) error) error {
	fresh := file + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) { // of an earlier attempt
		return fmt.Errorf("configuration: %w", err)
	}
	if err := write(fresh); err != nil {
		return err
	}
	if err := os.Rename(fresh, file); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return nil
}

// Save writes the configuration to a new file, readable by its owner only.
// core.ErrConflict: there is one already.
func (c Config) Save(file string) error {
	var text bytes.Buffer
	if err := toml.NewEncoder(&text).Encode(c); err != nil {
		return fmt.Errorf("configuration %s: %w", file, err)
	}
	return write(file, text.Bytes())
}

func write(file string, text []byte) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("configuration %s exists already: %w", file, core.ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("configuration %s: %w", file, err)
	}
	return nil
}
