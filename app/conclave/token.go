// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
)

// tokenHints say what a person can do about a token; the first that matches is meant.
var tokenHints = []struct {
	err  error
	hint string
}{
	{hsm.ErrNotBuilt, "this program was built without it: with a C compiler installed, make build makes one that has it (CGO_ENABLED=1 go build ./app/conclave, without the tag nohsm)"},
	{hsm.ErrModuleLoad, "is the module installed, and module-path in the URI its file? It comes with the token, for this system and processor; conclave hsm list --module PATH tries it"},
	{hsm.ErrModuleOwned, "name the module everywhere with the same x-init-args, and let no other part of the program load it"},
	{hsm.ErrTokenNotFound, "is the token there, and are token and serial in the URI right? conclave hsm list --module PATH shows those that there are"},
	{hsm.ErrPINLocked, "the token takes no PIN, or one more only: have its security officer set a new PIN, put that where pin-source says, then: conclave hsm unlatch"},
	{hsm.ErrPINRejected, "put the right PIN where pin-source says: another one is tried, once. If it is the same one and right now: conclave hsm unlatch"},
	{hsm.ErrPINRequired, "say in the URI where the PIN is: pin-source=file:/PATH, with a file that only you can read, or env:NAME, or fd:NUMBER"},
	{hsm.ErrPoisoned, "calls into the module do not return: end this program and start it again; if that does not help, look at the token and what connects it"},
	{hsm.ErrSessionsExhausted, "all sessions of the token are in use: end other programs that use it, or say in the URI how many it has for us: x-max-sessions=N"},
	{hsm.ErrKeyMismatch, "the token is not the one it was, or somebody made a key in the place of another; nothing was signed. Bring back the right token"},
	{hsm.ErrKeyAmbiguous, "name the one that is meant by its id in the URI, or remove the others"},
	{modules.ErrNoKEK, "for a new identity make it first: conclave hsm generate URI --kek LABEL. If there is a database, only the key that it was sealed with opens it: bring the token's backup back"},
	{hsm.ErrOtherKEK, "another key of a token sealed the database, and the message says which: name that one by key in conclave.toml or --kek, or bring back the token or its backup that has it; nothing was changed"},
	{hsm.ErrWrapDamaged, "the key of the database, as the token has sealed it, is damaged: move the database away and restore a backup: conclave keystore restore FILE"},
	{hsm.ErrKeyNotFound, "the key was deleted, or the token put back to an older state: bring the token's newest backup back. If the key is lost: conclave keys rotate, and then for each conversation that it could not do: conclave chat rejoin NAME"},
	{hsm.ErrUnsupported, "conclave hsm probe URI shows what the token can do; with another --suite an identity needs other keys"},
	{hsm.ErrTokenUnavailable, "is the token plugged in, or its daemon or server running and in reach? Nothing is lost; when it is back, run the command again"},
}

// tokenHint finds the hint of an error of a token; "" if it is none, or none fits.
func tokenHint(err error) string {
	for _, h := range tokenHints {
		if errors.Is(err, h.err) {
			return h.hint
		}
	}
	if e := (*hsm.Error)(nil); errors.As(err, &e) && e.Kind == hsm.ErrInvalidInput && strings.Contains(e.Op, "URI") {
		return "the README, Keys in an HSM, shows how a URI looks; in a shell it stands in quotes"
	}
	return ""
}

// tokenTime is how long an examination of a token may take.
const tokenTime = 30 * time.Second

// A tokenUse is one of the parts of a configuration that can be in a token.
type tokenUse struct {
	part string // as in conclave.toml
	text string // its URI
	uri  hsm.URI
	err  error // the text is none
}

// tokensOf are the parts that are in a token.
func tokensOf(c config.Config) (all []tokenUse) {
	for _, use := range []tokenUse{{part: "crypto", text: c.Crypto}, {part: "key", text: c.Key}} {
		if u, err := c.URI(use.text); err == nil && u.Scheme == hsm.Scheme {
			use.uri, use.err = hsm.ParseURI(use.text)
			all = append(all, use)
		}
	}
	return all
}

// readies opens the token of a part and finds the KEK, if it is that.
func (use tokenUse) readies(ctx context.Context, c config.Config) (err error) {
	if use.err != nil {
		return use.err
	}
	if use.part == "crypto" {
		if err := modules.NoKey(use.text); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTime)
	defer cancel()
	t, err := hsm.Open(ctx, hsm.Config{URI: use.text, Latch: modules.LatchFolder(c)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if use.part == "key" {
		_, err = t.Wrapper(ctx, use.text)
	}
	if errors.Is(err, hsm.ErrKeyNotFound) {
		err = fmt.Errorf("%w: %w", modules.ErrNoKEK, err)
	}
	return err
}

// tokensReady looks whether a new identity can have its keys where they shall be, before
// anything is made.
func (p *program) tokensReady(ctx context.Context, c config.Config) error {
	for _, use := range tokensOf(c) {
		if err := use.readies(ctx, c); err != nil {
			return err
		}
		if !use.uri.PINValue.IsZero() {
			p.notice("the PIN of the token stands in %s: whoever reads that file has it, and pin-value was on the command line; better is pin-source=file:/PATH", configName)
		}
	}
	return nil
}

// tokens looks at the tokens that the configuration names.
func (d *doctor) tokens(ctx context.Context, c config.Config) (usable bool) {
	usable = true
	for _, use := range tokensOf(c) {
		d.pinFile(use)
		err := use.readies(ctx, c)
		switch {
		case err == nil && use.part == "key":
			d.ok("token", "key: %s opens, and has the key", use.uri)
		case err == nil:
			d.ok("token", "crypto: %s opens", use.uri)
		default:
			usable = false
			d.fail("token", hintOr(err, "mend its URI in conclave.toml"), "%s: %v", use.part, err)
		}
	}
	if len(tokensOf(c)) == 0 {
		return true
	}
	latched, err := hsm.Latched(modules.LatchFolder(c))
	if err != nil {
		d.warn("latch", "make sure that the PIN is right and remove the file", "%v", err)
	}
	for _, l := range latched {
		d.warn("latch", "it is not tried again; if it is the right one now: conclave hsm unlatch "+word(string(l.Token.Reference())), "%s: %s", l.Token.Token, l)
	}
	return usable
}

// pinFile looks at who can read the PIN.
func (d *doctor) pinFile(use tokenUse) {
	if !use.uri.PINValue.IsZero() {
		d.warn("PIN", "put it into a file that only you can read, and write pin-source=file:/PATH", "%s: the PIN stands in %s", use.part, configName)
	}
	path := strings.TrimPrefix(strings.TrimPrefix(use.uri.PINSource, "file:"), "//")
	if !strings.HasPrefix(path, "/") {
		return
	}
	if info, err := os.Stat(path); err == nil {
		if mode, open := openTo(info, 0o077); open && info.Mode().IsRegular() {
			d.warn("PIN", "chmod 600 "+word(path)+"; if somebody may have read it, have the token's PIN changed", "%s can be read by others (mode %#o)", path, mode)
		}
	}
}

// isToken says that an error is of a token, whatever it is besides.
func isToken(err error) bool {
	return errors.As(err, new(*hsm.Error)) && !errors.Is(err, core.ErrClosed)
}

// softwareKeys are those keys in software that were opened beside a token, by their public
// halves.
type softwareKeys map[string]bool

// beside has a router to a token tell of them.
func (s softwareKeys) beside(keys core.CryptoProvider) core.CryptoProvider {
	if r, ok := keys.(*core.KeyRouter); ok {
		for scheme, p := range r.Providers {
			if scheme != hsm.Scheme {
				r.Providers[scheme] = watched{p, s}
			}
		}
	}
	return keys
}

type watched struct {
	core.CryptoProvider
	opened softwareKeys
}

func (w watched) OpenKey(ctx context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
	key, err := w.CryptoProvider.OpenKey(ctx, ref, material)
	if err == nil {
		w.opened[string(key.Public())] = true
	}
	return key, err
}

// signatureKeys looks for keys in software where a token is to have them.
func (d *doctor) signatureKeys(h messenger.Health, software softwareKeys) {
	if software[string(h.Key)] {
		d.warn("signature key", "conclave keys rotate makes one in the token", "it is in software; crypto in %s says a token", configName)
		return
	}
	for _, w := range h.Chats {
		if software[string(w.Key)] {
			d.warn("signature key", "conclave keys rotate", "%s: it is in software there; crypto in %s says a token", w.ID, configName)
		}
	}
}
