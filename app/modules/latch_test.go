// SPDX-License-Identifier: Apache-2.0

package modules_test

import (
	"path/filepath"
	"testing"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
)

// All clients of a token on a host can have one latch.
func TestOneLatchForAHost(t *testing.T) {
	home, host := t.TempDir(), t.TempDir()
	t.Setenv("CONCLAVE_LATCH", "")
	if got := modules.LatchFolder(config.Config{Folder: home}); got != filepath.Join(home, "latch") {
		t.Errorf("by default: %s", got)
	}
	t.Setenv("CONCLAVE_LATCH", host)
	if got := modules.LatchFolder(config.Config{Folder: home}); got != host {
		t.Errorf("of the host: %s", got)
	}
}
