// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What plugins/README.md has an author do: the plugin is a module of its own, and is tested
// and used.
func TestReadmeOfPlugins(t *testing.T) {
	const root = "../.."
	readme, err := os.ReadFile(filepath.Join(root, "plugins/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	program := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindSubmatch(readme)
	if program == nil {
		t.Fatal("there is no program")
	}
	absolute, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	// What "go mod init" and "go get" make, but for where Conclave comes from.
	t.Setenv("GOWORK", "off")
	t.Setenv("GOFLAGS", "-mod=mod")
	t.Setenv("GOPROXY", "off")
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	module := "module example.com/keyfile\n\ngo 1.26\n\nrequire github.com/conclave-mls/conclave v0.0.0\n\n" +
		"replace github.com/conclave-mls/conclave => " + absolute + "\n"
	out := runCommands(t, string(readme), func(folder string) {
		for name, text := range map[string][]byte{"main.go": program[1], "go.mod": []byte(module), "go.sum": sums} {
			if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	})
	for _, want := range []string{
		"key wrapper (keyfile:", "\n  ok    round trip\n", "\n8 passed, 0 failed, 1 skipped\n", "\nalice is ready, in ",
		"\n  pin      sha256, as it should be\n", "\n  used     key = \"plugin:keyfile\"\n", "\nok    opening       the key opens the database\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("nothing of %q in\n%s", want, out)
		}
	}
	for _, m := range regexp.MustCompile(`\]\(([^):#]+)(?:#[^)]*)?\)`).FindAllSubmatch(readme, -1) {
		if _, err := os.Stat(filepath.Join(root, "plugins", string(m[1]))); err != nil {
			t.Error(err)
		}
	}
}
