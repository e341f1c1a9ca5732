// SPDX-License-Identifier: Apache-2.0

//go:build unix

package host

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/conclave-mls/conclave/core"
)

// owned says whether a file is root's or ours.
func owned(path string, info fs.FileInfo) error {
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || s.Uid != 0 && int(s.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user: it has to be root's or that of the user who runs the plugin: %w", path, core.ErrDenied)
	}
	return nil
}
