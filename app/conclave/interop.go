// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/app/interop"
)

func (p *program) interopServer() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:         "interop-server",
		Annotations: only("json"),
		Short:       "Play members of groups for the MLS interoperability harness",
		Long: `Run the engine as a gRPC server for the MLS working group's interoperability
harness, until it is interrupted: a test driver has it, and other MLS stacks, play
the members of groups and compares them. The harness is interop/ in the repository
mlswg/mls-implementations; its test-runner is given the address of each stack:

  test-runner -client 127.0.0.1:50051 -client HOST:PORT -config configs/commit.json

The service is mls_client.MLSClient, without TLS. For a driver of your own in Go see
the package app/interop/mlsclient; others make theirs from its mls_client.proto.

It is for tests: nothing is kept, and whoever reaches it has the private keys of
all that it plays. It has nothing to do with the identity in the home folder.`,
		Example: `  conclave interop-server
  conclave interop-server --listen 127.0.0.1:0 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.serveInterop(cmd.Context(), listen)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:50051", `where to listen: "HOST:PORT"; port 0 is any that is free`)
	return cmd
}

func (p *program) serveInterop(ctx context.Context, listen string) error {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", listen)
	if err != nil {
		return hint(err, "another port may be free: --listen 127.0.0.1:0")
	}
	address := l.Addr().String()
	if tcp, ok := l.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		p.notice("others can reach %s, and with it the keys of all that is played here", address)
	}
	if err := p.result(addressed{address}, "interop server at %s\n", address); err != nil {
		_ = l.Close()
		return err
	}
	return interop.New().Serve(ctx, l)
}
