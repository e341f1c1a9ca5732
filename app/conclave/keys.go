// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/app/messenger"
)

func (p *program) keys() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "keys",
		Short:   "Look after your keys",
		Example: "  conclave keys rotate",
		Args:    noCommand,
		RunE:    p.group,
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "rotate",
		Short: "Make a fresh signature key and take it into use everywhere",
		Long: `Make a fresh signature key with a new credential, take both into use in every
conversation, with fresh encryption keys, and replace the key packages by which
others add you. If a conversation fails, run it again.`,
		Example: "  conclave keys rotate",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.open(cmd.Context(), func(ctx context.Context, m *messenger.Messenger) error {
				done, err := m.Rotate(ctx)
				for _, r := range done {
					if r.Err != nil {
						err = errors.Join(err, r.Err)
						p.notice("%s: not rotated: %s", plain(string(r.ID)), plain(r.Err.Error()))
						continue
					}
					d := deed{Done: "rotated", Conversation: string(r.ID), Epoch: &r.Epoch}
					if err := p.result(d, "%s: rotated; epoch %d\n", plain(string(r.ID)), r.Epoch); err != nil {
						return err
					}
				}
				if err != nil {
					return err
				}
				return p.result(deed{Done: "keys rotated"}, "keys rotated\n")
			})
		},
	})
	return cmd
}
