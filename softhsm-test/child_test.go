// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

var load = flag.Duration("load", 2*time.Second, "how long tokens are used by many at once")

const childTest = "SOFTHSMTEST_CHILD"

// apart runs the test in a process of its own, because what goes wrong there ends the
// process, in C. It says whether this is that process; elsewhere the test is over then.
func apart(t *testing.T) bool {
	t.Helper()
	if os.Getenv(childTest) == t.Name() {
		return true
	}
	child(t, t.Name(), "-load="+load.String(), fmt.Sprintf("-tpm=%v", *tpm))
	return false
}

// child runs a test in another process, with these in its environment (NAME=VALUE) or in
// its arguments (-NAME=VALUE).
func child(t *testing.T, name string, with ...string) {
	t.Helper()
	var pattern []string
	for part := range strings.SplitSeq(name, "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(part)+"$")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute+*load)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run="+strings.Join(pattern, "/"), "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), childTest+"="+name)
	for _, w := range with {
		if strings.HasPrefix(w, "-") {
			cmd.Args = append(cmd.Args, w)
		} else {
			cmd.Env = append(cmd.Env, w)
		}
	}
	out, err := cmd.CombinedOutput()
	ran := strings.Contains(string(out), "--- PASS: "+name+" ")
	if skipped := strings.Contains(string(out), "--- SKIP: "+name+" "); skipped && err == nil {
		t.Skipf("in a process of its own:\n%s", out)
	}
	if err != nil || !ran {
		if len(out) > 20_000 {
			out = append(out[:10_000:10_000], out[len(out)-10_000:]...)
		}
		t.Fatalf("in a process of its own: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) { // what it logs
		if testing.Verbose() && strings.HasPrefix(line, "    ") && !strings.HasPrefix(strings.TrimSpace(line), "---") {
			t.Log(strings.TrimRight(line, "\n"))
		}
	}
}
