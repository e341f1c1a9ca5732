// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

func (p *program) keys() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "keys",
		Short:   "Look after your keys",
		Example: "  conclave keys rotate",
		Args:    noCommand,
		RunE:    p.group,
	}
	yes := false
	rotate := &cobra.Command{
		Use:   "rotate",
		Short: "Make a fresh signature key and take it into use everywhere",
		Long: `Make a fresh signature key with a new credential, take both into use in every
conversation, with fresh encryption keys, and replace the key packages by which
others add you. If a conversation fails, run it again. With a certificate it is conclave
identity enroll that does this, for a fresh key needs a fresh certificate.

The key is made where crypto in conclave.toml says: to move into a token, or to another
one, change that first. With --crypto it would be made where the next command does not
look for it, which wants --yes.`,
		Example: "  conclave keys rotate",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kept, err := config.Load(filepath.Join(p.home, configName))
			if crypto := p.flags.Crypto; err == nil && crypto != "" && crypto != kept.Crypto && !yes {
				return hint(fmt.Errorf("the new key would be in %s, and %s says %s: %w", shown(kept, crypto), configName, shown(kept, kept.Crypto), core.ErrDenied),
					"nothing was changed; write crypto = into %s first, or use --yes", configName)
			}
			return p.open(cmd.Context(), func(ctx context.Context, m *messenger.Messenger) error {
				done, err := m.Rotate(ctx)
				left := false
				for _, r := range done {
					if r.Err != nil {
						failed := fmt.Errorf("%s: not rotated: %w", r.ID, r.Err)
						if errors.Is(r.Err, client.ErrKeyGone) {
							failed = hint(failed, "bring the token's newest backup back; if the key is lost: conclave chat rejoin %s", word(string(r.ID)))
						}
						p.complain(failed)
						left = true
						continue
					}
					d := deed{Done: "rotated", Conversation: string(r.ID), Epoch: &r.Epoch}
					if err := p.result(d, "%s: rotated; epoch %d\n", plain(string(r.ID)), r.Epoch); err != nil {
						return err
					}
				}
				switch {
				case err != nil:
					return err
				case left:
					return errTold
				}
				return p.result(deed{Done: "keys rotated"}, "keys rotated\n")
			})
		},
	}
	rotate.Flags().BoolVarP(&yes, "yes", "y", false, "make the key where --crypto says, though conclave.toml says otherwise")
	cmd.AddCommand(rotate)
	return cmd
}
