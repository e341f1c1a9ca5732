// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"bytes"
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
	child(t, t.Name())
	return false
}

// child runs a test in another process, with these in its environment (NAME=VALUE).
func child(t *testing.T, name string, with ...string) {
	t.Helper()
	childBy(t, plain, name, append(with, childTest+"="+name, soakToken+"="+os.Getenv(soakToken))...)
}

func plain(_ testing.TB, program string, args ...string) *exec.Cmd {
	return exec.Command(program, args...)
}

// childBy is child with a process that the command makes.
func childBy(t *testing.T, command func(t testing.TB, program string, args ...string) *exec.Cmd, name string, with ...string) {
	t.Helper()
	var pattern []string
	for part := range strings.SplitSeq(name, "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(part)+"$")
	}
	cmd := command(t, os.Args[0], "-test.run="+strings.Join(pattern, "/"), "-test.v", "-test.count=1", "-load="+load.String(), fmt.Sprintf("-update=%v", *update))
	cmd.Env = append(os.Environ(), with...)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(3*time.Minute+*load, func() { _ = cmd.Process.Kill() }).Stop()
	err := cmd.Wait()
	out := text.Bytes()
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
