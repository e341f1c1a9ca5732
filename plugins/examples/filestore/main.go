// SPDX-License-Identifier: Apache-2.0

// Command filestore is a plugin with a keystore that keeps its records in one file. It is
// an example to copy: what is here is all that a keystore of one's own takes.
//
//	go build -o plugins/conclave-plugin-filestore ./plugins/examples/filestore
//	conclave plugin test plugins/conclave-plugin-filestore
//
// The variable FILE names the file, by default "store" in the working directory:
//
//	keystore = "plugin:filestore"
//
//	[plugin.filestore]
//	sha256 = "..." # what conclave plugin verify prints
//	env = { FILE = "alice/store" }
//
// One process has the file at a time; FILE.lock is its lock, FILE.new a file that is being
// written. All records are in memory as well, and what is deleted is in the file until that
// is written anew: for more records than a client has, or for several processes, take
// storage/sqlite or storage/postgres.
package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/sdk"
)

func main() {
	// Lines of JSON on standard error are log records of the host, with their level.
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	// A plugin whose host was killed may have the lock for a moment still.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	store, err := Open(ctx, cmp.Or(os.Getenv("FILE"), "store"))
	switch {
	case errors.Is(err, core.ErrDamaged):
		// A plugin that does not start is core.ErrUnavailable to its host, which would try
		// again. So it starts, and says what is the matter.
		sdk.Serve(sdk.Plugin{Keystore: damaged{err}})
	case err != nil:
		slog.Error(err.Error())
		os.Exit(1)
	default:
		sdk.Serve(sdk.Plugin{Keystore: store})
	}
}

// damaged is the keystore of a file that nobody should use.
type damaged struct{ err error }

func (d damaged) Read(context.Context, []core.Query) ([][]core.Record, error) { return nil, d.err }
func (d damaged) Apply(context.Context, core.Batch) error                     { return d.err }
func (d damaged) Close() error                                                { return nil }
