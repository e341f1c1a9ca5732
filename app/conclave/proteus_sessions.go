// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/proteus"
)

// The states of a session.
const (
	sessionOpen       = "open"
	sessionRecovering = "recovering" // is read in; to write, it is opened again by a prekey
	sessionDamaged    = "damaged"
)

// A sessionLine is what --json prints of a session.
type sessionLine struct {
	Session string `json:"session"`
	Remote  string `json:"remote,omitempty"`
	State   string `json:"state"`
}

func (p *program) proteusSessions() *cobra.Command {
	var gone []string
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "List the sessions, or delete some",
		Long: `List the sessions with the fingerprint of the other side. One that is "recovering" is from
before the database was put back to an older state: its keys may have been used since, so
it can be read, and to write, it has to be opened again by another prekey; what comes in
the old one after that cannot be read. One that is "damaged" cannot be read.

With --delete sessions are deleted; what was written in them and is still under way cannot
be read then.`,
		Example: "  conclave proteus sessions\n  conclave proteus sessions --delete bob",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.withSessions(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				if cmd.Flags().Changed("delete") {
					return p.deleteSessions(ctx, c, gone)
				}
				return p.listSessions(ctx, c)
			})
		},
	}
	cmd.Flags().StringArrayVar(&gone, "delete", nil, "delete this session; can be given several times")
	_ = cmd.RegisterFlagCompletionFunc("delete", p.sessionThen(0))
	return cmd
}

// eachSession tells of all sessions, in the order in which they came.
func eachSession(ctx context.Context, c *client.Client, tell func(sessionLine) error) error {
	var names, waiting []string
	err := inProteus(ctx, c, func(ctx context.Context, x client.Proteus) (err error) {
		if _, err = x.Fingerprint(ctx); err != nil {
			return err
		}
		if names, err = x.Sessions(ctx); err == nil {
			waiting, err = x.Recovering(ctx)
		}
		return err
	})
	if err != nil {
		return err
	}
	for page := range slices.Chunk(names, 50) { // a transaction keeps what it has read
		var lines []sessionLine
		err := inProteus(ctx, c, func(ctx context.Context, x client.Proteus) error {
			lines = nil
			for _, name := range page {
				line := sessionLine{Session: name, State: sessionOpen}
				if slices.Contains(waiting, name) {
					line.State = sessionRecovering
				}
				var err error
				switch _, line.Remote, err = x.Fingerprints(ctx, name); {
				case errors.Is(err, proteus.ErrSessionNotFound): // deleted meanwhile
					continue
				case errors.Is(err, core.ErrDamaged):
					line.State = sessionDamaged
				case err != nil:
					return err
				}
				lines = append(lines, line)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, line := range lines {
			if err := tell(line); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *program) listSessions(ctx context.Context, c *client.Client) error {
	t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	n := 0
	err := eachSession(ctx, c, func(line sessionLine) error {
		if p.json {
			return p.printJSON(line)
		}
		if n++; n == 1 {
			_, _ = fmt.Fprintln(t, "SESSION\tSTATE\tFINGERPRINT")
		}
		_, err := fmt.Fprintf(t, "%s\t%s\t%s\n", plain(line.Session), line.State, readable(line.Remote))
		return err
	})
	if err != nil {
		return err
	}
	if n == 0 && !p.json {
		p.printf("no sessions; one is opened by a prekey, %s, or by the first message that you decrypt\n", p.here("conclave proteus encrypt SESSION --prekey BUNDLE"))
	}
	return t.Flush()
}

func (p *program) deleteSessions(ctx context.Context, c *client.Client, gone []string) error {
	err := inProteus(ctx, c, func(ctx context.Context, x client.Proteus) error {
		all, err := x.Sessions(ctx)
		if err != nil {
			return err
		}
		for _, name := range gone {
			if !slices.Contains(all, name) {
				return &proteus.Error{Code: proteus.CodeSessionNotFound, Detail: fmt.Sprintf("%q", name)}
			}
			if err := x.Delete(ctx, name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range gone {
		err := p.result(struct {
			Done    string `json:"done"`
			Session string `json:"session"`
		}{"deleted", name}, "deleted %s\n", plain(name))
		if err != nil {
			return err
		}
	}
	return nil
}

// sessionThen completes the names of sessions, so many of them; 0: all.
func (p *program) sessionThen(most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) (out []cobra.Completion, _ cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		p.quietly(cmd.Context(), func(ctx context.Context, _ *messenger.Messenger, c *client.Client) error {
			return inProteus(ctx, c, func(ctx context.Context, x client.Proteus) error {
				names, err := x.Sessions(ctx)
				out = slices.DeleteFunc(names, func(name string) bool { return !harmless.MatchString(name) || slices.Contains(args, name) })
				return err
			})
		})
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// A proteusState is what doctor and recover say of Proteus.
type proteusState struct {
	fingerprint         string // empty: there is no identity
	sessions, preKeys   int
	recovering, damaged []string
}

func proteusStateOf(ctx context.Context, c *client.Client) (s proteusState, err error) {
	err = inProteus(ctx, c, func(ctx context.Context, x client.Proteus) (err error) {
		if s.fingerprint, err = x.Fingerprint(ctx); err != nil {
			return err
		}
		ids, err := x.PreKeys(ctx)
		s.preKeys = len(slices.DeleteFunc(ids, func(id uint16) bool { return id == proteus.LastResortPreKeyID }))
		return err
	})
	if errors.Is(err, client.ErrProteusNotInitialized) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	return s, eachSession(ctx, c, func(line sessionLine) error {
		s.sessions++
		switch line.State {
		case sessionRecovering:
			s.recovering = append(s.recovering, line.Session)
		case sessionDamaged:
			s.damaged = append(s.damaged, line.Session)
		}
		return nil
	})
}

// reopen is what to do about sessions from before the database was put back.
const reopen = "to write in one, open it again by another prekey of the other side: conclave proteus encrypt SESSION --prekey BUNDLE; conclave proteus sessions lists them"

// some names a few of many.
func some(names []string) string {
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}
