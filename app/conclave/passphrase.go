// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
)

// passphrase reads it from the file of --passphrase-file, or asks for it on the
// terminal without showing it, twice where a new one is set. The last line break is not part of it.
func (p *program) passphrase(context.Context) (core.Secret, error) {
	if p.passphraseFile != "" {
		if err := p.private(); err != nil {
			return core.Secret{}, err
		}
		text, err := os.ReadFile(p.passphraseFile)
		if err != nil {
			return core.Secret{}, fmt.Errorf("passphrase: %w", err)
		}
		return notEmpty(bytes.TrimRight(text, "\r\n"))
	}
	terminal, ok := p.terminal()
	if !ok {
		return core.Secret{}, fmt.Errorf("a passphrase is needed and there is no terminal to ask on; use --passphrase-file: %w", core.ErrDenied)
	}
	text, err := p.ask("Passphrase: ", terminal)
	if err != nil || !p.confirm {
		return text, err
	}
	again, err := p.ask("The same again: ", terminal)
	if err != nil {
		return core.Secret{}, err
	}
	defer again.Wipe()
	if !bytes.Equal(text.Bytes(), again.Bytes()) {
		text.Wipe()
		return core.Secret{}, fmt.Errorf("the two passphrases differ: %w", core.ErrInvalid)
	}
	return text, nil
}

// terminal is where a person types.
func (p *program) terminal() (*os.File, bool) {
	f, ok := p.in.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// private refuses a passphrase file that others can read, as a key file is refused; what
// is no file, such as a pipe, has no reader but us.
func (p *program) private() error {
	info, err := os.Stat(p.passphraseFile)
	if err != nil {
		return fmt.Errorf("passphrase: %w", err)
	}
	if mode, open := openTo(info, 0o077); open && info.Mode().IsRegular() {
		return fmt.Errorf("%s can be read by others (mode %#o); chmod 600 it: %w", p.passphraseFile, mode, core.ErrDenied)
	}
	return nil
}

// otherKEK is what to do about a database that another key of a token has sealed.
const otherKEK = "another key sealed the database; the message has its check value, and conclave hsm test URI --time 0 shows that of a key. " +
	"With an older backup, or where a change of the key did not end, give that key with --key URI; nothing was changed"

// wrongKey says what to do about it, which depends on the key; a wrong passphrase is called so.
func wrongKey(c config.Config, err error) error {
	if !errors.Is(err, core.ErrWrongKey) || errors.As(err, new(hinted)) {
		return err
	}
	switch scheme, _, _ := strings.Cut(c.Key, ":"); {
	case scheme == "passphrase":
		return hint(fmt.Errorf("wrong passphrase: %w", err), "the database is sealed with another passphrase, or with a key file instead; nothing was changed")
	case scheme == hsm.Scheme && tokenHint(err) == "":
		return hint(err, otherKEK)
	}
	return err
}

func (p *program) ask(prompt string, terminal *os.File) (core.Secret, error) {
	_, _ = fmt.Fprint(p.err, prompt)
	text, err := term.ReadPassword(int(terminal.Fd()))
	_, _ = fmt.Fprintln(p.err)
	if err != nil {
		return core.Secret{}, fmt.Errorf("passphrase: %w", err)
	}
	return notEmpty(text)
}

func notEmpty(text []byte) (core.Secret, error) {
	if len(text) == 0 {
		return core.Secret{}, fmt.Errorf("the passphrase is empty: %w", core.ErrInvalid)
	}
	return core.NewSecret(text), nil
}
