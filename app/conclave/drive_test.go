// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The command answers until its input ends; a crash that a script asks for is one, and
// the next process finds the commit.
func TestDrive(t *testing.T) {
	t.Parallel()
	keystore := "sqlite:" + filepath.Join(t.TempDir(), "clients.db")
	drive := func(requests ...string) (string, error) {
		var out, stderr bytes.Buffer
		cmd := real(t.Context(), t, "drive", "--keystore", keystore, "--crypto", "pure:")
		cmd.Stdin = strings.NewReader(strings.Join(requests, "\n"))
		cmd.Stdout, cmd.Stderr = &out, &stderr
		err := cmd.Run()
		if stderr.Len() > 0 {
			t.Errorf("on the error output: %s", stderr.String())
		}
		return out.String(), err
	}
	out, err := drive(`{"cmd":"init"}`, `{"cmd":"createConversation","conversation":"dGVh"}`,
		`{"cmd":"updateKeys","conversation":"dGVh","transport":{"kind":"crash"}}`, `{"cmd":"version"}`)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("after a crash: %v", err)
	}
	lines := strings.Split(out, "\n")
	if len(lines) != 5 || !strings.Contains(lines[3], `"crashed":true,"result":{"bundle":{"commit":"`) {
		t.Fatalf("a crash: %s", out)
	}
	commit, _, _ := strings.Cut(lines[3][strings.Index(lines[3], `"commit":"`)+len(`"commit":"`):], `"`)
	out, err = drive(`{"cmd":"init"}`, `{"cmd":"decrypt","conversation":"dGVh","message":"`+commit+`"}`, `{"cmd":"epoch","conversation":"dGVh"}`)
	if err != nil || !strings.Contains(out, `"epoch":1`) {
		t.Errorf("after it: %v, %s", err, out)
	}
	if _, stderr, code := output(t, "drive", "--crypto", "nothing:"); code != 0 {
		t.Errorf("no requests: exit code %d, %s", code, stderr)
	}
}
