// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core/coretest"
)

// What else the README and OPERATIONS.md name: commands and flags, targets of the Makefile,
// and files.
func TestReadmeNamesWhatIsThere(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	operations, err := os.ReadFile("../../OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, operations...)
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(text)
	spans := strings.Split(readme, "\n") // of a block
	for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(readme, -1) {
		spans = append(spans, m[1])
	}
	commands, targets := 0, 0
	for _, span := range spans {
		span, _, _ = strings.Cut(span, "#")
		if redirected := strings.IndexAny(span, "<>|"); redirected >= 0 {
			span = span[:redirected]
		}
		words := strings.Fields(span)
		if len(words) < 2 || strings.Contains(span, `"`) {
			continue // TestQuickStart has those with a quoted word
		}
		if words[len(words)-1] == "&" {
			words = words[:len(words)-1]
		}
		switch words[0] {
		case "conclave":
			commands++
			root := (&program{}).root()
			root.InitDefaultCompletionCmd()
			cmd, rest, err := root.Find(words[1:])
			if err == nil {
				cmd.InitDefaultHelpFlag()
				err = cmd.ParseFlags(rest)
			}
			if err == nil {
				err = cmd.ValidateArgs(cmd.Flags().Args())
			}
			if err != nil {
				t.Errorf("%s: %v", span, err)
			}
		case "make":
			targets++
			if !strings.Contains(string(makefile), "\n"+words[1]+":") {
				t.Errorf("%s: the Makefile has no such target", span)
			}
		}
	}
	if commands < 15 || targets < 6 {
		t.Errorf("only %d commands and %d targets found", commands, targets)
	}
	for _, m := range regexp.MustCompile(`\]\(([^):]+)\)`).FindAllStringSubmatch(readme, -1) {
		if _, err := os.Stat("../../" + m[1]); err != nil {
			t.Error(err)
		}
	}
}

// The README's code is that of an example, which is run.
func TestReadmeCode(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var examples []byte
	for _, file := range []string{"../../core/client/example_readme_test.go", "../../softhsm-test/example_readme_test.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		examples = append(examples, text...)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(readme, -1)
	if len(blocks) == 0 {
		t.Error("README.md has no code")
	}
	for _, b := range blocks {
		if !bytes.Contains(examples, b[1]) {
			t.Errorf("not in the example: %s", b[1])
		}
	}
}

// runSection runs the commands of a section of the README, as they stand there, in an
// folder that has what setup brings.
func runSection(t *testing.T, title string, setup ...func(folder string)) (out string) {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(readme), "\n## "+title+"\n")
	section, _, ended := strings.Cut(section, "\n## ")
	if !found || !ended {
		t.Fatalf("README.md has nothing below %q", title)
	}
	return runCommands(t, section, setup...)
}

// runCommands runs those that a text has.
func runCommands(t *testing.T, text string, setup ...func(folder string)) (out string) {
	t.Helper()
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(blocks) == 0 {
		t.Fatal("there are no commands")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	folder, err := os.MkdirTemp("", "readme") // short, for the socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	for _, f := range setup {
		f(folder)
	}
	var script strings.Builder
	script.WriteString("set -euo pipefail -m\ntrap 'kill $(jobs -p) 2>/dev/null || :' EXIT\n") // where one fails, too
	for _, b := range blocks {
		script.WriteString(b[1])
	}
	script.WriteString("wait\n")
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "CONCLAVE_HOME="+filepath.Join(folder, ".conclave")) // not that of who runs the test
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second // for what holds its output open
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	return string(said)
}

func TestReadmeScript(t *testing.T) {
	out := runSection(t, "From another language")
	for _, want := range []string{
		`{"ready":true,`, `{"id":1,"ok":true,"result":{"clientId":{`, `{"id":3,"ok":true,"result":{"bundle":{"commit":"AAEAAQ`,
		`{"id":4,"ok":true,"result":{"epoch":1},"us":`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("nothing of %q in\n%s", want, out)
		}
	}
}

func TestReadmeProteus(t *testing.T) {
	out := runSection(t, "Proteus", func(folder string) { writeCryptobox(t, filepath.Join(folder, "cryptobox")) })
	for _, want := range []string{
		"\nHello Bob!\n", "\nHello Alice!\n", "\nbob      open   ", "\nmoved: the identity, 1 session, 2 prekeys\n", "\ncarol    open   ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("nothing of %q in\n%s", want, out)
		}
	}
	prints := regexp.MustCompile(`(?m)^([0-9a-f]{4} ){15}[0-9a-f]{4}$`).FindAllString(out, -1)
	if len(prints) != 4 || prints[1] != prints[2] || prints[2] != prints[3] {
		t.Errorf("fingerprints %q in\n%s", prints, out)
	}
}

func TestQuickStart(t *testing.T) {
	out := runSection(t, "Quick start")
	for _, want := range []string{
		"\nalice: Hello Bob!\n", "\nbob: Hello Alice!\n", "\nkeys rotated\n", "\nremoved bob; epoch 3\n",
		"\nall ", " records are whole, ", "are sealed with data key number 2", "/new.db, which is used from now on",
		"\n-- alice removed you", `"members":["alice"]`, "\nok    conversations 1, and nothing waits in them\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("nothing of %q in\n%s", want, out)
		}
	}
	prints := regexp.MustCompile(`(?m)^fingerprint .*$`).FindAllString(out, -1)
	if len(prints) != 2 || prints[0] != prints[1] {
		t.Errorf("fingerprints %q in\n%s", prints, out)
	}
}

func TestReadmeIdentity(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		coretest.Lacking(t, "no openssl: make tokens")
	}
	out := runSection(t, "Who is verified")
	for _, want := range []string{
		"\nalice  valid\nbob    basic\n", "\nalice  valid\nbob    valid\n", "\nidentities    verified\n", "\ncertificate 2  valid\n", "\nall is as it should be\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("nothing of %q in\n%s", want, out)
		}
	}
}
