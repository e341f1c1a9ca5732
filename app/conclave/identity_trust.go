// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
)

func (p *program) identityTrust() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "trust",
		Short:   "Decide whose certificates you believe",
		Example: "  conclave identity trust add root.pem\n  conclave identity trust list",
		Args:    noCommand,
		RunE:    p.group,
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "add FILE",
		Short: "Trust the CAs of a PEM file",
		Long: `Trust the CAs whose certificates a PEM file has. One that has signed itself is a trust
anchor: what it vouches for is believed, so compare its fingerprint with who gave you the
file. The others are intermediates, and have to be vouched for by an anchor.

From the first anchor on, who comes into a conversation with a certificate needs one that
an anchor vouches for.`,
		Example: "  conclave identity trust add root.pem",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readFile(args[0], e2ei.MaxPEM)
			if err != nil {
				return err
			}
			return p.held(cmd.Context(), func(ctx context.Context, h *holder) error {
				added, points, err := trustIn(ctx, h.own, text)
				if err != nil {
					return err
				}
				if err := p.showCAs(added...); err != nil {
					return err
				}
				if len(added) == 0 {
					p.notice("all of it was there already; nothing was changed")
				}
				if len(points) > 0 {
					p.notice("there are revocation lists to fetch: conclave identity check")
				}
				return nil
			})
		},
	}, &cobra.Command{
		Use:   "remove FILE",
		Short: "Trust the anchors of a PEM file no longer",
		Long: `Take the trust anchors whose certificates a PEM file has away, with the intermediates and
lists that are of no use without them. Whom they vouched for stays in conversations, and is
shown as revoked. Without any anchor nothing is checked any more.`,
		Example: "  conclave identity trust remove old-root.pem",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readFile(args[0], e2ei.MaxPEM)
			if err != nil {
				return err
			}
			return p.held(cmd.Context(), func(ctx context.Context, h *holder) error {
				err := h.own.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
					return tx.RemoveTrustAnchor(ctx, text)
				})
				if errors.Is(err, core.ErrNotFound) {
					err = hint(err, "nothing was changed; conclave identity trust list shows the anchors")
				}
				if err != nil {
					return err
				}
				env, err := h.own.Environment(ctx)
				if err != nil {
					return err
				}
				if !env.Ready() {
					p.notice("that was the last trust anchor: no certificate is checked any more")
				}
				return p.result(deed{Done: "removed"}, "it is trusted no longer\n")
			})
		},
	}, &cobra.Command{
		Use:     "list",
		Short:   "List the CAs that you trust",
		Long:    "List trust anchors and the intermediates that they vouch for, with their fingerprints.",
		Example: "  conclave identity trust list\n  conclave identity trust list --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.held(cmd.Context(), func(ctx context.Context, h *holder) error {
				env, err := h.own.Environment(ctx)
				if err != nil {
					return err
				}
				anchors, intermediates, _ := env.Dump()
				if len(anchors) == 0 && !p.json {
					p.printf("no trust anchor: no certificate is checked; conclave identity trust add FILE\n")
				}
				for _, text := range append(anchors, intermediates...) {
					der, err := e2ei.ParsePEM([]byte(text))
					if err == nil {
						err = p.showCAs(der...)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
	})
	return cmd
}

// readFile reads up to max bytes.
func readFile(path string, max int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", core.ErrNotFound, err)
	}
	if info.Size() > max {
		return nil, fmt.Errorf("%s has %d bytes, and %d are the most that it may have: %w", path, info.Size(), max, core.ErrTooLarge)
	}
	return os.ReadFile(path)
}

// trustIn registers the CAs of a PEM text, first the anchors, and gives those that are new.
func trustIn(ctx context.Context, own *client.Client, text []byte) (added [][]byte, points []string, err error) {
	certificates, err := e2ei.ParsePEM(text)
	if err != nil {
		return nil, nil, err
	}
	err = own.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		added, points = nil, nil
		var others []byte
		for _, der := range certificates {
			block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
			if !selfSigned(der) {
				others = append(others, block...)
				continue
			}
			switch err := tx.RegisterTrustAnchor(ctx, block); {
			case err == nil:
				added = append(added, der)
			case !errors.Is(err, e2ei.ErrRegistered):
				return err
			}
		}
		if len(others) == 0 {
			return nil
		}
		before, err := tx.Environment(ctx)
		if err != nil {
			return err
		}
		_, known, _ := before.Dump()
		if points, err = tx.RegisterIntermediate(ctx, others); err != nil {
			return err
		}
		after, err := tx.Environment(ctx)
		if err != nil {
			return err
		}
		_, now, _ := after.Dump()
		for _, text := range now {
			if block, _ := pem.Decode([]byte(text)); block != nil && !slices.Contains(known, text) {
				added = append(added, block.Bytes)
			}
		}
		return nil
	})
	return added, points, err
}

func selfSigned(der []byte) bool {
	c, err := x509.ParseCertificate(der)
	return err == nil && bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignatureFrom(c) == nil
}

// A ca is what is told of one.
type ca struct {
	Kind        string    `json:"kind"` // "anchor" or "intermediate"
	Subject     string    `json:"subject"`
	NotAfter    time.Time `json:"not_after"`
	Fingerprint string    `json:"fingerprint"` // SHA-256
}

func (p *program) showCAs(certificates ...[]byte) error {
	for _, der := range certificates {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		digest := sha256.Sum256(der)
		v := ca{"intermediate", c.Subject.String(), c.NotAfter.UTC(), hex.EncodeToString(digest[:])}
		if selfSigned(der) {
			v.Kind = "anchor"
		}
		err = p.result(v, "%-12s  %s\n  valid to    %s\n  SHA-256     %s\n", v.Kind, plain(v.Subject), minute(v.NotAfter), fingerprint(digest[:]))
		if err != nil {
			return err
		}
	}
	return nil
}
