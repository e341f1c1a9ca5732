// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
)

// An AuditLog is where each use of a key has its line; see package
// providers/audit.
type AuditLog struct {
	*slog.Logger
	io.Closer
}

// Audit is where the audit log goes: "file:FILE" appends JSON lines to a file that
// only its owner can read; "log:" writes them to the program's log, at level info.
func Audit() fx.Option {
	return fx.Module("audit",
		part[AuditLog]("audit", func(c config.Config) string { return c.Audit }),
		Scheme("file", openAuditFile),
		fx.Provide(fx.Annotate(func(log *slog.Logger) Opener[AuditLog] {
			return Opener[AuditLog]{"log", func(_ context.Context, u config.URI) (AuditLog, error) {
				return AuditLog{log, io.NopCloser(nil)}, u.Nothing()
			}}
		}, fx.ResultTags(group))))
}

// openAuditFile opens for appending: several processes may write whole lines.
func openAuditFile(_ context.Context, u config.URI) (AuditLog, error) {
	path, err := u.File()
	if err != nil {
		return AuditLog{}, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return AuditLog{}, fmt.Errorf("audit log: %w", err)
	}
	return AuditLog{slog.New(slog.NewJSONHandler(f, nil)), f}, nil
}
