// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// An enrolment is what the flags of a command say of one.
type enrolment struct {
	handle, name string
	noBrowser    bool
	redirected   string
	out          string
	restart      bool
}

// loginFlags are for commands at which somebody may have to log in.
func (e *enrolment) loginFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&e.noBrowser, "no-browser", false, "print the address of the login, and open no browser")
	f.StringVar(&e.redirected, "redirected", "", "address at which the login ended in a browser elsewhere, which cannot come back here")
	f.StringVar(&e.out, "out", "request.csr", "where a request goes that somebody has to sign")
	f.BoolVar(&e.restart, "restart", false, "forget what is open, and begin anew")
}

// ready forgets what is open if that is wanted, and refuses names that would be left out.
func (e *enrolment) ready(ctx context.Context, h *holder, id core.ClientID) error {
	if _, err := e2ei.ParseClientID(string(id)); err != nil && e.handle+e.name != "" {
		return hint(fmt.Errorf("%s is not certified with a handle and a name: %w", id, err), "leave --handle and --name out: they go with a client id of Wire, <uuid>:<device>@<domain>, alone")
	}
	if !e.restart {
		return nil
	}
	_, err := h.Drop(ctx)
	return err
}

// nameFlags are for commands that ask for names.
func (e *enrolment) nameFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&e.handle, "handle", "", "handle to be certified, such as alice_wire")
	f.StringVar(&e.name, "name", "", "display name to be certified, such as \"Alice Smith\"")
}

// answers are those of somebody at a terminal.
func (e *enrolment) answers(h *holder) *answers {
	return &answers{program: h.program, call: h.call, person: true, browser: !e.noBrowser, redirected: e.redirected, out: e.out}
}

func (p *program) identityEnroll() *cobra.Command {
	var e enrolment
	var suite uint16
	cmd := &cobra.Command{
		Use:   "enroll",
		Short: "Get a certificate, and take it into use everywhere",
		Long: `Get a certificate for a fresh key from the issuer, take both into use in every
conversation, and replace the key packages by which others add you. If it was interrupted
before there was a certificate, it goes on where it was when it is run again; where a
conversation failed after that: conclave identity check.

With ACME somebody has to log in: a browser is opened, or the address printed, and the
login comes back to this machine. Where the browser is elsewhere, it ends at an address
that cannot be shown there: give that to --redirected. With --json the login is a line with
"visit" and "redirect", the certificate one with "certificate".

Without --handle and --name the names are those of the certificate that you have.`,
		Example: `  conclave identity enroll --handle alice --name "Alice Smith"
  conclave identity enroll --issuer 'acme:https://ca.example/acme/wire/directory?roots=roots.pem'
  conclave identity enroll --no-browser
  conclave identity enroll --restart`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.held(cmd.Context(), func(ctx context.Context, h *holder) error {
				id, err := h.ID(ctx)
				if err == nil {
					err = e.ready(ctx, h, id)
				}
				if err != nil {
					return err
				}
				return p.enroll(ctx, h, client.IssueParams{Suite: core.SuiteID(suite), Handle: e.handle, DisplayName: e.name}, e.answers(h))
			})
		},
	}
	e.loginFlags(cmd)
	e.nameFlags(cmd)
	cmd.Flags().StringVar(&p.flags.Issuer, "issuer", "", "URI of who issues it from now on, instead of the configuration's")
	cmd.Flags().Uint16Var(&suite, "suite", 0, "for conversations of this cipher suite, and of those with its signature scheme (default that of the home)")
	return cmd
}

// enroll gets a certificate and takes it into use. Names that are not given are those that
// we have.
func (p *program) enroll(ctx context.Context, h *holder, params client.IssueParams, a *answers) error {
	if err := h.namesOfBefore(ctx, &params); err != nil {
		return err
	}
	got, err := h.Enroll(ctx, params, a.answer)
	if err != nil {
		return p.untilLater(err)
	}
	return p.issued(ctx, h, got)
}

// untilLater ends the program with what was told where a request was handed over.
func (p *program) untilLater(err error) error {
	if errors.Is(err, errHandedOver) {
		return errTold
	}
	return err
}

// namesOfBefore fills names in that were not given, unless an enrolment is open that has them.
func (h *holder) namesOfBefore(ctx context.Context, params *client.IssueParams) error {
	open, err := h.Open(ctx)
	if err != nil {
		return err
	}
	for _, o := range open {
		if o.Action == core.ActionIssue && o.Credential == 0 && o.Issuer == h.issuer {
			return nil
		}
	}
	list, err := h.Certificates(ctx)
	if err != nil {
		return err
	}
	for _, c := range slices.Backward(list) { // those of the newest
		if x := c.Identity.X509; x != nil {
			params.Handle = or(params.Handle, x.Handle.Name())
			params.DisplayName = or(params.DisplayName, x.DisplayName)
		}
	}
	return nil
}

func or(given, otherwise string) string {
	if given != "" {
		return given
	}
	return otherwise
}

// issued tells of a new certificate, fetches the lists that it names, and takes it into use.
func (p *program) issued(ctx context.Context, h *holder, got client.Credential) error {
	if err := p.certificateOf(ctx, h, got); err != nil {
		return err
	}
	if _, err := h.lists.Update(ctx, h.own); err != nil {
		p.notice("not every revocation list could be fetched; conclave identity check tries again: %v", err)
	}
	return p.adopt(ctx, h)
}

// certificateOf tells of a new certificate.
func (p *program) certificateOf(ctx context.Context, h *holder, got client.Credential) error {
	h.issued = true
	env, err := h.own.Environment(ctx)
	if err != nil {
		return err
	}
	list, err := h.Certificates(ctx)
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.Ref != got.Ref {
			continue
		}
		v := certifiedOf(c, env.Ready())
		err := p.result(v, "certificate %d for %s, valid to %s\n", v.Certificate, plain(or(who(v.DisplayName, v.Handle), v.ClientID)), minute(v.NotAfter))
		if err != nil {
			return err
		}
	}
	return nil
}

// adopt takes the newest certificate into use, and tells where.
func (p *program) adopt(ctx context.Context, h *holder) error {
	done, err := h.Adopt(ctx)
	left := false
	for _, r := range done {
		if r.Err != nil {
			left = true
			p.complain(hint(fmt.Errorf("%s: not rotated: %w", r.ID, r.Err), "conclave identity check tries again; if that does not help: conclave chat rejoin %s", word(string(r.ID))))
			continue
		}
		d := deed{Done: "rotated", Conversation: string(r.ID), Epoch: &r.Epoch}
		if err := p.result(d, "%s: in use; epoch %d\n", plain(string(r.ID)), r.Epoch); err != nil {
			return err
		}
	}
	if err == nil && left {
		err = errTold
	}
	return err
}

func (p *program) identityRenew() *cobra.Command {
	var e enrolment
	var within time.Duration
	cmd := &cobra.Command{
		Use:   "renew",
		Short: "Renew your certificate, with the key that it has",
		Long: `Renew your certificates with the keys that they have, and take the new ones into use in
every conversation. With --within only those that expire within that time, or up to half of
it later, so that many that were issued together are not renewed at once.

With ACME nobody has to log in again where the identity provider allows that. For a fresh
key: conclave identity enroll.`,
		Example: "  conclave identity renew\n  conclave identity renew --within 720h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.held(cmd.Context(), func(ctx context.Context, h *holder) error {
				list, err := h.Certificates(ctx)
				if err != nil {
					return err
				}
				renewed := 0
				for _, c := range list {
					if !c.Newest || within > 0 && time.Now().Before(c.Due(within)) {
						continue
					}
					got, err := h.Enroll(ctx, renewal(c), e.answers(h).answer)
					if err == nil && got.Ref == c.Ref {
						err = errSame
					}
					if err != nil {
						return p.untilLater(err)
					}
					if err := p.issued(ctx, h, got); err != nil {
						return err
					}
					renewed++
				}
				switch {
				case len(list) == 0:
					return hint(fmt.Errorf("no certificate to renew: %w", core.ErrNotFound), "conclave identity enroll gets one")
				case renewed == 0:
					return p.result(deed{Done: "nothing"}, "nothing is due\n")
				}
				return nil
			})
		},
	}
	e.loginFlags(cmd)
	cmd.Flags().DurationVar(&within, "within", 0, "only what expires within this time, such as 720h")
	return cmd
}

// errSame: a renewal has brought nothing.
var errSame = fmt.Errorf("the issuer gave the certificate that is there already: %w", core.ErrInvalid)

// renewal asks for the same names.
func renewal(c messenger.Certificate) client.IssueParams {
	p := client.IssueParams{Action: core.ActionRenew, Credential: c.Ref}
	if x := c.Identity.X509; x != nil {
		p.Handle, p.DisplayName = x.Handle.Name(), x.DisplayName
	}
	return p
}

func (p *program) identityRevoke() *cobra.Command {
	var e enrolment
	cmd := &cobra.Command{
		Use:   "revoke CERTIFICATE",
		Short: "Have a certificate of yours revoked",
		Long: `Have a certificate of yours revoked by its issuer, for good: its key may be known to others.
CERTIFICATE is its number or its serial number, as conclave identity status shows them. It
stays in use until you have another one: conclave identity enroll. The others see it when
they have fetched the revocation list.`,
		Example: "  conclave identity revoke 2\n  conclave identity revoke 009699f2b7c6a8d1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.held(cmd.Context(), func(ctx context.Context, h *holder) error {
				list, err := h.Certificates(ctx)
				if err != nil {
					return err
				}
				c, err := named(list, args[0])
				if err != nil {
					return err
				}
				serial := ""
				if c.Identity.X509 != nil {
					serial = c.Identity.X509.SerialNumber
				}
				if _, err := h.Enroll(ctx, client.IssueParams{Action: core.ActionRevoke, Credential: c.Ref}, e.answers(h).answer); err != nil {
					if errors.Is(err, core.ErrUnsupported) {
						err = hint(err, "this issuer revokes nothing that it is asked for here: tell who runs it the serial number, %s", serial)
					}
					return p.untilLater(err)
				}
				if _, err := h.lists.Update(ctx, h.own); err != nil {
					p.notice("not every revocation list could be fetched; conclave identity check tries again: %v", err)
				}
				return p.result(struct {
					Done        string `json:"done"`
					Certificate uint64 `json:"certificate"`
					Serial      string `json:"serial"`
				}{"revoked", uint64(c.Ref), serial}, "certificate %d is revoked; get another one: conclave identity enroll\n", c.Ref)
			})
		},
	}
	return cmd
}

// named finds a certificate by its number or its serial number.
func named(list []messenger.Certificate, name string) (messenger.Certificate, error) {
	for _, c := range list {
		if x := c.Identity.X509; x != nil && strings.EqualFold(x.SerialNumber, name) {
			return c, nil
		}
	}
	for _, c := range list {
		if strconv.FormatUint(uint64(c.Ref), 10) == name {
			return c, nil
		}
	}
	return messenger.Certificate{}, hint(fmt.Errorf("certificate %q: %w", name, core.ErrNotFound), "conclave identity status lists yours")
}

func (p *program) identityRequest() *cobra.Command {
	var e enrolment
	cmd := &cobra.Command{
		Use:   "request",
		Short: "Write a request for a certificate, for a CA by ticket",
		Long: `Write a request (PKCS #10, in PEM) for a certificate, which you bring to whoever runs the
CA. The key is made where crypto = says, in a token too,
and stays there. What they give you: conclave identity import. Run again, it writes the same
request once more.`,
		Example: "  conclave identity request --out alice.csr\n  conclave identity import chain.pem",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p.flags.Issuer = manual
			return p.held(cmd.Context(), func(ctx context.Context, h *holder) error {
				params := client.IssueParams{Handle: e.handle, DisplayName: e.name}
				id, err := h.ID(ctx)
				if err == nil {
					err = e.ready(ctx, h, id)
				}
				if err != nil {
					return err
				}
				if err := h.namesOfBefore(ctx, &params); err != nil {
					return err
				}
				_, err = h.Enroll(ctx, params, e.answers(h).answer)
				if errors.Is(err, errHandedOver) {
					return nil
				}
				return err
			})
		},
	}
	e.nameFlags(cmd)
	cmd.Flags().StringVar(&e.out, "out", "request.csr", "where to write it")
	cmd.Flags().BoolVar(&e.restart, "restart", false, "forget what is open, and begin anew")
	return cmd
}

func (p *program) identityImport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Take the certificate for a request, and take it into use everywhere",
		Long: `Take the certificate that was issued for a request, with those of the CAs above it, from a
PEM file, take it into use in every conversation, and replace the key packages by which
others add you. It has to be for the key and the names of the request, and a trust anchor
has to vouch for it. An identity that conclave init has begun to make is ready then.`,
		Example: "  conclave identity import chain.pem",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			chain, err := readFile(args[0], e2ei.MaxPEM)
			if err != nil {
				return err
			}
			p.flags.Issuer = manual
			return p.held(cmd.Context(), func(ctx context.Context, h *holder) error {
				open, err := h.Open(ctx)
				if err != nil {
					return err
				}
				var wrong error
				for _, o := range open {
					if o.Need.Show == nil || o.Issuer != h.issuer {
						continue
					}
					e := enrolment{}
					a := e.answers(h)
					a.file = chain
					got, err := h.Resume(ctx, o, a.answer)
					if errors.Is(err, e2ei.ErrWrongKey) {
						wrong = hint(err, "it is for another request than those that wait, or the first certificate of the file is not yours: %s", "conclave identity status lists what is open")
						continue
					}
					if err != nil {
						return err
					}
					if o.ClientID != "" {
						if err := h.Register(ctx, o.ClientID); err != nil {
							return err
						}
					}
					return p.issued(ctx, h, got)
				}
				if wrong != nil {
					return wrong
				}
				return hint(fmt.Errorf("no request waits for a certificate: %w", core.ErrNotFound), "conclave identity request writes one")
			})
		},
	}
	return cmd
}

// showOpen tells of what has not come to its end.
func (p *program) showOpen(ctx context.Context, h *holder) error {
	open, err := h.Open(ctx)
	if err != nil {
		return err
	}
	for _, o := range open {
		waits, do := openWords(o)
		err := p.result(struct {
			Open   string `json:"open"`
			Action string `json:"action"`
			Issuer string `json:"issuer"`
			Waits  string `json:"waits"`
			Do     string `json:"do"`
		}{o.Handle.String(), actionName(o.Action), o.Issuer, waits, p.here(do)},
			"open           %s at %s waits %s: %s\n", actionName(o.Action), plain(o.Issuer), waits, p.here(do))
		if err != nil {
			return err
		}
	}
	return nil
}

// openWords says what something open waits for, and how it goes on.
func openWords(o client.OpenIssue) (waits, do string) {
	waits, do = "for the issuer", "conclave identity enroll"
	switch {
	case o.Action == core.ActionRenew:
		do = "conclave identity renew"
	case o.Action == core.ActionRevoke:
		do = "conclave identity revoke " + strconv.FormatUint(uint64(o.Credential), 10)
	case o.ClientID != "":
		do = "conclave init " + word(string(o.ClientID))
	}
	switch {
	case o.Need.Visit != nil:
		waits = "for a login"
	case o.Need.Show != nil:
		waits, do = "for the certificate", "conclave identity import CHAIN.pem"
	}
	return waits, do
}

func actionName(a core.IssueAction) string {
	switch a {
	case core.ActionRenew:
		return "renewal"
	case core.ActionRevoke:
		return "revocation"
	}
	return "enrolment"
}
