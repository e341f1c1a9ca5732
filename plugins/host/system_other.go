// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package host

import (
	"fmt"
	"io/fs"
	"os/exec"

	"github.com/conclave-mls/conclave/core"
)

// owned cannot be found out here, and what cannot be found out is refused: no plugin starts.
func owned(path string, _ fs.FileInfo) error {
	return fmt.Errorf("%s: plugins need a Unix system, whose permissions show who could replace them: %w", path, core.ErrDenied)
}

const maxSocketPath = 103

func keepDescriptors() error { return nil }

func leadGroup(*exec.Cmd) {}
func endGroup(*exec.Cmd)  {}
