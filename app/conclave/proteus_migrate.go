// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/proteus/cryptobox"
)

func (p *program) proteusMigrate() *cobra.Command {
	var ask bool
	cmd := &cobra.Command{
		Use:   "migrate BOX",
		Short: "Move a cryptobox here: identity, sessions, prekeys",
		Long: `Move what an earlier client of Wire has of Proteus into the home folder, which is made if
it is missing. BOX is the folder of a native cryptobox, or a JSON file with the database
of a browser's: its object stores keys, prekeys and sessions, or what the cryptobox has
exported itself. Nothing in BOX is changed.

A record that cannot be read is left out, and told with the reason; the exit code is 1
then. What is here already stays as it is, so it can be run again, and goes on where it
was interrupted.

Do not use BOX any more after that: two that go on with the same keys use them twice.`,
		Example: "  conclave proteus migrate ~/.wire/cryptobox\n  conclave --home ~/web proteus migrate stores.json --json",
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			box, identity, err := openBox(args[0]) // before a home is made for it
			if err != nil {
				return err
			}
			var own *client.Client
			return p.inNewHome(cmd.Context(), config.Config{}, ask, false, func(ctx context.Context, _ config.Config, _ *messenger.Messenger) error {
				return proteusTrouble(p.migrate(ctx, own, box, identity))
			}, fx.Populate(&own))
		},
	}
	passphraseFlag(cmd, &ask)
	return cmd
}

// openBox reads what a path names, and whose it is.
func openBox(path string) (box *cryptobox.Box, identity proteus.PublicKey, err error) {
	const what = "BOX is the folder of a cryptobox, with the folders identities, prekeys and sessions, or a JSON file with the object stores keys, prekeys and sessions"
	info, err := os.Stat(path)
	if err != nil {
		return nil, identity, hint(err, what)
	}
	if info.IsDir() {
		box, err = cryptobox.Folder(os.DirFS(path))
	} else {
		var data []byte
		if data, err = os.ReadFile(path); err == nil {
			box, err = cryptobox.Browser(data)
		}
	}
	if err != nil {
		return nil, identity, hint(err, what+"; nothing was changed")
	}
	own, err := box.Identity()
	if err != nil {
		return nil, identity, hint(fmt.Errorf("its identity: %w", err), "without the identity, its secret part too, the rest is of no use; nothing was changed")
	}
	defer own.Wipe()
	return box, own.Public(), nil
}

// A migrated is what became of a record of a cryptobox.
type migrated struct {
	Record string       `json:"record"`
	Done   string       `json:"done"` // "moved", "kept", "left out", "ignored"
	Reason string       `json:"reason,omitempty"`
	Code   proteus.Code `json:"code,omitempty"`
}

func (p *program) migrate(ctx context.Context, c *client.Client, box *cryptobox.Box, identity proteus.PublicKey) error {
	err := inProteus(ctx, c, func(ctx context.Context, x client.Proteus) error {
		ours, err := x.Fingerprint(ctx)
		if theirs := identity.Fingerprint(); err == nil && ours != theirs {
			return hint(fmt.Errorf("the cryptobox is of another identity, %s, than this home, %s: %w", readable(theirs), readable(ours), core.ErrDenied),
				"nothing was changed; a home holds one identity, move it into another: conclave --home FOLDER proteus migrate BOX")
		}
		if errors.Is(err, client.ErrProteusNotInitialized) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	counts := map[string]map[string]int{"moved": {}, "kept": {}, "left out": {}}
	var printing error
	tell := func(m migrated, done, all int) {
		kind, _, _ := strings.Cut(m.Record, "/")
		if n, ok := counts[m.Done]; ok {
			n[kind]++
		}
		if p.json {
			printing = errors.Join(printing, p.printJSON(m))
		} else if m.Reason != "" {
			p.printf("%s: %s: %s\n", plain(m.Record), m.Done, plain(m.Reason))
		}
		p.progress.at("records moved", done, all)
	}
	for _, file := range box.Ignored {
		tell(migrated{Record: file, Done: "ignored", Reason: "it is no record of a cryptobox"}, 0, 0)
	}
	err = c.MigrateCryptobox(ctx, box, func(m client.Migrated, done, all int) {
		line := migrated{Record: m.Name, Done: "moved"}
		switch {
		case m.Err != nil:
			line = migrated{m.Name, "left out", m.Err.Error(), proteus.CodeOf(m.Err)}
		case m.Kept:
			line.Done = "kept"
		}
		tell(line, done, all)
	})
	if err = errors.Join(err, printing); err != nil {
		return err
	}
	moved, kept, left := counts["moved"], counts["kept"], counts["left out"]
	total := func(n map[string]int) int { return n["identity"] + n["sessions"] + n["prekeys"] }
	words := "moved: " + listOf(moved) + "\n"
	if total(kept) > 0 {
		words += "here already, or deleted or used up since, and left as it was: " + listOf(kept) + "\n"
	}
	words += "the cryptobox has the same keys: do not use it any more\n"
	err = p.result(struct {
		Done        string `json:"done"`
		Fingerprint string `json:"fingerprint"`
		Moved       int    `json:"moved"`
		Kept        int    `json:"kept"`
		LeftOut     int    `json:"left_out"`
	}{"migrated", identity.Fingerprint(), total(moved), total(kept), total(left)}, "%sfingerprint %s\n", words, readable(identity.Fingerprint()))
	if err != nil || total(left) == 0 {
		return err
	}
	return hint(fmt.Errorf("left out: %s, of which nothing can be read: %w", listOf(left), core.ErrInvalid),
		"all else is moved, and it need not be run again. Who has a session that was left out opens it anew by a prekey: conclave proteus encrypt SESSION --prekey BUNDLE")
}

// listOf says how many there are of what.
func listOf(n map[string]int) string {
	var out []string
	if n["identity"] > 0 {
		out = append(out, "the identity")
	}
	for _, kind := range []string{"sessions", "prekeys"} {
		switch {
		case n[kind] == 1:
			out = append(out, "1 "+strings.TrimSuffix(kind, "s"))
		case n[kind] > 1:
			out = append(out, fmt.Sprint(n[kind], " ", kind))
		}
	}
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, ", ")
}
