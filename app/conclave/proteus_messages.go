// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/proteus"
)

// A sessionOpened is what the commands that can open a session say of it.
type sessionOpened struct {
	Opened bool   `json:"opened,omitempty"`
	Remote string `json:"remote,omitempty"` // if it is opened
}

// tell has a person compare fingerprints.
func (o sessionOpened) tell(p *program, session string) {
	if o.Opened && !p.json {
		p.notice("session %s is open; the other side has this fingerprint, compare it by other means:", plain(session))
		p.notice("%s", readable(o.Remote))
	}
}

// An encryption is one run of conclave proteus encrypt.
type encryption struct {
	sessions     []string
	file         string
	bundle       string
	open         bool
	replace, raw bool

	plaintext, preKey []byte
	sessionOpened
	messages map[string][]byte
}

func (p *program) proteusEncrypt() *cobra.Command {
	e := &encryption{}
	cmd := &cobra.Command{
		Use:   "encrypt SESSION...",
		Short: "Encrypt a message for one session or several",
		Long: `Encrypt what comes on the standard input, or is in a file, as it is, and print the message
in base64. For several sessions there is a line for each, with the session's name before
the message and a tab between; if one of them is missing, nothing is encrypted.

With --prekey the session is opened by a prekey of the other side. If there is one already,
it is left alone, unless --replace says otherwise or it waits to be opened again after the
database was put back. What the other side has written in the old one cannot be read any
more then: decrypt what is there first.

What is printed is to be sent: no other run prints it again.`,
		Example: `  conclave proteus encrypt bob <text >message
  conclave proteus encrypt bob --prekey "$(cat bundle)" --file text
  conclave proteus encrypt bob-phone bob-laptop --json <text`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: p.sessionThen(0),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			e.open = cmd.Flags().Changed("prekey")
			for _, name := range args {
				if !slices.Contains(e.sessions, name) {
					e.sessions = append(e.sessions, name)
				}
			}
			switch {
			case len(e.sessions) > 1 && (e.open || e.raw):
				return hint(fmt.Errorf("--prekey and --raw are for one session: %w", core.ErrInvalid), "run it for each session")
			case e.replace && !e.open:
				return hint(fmt.Errorf("--replace without --prekey: %w", core.ErrInvalid), "a session is opened anew by a prekey of the other side")
			case e.raw && p.json:
				return hint(fmt.Errorf("--raw and --json: which one? %w", core.ErrInvalid), "leave one of them out")
			case e.open:
				if e.preKey, err = unbase64("the prekey", e.bundle); err != nil {
					return err
				}
			}
			if e.plaintext, err = p.read(e.file, "the text"); err != nil {
				return err
			}
			defer clear(e.plaintext)
			err = p.withSessions(cmd.Context(), func(ctx context.Context, c *client.Client) error { return inProteus(ctx, c, e.run) })
			if err != nil {
				return err
			}
			return e.print(p)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&e.file, "file", "f", "", "encrypt this file instead of the standard input")
	f.StringVar(&e.bundle, "prekey", "", "open the session by this prekey, in base64 as conclave proteus prekeys prints it")
	f.BoolVar(&e.replace, "replace", false, "with --prekey: in place of the session that there is")
	f.BoolVar(&e.raw, "raw", false, "print the message itself instead of base64")
	return cmd
}

// run encrypts, within a transaction.
func (e *encryption) run(ctx context.Context, x client.Proteus) error {
	all, err := x.Sessions(ctx)
	if err != nil {
		return err
	}
	if e.open {
		if err := e.openSession(ctx, x, slices.Contains(all, e.sessions[0])); err != nil {
			return err
		}
	} else {
		var unknown []string
		for _, name := range e.sessions {
			if !slices.Contains(all, name) {
				unknown = append(unknown, fmt.Sprintf("%q", name))
			}
		}
		if len(unknown) > 0 {
			return &proteus.Error{Code: proteus.CodeSessionNotFound, Detail: strings.Join(unknown, ", ")}
		}
	}
	e.messages, err = x.EncryptBatched(ctx, e.sessions, e.plaintext)
	return err
}

func (e *encryption) openSession(ctx context.Context, x client.Proteus, there bool) error {
	name := e.sessions[0]
	if there && !e.replace {
		waiting, err := x.Recovering(ctx)
		if err != nil {
			return err
		}
		if !slices.Contains(waiting, name) {
			return hint(fmt.Errorf("there is a session %q: %w", name, core.ErrDenied),
				"nothing was changed; leave --prekey out to write in it. If it is of no use any more, for the other side has lost it: --replace")
		}
	}
	if err := x.SessionFromPreKey(ctx, name, e.preKey); err != nil {
		return err
	}
	_, remote, err := x.Fingerprints(ctx, name)
	e.sessionOpened = sessionOpened{true, remote}
	return err
}

// print prints the messages, which are durable.
func (e *encryption) print(p *program) error {
	for _, name := range e.sessions {
		message := e.messages[name]
		text := base64.StdEncoding.EncodeToString(message) + "\n"
		switch {
		case p.json:
			err := p.printJSON(struct {
				Session string `json:"session"`
				Message []byte `json:"message"`
				sessionOpened
			}{name, message, e.sessionOpened})
			if err != nil {
				return err
			}
			continue
		case e.raw:
			text = string(message)
		case len(e.sessions) > 1:
			text = plain(name) + "\t" + text
		}
		if _, err := p.out.Write([]byte(text)); err != nil {
			return hint(err, "the message is lost; encrypt it again")
		}
	}
	e.sessionOpened.tell(p, e.sessions[0])
	return nil
}

func (p *program) proteusDecrypt() *cobra.Command {
	var file string
	var raw bool
	cmd := &cobra.Command{
		Use:   "decrypt SESSION",
		Short: "Decrypt a message, which may open the session",
		Long: `Decrypt a message that comes on the standard input, or is in a file, in base64, and print
what is in it as it is; on a terminal without control characters. If there is no such
session, the message opens it by one of your prekeys, which is used up then.

Each message can be read once. It counts as read when the text is printed: if that fails,
run it again.`,
		Example: `  conclave proteus decrypt bob <message
  conclave proteus decrypt bob --file message --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.sessionThen(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			message, err := p.read(file, "the message")
			if err == nil && !raw {
				message, err = unbase64("the message", string(message))
			}
			if err != nil {
				return err
			}
			var opened sessionOpened
			err = p.withSessions(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				printed := false
				return inProteus(ctx, c, func(ctx context.Context, x client.Proteus) (err error) {
					there, err := x.Exists(ctx, args[0])
					if err != nil {
						return err
					}
					plaintext, err := x.DecryptSafe(ctx, args[0], message)
					if err != nil {
						return err
					}
					defer clear(plaintext)
					if opened = (sessionOpened{Opened: !there}); !there {
						if _, opened.Remote, err = x.Fingerprints(ctx, args[0]); err != nil {
							return err
						}
					}
					if printed { // and another process was in the way then
						return nil
					}
					printed = true
					return p.printPlaintext(args[0], plaintext, opened, isTerminal(p.out))
				})
			})
			if err != nil {
				return err
			}
			opened.tell(p, args[0])
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "decrypt this file instead of the standard input")
	cmd.Flags().BoolVar(&raw, "raw", false, "what comes is the message itself instead of base64")
	return cmd
}

// printPlaintext shows what a peer wrote. What is no terminal gets every byte.
func (p *program) printPlaintext(session string, plaintext []byte, opened sessionOpened, terminal bool) error {
	if p.json {
		text := ""
		if utf8.Valid(plaintext) {
			text = string(plaintext)
		}
		return p.printJSON(struct {
			Session   string `json:"session"`
			Plaintext []byte `json:"plaintext"`
			Text      string `json:"text,omitempty"` // if it is one
			sessionOpened
		}{session, plaintext, text, opened})
	}
	if terminal {
		p.progress.clear()
		for line := range strings.Lines(string(plaintext)) {
			if _, err := fmt.Fprintln(p.out, plain(strings.TrimRight(line, "\r\n"))); err != nil {
				return err
			}
		}
		return nil
	}
	_, err := p.out.Write(plaintext)
	return err
}
