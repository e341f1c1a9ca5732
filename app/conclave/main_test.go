// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/vectors"
	"github.com/conclave-mls/conclave/storage/postgres/pgtest"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(demoRole); role != "" {
		beDemoPlugin(role)
		return
	}
	testscript.Main(m, map[string]func(){
		"conclave": main, "conclave-plugin-store": bePlugin, "conclave-plugin-vault": bePlugin, "conclave-plugin-ca": bePlugin,
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitfor":  waitFor,
			"sameline": sameLine,
			"putback":  putBack,
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
	})
}

// An identity whose state is in PostgreSQL.
func TestPostgresScripts(t *testing.T) {
	dsn := strings.Replace(pgtest.Shared(t), "conclave@", "conclave:hunter2@", 1)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/postgres",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitfor": waitFor,
			"sql":     func(_ *testscript.TestScript, _ bool, args []string) { pgtest.SQL(t, pgtest.Shared(t), args[0]) },
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("STORE", dsn)
			return nil
		},
	})
}

// waitfor PATH waits until something listens on the Unix socket; waitfor PATH TEXT,
// until the file has the text.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if len(args) == 2 {
			if text, err := os.ReadFile(ts.MkAbs(args[0])); err == nil && strings.Contains(string(text), args[1]) {
				return
			}
		} else if c, err := net.Dial("unix", ts.MkAbs(args[0])); err == nil {
			_ = c.Close()
			return
		}
	}
	ts.Fatalf("waited in vain for %v", args)
}

// sameline PATTERN FILE... checks that the first line that matches is the same in
// all files.
func sameLine(ts *testscript.TestScript, neg bool, args []string) {
	pattern := regexp.MustCompile(args[0])
	var want string
	for i, file := range args[1:] {
		var got string
		for line := range strings.Lines(ts.ReadFile(file)) {
			if pattern.MatchString(line) {
				got = line
				break
			}
		}
		if i == 0 {
			want = got
		}
		if got == "" || (got == want) == neg && i > 0 {
			ts.Fatalf("%s has %q, %s has %q", args[1], want, file, got)
		}
	}
}

// putback FILE TO puts a database in the place of another, as whoever can say so does.
func putBack(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(ts.ReadFile(args[0])), 0o600))
	ks, err := sqlite.Open(context.Background(), ts.MkAbs(args[1]))
	ts.Check(err)
	ts.Check(errors.Join(ks.Apply(context.Background(), core.Batch{Puts: []core.Put{core.NewIncarnation()}}), ks.Close()))
}

// commands walks the tree.
func commands(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, sub := range c.Commands() {
		commands(sub, visit)
	}
}

// Every command's help has a sentence and an example that is a command line of its
// own.
func TestHelp(t *testing.T) {
	t.Parallel()
	n := 0
	commands((&program{}).root(), func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			return
		}
		n++
		if c.Short == "" || !strings.Contains(c.Example, "  conclave") {
			t.Errorf("%q: sentence %q, example %q", c.CommandPath(), c.Short, c.Example)
		}
		for line := range strings.Lines(c.Example) {
			if len(line) > 120 {
				t.Errorf("%q: a long line: %q", c.CommandPath(), line)
			}
		}
	})
	if n < 15 {
		t.Errorf("only %d commands", n)
	}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"hello, wörld ☺":                 "hello, wörld ☺",
		"two\nlines":                     "two lines",
		"\x1b[31mred\x1b[0m":             "\ufffd[31mred\ufffd[0m",
		"title\x1b]0;owned\a":            "title\ufffd]0;owned\ufffd",
		"right\u202eleft":                "right\ufffdleft",
		"bell\a, return\r, delete\u007f": "bell\ufffd, return\ufffd, delete\ufffd",
		"\xff":                           "\ufffd",
	} {
		if got := plain(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// runs the program in this process.
func output(t *testing.T, args ...string) (out, err string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &stdout, &stderr)
	return stdout.String(), stderr.String(), code
}

// All vectors of the working group and of others pass, those of drafts apart; what is
// skipped is stale, and the reason is told.
func TestVectors(t *testing.T) {
	t.Parallel()
	out, stderr, code := output(t, "vectors", coretest.Shared(t, "vectors", "mls"))
	if code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	told := 0
	for line := range strings.Lines(out) {
		switch verdict, rest, _ := strings.Cut(line, " "); verdict {
		case "ok", "out":
			told++
		case "FAIL", "skip":
			t.Error(line)
		case "": // a reason
			if !strings.Contains(rest, "case 2 skipped: the file is stale: ") && !strings.Contains(rest, "case 3 skipped: the file is stale: ") {
				t.Error(line)
			}
		}
	}
	if want := 15 + 7 + 15 + 1; told != want { // of the working group, from live runs, from elsewhere, pq/
		t.Errorf("%d files and folders, want %d:\n%s", told, want, out)
	}
	passed := 0
	if _, err := fmt.Sscanf(out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:], "%d passed, 0 failed, 2 skipped\n", &passed); err != nil || passed < 1800 {
		t.Errorf("%d passed, %v:\n%s", passed, err, out)
	}
}

// A file goes to the first engine that knows its type; what is wrong with it then is
// not hidden by what another engine says of it.
func TestVectorEngines(t *testing.T) {
	t.Parallel()
	engine := func(name string, err error) vectorEngine {
		return vectorEngine{name, func(context.Context, core.SuiteSource, core.CryptoProvider, []byte) (*vectors.Report, error) {
			if err != nil {
				return nil, err
			}
			return &vectors.Report{Type: name}, nil
		}}
	}
	other, broken := engine("other", core.ErrUnsupported), engine("broken", core.ErrInvalid)
	right, never := engine("right", nil), engine("never", core.ErrDenied)
	if r, err := runVectorFile(t.Context(), []vectorEngine{other, right, never}, nil); err != nil || r.Type != "right" {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := runVectorFile(t.Context(), []vectorEngine{other, broken, right}, nil); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("a broken file: %v", err)
	}
	if _, err := runVectorFile(t.Context(), []vectorEngine{other, other}, nil); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("a file of nobody: %v", err)
	}
}

// The demonstration ends well, in time, and cleans up after itself.
func TestDemo(t *testing.T) {
	folder := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	cmd := real(ctx, t, "demo")
	cmd.Env = append(os.Environ(), "TMPDIR="+folder)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"killed with SIGKILL", "409 Conflict", "All members agreed after every step",
		"the keys here end with epoch 1", "alice-laptop epoch 7",
	} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("nothing of %q in\n%s", want, out)
		}
	}
	left, err := os.ReadDir(folder)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Interrupted, it cleans up as well, and says that it did not end well; as JSON here.
func TestDemoInterrupted(t *testing.T) {
	folder := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	cmd := real(ctx, t, "--json", "demo")
	cmd.Env = append(os.Environ(), "TMPDIR="+folder)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		var line struct {
			Step int
			Text string
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Text == "" {
			t.Errorf("%q: %v", lines.Text(), err)
		}
		if line.Step == 2 {
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("interrupted: %v", err)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// real is the real main in a process of its own.
func real(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("conclave") // testscript.Main has put it there
	if err != nil {
		t.Fatal(err)
	}
	return exec.CommandContext(ctx, path, args...)
}
