// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/pem"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
)

func (p *program) identityCRL() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "crl",
		Short:   "Look after revocation lists",
		Example: "  conclave identity crl add http://ca.example/crl",
		Args:    noCommand,
		RunE:    p.group,
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "add URL [FILE]",
		Short: "Fetch a revocation list, or take it from a file",
		Long: `Fetch the revocation list of a distribution point, or take it from a file, DER or PEM, and
believe it: a CA that you trust has to have signed it, and it has to be newer than the one
that is there. Once added, conclave identity check fetches it again when it is due.`,
		Example: "  conclave identity crl add http://ca.example/crl\n  conclave identity crl add http://ca.example/crl fetched.crl",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.held(cmd.Context(), func(ctx context.Context, h *holder) (err error) {
				var der []byte
				if len(args) == 2 {
					if der, err = readFile(args[1], 2*e2ei.MaxCRL); err != nil {
						return err
					}
					if block, _ := pem.Decode(der); block != nil && block.Type == "X509 CRL" {
						der = block.Bytes
					}
				} else if der, err = h.lists.Fetch(ctx, args[0]); err != nil {
					return err
				}
				var done e2ei.CRLRegistration
				err = h.own.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) (err error) {
					done, err = tx.RegisterCRL(ctx, args[0], der)
					return err
				})
				if err != nil {
					return err
				}
				words := ""
				if !done.Expiration.IsZero() {
					words = "; the next one is due " + minute(done.Expiration)
				}
				if done.Dirty {
					words += "; it has changed: conclave identity status shows who is verified now"
				}
				return p.result(struct {
					Done    string    `json:"done"`
					URL     string    `json:"url"`
					Due     time.Time `json:"due,omitzero"`
					Changed bool      `json:"changed"`
				}{"list added", args[0], done.Expiration.UTC(), done.Dirty}, "the list is taken%s\n", words)
			})
		},
	}, &cobra.Command{
		Use:   "remove URL",
		Short: "Forget the revocation lists of an address",
		Long: `Forget the revocation lists of a distribution point, such as one that is there no more.
Whom they alone revoked is not known to be revoked any more.`,
		Example: "  conclave identity crl remove http://ca.example/crl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.held(cmd.Context(), func(ctx context.Context, h *holder) error {
				err := h.own.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error { return tx.RemoveCRL(ctx, args[0]) })
				if errors.Is(err, core.ErrNotFound) {
					err = hint(err, "nothing was changed; conclave identity status --json shows what is overdue")
				}
				if err != nil {
					return err
				}
				return p.result(deed{Done: "removed"}, "it is forgotten\n")
			})
		},
	})
	return cmd
}
