// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app"
	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/storage/postgres"
)

func (p *program) doctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong, and say what to do about it",
		Long: `Look at everything that an identity needs: the home folder and its files, who can
read them, plugins, PKCS#11 tokens, whether the key opens the database, what is in it, the
delivery service and its clock, key packages, what waits in conversations, and Proteus if
it is used. Nothing is changed.

There is a line for each, which is ok, warn or fail, and where it is not ok what to
do. The exit code is 1 if one is fail. With --json a line has "check", "status",
"detail" and "do".`,
		Example: "  conclave doctor\n  conclave doctor --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &doctor{program: p}
			d.examine(cmd.Context())
			return d.end(cmd.Context())
		},
	}
}

// A doctor examines a home folder.
type doctor struct {
	program *program
	prefix  string // of each line
	failed  bool
	err     error // of printing
}

// A finding is what an examination has to say.
type finding struct {
	Check  string `json:"check"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	Do     string `json:"do,omitempty"`
}

func (d *doctor) tell(f finding) {
	f.Do = d.program.here(f.Do)
	words := fmt.Sprintf("%s%-4s  %-13s %s\n", d.prefix, f.Status, f.Check, plain(f.Detail))
	if f.Do != "" {
		words += fmt.Sprintf("%s      %-13s %s\n", d.prefix, "", plain(f.Do))
	}
	d.err = errors.Join(d.err, d.program.result(f, "%s", words))
}

func (d *doctor) ok(check, format string, args ...any) {
	d.tell(finding{check, "ok", fmt.Sprintf(format, args...), ""})
}

func (d *doctor) warn(check, do, format string, args ...any) {
	d.tell(finding{check, "warn", fmt.Sprintf(format, args...), do})
}

func (d *doctor) fail(check, do, format string, args ...any) {
	d.failed = true
	d.tell(finding{check, "fail", fmt.Sprintf(format, args...), do})
}

// end is the error of an examination.
func (d *doctor) end(ctx context.Context) error {
	if err := errors.Join(ctx.Err(), d.err); err != nil {
		return err
	}
	if d.failed {
		return errTold
	}
	return nil
}

func (d *doctor) examine(ctx context.Context) {
	const again = "make an identity with conclave init ID, or say with --home where it is"
	home := d.program.home
	info, err := os.Stat(home)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.fail("home", again, "%s is not there", home)
		return
	case err != nil:
		d.fail("home", "give yourself access to it", "%v", err)
		return
	case !info.IsDir():
		d.fail("home", again, "%s is no folder", home)
		return
	}
	if mode, open := openTo(info, 0o077); open {
		d.warn("home", "chmod 700 "+home, "%s can be entered by others (mode %#o)", home, mode)
	} else {
		d.ok("home", "%s", home)
	}
	c, err := d.program.configuration()
	if err != nil {
		d.fail("configuration", hintOr(err, mendFile), "%v", err)
		return
	}
	file := filepath.Join(home, configName)
	if info, err := os.Stat(file); err == nil {
		if mode, open := openTo(info, 0o022); open {
			d.warn("configuration", "chmod 600 "+file, "%s can be changed by others (mode %#o)", file, mode)
		} else {
			d.ok("configuration", "%s", file)
		}
	}
	key, store, log := d.key(c), d.store(c), d.audit(c)
	plugins := d.plugins(ctx, c)
	if tokens := d.tokens(ctx, c); key && store && log && tokens && plugins {
		d.inside(ctx, c)
	} else if service, err := dial(c); err == nil {
		d.reach(ctx, c, service)
		_ = service.Close()
	}
}

// openTo says whether others have the rights.
func openTo(info fs.FileInfo, rights fs.FileMode) (mode fs.FileMode, open bool) {
	mode = info.Mode().Perm()
	return mode, mode&rights != 0 && runtime.GOOS != "windows"
}

func hintOr(err error, otherwise string) string {
	if h := hintOf(err); h != "" {
		return h
	}
	return otherwise
}

// noKey is what to do about a file of the key that is not there.
const noKey = "put it back: nothing else opens the database. If it is lost, make a new identity in another home"

// key looks for the file of the key.
func (d *doctor) key(c config.Config) (usable bool) {
	path, info, err := fileOf(c, c.Key, "file")
	if path == "" && err == nil {
		if file := d.program.passphraseFile; file != "" {
			if err := d.program.private(); err != nil {
				d.fail("key", "give yourself, and nobody else, access to it: chmod 600 "+word(file)+"; if somebody may have read it, they can read the database", "%v", err)
				return false
			}
		}
		d.ok("key", "%s", shown(c, c.Key))
		return true
	}
	if errors.Is(err, fs.ErrNotExist) {
		d.fail("key", noKey, "%s is missing", path)
		return false
	}
	if err != nil {
		d.fail("key", "mend the URI of the key, or the access to its file", "%v", err)
		return false
	}
	if mode, open := openTo(info, 0o077); open {
		d.fail("key", "chmod 600 "+path+"; if somebody may have read it, they can read the database", "%s can be read by others (mode %#o)", path, mode)
		return false
	}
	d.ok("key", "%s", path)
	return true
}

// noStore is what to do about a database file that is not there.
const noStore = "is that where it was? If it is lost: conclave keystore restore FILE, with a backup; do not put an old copy there by hand. If there was no identity: conclave init ID"

// store looks for the database file, so that opening it does not make one.
func (d *doctor) store(c config.Config) (usable bool) {
	path, info, err := fileOf(c, c.Keystore, "sqlite")
	if path == "" && err == nil {
		d.ok("database", "%s", shown(c, c.Keystore))
		return true
	}
	if errors.Is(err, fs.ErrNotExist) {
		d.fail("database", noStore, "%s is missing", path)
		return false
	}
	if err != nil {
		d.fail("database", "mend the URI of the keystore, or the access to its file", "%v", err)
		return false
	}
	if mode, open := openTo(info, 0o077); open {
		d.warn("database", "chmod 600 "+path, "%s can be read by others (mode %#o); it is sealed", path, mode)
		return true
	}
	d.ok("database", "%s", path)
	return true
}

// audit looks at the file of the audit log.
func (d *doctor) audit(c config.Config) (usable bool) {
	path, info, err := fileOf(c, c.Audit, "file")
	folder := filepath.Dir(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = os.Stat(folder)
		if err == nil {
			d.ok("audit", "%s, from now on", path)
			return true
		}
	}
	switch {
	case path == "" && err == nil && c.Audit == "log:":
		d.tell(finding{"audit", "ok", "log:, which --verbose shows and nothing keeps", `to have a record of each use of a key, say in conclave.toml: audit = "file:audit.log"`})
	case path == "" && err == nil:
		d.ok("audit", "%s", shown(c, c.Audit))
	case errors.Is(err, fs.ErrNotExist):
		d.fail("audit", "mkdir -m 700 "+word(folder), "the folder %s is missing, and without its log no key is used", folder)
		return false
	case err != nil:
		d.fail("audit", "mend the URI of the audit log, or the access to its file", "%v", err)
		return false
	default:
		if mode, open := openTo(info, 0o022); open {
			d.warn("audit", "chmod 600 "+path, "%s can be changed by others (mode %#o)", path, mode)
			return true
		}
		d.ok("audit", "%s", path)
	}
	return true
}

// fileOf is the file that a URI of the scheme names; no path if it has another.
func fileOf(c config.Config, text, scheme string) (path string, info fs.FileInfo, err error) {
	u, err := c.URI(text)
	if err != nil || u.Scheme != scheme {
		return "", nil, err
	}
	if path, err = u.File(); err != nil {
		return "", nil, err
	}
	info, err = os.Stat(path)
	return path, info, err
}

// shown is a URI without a password.
func shown(c config.Config, text string) string {
	u, err := c.URI(text)
	if err != nil {
		return "no URI"
	}
	return u.String()
}

// dial is the way to the service without anything else.
func dial(c config.Config) (s *delivery.Client, err error) {
	a := fx.New(fx.NopLogger, fx.Supply(c), modules.Delivery(), fx.Populate(&s))
	return s, a.Err()
}

// inside opens the store and looks at what it has.
func (d *doctor) inside(ctx context.Context, c config.Config) {
	var m *messenger.Messenger
	var service *delivery.Client
	var keystore core.Keystore
	var own *client.Client
	opened, software := false, softwareKeys{}
	options := []fx.Option{modules.Messenger(), fx.Replace(modules.Passphrase(d.program.passphrase)), fx.Populate(&m, &service, &keystore, &own),
		fx.Decorate(present(ctx, c)), fx.Decorate(software.beside)}
	err := app.Run(ctx, app.New(c, append(options, d.program.options...)...), func(ctx context.Context) error {
		opened = true
		d.ok("opening", "the key opens the database")
		d.durability(ctx, keystore)
		h, err := m.Health(ctx)
		if err != nil {
			d.unsound("records", err)
			d.reach(ctx, c, service)
			return nil
		}
		if used := d.proteus(ctx, own); used && h.ID == "" {
			d.ok("identity", "none for conversations, which conclave init ID makes; Proteus only")
		} else {
			d.identity(h)
			if d.reach(ctx, c, service) && h.Registered {
				d.registered(ctx, m, service)
			}
		}
		d.certificates(ctx, m, own)
		d.packages(h)
		d.signatureKeys(h, software)
		d.chats(h)
		return nil
	})
	switch err = wrongKey(c, err); {
	case err == nil:
	case opened:
		d.warn("closing", "", "%v", err)
	default:
		d.unsound("opening", err)
	}
}

// proteus tells of the other protocol, if it is used.
func (d *doctor) proteus(ctx context.Context, own *client.Client) (used bool) {
	s, err := proteusStateOf(ctx, own)
	switch {
	case err != nil:
		d.unsound("proteus", err)
		return true
	case s.fingerprint == "":
		return false
	case len(s.damaged) > 0:
		d.fail("proteus", "delete it, conclave proteus sessions --delete SESSION, and open it again by a prekey of the other side: conclave proteus encrypt SESSION --prekey BUNDLE",
			"%d of %d sessions are damaged: %s", len(s.damaged), s.sessions, some(s.damaged))
	case len(s.recovering) > 0:
		d.warn("proteus", reopen, "%d of %d sessions can be read only, because the database was put back to an older state: %s", len(s.recovering), s.sessions, some(s.recovering))
	default:
		d.ok("proteus", "sessions: %d; fingerprint %s", s.sessions, readable(s.fingerprint))
	}
	if s.preKeys == 0 {
		d.warn("prekeys", "conclave proteus prekeys N makes new ones, for others to have", "none is left but that of last resort")
	} else {
		d.ok("prekeys", "%d are left", s.preKeys)
	}
	return true
}

// durability asks a store that is a server's whether it keeps what it acknowledges.
func (d *doctor) durability(ctx context.Context, keystore core.Keystore) {
	store, ok := keystore.(*postgres.Store)
	if !ok {
		return
	}
	warnings, err := store.Warnings(ctx)
	if err != nil {
		d.unsound("durability", err)
		return
	}
	for _, w := range warnings {
		what, do, _ := strings.Cut(w, "; ")
		d.warn("durability", do, "%s", what)
	}
	if len(warnings) == 0 {
		d.ok("durability", "the database server keeps what it acknowledges")
	}
}

// unsound tells why the database is of no use.
func (d *doctor) unsound(check string, err error) {
	switch {
	case errors.Is(err, core.ErrWrongKey) && tokenHint(err) == "":
		do := "put back the key, or the passphrase, that belongs to this database; nothing was changed"
		if own := (hinted{}); errors.As(err, &own) {
			do = own.hint
		}
		d.fail(check, do, "the key is not that of the database: %v", err)
	case errors.Is(err, core.ErrDamaged):
		d.fail(check, "move it away and restore a backup: conclave keystore restore FILE; if there is none, make a new identity in another home and join the conversations again. Do not put an old copy there by hand", "the database is damaged: %v", err)
	default:
		d.fail(check, hintOr(err, "mend what the message names: in conclave.toml, or for once with the flag of that name"), "%v", err)
	}
}

func (d *doctor) identity(h messenger.Health) {
	switch {
	case h.ID == "":
		d.fail("identity", "conclave init ID", "there is none yet")
	case !h.Registered:
		d.fail("identity", "conclave init "+word(string(h.ID))+"; if the service does not accept that name, conclave init with another one", "%s is not registered at the delivery service", h.ID)
	default:
		d.ok("identity", "%s", h.ID)
	}
}

// certificates looks at those in use, and at what decides whether they hold; nothing is told
// where there are none.
func (d *doctor) certificates(ctx context.Context, m *messenger.Messenger, own *client.Client) {
	list, err := m.Certificates(ctx)
	var env *e2ei.Environment
	if err == nil {
		env, err = own.Environment(ctx)
	}
	var open []client.OpenIssue
	if err == nil {
		open, err = m.Open(ctx)
	}
	if err != nil {
		d.unsound("certificate", err)
		return
	}
	now := time.Now()
	for _, c := range list {
		switch v := certifiedOf(c, env.Ready()); {
		case !c.Newest:
		case v.Status == "unchecked":
			d.warn("certificate", "conclave identity trust add FILE", "there is no trust anchor, so no certificate is checked")
		case v.Status != "valid":
			d.fail("certificate", "conclave identity enroll", "number %d is %s", v.Certificate, v.Status)
		case now.After(c.Due(0)):
			d.warn("certificate", "conclave identity check, each hour or day, renews it", "number %d expires on %s", v.Certificate, minute(v.NotAfter))
		default:
			d.ok("certificate", "number %d is valid to %s", v.Certificate, minute(v.NotAfter))
		}
	}
	if len(open) > 0 {
		d.warn("enrolment", "conclave identity status says what it waits for", "%d not at their end", len(open))
	}
	if overdue := env.Overdue(now); len(overdue) > 0 {
		d.warn("revocation", "conclave identity check fetches them", "lists that are overdue: %s", some(overdue))
	}
}

const (
	reachTime  = 10 * time.Second
	clockWarns = 2 * time.Minute
	clockFails = 50 * time.Minute // key packages are valid from an hour before they are made
)

// reach asks the delivery service for the time.
func (d *doctor) reach(ctx context.Context, c config.Config, service *delivery.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	before := time.Now()
	date, err := service.Clock(ctx)
	now := time.Now()
	if err != nil {
		d.fail("delivery", "is it running, and its address right? Another can be tried with --delivery", "%s: %v", c.Delivery, err)
		return false
	}
	d.ok("delivery", "%s answers", c.Delivery)
	// The date has whole seconds, and the answer took its time.
	off := max(before.Add(-time.Second).Sub(date), date.Sub(now), 0).Round(time.Second)
	const do = "set the clock of this machine, or have that of the service set; key packages are valid by the clock"
	switch {
	case off >= clockFails:
		d.fail("clock", do, "this machine and the delivery service differ by %s", off)
	case off >= clockWarns:
		d.warn("clock", do, "this machine and the delivery service differ by %s", off)
	default:
		d.ok("clock", "as that of the delivery service")
	}
	return true
}

// registered asks the service what it has of us.
func (d *doctor) registered(ctx context.Context, m *messenger.Messenger, service *delivery.Client) {
	err := m.SignIn(ctx)
	var n int
	if err == nil {
		n, err = service.Count(ctx)
	}
	switch {
	case err != nil:
		d.fail("registration", "if the service has lost its state: conclave init ID, again", "%v", err)
	case n == 0:
		d.warn("registration", "conclave keys rotate", "the service has no key package of ours left: others add us by that of last resort, if at all")
	default:
		d.ok("registration", "the service has %d key packages of ours", n)
	}
}

// packagesWarn is how long before they expire key packages should be replaced.
const packagesWarn = 14 * 24 * time.Hour

func (d *doctor) packages(h messenger.Health) {
	if h.ID == "" {
		return
	}
	const do = "conclave keys rotate makes new ones"
	day := func(t time.Time) string { return t.UTC().Format(time.DateOnly) }
	switch soon := time.Now().Add(packagesWarn); {
	case h.KeyPackages == 0:
		d.warn("key packages", do, "none is left that may be used once; %d have expired", h.Expired)
	case h.Expires.Before(soon) || h.Expired > 0:
		d.warn("key packages", do, "%d are left, one expires on %s; %d have expired", h.KeyPackages, day(h.Expires), h.Expired)
	default:
		d.ok("key packages", "%d are left, valid to %s", h.KeyPackages, day(h.Expires))
	}
	switch soon := time.Now().Add(packagesWarn); {
	case h.LastResort.IsZero():
		d.warn("last resort", do, "there is no key package of last resort")
	case h.LastResort.Before(soon):
		d.warn("last resort", do, "that key package expires on %s", day(h.LastResort))
	default:
		d.ok("last resort", "valid to %s", day(h.LastResort))
	}
}

func (d *doctor) chats(h messenger.Health) {
	waits := 0
	for _, w := range h.Chats {
		name := string(w.ID)
		next := "conclave chat info " + word(name) + " goes on from there, with the service in reach"
		if w.Recovering {
			waits++
			d.warn("conversation", "conclave recover", "%s: it is to be joined again, because the database was put back to an older state", name)
			continue
		}
		var what []string
		count := func(n int, one, many string) {
			if n == 1 {
				what = append(what, "1 "+one)
			} else if n > 1 {
				what = append(what, fmt.Sprintf("%d %s", n, many))
			}
		}
		if w.Commit {
			what = append(what, "a commit of ours waits for the service's answer")
		}
		if w.Join {
			what = append(what, "our joining waits for the service's answer")
		}
		count(w.Unsent, "message waits to be sent", "messages wait to be sent")
		count(w.Proposals, "proposal waits to be committed", "proposals wait to be committed")
		count(w.Buffered, "message waits for what came before it", "messages wait for what came before them")
		if w.KeyErr != nil {
			waits++
			do := hintOf(w.KeyErr)
			if errors.Is(w.KeyErr, client.ErrKeyGone) {
				do = "bring the token's newest backup back; if the key is lost: conclave chat rejoin " + word(name)
			}
			d.fail("conversation", do, "%s: its signature key does not sign: %v", name, w.KeyErr)
		}
		if len(what) == 0 {
			continue
		}
		waits++
		if w.Buffered > 0 {
			next += "; if that does not help: conclave chat rejoin " + word(name)
		}
		d.warn("conversation", next, "%s: %s", name, strings.Join(what, ", "))
	}
	if waits == 0 {
		d.ok("conversations", "%d, and nothing waits in them", len(h.Chats))
	}
}
