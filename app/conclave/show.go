// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
)

// view is what --json prints of a conversation, and what people see of it.
type view struct {
	ID               string   `json:"id"`
	Name             string   `json:"name"`
	Suite            uint16   `json:"suite"`
	Epoch            uint64   `json:"epoch"`
	Fingerprint      string   `json:"fingerprint"`
	Authenticator    string   `json:"epoch_authenticator"`
	Members          []string `json:"members"`
	Unread           int      `json:"unread"`
	PendingCommit    bool     `json:"pending_commit"`
	PendingProposals int      `json:"pending_proposals"`
	Buffered         int      `json:"buffered"`
	State            string   `json:"state"` // "member", "leaving", "recovering" or "left"

	// Verified is "verified", "not verified", "not enabled", or "unchecked" for want of a
	// trust anchor; Identities are those of Members, in their order. Of a list they are not told.
	Verified   string   `json:"verified,omitempty"`
	Identities []member `json:"identities,omitempty"`
}

// A member is who somebody in a conversation is.
type member struct {
	ClientID    string    `json:"client_id"`
	Status      string    `json:"status"` // "valid", "expired", "revoked", "unchecked", or "basic": nobody vouches for it
	DisplayName string    `json:"display_name,omitempty"`
	Handle      string    `json:"handle,omitempty"`
	Domain      string    `json:"domain,omitempty"`
	Serial      string    `json:"serial,omitempty"`
	NotAfter    time.Time `json:"not_after,omitzero"`
}

// identified adds who the members are.
func (v *view) identified(verdict messenger.Verdict) {
	v.Verified = stateOf(verdict)
	for _, id := range verdict.Members {
		m := member{ClientID: id.ClientID, Status: statusOf(id, verdict.Trusting)}
		if x := id.X509; x != nil {
			m.DisplayName, m.Handle, m.Domain, m.Serial, m.NotAfter = x.DisplayName, x.Handle.Name(), x.Domain, x.SerialNumber, x.NotAfter.UTC()
		}
		v.Identities = append(v.Identities, m)
	}
}

func viewOf(s messenger.Status) view {
	v := view{
		ID: string(s.ID), Name: messenger.Name(s.ID), Suite: uint16(s.Suite), Epoch: s.Epoch,
		Fingerprint: fingerprint(s.Fingerprint), Authenticator: fmt.Sprintf("%x", s.EpochAuthenticator),
		Members: []string{}, Unread: s.Unread, PendingCommit: s.PendingCommit || s.PendingJoin,
		PendingProposals: s.PendingProposals, Buffered: s.Buffered, State: "member",
	}
	for _, m := range s.Members {
		v.Members = append(v.Members, string(m))
	}
	switch {
	case len(s.Members) == 0:
		v.State = "left"
	case s.Recovering:
		v.State = "recovering"
	case s.Leaving:
		v.State = "leaving"
	}
	return v
}

func (p *program) chatList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the conversations",
		Long:    "List the conversations, after taking what waits at the delivery service.",
		Example: "  conclave chat list\n  conclave chat list --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.open(cmd.Context(), func(ctx context.Context, m *messenger.Messenger) error {
				if err := p.synced(ctx, m); err != nil {
					return err
				}
				list, err := m.List(ctx)
				if err != nil {
					return err
				}
				if !p.json && len(list) == 0 {
					p.printf("no conversations; make one with: conclave chat create NAME\n")
					return nil
				}
				t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
				if !p.json {
					_, _ = fmt.Fprintln(t, "ID\tEPOCH\tMEMBERS\tUNREAD\tSTATE")
				}
				for _, s := range list {
					v := viewOf(s)
					if p.json {
						if err := p.printJSON(v); err != nil {
							return err
						}
						continue
					}
					_, _ = fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%s\n", plain(v.ID), v.Epoch, len(v.Members), v.Unread, v.State)
				}
				return t.Flush()
			})
		},
	}
}

// shown is a command that shows one conversation.
func (p *program) shown(use, short, long, example string, show func(view)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: cobra.ExactArgs(1), ValidArgsFunction: p.nameThen(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.open(cmd.Context(), func(ctx context.Context, m *messenger.Messenger) error {
				if err := p.synced(ctx, m); err != nil {
					return err
				}
				s, err := m.Status(ctx, args[0])
				if err != nil {
					return err
				}
				v := viewOf(s)
				if v.State == "member" || v.State == "leaving" {
					verdict, err := m.Verify(ctx, string(s.ID))
					if err != nil {
						return err
					}
					v.identified(verdict)
				}
				if p.json {
					return p.printJSON(v)
				}
				show(v)
				return nil
			})
		},
	}
}

func (p *program) chatMembers() *cobra.Command {
	return p.shown("members NAME", "List who is in a conversation, and who of them is verified",
		`List who is in a conversation, one a line. Of a member with a certificate the line says
how that stands, and whom it names:

  valid      a CA that you trust vouches for it
  expired    it has not been renewed
  revoked    it was revoked, or no CA that you trust vouches for it
  unchecked  you trust no CA yet: conclave identity trust add

Of a member without one there is the id alone, which nobody vouches for: compare
fingerprints, conclave chat info.`, "  conclave chat members friends\n  conclave chat members friends --json",
		func(v view) {
			if v.Verified == "" || v.Verified == "not enabled" {
				for _, m := range v.Members {
					p.printf("%s\n", plain(m))
				}
				return
			}
			t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
			for _, m := range v.Identities {
				_, _ = fmt.Fprintln(t, strings.TrimRight(plain(m.ClientID)+"\t"+m.Status+"\t"+plain(who(m.DisplayName, m.Handle)), "\t"))
			}
			_ = t.Flush() // as all that is printed
		})
}

func (p *program) chatInfo() *cobra.Command {
	return p.shown("info NAME", "Show the state of a conversation",
		`Show the state of a conversation. The fingerprint is of the epoch's exporter secret:
members in the same epoch who see the same one share their keys with each other and
with nobody else. Compare it with people by other means.`,
		"  conclave chat info friends\n  conclave chat info friends --json",
		func(v view) {
			if v.State == "left" {
				p.printf("conversation  %s\nstate         left; what is unread is all that is kept here\n", plain(v.ID))
				return
			}
			p.printf("conversation  %s\nmembers       %s\nepoch         %d\nsuite         %d\nfingerprint   %s\n",
				plain(v.ID), plain(strings.Join(v.Members, ", ")), v.Epoch, v.Suite, v.Fingerprint)
			if v.Verified != "" && v.Verified != "not enabled" {
				p.printf("identities    %s\n", v.Verified)
			}
			if v.State != "member" {
				p.printf("state         %s\n", v.State)
			}
			if v.PendingCommit {
				p.printf("pending       a commit of yours waits for the delivery service's answer\n")
			}
			if v.PendingProposals > 0 {
				p.printf("proposals     %d wait to be committed\n", v.PendingProposals)
			}
		})
}

func (p *program) chatRead() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "read NAME",
		Short: "Read what is new in a conversation",
		Long: `Print what has happened in a conversation since it was read last, each message once;
nothing of it is kept here afterwards. With --follow, go on as messages come, until
interrupted.`,
		Example: `  conclave chat read friends
  conclave chat read friends --follow --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.nameThen(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.open(cmd.Context(), func(ctx context.Context, m *messenger.Messenger) error {
				if follow {
					p.progress.on = false // it would stay between two messages
					return m.Follow(ctx, args[0], p.showItem)
				}
				return m.Read(ctx, args[0], p.showItem)
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as messages come")
	return cmd
}

func (p *program) showItem(id core.ConversationID, i messenger.Item) error {
	if p.json {
		return p.printJSON(struct {
			Conversation string `json:"conversation"`
			Text         string `json:"text,omitempty"` // instead of base64
			messenger.Item
		}{string(id), string(i.Text), i})
	}
	from := plain(string(i.From))
	switch i.Kind {
	case messenger.Text:
		p.printf("%s: %s\n", from, plain(string(i.Text)))
	case messenger.Joined:
		p.printf("-- you are in %s now\n", plain(string(id)))
	case messenger.Left:
		switch left := len(i.Left) > 0; {
		case left && i.Past:
			p.printf("-- you had left %s before\n", plain(string(id)))
		case left:
			p.printf("-- you left; nothing of %s is kept here\n", plain(string(id)))
		case i.Past:
			p.printf("-- %s had removed you from %s before\n", from, plain(string(id)))
		default:
			p.printf("-- %s removed you; nothing of %s is kept here\n", from, plain(string(id)))
		}
	case messenger.Changed:
		p.printf("-- %s; epoch %d\n", changed(from, i), i.Epoch)
	case messenger.Lost:
		p.printf("-- a message could not be opened: %s\n", plain(i.Reason))
	}
	return nil
}

func changed(from string, i messenger.Item) string {
	var did []string
	if len(i.Added) == 1 && i.Added[0] == i.From {
		did = append(did, "joined uninvited")
	} else if len(i.Added) > 0 {
		did = append(did, "added "+joinIDs(i.Added))
	}
	removed := slices.DeleteFunc(slices.Clone(i.Removed), func(id core.ClientID) bool { return slices.Contains(i.Left, id) })
	if len(removed) > 0 {
		did = append(did, "removed "+joinIDs(removed))
	}
	if len(i.Left) > 0 {
		left := joinIDs(i.Left) + " left"
		if len(did) == 0 {
			return left
		}
		return from + " " + strings.Join(did, " and ") + ", " + left
	}
	if len(did) == 0 {
		did = append(did, "renewed keys")
	}
	return from + " " + strings.Join(did, " and ")
}

func joinIDs(ids []core.ClientID) string {
	var s []string
	for _, id := range ids {
		s = append(s, plain(string(id)))
	}
	return strings.Join(s, ", ")
}
