// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/hsm"
)

// A program that was built without cgo, or without PKCS#11, works, and says so where a
// token is wanted. It never does in software what belongs into one.
func TestWithoutPKCS11(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for name, build := range map[string]struct {
		env  string
		args []string
	}{
		"without cgo": {"CGO_ENABLED=0", nil},
		"nohsm":       {"", []string{"-tags", "nohsm"}},
	} {
		program := filepath.Join(folder, strings.ReplaceAll(name, " ", "-"))
		cmd := exec.CommandContext(t.Context(), "go", append(append([]string{"build", "-o", program}, build.args...), ".")...)
		cmd.Env = append(os.Environ(), build.env)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		home := program + ".home"
		call := func(args ...string) (out string, failed bool) {
			cmd := exec.CommandContext(t.Context(), program, append([]string{"--home", home}, args...)...)
			text, err := cmd.CombinedOutput()
			if err != nil && !errors.As(err, new(*exec.ExitError)) {
				t.Fatal(err)
			}
			return string(text), err != nil
		}
		module := filepath.Join(folder, "module.so")
		if err := os.WriteFile(module, []byte("none"), 0o600); err != nil {
			t.Fatal(err)
		}
		uri := "pkcs11:token=t?module-path=" + module + "&pin-source=env:PIN"
		for _, args := range [][]string{
			{"hsm", "list", "--module", module}, {"hsm", "test", uri}, {"hsm", "generate", uri, "--kek", "x"},
			{"init", "alice", "--crypto", uri}, {"init", "alice", "--kek", strings.Replace(uri, "?", ";object=x?", 1)},
		} {
			if out, failed := call(args...); !failed || !strings.Contains(out, "built without PKCS#11 support") {
				t.Errorf("%s: %q: %s", name, args, out)
			}
		}
		if left, err := filepath.Glob(filepath.Join(home, "*")); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v, %v", name, left, err)
		}
		if out, failed := call("version"); failed || !strings.Contains(out, "PKCS#11: built without PKCS#11 support; build with CGO_ENABLED=1") {
			t.Errorf("%s: %s", name, out)
		}
		if out, _ := call("init", "alice", "--delivery", "unix:"+filepath.Join(folder, "none")); !strings.Contains(out, "unavailable") {
			t.Errorf("%s: in software: %s", name, out)
		}
		out, failed := call("doctor", "--crypto", uri)
		if want := "fail  token         crypto: built without PKCS#11 support"; !failed || !strings.Contains(out, want) || !strings.Contains(out, "make build makes one that has it") {
			t.Errorf("%s: no %q in %s", name, want, out)
		}
		if out, failed := call("chat", "list", "--crypto", uri); !failed || !strings.Contains(out, "built without PKCS#11 support") {
			t.Errorf("%s: a token that cannot be used: %s", name, out)
		}
	}
}

// Each trouble with a token has something that a person can do.
func TestTokenHints(t *testing.T) {
	t.Parallel()
	for kind, want := range map[error]string{
		hsm.ErrNotBuilt:          "make build",
		hsm.ErrModuleLoad:        "is the module installed",
		hsm.ErrModuleOwned:       "x-init-args",
		hsm.ErrTokenNotFound:     "hsm list",
		hsm.ErrTokenUnavailable:  "plugged in",
		hsm.ErrPINRejected:       "hsm unlatch",
		hsm.ErrPINLocked:         "security officer",
		hsm.ErrPINRequired:       "pin-source=file:",
		hsm.ErrKeyNotFound:       "keys rotate",
		hsm.ErrTokenAmbiguous:    "serial=",
		hsm.ErrLatch:             "remove it",
		errLeaves:                "hsm generate TOKEN --kek",
		hsm.ErrKeyAmbiguous:      "by its id",
		hsm.ErrKeyMismatch:       "not the one it was",
		hsm.ErrUnsupported:       "hsm probe",
		hsm.ErrSessionsExhausted: "x-max-sessions",
		hsm.ErrPoisoned:          "start it again",
		hsm.ErrOtherKEK:          "another key sealed",
		hsm.ErrWrapDamaged:       "keystore restore",
		modules.ErrNoKEK:         "in key = of conclave.toml",
	} {
		err := fmt.Errorf("client: %w", &hsm.Error{Op: "sign", Token: "t", Kind: kind})
		if got := hintOf(err); !strings.Contains(got, want) {
			t.Errorf("%v: %q", kind, got)
		}
		// The token's is the cause, wherever it comes up.
		if out, failed := verdicts(func(d *doctor) { d.unsound("records", err) }); !failed || !strings.Contains(out, want) {
			t.Errorf("doctor: %v: %q", kind, out)
		}
	}
	if _, stderr, code := output(t, "hsm", "unlatch", "pkcs11:tokens=x"); code != 1 || !strings.Contains(stderr, "README, Keys in an HSM") {
		t.Errorf("a URI that is none: %q", stderr)
	}
}

// With --json the log is JSON as well, so that what is on the error output can be read.
func TestLogIsJSON(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home")
	_, stderr, _ := output(t, "--json", "-v", "--home", home, "init", "alice", "--delivery", "unix:"+filepath.Join(home, "none"))
	lines, logged := 0, 0
	for line := range strings.Lines(stderr) {
		lines++
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if v["msg"] != nil {
			logged++
		}
	}
	if logged == 0 || logged == lines {
		t.Errorf("%d of %d lines are of the log: %s", logged, lines, stderr)
	}
}
