// SPDX-License-Identifier: Apache-2.0

//go:build unix

package coretest_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/postgres"
	"github.com/conclave-mls/conclave/storage/postgres/pgtest"
)

// An engine is a keystore under test, and how to look at it from outside.
type engine struct {
	name   string
	open   func(ctx context.Context) (core.Keystore, error)
	wrote  func() int64 // bytes given to write calls by whoever holds the files
	served bool         // by processes of its own, one for each connection
	settle func()       // has what is in a log go where it belongs, if that takes no Close
	size   func() int64 // on disk, while the store is closed
	store  core.Keystore
	result results
}

func onFile(b *testing.B, name string, open func(context.Context, string) (core.Keystore, error)) *engine {
	folder := b.TempDir()
	return &engine{
		name:   name,
		open:   func(ctx context.Context) (core.Keystore, error) { return open(ctx, filepath.Join(folder, "store")) },
		wrote:  func() int64 { return writtenBy("self") },
		settle: func() {},
		size: func() (n int64) {
			must(b, filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				info, err := d.Info()
				n += info.Size()
				return err
			}))
			return n
		},
	}
}

func inMemory() *engine {
	store := memory.New()
	return &engine{
		name:   "memory",
		open:   func(context.Context) (core.Keystore, error) { return kept{store}, nil },
		wrote:  func() int64 { return 0 },
		settle: func() {},
		size:   func() int64 { return 0 },
	}
}

// A kept store outlives Close.
type kept struct{ core.Keystore }

func (kept) Close() error { return nil }

func onServer(b *testing.B) *engine {
	server := pgtest.Start(b)
	psql := func(sql string) string {
		out := filepath.Join(server.Folder, "out")
		server.Tool(b, "psql", "-X", "-q", "-A", "-t", "-o", out, "-c", sql, server.AdminDSN())
		text, err := os.ReadFile(out)
		must(b, err)
		return strings.TrimSpace(string(text))
	}
	first, err := os.ReadFile(filepath.Join(server.Folder, "data", "postmaster.pid"))
	must(b, err)
	master, _, _ := strings.Cut(string(first), "\n")
	return &engine{
		name:   "PostgreSQL, on the same machine",
		open:   func(ctx context.Context) (core.Keystore, error) { return postgres.Open(ctx, server.DSN()) },
		served: true,
		settle: func() { psql("CHECKPOINT") },
		wrote: func() (n int64) { // all processes of the server
			all, _ := filepath.Glob("/proc/[0-9]*/stat")
			for _, stat := range all {
				text, _ := os.ReadFile(stat)
				after := strings.Fields(string(text[max(0, strings.LastIndex(string(text), ")")+1):]))
				if pid := filepath.Base(filepath.Dir(stat)); pid == master || len(after) > 1 && after[1] == master {
					n += writtenBy(pid)
				}
			}
			return n
		},
		size: func() int64 {
			n, err := strconv.ParseInt(psql(`SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
				WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'`), 10, 64)
			must(b, err)
			return n
		},
	}
}

// writtenBy is how many bytes a process has given to write calls, sockets aside; 0
// where the system does not say.
func writtenBy(pid string) (n int64) {
	text, _ := os.ReadFile("/proc/" + pid + "/io")
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "wchar: %d", &n); err == nil {
			return n
		}
	}
	return 0
}
