// SPDX-License-Identifier: Apache-2.0

// Command conclave holds encrypted group conversations from the command line: it
// makes an identity, keeps it in an encrypted file, and talks through a delivery
// service, which it can also run. Start with
//
//	conclave demo
//	conclave init --help
//
// The exit code is 0 if everything was done, 1 if not; with an unknown outcome the
// message says how to find out. Everything that a peer wrote is stripped of control
// characters before it is printed, except in the output of --json, which is for
// programs, and in that of proteus decrypt where it is no terminal.
//
// With --json, each command prints its results on the standard output, and what
// goes wrong on the error output, as JSON values, one a line. An error has "error",
// "kind" (of package core, such as "not found") and mostly "hint", what to do; one of
// Proteus has its "code", see proteus.Error. What else a person has to hear is "notice". Progress is told on a terminal only.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program, for main and for the processes of the demonstration.
func run(ctx context.Context, args []string, in io.Reader, out, err io.Writer) (code int) {
	p := &program{in: in, out: out, err: err}
	defer p.progress.clear()
	if problem := p.execute(ctx, args); problem != nil {
		p.complain(problem)
		return 1
	}
	return 0
}
