// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"github.com/spf13/cobra"
	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/drive"
	"github.com/conclave-mls/conclave/app/modules"
)

func (p *program) drive() *cobra.Command {
	return &cobra.Command{
		Use:   "drive",
		Short: "Be scripted by a program in any language: JSON requests in, replies out",
		Long: `Answer JSON requests, one a line on the standard input, with one JSON reply a line
on the standard output, until the input ends. A script plays the delivery service: what
a command would submit is in its reply, and "transport" says what the service answers.
app/drive/README.md in the sources has the protocol.

It has nothing to do with the identity in the home folder. "init" makes a client, or
opens it again: in the SQLite file "db", sealed with "dbKey", else in the keystore of
--keystore, by the name in "inst" (default "memory:", which keeps nothing). "inst" in
a request says which of several clients is meant. Bytes are base64.

Whoever writes the requests has the private keys of all these clients.

Commands, their arguments and results:

` + drive.Table(),
		Example: `  conclave drive
  echo '{"id":1,"cmd":"init"}' | conclave drive
  conclave drive --keystore sqlite:clients.db < requests > replies`,
		Args:        cobra.NoArgs,
		Annotations: only("keystore", "key", "passphrase-file", "crypto"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			flags, err := fromHere(p.flags)
			if err != nil {
				return err
			}
			parts := config.Default(p.home)
			parts.Keystore, parts.Key, parts.Audit = "memory:", "", "log:"
			return drive.Serve(cmd.Context(), p.in, p.out, drive.Options{
				Config: parts.Over(flags), Parts: []fx.Option{fx.Replace(modules.Passphrase(p.passphrase))},
				Log: p.err, Crash: crash,
			})
		},
	}
}

// crash ends the process as kill -9 does: nothing is closed and nobody is told.
func crash() {
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil { // still nothing is closed
		os.Exit(137)
	}
	select {}
}
