// SPDX-License-Identifier: Apache-2.0

//go:build unix

package host

import (
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

type file struct {
	fs.FileInfo
	uid uint32
}

func (f file) Sys() any { return &syscall.Stat_t{Uid: f.uid} }

func TestOwned(t *testing.T) {
	t.Parallel()
	us := uint32(os.Geteuid())
	for uid, want := range map[uint32]error{0: nil, us: nil, us + 1: core.ErrDenied, us + 1000: core.ErrDenied} {
		if err := owned("file", file{uid: uid}); core.Kind(err) != want {
			t.Errorf("of user %d: %v, want %v", uid, err, want)
		}
	}
}
