// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

func (p *program) identityCheck() *cobra.Command {
	var within time.Duration
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Do what is due, without a person: for cron",
		Long: `Do what is due, without a person: fetch revocation lists that are overdue or new, renew
certificates that expire soon where nobody has to log in for that, and take the newest into
use where an older one is. It is meant to be run each hour or each day; where nothing is
due it is done at once.

A certificate is renewed a third of its time before it expires, or --within that time
before, or up to half of that later, so that many that were issued together are not
renewed at once.

The exit code is 1 if something needs a person, or failed. Each such thing has a line on
the error output, with what to do; with --json it has "error", "kind" and "hint".`,
		Example: "  conclave identity check\n  conclave identity check --within 720h --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.held(cmd.Context(), func(ctx context.Context, h *holder) error { return p.check(ctx, h, within) })
		},
	}
	cmd.Flags().DurationVar(&within, "within", 0, "renew what expires within this time, such as 720h (default a third of its time)")
	return cmd
}

func (p *program) check(ctx context.Context, h *holder, within time.Duration) error {
	trouble := false
	tell := func(err error) {
		trouble = true
		p.complain(err)
	}
	changed, err := h.lists.Update(ctx, h.own)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		for _, err := range separate(err) {
			if hintOf(err) == "" {
				err = hint(err, "it is tried again the next time; if the list is at another place: conclave identity crl add URL FILE")
			}
			tell(err)
		}
	}
	if changed {
		if err := p.result(deed{Done: "lists changed"}, "a revocation list has changed\n"); err != nil {
			return err
		}
	}
	env, err := h.own.Environment(ctx)
	if err != nil {
		return err
	}
	list, err := h.Certificates(ctx)
	if err != nil {
		return err
	}
	if len(list) > 0 && !env.Ready() {
		tell(hint(errors.New("there is no trust anchor, so nothing is checked"), "conclave identity trust add FILE"))
	}
	for _, c := range list {
		switch v := certifiedOf(c, env.Ready()); {
		case !c.Newest:
		case c.Err != nil:
			tell(hint(fmt.Errorf("certificate %d: %w", c.Ref, c.Err), "get another one: conclave identity enroll"))
		case c.Identity.Status == e2ei.StatusRevoked:
			tell(hint(fmt.Errorf("certificate %d is revoked, or not vouched for any more", c.Ref), "get another one: conclave identity enroll"))
		case time.Now().Before(c.Due(within)):
			err := p.result(v, "certificate %d is valid to %s; it is renewed from %s on\n", v.Certificate, minute(v.NotAfter), minute(c.Due(within)))
			if err != nil {
				return err
			}
		default:
			if err := p.renewAlone(ctx, h, c); ctx.Err() != nil {
				return ctx.Err()
			} else if err != nil {
				tell(err)
			}
		}
	}
	open, err := h.Open(ctx)
	if err != nil {
		return err
	}
	for _, o := range open {
		if o.Action == core.ActionIssue && (o.Need.Visit != nil || o.Need.Show != nil) {
			waits, do := openWords(o)
			tell(hint(fmt.Errorf("an enrolment at %s waits %s", o.Issuer, waits), "%s", do))
		}
	}
	switch err := p.adopt(ctx, h); {
	case errors.Is(err, errTold):
		trouble = true
	case err != nil:
		tell(err)
	}
	if trouble {
		return errTold
	}
	return p.result(deed{Done: "checked"}, "all is as it should be\n")
}

// separate gives the errors that are joined in one.
func separate(err error) []error {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		return several.Unwrap()
	}
	return []error{err}
}

// renewAlone renews a certificate if nobody is needed for that.
func (p *program) renewAlone(ctx context.Context, h *holder, c messenger.Certificate) error {
	a := &answers{program: p, call: h.call}
	got, err := h.Enroll(ctx, renewal(c), a.answer)
	if err == nil && got.Ref == c.Ref {
		err = errSame
	}
	if errors.Is(err, messenger.ErrReplaced) || errors.Is(err, core.ErrConflict) { // by another process, meanwhile
		return nil
	}
	if err != nil {
		err = fmt.Errorf("certificate %d, which is valid to %s, is not renewed: %w", c.Ref, minute(c.NotAfter()), err)
		if errors.Is(err, messenger.ErrPerson) {
			do := "conclave identity renew"
			if open, openErr := h.Open(ctx); openErr == nil {
				for _, o := range open {
					if o.Action == core.ActionRenew && o.Credential == c.Ref && o.Need.Show != nil {
						do += " writes the request; then: conclave identity import CHAIN.pem"
					}
				}
			}
			err = hint(err, "%s", do)
		}
		return err
	}
	d := struct {
		Done        string    `json:"done"`
		Certificate uint64    `json:"certificate"`
		Replaces    uint64    `json:"replaces"`
		NotAfter    time.Time `json:"not_after"`
	}{Done: "renewed", Certificate: uint64(got.Ref), Replaces: uint64(c.Ref)}
	list, err := h.Certificates(ctx)
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.Ref == got.Ref {
			d.NotAfter = c.NotAfter().UTC()
		}
	}
	return p.result(d, "certificate %s is renewed, to %s\n", strconv.FormatUint(d.Replaces, 10), minute(d.NotAfter))
}
