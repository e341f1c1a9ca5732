// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
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
	{hsm.ErrTokenNotFound, "is the token there, and are token and serial in the URI right? conclave hsm list --module PATH shows those that there are. SoftHSM finds its tokens by SOFTHSM2_CONF: is it set here?"},
	{hsm.ErrTokenAmbiguous, "say in the URI which one is meant: serial=..."},
	{hsm.ErrLatch, "the message names the file or folder: give yourself access to it. A file that is damaged: make sure that the PIN is right, and remove it"},
	{hsm.ErrPINLocked, "the token takes no PIN, or one more only: have its security officer set a new PIN, put that where pin-source says, then: conclave hsm unlatch"},
	{hsm.ErrPINRejected, "put the right PIN where pin-source says: another one is tried, once. If it is the same one and right now: conclave hsm unlatch"},
	{hsm.ErrPINRequired, "the PIN is read from where the URI says: pin-source=file:/PATH, a file that only you can read (chmod 600), env:NAME, or fd:NUMBER. Put it there"},
	{hsm.ErrPoisoned, "calls into the module do not return: end this program and start it again; if that does not help, look at the token and what connects it"},
	{hsm.ErrSessionsExhausted, "all sessions of the token are in use: end other programs that use it, or say in the URI how many it has for us: x-max-sessions=N"},
	{hsm.ErrKeyMismatch, "the token is not the one it was, or somebody made a key in the place of another; nothing was signed. Bring back the right token"},
	{hsm.ErrKeyAmbiguous, "name the one that is meant by its id in the URI, or remove the others"},
	{modules.ErrNoKEK, "is object, or id, in key = of conclave.toml right? The message has those that there are. Only the key that sealed the database opens it: if that is gone, bring the token's backup back"},
	{hsm.ErrOtherKEK, otherKEK},
	{hsm.ErrWrapDamaged, "the key of the database, as the token has sealed it, is damaged: move the database away and restore a backup: conclave keystore restore FILE"},
	{hsm.ErrKeyNotFound, "the key was deleted, or the token put back to an older state: bring the token's newest backup back. If the key is lost: conclave keys rotate, which says what to do then"},
	{errLeaves, "make one that stays: conclave hsm generate TOKEN --kek LABEL, and name that. If you want this one all the same: --extractable"},
	{hsm.ErrUnsupported, "conclave hsm probe URI shows what the token can do; with another --suite an identity needs other keys"},
	{hsm.ErrTokenUnavailable, "is the token plugged in, or its daemon or server running and in reach? Nothing is lost; when it is back, run the command again"},
}

// noKEKYet is for where a key is named for the first time.
const noKEKYet = "is its label right? The message has those that there are. If there is none yet: conclave hsm generate URI --kek LABEL"

// tokenHint finds the hint of an error of a token; "" if it is none, or none fits.
func tokenHint(err error) string {
	for _, h := range tokenHints {
		if errors.Is(err, h.err) {
			return h.hint
		}
	}
	e := (*hsm.Error)(nil)
	switch {
	case !errors.As(err, &e):
	case e.Kind == hsm.ErrInvalidInput && strings.Contains(e.Op, "URI"):
		return "a URI looks so: 'pkcs11:token=NAME;object=KEY?module-name=softhsm2&pin-source=file:/PATH', in quotes for the shell; without object where a token is meant. See the README, Keys in an HSM"
	case e.Kind == core.ErrDenied && e.Op == "open key":
		return "this signature key is in another token, which the message names: crypto = in conclave.toml, or --crypto, has to be that one"
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

const leaves = "the key can leave the token: who has the PIN can copy it"

// errLeaves: a KEK is not worth what it seems to be.
var errLeaves = fmt.Errorf("%s: %w", leaves, core.ErrDenied)

// stays is errLeaves if the token gives out the KEK of a URI, or says that it may be wrapped.
func stays(ctx context.Context, t *hsm.Token, uri string) error {
	u, err := hsm.ParseURI(uri)
	if err != nil {
		return err
	}
	r, err := t.ReadBack(ctx, hsm.URI{ID: u.ID, Object: u.Object, Type: "secret-key"}.String())
	if errors.Is(err, hsm.ErrUnsupported) || err == nil && r.Extractable == "yes" {
		return errLeaves
	}
	return err
}

// readies opens the token of a part and finds the KEK, if it is that, of which it gives the
// check value. errLeaves: it is there.
func (use tokenUse) readies(ctx context.Context, c config.Config) (check string, err error) {
	if use.err != nil {
		return "", use.err
	}
	if use.part == "crypto" {
		if err := modules.NoKey(use.text); err != nil {
			return "", err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTime)
	defer cancel()
	t, err := hsm.Open(ctx, hsm.Config{URI: use.text, Latch: modules.LatchFolder(c)})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if use.part != "key" {
		return "", nil
	}
	w, err := t.Wrapper(ctx, use.text)
	if errors.Is(err, hsm.ErrKeyNotFound) {
		err = fmt.Errorf("%w: %w", modules.ErrNoKEK, err)
	}
	if err != nil {
		return "", err
	}
	return w.ID(), stays(ctx, t, use.text)
}

// tokensReady looks whether a new identity, or a database, can have its keys where they shall
// be, before anything is made.
func (p *program) tokensReady(ctx context.Context, c config.Config, extractable bool) error {
	for _, use := range tokensOf(c) {
		_, err := use.readies(ctx, c)
		switch {
		case errors.Is(err, errLeaves) && extractable:
		case errors.Is(err, modules.ErrNoKEK):
			return hint(err, noKEKYet)
		case err != nil:
			return err
		}
		p.misspelt(use.uri)
		if !use.uri.PINValue.IsZero() {
			p.notice("the PIN of the token stands in %s: whoever reads that file has it, and pin-value was on the command line; better is pin-source=file:/PATH", configName)
		}
	}
	return nil
}

const misspelt = "%s in the URI means nothing here: is it misspelt? go doc ./hsm URI has those that there are"

func (p *program) misspelt(u hsm.URI) {
	for _, name := range u.Unknown() {
		p.notice(misspelt, name)
	}
}

// tokens looks at the tokens that the configuration names.
func (d *doctor) tokens(ctx context.Context, c config.Config) (usable bool) {
	usable = true
	var open []hsm.URI
	told := ""
	for _, use := range tokensOf(c) {
		d.pinFile(use)
		for _, name := range use.uri.Unknown() {
			d.warn("URI", "", use.part+": "+misspelt, name)
		}
		check, err := use.readies(ctx, c)
		if errors.Is(err, errLeaves) {
			d.warn("KEK", "make one that stays: conclave hsm generate TOKEN --kek LABEL; then: conclave keystore change-key --to URI, and conclave keystore rotate-key", leaves)
			err = nil
		}
		switch {
		case err == nil && use.part == "key":
			open = append(open, use.uri)
			d.ok("token", "key: %s opens, and has the key, check value %s", use.uri, check)
		case err == nil:
			open = append(open, use.uri)
			d.ok("token", "crypto: %s opens", use.uri)
		case err.Error() == told:
			d.fail("token", "", "%s: the same", use.part)
		default:
			usable, told = false, err.Error()
			d.fail("token", hintOr(err, "mend its URI in conclave.toml"), "%s: %v", use.part, err)
		}
	}
	if len(tokensOf(c)) == 0 {
		return true
	}
	latched, err := hsm.Latched(modules.LatchFolder(c))
	if err != nil {
		d.warn("latch", hintOf(err), "%v", err)
	}
	for _, l := range latched {
		if slices.ContainsFunc(open, l.Of) { // with that PIN it would not be
			d.ok("latch", "%s: %s. It is another PIN than the one in use", l.Token.Token, l)
			continue
		}
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

// softwareKeys are those keys in software that were opened beside a token or a plugin, by
// their public halves.
type softwareKeys map[string]bool

// beside has one who chooses between a token, or a plugin, and others tell of them.
func (s softwareKeys) beside(c config.Config, keys core.CryptoProvider) core.CryptoProvider {
	u, err := c.URI(c.Crypto)
	if _, several := keys.(core.KeyChooser); several && err == nil && u.Scheme != "pure" {
		return watched{keys, s}
	}
	return keys
}

type watched struct {
	core.CryptoProvider
	opened softwareKeys
}

func (w watched) OpenKey(ctx context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
	key, err := w.CryptoProvider.OpenKey(ctx, ref, material)
	if err == nil && ref.Scheme() == "pure" {
		w.opened[string(key.Public())] = true
	}
	return key, err
}

// Provider implements core.KeyChooser.
func (w watched) Provider(ref core.KeyRef) core.CryptoProvider {
	return core.ProviderOf(w.CryptoProvider, ref)
}

// signatureKeys looks for keys in software where a token or a plugin is to have them.
func (d *doctor) signatureKeys(h messenger.Health, software softwareKeys) {
	if software[string(h.Key)] {
		d.warn("signature key", "conclave keys rotate makes one there", "it is in software; crypto in %s says a token or a plugin", configName)
		return
	}
	for _, w := range h.Chats {
		if software[string(w.Key)] {
			d.warn("signature key", "conclave keys rotate", "%s: it is in software there; crypto in %s says a token or a plugin", w.ID, configName)
		}
	}
}
