// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/crl"
)

func (p *program) identity() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "identity",
		Short: "Have a certificate that says who you are, and see who others are",
		Long: `Have a certificate that says who you are, by which the others in a conversation see that
you are verified, and decide whose certificates you believe. Who issues yours is issuer =
in conclave.toml:

  issuer = "acme:https://ca.example/acme/wire/directory"   a server, with a login
  issuer = "manual:"                                       somebody you bring a request
  issuer = "localca:ca.pem?key=ca.key"                     a CA with its key here

A trust anchor, the certificate of a root CA, comes first: conclave identity trust add.`,
		Example: `  conclave identity trust add root.pem
  conclave identity enroll --handle alice --name "Alice Smith"
  conclave identity status
  conclave chat members friends`,
		Args: noCommand,
		RunE: p.group,
	}
	cmd.AddCommand(p.identityEnroll(), p.identityStatus(), p.identityRenew(), p.identityRevoke(), p.identityRequest(), p.identityImport(),
		p.identityTrust(), p.identityCRL(), p.identityCheck())
	return cmd
}

// A holder is an opened home with what identities need.
type holder struct {
	*messenger.Messenger
	program *program
	own     *client.Client
	call    modules.Caller
	lists   *crl.Fetcher
	issuer  string // its URI, to show
	issued  bool   // it has given a certificate
}

// held runs f with the home folder opened.
func (p *program) held(ctx context.Context, f func(context.Context, *holder) error) error {
	c, err := p.existing()
	if err != nil {
		return err
	}
	h := &holder{program: p, issuer: shown(c, c.Issuer)}
	return p.openWith(ctx, c, func(ctx context.Context, m *messenger.Messenger) error {
		h.Messenger = m
		err := f(ctx, h)
		if p.flags.Issuer == "" {
			return err
		}
		return errors.Join(err, p.reissue(ctx, h, c.Issuer))
	}, fx.Decorate(present(ctx, c)), fx.Populate(&h.own, &h.call, &h.lists))
}

// reissue writes down who issues certificates from now on, once something has come of asking
// them. For one by hand there may still be another issuer.
func (p *program) reissue(ctx context.Context, h *holder, issuer string) error {
	file := filepath.Join(p.home, configName)
	kept, err := config.Load(file)
	if err != nil || kept.Issuer == issuer || issuer == manual && kept.Issuer != config.Default("").Issuer {
		return err
	}
	open, err := h.Open(ctx)
	begun := slices.ContainsFunc(open, func(o client.OpenIssue) bool { return o.Issuer == h.issuer && o.Need != (core.Need{}) })
	if err != nil || !begun && !h.issued {
		return err
	}
	return config.Reissue(file, issuer)
}

// manual is the issuer of requests and imports, whoever else there is.
const manual = "manual:"

// A certified is what is told of a certificate of ours.
type certified struct {
	Certificate uint64    `json:"certificate"`
	ClientID    string    `json:"client_id,omitempty"`
	Handle      string    `json:"handle,omitempty"`
	DisplayName string    `json:"display_name,omitempty"`
	Domain      string    `json:"domain,omitempty"`
	Serial      string    `json:"serial,omitempty"`
	NotBefore   time.Time `json:"not_before,omitzero"`
	NotAfter    time.Time `json:"not_after,omitzero"`
	Renew       time.Time `json:"renew,omitzero"` // when it is due, unless another time is asked for
	Status      string    `json:"status"`         // "valid", "expired", "revoked", "unchecked", "unreadable"
	Newest      bool      `json:"newest"`
	PEM         string    `json:"pem,omitempty"`
}

// certifiedOf tells of one. Without a trust anchor nothing was checked.
func certifiedOf(c messenger.Certificate, trusting bool) certified {
	out := certified{Certificate: uint64(c.Ref), Newest: c.Newest, Status: statusOf(c.Identity, trusting)}
	if c.Err != nil {
		out.Status = "unreadable"
		return out
	}
	out.ClientID = c.Identity.ClientID
	if x := c.Identity.X509; x != nil {
		out.Handle, out.DisplayName, out.Domain, out.Serial = x.Handle.Name(), x.DisplayName, x.Domain, x.SerialNumber
		out.NotBefore, out.NotAfter, out.Renew = x.NotBefore.UTC(), x.NotAfter.UTC(), c.Due(0).UTC().Truncate(time.Second)
		out.PEM = x.Certificate
	}
	return out
}

// statusOf is how a credential stands, in a word.
func statusOf(id e2ei.WireIdentity, trusting bool) string {
	switch {
	case id.CredentialType != core.CredentialX509:
		return "basic"
	case !trusting && id.Status == e2ei.StatusValid:
		return "unchecked"
	}
	return id.Status.String()
}

// who is somebody's names in one line.
func who(name, handle string) string {
	switch {
	case handle == "":
		return name
	case name == "":
		return "@" + handle
	}
	return name + " (@" + handle + ")"
}

func (p *program) identityStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show your certificates, what is open, whom you trust and who is verified",
		Long: `Show your certificates and how they stand, enrolments that have not come to their end,
how many trust anchors and revocation lists there are, and of each conversation whether
everybody in it is verified. Nobody is asked: conclave identity check fetches lists.

With --json there is a line for each: with "certificate", "open", "trust", or
"conversation" and "state".`,
		Example: "  conclave identity status\n  conclave identity status --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.held(cmd.Context(), p.status)
		},
	}
}

func (p *program) status(ctx context.Context, h *holder) error {
	env, err := h.own.Environment(ctx)
	if err != nil {
		return err
	}
	certificates, err := h.Certificates(ctx)
	if err != nil {
		return err
	}
	for _, c := range certificates {
		v := certifiedOf(c, env.Ready())
		replaced := ""
		if !c.Newest {
			replaced = ", replaced by a newer one"
		}
		words := fmt.Sprintf("certificate %d  %s%s\n", v.Certificate, v.Status, replaced)
		if c.Err == nil {
			words += fmt.Sprintf("  client       %s\n", plain(v.ClientID))
			if names := who(v.DisplayName, v.Handle); names != "" {
				words += fmt.Sprintf("  name         %s\n", plain(names))
			}
			words += fmt.Sprintf("  serial       %s\n  valid        %s to %s\n", v.Serial, minute(v.NotBefore), minute(v.NotAfter))
			if c.Newest {
				words += fmt.Sprintf("  renewal      %s\n", minute(v.Renew))
			}
		}
		if err := p.result(v, "%s", words); err != nil {
			return err
		}
	}
	if open, err := h.Open(ctx); err != nil {
		return err
	} else if len(certificates)+len(open) == 0 && !p.json {
		do := "conclave identity enroll gets one from " + h.issuer
		if h.issuer == config.Default("").Issuer {
			do = "conclave identity enroll --issuer URI gets one, conclave identity request asks for one by hand"
		}
		p.printf("no certificate; %s\n", plain(p.here(do)))
	}
	if err := p.showOpen(ctx, h); err != nil {
		return err
	}
	anchors, intermediates, lists := env.Dump()
	overdue := env.Overdue(time.Now())
	err = p.result(trust{len(anchors), len(intermediates), len(lists), append([]string{}, overdue...)},
		"trust          anchors: %d, intermediates: %d, revocation lists: %d, overdue: %d\n", len(anchors), len(intermediates), len(lists), len(overdue))
	if err != nil {
		return err
	}
	return p.showStates(ctx, h)
}

// trust is how much there is to judge by.
type trust struct {
	Anchors       int      `json:"trust"`
	Intermediates int      `json:"intermediates"`
	Lists         int      `json:"lists"`
	Overdue       []string `json:"overdue"`
}

// minute is a time as people read it.
func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// showStates tells of each conversation whether everybody in it is verified.
func (p *program) showStates(ctx context.Context, h *holder) error {
	ids, err := h.own.Conversations(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		v, err := h.Verify(ctx, string(id))
		if errors.Is(err, core.ErrNotFound) || errors.Is(err, client.ErrRecovering) {
			continue
		}
		if err != nil {
			return err
		}
		state := stateOf(v)
		err = p.result(struct {
			Conversation string `json:"conversation"`
			State        string `json:"state"`
		}{string(id), state}, "%-14s %s\n", plain(string(id)), state)
		if err != nil {
			return err
		}
	}
	return nil
}

// stateOf is that of a conversation, in a word or two.
func stateOf(v messenger.Verdict) string {
	basic := slices.ContainsFunc(v.Members, func(m e2ei.WireIdentity) bool { return m.CredentialType != core.CredentialX509 })
	if v.State != e2ei.NotEnabled && !v.Trusting && !basic { // all there is to say against them
		return "unchecked"
	}
	return v.State.String()
}
