// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Warnings says in what way the server is less durable than a store of keys should be,
// and after a semicolon what to do: after a crash or a failover that loses what was
// acknowledged, keys would be used again. ErrUnavailable: the server does not answer.
func (s *Store) Warnings(ctx context.Context) (warnings []string, err error) {
	var commit, fsync, pages, standbys string
	err = s.again(ctx, func(c *pgx.Conn) (bool, error) {
		err := c.QueryRow(ctx, `SELECT current_setting('synchronous_commit'), current_setting('fsync'),
			current_setting('full_page_writes'), current_setting('synchronous_standby_names')`).Scan(&commit, &fsync, &pages, &standbys)
		return lost(err), err
	})
	if err != nil {
		return nil, fail(ctx, "warnings", err)
	}
	for _, w := range []struct {
		is   bool
		text string
	}{
		{commit == "off", "synchronous_commit is off in the data source name: a crash of the server loses commits that it has acknowledged; leave it out"},
		{fsync == "off", "fsync is off: a crash of the server's machine loses commits or all; set it on in postgresql.conf"},
		{pages == "off", "full_page_writes is off: a crash of the server's machine may tear pages; set it on in postgresql.conf"},
		{s.lossless && (standbys == "" || commit == "off" || commit == "local"),
			"lossless_failover is set, but commits do not wait for a standby: a failover can lose some; set synchronous_standby_names, or leave lossless_failover out"},
	} {
		if w.is {
			warnings = append(warnings, w.text)
		}
	}
	return warnings, nil
}
