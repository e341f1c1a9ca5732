// SPDX-License-Identifier: Apache-2.0

//go:build unix

package host

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
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

// maxSocketPath is how long the path of a socket may be.
const maxSocketPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// keepDescriptors keeps what we have open from the programs that we start. What we opened
// closes on exec as it is; what we were started with, as a file with a passphrase or the
// socket of a service, does not.
func keepDescriptors() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		open, err = os.ReadDir("/dev/fd")
	}
	if err != nil {
		return fmt.Errorf("what would be passed on is not known: %w", err)
	}
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// leadGroup has the process be the first of its own group. The keys of a terminal that
// interrupt us do not reach it: we stop it in order.
func leadGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// endGroup kills what a process that has ended left behind in its group.
func endGroup(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
