// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/proteus"
)

func (p *program) proteus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "proteus",
		Short: "Encrypt and decrypt for devices that speak Proteus",
		Long: `Encrypt and decrypt for devices that speak Proteus, which has sessions of two. Nothing is
sent: prekeys and messages go through pipes and files, in base64, and how they get to the
other side is up to you.

SESSION is a name of your choice for a device of somebody else, by custom its user and
client. Who is to write to you first needs one of your prekeys; to write first, you need
one of theirs.`,
		Example: `  conclave proteus init
  conclave proteus prekeys 100
  conclave proteus encrypt bob --prekey "$(cat bundle)" <text >message
  conclave proteus decrypt bob <answer`,
		Args: noCommand,
		RunE: p.group,
	}
	cmd.AddCommand(p.proteusInit(), p.proteusPreKeys(), p.proteusEncrypt(), p.proteusDecrypt(), p.proteusSessions(), p.proteusFingerprint(), p.proteusMigrate())
	for _, c := range cmd.Commands() {
		c.Annotations = only("home", "json", "verbose", "passphrase-file", "keystore", "key")
	}
	return cmd
}

// withSessions runs f with the client of the home folder, for its sessions.
func (p *program) withSessions(ctx context.Context, f func(context.Context, *client.Client) error) error {
	c, err := p.existing()
	if err != nil {
		if p.noHome() {
			err = hint(err, "make an identity with conclave proteus init, or say with --home where it is")
		}
		return err
	}
	var own *client.Client
	return proteusTrouble(p.openWith(ctx, c, func(ctx context.Context, _ *messenger.Messenger) error { return f(ctx, own) },
		fx.Decorate(present(ctx, c)), fx.Populate(&own)))
}

// inProteus runs f in a transaction, and again if another process is in the way.
func inProteus(ctx context.Context, c *client.Client, f func(context.Context, client.Proteus) error) error {
	return c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error { return f(ctx, tx.Proteus()) })
}

// proteusTrouble brings the hints for what is said otherwise of conversations.
func proteusTrouble(err error) error {
	switch {
	case err == nil || errors.As(err, new(hinted)):
	case errors.Is(err, client.ErrRecovering):
		return hint(err, "it can be read; to write, open it again by another prekey of the other side, after you have decrypted what is there: conclave proteus encrypt SESSION --prekey BUNDLE")
	case errors.Is(err, core.ErrDamaged):
		return hint(err, "the database is damaged; conclave proteus sessions shows which session it is, if it is one: delete it, and open it again by a prekey")
	case errors.Is(err, core.ErrUnknownOutcome):
		return hint(err, "it is not known whether that was stored; run it again: no key is used twice")
	}
	return err
}

// An identified says whose keys these are.
type identified struct {
	Fingerprint string `json:"fingerprint"`
	Made        bool   `json:"made"`
	Home        string `json:"home"`
}

func (p *program) proteusInit() *cobra.Command {
	var ask bool
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the identity for Proteus",
		Long: `Make the identity for Proteus and its prekey of last resort, and print the fingerprint.
If they are there, nothing is changed.

It is for a home of its own, which is made if it is missing, or goes into one that has an
identity for conversations, and the other way round. No delivery service is needed.`,
		Example: "  conclave proteus init\n  conclave --home ~/phone proteus init --passphrase",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var own *client.Client
			return p.inNewHome(cmd.Context(), config.Config{}, ask, false, func(ctx context.Context, _ config.Config, _ *messenger.Messenger) error {
				var done identified
				err := inProteus(ctx, own, func(ctx context.Context, x client.Proteus) (err error) {
					_, err = x.Fingerprint(ctx)
					done = identified{Made: errors.Is(err, client.ErrProteusNotInitialized), Home: p.home}
					if err != nil && !done.Made {
						return err
					}
					if err = x.Init(ctx); err == nil {
						done.Fingerprint, err = x.Fingerprint(ctx)
					}
					return err
				})
				if err != nil {
					return proteusTrouble(err)
				}
				words := "it is there already; nothing was changed"
				if done.Made {
					words = "it is ready, in " + plain(p.home)
				}
				return p.result(done, "%s\n%s\n", words, readable(done.Fingerprint))
			}, fx.Populate(&own))
		},
	}
	passphraseFlag(cmd, &ask)
	return cmd
}

// readable shows a fingerprint of Proteus in a form that two people can compare.
func readable(digits string) string {
	b, err := hex.DecodeString(digits)
	if err != nil {
		return plain(digits)
	}
	return fingerprint(b)
}

func (p *program) proteusFingerprint() *cobra.Command {
	var bundle string
	cmd := &cobra.Command{
		Use:   "fingerprint [SESSION]",
		Short: "Show the fingerprint of an identity",
		Long: `Show the fingerprint of your own identity, or of the other side in a session, or of
who has made a prekey. Compare it with them by other means. With --json it is 64
hexadecimal digits.`,
		Example: `  conclave proteus fingerprint
  conclave proteus fingerprint bob
  conclave proteus fingerprint --prekey "$(cat bundle)"`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: p.sessionThen(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch prekey := cmd.Flags().Changed("prekey"); {
			case prekey && len(args) > 0:
				return hint(fmt.Errorf("a session and a prekey: which one? %w", core.ErrInvalid), "leave one of them out")
			case prekey:
				return p.bundleFingerprint(bundle)
			}
			var shown struct {
				Fingerprint string `json:"fingerprint"`
				Session     string `json:"session,omitempty"`
				Local       string `json:"local,omitempty"`
			}
			err := p.withSessions(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				return inProteus(ctx, c, func(ctx context.Context, x client.Proteus) (err error) {
					if len(args) == 0 {
						shown.Fingerprint, err = x.Fingerprint(ctx)
						return err
					}
					shown.Session = args[0]
					shown.Local, shown.Fingerprint, err = x.Fingerprints(ctx, args[0])
					return err
				})
			})
			if err != nil {
				return err
			}
			return p.result(shown, "%s\n", readable(shown.Fingerprint))
		},
	}
	cmd.Flags().StringVar(&bundle, "prekey", "", "prekey in base64, as conclave proteus prekeys prints it")
	return cmd
}

// bundleFingerprint needs no home.
func (p *program) bundleFingerprint(text string) error {
	data, err := unbase64("the prekey", text)
	if err != nil {
		return err
	}
	b, err := proteus.UnmarshalPreKeyBundle(data)
	if err == nil {
		err = b.Verify()
	}
	if err != nil {
		return err
	}
	digits := b.Identity.Fingerprint()
	return p.result(struct {
		Fingerprint string `json:"fingerprint"`
		PreKey      uint16 `json:"prekey"`
		Signed      bool   `json:"signed"`
	}{digits, b.ID, len(b.Signature) > 0}, "%s\n", readable(digits))
}

// unbase64 reads what was printed in base64, also if it was wrapped into lines. Of several
// values the first would be read, and the others dropped: a line that begins as the one
// before is another value.
func unbase64(what, text string) ([]byte, error) {
	const begin = len("owABA")
	if lines := strings.Fields(text); len(lines) > 1 && len(lines[0]) > begin && strings.HasPrefix(lines[1], lines[0][:begin]) {
		return nil, hint(fmt.Errorf("more than one: %w: %s has one line", core.ErrInvalid, what), "nothing was changed; give one after the other, each to a run of its own")
	}
	data, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
	if err == nil && len(data) == 0 {
		err = errors.New("nothing is there")
	}
	if err != nil {
		return nil, hint(fmt.Errorf("%s is not base64: %w: %v", what, core.ErrInvalid, err), "is it whole, and nothing else? conclave proteus prekeys and conclave proteus encrypt print base64; what --raw has printed is read with --raw")
	}
	return data, nil
}

// maxInput is for what is read whole: whoever has written a message chooses its length.
const maxInput = 64 << 20

// read reads a file, or the standard input if there is no name.
func (p *program) read(file, what string) ([]byte, error) {
	from := p.in
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	} else if _, typed := p.terminal(); typed {
		p.notice("write or paste %s; Ctrl-D on a line of its own ends it", what)
	}
	data, err := io.ReadAll(io.LimitReader(from, maxInput+1))
	if err == nil && len(data) > maxInput {
		err = fmt.Errorf("%s has more than %d MiB: %w", what, maxInput>>20, core.ErrTooLarge)
	}
	return data, err
}
