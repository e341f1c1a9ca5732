// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// goTool runs the go command at the module root, without cgo.
func goTool(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=-mod=readonly")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return out
}

// goMod is what go.mod says, as far as the rules ask.
func goMod(t *testing.T) (requires []string, replaces int) {
	t.Helper()
	var mod struct {
		Require []struct{ Path string }
		Replace []json.RawMessage
	}
	if err := json.Unmarshal(goTool(t, "mod", "edit", "-json"), &mod); err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		requires = append(requires, r.Path)
	}
	return requires, len(mod.Replace)
}

func TestNoReplace(t *testing.T) {
	if _, n := goMod(t); n != 0 {
		t.Errorf("go.mod has %d replace directives: nobody who imports us would have them", n)
	}
}

// TestThirdParty compares the modules that each top-level folder imports
// directly with the list that was reviewed.
func TestThirdParty(t *testing.T) {
	requires, _ := goMod(t)
	inTests := map[string]bool{} // by line without its note: tests only
	for _, s := range sources(t) {
		top, _, _ := strings.Cut(s.dir, "/")
		for _, p := range s.imports {
			if standard(p) || p == "C" || under(p, module) {
				continue
			}
			var mod string
			for _, m := range requires {
				if under(p, m) && len(m) > len(mod) {
					mod = m
				}
			}
			if mod == "" {
				t.Errorf("%s imports %s: no module of go.mod has it", s.name, p)
				continue
			}
			line := fmt.Sprintf("%-12s %s", top, mod)
			only, seen := inTests[line]
			inTests[line] = s.test && (only || !seen)
		}
	}
	var lines []string
	for line, only := range inTests {
		if only {
			line += " (tests)"
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	compare(t, "third_party.txt", lines)
}

// TestSmallBuild lists the modules that a program with a software provider and
// the default store compiles with: what an integrator takes on.
func TestSmallBuild(t *testing.T) {
	var packages []string
	for _, dir := range []string{"core/client", "providers/pure", "storage/sqlite"} {
		if _, err := os.Stat(filepath.Join(root, dir)); err == nil {
			packages = append(packages, dir)
		}
	}
	if len(packages) == 0 {
		t.Fatal("none of the packages exists")
	}
	args := []string{"list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}"}
	for _, p := range packages {
		args = append(args, "./"+p)
	}
	modules := strings.Fields(string(goTool(t, args...)))
	slices.Sort(modules)
	modules = slices.Compact(modules)
	first := fmt.Sprintf("%d modules for %s", len(modules), strings.Join(packages, " "))
	compare(t, "small_build.txt", append([]string{first}, modules...))
}

// compare checks a list against a file of testdata, or rewrites the file.
func compare(t *testing.T, name string, lines []string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	got := strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(text) {
		return
	}
	want := strings.Split(strings.TrimSpace(string(text)), "\n")
	for _, line := range lines {
		if !slices.Contains(want, line) {
			t.Errorf("new, and not in %s: %s", file, line)
		}
	}
	for _, line := range want {
		if !slices.Contains(lines, line) {
			t.Errorf("in %s, but gone: %s", file, line)
		}
	}
	t.Errorf("%s differs; after review: go test ./app/policy -update", file)
}
