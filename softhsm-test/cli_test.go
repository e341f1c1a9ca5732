// SPDX-License-Identifier: Apache-2.0

//go:build unix

package softhsmtest_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// The command line with tokens: each script has one of SoftHSM, through a module that
// counts logins. TOKEN is its URI, with the PIN's file.
func TestCommandLine(t *testing.T) {
	folder := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(folder, "conclave"), "../app/conclave")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"filestore", "issuer", "token"} { // make plugins
		plugin := exec.Command("go", "build", "-o", filepath.Join(folder, "plugins", "conclave-plugin-"+name), "../plugins/examples/"+name)
		if out, err := plugin.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	scripts, err := filepath.Glob("testdata/cli/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatal("no scripts", err)
	}
	t.Run("README", func(t *testing.T) {
		t.Parallel()
		softhsmtest.New(t) // or the test is skipped
		out := readme(t, folder, "Keys in an HSM")
		for _, want := range []string{
			"\n  Ed25519 ", "returns CKR_ATTRIBUTE_SENSITIVE\n           sensitive: yes", "\nalice is ready, ", "\nok    token         key: pkcs11:",
			"\nok    KEK ", "\nok    load ",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("nothing of %q in\n%s", want, out)
			}
		}
	})
	t.Run("README, plugins", func(t *testing.T) {
		t.Parallel()
		softhsmtest.New(t)
		out := readme(t, folder, "Plugins")
		for _, want := range []string{
			"\n13 passed, 0 failed, 0 skipped\n", "\n  offers   crypto provider (deletes keys)\n", "\ncertificate 1 for alice", "\nalice is ready, ",
			"\nalice: Hello Bob!\n", "\nalice  valid\nbob    basic\n", "\nok    plugin        filestore starts, and offers keystore\n", "\nok    certificate ",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("nothing of %q in\n%s", want, out)
			}
		}
	})
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			t.Parallel()
			k := softhsmtest.Spy(t, softhsmtest.New(t))
			before := 0
			testscript.Run(t, testscript.Params{
				Files: []string{script},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"waitfor": waitFor,
					// logins N: so many since the last time, and no program has the module yet.
					"logins": func(ts *testscript.TestScript, _ bool, args []string) {
						now := len(k.Calls(t, "C_Login"))
						if strconv.Itoa(now-before) != args[0] {
							ts.Fatalf("%d logins have reached the token, want %s", now-before, args[0])
						}
						before = now
						if i, f := len(k.Calls(t, "C_Initialize")), len(k.Calls(t, "C_Finalize")); i != f {
							ts.Fatalf("the module was initialised %d times and finalised %d times", i, f)
						}
					},
					"remove":  func(*testscript.TestScript, bool, []string) { k.Remove(t) },
					"restore": func(*testscript.TestScript, bool, []string) { k.Restore(t) },
					"destroy": func(ts *testscript.TestScript, _ bool, args []string) { destroy(t, ts, k, args[0]) },
				},
				Setup: func(e *testscript.Env) error {
					e.Vars = append(e.Vars, k.Env()...)
					e.Setenv("PATH", folder+string(os.PathListSeparator)+os.Getenv("PATH"))
					e.Setenv("HOME", e.WorkDir)
					e.Setenv("LABEL", k.Label)
					e.Setenv("NAMED", strings.ReplaceAll(k.Label, " ", "%20"))
					e.Setenv("MODULE", k.ModulePath)
					e.Setenv("PINFILE", k.PINFile)
					e.Setenv("PIN", k.PIN)
					e.Setenv("TOKEN", k.URI())
					return nil
				},
			})
		})
	}
}

// The commands of a section of the README, as they stand there, in an empty folder.
func readme(t *testing.T, programs, title string) string {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## "+title+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	block := regexp.MustCompile("(?s)```sh\n(.*?)```").FindStringSubmatch(section)
	if block == nil {
		t.Fatalf("the README has no commands below %q", title)
	}
	folder, err := os.MkdirTemp("", "readme") // short, for the socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", "set -euo pipefail -m\ntrap 'kill $(jobs -p) 2>/dev/null || :' EXIT\n"+block[1]+"wait\n")
	cmd.Dir = folder
	cmd.WaitDelay = 5 * time.Second // for what holds its output open
	cmd.Env = append(os.Environ(), "PATH="+programs+string(os.PathListSeparator)+os.Getenv("PATH"), "HOME="+folder,
		"PLUGINS="+filepath.Join(programs, "plugins"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "12345678") || regexp.MustCompile("(?m)^fail").Match(out) {
		t.Errorf("%s", out)
	}
	return string(out)
}

// waitfor PATH waits until something listens on the Unix socket.
func waitFor(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("unix", ts.MkAbs(args[0])); err == nil {
			_ = c.Close()
			return
		}
	}
	ts.Fatalf("waited in vain for %v", args)
}

// destroy privkey, or destroy secrkey, deletes all keys of the kind from the token, as
// another program does.
func destroy(t *testing.T, ts *testscript.TestScript, k *softhsmtest.Token, kind string) {
	t.Helper()
	tool := []string{"--module", k.ModulePath, "--token-label", k.Label, "--login", "--pin", k.PIN, "--type", kind}
	ids := regexp.MustCompile(`(?m)^\s+ID:\s+([0-9a-f]+)`).FindAllStringSubmatch(k.Run(t, "pkcs11-tool", append(tool, "--list-objects")...), -1)
	if len(ids) == 0 {
		ts.Fatalf("the token has no %s", kind)
	}
	for _, id := range ids {
		k.Run(t, "pkcs11-tool", append(tool, "--delete-object", "--id", id[1])...)
	}
}
