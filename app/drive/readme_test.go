// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/app/drive"
)

var rewrite = flag.Bool("rewrite", false, "write the table of commands into README.md")

// The table in README.md is that of the program.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	const head = "| command | arguments | result |\n|---|---|---|\n"
	before, after, found := strings.Cut(string(text), head)
	if !found {
		t.Fatal("README.md has no table of commands")
	}
	var rows strings.Builder
	for line := range strings.Lines(drive.Table()) {
		call, gives, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "->")
		name, takes, _ := strings.Cut(call, " ")
		rows.WriteString(strings.ReplaceAll("| `"+name+"` | "+strings.TrimSpace(takes)+" | "+strings.TrimSpace(gives)+" |\n", "|  |", "| |"))
	}
	_, rest, _ := strings.Cut(after, "\n\n")
	if want := before + head + rows.String() + "\n" + rest; want != string(text) {
		if *rewrite {
			err = os.WriteFile("README.md", []byte(want), 0o644)
		} else {
			t.Error("the table of commands in README.md is not that of the program; go test -run TestReadme -rewrite")
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}
