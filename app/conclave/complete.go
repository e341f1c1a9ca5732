// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// Completion knows what is known here: it asks nobody, neither the delivery service
// nor a person for a passphrase.

// harmless are the names that a shell takes as they are. Peers choose names, shells put
// what several completions have in common into the line unquoted, and scripts evaluate
// the line to complete the next word: others are for who types them.
var harmless = regexp.MustCompile(`^[\pL\pN][\pL\pN._@:+/-]*$`)

// word is a name as one word of a command that a person may copy into a shell.
func word(name string) string {
	if harmless.MatchString(name) {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}

// nameThen completes the name of a conversation and then, one after the other, the
// clients that which has picked of it; none if that is nil.
func (p *program) nameThen(which func(list []messenger.Status, of messenger.Status) []core.ClientID) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) (out []cobra.Completion, _ cobra.ShellCompDirective) {
		p.known(cmd.Context(), func(own core.ClientID, list []messenger.Status) {
			if len(args) == 0 {
				out = names(list)
				return
			}
			at := slices.IndexFunc(list, func(s messenger.Status) bool { return args[0] == string(s.ID) || args[0] == messenger.Name(s.ID) })
			if which == nil || at < 0 {
				return
			}
			for _, id := range which(list, list[at]) {
				if id != own && !slices.Contains(args[1:], string(id)) && !slices.Contains(out, string(id)) && harmless.MatchString(string(id)) {
					out = append(out, string(id))
				}
			}
		})
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// names are those of the conversations, or their ids where several have the name.
func names(list []messenger.Status) (out []cobra.Completion) {
	count := map[string]int{}
	for _, s := range list {
		count[messenger.Name(s.ID)]++
	}
	for _, s := range list {
		name := messenger.Name(s.ID)
		if count[name] > 1 {
			name = string(s.ID)
		}
		if harmless.MatchString(name) {
			out = append(out, cobra.CompletionWithDesc(name, fmt.Sprintf("%d members, %d unread", len(s.Members), s.Unread)))
		}
	}
	return out
}

// members are those of the conversation.
func members(_ []messenger.Status, of messenger.Status) []core.ClientID { return of.Members }

// strangers are known from other conversations.
func strangers(list []messenger.Status, of messenger.Status) (out []core.ClientID) {
	for _, s := range list {
		for _, id := range s.Members {
			if !slices.Contains(of.Members, id) {
				out = append(out, id)
			}
		}
	}
	return out
}

// known gives f what the home folder knows, or is not called: completion has no way
// to say what is wrong.
func (p *program) known(ctx context.Context, f func(own core.ClientID, list []messenger.Status)) {
	p.quietly(ctx, func(ctx context.Context, m *messenger.Messenger, _ *client.Client) error {
		own, err := m.ID(ctx)
		if err != nil {
			return err
		}
		list, err := m.List(ctx)
		if err == nil {
			f(own, list)
		}
		return err
	})
}

// quietly runs f with what the home folder has, or does not.
func (p *program) quietly(ctx context.Context, f func(context.Context, *messenger.Messenger, *client.Client) error) {
	if p.findHome() != nil { // the flags were read after the first time
		return
	}
	c, err := p.configuration()
	if err != nil {
		return
	}
	if _, _, err := fileOf(c, c.Keystore, "sqlite"); err != nil { // it would be made
		return
	}
	options := []fx.Option{modules.Messenger(), fx.Replace(slog.New(slog.DiscardHandler))}
	if p.passphraseFile != "" {
		options = append(options, fx.Replace(modules.Passphrase(p.passphrase)))
	}
	var m *messenger.Messenger
	var own *client.Client
	_ = app.Run(ctx, app.New(c, append(options, fx.Populate(&m, &own))...), func(ctx context.Context) error { return f(ctx, m, own) })
}
