// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
)

func (p *program) chat() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "chat",
		Short: "Hold conversations",
		Long: `Hold conversations. NAME is the name that a conversation was created with, or its
whole id where several have the name. The delivery service sees the id.`,
		Example: `  conclave chat create friends
  conclave chat add friends bob carol
  conclave chat send friends "hello"
  conclave chat read friends`,
		Args: noCommand,
		RunE: p.group,
	}
	cmd.AddCommand(p.chatCreate(), p.chatList(), p.chatAdd(), p.chatRemove(), p.chatLeave(), p.chatSend(),
		p.chatRead(), p.chatMembers(), p.chatInfo(), p.chatJoin(), p.chatRejoin(), p.chatUpdate())
	return cmd
}

// A deed is what a command has done, in words and for --json.
type deed struct {
	words string

	Done         string   `json:"done"` // "created", "added", ...
	Conversation string   `json:"conversation,omitempty"`
	Session      string   `json:"session,omitempty"` // of Proteus
	Clients      []string `json:"clients,omitempty"`
	Epoch        *uint64  `json:"epoch,omitempty"` // that it has led to
}

// verb is a command that acts and then says in one line what it has done.
func (p *program) verb(use, short, long, example string, args cobra.PositionalArgs, complete cobra.CompletionFunc,
	act func(context.Context, *messenger.Messenger, []string) (deed, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: args, ValidArgsFunction: complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.open(cmd.Context(), func(ctx context.Context, m *messenger.Messenger) error {
				d, err := act(ctx, m, args)
				if err != nil {
					return err
				}
				return p.result(d, "%s\n", d.words)
			})
		},
	}
}

func (p *program) chatCreate() *cobra.Command {
	return p.verb("create NAME", "Create a conversation",
		"Create a conversation with you as its only member, and print its id.",
		"  conclave chat create friends", cobra.ExactArgs(1), nil,
		func(ctx context.Context, m *messenger.Messenger, args []string) (deed, error) {
			id, err := m.Create(ctx, args[0])
			return deed{words: string(id), Done: "created", Conversation: string(id)}, err
		})
}

func (p *program) chatAdd() *cobra.Command {
	return p.verb("add NAME ID...", "Add people to a conversation",
		`Add clients to a conversation, all with one commit. Each must have run "conclave init"
with the same delivery service. They read what is sent from now on.`,
		"  conclave chat add friends bob carol", cobra.MinimumNArgs(2), p.nameThen(strangers),
		func(ctx context.Context, m *messenger.Messenger, args []string) (deed, error) {
			return after(ctx, m, args[0], deed{Done: "added", Clients: args[1:]}, m.Add(ctx, args[0], ids(args[1:])...))
		})
}

func (p *program) chatRemove() *cobra.Command {
	return p.verb("remove NAME ID...", "Remove people from a conversation",
		`Remove clients from a conversation, all with one commit. They can read nothing that is
sent from now on.`,
		"  conclave chat remove friends bob", cobra.MinimumNArgs(2), p.nameThen(members),
		func(ctx context.Context, m *messenger.Messenger, args []string) (deed, error) {
			return after(ctx, m, args[0], deed{Done: "removed", Clients: args[1:]}, m.Remove(ctx, args[0], ids(args[1:])...))
		})
}

func (p *program) chatLeave() *cobra.Command {
	return p.verb("leave NAME", "Leave a conversation",
		`Propose your own removal and stop sending. The conversation is deleted here when
another member commits that, which happens with the next command that a member uses
on the conversation. If there is no other member it is deleted at once.`,
		"  conclave chat leave friends", cobra.ExactArgs(1), p.nameThen(nil),
		func(ctx context.Context, m *messenger.Messenger, args []string) (deed, error) {
			id, err := m.Find(ctx, args[0])
			if err != nil {
				id = core.ConversationID(args[0]) // we may have been added to it meanwhile
			}
			gone, err := m.Leave(ctx, args[0])
			d := deed{words: "leaving; another member's next command completes it", Done: "leaving", Conversation: string(id)}
			if gone {
				d.words, d.Done = "left; nothing of it is kept here", "left"
			}
			return d, err
		})
}

func (p *program) chatSend() *cobra.Command {
	return p.verb("send NAME TEXT", "Send a message",
		`Send a message. If the delivery service cannot be reached, the message is kept and
sent, once, with the next command in the conversation that reaches it; the exit code
is 1.`,
		"  conclave chat send friends \"hello, all\"", cobra.ExactArgs(2), p.nameThen(nil),
		func(ctx context.Context, m *messenger.Messenger, args []string) (deed, error) {
			if err := m.Send(ctx, args[0], []byte(args[1])); err != nil {
				return deed{}, err
			}
			d := deed{words: "sent", Done: "sent"}
			if id, err := m.Find(ctx, args[0]); err == nil { // the keystore may have gone away; it is sent all the same
				d.Conversation = string(id)
			}
			return d, nil
		})
}

func (p *program) chatJoin() *cobra.Command {
	return p.verb("join ID", "Join a conversation without being invited",
		`Join by an external commit: with another device of somebody who is in the
conversation, or after your state was lost. ID is the whole id, as "conclave chat
list" shows it to a member. For a conversation that you are in there is
"conclave chat rejoin".

With basic credentials, anybody who is registered at the delivery service and knows
the id can do this. The members are told: look at "conclave chat members".`,
		"  conclave --home ~/laptop chat join friends-1f6b09c2", cobra.ExactArgs(1), nil,
		func(ctx context.Context, m *messenger.Messenger, args []string) (deed, error) {
			err := m.Join(ctx, core.ConversationID(args[0]))
			if errors.Is(err, core.ErrNotFound) && !errors.Is(err, messenger.ErrNotRegistered) {
				err = hint(err, "is the id right and whole, and the delivery service that of the members? They see it with conclave chat list; there is something to join once a member has committed, as in chat add or chat update")
			}
			return after(ctx, m, args[0], deed{Done: "joined"}, err)
		})
}

func (p *program) chatRejoin() *cobra.Command {
	return p.verb("rejoin NAME", "Join a conversation again that has fallen behind",
		`Join a conversation that you are in once more, by an external commit that removes
your old self, because its state here is of no use any more: commits are missing, or
records are damaged. What was written meanwhile stays unread; what waits to be sent
is sent.`,
		"  conclave chat rejoin friends", cobra.ExactArgs(1), p.nameThen(nil),
		func(ctx context.Context, m *messenger.Messenger, args []string) (deed, error) {
			return after(ctx, m, args[0], deed{Done: "rejoined"}, m.Rejoin(ctx, args[0]))
		})
}

func (p *program) chatUpdate() *cobra.Command {
	return p.verb("update NAME", "Renew your keys in a conversation",
		`Commit fresh keys of your own, so that whoever had copied the old ones can read
nothing more. To renew the signature key as well: conclave keys rotate.`,
		"  conclave chat update friends", cobra.ExactArgs(1), p.nameThen(nil),
		func(ctx context.Context, m *messenger.Messenger, args []string) (deed, error) {
			return after(ctx, m, args[0], deed{Done: "keys renewed"}, m.Update(ctx, args[0]))
		})
}

// after adds to what was done where, and which epoch it has led to. If the keystore has gone
// away since, it is done all the same: who hears otherwise does it again.
func after(ctx context.Context, m *messenger.Messenger, name string, d deed, err error) (deed, error) {
	if err != nil {
		return d, err
	}
	d.words = d.Done
	if len(d.Clients) > 0 {
		d.words += " " + strings.Join(d.Clients, ", ")
	}
	s, err := m.Status(ctx, name)
	if errors.Is(err, core.ErrUnavailable) {
		return d, nil
	}
	d.Conversation, d.Epoch = string(s.ID), &s.Epoch
	d.words += fmt.Sprintf("; epoch %d", s.Epoch)
	return d, err
}

func ids(args []string) (out []core.ClientID) {
	for _, a := range args {
		out = append(out, core.ClientID(a))
	}
	return out
}

// synced takes what waits at the service before something is shown. Out of reach,
// it shows what is known here.
func (p *program) synced(ctx context.Context, m *messenger.Messenger) error {
	err := m.Sync(ctx)
	switch {
	case errors.Is(err, messenger.ErrFull):
		p.notice("more waits at the delivery service; read what is unread to make room for it")
	case errors.As(err, new(*core.ProviderError)) && errors.Is(err, core.ErrUnavailable):
		p.notice("%s; this is what is known here", plain(err.Error()))
	case errors.Is(err, core.ErrUnavailable):
		p.notice("the delivery service is out of reach; this is what is known here")
	default:
		return err
	}
	return nil
}
