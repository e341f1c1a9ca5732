// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The commands of the README's quick start, as they stand there.
func TestQuickStart(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(readme), "\n## Quick start\n")
	section, _, ended := strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(section, -1)
	if !found || !ended || len(blocks) == 0 {
		t.Fatal("README.md has no quick start")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	folder, err := os.MkdirTemp("", "readme") // short, for the socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	var script strings.Builder
	script.WriteString("set -euo pipefail -m\n")
	for _, b := range blocks {
		script.WriteString(b[1])
	}
	script.WriteString("wait\n")
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir = folder
	text, err := cmd.CombinedOutput()
	out := string(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"\nalice: Hello Bob!\n", "\nbob: Hello Alice!\n", "\nkeys rotated\n", "\nremoved bob; epoch 3\n",
		"\n-- alice removed you", `"members":["alice"]`,
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
