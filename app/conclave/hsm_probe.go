// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/hsm"
)

func (p *program) hsmProbe() *cobra.Command {
	return &cobra.Command{
		Use:   "probe URI",
		Short: "Find out what a token can do",
		Long: `Find out what a token can do, by having it do each thing once with keys that are made for
that and destroyed: the lists that tokens give are not to be trusted.`,
		Example: "  conclave hsm probe 'pkcs11:token=acme?module-name=softhsm2&pin-source=env:PIN'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.token(cmd.Context(), args[0], func(ctx context.Context, t *hsm.Token) error {
				report, err := t.Probe(ctx)
				if err != nil {
					return err
				}
				text := ""
				for line := range strings.Lines(report.String()) { // the token chooses its names
					text += plain(strings.TrimRight(line, "\n")) + "\n"
				}
				return p.result(report, "%s", text)
			})
		},
	}
}
